"""The spots that each address asked for at an event, where the event has a bound.

It counts what was asked for and not refused, whether it is cancelled later or not, until `KEEP_SECONDS`
after the address asked last. A request that is sent again under its idempotency key is counted once
(decision 0070).

Written in Redis: the hash `admitone.spots.<event id>.<digest of the address>`, with the spots of each request
under a digest of its key and its spots, or a random name. Without Redis a process goes by what it counted
itself.
"""

import secrets
import time
from uuid import UUID

from api.protection.shared_memory import SharedMemory

KEEP_SECONDS = 86_400

_ADDRESSES_MAX = 20_000
_SPOTS = "admitone.spots."
# Adds a request unless it is there; returns 0 if it would pass the bound, 2 if it was there.
_TAKE = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 2 end
local asked = ARGV[2] + 0
for _, spots in ipairs(redis.call('HVALS', KEYS[1])) do asked = asked + spots end
if asked > ARGV[3] + 0 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
"""


class AddressSpots:
    """The spots that addresses asked for, as this process and Redis know them."""

    def __init__(self, shared: SharedMemory) -> None:
        self._shared = shared
        self._own: dict[str, dict[str, int]] = {}
        self._own_since = time.monotonic()

    def request(self, idempotency_key: bytes | None, spots: int) -> str:
        """Return the name under which a request is counted.

        Requests with one key and different spots are counted apart: each could be the one that counts.
        """
        if idempotency_key is None:
            return secrets.token_hex(16)
        return self._shared.digest(f"{idempotency_key.hex()} {spots}")

    async def take(self, event_id: UUID, client: str, request: str, spots: int, most: int) -> bool | None:
        """Count a request; return True if it was not counted before, None if it would pass the bound."""
        if time.monotonic() > self._own_since + KEEP_SECONDS or len(self._own) >= _ADDRESSES_MAX:
            self._own, self._own_since = {}, time.monotonic()
        key = self._key(event_id, client)
        own = self._own.setdefault(key, {})
        is_new = request not in own
        if is_new and sum(own.values()) + spots > most:
            return None
        own[request] = spots  # before the wait, in which other requests come
        redis = self._shared.client
        found = await self._shared.ask(lambda: redis.eval(_TAKE, 1, key, request, spots, most, KEEP_SECONDS))
        if found == 0:
            own.pop(request, None)
            return None
        return is_new and found != 2  # noqa: PLR2004 - the script's answer

    async def give_back(self, event_id: UUID, client: str, request: str) -> None:
        """Count a request no longer: it was refused."""
        key = self._key(event_id, client)
        self._own.get(key, {}).pop(request, None)
        await self._shared.ask(lambda: self._shared.client.hdel(key, request))

    def _key(self, event_id: UUID, client: str) -> str:
        return f"{_SPOTS}{event_id}.{self._shared.digest(client)}"
