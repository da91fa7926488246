"""The memory of clients that all API processes share, in Redis; without Redis each remembers alone.

Written in Redis, with a time to live and by digests under the secret key (`docs/privacy.md`):

- `LIMITS:LIMITER/…`: the requests of a client in a window, by the library `limits`;
- `admitone.spots.<event id>.<digest>`: the spots that an address asked for at an event, by request;
- `admitone.solved.<nonce>`: the request that a challenge was solved for.

No request waits long for Redis: an answer that does not come within a second counts as none, and for two
seconds after a failure Redis is not asked.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from functools import cached_property
from time import monotonic
from typing import TypeVar

import redis
import redis.asyncio
import structlog
from limits.aio.storage import RedisStorage

log = structlog.get_logger(__name__)

_ANSWER_SECONDS_MAX = 1.0
_PAUSE_SECONDS = 2.0
_DIGEST_DIGITS = 32
_PROBE_SECONDS = 1
_PROBE = """
redis.call('HEXISTS', KEYS[1], 'probe')
redis.call('HSET', KEYS[1], 'probe', 1)
redis.call('HVALS', KEYS[1])
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], 1, 'EX', ARGV[1])
redis.call('GET', KEYS[2])
"""

_Answer = TypeVar("_Answer")


class SharedMemory:
    """Asks Redis, unless it failed a moment ago; it `is_away` from a failure to the next answer."""

    def __init__(self, client: "redis.asyncio.Redis", secret_key: bytes) -> None:
        self.client = client
        self._secret_key = secret_key
        self.is_away = False
        self._asks_from = 0.0

    @cached_property
    def storage(self) -> RedisStorage:
        """The counts of requests, on the connections of `client`."""
        return RedisStorage(
            "async+redis://",
            implementation="redispy",
            connection_pool=self.client.connection_pool,  # type: ignore[arg-type]  # as its documentation has it
        )

    async def probe(self) -> None:
        """Do what the counts need of Redis, for a client that does not exist; raises `redis.RedisError`."""
        await self.storage.incr("LIMITER/probe", _PROBE_SECONDS)
        keys = ("admitone.spots.probe", "admitone.solved.probe")
        await self.client.eval(_PROBE, len(keys), *keys, _PROBE_SECONDS)
        await self.client.hdel(keys[0], "probe")

    def digest(self, text: str) -> str:
        """Return the digest under which Redis knows a client."""
        return hmac.digest(self._secret_key, text.encode(), "sha256").hex()[:_DIGEST_DIGITS]

    async def ask(self, question: Callable[[], Awaitable[_Answer]]) -> _Answer | None:
        """Return the answer, None if Redis gives none in time."""
        if self.is_away and monotonic() < self._asks_from:
            return None
        try:
            async with asyncio.timeout(_ANSWER_SECONDS_MAX):
                answer = await question()
        except (redis.RedisError, OSError) as error:  # a time-out is an OSError
            self.is_away, self._asks_from = True, monotonic() + _PAUSE_SECONDS
            log.warning("clients_not_shared", error=error)
            return None
        self.is_away = False
        return answer
