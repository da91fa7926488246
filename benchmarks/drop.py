"""Measures the memory of the service's processes before, during and after a whole drop."""

import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks import cpu, measure, plan
from benchmarks.arena import Arena
from benchmarks.load import runner
from benchmarks.load.load import LoadResult
from benchmarks.plan import Point, Trial

SECONDS_PER_LOAD = 10
SECONDS_PER_SAMPLE = 0.5
_RESIDENT = "VmRSS:"
_MB_PER_KB = 1.024e-3


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Resident memory in MB of the largest process of a group: before, at most, and at the end."""

    before: float
    most: float
    after: float


class Drop(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A closed loop on one event until so many registrations were answered."""

    registrations: int
    per_second: float
    memory_mb: dict[str, Memory]
    violations: list[str]


def drop(arena: Arena, point: Point, registrations: int) -> Drop:
    """Send registrations until this many are answered, and watch the memory of the API and the workers."""
    ground = measure.ground_of(arena, Trial(plan.DECIDED, point, round=1))
    load = msgspec.structs.replace(ground.load, seconds=SECONDS_PER_LOAD)
    groups = {cpu.API: [arena.api.pid], cpu.WORKER: [worker.pid for worker in arena.workers]}
    results: list[LoadResult] = []
    with _watched(groups) as samples:
        while (answers := sum(result.answers for result in results)) < registrations:
            results.append(runner.run(load, arena.folder))
            if not results[-1].answers:
                break
        settled = arena.wait_settled()
    errors, seconds = (sum(result.errors for result in results), sum(result.seconds for result in results))
    violations = [*([] if settled else ["registrations stay undecided"]), *ground.check(answers).violations]
    return Drop(
        registrations=answers,
        per_second=answers / seconds if seconds else 0.0,
        memory_mb={
            name: Memory(before=seen[0], most=max(seen), after=seen[-1]) for name, seen in samples.items()
        },
        violations=[*violations, *([f"{errors} of the answers were errors"] if errors else [])],
    )


@contextmanager
def _watched(groups: Mapping[str, Collection[int]]) -> Iterator[dict[str, list[float]]]:
    """Take samples of the groups' memory for as long as the block lasts, the first and the last included."""
    samples: dict[str, list[float]] = {name: [] for name in groups}
    over = threading.Event()

    def sample() -> None:
        for name, pids in groups.items():
            samples[name].append(_largest_mb(pids))

    def watch() -> None:
        while not over.wait(SECONDS_PER_SAMPLE):
            sample()

    sample()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield samples
    finally:
        over.set()
        watcher.join()
        sample()


def _largest_mb(pids: Collection[int]) -> float:
    return max(resident_mb(Path(f"/proc/{pid}/status").read_text()) for pid in pids)


def resident_mb(status: str) -> float:
    """Read the resident memory in MB of one /proc/<pid>/status."""
    line = next(line for line in status.splitlines() if line.startswith(_RESIDENT))
    return int(line.split()[1]) * _MB_PER_KB
