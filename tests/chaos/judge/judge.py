"""The judge: holds the clients' history, the ledger, the tables and the audit trail against each other.

Each violation is a sentence that begins with its rule. The judge reads one event at a time, so a run of any
length needs no more memory than its largest event.
"""

import gc
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from msgspec import Struct, field

from tests.chaos.judge import again, clients, early, erasures, ledger
from tests.chaos.judge.evidence import EventEvidence
from tests.chaos.judge.replay import Replay

VIOLATIONS_MAX = 1_000


class Verdict(Struct, kw_only=True):
    """All violations, and how much was judged; `decided_again` commands were decided by the model as well."""

    violations: list[str] = field(default_factory=list)
    events: int = 0
    operations: int = 0
    commands: int = 0
    decided_again: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def judge(events: Iterable[EventEvidence], *, again_seconds_max: float = again.SECONDS_MAX) -> Verdict:
    """Judge all events of a service at rest."""
    verdict = Verdict()
    with _without_collections():
        _judge(events, verdict, again_seconds_max)
    return verdict


@contextmanager
def _without_collections() -> Iterator[None]:
    """Look for no cycles: evidence has none, and a long history has millions of values to look at."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _judge(events: Iterable[EventEvidence], verdict: Verdict, again_seconds_max: float) -> None:
    began = time.monotonic()
    again_seconds = 0.0
    for event in events:
        verdict.events += 1
        verdict.operations += len(event.operations)
        verdict.commands += len(event.commands)
        verdict.outcomes.update(str((c.outcome or {}).get("outcome")) for c in event.commands)
        found = check(event)
        if not found and again_seconds < again_seconds_max and again.is_possible(event):
            before = time.monotonic()
            found = again.differences(event)
            again_seconds += time.monotonic() - before
            verdict.decided_again += len(event.commands)
        about = f"event {event.id}"
        verdict.violations += [f"{text} ({about})" for text in found][
            : VIOLATIONS_MAX - len(verdict.violations)
        ]
    verdict.seconds = time.monotonic() - began


def check(event: EventEvidence) -> list[str]:
    """Return every broken rule of one event."""
    if not event.first:
        return ["unasked: no client made this event"]
    replay = Replay(event)
    return [
        *replay.violations,
        *replay.at_rest(),
        *ledger.check(event, replay),
        *clients.check(event, replay),
        *early.check(event, replay),
        *erasures.check(event),
    ]
