"""Runs histories by hand: many, with random seeds; one, to read its trace; or the planted bugs.

.venv/bin/python -m tests.simulation.protocol --minutes 60
.venv/bin/python -m tests.simulation.protocol --seed 4711
.venv/bin/python -m tests.simulation.protocol --bugs
"""
# ruff: noqa: T201 - a command prints

import argparse
import os
import secrets
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.protocol import catalogue, history
from tests.simulation.protocol.history import Result

_SEED_BITS = 48
_AT_ONCE = 100


def _spoiled(seeds: list[int]) -> tuple[list[Result], Counter[str]]:
    """Return the histories among these that broke a promise, and the faults of all."""
    faults: Counter[str] = Counter()
    spoiled = []
    for seed in seeds:
        result = history.run(seed)
        faults += result.faults
        if result.violations:
            spoiled.append(result)
    return spoiled, faults


def _many(minutes: float) -> int:
    until = time.monotonic() + 60 * minutes
    processes = os.cpu_count() or 1
    count, faults = 0, Counter[str]()
    with ProcessPoolExecutor(processes) as pool:
        while time.monotonic() < until:
            portions = [[secrets.randbits(_SEED_BITS) for _ in range(_AT_ONCE)] for _ in range(processes)]
            for spoiled, happened in pool.map(_spoiled, portions):
                faults += happened
                if spoiled:
                    print(spoiled[0])
                    return 1
            count += _AT_ONCE * processes
            print(f"{count} histories, {faults.total()} faults: no promise broken", flush=True)
    for fault, times in sorted(faults.items()):
        print(f"{times:9}  {fault}")
    return 0


def _bugs() -> int:
    found = [(bug, bug.find()) for bug in catalogue.BUGS]
    for bug, result in found:
        seed = (
            "not found"
            if result is None
            else f"seed {result.seed:3}, broken: {', '.join(sorted(result.numbers))}"
        )
        print(f"{bug.name:50}  {seed}")
    return sum(result is None for _, result in found)


def main() -> int:
    """Run what the arguments ask for; return 1 if a promise is broken or a bug is not found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.protocol")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--minutes", type=float, help="run random histories for so long, on all processors")
    what.add_argument("--seed", type=int, help="run one history, and print its trace")
    what.add_argument("--bugs", action="store_true", help="plant each bug, and print the seed that finds it")
    asked = parser.parse_args()
    if asked.minutes is not None:
        return _many(asked.minutes)
    if asked.bugs:
        return min(_bugs(), 1)
    result = history.run(asked.seed)
    print(result)
    print(f"digest {result.digest}")
    return bool(result.violations)


if __name__ == "__main__":
    sys.exit(main())
