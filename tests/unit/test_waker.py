"""The waker: how many messages go out, for which events, and when."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from api.commands import waker
from api.commands.waker import Waker
from tests.simulation.protocol.loop import Loop

NEVER_SECONDS = 3_600
SOON_SECONDS_MAX = 20
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

    async def send(self, queue: str, event_ids: Sequence[UUID]) -> None:
        assert queue == f"queue of {event_ids[0]}"
        if event_ids[0] in self.lost:
            raise ConnectionError("the broker is gone")
        self.sent.append(list(event_ids))

    def address(self, event_ids: Collection[UUID]) -> list[tuple[str, list[UUID]]]:
        shared = [event_id for event_id in event_ids if event_id in (B, C)]
        groups = [*([shared] if shared else []), *([id_] for id_ in event_ids if id_ not in shared)]
        return [(f"queue of {group[0]}", group) for group in groups]


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
        waking = Waker(messages.send, messages.address)
        waking.wake(A, ONE)
        await a_while()
        assert messages.sent == [[A]]
        waking.outcomes_seen(A, [ONE])
        await waking.close()

    asyncio.run(run())


def test_the_next_message_waits_for_an_outcome(messages: Messages) -> None:
    async def run() -> None:
        waking = Waker(messages.send, messages.address)
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
        waking = Waker(messages.send, messages.address)
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
        waking = Waker(messages.send, messages.address)
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


def test_without_an_outcome_time_releases_the_next(
    messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waker, "_OUTCOME_SECONDS_MAX", 0.01)

    async def run() -> None:
        waking = Waker(messages.send, messages.address)
        waking.wake(A, ONE)
        await a_while()
        waking.wake(B, TWO)
        await asyncio.wait_for(waking.close(), SOON_SECONDS_MAX)

    asyncio.run(run())

    assert messages.sent == [[A], [B]]


def test_one_message_wakes_an_owner_for_its_events(messages: Messages) -> None:
    async def run() -> None:
        waking = Waker(messages.send, messages.address)
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


def test_a_lost_message_takes_no_other_along(messages: Messages) -> None:
    async def run() -> None:
        waking = Waker(messages.send, messages.address)
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
        waking = Waker(messages.send, messages.address)
        for event_id in (A, B, C):
            waking.wake(event_id, ONE)
        await waking.close()

    asyncio.run(run())

    assert messages.sent == [[B, C], [A]]


def test_an_event_without_outcomes_gets_ever_fewer_messages(
    messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waker, "_OUTCOME_SECONDS_MAX", 0.05)
    at: list[float] = []
    world = Loop()

    async def run() -> None:
        waking = Waker(messages.send, messages.address)
        for step in range(400):  # each 10 ms, for 4 seconds
            waking._due.setdefault(A, set()).add(UUID(int=step))  # noqa: SLF001 - as `wake` does, without a task
            at.extend([world.time()] * len(waking._take_due()))  # noqa: SLF001
            await asyncio.sleep(0.01)

    world.run_until_complete(run())
    world.close()

    assert at == pytest.approx([0, 0.05, 0.15, 0.35, 0.75, 1.55, 2.55, 3.55], abs=0.03)


def test_an_outcome_ends_the_pause(messages: Messages, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        waking = Waker(messages.send, messages.address)
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
        waking = Waker(hang, messages.address)
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
        waking = Waker(hang, messages.address)
        waking.wake(A, ONE)
        await a_while()
        for event_id in (B, D):
            waking.wake(event_id, ONE)
        await until(lambda: len(messages.sent) == 2)
        waking.wake(C, ONE)
        await asyncio.wait_for(waking.close(), SOON_SECONDS_MAX)

    with capture_logs() as logs:
        asyncio.run(run())

    assert messages.sent[-1] == [C]
    assert [entry["event"] for entry in logs] == ["wake_failed", "wake_failed"]
