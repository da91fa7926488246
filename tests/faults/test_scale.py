"""Workers and API processes join and leave under load."""

from pathlib import Path

import pytest

from tests.chaos.scenarios import scale
from tests.chaos.scenarios.scale import Plan


@pytest.mark.timeout(300)
def test_scaling_under_load_breaks_no_promise(tmp_path: Path) -> None:
    findings = scale.run(Plan(seed=1, per_second=300, hold_seconds=0.5), tmp_path)

    assert findings.violations == []
    figures = {figure.name: figure.value for figure in findings.figures}
    assert figures["workers that decided"] == 4
    assert figures["moves of an event to another worker"] > 0
    assert figures["samples of the locks"] > 10
    assert figures["commands"] > 100
    assert max(value for name, value in figures.items() if name.endswith("longest wait")) < 30
