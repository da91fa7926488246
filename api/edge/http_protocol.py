"""HTTP/1.1 on a connection: uvicorn's protocol, without offers to upgrade, and with bounds on its clients.

This file relies on how uvicorn 0.54 uses httptools 0.9, and both are pinned to these lines. The parser calls
`on_message_begin`, which makes a `scope`, `on_headers_complete` and `on_message_complete` of the protocol. It
takes what follows a head with `Upgrade` for another protocol: it completes the message without its body, and
raises `HttpParserUpgrade` with the place where it stopped.

uvicorn makes a cycle for each request, by the name `RequestResponseCycle` in its module, and the cycle writes
the answer. `cycle` is that of the last head; `pipeline` has those that wait for an earlier one, the last in
front.
"""

import asyncio
import re
import termios
from collections.abc import Iterable
from fcntl import ioctl

import httptools
import structlog
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from api.edge import responses
from api.edge.connections import Connections, Phase
from api.edge.problems import ProblemError, ProblemType
from shared.domain import ids

log = structlog.get_logger(__name__)

HEAD_BYTES_MAX = 32_768
HEADERS_MAX = 100
"""A header without a value has a few bytes on the wire, and a hundred in memory."""
PIPELINED_MAX = 100
"""The requests that may wait for an earlier one: all that one read brings are parsed in one step."""
_BYTES_BETWEEN = 4  # of each header, beside its name and value
_VERSIONS = {"1.0", "1.1"}
# A host and a port as in a URI (RFC 3986), empty if the URI has none. The parser keeps blanks behind a value.
_HOST = re.compile(rb"(?:\[[\w:.~-]+\]|(?:[\w!$&'()*+,;=.~-]++|%[0-9A-Fa-f]{2})*+)(?::[0-9]*)?[ \t]*")
# A target in absolute form without a path (RFC 9112, section 3.2.2).
_NO_PATH = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*+://[^/?#]++(?!/)")
_IN_HEADERS = bytes({*range(0x20, 0x100), ord("\t")} - {0x7F})
"""The bytes that a header of an answer may have: no control characters, which could begin another header."""

_LAST_REQUEST_SECONDS = 1
"""The time in which a process that is told to end still takes a request of an idle connection."""


