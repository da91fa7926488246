"""The count of pending commands: above a limit none is added, until commands are decided."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest
from sqlalchemy import Connection, text

from api.commands.intake import IntakeFull, Shares
from api.commands.pending_count import PendingCount
from shared.domain import ids
from shared.postgres import connections
from shared.postgres.ledger import NewCommand
from shared.settings import Settings

EVENT_MAX, MAX = 3, 5
SECONDS_MAX = 5
COUNTED_SECONDS = 0.8
ONE, OTHER, THIRD = (ids.new_id() for _ in range(3))
_PENDING = text("INSERT INTO pending_command (event_id, seq, command_id) VALUES (:event_id, :seq, :id)")


def use(settings: Settings, work: Callable[[PendingCount], Awaitable[None]]) -> None:
    async def run() -> None:
        engine = connections.async_engine(settings)
        limited = settings.model_copy(update={"event_pending_max": EVENT_MAX, "pending_max": MAX})
        count = PendingCount(Shares(limited), engine, limited.pending_max)
        count.task.ensure_running()
        try:
            await work(count)
        finally:
            await count.task.cancel()
            await engine.dispose()

    asyncio.run(run())


def lets_in(count: PendingCount, event_id: UUID) -> bool:
    command = NewCommand(event_id=event_id, id=ids.new_id(), kind="register", payload=b"{}", actor="public")
    try:
        count.shares.add(command, asyncio.get_running_loop().create_future())
    except IntakeFull:
        return False
    return True


async def lets_in_soon(count: PendingCount, event_id: UUID) -> bool:
    """Ask until the event is let in, as clients do that were told to come back."""
    for _ in range(SECONDS_MAX * 10):
        if lets_in(count, event_id):
            return True
        await asyncio.sleep(0.1)
    return False


@pytest.mark.usefixtures("connection")
def test_an_event_and_all_events_have_a_limit(settings: Settings) -> None:
    async def work(count: PendingCount) -> None:
        assert [lets_in(count, ONE) for _ in range(4)] == [True, True, True, False]
        assert [lets_in(count, OTHER) for _ in range(3)] == [True, True, False]
        assert not lets_in(count, THIRD)

    use(settings, work)


def test_the_ledgers_pending_commands_count(settings: Settings, connection: Connection) -> None:
    with connection.begin():
        for seq in range(EVENT_MAX):
            connection.execute(_PENDING, {"event_id": ONE, "seq": seq, "id": ids.new_id()})

    async def work(count: PendingCount) -> None:
        assert await lets_in_soon(count, OTHER)
        await asyncio.sleep(COUNTED_SECONDS)
        assert not lets_in(count, ONE)
        with connection.begin():
            connection.execute(text("DELETE FROM pending_command"))
        assert await lets_in_soon(count, ONE)

    use(settings, work)


@pytest.mark.usefixtures("connection")
def test_what_was_never_written_is_not_counted_for_ever(settings: Settings) -> None:
    async def work(count: PendingCount) -> None:
        assert [lets_in(count, ONE) for _ in range(4)] == [True, True, True, False]
        assert await lets_in_soon(count, ONE)

    use(settings, work)


def test_what_is_added_during_a_count_is_counted(settings: Settings, connection: Connection) -> None:
    async def work(count: PendingCount) -> None:
        assert lets_in(count, OTHER)
        connection.execute(text("BEGIN"))  # the session commits by itself
        connection.execute(text("LOCK TABLE pending_command"))
        await asyncio.sleep(COUNTED_SECONDS)
        assert [lets_in(count, ONE) for _ in range(3)] == [True, True, True]
        connection.execute(text("COMMIT"))
        for _ in range(SECONDS_MAX * 100):
            if not count.shares.pending[OTHER]:  # it is not in the ledger
                break
            await asyncio.sleep(0.01)
        assert not lets_in(count, ONE)

    use(settings, work)


def test_without_a_database_the_last_count_holds(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"database_url": "postgresql+psycopg://nobody@127.0.0.1:9/nothing"})

    async def work(count: PendingCount) -> None:
        assert [lets_in(count, ONE) for _ in range(4)] == [True, True, True, False]
        await asyncio.sleep(COUNTED_SECONDS)
        assert not lets_in(count, ONE)

    use(nowhere, work)
