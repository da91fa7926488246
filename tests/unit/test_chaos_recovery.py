"""The time to the next decision after a fault, as the ledger tells it."""

from datetime import UTC, datetime

from tests.chaos import recovery
from tests.chaos.judge.evidence import Command
from tests.chaos.recovery import Struck


def command(accepted: float, settled: float) -> Command:
    return Command(
        id="",
        seq=0,
        kind="register",
        payload={},
        actor="public",
        accepted_at=datetime.fromtimestamp(accepted, UTC),
        settled_at=datetime.fromtimestamp(settled, UTC),
    )


def recovered(*commands: Command, until: float) -> float:
    fault = Struck(
        name="", target="", began=10.0, ended=10.0, since=10.0, until=until, bar_seconds=1.0, alone=True
    )
    recovery.add_event([fault], commands)
    return fault.recovery_seconds


def test_the_next_decision_ends_the_wait() -> None:
    assert recovered(command(9.0, 12.0), command(9.5, 11.0), until=13.0) == 1.0


def test_a_command_after_the_fault_counts() -> None:
    assert recovered(command(10.25, 14.25), until=10.375) == 4.0


def test_a_command_that_met_the_next_fault_is_left_out() -> None:
    assert recovered(command(10.25, 14.25), until=10.125) == 0.0
