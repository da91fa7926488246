"""Refusals without a command: each was true at a moment between its request and its answer.

What was accepted before a request began counts as done: a spot that it frees is denied to nobody.
"""

from bisect import bisect_right
from collections.abc import Iterator

from tests.chaos.judge.clients import CLOCK_SECONDS
from tests.chaos.judge.evidence import EventEvidence
from tests.chaos.judge.replay import Replay


def check(event: EventEvidence, replay: Replay) -> Iterator[str]:
    """Yield a sentence for each party that was refused as too many, and had room all the time."""
    if not replay.newcomer_max:
        return
    numbers = {entry.command_id: entry.number for entry in reversed(event.entries)}
    accepted = [o for o in event.operations if o.accepted and o.receipt not in event.set_aside]
    done = [(o.accepted or 0.0, numbers.get(str(o.receipt), 0)) for o in accepted]
    times = [entry.at.timestamp() - event.epoch for entry in event.entries]
    for operation in event.operations:
        told_at = operation.rejected_at
        if not operation.refused_early or any(began <= told_at <= ended for began, ended in event.undone):
            continue
        first = max((number for at, number in done if at < operation.begun), default=0)
        last = max(bisect_right(times, told_at + CLOCK_SECONDS), first)
        if all(operation.spots <= newcomer for newcomer in replay.newcomer_max[first : last + 1]):
            yield f"refused early: {operation.mark} was told that {operation.spots} spots are too many"
