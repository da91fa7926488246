"""A command that comes alone: its owner is woken while it is being accepted, and finds it when it is."""

import asyncio
import json
from collections.abc import Callable
from uuid import UUID

import pytest
from api.rings import rings
from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from api.commands.intake import Intake
from api.commands.owner_cache import Owners
from api.commands.waker import Bell
from shared.domain import ids
from shared.messaging import queues, results
from shared.postgres import connections, ledger, locks
from shared.postgres.ledger import NewCommand, Settled
from shared.settings import Settings
from tests.databases import as_worker, run
from tests.simulation.histories import SETTINGS
from tests.simulation.in_postgres import InPostgres
from worker import batch

LIMIT = 100
_IN_THE_WAY = text("""
    INSERT INTO command (event_id, id, kind, payload, actor)
    VALUES (:event_id, :id, 'register', '{}', 'somebody else who uses this id, and thinks better of it')
""")
_WHO_WAITS = "SELECT FROM pg_locks WHERE locktype = :kind AND NOT granted"
_WHAT_IS_COMING = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = :lock_class AND granted"


def asked(event_id: UUID) -> NewCommand:
    payload = json.dumps({"name": "User", "email": None, "spotsCount": 1}).encode()
    return NewCommand(event_id=event_id, id=ids.new_id(), kind="register", payload=payload, actor="public")


@pytest.fixture
def event_id(connection: Connection) -> UUID:
    """Return an event that nobody owns."""
    return InPostgres(connection, SETTINGS).event_id


async def until(there: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not there():  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.005)


def test_an_owner_that_was_told_early_waits_for_the_commit(settings: Settings, event_id: UUID) -> None:
    url = settings.database_url

    def look(coming: UUID | None) -> list[Settled]:
        with as_worker(url) as owner:
            return batch.apply_pending(owner, [event_id], LIMIT, coming)

    async def accept() -> tuple[list[Settled], list[Settled]]:
        session = await connections.accepting_session(settings)
        async with session, session.transaction():
            await ledger.accept(session, [command], coming=True)
            at_once = await asyncio.to_thread(look, None)
            waiting = asyncio.create_task(asyncio.to_thread(look, event_id))
            await until(lambda: run(url, _WHO_WAITS, kind="advisory"))
        return at_once, await waiting

    command = asked(event_id)
    at_once, waited = asyncio.run(accept())

    assert at_once == []
    assert [one.command_id for one in waited] == [command.id]


def test_a_command_that_takes_long_to_come_keeps_nobody_who_is_there(
    settings: Settings, event_id: UUID
) -> None:
    async def accept() -> tuple[list[Settled], list[Settled], int]:
        one, other = [await connections.accepting_session(settings) for _ in range(2)]
        with as_worker(settings.database_url) as owner:
            async with one, other, one.transaction():
                await ledger.accept(one, [slow], coming=True)
                await ledger.accept(other, [there])
                early = await asyncio.to_thread(batch.apply_pending, owner, [event_id], LIMIT, event_id)
            late = batch.apply_pending(owner, [event_id], LIMIT, event_id)
            left = len(run(settings.database_url, _WHAT_IS_COMING, lock_class=locks.COMING))
            return early, late, left

    slow, there = asked(event_id), asked(event_id)
    early, late, left = asyncio.run(accept())

    assert [one.command_id for one in early] == [there.id]
    assert [one.command_id for one in late] == [slow.id]
    assert left == 0


def test_a_table_that_is_locked_is_not_taken_for_a_command_that_comes_late(
    settings: Settings, event_id: UUID
) -> None:
    engine = create_engine(settings.database_url, poolclass=NullPool)
    with (
        as_worker(settings.database_url, options="-c lock_timeout=50ms") as owner,
        engine.begin() as other,
    ):
        other.execute(text("LOCK TABLE command IN ACCESS EXCLUSIVE MODE"))
        for coming in (None, event_id):
            with pytest.raises(LockNotAvailable):
                batch.apply_pending(owner, [event_id], LIMIT, coming)


@pytest.mark.parametrize("together", [1, 2])
def test_who_comes_alone_is_rung_for_before_the_commit_and_a_crowd_after_it(
    settings: Settings, event_id: UUID, together: int
) -> None:
    url = settings.database_url
    broker = results.connect(settings.broker_url)
    engine = create_engine(url, poolclass=NullPool)

    def rung() -> int:
        return int(broker.llen(queues.event_queue_name(event_id)))

    async def accept() -> tuple[int, int]:
        async_engine = connections.async_engine(settings)
        ringing = Bell(rings(queues.celery_app(settings), settings), Owners(async_engine))
        intake = Intake(ringing, settings)
        with engine.connect() as other, other.begin() as locked:
            commands = [asked(event_id) for _ in range(together)]
            other.execute(_IN_THE_WAY, {"event_id": event_id, "id": commands[0].id})
            accepting = [asyncio.create_task(intake.accept(command)) for command in commands]
            await until(lambda: run(url, _WHO_WAITS, kind="transactionid"))
            if together == 1:
                await until(rung)
            early = rung(), len(run(url, _WHAT_IS_COMING, lock_class=locks.COMING))
            assert not any(task.done() for task in accepting)
            locked.rollback()
        await asyncio.gather(*accepting)
        await until(rung)
        await intake.close()
        await ringing.close()
        await async_engine.dispose()
        return early

    early = asyncio.run(accept())
    broker.delete(queues.event_queue_name(event_id))
    broker.close()

    assert early == ((1, 1) if together == 1 else (0, 0))


def test_an_owner_that_was_told_too_early_is_told_again_soon(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bell, "_HEARING_SECONDS_MAX", 60)
    event_id, command_id = ids.new_id(), ids.new_id()
    broker = results.connect(settings.broker_url)

    async def ring() -> None:
        engine = connections.async_engine(settings)
        ringing = Bell(rings(queues.celery_app(settings), settings), Owners(engine))
        ringing.ring(event_id, [command_id], coming=True)
        await asyncio.sleep(0)
        ringing.ring(event_id, [command_id])
        await until(lambda: broker.llen(queues.event_queue_name(event_id)) == 2)
        ringing.heard(event_id, [command_id])
        await ringing.close()
        await engine.dispose()

    asyncio.run(ring())
    broker.delete(queues.event_queue_name(event_id))
    broker.close()