class HttpProtocol(HttpToolsProtocol):
    """Reads requests and writes answers.

    A request that offers another protocol means what it means without the offer (RFC 9110, section 7.8). A
    head above `HEAD_BYTES_MAX` or `HEADERS_MAX` is answered 431, one that cannot be parsed or does not name
    one host 400, a head or a body that comes too slowly 408; each ends the connection. No more of a head is
    kept than its bound, and one read of the socket if the head began behind another request. The same bounds
    hold for what a chunked body has beside its content. Trailers are read, and dropped: they are no headers.
    A client that sends more than `PIPELINED_MAX` requests ahead gets the answers to those, and then the end
    of the connection (decision 0093).
    """

    server_state: Connections
    seen: tuple[Phase, RequestResponseCycle, int] | None = None
    seen_at_look = 0

    _read_bytes = 0
    _has_body = True
    """The last request that has its head has its body as well."""
    _continues_head = False
    """The present read goes on with a head."""
    _kept_bytes = 0
    """The bytes since the last read that ended a head or a request, or had content of a body: those of an
    unfinished head, or trailers."""
    _refused = False
    _sends_no_more = False
    """The client has ended its side of the connection."""
    _is_ending = False
    """The process is about to end: each answer is the last one of its connection."""
    _served: RequestResponseCycle
    """The request that the pipeline waits for, if there is a pipeline."""

    @property
    def phase(self) -> Phase:
        """The thing that the process waits for at this connection."""
        if self.transport.get_write_buffer_size():
            return Phase.ANSWER
        if self._refused or self.transport.is_closing():
            return Phase.SERVED if self._is_served else Phase.CLOSING
        if self._sends_no_more and self._is_served:
            return Phase.LEAVING
        if not self.flow.read_paused:  # else what the client has sent may not have been read
            if self._is_in_head:
                return Phase.HEAD
            if self._is_in_body and not self.cycle.waiting_for_100_continue:
                return Phase.BODY
        if self._is_served:
            return Phase.SERVED
        return Phase.SILENT if self._is_new else Phase.IDLE

    @property
    def _is_new(self) -> bool:
        return self.cycle is None  # before the first request, which its type does not say

    @property
    def _is_served(self) -> bool:
        """A request is being answered."""
        if self._is_new:
            return False
        return bool(self.pipeline) or not (self.cycle.response_complete or self.cycle.disconnected)

    @property
    def _is_in_head(self) -> bool:
        """A head has begun, and is not complete."""
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        return self.scope is not (cycle and cycle.scope)

    @property
    def _is_in_body(self) -> bool:
        """The body of the last request is not complete."""
        return not self._has_body and not self._is_in_head

    @property
    def has_unread(self) -> bool:
        """The client has sent bytes that are not read yet, perhaps a request.

        A socket that is closed then answers with a reset.
        """
        nothing = bytes(4)
        return ioctl(self.transport.get_extra_info("socket").fileno(), termios.FIONREAD, nothing) != nothing

    def end(self, phase: Phase) -> None:
        """End the connection: its client took too long for this phase, unless it has just gone on."""
        if phase in {Phase.HEAD, Phase.BODY}:
            self._refuse(ProblemType.REQUEST_TIMEOUT.error())
        elif phase in {Phase.ANSWER, Phase.CLOSING}:
            self.transport.abort()
        elif not self.has_unread:
            self.transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Take the connection, unless there are too many."""
        super().connection_made(transport)
        self.headers = []  # a client may send blank lines before its first head
        assert isinstance(self.server_state, Connections), "the server is one with bounds"
        if not self.server_state.has_room_for(self):
            self._refuse(ProblemType.TOO_MANY_CONNECTIONS.error())

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell all requests without an answer that the client is gone; uvicorn tells the last one only."""
        if self.pipeline:
            log.debug("client_gone", requests=len(self.pipeline) + 1)
            self._tell_gone([self._served, *(cycle for cycle, _ in self.pipeline)])
            self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what the client sent."""
        if self._refused:
            return
        self._read_bytes, rest = len(data), memoryview(data)
        self._continues_head = self._is_in_head
        self._kept_bytes += len(data)
        try:
            while rest:
                try:
                    self.parser.feed_data(rest)
                    break
                except httptools.HttpParserUpgrade as offer:
                    rest = rest[offer.args[0] :]
                    self._parse_without_offer()
        except httptools.HttpParserError as error:
            # The context is the error of a callback, which the parser catches. No variable keeps it (0091).
            if isinstance(error.__context__, ProblemError):
                self._refuse(error.__context__)
            else:
                self._refuse(ProblemType.MALFORMED_REQUEST.error())
        else:
            if self._kept_bytes > HEAD_BYTES_MAX or len(self.headers) > HEADERS_MAX:
                self._refuse(ProblemType.HEAD_TOO_LARGE.error())

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn closes the connection at once
        """Keep the connection for the answers to whole requests, behind which a client may send no more."""
        self._sends_no_more = self._is_served and not self._is_in_body
        if self._sends_no_more:
            self.cycle.keep_alive = False
        return self._sends_no_more

    def on_headers_complete(self) -> None:
        """Start the request, unless its head is refused, or is parsed again without its offer."""
        maybe_large = self._continues_head or self._read_bytes > HEAD_BYTES_MAX
        if len(self.headers) > HEADERS_MAX or (maybe_large and self._size_of_head() > HEAD_BYTES_MAX):
            raise ProblemType.HEAD_TOO_LARGE.error()
        if len(self.pipeline) >= PIPELINED_MAX:
            raise ProblemType.TOO_MANY_REQUESTS.error()
        if not self.parser.should_upgrade():
            self._check_head()
            if not self.url.startswith(b"/") and (absolute := _NO_PATH.match(self.url)):
                self.url = absolute[0] + b"/" + self.url[absolute.end() :]
            earlier = self.cycle
            super().on_headers_complete()
            self.headers = []  # the parser adds trailers to it, which are no headers of this request
            self._has_body, self._kept_bytes = False, 0
            if len(self.pipeline) == 1:
                self._served = earlier
            if self._is_ending:
                self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take content of the body."""
        self._kept_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body."""
        if not self.parser.should_upgrade():
            self._has_body, self._kept_bytes = True, 0
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request of the pipeline; `Connections` ends an idle connection, no timer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._served, app = self.pipeline.pop()
            self._start_asgi_task(self._served, app)

    def shutdown(self) -> None:
        """Let the process end: close the connection behind its next answer, or after a moment without one.

        An idle connection is not closed at once: its next request may be on its way (as nginx does with
        `keepalive_min_timeout`).
        """
        self._is_ending = True
        if self._is_served:
            self.cycle.keep_alive = False
        else:
            self.loop.call_later(_LAST_REQUEST_SECONDS, self._close_unless_served)

    def _close_unless_served(self) -> None:
        if self.transport.is_closing() or self._is_served:
            return
        if self.has_unread:
            self.loop.call_later(_LAST_REQUEST_SECONDS, self._close_unless_served)
        else:
            self.transport.close()

    def _parse_without_offer(self) -> None:
        """Parse the head that was parsed last once more, as if it had no `Upgrade`."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            raise httptools.HttpParserError("a tunnel is no request to this service")
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        lines += [b"%s: %s" % (name, value) for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    def _check_head(self) -> None:
        """Refuse a head without one valid host (RFC 9112, section 3.2), or of a body that is coded.

        A client that speaks HTTP/1.0 may know no `Host`. A body that is coded in another way than in chunks
        would be taken as it is.
        """
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            raise ProblemType.MALFORMED_REQUEST.error()
        hosts = []
        for name, value in self.headers:
            if name == b"host":
                hosts.append(value)
            elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                raise ProblemType.MALFORMED_REQUEST.error("The only transfer coding is chunked.")
        is_named = len(hosts) == 1 and _HOST.fullmatch(hosts[0])
        if not is_named and (hosts or version != "1.0"):
            raise ProblemType.MALFORMED_REQUEST.error("A request names one host, in one header Host.")

    def _size_of_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + _BYTES_BETWEEN for name, value in self.headers)

    def _refuse(self, problem: ProblemError) -> None:
        """Answer the problem unless an earlier request still has no answer, and end the connection."""
        self._refused = True
        if self._is_in_body:
            if self.cycle.response_started:
                self.transport.close()
                return
            self._tell_gone([self.cycle])  # the application's answer would be about half a body
        if self._is_served:
            self.cycle.keep_alive = False
            return
        if self.transport.is_closing():
            return
        request_id = ids.new_id().hex
        answer = responses.problem(problem, request_id)
        headers = [
            *self.server_state.default_headers,
            *answer.raw_headers,
            (b"x-request-id", request_id.encode()),
            *responses.USUAL_HEADERS,
            *self._cross_origin_headers(),
            (b"connection", b"close"),
        ]
        head = b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[problem.status] + head + b"\r\n" + bytes(answer.body))
        # A socket that is closed with unread bytes takes the answer back: the rest is read, and dropped.
        # `Connections` ends the connection a moment later.
        self.transport.write_eof()

    def _cross_origin_headers(self) -> Iterable[tuple[bytes, bytes]]:
        """Return the headers for a page that sent the present request, as far as its head was read."""
        origins = self.server_state.origins
        if origins is None or not (self._is_in_head or self._is_in_body):
            return ()
        return origins.headers(self.url.decode("latin-1"), dict(self.scope["headers"]).get(b"origin"))

    @staticmethod
    def _tell_gone(cycles: Iterable[RequestResponseCycle]) -> None:
        """Let requests end that have no client any more, and drop their answers."""
        for cycle in cycles:
            cycle.disconnected = True
            cycle.message_event.set()


