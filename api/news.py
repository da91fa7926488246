"""Hears from the result backend what outcomes were stored, so that nobody need ask in vain."""

import asyncio
from collections.abc import Callable

import redis
import structlog

from api.ending import end
from shared.messaging import results

log = structlog.get_logger(__name__)

_TRY_AGAIN_SECONDS = 1


class News:
    """What this process hears; some may be missed, even while `listening`."""

    def __init__(self, result_url: str, tell: Callable[[results.Announcement], None]) -> None:
        self.listening = False
        self._result_url = result_url
        self._tell = tell
        self._listener: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen from now on, and whenever the result backend is there."""
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen())

    async def close(self) -> None:
        """Stop listening."""
        await end(self._listener)

    async def _listen(self) -> None:
        while True:
            try:
                async for announced in results.listen(self._result_url):
                    self.listening = True
                    self._tell(announced)
            except redis.RedisError as error:
                log.warning("news_not_readable", error=repr(error))
            except Exception:  # whatever it was, asking still helps
                log.exception("news_not_readable")
            self.listening = False
            await asyncio.sleep(_TRY_AGAIN_SECONDS)
