"""The result backend: outcomes in Redis, in Celery's own format, so that `AsyncResult(taskId)` reads them.

Written in Redis:

- `celery-task-meta-<task id>`, a JSON text, kept `result_keep_seconds`. The task id is derived from the
  command's id by a one-way digest: the receipt, which is its holder's secret, is nowhere in Redis
  (decision 0017);
- the channel `admitone.settled.<database number>`, on which each batch is announced as a JSON list of event
  ids. Redis has one set of channels for all its databases, so the channel's name carries the number:
  installations that share no keys hear nothing of each other.

Redis only saves time: a missing result is read from the ledger, so Redis may lose all its data at any time.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import UTC, datetime
from uuid import UUID

import redis
import redis.asyncio
import redis.asyncio.retry
import structlog
from msgspec import DecodeError, Struct, json
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared import metrics
from shared.domain import ids
from shared.domain.outcomes import Outcome, SettledCommand

log = structlog.get_logger(__name__)

_KEY_PREFIX = "celery-task-meta-"
_VALUE = b'{"status":"SUCCESS","result":%b,"traceback":null,"children":[],"date_done":"%b","task_id":"%b"}'
# One script for the whole batch: as many SETs would cost the worker more than deciding does.
_SET_ALL = """
for i, key in ipairs(KEYS) do redis.call('SET', key, ARGV[i + 3], 'PX', ARGV[1]) end
redis.call('PUBLISH', ARGV[2], ARGV[3])
"""
_CHANNEL_PREFIX = "admitone.settled."
_SOCKET_SECONDS_MAX = 2
_WRITER_SOCKET_SECONDS_MAX = 0.5
"""The longest that a result backend that hangs holds up the only thread that decides."""
_RETRIES = 1
_RETRIED = (redis.ConnectionError,)
"""A connection that Redis has closed meanwhile is replaced at once; a time-out is not spent twice."""
_PAUSE_SECONDS_MIN = 0.5
_PAUSE_SECONDS_MAX = 5
"""The pause doubles at each slow failure, so that a result backend that hangs delays few batches."""
_QUICK_SECONDS_MAX = 0.05
"""A failure within this time, such as a refusal, delays no batch, and does not make the pause longer."""
_PROBE_MS = 1


class _Stored(Struct):
    """The part of Celery's format that this module reads."""

    result: Outcome


_STORED = json.Decoder(_Stored)
_ANNOUNCEMENT = json.Decoder(list[UUID])


def key(command_id: UUID) -> str:
    """Return the key under which the command's outcome is kept."""
    return f"{_KEY_PREFIX}{ids.task_id(command_id)}"


def channel(client: "redis.Redis | redis.asyncio.Redis") -> str:
    """Return the name of the channel on which outcomes in this client's database are announced."""
    return f"{_CHANNEL_PREFIX}{client.connection_pool.connection_kwargs.get('db') or 0}"


def connect(result_url: str, seconds_max: float = _SOCKET_SECONDS_MAX) -> "redis.Redis":
    """Return a blocking client that waits for `seconds_max` at each step."""
    return redis.Redis.from_url(
        _redis_url(result_url),
        socket_timeout=seconds_max,
        socket_connect_timeout=seconds_max,
        retry=Retry(NoBackoff(), _RETRIES, _RETRIED),
    )


def connect_async(result_url: str) -> "redis.asyncio.Redis":
    """Return an asyncio client, for the API."""
    return redis.asyncio.Redis.from_url(
        _redis_url(result_url),
        socket_timeout=_SOCKET_SECONDS_MAX,
        socket_connect_timeout=_SOCKET_SECONDS_MAX,
        retry=_retry(),
    )


