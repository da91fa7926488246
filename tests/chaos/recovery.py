"""How soon deciding goes on: for each fault, the time to the next decision of the event that waits longest.

Only events with a command then count: one that was pending at the fault's strike (or end), or was accepted in
the half second after it and before the run waited for all that is pending, so that the next fault finds it
decided. The times are those of the ledger. They are exact for a fault that was alone.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import ceil, inf

from msgspec import Struct, field

from tests.chaos.judge.evidence import Command

ACCEPTED_SECONDS = 0.5


class Struck(Struct, kw_only=True, rename="camel"):
    """A fault that struck; times are seconds since the epoch. `since` is where its recovery counts from.

    Commands that were accepted at `until` or later may have met the next fault.
    """

    name: str
    target: str
    began: float
    ended: float
    since: float
    until: float = inf
    bar_seconds: float
    alone: bool
    recovery_seconds: float = 0.0


class Summary(Struct, kw_only=True, rename="camel"):
    """Faults of one type; recoveries are of those that were alone, None if none was.

    `late` names the faults beyond the bar, if the p99 is beyond it.
    """

    name: str
    struck: int
    alone: int
    p50: float | None
    p99: float | None
    worst: float | None
    bar_seconds: float
    late: list[str] = field(default_factory=list)


def add_event(struck: Sequence[Struck], commands: Sequence[Command]) -> None:
    """Note how long an event's commands waited after each fault; the faults are in order of `since`."""
    settled = sorted((c.accepted_at.timestamp(), c.settled_at.timestamp()) for c in commands if c.settled_at)
    if not settled:
        return
    first = bisect_left(struck, settled[0][0] - ACCEPTED_SECONDS, key=lambda fault: fault.since)
    last = bisect_right(struck, max(at for _, at in settled), key=lambda fault: fault.since)
    for fault in struck[first:last]:
        end = bisect_right(settled, (min(fault.since + ACCEPTED_SECONDS, fault.until), 0.0))
        waiting = [(accepted, at) for accepted, at in settled[:end] if at > fault.since]
        if waiting:
            next_decision = min(at for _, at in waiting)
            waits_since = max(fault.since, min(accepted for accepted, _ in waiting))
            fault.recovery_seconds = max(fault.recovery_seconds, next_decision - waits_since)


def summarise(struck: Sequence[Struck]) -> Iterator[Summary]:
    """Yield a summary of each type, by name."""
    by_name: defaultdict[str, list[Struck]] = defaultdict(list)
    for fault in struck:
        by_name[fault.name].append(fault)
    for name, faults in sorted(by_name.items()):
        alone = sorted(fault.recovery_seconds for fault in faults if fault.alone)
        bar, p99 = faults[0].bar_seconds, _rank(alone, 0.99)
        yield Summary(
            name=name,
            struck=len(faults),
            alone=len(alone),
            p50=_rank(alone, 0.5),
            p99=p99,
            worst=_rank(alone, 1.0),
            bar_seconds=bar,
            late=[
                f"{name} ({fault.target}): {fault.recovery_seconds:.2f} s to the next decision, not {bar:g} s"
                for fault in faults
                if fault.alone and fault.recovery_seconds > bar
            ]
            if p99 is not None and p99 > bar
            else [],
        )


def _rank(ranked: Sequence[float], part: float) -> float | None:
    return round(ranked[ceil(part * len(ranked)) - 1], 3) if ranked else None
