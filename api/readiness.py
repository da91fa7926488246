"""The readiness of the service: one check in flight for all requests, its result kept for a second.

The service is ready if commands would be accepted and decided: that needs the database and a worker. The
broker and the result backend only save time, and a risk to durability stops nothing. A fault there makes the
service `degraded`, and leaves it ready, because a proxy must not take a working service out (decision 0038).
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

import kombu.exceptions
import psycopg
import redis
import redis.asyncio
import structlog
from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.edge.schemas import Readiness
from api.protection.shared_memory import SharedMemory
from api.queries import events
from api.queries.reader import Reader
from shared.messaging import results
from shared.messaging.queues import WakeSender
from shared.postgres import durability, ledger, locks, session_settings

log = structlog.get_logger(__name__)

_FINE = "ok"
_STOPS_NOTHING = {"durability", "broker", "results"}
_KEPT_SECONDS = 1
_DATABASE_SECONDS_MAX = 3
_REDIS_SECONDS_MAX = 0.8
"""Below the second that most probes wait: a Redis that hangs must not look like an API that hangs."""
_REASON_LENGTH_MAX = 200
_NO_CONNECTION_LEFT = "gives no more connections: see CONNECTION LIMIT of the role, and max_connections"
_BY_WORDS = {
    # PostgreSQL's about its own bound of connections, and about those of a role and of a database
    "too many connections": _NO_CONNECTION_LEFT,
    "too many clients": _NO_CONNECTION_LEFT,
    "connection slots are reserved": _NO_CONNECTION_LEFT,
    "unsupported startup parameter": "PgBouncer needs the line ignore_startup_parameters = options",
    "in cluster mode": "is a node of a cluster, which is not supported",
    "certificate verify failed": "has a certificate that is not trusted",
    "does not match host name": "has a certificate for another host",
    "does not support SSL": "offers no TLS",
    "FATAL:  ": "refuses the connection: see the log",  # of PostgreSQL, for any other reason
}
"""The reasons by words of an error; the first that is there counts."""
_OF_AMQP = (kombu.exceptions.ConnectionError, kombu.exceptions.ChannelError)
_OF_A_CLUSTER = (
    redis.exceptions.MovedError,
    redis.exceptions.AskError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.ClusterCrossSlotError,
)
# The rights are those without which no command is accepted. A table that is not there is the schema's fault.
_SESSION = text("""
    SELECT current_setting('transaction_read_only')::boolean AS read_only,
           (SELECT 'permission denied for table ' || name
            FROM unnest(ARRAY['command', 'pending_command', 'idempotency_key']) AS name,
                 unnest(ARRAY['SELECT', 'INSERT']) AS needed
            WHERE has_table_privilege(to_regclass(name), needed) IS FALSE LIMIT 1) AS denied
