"""The intake: writes concurrent commands into the ledger, many in one INSERT.

While one INSERT is on its way, the commands that arrive wait and go with the next: alone, a command is
written at once; under load, hundreds share one commit. An acceptance is returned after the commit
(decision 0019). A commit also confirms what others read before it (decision 0039).
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeVar
from uuid import UUID

import psycopg
import structlog
from psycopg import DataError, IntegrityError

from api.tasks import SingleTask
from shared import metrics
from shared.domain import audit, commands
from shared.postgres import connections, durability, ledger
from shared.postgres.bounded import BoundedSession
from shared.postgres.durability import NotConfirmed
from shared.postgres.ledger import Acceptance, NewCommand, NumberingBehind
from shared.settings import Settings

log = structlog.get_logger(__name__)

_RETRY_PAUSE_SECONDS = 0.05
_CLOSE_SECONDS_MAX = 1
_WATCH_SECONDS = 0.1

_Written = TypeVar("_Written")
_Waiting = tuple[NewCommand, "asyncio.Future[Acceptance]", float]
"""A command, its acceptance, and the time of the event loop by which its request must have an answer."""


class IntakeFull(Exception):  # noqa: N818 - reads as the sentence "raise IntakeFull"
    """As many commands wait to be written, or are pending, as a limit allows; nothing was accepted."""


class LedgerUnavailable(Exception):  # noqa: N818
    """The database cannot be reached or refused the statement; nothing was accepted."""


class AcceptanceUnknown(Exception):  # noqa: N818
    """The database was lost during the commit, or it takes too long: the command may have been accepted."""


class CommandRejected(Exception):  # noqa: N818
    """The database refused this command's data; nothing was accepted."""


