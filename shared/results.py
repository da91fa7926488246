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

from shared import outcomes
from shared.ledger import Settled
from shared.outcomes import Outcome

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


class News(Struct, frozen=True, array_like=True):
    """What is announced of a batch: its events, or its outcomes as `(event_id, command_id, outcome)`."""

    event_ids: list[UUID]
    outcomes: list[tuple[UUID, UUID, Outcome]]


_DECODER = json.Decoder(_Stored)
_NEWS_DECODER = json.Decoder(News)


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


async def listen(result_url: str) -> AsyncIterator[News]:
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
            yield _NEWS_DECODER.decode(message["data"]) if message["type"] == "message" else News([], [])


class Shelf:
    """Where a worker puts outcomes, for whoever asks and whoever listens.

    It goes on while Redis stores them: what Redis says is read before the next are sent.
    """

    def __init__(self, result_url: str, keep_seconds: float) -> None:
        self._connection = connect(result_url).connection_pool.make_connection()
        self._keep_ms = int(keep_seconds * 1000)
        self._sent = False
        self._listeners = 0

    def put(self, settled: Sequence[Settled]) -> None:
        """Store outcomes and announce them, one command for all; raises `redis.RedisError` if Redis is gone.

        That some were lost is found out, and logged, when the next are put there.
        """
        try:
            self.confirm()
        except redis.ConnectionError as error:  # it is new perhaps, and takes these
            log.warning("results_lost", error=str(error))
        done_at = datetime.now(UTC).isoformat().encode()
        keys, values = [], []
        for one in settled:
            task_id = str(one.command_id).encode()
            keys.append(_KEY_PREFIX + task_id)
            values.append(_VALUE % (outcomes.encode(one.outcome), done_at, task_id))
        if len(settled) * max(self._listeners, 1) <= _TOLD_MAX:
            news = News([], [(one.event_id, one.command_id, one.outcome) for one in settled])
        else:
            news = News(list({one.event_id for one in settled}), [])
        self._send("EVAL", _SET_ALL, len(keys), *keys, *values, self._keep_ms, _STORED, json.encode(news))
        self._sent = True

    def confirm(self) -> None:
        """Return when what was put there is there; raises `redis.RedisError` when it is not."""
        if self._sent:
            self._sent = False
            self._listeners = int(self._connection.read_response())

    def _send(self, *command: str | bytes | int) -> None:
        self._forget_if_cut_off()
        for again in (True, False):
            try:
                self._connection.send_command(*command)  # type: ignore[no-untyped-call]
            except redis.ConnectionError:  # cut off since the last, perhaps; then it connects anew
                if not again:
                    raise
            else:
                return

    def _forget_if_cut_off(self) -> None:
        """Connect anew where the other side has closed: what is sent there is lost without an error."""
        try:
            if self._connection.is_connected and self._connection.can_read(0):
                self.close()
        except redis.ConnectionError:
            self.close()

    def close(self) -> None:
        """Let go of Redis."""
        self._connection.disconnect()  # type: ignore[no-untyped-call]


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
