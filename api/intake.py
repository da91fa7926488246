"""Gathers concurrent commands and writes them into the ledger, many in one INSERT.

While one INSERT is on its way, whatever arrives waits and goes with the next: alone, a command is
written at once; in a crowd, hundreds share one commit. Whoever gets a receipt here has it in writing.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from uuid import UUID

import psycopg
import structlog
from psycopg import DataError, IntegrityError
from psycopg.rows import TupleRow

from api.bell import Bell
from shared.postgres import connections, ledger
from shared.postgres.ledger import Asked, Receipt
from shared.settings import Settings

log = structlog.get_logger(__name__)

_RETRY_PAUSE_SECONDS = 0.05

_Turn = tuple[Asked, "asyncio.Future[Receipt]"]


class IntakeFull(Exception):  # noqa: N818 - reads as the sentence "raise IntakeFull"
    """As many commands of this event wait to be written as the limit allows; nothing was accepted."""


class LedgerUnavailable(Exception):  # noqa: N818
    """The database could not be reached; nothing was accepted."""


class AcceptanceUnknown(Exception):  # noqa: N818
    """The database was lost during the commit: the command may have been accepted, or not."""


class CommandRejected(Exception):  # noqa: N818
    """The database refused this command's data; nothing was accepted."""


class Intake:
    """Accepts commands; one INSERT is in flight at a time."""

    def __init__(self, bell: Bell, settings: Settings) -> None:
        self._bell = bell
        self._settings = settings
        self._batch_max = settings.intake_batch_max
        self._waiting_max = settings.intake_waiting_max
        self._patience_seconds = settings.ledger_patience_seconds
        self._waiting: dict[UUID, deque[_Turn]] = {}
        self._writer: asyncio.Task[None] | None = None
        self._session: psycopg.AsyncConnection[TupleRow] | None = None

    async def accept(self, asked: Asked) -> Receipt:
        """Return once the command is committed; raises one of this module's errors when it is not."""
        queue = self._waiting.setdefault(asked.event_id, deque())
        if len(queue) >= self._waiting_max:
            raise IntakeFull
        written: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        queue.append((asked, written))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all())
        return await written

    async def close(self) -> None:
        """Wait for all that was asked to be written."""
        while self._writer is not None:
            await asyncio.wait([self._writer])
        if self._session is not None:
            await self._session.close()

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                await self._write(self._next_batch())
        finally:
            self._writer = None

    def _next_batch(self) -> list[_Turn]:
        """Take what waits, an equal share from every event, so that no crowd keeps another waiting."""
        share = max(1, self._batch_max // len(self._waiting))
        batch: list[_Turn] = []
        for event_id in list(self._waiting):
            if len(batch) >= self._batch_max:
                break
            queue = self._waiting.pop(event_id)
            batch += [queue.popleft() for _ in range(min(share, len(queue)))]
            if queue:
                self._waiting[event_id] = queue  # at the end: the others come first next time
        return batch

    async def _write(self, batch: Sequence[_Turn]) -> None:
        """Write a batch; a command that the database refuses sinks nobody but itself."""
        try:
            receipts = await self._commit([asked for asked, _ in batch])
        except (DataError, IntegrityError):
            if len(batch) == 1:
                log.exception("command_rejected", command_id=str(batch[0][0].id))
                _fail(batch, CommandRejected())
                return
            half = len(batch) // 2
            await self._write(batch[:half])
            await self._write(batch[half:])
        except Exception as error:
            log.exception("commands_not_accepted", count=len(batch))
            _fail(batch, error)
        else:
            self._hand_out(batch, receipts)

    async def _commit(self, asked: Sequence[Asked]) -> list[Receipt]:
        """Commit; try again for a moment when the connection breaks, which accepting by id makes safe."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._patience_seconds
        perhaps_committed = False
        while True:
            try:
                session = await self._connected()
                perhaps_committed = True
                alone = len(asked) == 1
                if alone:  # its owner may wake up meanwhile
                    self._bell.ring(asked[0].event_id, [asked[0].id], coming=True)
                return await ledger.accept(session, asked, coming=alone)
            except (DataError, IntegrityError):
                raise
            except (psycopg.Error, OSError) as error:
                if clock() < deadline:
                    await asyncio.sleep(_RETRY_PAUSE_SECONDS)
                    continue
                raise (AcceptanceUnknown if perhaps_committed else LedgerUnavailable) from error

    async def _connected(self) -> psycopg.AsyncConnection[TupleRow]:
        """Return a connection that is this intake's alone: nobody who reads keeps a command waiting."""
        if self._session is None or self._session.closed:
            self._session = await connections.accepting_session(self._settings)
        return self._session

    def _hand_out(self, batch: Sequence[_Turn], receipts: Sequence[Receipt]) -> None:
        """Have the owners rung first: they have the most left to do."""
        rung: dict[UUID, list[UUID]] = {}
        for (asked, _), receipt in zip(batch, receipts, strict=True):
            if not receipt.replayed:
                rung.setdefault(asked.event_id, []).append(receipt.command_id)
        for event_id, command_ids in rung.items():
            self._bell.ring(event_id, command_ids)
        for (_, written), receipt in zip(batch, receipts, strict=True):
            if not written.done():
                written.set_result(receipt)


def _fail(batch: Sequence[_Turn], error: Exception) -> None:
    for _, written in batch:
        if not written.done():
            written.set_exception(error)
