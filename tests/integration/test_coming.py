"""A command that comes alone: its owner is woken while it is being accepted, and finds it when it is."""

import asyncio
import json
from collections.abc import Callable
from uuid import UUID

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from api import bell
from api.bell import Bell
from api.intake import Intake
from api.owners import Owners
from api.rings import rings
from shared import database, ids, ledger, locks, queues, results
from shared.ledger import Asked, Settled
from shared.settings import Settings
from tests.databases import as_worker, run
from tests.simulation.histories import SETTINGS
from tests.simulation.in_postgres import InPostgres
from worker import tasks

LIMIT = 100
_IN_THE_WAY = text("""
    INSERT INTO command (event_id, id, kind, payload, actor)
    VALUES (:event_id, :id, 'register', '{}', 'somebody else who uses this id, and thinks better of it')
""")
_WHO_WAITS = "SELECT FROM pg_locks WHERE locktype = :kind AND NOT granted"
_WHAT_IS_COMING = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = :lock_class AND granted"


def asked(event_id: UUID) -> Asked:
    payload = json.dumps({"name": "User", "email": None, "spotsCount": 1}).encode()
    return Asked(event_id=event_id, id=ids.new_id(), kind="register", payload=payload, actor="public")


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
            return tasks.apply_pending(owner, [event_id], LIMIT, coming)

    async def accept() -> tuple[list[Settled], list[Settled]]:
        session = await database.accepting_session(settings)
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


def test_a_command_that_takes_too_long_to_come_keeps_its_owner_no_longer(
    settings: Settings, event_id: UUID
) -> None:
    url = settings.database_url

    async def accept() -> tuple[list[Settled], list[Settled]]:
        session = await database.accepting_session(settings)
        with as_worker(url, options="-c lock_timeout=50ms") as owner:
            async with session, session.transaction():
                await ledger.accept(session, [command], coming=True)
                early = await asyncio.to_thread(tasks.apply_pending, owner, [event_id], LIMIT, event_id)
            return early, tasks.apply_pending(owner, [event_id], LIMIT, event_id)

    command = asked(event_id)
    early, late = asyncio.run(accept())

    assert early == []
    assert [one.command_id for one in late] == [command.id]


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
        async_engine = database.async_engine(settings)
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
        engine = database.async_engine(settings)
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
