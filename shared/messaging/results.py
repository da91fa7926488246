"""The result backend: outcomes in Redis, in Celery's own format, so that `AsyncResult` reads them.

Keys written: `celery-task-meta-<command id>`, a JSON text, kept `result_keep_seconds`. Each batch is also
announced on the channel `admitone.stored`. Redis is only fast: what is missing here is in the ledger, and
everything here may vanish at any time.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from uuid import UUID

import redis
import redis.asyncio
import structlog
from msgspec import DecodeError, Struct, json
from redis.connection import Connection

from shared.domain import outcomes
from shared.domain.outcomes import Outcome
from shared.postgres.ledger import Settled

log = structlog.get_logger(__name__)

_KEY_PREFIX = b"celery-task-meta-"
_VALUE = b'{"status":"SUCCESS","result":%b,"traceback":null,"children":[],"date_done":"%b","task_id":"%b"}'
# One command for the whole batch: as many SETs would cost the worker more than deciding does.
_SET_ALL = """
for i, key in ipairs(KEYS) do redis.call('SET', key, ARGV[i], 'PX', ARGV[#KEYS + 1]) end
return redis.call('PUBLISH', ARGV[#KEYS + 2], ARGV[#KEYS + 3])
"""
_STORED = b"admitone.stored"
_TOLD_MAX = 16
"""So many outcomes, for all listeners together, travel with the news, which saves who waits alone a round
trip. Of more each listener fetches what it waits for, in steps that leave it time for others' requests."""
_SOCKET_SECONDS_MAX = 2


class _Stored(Struct):
    """What Celery keeps under a result's key, of which only the result matters here."""

    result: Outcome


class Announcement(Struct, frozen=True, array_like=True):
    """What is announced of a batch: its events, or its outcomes as `(event_id, command_id, outcome)`."""

    event_ids: list[UUID]
    outcomes: list[tuple[UUID, UUID, Outcome]]


_DECODER = json.Decoder(_Stored)
_ANNOUNCEMENT_DECODER = json.Decoder(Announcement)


def connect(result_url: str) -> "redis.Redis":
    """Return a blocking client, for the worker."""
    return redis.Redis.from_url(
        _redis_url(result_url),
        socket_timeout=_SOCKET_SECONDS_MAX,
        socket_connect_timeout=_SOCKET_SECONDS_MAX,
    )


def connect_async(result_url: str) -> "redis.asyncio.Redis":
    """Return an asyncio client, for the API."""
    return redis.asyncio.Redis.from_url(
        _redis_url(result_url),
        socket_timeout=_SOCKET_SECONDS_MAX,
        socket_connect_timeout=_SOCKET_SECONDS_MAX,
    )


async def listen(result_url: str) -> AsyncIterator[Announcement]:
    """Yield what is announced, and nothing new at first, when the listening begins.

    Whoever listens later, or is cut off, misses some. Raises `redis.RedisError` when Redis is gone.
    """
    client = redis.asyncio.Redis.from_url(
        _redis_url(result_url),
        socket_timeout=None,  # silence is no trouble here
        socket_connect_timeout=_SOCKET_SECONDS_MAX,
    )
    async with client, client.pubsub() as subscription:
        await subscription.subscribe(_STORED)
        async for message in subscription.listen():
            is_news = message["type"] == "message"
            yield _ANNOUNCEMENT_DECODER.decode(message["data"]) if is_news else Announcement([], [])


class Shelf:
    """Where a worker puts outcomes, for whoever asks and whoever listens.

    It goes on while Redis stores them: what Redis says is read before the next are sent.
    """

    def __init__(self, result_url: str, keep_seconds: float) -> None:
        self._pool = connect(result_url).connection_pool
        self._asked: Connection | None = None
        self._keep_ms = int(keep_seconds * 1000)
        self._listeners = 0

    def put(self, settled: Sequence[Settled]) -> None:
        """Store outcomes and announce them, one command for all; raises `redis.RedisError` if Redis is gone.

        That some were lost is found out, and logged, when the next are put there.
        """
        try:
            self.confirm()
        except redis.ConnectionError as error:  # cut off: a new connection takes these
            log.warning("results_lost", error=str(error))
        done_at = datetime.now(UTC).isoformat().encode()
        keys, values = [], []
        for one in settled:
            task_id = str(one.command_id).encode()
            keys.append(_KEY_PREFIX + task_id)
            values.append(_VALUE % (outcomes.encode(one.outcome), done_at, task_id))
        if len(settled) * max(self._listeners, 1) <= _TOLD_MAX:
            announced = Announcement([], [(one.event_id, one.command_id, one.outcome) for one in settled])
        else:
            announced = Announcement(list({one.event_id for one in settled}), [])
        self._asked = self._pool.get_connection()  # a live one: the pool sees where Redis has closed it
        self._asked.send_command(  # type: ignore[no-untyped-call]
            "EVAL", _SET_ALL, len(keys), *keys, *values, self._keep_ms, _STORED, json.encode(announced)
        )

    def confirm(self) -> None:
        """Return when what was put there is there; raises `redis.RedisError` when it is not."""
        connection, self._asked = self._asked, None
        if connection is not None:
            try:
                self._listeners = int(connection.read_response())
            finally:
                self._pool.release(connection)

    def close(self) -> None:
        """Let go of Redis."""
        self._pool.disconnect()


def key(command_id: UUID) -> bytes:
    """Return the key under which the command's outcome is kept."""
    return _KEY_PREFIX + str(command_id).encode()


async def fetch(client: "redis.asyncio.Redis", keys: Sequence[bytes]) -> list[Outcome | None]:
    """Return the outcome under each key, None where there is none, in one read.

    Raises `redis.RedisError` when Redis is gone.
    """
    values = await client.mget(keys)
    return [None if value is None else _read(key, value) for key, value in zip(keys, values, strict=True)]


def _read(key: bytes, value: bytes | str) -> Outcome | None:
    try:
        return _DECODER.decode(value).result
    except DecodeError as error:
        log.warning("result_unreadable", key=key.decode(), error=str(error))
        return None


def _redis_url(result_url: str) -> str:
    """Translate Celery's form of a unix socket's URL into redis-py's."""
    scheme, _, rest = result_url.partition("://")
    if scheme != "redis+socket":
        return result_url
    return "unix://" + rest.replace("virtual_host=", "db=")
