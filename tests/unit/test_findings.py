"""The findings of a scenario of the fault harness."""

import pytest

from tests.chaos.scenarios.findings import Figure, Findings


def findings(*, timed: bool = True, value: float = 1.0, violations: tuple[str, ...] = ()) -> Findings:
    return Findings(
        scenario="scale",
        seed=1,
        timed=timed,
        servers="",
        figures=[Figure(name="longest wait", value=value, unit="s", least=0.5, most=1.0)],
        violations=list(violations),
    )


@pytest.mark.parametrize(("value", "passed"), [(0.4, False), (0.5, True), (1.0, True), (1.1, False)])
def test_a_figure_beyond_a_bar_fails(value: float, passed: bool) -> None:  # noqa: FBT001 - a parameter
    assert findings(value=value).passed is passed
    assert findings(value=value, timed=False).passed, "figures of a busy machine are not judged"


def test_a_violation_fails_on_any_machine() -> None:
    assert not findings(timed=False, violations=("lost: a command",)).passed


def test_a_figure_tells_its_bar() -> None:
    assert findings(value=2.0).beyond == ["longest wait is 2 s, not at most 1, at least 0.5"]
