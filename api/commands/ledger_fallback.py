"""Reads outcomes from the ledger where the result backend has had none for too long."""

import asyncio
from collections.abc import Mapping
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.commands.outcome_waiter import AwaitedCommand, OutcomeWaiter
from api.tasks import SingleTask
from shared.domain.outcomes import Outcome
from shared.postgres import ledger

log = structlog.get_logger(__name__)


class LedgerFallback:
    """Asks the ledger for outcomes, one read for all commands that are overdue when it begins."""

    def __init__(self, waiter: OutcomeWaiter, engine: AsyncEngine, ledger_read_seconds: float) -> None:
        self._waiter = waiter
        self._engine = engine
        self._again_seconds = ledger_read_seconds
        self._overdue: set[AwaitedCommand] = set()
        self._to_ask_again: set[AwaitedCommand] = set()
        self._reader = SingleTask(self._read_all)

    def ask(self, awaited: AwaitedCommand) -> None:
        """Answer this command from the ledger, now or as soon as it has the outcome."""
        self._overdue.add(awaited)
        self._reader.ensure_running()

    async def close(self) -> None:
        """Stop reading."""
        await self._reader.cancel()

    async def _read_all(self) -> None:
        while self._overdue:
            overdue, self._overdue = self._overdue, set()
            found: Mapping[UUID, Outcome] = {}
            try:
                async with self._engine.connect() as connection:
                    pairs = {(awaited.event_id, awaited.command_id) for awaited in overdue}
                    found = await ledger.outcomes_of(connection, pairs)
            except (SQLAlchemyError, OSError) as error:
                log.warning("ledger_not_readable", error=repr(error))
            except Exception:  # any error: the other requests still wait
                log.exception("ledger_not_readable")
            for awaited in overdue:
                if awaited.command_id in found:
                    self._waiter.answer(awaited, found[awaited.command_id])
                elif awaited.answers and awaited not in self._to_ask_again:
                    self._to_ask_again.add(awaited)
                    asyncio.get_running_loop().call_later(self._again_seconds, self._ask_again, awaited)

    def _ask_again(self, awaited: AwaitedCommand) -> None:
        self._to_ask_again.discard(awaited)
        if awaited.answers:
            self.ask(awaited)