class AnswerCycle(RequestResponseCycle):
    """Writes the head of an answer together with its body: a write costs a system call (0078)."""

    _head = b""

    async def send(self, message: ASGISendEvent) -> None:
        """Keep the head for the body; write it at once if the answer is chunked, or one to `HEAD`."""
        if self.disconnected:
            return
        if self.response_started:
            if self._head and message["type"] == "http.response.body":
                message = {**message, "body": self._head + message.get("body", b"")}
                self.expected_content_length += len(self._head)
                self._head = b""
            await super().send(message)
            return
        assert message["type"] == "http.response.start", "an answer begins with its head"
        status, headers = message["status"], [*self.default_headers, *message["headers"]]
        length, to_head = dict(headers).get(b"content-length"), self.scope["method"] == "HEAD"
        self.chunked_encoding = length is None and not to_head and status not in {204, 304}
        self.expected_content_length = int(length or 0)
        if self.chunked_encoding:
            headers.append((b"transfer-encoding", b"chunked"))
        if not self.keep_alive:
            headers.append((b"connection", b"close"))
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        if lines.translate(None, _IN_HEADERS) != b"\r\n" * len(headers):
            raise ValueError("a header has a control character")
        self.response_started, self.waiting_for_100_continue = True, False
        self._head = STATUS_LINE[status] + lines + b"\r\n"
        if self.chunked_encoding or to_head:
            self.transport.write(self._head)
            self._head = b""


httptools_impl.RequestResponseCycle = AnswerCycle  # type: ignore[misc]
