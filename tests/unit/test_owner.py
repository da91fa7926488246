"""The owner's thread: it ticks and decides whatever others do, and ends when it is told to."""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from threading import Thread
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from psycopg.errors import QueryCanceled
from structlog.testing import capture_logs

from shared.domain import ids
from shared.domain.outcomes import Confirmed, SettledCommand
from shared.messaging import queues
from shared.messaging.results import Publisher
from shared.settings import Settings
from worker import owner as owners
from worker import trouble
from worker.batch import Applied
from worker.celery_hooks import EventQueues
from worker.owner import Owner
from worker.ownership import BucketsMoved, share
from worker.trouble import Place, Troubles

SOON_SECONDS_MAX = 20
SETTINGS = Settings(
    database_url="postgresql://127.0.0.1:9/nothing",
    broker_url="redis://127.0.0.1:9/0",
    result_url="redis://127.0.0.1:9/0",
    tick_seconds=0.01,
)
A, B = UUID(int=1), UUID(int=2)


class NoChange:
    """An ownership that stays as it is."""

    def __init__(self) -> None:
        self.ticks = 0
        self.has_its_share = True
        self.buckets: set[int] = set()

    def rebalance(self) -> BucketsMoved:
        self.ticks += 1
        if self.ticks == 1:
            raise ZeroDivisionError
        return BucketsMoved(gained=0, lost=0)

    def events_pending(self) -> list[UUID]:
        return []


def an_owner(event_queues: EventQueues | None = None, **limits: float) -> Owner:
    publisher = Publisher(SETTINGS.result_url, 60, time.monotonic)
    consumer = event_queues or EventQueues(time.monotonic)
    return Owner(SETTINGS.model_copy(update=limits), publisher, consumer, time.monotonic)


@contextmanager
def running(owner: Owner) -> Iterator[None]:
    """Run the owner on a thread, until the block ends."""
    thread = Thread(target=owner.run)
    thread.start()
    try:
        yield
    finally:
        owner.end()
        thread.join(SOON_SECONDS_MAX)
        assert not thread.is_alive()


