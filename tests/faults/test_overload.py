"""A crowd beyond what is sustainable, and clients that wait."""

from pathlib import Path

import pytest

from tests.chaos.scenarios import excess, overload
from tests.chaos.scenarios.overload import Plan


@pytest.mark.timeout(400)
def test_a_crowd_breaks_no_bound(tmp_path: Path) -> None:
    plan = Plan(seconds=4, measured_seconds=2, connections=400, pollers=30, poll_seconds=2)
    findings = overload.run(plan, tmp_path)

    assert findings.violations == []
    figures = {figure.name: figure.value for figure in findings.figures}
    assert figures["accepted"] > 0
    assert figures["most memory of an API process"] < 400
    assert figures["answers to them"] >= 30
    assert figures["slow worker: not accepted, and told so"] > figures["slow worker: accepted"] > 0
    assert figures["slow worker: most commands pending of one event"] >= excess.LIMITS.event_pending_max
