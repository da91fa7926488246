"""Logs: a trouble that lasts is one line a minute, and nothing personal is in any."""

import ast
from typing import Any

import pytest
import structlog
from redis.exceptions import NoPermissionError

from shared import metrics
from shared.telemetry import Repeats, traceback_of, without_details
from tests.stage import CHECKOUT


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def repeats(clock: Clock) -> Repeats:
    return Repeats(clock)


def logged(repeats: Repeats, event: str, level: str = "warning", **values: Any) -> dict[str, Any] | None:
    """Return the line that is logged, None if there is none."""
    try:
        return dict(repeats(None, level, {"event": event, "level": level, **values}))
    except structlog.DropEvent:
        return None


def count(event: str) -> float:
    start = f'admitone_log_entries_total{{event="{event}",'
    lines = metrics.show().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(start))


def test_a_trouble_is_logged_once_and_counted(repeats: Repeats, clock: Clock) -> None:
    before = count("broker_away")
    lines = []
    for _ in range(121):
        lines.append(logged(repeats, "broker_away", error=f"at {clock.now}"))
        clock.now += 0.5
    assert [(place, line.get("left_out")) for place, line in enumerate(lines) if line] == [
        (0, None),
        (120, 119),
    ]
    assert count("broker_away") - before == 121


def test_other_ids_reasons_and_errors_are_other_troubles(repeats: Repeats) -> None:
    assert logged(repeats, "overtaken", event_id="1")
    assert logged(repeats, "overtaken", event_id="2")
    assert not logged(repeats, "overtaken", event_id="1")
    assert logged(repeats, "connections_ended", reason="full")
    assert logged(repeats, "connections_ended", reason="head")
    assert not logged(repeats, "connections_ended", reason="full", connections=2)
    assert logged(repeats, "overtaken", event_id="1", exc_info=ValueError())
    assert not logged(repeats, "overtaken", event_id="1", exc_info=ValueError())


def test_very_many_ids_do_not_fill_the_log(repeats: Repeats) -> None:
    lines = [logged(repeats, "wake_failed", event_id=str(number)) for number in range(1_000)]
    assert sum(line is not None for line in lines) == 10


def test_news_and_incidents_are_always_logged(repeats: Repeats) -> None:
    for number in range(100):
        assert logged(repeats, "worker_joined", "info")
        assert logged(repeats, "command_failed", "error", incident_id=str(number))


def refuse(name: str) -> None:
    words = f"a row is refused\nDETAIL:  Failing row contains ({name})."
    raise ValueError(words)


def write(name: str) -> None:
    try:
        refuse(name)
    except ValueError as error:
        words = f"not written\n[parameters: {name}]"
        raise RuntimeError(words) from error


def test_a_traceback_ends_each_error_at_its_first_line() -> None:
    with pytest.raises(RuntimeError) as raised:
        write("Ada")
    shown = traceback_of((raised.type, raised.value, raised.tb))

    assert "Ada" not in shown.replace('write("Ada")', "")
    assert shown.count("Traceback (most recent call last):") == 2
    assert shown.index("builtins.ValueError: a row is refused") < shown.index("builtins.RuntimeError")


@pytest.mark.parametrize("error", [ValueError("refused\nDETAIL: Ada"), "refused\nDETAIL: Ada"])
def test_an_entry_has_the_first_line_of_its_error(error: object) -> None:
    for words in (error, str(error), repr(error)):
        entry = without_details(None, "warning", {"event": "x", "error": words})
        assert "refused" in entry["error"]
        assert "Ada" not in entry["error"]


def test_an_entry_has_the_words_of_a_refusal_by_redis() -> None:
    refusal = NoPermissionError("User x has no permissions to run the 'eval' command")
    entry = without_details(None, "warning", {"event": "results_not_readable", "error": refusal})
    assert entry["error"] == f"NoPermissionError: {refusal}"
    for folder in ("api", "worker", "shared"):
        for path in CHECKOUT.glob(f"{folder}/**/*.py"):
            assert "error=repr(" not in path.read_text(encoding="utf-8"), path


def test_no_entry_names_a_command_by_its_id() -> None:
    for folder in ("api", "worker", "shared", "ops"):
        for path in CHECKOUT.glob(f"{folder}/**/*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log."):
                    named = {keyword.arg for keyword in node.keywords}
                    assert not named & {"command_id", "receipt_id", "name", "email"}, path