def until(there: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON_SECONDS_MAX
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_an_unforeseen_error_ends_no_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    ownership, owner = NoChange(), an_owner()
    monkeypatch.setattr(owner, "_ownership", ownership)
    monkeypatch.setattr(owner, "close", lambda: None)
    with capture_logs() as logs, running(owner):
        until(lambda: ownership.ticks >= 3)

    assert [entry["event"] for entry in logs] == ["owner_failed"]


def test_a_message_is_taken_between_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[UUID] = []

    def apply(owner: Owner) -> None:
        applied.extend(owner._queue.ready)  # noqa: SLF001 - what the owner would apply
        owner._queue.ready.clear()  # noqa: SLF001

    ownership = NoChange()
    ownership.ticks = 1
    monkeypatch.setattr(Owner, "_joined", lambda _: ownership)
    monkeypatch.setattr(Owner, "close", lambda _: None)
    monkeypatch.setattr(Owner, "apply_batch", apply)
    owner = an_owner(tick_seconds=3_600)
    with running(owner):
        until(lambda: ownership.ticks == 2)
        for event_ids in ([A], [B]):
            owner.wake(event_ids)
        until(lambda: len(applied) == 2)

    assert (applied, ownership.ticks) == ([A, B], 2)


def test_an_owner_waits_for_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    ownership = NoChange()
    ownership.ticks = 1
    ownership.has_its_share = False
    monkeypatch.setattr(Owner, "_joined", lambda _: ownership)
    monkeypatch.setattr(Owner, "close", lambda _: None)
    monkeypatch.setattr("worker.owner._UNLOCKED_SECONDS", 0.01)
    with running(an_owner(tick_seconds=3_600)):
        until(lambda: ownership.ticks >= 4)
        ownership.has_its_share = True
        looks = ownership.ticks
        time.sleep(0.1)

    assert ownership.ticks <= looks + 1


class Tries:
    """Tries of commands that are set aside, each of which takes a time on a clock of its own.

    It stands for the ownership, its session and the clock, too.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, seconds: float, in_vain: bool = False) -> None:
        self.now = 0.0
        self.seconds = seconds
        self.in_vain = in_vain
        self.tried: list[UUID] = []
        self.has_its_share = True
        self.buckets = {*range(ids.BUCKETS)}
        self.cut_off: list[str] = []
        self.session = SimpleNamespace(closed=False)
        monkeypatch.setattr("worker.isolation.retry", self.retry)
        monkeypatch.setattr("worker.isolation.load.first_pending", lambda *_: True)
        monkeypatch.setattr(Owner, "_joined", lambda _: self)
        monkeypatch.setattr(Owner, "close", lambda _: None)
        monkeypatch.setattr(Publisher, "write", lambda *_: None)

    def rebalance(self) -> BucketsMoved:
        return BucketsMoved(gained=0, lost=0)

    def events_pending(self) -> list[UUID]:
        return []

    def retry(self, _: object, place: Place, troubles: Troubles) -> list[SettledCommand]:
        self.now += self.seconds
        self.tried.append(place.command_id)
        if self.in_vain:
            troubles.set_aside(place, ValueError())
            return []
        troubles.forget(place.command_id)
        confirmed = Confirmed(registration_id=UUID(int=9), spots_count=1)
        return [SettledCommand(**place._asdict(), outcome=confirmed)]

    def owner(self, set_aside: int, **limits: float) -> Owner:
        """Return an owner that has ownership, and so many commands that are set aside and due."""
        settings = SETTINGS.model_copy(update=limits)
        owner = Owner(
            settings,
            Publisher(SETTINGS.result_url, 60, self.clock),
            EventQueues(time.monotonic),
            self.clock,
        )
        owner.tick()
        owner._ownership = self  # type: ignore[assignment]  # noqa: SLF001 - it stands for it
        for number in range(set_aside):
            owner._troubles.set_aside(Place(A, UUID(int=100 + number), number), ValueError())  # noqa: SLF001
        self.now += 10
        return owner

    def clock(self) -> float:
        return self.now


def test_passed_troubles_are_soon_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = Tries(monkeypatch, seconds=0.005)
    owner = tries.owner(100, tick_seconds=0.5)
    owner.tick()
    in_half_a_tick = len(tries.tried)
    for _ in range(2):
        owner.tick()

    assert 48 <= in_half_a_tick <= 52
    assert len({*tries.tried}) == 100


def test_vain_tries_take_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = Tries(monkeypatch, seconds=0.01, in_vain=True)
    owner = tries.owner(100, tick_seconds=0.5)
    owner.tick()

    assert len(tries.tried) == 3


def test_vain_tries_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = Tries(monkeypatch, seconds=1 / 64, in_vain=True)
    owner = tries.owner(8, tick_seconds=0.5)
    for _ in range(4):
        owner.tick()
        tries.now += 10  # all are due again

    assert len({*tries.tried}) == len(tries.tried) == 8


def test_only_owned_commands_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = Tries(monkeypatch, seconds=0.01)
    owner = tries.owner(2, tick_seconds=0.5)
    tries.buckets = set()  # another worker has them
    owner.tick()
    tries.buckets = {*range(ids.BUCKETS)}
    owner.tick()

    assert tries.tried == []


def test_a_batch_follows_each_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = Tries(monkeypatch, seconds=0.8, in_vain=True)
    owner = tries.owner(100, tick_seconds=0.5)
    applied: list[int] = []

    def apply(_: Owner) -> None:
        applied.append(len(tries.tried))
        if len(tries.tried) >= 3:
            owner.end()

    monkeypatch.setattr(Owner, "apply_batch", apply)
    owner.run()

    assert applied == [1, 2, 3]


def test_one_vain_try_goes_before_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = Tries(monkeypatch, seconds=0.8, in_vain=True)
    batches: list[Collection[UUID]] = []

    def apply(_: object, event_ids: Collection[UUID], *__: object) -> Applied:
        batches.append(event_ids)
        return Applied([], [])

    monkeypatch.setattr("worker.batch.apply", apply)
    troubles = Troubles(tries.clock)
    for event_id in (A, B):
        troubles.set_aside(Place(event_id, UUID(int=100 + event_id.int), 1), ValueError())
    others = [A, B, UUID(int=3)]

    first = owners.apply(tries.session, others, 100, troubles=troubles)  # type: ignore[arg-type]  # likewise
    second = owners.apply(tries.session, others, 100, troubles=troubles)  # type: ignore[arg-type]  # likewise

    assert (first.unfinished, second.unfinished) == ([B], [])
    assert batches == [[A, UUID(int=3)], others]


@pytest.mark.parametrize("cut_off", [[], ["now"]])
def test_a_batch_is_told_by_its_own_commit(monkeypatch: pytest.MonkeyPatch, cut_off: list[str]) -> None:
    tries = Tries(monkeypatch, seconds=0)
    owner = tries.owner(0)
    tries.cut_off.append("earlier")
    told: list[bool] = []

    def apply(*_: object) -> Applied:
        tries.cut_off.extend(cut_off)
        return Applied([], [])

    monkeypatch.setattr(owners, "apply", apply)
    monkeypatch.setattr(Publisher, "add", lambda *_, confirmed: told.append(confirmed))
    owner.wake([A])
    owner.take_woken()
    owner.apply_batch()

    assert told == [not cut_off]


@pytest.mark.parametrize("cut_off", [[], ["now"]])
def test_a_retry_is_told_by_its_own_commit(monkeypatch: pytest.MonkeyPatch, cut_off: list[str]) -> None:
    tries = Tries(monkeypatch, seconds=0)
    owner = tries.owner(1)
    tries.cut_off.append("earlier")
    told: list[bool] = []

    def retry(*asked: Any) -> list[SettledCommand]:
        tries.cut_off.extend(cut_off)
        return tries.retry(*asked)

    monkeypatch.setattr("worker.isolation.retry", retry)
    monkeypatch.setattr(Publisher, "add", lambda *_, confirmed: told.append(confirmed))
    owner.tick()

    assert told == [not cut_off]


def test_releases_agree_on_the_shares() -> None:
    """Workers that disagreed would leave buckets without an owner."""
    workers = [1, 2, 2**31 - 1]
    shares = [share(number, workers) for number in workers]

    assert [sorted(each)[:5] for each in shares] == [[16, 19, 27, 28, 31], [0, 1, 2, 5, 7], [3, 4, 6, 8, 9]]
    assert sorted(bucket for each in shares for bucket in each) == [*range(ids.BUCKETS)]


class Times:
    """Troubles on a clock of their own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.troubles = Troubles(lambda: self.now)


def test_an_event_is_full_by_its_own_troubles() -> None:
    troubles = Troubles(time.monotonic)
    for number in range(trouble.SET_ASIDE_MAX):
        troubles.set_aside(Place(A, UUID(int=100 + number), number), ValueError())

    assert (troubles.full(A), troubles.full(B)) == (True, False)


def test_time_outs_count_although_a_neighbour_is_settled() -> None:
    tries = Times()
    culprit, neighbour = (Place(A, UUID(int=100 + number), number) for number in range(2))
    for _ in range(trouble.TIMEOUTS_MAX - 1):
        tries.troubles.set_aside(culprit, QueryCanceled())
        tries.troubles.set_aside(neighbour, QueryCanceled())
        tries.troubles.forget(neighbour.command_id)
        assert not tries.troubles.gives_up(culprit.command_id, QueryCanceled())
        tries.now += trouble.TIMEOUTS_APART_SECONDS

    assert tries.troubles.gives_up(culprit.command_id, QueryCanceled())


def test_a_slow_command_has_more_time_alone() -> None:
    tries = Times()
    culprit = Place(A, UUID(int=100), 1)
    had = [tries.troubles.patience(culprit.command_id)]
    for seconds in (0, 1, trouble.TIMEOUTS_APART_SECONDS):
        tries.troubles.set_aside(culprit, QueryCanceled())
        tries.now += seconds
        had.append(tries.troubles.patience(culprit.command_id))

    first, second, too_soon, counts = had
    assert first == too_soon == trouble.PART_OF_REFUSED_BATCH
    assert second == counts == trouble.ALONE_AGAIN


class Hub:
    """Celery's consumer, as far as event queues use it."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.calls: list[Callable[[], None]] = []
        self.task_consumer = self
        self.channel = object()
        self.connection = SimpleNamespace(transport=SimpleNamespace(driver_type="redis"))

    def call_soon(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def add_queue(self, queue: object) -> None:
        self.names.add(queue.name)  # type: ignore[attr-defined]  # kombu's

    def cancel_by_queue(self, name: str) -> None:
        self.names.remove(name)

    def consume(self) -> None:
        pass


def names(*events: UUID) -> Collection[str]:
    return {f"event.{event_id}" for event_id in events}


def test_the_consumer_follows_the_owner() -> None:
    event_queues, first, second = EventQueues(time.monotonic), Hub(), Hub()
    event_queues.consume([A])
    event_queues.attach(first)
    assert (first.names, first.calls) == (names(A), [])

    event_queues.consume([B])
    event_queues.release([A])
    event_queues.release([])
    assert first.names == names(A), "only Celery's thread may change it"
    assert len(first.calls) == 2
    for call in first.calls:
        call()
    assert first.names == names(B)

    event_queues.consume([A])
    event_queues.release([A])
    event_queues.consume([B])
    for call in first.calls:
        call()
    assert first.names == names(B)

    calls = len(first.calls)
    event_queues.detach()
    event_queues.consume([A])
    for call in first.calls:
        call()
    assert (first.names, len(first.calls)) == (names(B), calls), "its connection is lost"
    event_queues.attach(second)
    assert (second.names, second.calls) == (names(A, B), [])


def test_events_of_other_buckets_are_not_heard() -> None:
    event_queues, hub = EventQueues(time.monotonic), Hub()
    event_queues.consume([A, B])
    event_queues.attach(hub)

    assert event_queues.release_others({ids.bucket(B)}) == 1
    for call in hub.calls:
        call()

    assert hub.names == names(B)


def test_a_flood_of_events_is_heard_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "CONSUMED_EVENTS_MAX", 3)
    event_queues, hub = EventQueues(time.monotonic), Hub()
    event_queues.consume([UUID(int=number) for number in range(10)])
    event_queues.consume([A, B])
    event_queues.attach(hub)

    assert len(hub.names) == 3


def test_an_owner_stops_what_it_does_not_own(monkeypatch: pytest.MonkeyPatch) -> None:
    event_queues, hub, ownership = EventQueues(time.monotonic), Hub(), NoChange()
    ownership.ticks = 1
    monkeypatch.setattr(Owner, "_joined", lambda _: ownership)
    owner = an_owner(event_queues=event_queues)
    owner.tick()
    event_queues.consume([A])
    event_queues.attach(hub)
    assert hub.names == names(A)

    owner.wake([A])
    owner.take_woken()
    owner.apply_batch()
    for call in hub.calls:
        call()
    assert hub.names == names()
