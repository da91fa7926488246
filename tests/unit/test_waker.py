"""The waker: how many messages go out, for which events, and when."""

import asyncio
import time
from collections.abc import Callable, Sequence
from uuid import UUID

import pytest
import redis
from sqlalchemy.ext.asyncio import create_async_engine
from structlog.testing import capture_logs

from api.commands import waker
from api.commands.waker import BucketOwners, Send, Waker
from shared.domain import ids
from shared.messaging import queues
from worker.run_queue import LOOK_SECONDS

NEVER_SECONDS = 3_600
SOON_SECONDS_MAX = 20
GRACE_SECONDS = waker._GRACE_SECONDS  # noqa: SLF001 - as it is; the tests change it
LOOP_TURNS = 20
"""As many turns of the event loop as a message could need that nothing holds back."""
A, B, C, D = (UUID(int=number) for number in range(1, 5))
ONE, TWO, THREE, FOUR = (UUID(int=number) for number in range(11, 15))
"""Commands."""


class Messages:
    """A broker in memory; one owner has the events B and C."""

    def __init__(self) -> None:
        self.sent: list[list[UUID]] = []
        self.lost: list[UUID] = []
        self.seconds: float | None = None

    def waker(self, send: Send | None = None) -> Waker:
        owners = BucketOwners(create_async_engine("postgresql+psycopg://127.0.0.1:9/nothing"))
        owners.numbers = {ids.bucket(event_id): 1 for event_id in (B, C)}
        clock = time.monotonic if self.seconds is None else lambda: self.seconds or 0.0
        return Waker(send or self.send, owners, clock)

    async def send(self, _: str, event_ids: Sequence[UUID]) -> None:
        if event_ids[0] in self.lost:
            raise redis.ResponseError("the broker is full")
        self.sent.append(list(event_ids))


