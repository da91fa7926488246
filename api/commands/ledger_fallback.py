"""Reads outcomes from the ledger for commands whose result is overdue, and has them confirmed."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.commands.intake import Intake
from api.commands.outcome_waiter import AwaitedCommand, OutcomeWaiter
from api.tasks import SingleTask
from shared import metrics
from shared.postgres import ledger
from shared.postgres.durability import NotConfirmed

log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.05
_PAUSE_SECONDS_MAX = 1.0
_READ_MAX = 500
_READING_SHARE = 0.05
"""The part of the time that reading may take, up to the longest pause: a crowd that waits is no burden."""


class LedgerFallback:
    """Asks the ledger for overdue commands, one read for many, for as long as requests wait for them.

    Calls `outcomes_seen` with the settled, as the result poller does.
    """

    def __init__(
        self,
        waiter: OutcomeWaiter,
        engine: AsyncEngine,
        intake: Intake,
        ledger_read_seconds: float,
        outcomes_seen: Callable[[UUID, Collection[UUID]], None],
    ) -> None:
        self._waiter = waiter
        self._intake = intake
        self._outcomes_seen = outcomes_seen
        self._engine = engine
        self._again_seconds = ledger_read_seconds
        self._due_at: dict[AwaitedCommand, float] = {}
        self._reader = SingleTask(self._read_all)

    def ask(self, awaited: AwaitedCommand) -> None:
        """Answer this command from the ledger, now or as soon as the ledger has the outcome."""
        self._due_at.setdefault(awaited, 0)
        self._reader.ensure_running()

    async def close(self) -> None:
        """Stop reading."""
        await self._reader.cancel()

    async def _read_all(self) -> None:
        clock = asyncio.get_running_loop().time
        while self._due_at:
            began = clock()
            overdue = (awaited for awaited, due_at in self._due_at.items() if due_at <= began)
            due = list(islice(overdue, _READ_MAX))
            if due:
                await self._read(due)
            for awaited in due:
                del self._due_at[awaited]  # to the end: the others come first next time
                if any(not answer.done() for answer in awaited.answers):
                    self._due_at[awaited] = clock() + self._again_seconds
            pause_seconds = (clock() - began) / _READING_SHARE
            await asyncio.sleep(min(max(pause_seconds, _POLL_SECONDS), _PAUSE_SECONDS_MAX))

    async def _read(self, due: Sequence[AwaitedCommand]) -> None:
        metrics.ledger_reads.inc()
        try:
            async with self._engine.connect() as connection:
                recorded = await ledger.outcomes_of(connection, [(a.event_id, a.command_id) for a in due])
            await self._intake.confirm(outcome.to_confirm for outcome in recorded.values())
        except (SQLAlchemyError, OSError, NotConfirmed) as error:
            log.warning("ledger_not_readable", error=error)
        except Exception:  # any error: the other requests still wait
            log.exception("ledger_not_readable")
        else:
            now = asyncio.get_running_loop().time()
            for awaited in due:
                if awaited.command_id in recorded:
                    self._waiter.answer(awaited, recorded[awaited.command_id].outcome)
                    self._outcomes_seen(awaited.event_id, [awaited.command_id])
                    if awaited.accepted_at is not None:
                        metrics.answer_seconds.observe(now - awaited.accepted_at)
