"""Finds the principal of a key: in the settings, else in the database, at most a second old."""

import asyncio
import time
from hmac import compare_digest

from api.queries.reader import Reader
from api.tasks import BatchLoader
from shared.domain import access
from shared.domain.access import Principal
from shared.postgres import keys
from shared.settings import Settings

_KEPT_SECONDS = 1
_PRINCIPALS_KEPT_MAX = 10_000
_KEYS_PER_READ_MAX = 500
_READ_SECONDS_MAX = 2


class Keys:
    """The keys that the service accepts.

    A valid key is remembered for `_KEPT_SECONDS`, so a revoked one is refused after that time. Unknown keys
    are not remembered, and those that come at one time share a read. So a flood of them costs one read at a
    time, and pushes no valid key out.
    """

    def __init__(self, settings: Settings, reader: Reader) -> None:
        self._of_settings = [
            (access.digest(key.get_secret_value()), principal)
            for key, principal in ((settings.admin_key, access.ADMIN), (settings.viewer_key, access.VIEWER))
            if key is not None
        ]
        self._kept: dict[bytes, tuple[float, Principal]] = {}
        self._loader: BatchLoader[bytes, Principal | None] = BatchLoader(
            lambda digests: reader.read(lambda connection: keys.principals(connection, digests)),
            _KEYS_PER_READ_MAX,
        )

    async def principal(self, key: str) -> Principal | None:
        """Return the principal of a key, None if the key is unknown, ended or revoked.

        A key of the settings is found without the database. Digests are compared, in constant time or by the
        database, so no time tells how much of a key was right.
        """
        digest = access.digest(key)
        found = [principal for own, principal in self._of_settings if compare_digest(own, digest)]
        if found:
            return found[0]
        if access.KEY.fullmatch(key) is None:
            return None
        asked_at = time.monotonic()
        kept_until, principal = self._kept.get(digest, (asked_at, None))
        if asked_at < kept_until:
            return principal
        async with asyncio.timeout(_READ_SECONDS_MAX):
            principal = await self._loader.load(digest)
        self._kept.pop(digest, None)
        if principal is not None:
            if len(self._kept) >= _PRINCIPALS_KEPT_MAX:
                self._kept.clear()
            self._kept[digest] = (asked_at + _KEPT_SECONDS, principal)
        return principal