class Publisher:
    """Publishes committed outcomes for the API processes; the ledger has them even if this fails."""

    def __init__(self, result_url: str, keep_seconds: float, clock: Callable[[], float]) -> None:
        self._client = connect(result_url, _WRITER_SOCKET_SECONDS_MAX)
        self._channel = channel(self._client)
        self._keep_ms = int(keep_seconds * 1000)
        self._clock = clock
        self._paused_until = 0.0
        self._pause_seconds: float = _PAUSE_SECONDS_MIN
        self._unpublished: list[SettledCommand] = []

    def add(self, settled: Sequence[SettledCommand], *, confirmed: bool = True) -> None:
        """Count these outcomes, and add them to the next `publish`, if they are `confirmed`."""
        for kind, count in Counter(type(command.outcome) for command in settled).items():
            metrics.settled_by_kind[kind].inc(count)
        if confirmed:
            self._unpublished += settled
        else:
            log.warning("outcomes_not_confirmed", count=len(settled))

    def publish(self) -> None:
        """Store and announce the added outcomes, unless the result backend has just failed; never raises."""
        settled, self._unpublished = self._unpublished, []
        if self._clock() < self._paused_until:
            metrics.results_lost.inc(len(settled))
            return
        if not settled:
            return
        began_at = self._clock()
        try:
            self.write(settled)
        except Exception as error:  # noqa: BLE001 - any error: the outcomes are committed
            failed_at = self._clock()
            if failed_at - began_at < _QUICK_SECONDS_MAX:
                self._pause_seconds = _PAUSE_SECONDS_MIN
            self._paused_until = failed_at + self._pause_seconds
            self._pause_seconds = min(2 * self._pause_seconds, _PAUSE_SECONDS_MAX)
            metrics.results_lost.inc(len(settled))
            log.warning("results_not_stored", count=len(settled), error=str(error))
        else:
            self._pause_seconds = _PAUSE_SECONDS_MIN

    def write(self, settled: Sequence[SettledCommand]) -> None:
        """Store and announce these outcomes with one command to Redis; raises `redis.RedisError`."""
        done_at = datetime.now(UTC).isoformat().encode()
        task_ids = [ids.task_id(command.command_id) for command in settled]
        values = [
            _VALUE % (json.encode(command.outcome), done_at, id_.encode())
            for command, id_ in zip(settled, task_ids, strict=True)
        ]
        announcement = json.encode(list({command.event_id for command in settled}))
        keys = [_KEY_PREFIX + id_ for id_ in task_ids]
        self._client.eval(_SET_ALL, len(keys), *keys, self._keep_ms, self._channel, announcement, *values)

    def close(self) -> None:
        """Publish the added outcomes, and close the connection to the result backend."""
        self.publish()
        self._client.close()


async def read(client: "redis.asyncio.Redis", command_ids: Iterable[UUID]) -> list[Outcome | None]:
    """Return the outcome of each command, None where there is none; raises `redis.RedisError`."""
    outcomes: list[Outcome | None] = []
    keys = [_KEY_PREFIX + ids.task_id(command_id) for command_id in command_ids]
    for key_, value in zip(keys, await client.mget(keys), strict=True):
        try:
            outcomes.append(None if value is None else _STORED.decode(value).result)
        except (DecodeError, UnicodeDecodeError, RecursionError) as error:
            log.warning("result_unreadable", key=key_, error=str(error))
            outcomes.append(None)
    return outcomes


async def probe(client: "redis.asyncio.Redis") -> None:
    """Do what outcomes need of the result backend, for two commands that do not exist; leaves nothing behind.

    Raises `redis.RedisError` if Redis refuses any of that.
    """
    keys = [key(ids.new_id()) for _ in range(2)]
    name = channel(client)
    await client.eval(_SET_ALL, len(keys), *keys, _PROBE_MS, name, b"[]", *keys)
    await client.mget(keys)
    async with client.pubsub() as subscription:
        await subscription.subscribe(name)
        await subscription.get_message(timeout=_SOCKET_SECONDS_MAX)


async def announcements(result_url: str) -> AsyncIterator[list[UUID]]:
    """Yield the events of each batch that is announced, and an empty list when listening begins.

    Announcements before that, or while the connection is lost, are missed. Raises `redis.RedisError` if
    Redis cannot be reached.
    """
    client = redis.asyncio.Redis.from_url(
        _redis_url(result_url),
        socket_timeout=None,  # a channel without messages is no error
        socket_connect_timeout=_SOCKET_SECONDS_MAX,
        retry=_retry(),
    )
    async with client, client.pubsub() as subscription:
        await subscription.subscribe(channel(client))
        async for message in subscription.listen():
            yield _ANNOUNCEMENT.decode(message["data"]) if message["type"] == "message" else []


def _retry() -> "redis.asyncio.retry.Retry":
    return redis.asyncio.retry.Retry(NoBackoff(), _RETRIES, _RETRIED)


def _redis_url(result_url: str) -> str:
    """Translate Celery's form of a unix socket's URL into redis-py's."""
    scheme, _, address = result_url.partition("://")
    if scheme != "redis+socket":
        return result_url
    return "unix://" + address.replace("virtual_host=", "db=")