@pytest.fixture
def messages() -> Messages:
    """The messages of one test."""
    return Messages()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only an outcome release the next message."""
    monkeypatch.setattr(waker, "_OUTCOME_SECONDS_MAX", NEVER_SECONDS)
    monkeypatch.setattr(waker, "_GRACE_SECONDS", 0)


async def until(there: Callable[[], object]) -> None:
    async with asyncio.timeout(SOON_SECONDS_MAX):
        while not there():  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.001)


async def a_while() -> None:
    for _ in range(LOOP_TURNS):
        await asyncio.sleep(0)


def test_the_first_message_goes_at_once(messages: Messages) -> None:
    async def run() -> None:
        waking = messages.waker()
        waking.wake(A, ONE)
        await a_while()
        assert messages.sent == [[A]]
        waking.outcomes_seen(A, [ONE])
        await waking.close()

    asyncio.run(run())


def test_the_next_message_waits_for_an_outcome(messages: Messages) -> None:
    async def run() -> None:
        waking = messages.waker()
        waking.wake(A, ONE)
        await a_while()
        waking.wake(A, TWO)
        waking.wake(A, THREE)
        waking.outcomes_seen(D, [ONE])
        await a_while()
        assert messages.sent == [[A]]

        waking.outcomes_seen(A, [ONE])
        await until(lambda: len(messages.sent) == 2)
        waking.wake(A, FOUR)
        await a_while()
        assert messages.sent == [[A], [A]]
        waking.outcomes_seen(A, [THREE])
        await until(lambda: len(messages.sent) == 3)
        waking.outcomes_seen(A, [FOUR])
        await waking.close()

    asyncio.run(run())

    assert messages.sent == [[A], [A], [A]]


def test_only_a_sent_commands_outcome_releases_it(messages: Messages) -> None:
    async def run() -> None:
        waking = messages.waker()
        waking.wake(A, ONE)
        await a_while()
        waking.wake(A, TWO)
        waking.wake(A, THREE)
        waking.outcomes_seen(A, [TWO, FOUR])  # TWO was not sent for, and FOUR is of another process
        await a_while()
        assert messages.sent == [[A]]
        waking.outcomes_seen(A, [ONE])
        await until(lambda: len(messages.sent) == 2)
        waking.outcomes_seen(A, [THREE])
        await waking.close()

    asyncio.run(run())


def test_a_command_decided_early_needs_no_message(messages: Messages) -> None:
    async def run() -> None:
        waking = messages.waker()
        waking.wake(A, ONE)
        await a_while()
        for event_id, command_id in ((A, TWO), (B, THREE), (D, FOUR)):
            waking.wake(event_id, command_id)
        waking.outcomes_seen(A, [ONE, TWO])
        waking.outcomes_seen(B, [THREE])
        await until(lambda: len(messages.sent) == 2)
        waking.outcomes_seen(D, [FOUR])
        await waking.close()

    asyncio.run(run())

    assert messages.sent == [[A], [D]]


def test_an_outcome_in_the_pause_spares_the_message(
    messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waker, "_GRACE_SECONDS", 0.05)

    async def run() -> None:
        waking = messages.waker()
        waking.wake(A, ONE)
        await a_while()
        waking.wake(A, TWO)
        waking.outcomes_seen(A, [ONE])
        await a_while()
        waking.outcomes_seen(A, [TWO])
        await asyncio.sleep(0.1)
        await waking.close()

    asyncio.run(run())

    assert messages.sent == [[A]]


def test_the_pause_outlasts_the_owners_next_look() -> None:
    assert GRACE_SECONDS > LOOK_SECONDS


def test_without_an_outcome_time_releases_the_next(
    messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waker, "_OUTCOME_SECONDS_MAX", 0.01)

    async def run() -> None:
        waking = messages.waker()
        waking.wake(A, ONE)
        await a_while()
        waking.wake(B, TWO)
        await asyncio.wait_for(waking.close(), SOON_SECONDS_MAX)

    asyncio.run(run())

    assert messages.sent == [[A], [B]]


def test_one_message_wakes_an_owner_for_its_events(messages: Messages) -> None:
    async def run() -> None:
        waking = messages.waker()
        waking.wake(A, ONE)
        await a_while()
        for event_id, command_id in ((B, ONE), (D, TWO), (C, THREE), (B, FOUR)):
            waking.wake(event_id, command_id)
        waking.outcomes_seen(A, [ONE])
        await until(lambda: len(messages.sent) == 3)
        waking.outcomes_seen(C, [THREE])
        await waking.close()

    asyncio.run(run())

    assert messages.sent == [[A], [B, C], [D]]


def test_an_event_is_addressed_as_long_as_its_queue_is_consumed(messages: Messages) -> None:
    messages.seconds = 0.0
    waking = messages.waker()
    first, soon = waking.messages([B]), waking.messages([B, C])
    messages.seconds = queues.ADDRESSED_SECONDS + 1.0
    late = waking.messages([B])

    assert first == late == [("worker.1", [B])]
    assert soon == [(f"event.{B}", [B, C])]


def test_a_message_has_a_bounded_number_of_events(
    messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "MESSAGE_EVENTS_MAX", 1)

    async def run() -> None:
        waking = messages.waker()
        waking.wake(B, ONE)
        waking.wake(C, TWO)
        await until(lambda: messages.sent)
        waking.outcomes_seen(B, [ONE])
        await until(lambda: len(messages.sent) == 2)
        await waking.close()

    asyncio.run(run())

    assert messages.sent == [[B], [C]]


def test_a_lost_message_takes_no_other_along(messages: Messages) -> None:
    async def run() -> None:
        waking = messages.waker()
        messages.lost = [A, B]
        waking.wake(A, ONE)
        await a_while()
        for event_id in (B, C, D):
            waking.wake(event_id, TWO)
        waking.outcomes_seen(A, [ONE])
        await until(lambda: messages.sent)
        messages.lost = []
        waking.outcomes_seen(B, [TWO])  # a tick has found the command
        waking.wake(B, THREE)
        await until(lambda: len(messages.sent) == 2)
        waking.outcomes_seen(B, [THREE])
        await waking.close()

    with capture_logs() as logs:
        asyncio.run(run())

    assert messages.sent == [[D], [B]]
    assert [entry["event"] for entry in logs] == ["wake_failed", "wake_failed"]


def test_closing_sends_all_due_messages(messages: Messages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waker, "_OUTCOME_SECONDS_MAX", 0.001)

    async def run() -> None:
        waking = messages.waker()
        for event_id in (A, B, C):
            waking.wake(event_id, ONE)
        await waking.close()

    asyncio.run(run())

    assert messages.sent == [[A], [B, C]]


def test_an_event_without_outcomes_gets_ever_fewer_messages(
    messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages.seconds = 0.0
    monkeypatch.setattr(waker, "_OUTCOME_SECONDS_MAX", 0.05)
    waking = messages.waker()
    at: list[float] = []
    for step in range(400):  # each 10 ms, for 4 seconds
        messages.seconds = step / 100
        waking._due.setdefault(A, set()).add(UUID(int=step))  # noqa: SLF001 - as `wake` does, without a task
        at += [messages.seconds] * len(waking._take_due())  # noqa: SLF001

    assert at == pytest.approx([0, 0.05, 0.15, 0.35, 0.75, 1.55, 2.55, 3.55], abs=0.03)


def test_an_outcome_ends_the_pause(messages: Messages, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        waking = messages.waker()
        waking.wake(A, ONE)
        await until(lambda: messages.sent)
        waking.wake(A, TWO)
        waking.wake(D, TWO)
        monkeypatch.setattr(waker, "_OUTCOME_SECONDS_MAX", 0.01)
        waking._released.set()  # noqa: SLF001 - as after the time for an outcome
        await until(lambda: len(messages.sent) == 2)
        await asyncio.sleep(0.05)
        assert messages.sent == [[A], [D]]
        waking.outcomes_seen(A, [FOUR])
        await until(lambda: len(messages.sent) == 3)
        waking.outcomes_seen(A, [TWO])
        await waking.close()

    asyncio.run(run())

    assert messages.sent == [[A], [D], [A]]


def test_a_broker_that_hangs_delays_no_end(messages: Messages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waker, "_CLOSE_SECONDS_MAX", 0.05)

    async def hang(_: str, event_ids: Sequence[UUID]) -> None:
        messages.sent.append(list(event_ids))
        await asyncio.sleep(NEVER_SECONDS)

    async def run() -> None:
        waking = messages.waker(hang)
        waking.wake(A, ONE)
        await a_while()
        waking.wake(B, ONE)
        await asyncio.wait_for(waking.close(), SOON_SECONDS_MAX)

    asyncio.run(run())

    assert messages.sent == [[A]]


def test_a_message_that_takes_too_long_is_given_up(
    messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waker, "_SEND_SECONDS_MAX", 0.01)
    monkeypatch.setattr(waker, "_OUTCOME_SECONDS_MAX", 0.01)

    async def hang(_: str, event_ids: Sequence[UUID]) -> None:
        messages.sent.append(list(event_ids))
        if len(messages.sent) < 3:
            await asyncio.sleep(NEVER_SECONDS)

    async def run() -> None:
        waking = messages.waker(hang)
        waking.wake(A, ONE)
        await a_while()
        for event_id in (B, D):
            waking.wake(event_id, ONE)
        await until(lambda: len(messages.sent) == 2)
        waking.wake(C, ONE)
        await asyncio.wait_for(waking.close(), SOON_SECONDS_MAX)

    with capture_logs() as logs:
        asyncio.run(run())

    assert messages.sent == [[A], [B], [C]], "the message for D would take as long as that for B"
    assert [entry["event"] for entry in logs] == ["wake_failed", "wake_failed"]