class Shares:
    """The commands that wait to be written, by event (pure); no event delays another event.

    `pending` has by event the pending commands as they were last counted, and those that were added since;
    `pending_in_all` is their sum (see `pending_count`).
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.waiting: dict[UUID, deque[_Waiting]] = {}
        self.pending: Counter[UUID] = Counter()
        self.pending_in_all = 0

    def add(self, command: NewCommand, accepted: "asyncio.Future[Acceptance]", by: float = math.inf) -> None:
        """Add a command behind the waiting commands of its event; raises `IntakeFull`."""
        event_id, settings = command.event_id, self._settings
        queue = self.waiting.get(event_id) or deque()
        while queue and queue[0][1].done():
            queue.popleft()  # its request has been given up
        pending = self.pending[event_id]
        overload = self.pending_in_all >= settings.pending_max or pending >= settings.event_pending_max
        # An admin can pause an event in an overload.
        if len(queue) >= settings.intake_waiting_max or (
            overload and command.actor in commands.PUBLIC_ACTORS
        ):
            raise IntakeFull
        queue.append((command, accepted, by))
        if len(queue) == 1:
            self.waiting[event_id] = queue
        self.pending[event_id] = pending + 1
        self.pending_in_all += 1

    def next_batch(self) -> list[_Waiting]:
        """Take an equal share of every event's commands; the event that waits longest comes first.

        Commands of which the request has been given up are left out, so the batch may be empty.
        """
        batch_max = self._settings.intake_batch_max
        share = max(1, batch_max // max(len(self.waiting), 1))
        batch: list[_Waiting] = []
        for event_id in list(self.waiting):
            if len(batch) >= batch_max:
                break
            queue = self.waiting.pop(event_id)
            taken = [queue.popleft() for _ in range(min(share, len(queue)))]
            batch += [waiting for waiting in taken if not waiting[1].done()]
            if queue:
                self.waiting[event_id] = queue  # at the end: the other events come first next time
        return batch


class Intake:
    """Accepts commands; one INSERT is in flight at a time, on a session that no read delays."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._secret_keys = settings.secret_keys
        self.shares = Shares(settings)
        self._writer = SingleTask(self._write_all)
        self._session: BoundedSession | None = None
        self._sent: Sequence[_Waiting] = ()
        self._watch: asyncio.TimerHandle | None = None
        self._confirmation: asyncio.Future[str | None] | None = None
        self._fault: Exception | None = None

    def open(self) -> None:
        """Begin to connect, so that `fault` tells an error before the first command does."""
        self._ask_for_confirmation()

    async def accept(self, command: NewCommand, by: float = math.inf) -> Acceptance:
        """Return once the command is committed; raises one of this module's errors when it is not.

        Soon after the time `by` of the event loop that is `AcceptanceUnknown` if the command is on its way to
        the database, and `LedgerUnavailable` if it still waits to be sent, which it then never is.
        """
        loop = asyncio.get_running_loop()
        accepted: asyncio.Future[Acceptance] = loop.create_future()
        self.shares.add(command, accepted, by)
        self._writer.ensure_running()
        if self._watch is None:
            self._watch = loop.call_later(_WATCH_SECONDS, self._give_up_late_commands)
        return await accepted

    async def confirm(self, to_confirm: Iterable[str | None], by: float = math.inf) -> None:
        """Return once the rows of a read are confirmed, of which these are the `durability.TO_CONFIRM`.

        Raises `NotConfirmed` if they cannot be confirmed, or not by that time of the event loop.
        """
        rows = [row.split("@", 1) for row in to_confirm if row is not None]
        session = self._session
        known = {} if session is None else {session.server: session.confirmed_below}
        if not all(durability.is_below(int(xid), known.get(server, 0)) for xid, server in rows):
            await self.confirm_all({server for _, server in rows}, by)

    async def confirm_all(self, servers: AbstractSet[str], by: float = math.inf) -> None:
        """Return once all that is visible now is confirmed; raises like `confirm`, also for another server.

        All that ask at the same time share one write.
        """
        confirmation = self._ask_for_confirmation()
        try:
            async with asyncio.timeout_at(by):
                server = await asyncio.shield(confirmation)
        except TimeoutError as error:
            raise NotConfirmed from error
        if server is None or not servers <= {server}:
            raise NotConfirmed

    def fault(self) -> Exception | None:
        """Return the error for which there is no session to write commands with, and try again; else None."""
        if self._fault is not None:
            self._ask_for_confirmation()
        return self._fault

    def _ask_for_confirmation(self) -> "asyncio.Future[str | None]":
        if self._confirmation is None:
            self._confirmation = asyncio.get_running_loop().create_future()
        self._writer.ensure_running()
        return self._confirmation

    async def close(self) -> None:
        """Write the commands that wait, for at most `_CLOSE_SECONDS_MAX`, and end the session."""
        await self._writer.finish(_CLOSE_SECONDS_MAX)
        if self._watch is not None:
            self._watch.cancel()
        if self._session is not None:
            await self._session.close()

    def _give_up_late_commands(self) -> None:
        """Answer the requests of which the time is over, and look again as long as commands wait."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        _fail([waiting for waiting in self._sent if waiting[2] <= now], AcceptanceUnknown())
        for queue in self.shares.waiting.values():
            _fail([waiting for waiting in queue if waiting[2] <= now], LedgerUnavailable())
        busy = self._sent or self.shares.waiting
        self._watch = loop.call_later(_WATCH_SECONDS, self._give_up_late_commands) if busy else None

    async def _write_all(self) -> None:
        while self.shares.waiting or self._confirmation is not None:
            confirmation, self._confirmation = self._confirmation, None
            self._sent = batch = self.shares.next_batch()
            confirmed = await self._write(batch) if batch else False
            self._sent = ()
            if confirmation is not None:
                confirmed = confirmed or await self._write_confirmation()
                server = self._session.server if confirmed and self._session is not None else None
                confirmation.set_result(server)

    async def _write_confirmation(self) -> bool:
        """Make a confirmed write without commands; return False if that fails."""
        try:
            await self._commit(BoundedSession.confirm)
        except (AcceptanceUnknown, LedgerUnavailable, NumberingBehind) as error:
            log.warning("not_confirmed", error=error.__cause__ or error)
            return False
        return True

    async def _write(self, batch: Sequence[_Waiting]) -> bool:
        """Write a batch; return True if all of it was committed. A command that is refused fails alone."""
        try:
            new = [command for command, *_ in batch]
            acceptances = await self._commit(lambda session: ledger.accept(session, new, self._secret_keys))
        except (DataError, IntegrityError):
            if len(batch) == 1:
                digest = audit.command_digest(batch[0][0].id)
                log.exception("command_rejected", command_digest=digest)
                _fail(batch, CommandRejected())
                return False
            half = len(batch) // 2
            first = await self._write(batch[:half])
            return await self._write(batch[half:]) and first
        except NumberingBehind as error:
            log.error("numbering_behind", count=len(batch))  # noqa: TRY400 - the error says no more
            _fail(batch, error)
            return False
        except Exception as error:
            log.exception("commands_not_accepted", count=len(batch))
            _fail(batch, error)
            return False
        metrics.accepted.inc(sum(not acceptance.replayed for acceptance in acceptances))
        for (_, accepted, _), acceptance in zip(batch, acceptances, strict=True):
            if not accepted.done():
                accepted.set_result(acceptance)
        return True

    async def _commit(self, write: Callable[[BoundedSession], Awaitable[_Written]]) -> _Written:
        """Return the value of `write`, committed.

        When the connection breaks this tries again for a moment, which accepting by id makes safe. After a
        certain error it does so only if the next attempt may succeed at once.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._settings.ledger_patience_seconds
        perhaps_committed = False
        while True:
            try:
                if self._session is None or self._session.has_ended():
                    self._session = await ledger.open_session(self._settings)
                session, self._fault = self._session, None
            except (NumberingBehind, psycopg.Error, OSError) as error:
                failure: Exception = error
                again = not (isinstance(error, NumberingBehind) or connections.is_read_only(error))
                self._fault = error if again else None  # readiness looks for the others by itself
            else:
                try:
                    return await write(session)
                except (DataError, IntegrityError):
                    raise
                except (psycopg.Error, OSError) as error:
                    failure, certain = error, _is_certain(error)
                    perhaps_committed = perhaps_committed or not certain
                    if connections.must_be_replaced(error):
                        await session.close()
                    again = not certain or session.closed or _is_serialization_failure(error)
            if not again or clock() >= deadline:
                if isinstance(failure, NumberingBehind) and not perhaps_committed:
                    raise failure
                raise (AcceptanceUnknown if perhaps_committed else LedgerUnavailable) from failure
            await asyncio.sleep(_RETRY_PAUSE_SECONDS)


def _is_certain(error: Exception) -> bool:
    """Return True if the server refused the statement, so that nothing was written."""
    return isinstance(error, psycopg.Error) and error.diag.severity_nonlocalized == "ERROR"


def _is_serialization_failure(error: Exception) -> bool:
    return isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith("40")


def _fail(batch: "Sequence[tuple[object, asyncio.Future[Any], float]]", error: Exception) -> None:
    for _, accepted, _ in batch:
        if not accepted.done():
            accepted.set_exception(error)
