"""The owner between two batches: it comes back once, however often it is asked to."""

from collections.abc import Callable, Collection
from itertools import count
from uuid import UUID

import pytest

from shared.messaging.results import ResultWriter
from shared.settings import Settings
from worker.owner import Owner
from worker.ownership import BucketsMoved
from worker.publisher import Publisher

SETTINGS = Settings(
    database_url="postgresql://127.0.0.1:9/nothing",
    broker_url="redis://127.0.0.1:9/0",
    result_url="redis://127.0.0.1:9/0",
)
A, B = UUID(int=1), UUID(int=2)


class EventLoop:
    """A consumer that keeps the calls that it is asked for."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def start(self, events: Collection[UUID]) -> None:
        del events

    def stop(self, events: Collection[UUID]) -> None:
        del events

    def call_after(self, seconds: float, call: Callable[[], None]) -> None:
        del seconds
        self.calls.append(call)


class NoChange:
    """An ownership that stays as it is."""

    def __contains__(self, event_id: object) -> bool:
        return False

    has_its_share = True

    def rebalance(self) -> BucketsMoved:
        return BucketsMoved(gained=0, lost=0)

    def events_pending(self) -> list[UUID]:
        return []


@pytest.mark.parametrize("step", ["tick", "wake"])
def test_one_call_is_scheduled_at_a_time(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Owner, "_joined", lambda _: NoChange())
    seconds = count()  # each look at the clock ends the time slice
    owner = Owner(
        SETTINGS, Publisher(ResultWriter(SETTINGS.result_url, 60), lambda: 0), lambda: next(seconds)
    )
    loop = EventLoop()
    owner.attach(loop)
    owner.wake([A])
    for _ in range(3):
        if step == "tick":
            owner.tick()
        else:
            owner.wake([B])
    assert len(loop.calls) == 1

    loop.calls.pop()()
    assert len(loop.calls) == 1


def test_an_owner_waits_for_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    ownership, loop = NoChange(), EventLoop()
    monkeypatch.setattr(Owner, "_joined", lambda _: ownership)
    owner = Owner(SETTINGS, Publisher(ResultWriter(SETTINGS.result_url, 60), lambda: 0), lambda: 0)
    owner.attach(loop)
    ownership.has_its_share = False
    for _ in range(3):
        owner.tick()
    assert len(loop.calls) == 1

    loop.calls.pop()()
    assert len(loop.calls) == 1
    ownership.has_its_share = True
    loop.calls.pop()()
    assert loop.calls == []
