"""Reads outcomes from the ledger where the result backend has had none for too long."""

import asyncio
from collections.abc import Sequence

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.commands.outcome_waiter import AwaitedCommand, OutcomeWaiter
from api.tasks import SingleTask
from shared.postgres import ledger

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.05


class LedgerFallback:
    """Asks the ledger for each awaited command at its `ledger_at`, one read for all that are due."""

    def __init__(self, waiter: OutcomeWaiter, engine: AsyncEngine, ledger_read_seconds: float) -> None:
        self._waiter = waiter
        self._engine = engine
        self._ledger_read_seconds = ledger_read_seconds
        self._reader = SingleTask(self._read_all)

    def start(self) -> None:
        """Look for overdue commands for as long as a request waits."""
        self._reader.ensure_running()

    async def close(self) -> None:
        """Stop reading."""
        await self._reader.cancel()

    async def _read_all(self) -> None:
        clock = asyncio.get_running_loop().time
        while self._waiter:
            await asyncio.sleep(_LOOK_SECONDS)
            due = [awaited for awaited in self._waiter if awaited.ledger_at <= clock()]
            if due:
                await self._read(due)
                for awaited in due:
                    awaited.ledger_at = clock() + self._ledger_read_seconds

    async def _read(self, due: Sequence[AwaitedCommand]) -> None:
        try:
            async with self._engine.connect() as connection:
                found = await ledger.outcomes_of(connection, [(a.event_id, a.command_id) for a in due])
        except (SQLAlchemyError, OSError) as error:
            log.warning("ledger_not_readable", error=repr(error))
        except Exception:  # the other requests still wait, whatever the error is
            log.exception("ledger_not_readable")
        else:
            for awaited in due:
                if awaited.command_id in found:
                    self._waiter.answer(awaited, found[awaited.command_id])
