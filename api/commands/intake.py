"""The intake: writes concurrent commands into the ledger, many in one INSERT.

While one INSERT is on its way, the commands that arrive wait and go with the next: alone, a command is
written at once; under load, hundreds share one commit. An acceptance is returned after the commit
(decision 0019).
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from uuid import UUID

import psycopg
import structlog
from psycopg import DataError, IntegrityError
from psycopg.rows import TupleRow

from api.tasks import SingleTask
from shared import metrics
from shared.postgres import ledger
from shared.postgres.ledger import Acceptance, NewCommand, NumberingBehind
from shared.settings import Settings

log = structlog.get_logger(__name__)

_RETRY_PAUSE_SECONDS = 0.05

_Waiting = tuple[NewCommand, "asyncio.Future[Acceptance]"]


class IntakeFull(Exception):  # noqa: N818 - reads as the sentence "raise IntakeFull"
    """As many commands of this event wait to be written as the limit allows; nothing was accepted."""


class LedgerUnavailable(Exception):  # noqa: N818
    """The database could not be reached; nothing was accepted."""


class AcceptanceUnknown(Exception):  # noqa: N818
    """The database was lost during the commit: the command may have been accepted, or not."""


class CommandRejected(Exception):  # noqa: N818
    """The database refused this command's data; nothing was accepted."""


class Shares:
    """The commands that wait to be written, by event (pure); no event delays another event."""

    def __init__(self, batch_max: int, waiting_max: int) -> None:
        self._batch_max = batch_max
        self._waiting_max = waiting_max
        self.waiting: dict[UUID, deque[_Waiting]] = {}

    def add(self, command: NewCommand, accepted: "asyncio.Future[Acceptance]") -> None:
        """Add a command behind the waiting commands of its event; raises `IntakeFull`."""
        queue = self.waiting.setdefault(command.event_id, deque())
        if len(queue) >= self._waiting_max:
            raise IntakeFull
        queue.append((command, accepted))

    def next_batch(self) -> list[_Waiting]:
        """Take an equal share of every event's commands; the event that waits longest comes first."""
        share = max(1, self._batch_max // len(self.waiting))
        batch: list[_Waiting] = []
        for event_id in list(self.waiting):
            if len(batch) >= self._batch_max:
                break
            queue = self.waiting.pop(event_id)
            batch += [queue.popleft() for _ in range(min(share, len(queue)))]
            if queue:
                self.waiting[event_id] = queue  # at the end: the other events come first next time
        return batch


class Intake:
    """Accepts commands; one INSERT is in flight at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._shares = Shares(settings.intake_batch_max, settings.intake_waiting_max)
        self._writer = SingleTask(self._write_all)
        self._session: psycopg.AsyncConnection[TupleRow] | None = None

    async def accept(self, command: NewCommand) -> Acceptance:
        """Return once the command is committed; raises one of this module's errors when it is not."""
        accepted: asyncio.Future[Acceptance] = asyncio.get_running_loop().create_future()
        self._shares.add(command, accepted)
        self._writer.ensure_running()
        return await accepted

    async def close(self) -> None:
        """Return when all commands that wait are written."""
        await self._writer.finish()
        if self._session is not None:
            await self._session.close()

    async def _write_all(self) -> None:
        while self._shares.waiting:
            await self._write(self._shares.next_batch())

    async def _write(self, batch: Sequence[_Waiting]) -> None:
        """Write a batch; a command that the database refuses fails alone."""
        try:
            acceptances = await self._commit([command for command, _ in batch])
        except (DataError, IntegrityError):
            if len(batch) == 1:
                log.exception("command_rejected", command_id=str(batch[0][0].id))
                _fail(batch, CommandRejected())
                return
            half = len(batch) // 2
            await self._write(batch[:half])
            await self._write(batch[half:])
        except NumberingBehind as error:
            log.error("numbering_behind", count=len(batch))  # noqa: TRY400 - the error says no more
            _fail(batch, error)
        except Exception as error:
            log.exception("commands_not_accepted", count=len(batch))
            _fail(batch, error)
        else:
            metrics.accepted.inc(sum(not acceptance.replayed for acceptance in acceptances))
            for (_, accepted), acceptance in zip(batch, acceptances, strict=True):
                if not accepted.done():
                    accepted.set_result(acceptance)

    async def _commit(self, new: Sequence[NewCommand]) -> list[Acceptance]:
        """Commit; try again for a moment when the connection breaks, which accepting by id makes safe."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._settings.ledger_patience_seconds
        perhaps_committed = False
        while True:
            try:
                # A connection of the intake's own: no read delays a command.
                if self._session is None or self._session.closed:
                    self._session = await ledger.open_session(self._settings)
                perhaps_committed = True
                return await ledger.accept(self._session, new)
            except (DataError, IntegrityError):
                raise
            except (psycopg.Error, OSError) as error:
                if clock() < deadline:
                    await asyncio.sleep(_RETRY_PAUSE_SECONDS)
                    continue
                raise (AcceptanceUnknown if perhaps_committed else LedgerUnavailable) from error


def _fail(batch: Sequence[_Waiting], error: Exception) -> None:
    for _, accepted in batch:
        if not accepted.done():
            accepted.set_exception(error)
