"""The protocol in simulated worlds: whatever goes wrong, no promise is broken; a seed replays exactly."""

import os
import secrets
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.protocol import chances, history

_ROOT = Path(__file__).parents[3]
_HISTORIES = 240
_AT_ONCE = 40
_SECONDS_MAX = 60


@pytest.mark.parametrize("first", range(0, _HISTORIES, _AT_ONCE))
def test_no_history_breaks_a_promise(first: int) -> None:
    faults: Counter[str] = Counter()
    commands = 0
    for seed in range(first, first + _AT_ONCE):
        result = history.run(seed)
        assert result.violations == [], result
        faults += result.faults
        commands += result.commands

    assert commands > 10 * _AT_ONCE, "histories have many commands"
    assert len(faults) > len(chances.FAULTS) / 2, "histories have many faults"


def test_a_history_of_a_new_seed_breaks_no_promise() -> None:
    result = history.run(secrets.randbits(48))

    assert result.violations == [], result


@pytest.mark.parametrize("fault", [*chances.AT_STEPS, *chances.AT_TIMES])
def test_each_fault_happens(fault: str) -> None:
    results = (history.run(seed, [fault]) for seed in range(20))

    assert any(result.faults[fault] for result in results)


@pytest.mark.parametrize("seed", range(4))
def test_a_seed_replays_exactly(seed: int) -> None:
    first, again = history.run(seed), history.run(seed)

    assert first.trace == again.trace
    assert first.digest != history.run(seed + 1).digest


def test_a_seed_replays_exactly_in_another_process() -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    arguments = [sys.executable, "-m", "tests.simulation.protocol", "--seed", "3"]
    ended = subprocess.run(  # a process that hangs is ended
        arguments,
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_SECONDS_MAX,
        check=True,
    )

    assert ended.stdout.splitlines()[-1] == f"digest {history.run(3).digest}"
