"""Processor time of processes, from the kernel's counts in /proc.

The kernel counts in ticks, usually of 10 ms, which is exact enough over seconds of load.
"""

import os
import resource
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

US_PER_SECOND = 1_000_000
US_PER_TICK = US_PER_SECOND / os.sysconf("SC_CLK_TCK")
API, WORKER, POSTGRES, VALKEY, GENERATOR = ("api", "worker", "postgres", "valkey", "generator")

# Places in /proc/<pid>/stat, counted from behind the command's name, which may hold anything.
_PARENT, _FIRST_TIME, _AFTER_LAST_TIME = 1, 11, 15


@dataclass(frozen=True, slots=True)
class Seen:
    """One process at a moment: its parent, and the ticks that it and its ended children have used."""

    parent: int
    ticks: int


class Meter:
    """The processor time used since the meter was made, by group and by other programs."""

    def __init__(self, groups: Mapping[str, Collection[int]]) -> None:
        self._groups = groups
        self._before, self._busy, self._begin = used_us(groups), machine_us(), time.perf_counter()

    def read(self, generator_us: float = 0.0) -> tuple[dict[str, float], float]:
        """Return the microseconds that each group has used, and the part of the machine that others used.

        The generator's processes have ended and been waited for: they are in no group, nor among the others.
        """
        after, seconds = used_us(self._groups), time.perf_counter() - self._begin
        used = {name: after[name] - self._before[name] for name in after}
        others_us = machine_us() - self._busy - sum(used.values()) - generator_us
        return used, max(others_us, 0) / (seconds * len(os.sched_getaffinity(0)) * US_PER_SECOND)


def used_us(groups: Mapping[str, Collection[int]]) -> dict[str, float]:
    """Return the microseconds that each group of processes has used since it began.

    A process counts with all its descendants: those that have ended since are in their parent's time.
    """
    seen = _everybody()
    return {
        name: US_PER_TICK * sum(_ticks_of_tree(pid, seen) for pid in group) for name, group in groups.items()
    }


def machine_us() -> float:
    """Return the microseconds that all processors have been busy since the machine started."""
    user, nice, system, _idle, _iowait, irq, soft_irq, steal = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    )
    return US_PER_TICK * (user + nice + system + irq + soft_irq + steal)


def children_us() -> float:
    """Return the processor time of all children that have ended and been waited for, in microseconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1_000_000


def read(stat: str) -> Seen:
    """Read one /proc/<pid>/stat."""
    fields = stat.rpartition(")")[2].split()
    return Seen(int(fields[_PARENT]), sum(map(int, fields[_FIRST_TIME:_AFTER_LAST_TIME])))


def _everybody() -> dict[int, Seen]:
    seen = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                seen[int(entry.name)] = read(Path(entry.path, "stat").read_text())
            except OSError:  # the process has just ended
                continue
    return seen


def _ticks_of_tree(root: int, seen: Mapping[int, Seen]) -> int:
    if root not in seen:
        return 0
    children = (pid for pid, process in seen.items() if process.parent == root)
    return seen[root].ticks + sum(_ticks_of_tree(pid, seen) for pid in children)
