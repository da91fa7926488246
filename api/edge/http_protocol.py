"""HTTP/1.1 on a connection: uvicorn's protocol, without offers to upgrade and with a bound on the head.

This file relies on how uvicorn 0.54 uses httptools 0.9, and both are pinned to these lines. The parser calls
`on_message_begin`, `on_headers_complete` and `on_message_complete` of the protocol. It takes what follows a
head with `Upgrade` for another protocol: it completes the message without its body, and raises
`HttpParserUpgrade` with the place where it stopped.
"""

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api.edge import responses
from api.edge.problems import ProblemType
from shared.domain import ids

HEAD_BYTES_MAX = 32_768
_BYTES_BETWEEN = 4  # of each header, beside its name and value
_LINGER_SECONDS = 2
"""The time in which a client can read why its request was refused, before the connection is closed."""


class HttpProtocol(HttpToolsProtocol):
    """Reads requests and writes answers.

    A request that offers another protocol means what it means without the offer (RFC 9110, section 7.8). A
    head of more than `HEAD_BYTES_MAX` is answered 431, one that cannot be parsed 400; both end the
    connection. No more of a head is kept than its bound, and one read of the
    socket if the head began behind another request.
    """

    _read_bytes = 0
    _is_complete = True
    """The last request is complete."""
    _begins_read = False
    """The next head begins with the present read."""
    _continues_head = False
    """The present read goes on with a head."""
    _head_bytes: int | None = None
    """The bytes of the unfinished head, without the read in which it began behind another request."""
    _refused = False

    def data_received(self, data: bytes) -> None:
        """Parse what the client sent."""
        if self._refused:
            return
        self._unset_keepalive_if_required()
        self._read_bytes, rest = len(data), memoryview(data)
        self._begins_read, self._continues_head = self._is_complete, self._head_bytes is not None
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        try:
            while rest:
                try:
                    self.parser.feed_data(rest)
                    break
                except httptools.HttpParserUpgrade as offer:
                    rest = rest[offer.args[0] :]
                    self._parse_without_offer()
        except httptools.HttpParserError as error:
            too_large = isinstance(error.__context__, _HeadTooLargeError)
            self._refuse(ProblemType.HEAD_TOO_LARGE if too_large else ProblemType.MALFORMED_REQUEST)
        else:
            if (self._head_bytes or 0) > HEAD_BYTES_MAX:
                self._refuse(ProblemType.HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._head_bytes = self._read_bytes if self._begins_read else 0
        self._begins_read = self._is_complete = False

    def on_headers_complete(self) -> None:
        """Start the request, unless its head is too large, or is parsed again without its offer."""
        self._head_bytes = None
        maybe_large = self._continues_head or self._read_bytes > HEAD_BYTES_MAX
        if maybe_large and self._size_of_head() > HEAD_BYTES_MAX:
            raise _HeadTooLargeError
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the body."""
        if not self.parser.should_upgrade():
            self._is_complete = True
            super().on_message_complete()

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

    def _size_of_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + _BYTES_BETWEEN for name, value in self.headers)

    def _refuse(self, problem: ProblemType) -> None:
        """Answer the problem unless an earlier request still has no answer, and close the connection."""
        self._refused = True
        # None before the first request, which its type does not say.
        if self.cycle is not None and not self.cycle.response_complete:  # type: ignore[redundant-expr]
            self.cycle.keep_alive = False
            return
        request_id = ids.new_id().hex
        answer = responses.problem(problem.error(), request_id)
        headers = [
            *self.server_state.default_headers,
            *answer.raw_headers,
            (b"x-request-id", request_id.encode()),
            *responses.USUAL_HEADERS,
            (b"connection", b"close"),
        ]
        head = b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[problem.status] + head + b"\r\n" + bytes(answer.body))
        # A socket that is closed with unread bytes takes the answer back: the rest is read, and dropped.
        self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)


class _HeadTooLargeError(Exception):
    """The head that was just parsed is too large."""
