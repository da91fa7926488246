"""Streamed answers: a client that stops reading is cut off, so that it holds nothing for longer than that."""

import asyncio
from collections.abc import AsyncGenerator, Mapping

import structlog
from fastapi import Depends
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.edge.problems import ProblemType

log = structlog.get_logger(__name__)


async def _takes_chunks(request: Request) -> None:
    """Refuse a request by HTTP/1.0: an answer that ends with its connection would look whole if cut off."""
    if request.scope["http_version"] == "1.0":
        raise ProblemType.HTTP_VERSION_NOT_SUPPORTED.error()


takes_chunks = Depends(_takes_chunks)


class Download(StreamingResponse):
    """Streams an answer, and cuts off a client that does not read.

    `chunks` are the first one and a generator of the others. A client may take no chunk for
    `stall_seconds_max`, and `seconds_max` for the whole answer. The generator is closed then, and also when
    the client disconnects. An answer that was cut off has no last chunk, so a client can tell it from a whole
    one.
    """

    def __init__(
        self,
        chunks: tuple[bytes, AsyncGenerator[bytes, None]],
        *,
        media_type: str,
        headers: Mapping[str, str],
        stall_seconds_max: float,
        seconds_max: float,
    ) -> None:
        self._first, self._others = chunks
        super().__init__(self._others, media_type=media_type, headers=headers)
        self._stall_seconds_max = stall_seconds_max
        self._seconds_max = seconds_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Stream until the end, or until the client disconnects.

        Starlette's own method cancels the generator at each of its awaits, so that the generator could not
        close its connection. Here it is cancelled once.
        """
        streaming = asyncio.create_task(self.stream_response(send))
        leaving = asyncio.create_task(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait([streaming, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (streaming, leaving):
                task.cancel()
            await asyncio.wait([streaming, leaving])
            await self._others.aclose()
        if not streaming.cancelled():
            streaming.result()

    async def stream_response(self, send: Send) -> None:
        """Send the answer."""
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        try:
            async with asyncio.timeout(self._seconds_max):
                await send(start)
                chunk: bytes | None = self._first
                while chunk is not None:
                    async with asyncio.timeout(self._stall_seconds_max):
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    chunk = await anext(self._others, None)
        except TimeoutError:
            log.warning("download_cut_off", stall_seconds_max=self._stall_seconds_max)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})