""")

Checks = dict[str, str]
"""Each part that was checked, with `ok` or the reason why not."""


class _Part:
    """A check of one or more parts; a check that hangs is not begun again before it has ended."""

    def __init__(self, name: str, seconds_max: float, check: Callable[[], Awaitable[Checks | None]]) -> None:
        self._name = name
        self._seconds_max = seconds_max
        self._check = check
        self._task: asyncio.Future[Checks | None] | None = None

    async def checks(self) -> Checks:
        """Return what the check found within its time; never raises."""
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._check())
        await asyncio.wait([self._task], timeout=self._seconds_max)
        if not self._task.done():
            self._task.cancel()
            return {self._name: f"no answer within {self._seconds_max:g} s"}
        if self._task.cancelled():
            return {self._name: "no answer"}
        error = self._task.exception()
        if error is not None:
            log.warning("not_ready", part=self._name, error=error)
            return {self._name: _reason(error)}
        return self._task.result() or {self._name: _FINE}

    def cancel(self) -> None:
        """Give up the check in progress."""
        if self._task is not None:
            self._task.cancel()


class ReadinessCheck:
    """Checks all parts of the service at most once a second, however many ask."""

    def __init__(  # noqa: PLR0913 - one parameter for each part that is checked
        self,
        engine: AsyncEngine,
        owner_silence_seconds_max: float,
        *,
        intake_fault: Callable[[], Exception | None],
        sender: WakeSender,
        client: "redis.asyncio.Redis",
        shared: SharedMemory,
    ) -> None:
        self._reader = Reader(engine)
        self._silence_seconds_max = owner_silence_seconds_max
        self._parts = [
            _Part("database", _DATABASE_SECONDS_MAX, self._database),
            _Part("broker", _REDIS_SECONDS_MAX, sender.probe),
            _Part("results", _REDIS_SECONDS_MAX, self._results),
        ]
        self._client = client
        self._shared = shared
        self._intake_fault = intake_fault
        self._task: asyncio.Task[Readiness] | None = None
        self._checked_at = -float("inf")

    async def readiness(self) -> Readiness:
        """Return the readiness, which is at most a second old."""
        in_time = monotonic() < self._checked_at + _KEPT_SECONDS
        if self._task is None or (self._task.done() and not in_time):
            self._task = asyncio.create_task(self._read())
        return await asyncio.shield(self._task)

    def close(self) -> None:
        """Give up the check in progress."""
        for part in self._parts:
            part.cancel()

    async def _results(self) -> None:
        await results.probe(self._client)
        await self._shared.probe()

    async def _read(self) -> Readiness:
        found = await asyncio.gather(*(part.checks() for part in self._parts))
        self._checked_at = monotonic()
        checks = {name: state for part in found for name, state in part.items()}
        faulty = [name for name, state in checks.items() if state != _FINE]
        return Readiness(
            ready=_STOPS_NOTHING.issuperset(faulty),
            degraded=[name for name in faulty if name in _STOPS_NOTHING],
            checks=checks,
        )

    async def _database(self) -> Checks:
        checks = await self._reader.read(lambda connection: connection.run_sync(self._database_checks))
        if checks["database"] == _FINE and (fault := self._intake_fault()) is not None:
            # The intake has a session of its own: there may be one to read with, and none to write with.
            checks["database"] = _reason(fault)
        return checks

    def _database_checks(self, connection: Connection) -> Checks:
        session = connection.execute(_SESSION).one()
        faults = "; ".join(session_settings.faults(connection))
        database = "read-only" if session.read_only else faults or session.denied or _FINE
        try:
            serves = events.schema_serves(connection)
        except ProgrammingError as error:
            if not isinstance(error.orig, psycopg.errors.UndefinedTable):
                raise
            serves = False
        if not serves:
            return {"database": database, "schema": "run admitone migrate"}
        # One that cannot look at the ledger joins at each tick, and owns nothing or loses it at once.
        ticking = any(
            worker.buckets and worker.spoke_within(self._silence_seconds_max)
            for worker in locks.workers(connection)
        )
        behind = ledger.numbering_is_behind(connection)
        risks = "; ".join(durability.read(connection).warnings)
        return {
            "database": database,
            "schema": _FINE,
            "sequence": "is behind the ledger; run admitone verify --heal" if behind else _FINE,
            "worker": _FINE if ticking else "no worker ticks",
            "durability": risks or _FINE,
        }


def _reason(error: BaseException) -> str:
    """Return the server's own words for a refusal; no address and no message for any other error."""
    if isinstance(error, ProgrammingError):
        return str(error.orig).partition("\n")[0][:_REASON_LENGTH_MAX]
    if isinstance(error.__cause__, redis.AuthenticationError):
        error = error.__cause__
    if isinstance(error, _OF_A_CLUSTER):
        return _BY_WORDS["in cluster mode"]
    if isinstance(error, _OF_AMQP) and error.reply_code:  # else it is the client's own
        return str(error.reply_text)[:_REASON_LENGTH_MAX]
    for words, reason in _BY_WORDS.items():
        if words in str(error):
            return reason
    # Redis itself ends a connection with a status, such as while it loads its data.
    refuses = isinstance(error, redis.ConnectionError) and error.status_code is not None
    if refuses or isinstance(error, redis.ResponseError | redis.AuthenticationError):
        return str(error).partition("\n")[0][:_REASON_LENGTH_MAX]
    if isinstance(error, TimeoutError | redis.TimeoutError):
        return "no answer in time"
    return "cannot be reached"
