"""Commands of the operator: written into the ledger like a client's, and decided by the events' owners."""

import asyncio
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
import psycopg
from psycopg.errors import InsufficientPrivilege

from shared.domain import commands, ids
from shared.domain.commands import Command, UnreadableCommand
from shared.domain.outcomes import Outcome
from shared.errors import ExpectedError
from shared.messaging import queues
from shared.postgres import connections, ledger, locks
from shared.postgres.ledger import NewCommand, RecordedOutcome
from shared.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

DECIDE_SECONDS_MAX = 30
_POLL_SECONDS = 0.1


class DecisionError(ExpectedError):
    """The commands cannot be written, or are not decided or confirmed in time; the message says why.

    A right that the database role lacks is no such error: `InsufficientPrivilege` is raised as it is.
    """


def decide(settings: Settings, asked: Sequence[tuple[UUID, Command]], actor: str) -> list[Outcome]:
    """Have commands decided, each at the event of this id; return their outcomes in this order, confirmed.

    Raises `DecisionError`, also if no worker runs, or one that does not know the commands.
    """
    return asyncio.run(_decide(settings, asked, actor))


def confirm(settings: Settings, servers: AbstractSet[str]) -> None:
    """Return once all that was visible is confirmed (decision 0039); `servers` are the `durability.SERVER`s.

    Raises `DecisionError`, also for more than one server.
    """
    asyncio.run(_confirm(settings, servers))


async def _confirm(settings: Settings, servers: AbstractSet[str]) -> None:
    try:
        async with asyncio.timeout(DECIDE_SECONDS_MAX), await ledger.open_session(settings) as session:
            if servers <= {session.server}:
                await session.confirm()
                return
            reason = "another server has taken over meanwhile"
    except TimeoutError:
        reason = f"it has no answer for {DECIDE_SECONDS_MAX} s"
    except InsufficientPrivilege:
        raise
    except psycopg.Error as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
    raise DecisionError(f"what was done may not be on the synchronous standby: {reason}; run it again")


async def _decide(settings: Settings, asked: Sequence[tuple[UUID, Command]], actor: str) -> list[Outcome]:
    engine = connections.async_engine(settings)
    try:
        await _check_workers(engine, max(commands.version_of(command) for _, command in asked))
        new = [_new_command(event_id, command, actor) for event_id, command in asked]
        try:
            async with asyncio.timeout(DECIDE_SECONDS_MAX), await ledger.open_session(settings) as session:
                await ledger.accept(session, new)
        except InsufficientPrivilege:
            raise
        except (psycopg.Error, TimeoutError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise DecisionError(f"the ledger does not take the commands: {reason}") from error
        celery = queues.celery_app(settings)
        for event_id in {command.event_id for command in new}:
            with suppress(Exception):  # without the broker the owner's tick finds the command
                queues.wake(celery, queues.EVENT_QUEUE % event_id, [event_id])
        recorded = await _outcomes(engine, new)
    finally:
        await engine.dispose()

    to_confirm = [one.to_confirm for one in recorded if one.to_confirm is not None]
    if to_confirm:
        await _confirm(settings, {row.partition("@")[2] for row in to_confirm})
    return [one.outcome for one in recorded]


async def _check_workers(engine: "AsyncEngine", version: int) -> None:
    async with engine.connect() as connection:
        if not await connection.run_sync(locks.workers):
            raise DecisionError("no worker is running to decide the command: start a worker")
        if await locks.version_known_by_all(connection) < version:
            raise DecisionError(
                "a worker of an older version runs that does not know the command: replace it"
            )


def _new_command(event_id: UUID, command: Command, actor: str) -> NewCommand:
    kind, payload = commands.KINDS[type(command)], msgspec.json.encode(command)
    try:
        commands.decode(kind, payload)
    except UnreadableCommand as error:
        raise DecisionError(str(error)) from error
    return NewCommand(
        event_id=event_id,
        id=ids.new_id(),
        kind=kind,
        payload=payload,
        actor=actor,
        version=commands.version_of(command),
    )


async def _outcomes(engine: "AsyncEngine", new: Sequence[NewCommand]) -> list[RecordedOutcome]:
    deadline = time.monotonic() + DECIDE_SECONDS_MAX
    while time.monotonic() < deadline:
        async with engine.connect() as connection:
            recorded = await ledger.outcomes_of(connection, [(c.event_id, c.id) for c in new])
        if len(recorded) == len(new):
            return [recorded[command.id] for command in new]
        await asyncio.sleep(_POLL_SECONDS)
    raise DecisionError(
        f"the commands were not decided within {DECIDE_SECONDS_MAX} s; they stay in the ledger"
    )
