"""Waiting for outcomes: told by an announcement, found by polling, or read from the ledger."""

import asyncio
import math
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
import redis
from sqlalchemy import Connection
from structlog.testing import capture_logs

from api.commands import outcome_waiter
from api.commands.intake import Intake
from api.commands.ledger_fallback import LedgerFallback
from api.commands.outcome_waiter import OutcomeWaiter, ResultPoller
from shared.domain import ids
from shared.domain.outcomes import Confirmed, Outcome, SettledCommand
from shared.messaging import results
from shared.messaging.results import Publisher
from shared.postgres import connections, ledger
from shared.postgres.durability import NotConfirmed
from shared.settings import Settings
from tests.simulation import worlds
from tests.simulation.histories import SETTINGS, history, register
from tests.simulation.in_postgres import InPostgres

NEVER_SECONDS = 3_600
ANSWERED_SECONDS_MAX = 20
Seen = tuple[UUID, UUID]


@pytest.fixture(autouse=True)
def _own_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Announce where no other process listens."""
    monkeypatch.setattr(results, "_CHANNEL_PREFIX", f"test.{secrets.token_hex(6)}.")


@asynccontextmanager
async def polling(settings: Settings, seen: list[Seen]) -> AsyncIterator[tuple[OutcomeWaiter, ResultPoller]]:
    """Yield a waiter with a poller and without the ledger; `seen` gets the commands with outcomes."""
    client = results.connect_async(settings.result_url)
    waiter = OutcomeWaiter(NEVER_SECONDS)
    poller = ResultPoller(
        waiter, client, settings, lambda event_id, ids_: seen.extend((event_id, id_) for id_ in ids_)
    )
    waiter.poller = poller.task
    try:
        yield waiter, poller
    finally:
        await poller.close()
        await client.aclose()


async def until(there: Callable[[], object]) -> None:
    async with asyncio.timeout(ANSWERED_SECONDS_MAX):
        while not there():  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.005)


async def listening(settings: Settings) -> None:
    """Return when an announcement would be heard."""
    with results.connect(settings.result_url) as client:
        await until(lambda: client.pubsub_numsub(results.channel(client))[0][1])


def decided(commands: int, events: int = 1) -> list[SettledCommand]:
    """Return outcomes of new commands, of new events in turn."""
    event_ids = [ids.new_id() for _ in range(events)]
    return [
        SettledCommand(
            event_id=event_ids[number % events],
            command_id=ids.new_id(),
            seq=number,
            outcome=Confirmed(registration_id=ids.new_id(), spots_count=1),
        )
        for number in range(commands)
    ]


def store(settings: Settings, settled: Sequence[SettledCommand]) -> None:
    """Store outcomes as a worker does."""
    writer = Publisher(settings.result_url, NEVER_SECONDS, lambda: 0.0)
    writer.write(settled)
    writer.close()


def wait_for(
    waiter: OutcomeWaiter, settled: Sequence[SettledCommand]
) -> "asyncio.Future[list[Outcome | None]]":
    """Begin to wait for the outcomes of all these commands."""
    waits = [waiter.outcome(command.event_id, command.command_id, NEVER_SECONDS) for command in settled]
    return asyncio.gather(*waits)


async def _all_answered(
    settings: Settings,
    settled: Sequence[SettledCommand],
    storing: Callable[[ResultPoller], Awaitable[object]],
) -> None:
    """Wait for these outcomes while they are stored; each wait must get its own."""
    seen: list[Seen] = []
    async with polling(settings, seen) as (waiter, poller):
        waiting = wait_for(waiter, settled)
        await asyncio.sleep(0)
        await storing(poller)
        answers = await asyncio.wait_for(waiting, ANSWERED_SECONDS_MAX)
        assert not waiter.by_event

    assert answers == [command.outcome for command in settled]
    assert sorted(seen) == sorted((command.event_id, command.command_id) for command in settled)


@pytest.mark.parametrize(("commands", "events"), [(1, 1), (700, 1), (700, 200)])
def test_an_announcement_alone_is_enough(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, commands: int, events: int
) -> None:
    monkeypatch.setattr(outcome_waiter, "_POLL_SECONDS", NEVER_SECONDS)
    settled = decided(commands, events)

    async def storing(poller: ResultPoller) -> None:
        poller._poll_at = math.inf  # noqa: SLF001 - only what is announced
        await listening(settings)
        store(settings, settled)

    asyncio.run(_all_answered(settings, settled, storing))


@pytest.mark.parametrize(("commands", "events"), [(1, 1), (700, 1), (700, 200)])
def test_polling_finds_missed_announcements(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, commands: int, events: int
) -> None:
    settled = decided(commands, events)

    async def storing(_: ResultPoller) -> None:
        await listening(settings)
        monkeypatch.setattr(results, "_CHANNEL_PREFIX", "test.elsewhere.")
        store(settings, settled)

    asyncio.run(_all_answered(settings, settled, storing))


@pytest.mark.parametrize("error", [redis.ConnectionError(), RuntimeError()], ids=["known", "unforeseen"])
def test_polling_needs_no_announcements(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def silence(_: str) -> AsyncIterator[list[UUID]]:
        raise error
        yield []

    monkeypatch.setattr(results, "announcements", silence)
    settled = decided(300, 3)

    async def storing(_: ResultPoller) -> None:
        store(settings, settled)

    with capture_logs() as logs:
        asyncio.run(_all_answered(settings, settled, storing))

    assert [entry["event"] for entry in logs] == ["announcements_not_readable"]


def test_a_cut_off_listener_listens_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome_waiter, "_POLL_SECONDS", NEVER_SECONDS)
    monkeypatch.setattr(outcome_waiter, "_LISTEN_AGAIN_SECONDS", 0.01)
    settled = decided(1)

    async def storing(_: ResultPoller) -> None:
        await listening(settings)
        with results.connect(settings.result_url) as client:
            client.client_kill_filter(_type="pubsub")
            await until(lambda: not client.pubsub_numsub(results.channel(client))[0][1])
        await listening(settings)
        store(settings, settled)

    with capture_logs():
        asyncio.run(_all_answered(settings, settled, storing))


@pytest.mark.parametrize("backend", ["empty", "gone"])
def test_the_ledger_answers_where_redis_cannot(
    settings: Settings, connection: Connection, backend: str
) -> None:
    world = InPostgres(connection, SETTINGS)
    world.accept(list(worlds.asked(history(register(2), register(4)))))
    world.apply(1)
    decided_id, pending_id = (UUID(told.id) for told in world.snapshot().commands)
    gone = settings.model_copy(update={"result_url": "redis://127.0.0.1:9/0"})
    with results.connect(settings.result_url) as client:  # other tests' histories have the same command ids
        client.delete(results.key(decided_id), results.key(pending_id))

    async def wait() -> tuple[Outcome | None, Outcome | None]:
        engine = connections.async_engine(settings)
        async with polling(gone if backend == "gone" else settings, []) as (waiter, _):
            # Where Redis is gone the ledger is asked at once, whatever the pause is.
            pause = NEVER_SECONDS if backend == "gone" else 0.01
            waiter._ledger_read_seconds = pause  # noqa: SLF001 - `polling` never asks the ledger
            fallback = LedgerFallback(waiter, engine, Intake(settings), pause, lambda *_: None)
            waiter.ask_ledger = fallback.ask
            pending = asyncio.create_task(waiter.outcome(world.event_id, pending_id, NEVER_SECONDS))
            found = await asyncio.wait_for(
                waiter.outcome(world.event_id, decided_id, NEVER_SECONDS), ANSWERED_SECONDS_MAX
            )
            assert not pending.done()
            waiter.release()
            last = await pending
            await fallback.close()
        await engine.dispose()
        return found, last

    with capture_logs():
        found, last = asyncio.run(wait())

    assert found == Confirmed(registration_id=ids.registration_id(decided_id), spots_count=2)
    assert last is None


def test_the_ledger_is_asked_until_it_answers(
    settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = InPostgres(connection, SETTINGS)
    world.accept(list(worlds.asked(history(register(2)))))
    (command_id,) = (UUID(told.id) for told in world.snapshot().commands)
    outcomes_of, reads = ledger.outcomes_of, list[int]()

    async def counting(*asked: Any) -> Mapping[UUID, ledger.RecordedOutcome]:
        outcomes = await outcomes_of(*asked)
        reads.append(len(outcomes))
        return outcomes

    monkeypatch.setattr(ledger, "outcomes_of", counting)

    async def wait() -> Outcome | None:
        engine = connections.async_engine(settings)
        waiter = OutcomeWaiter(0)
        fallback = LedgerFallback(waiter, engine, Intake(settings), 0.01, lambda *_: None)
        waiter.ask_ledger = fallback.ask
        answer = asyncio.create_task(waiter.outcome(world.event_id, command_id, NEVER_SECONDS))
        await until(lambda: reads)
        world.apply(1)
        outcome = await asyncio.wait_for(answer, ANSWERED_SECONDS_MAX)
        await fallback.close()
        await engine.dispose()
        return outcome

    assert asyncio.run(wait()) == Confirmed(registration_id=ids.registration_id(command_id), spots_count=2)
    assert (reads[0], reads[-1]) == (0, 1)


def test_the_ledger_tells_what_is_confirmed(
    settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = InPostgres(connection, SETTINGS)
    world.accept(list(worlds.asked(history(register(2)))))
    world.apply(1)
    (command_id,) = (UUID(told.id) for told in world.snapshot().commands)
    confirmations = [NotConfirmed(), NotConfirmed(), None]
    told_after: list[int] = []

    async def confirm(_: Intake, __: object) -> None:
        if error := confirmations.pop(0):
            raise error

    monkeypatch.setattr(Intake, "confirm", confirm)

    async def wait() -> Outcome | None:
        engine = connections.async_engine(settings)
        waiter = OutcomeWaiter(0)
        fallback = LedgerFallback(
            waiter, engine, Intake(settings), 0.01, lambda *_: told_after.append(len(confirmations))
        )
        waiter.ask_ledger = fallback.ask
        answer = waiter.outcome(world.event_id, command_id, NEVER_SECONDS)
        outcome = await asyncio.wait_for(answer, ANSWERED_SECONDS_MAX)
        await fallback.close()
        await engine.dispose()
        return outcome

    with capture_logs() as logs:
        outcome = asyncio.run(wait())
    assert outcome == Confirmed(registration_id=ids.registration_id(command_id), spots_count=2)
    assert told_after == [0]
    assert [entry["event"] for entry in logs] == ["ledger_not_readable"] * 2


def test_asking_often_does_not_multiply_reads(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    often, once = ids.new_id(), ids.new_id()
    reads: Counter[UUID] = Counter()

    async def nothing(_: object, pairs: Collection[tuple[UUID, UUID]]) -> dict[UUID, Outcome]:
        reads.update(command_id for _, command_id in pairs)
        return {}

    monkeypatch.setattr(ledger, "outcomes_of", nothing)

    async def wait() -> None:
        engine = connections.async_engine(settings)
        waiter = OutcomeWaiter(NEVER_SECONDS)
        fallback = LedgerFallback(waiter, engine, Intake(settings), 0.05, lambda *_: None)
        waits = [asyncio.create_task(waiter.outcome(id_, id_, NEVER_SECONDS)) for id_ in (often, once)]
        await asyncio.sleep(0)
        first, second = waiter.all()
        for count in range(1, 21):
            fallback.ask(first)
            await until(lambda: reads[often] >= count)  # noqa: B023 - used at once
        fallback.ask(second)
        reads.clear()
        await until(lambda: reads[once] > 5)
        waiter.release()
        await asyncio.gather(*waits)
        await fallback.close()
        await engine.dispose()

    asyncio.run(wait())

    assert reads[often] < 3 * reads[once]


def test_a_crowd_takes_turns_at_the_ledger(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = [ids.new_id() for _ in range(1_200)]
    reads: list[list[UUID]] = []

    async def nothing(_: object, pairs: Collection[tuple[UUID, UUID]]) -> dict[UUID, Outcome]:
        reads.append([command_id for _, command_id in pairs])
        return {}

    monkeypatch.setattr(ledger, "outcomes_of", nothing)

    async def wait() -> None:
        engine = connections.async_engine(settings)
        waiter = OutcomeWaiter(0)
        fallback = LedgerFallback(waiter, engine, Intake(settings), 0, lambda *_: None)
        waiter.ask_ledger = fallback.ask
        waits = [asyncio.create_task(waiter.outcome(id_, id_, NEVER_SECONDS)) for id_ in crowd]
        await until(lambda: len(reads) == 5)
        waiter.release()
        await asyncio.gather(*waits)
        await fallback.close()
        await engine.dispose()

    asyncio.run(wait())

    assert max(map(len, reads)) < len(crowd)
    asked = Counter(command_id for read in reads for command_id in read)
    assert asked.keys() == set(crowd)
    assert max(asked.values()) - min(asked.values()) <= 1
