"""Owners without a broker, as tests let them work."""

import time
from uuid import UUID

from shared.messaging.results import Publisher
from shared.settings import Settings
from worker.celery_hooks import EventQueues
from worker.owner import Owner

_APPLY_SECONDS_MAX = 5


def an_owner(settings: Settings) -> Owner:
    """Return an owner that hears no messages but those of `wake`."""
    publisher = Publisher(settings.result_url, settings.result_keep_seconds, time.monotonic)
    return Owner(settings, publisher, EventQueues(time.monotonic), time.monotonic)


def tick(owner: Owner) -> None:
    """Let the owner look at the ledger, and apply all that is pending."""
    owner.tick()
    _apply(owner)


def wake(owner: Owner, *event_ids: UUID) -> None:
    """Wake the owner for these events, and let it apply their commands."""
    owner.wake(event_ids)
    owner.take_woken()
    _apply(owner)


def _apply(owner: Owner) -> None:
    until = time.monotonic() + _APPLY_SECONDS_MAX
    while owner._queue.ready and time.monotonic() < until:  # noqa: SLF001 - `run` looks at it as well
        owner.apply_batch()
