"""An HTTP client with little overhead, so that many can share a machine with the service they load.

`Connection` speaks HTTP/1.1 with keep-alive, one request at a time. `insist` repeats a request that is safe
to repeat.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from socket import IPPROTO_TCP, TCP_NODELAY
from time import perf_counter
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec
from httptools import HttpParserError, HttpResponseParser

REQUEST_SECONDS_MAX = 15.0
RETRY_SECONDS_MIN = 0.05
RETRY_SECONDS_MAX = 2.0

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_TRY_AGAIN = frozenset({429, 502, 503, 504})


class ConnectionLost(Exception):  # noqa: N818 - reads as the sentence "raise ConnectionLost"
    """The answer did not come: whether the request had an effect is unknown. The message says why."""


class GaveUp(Exception):  # noqa: N818 - reads as the sentence "raise GaveUp"
    """No usable answer came in time; the message is the last reason."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete HTTP answer; header names are in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    def json(self) -> Any:  # noqa: ANN401 - the server may send any JSON
        """Return the decoded body; raises `msgspec.DecodeError` if it is not JSON."""
        return msgspec.json.decode(self.body)


class Connection:
    """A keep-alive connection to one origin, opened by the first request and again after each loss.

    Holds one request at a time. A request that fails is not repeated here: only the caller knows
    whether that is safe. `retries` counts what `insist` repeated.
    """

    def __init__(self, url: str, *, request_seconds_max: float = REQUEST_SECONDS_MAX) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path not in {"", "/"}:
            raise ValueError(f"{url!r} is not the address of a service, such as http://127.0.0.1:9000")
        self._tls = _tls_context() if parts.scheme == "https" else None
        self._address = parts.hostname, parts.port or (443 if self._tls else 80)
        self._host_line = f" HTTP/1.1\r\nhost: {parts.netloc.rpartition('@')[2]}\r\n"
        self._request_seconds_max = request_seconds_max
        self._wire: _Wire | None = None
        self.retries = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._wire is not None:
            self._wire.abandon("the client closed the connection")

    async def request(
        self, method: str, path: str, headers: Mapping[str, str] = _NO_HEADERS, body: bytes = b""
    ) -> Answer:
        """Send one request and return its answer; raises `ConnectionLost`."""
        wire = self._wire
        if wire is None or wire.closed or wire.transport.is_closing():
            wire = self._wire = await self._connect()
        fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"{method} {path}{self._host_line}{fields}content-length: {len(body)}\r\n\r\n"
        answer = wire.exchange(head.encode("latin-1") + body)
        late = f"no answer within {self._request_seconds_max:g} s"
        timer = wire.loop.call_later(self._request_seconds_max, wire.abandon, late)
        try:
            return await answer
        finally:
            timer.cancel()
            if answer.cancelled():  # a late answer must not become the next request's
                wire.abandon("the request was cancelled")

    async def _connect(self) -> "_Wire":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._request_seconds_max):
                _, wire = await loop.create_connection(lambda: _Wire(loop), *self._address, ssl=self._tls)
        except OSError as error:  # refused, unknown host, TLS, time-out
            raise ConnectionLost(str(error) or "no connection in time") from error
        return wire


class _Wire(asyncio.Protocol):
    """One TCP connection and the answer that is being read from it."""

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.closed = False
        self._parser = HttpResponseParser(self)
        self._answer: asyncio.Future[Answer] | None = None
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []

    def exchange(self, request: bytes) -> asyncio.Future[Answer]:
        if self._answer is not None:
            raise RuntimeError("a connection holds one request at a time")
        self._answer = self.loop.create_future()
        self.transport.write(request)
        return self._answer

    def abandon(self, reason: str) -> None:
        self.closed = True
        self.transport.abort()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionLost(reason))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # create_connection makes transports
        transport.get_extra_info("socket").setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            self.abandon(f"the answer is not HTTP: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self.abandon(f"the connection broke: {error}" if error else "the server closed the connection")

    def on_message_begin(self) -> None:
        self._headers, self._body = {}, []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status, answer = self._parser.get_status_code(), self._answer
        if status < 200:  # noqa: PLR2004 - interim answers end here; the real one follows
            return
        if answer is None or not self._parser.should_keep_alive():
            self.closed = True  # an answer without a request, or the server closes the connection
            self.transport.close()
        if answer is not None and not answer.done():
            answer.set_result(Answer(status, self._headers, b"".join(self._body)))
        self._answer = None


@cache
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context()


async def insist(  # noqa: PLR0913 - one request has that many parts
    connection: Connection,
    method: str,
    path: str,
    headers: Mapping[str, str] = _NO_HEADERS,
    body: bytes = b"",
    *,
    until: Callable[[], float],
) -> Answer:
    """Repeat a request that is safe to repeat, until its answer is not a "try again later".

    Honours ``Retry-After`` up to `RETRY_SECONDS_MAX`. `until` returns the time on `perf_counter`'s clock at
    which this gives up and raises `GaveUp`.
    """
    reason, pause = "there was no time left", RETRY_SECONDS_MIN
    while perf_counter() < until():
        try:
            answer = await connection.request(method, path, headers, body)
        except ConnectionLost as lost:
            reason = str(lost)
        else:
            if answer.status not in _TRY_AGAIN:
                return answer
            reason = f"HTTP {answer.status}"
            pause = _retry_after(answer, pause)
        connection.retries += 1
        await asyncio.sleep(pause)
        pause = min(2 * pause, RETRY_SECONDS_MAX)
    raise GaveUp(reason)


def _retry_after(answer: Answer, otherwise: float) -> float:
    value = answer.headers.get(b"retry-after", b"")
    return min(max(float(value), RETRY_SECONDS_MIN), RETRY_SECONDS_MAX) if value.isdigit() else otherwise
