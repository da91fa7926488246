"""The server's HTTP/1.1, spoken byte by byte: offers of other protocols, and bounds on the head."""

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, cast
from urllib.parse import unquote

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from api.edge import http_protocol
from api.edge.connections import Limits, Phase, Server
from api.edge.cross_origin import Origins
from api.edge.http_protocol import HEAD_BYTES_MAX, HEADERS_MAX, PIPELINED_MAX, HttpProtocol

ORIGIN = "https://shop.example"
BODY = b'{"name":"Ann"}'
OFFERS = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    "websocket": b"Upgrade: websocket\r\nConnection: keep-alive, upgrade\r\nSec-WebSocket-Version: 13\r\n",
    "tls": b"connection: UPGRADE\r\nupgrade: TLS/1.2, h2c\r\n",
    "nonsense": b"Connection: Upgrade\r\nUpgrade: a/b, c\r\nUpgrade: \r\n",
    "none": b"",
}
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"4\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (BODY[:4], len(BODY) - 4, BODY[4:])


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with what has arrived."""
    request = Request(scope, receive)
    body = await request.body()
    if request.url.path == "/chunked":
        await StreamingResponse(map(str, range(3)))(scope, receive, send)
        return
    if request.url.path == "/split":
        await Response(headers={"location": unquote(request.url.query)})(scope, receive, send)
        return
    if request.url.path == "/nothing":
        await Response(status_code=204)(scope, receive, send)
        return
    told = {"method": request.method, "path": request.url.path, "body": body.decode()}
    await JSONResponse(told | {"offer": request.headers.get("upgrade")})(scope, receive, send)


STOP_SECONDS = 0.5

WRITES: list[bytes] = []
"""The bytes that the server has written, a member for each write."""


class Recorder:
    """A connection of the server that notes what is written to it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - of any type
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        WRITES.append(data)
        self._transport.write(data)


class Recorded(HttpProtocol):
    """The protocol, of which the writes are noted."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(cast("asyncio.Transport", Recorder(transport)))

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET /stop"):
            time.sleep(STOP_SECONDS)  # the process stands still
        if data.startswith(b"GET /stop-idle"):
            for other in self.server_state.connections - {self}:
                other.end(Phase.IDLE)  # type: ignore[union-attr]  # the server makes no others
        if data.startswith(b"GET /stop-full"):
            open_max, self.server_state._open_max = self.server_state._open_max, 0  # noqa: SLF001
            self.server_state.has_room_for(self)
            self.server_state._open_max = open_max  # noqa: SLF001
        super().data_received(data)


@contextmanager
def serving() -> Iterator[tuple[uvicorn.Server, tuple[str, int]]]:
    """Run a server whose application answers with what it got; yield it and its address."""
    config = uvicorn.Config(echo, http=Recorded, ws="none", lifespan="off", log_config=None)
    limits = Limits(open_max=100, head_seconds=60, body_seconds=60, idle_seconds=60, answer_seconds=60)
    server = Server(config, limits, Origins([ORIGIN]))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield server, listening.getsockname()
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with serving() as (_, address):
        yield address


class Client:
    """One connection, and the answers that come over it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def reset(self) -> None:
        """Leave without a farewell."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def hold_little(self) -> None:
        """Leave an answer that is not read yet with the server."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)

    def send(self, *segments: bytes) -> None:
        for segment in segments:
            self._socket.sendall(segment)

    def end(self) -> None:
        """Send no more, and go on reading."""
        self._socket.shutdown(socket.SHUT_WR)

    def line(self) -> str:
        return self._file.readline().decode().strip()

    def answer(self) -> tuple[int, dict[str, str], Any]:
        status = int(self.line().split()[1])
        headers = {}
        while header := self.line():
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, json.loads(self._file.read(int(headers["content-length"])))

    def some(self, length: int) -> bytes:
        return self._file.read(length)

    def rest(self) -> bytes:
        return self._file.read()

    def is_closed(self) -> bool:
        return not self._file.read(1)


@pytest.fixture
def client(address: tuple[str, int]) -> Iterator[Client]:
    with closing(Client(address)) as connected:
        yield connected


def head(offer: str, framing: bytes, path: str = "/a", version: str = "1.1") -> bytes:
    return f"POST {path} HTTP/{version}\r\nHost: x\r\n".encode() + OFFERS[offer] + framing + b"\r\n"


def got(path: str = "/a", body: bytes = BODY) -> dict[str, Any]:
    return {"method": "POST", "path": path, "body": body.decode(), "offer": None}


def cuts(request: bytes) -> dict[str, Sequence[bytes]]:
    """The request in one segment, cut after its head, in the middle of both, and byte by byte."""
    end = request.index(b"\r\n\r\n") + 4
    return {
        "whole": [request],
        "head": [request[:end], request[end:]],
        "middles": [request[: end - 9], request[end - 9 : end + 5], request[end + 5 :]],
        "bytes": [request[i : i + 1] for i in range(len(request))],
    }


@pytest.mark.parametrize("cut", ["whole", "head", "middles", "bytes"])
@pytest.mark.parametrize(("framing", "content"), [(LENGTH, BODY), (CHUNKED, CHUNKS)])
@pytest.mark.parametrize("offer", OFFERS)
def test_an_offer_changes_nothing(
    client: Client, offer: str, framing: bytes, content: bytes, cut: str
) -> None:
    for path in ("/a", "/b"):
        client.send(*cuts(head(offer, framing, path) + content)[cut])
        status, headers, body = client.answer()
        assert (status, body) == (200, got(path))
        assert "connection" not in headers


@pytest.mark.parametrize("offer", OFFERS)
def test_requests_with_offers_can_be_pipelined(client: Client, offer: str) -> None:
    for _ in range(20):
        paths = [f"/{i}" for i in range(PIPELINED_MAX)]
        client.send(b"".join(head(offer, LENGTH, path) + BODY for path in paths))
        assert [client.answer()[2]["path"] for _ in paths] == paths


@pytest.mark.parametrize("offer", OFFERS)
def test_a_body_is_asked_for_before_it_comes(client: Client, offer: str) -> None:
    client.send(head(offer, LENGTH + b"Expect: 100-continue\r\n"))
    assert (client.line(), client.line()) == ("HTTP/1.1 100 Continue", "")
    client.send(BODY)
    assert client.answer()[2] == got()


def test_an_offer_keeps_an_old_client_closing(client: Client) -> None:
    client.send(head("h2c", LENGTH, version="1.0") + BODY)
    assert client.answer()[2] == got()
    assert client.is_closed()


@pytest.mark.parametrize("offer", ["h2c", "none"])
def test_a_large_body_is_no_large_head(client: Client, offer: str) -> None:
    body = b"a" * (1 << 20)
    client.send(head(offer, b"Content-Length: %d\r\n" % len(body)) + body)
    assert client.answer()[2]["body"] == body.decode()
    client.send(head(offer, b"Content-Length: %d\r\n" % len(body)), body, head(offer, LENGTH) + BODY)
    assert [len(client.answer()[2]["body"]) for _ in range(2)] == [len(body), len(BODY)]


@pytest.mark.parametrize("sent", ["whole", "in pieces", "unfinished", "unfinished in pieces"])
@pytest.mark.parametrize("part", [b"POST /%s HTTP/1.1\r\nHost: x\r\n", b"POST /a HTTP/1.1\r\nX-A: %s\r\n"])
def test_a_large_head_is_refused(client: Client, part: bytes, sent: str) -> None:
    request = part % (b"a" * 2 * HEAD_BYTES_MAX) + LENGTH + b"\r\n" + BODY
    if "unfinished" in sent:
        request = request[: HEAD_BYTES_MAX + 1]
    size = 1_000 if "in pieces" in sent else len(request)
    client.send(head("none", LENGTH) + BODY)
    assert client.answer()[2] == got()
    client.send(*(request[i : i + size] for i in range(0, len(request), size)))
    status, headers, problem = client.answer()
    assert (status, problem["status"], problem["code"]) == (431, 431, "HEAD_TOO_LARGE")
    assert headers["content-type"] == "application/problem+json"
    assert (headers["connection"], headers["cache-control"]) == ("close", "no-store")
    assert headers["x-request-id"] == problem["requestId"]
    assert "date" in headers
    assert client.is_closed()


def test_a_long_pipeline_is_no_large_head(client: Client) -> None:
    requests = [head(offer, LENGTH, f"/{'a' * 9_000}") + BODY for offer in OFFERS for _ in range(9)]
    sent = b"".join(requests)
    client.send(*(sent[i : i + 70_000] for i in range(0, len(sent), 70_000)))
    assert [client.answer()[2]["body"] for _ in requests] == [BODY.decode()] * len(requests)


def test_a_head_within_the_bound_is_taken(client: Client) -> None:
    filler = b"X-A: %s\r\n" % (b"a" * (HEAD_BYTES_MAX - 100))
    for size in (1_000, 1 << 20):
        request = head("none", filler + LENGTH) + BODY
        client.send(*(request[i : i + size] for i in range(0, len(request), size)))
        assert client.answer()[2] == got()


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: x\r\nno header\r\n\r\n",
    ],
    ids=["tls", "http2", "tunnel", "header"],
)
def test_nonsense_is_refused(client: Client, request_: bytes) -> None:
    client.send(request_)
    assert is_malformed(client)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"X-A: %s\r\n\r\n" % (b"a" * HEAD_BYTES_MAX), 431),
        (b"X-A: %s\r\n" % (b"a" * HEAD_BYTES_MAX), 431),
        (b"Host: other\r\n\r\n", 400),
        (b"X-A: a\r\nno header\r\n\r\n", 400),
        (CHUNKED + b"\r\n1\r\n{\r\nno chunk", 400),
    ],
    ids=["large", "unfinished", "hosts", "header", "chunk"],
)
def test_a_page_may_read_why_it_is_refused(address: tuple[str, int], lines: bytes, status: int) -> None:
    told = {}
    for path, origin in (
        ("/api/p/a", ORIGIN),
        ("/api/p/a", "https://other.example"),
        ("/api/events", ORIGIN),
    ):
        with closing(Client(address)) as client:
            client.send(f"POST {path} HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\n".encode() + lines)
            answered, headers, _ = client.answer()
        assert answered == status
        told[path, origin] = headers.get("access-control-allow-origin"), headers.get("vary")

    assert list(told.values()) == [(ORIGIN, "Origin"), (None, "Origin"), (None, None)]


def test_a_refusal_is_for_no_earlier_page(client: Client) -> None:
    client.send(f"GET /api/p/a HTTP/1.1\r\nHost: x\r\nOrigin: {ORIGIN}\r\n\r\n".encode())
    assert client.answer()[0] == 200
    client.send(b"\r\n" * HEAD_BYTES_MAX)
    status, headers, _ = client.answer()
    assert (status, "access-control-allow-origin" in headers) == (431, False)


def is_malformed(client: Client) -> bool:
    """Return True if the only answer is that the request is malformed, and the connection ends."""
    status, headers, problem = client.answer()
    refused = (status, problem["code"], headers["connection"]) == (400, "MALFORMED_REQUEST", "close")
    return refused and client.is_closed()


@pytest.mark.parametrize("offer", ["h2c", "none"])
@pytest.mark.parametrize(
    "hosts",
    [
        [],
        [b"x", b"x"],
        [b"x", b"other"],
        [b"", b"x"],
        [b"x/a"],
        [b"x, y z"],
        [b"user@x"],
        [b"x:80:80"],
        [b"x:port"],
        [b"[::1"],
        [b"::1"],
        [b"%zz"],
        [b"x\xff"],
    ],
)
def test_a_request_names_one_host(client: Client, hosts: Sequence[bytes], offer: str) -> None:
    lines = b"".join(b"Host: %s\r\n" % host for host in hosts)
    client.send(b"GET /a HTTP/1.1\r\n" + lines + OFFERS[offer] + b"\r\n" + head("none", LENGTH) + BODY)
    assert is_malformed(client)


@pytest.mark.parametrize(
    "host", [b"", b" ", b"x", b"x:9000 \t", b"a_b.example:", b"[::1]:9000", b"127.0.0.1", b"%41~!$&'()*+,;=-"]
)
def test_every_valid_host_is_served(client: Client, host: bytes) -> None:
    client.send(b"POST /a HTTP/1.1\r\nhOST:%s\r\n" % host + LENGTH + b"\r\n" + BODY)
    assert client.answer()[2] == got()


@pytest.mark.parametrize("offer", ["h2c", "none"])
@pytest.mark.parametrize(
    ("target", "path"),
    [(b"http://x", "/"), (b"HTTPS://[::1]:9000?a", "/"), (b"http://x/a?b=//c", "/a")],
)
def test_a_target_may_be_a_whole_uri(client: Client, target: bytes, path: str, offer: str) -> None:
    client.send(b"OPTIONS %s HTTP/1.1\r\nHost: x\r\n" % target + OFFERS[offer] + LENGTH + b"\r\n" + BODY)
    assert client.answer()[2]["path"] == path


def test_an_old_client_may_name_no_host(client: Client) -> None:
    client.send(b"POST /a HTTP/1.0\r\n" + LENGTH + b"\r\n" + BODY)
    assert client.answer()[2] == got()


@pytest.mark.parametrize("line", [b"GET /a", b"GET /a HTTP/0.9", b"GET /a HTTP/1.2", b"GET /a HTTP/2.0"])
def test_other_versions_are_refused(client: Client, line: bytes) -> None:
    client.send(line + b"\r\nHost: x\r\n\r\n")
    assert is_malformed(client)


@pytest.mark.parametrize(
    "lines",
    [
        LENGTH + CHUNKED,
        CHUNKED + LENGTH,
        LENGTH + b"Content-Length: 3\r\n",
        b"Content-Length: 3, 3\r\n",
        b"Content-Length: +3\r\n",
        b"Content-Length: 0x3\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: gzip\r\n" + CHUNKED,
        b"Transfer-Encoding: chunked, identity\r\n",
        CHUNKED + CHUNKED,
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"X-A: a\r\n Transfer-Encoding: chunked\r\n",
        b"X-A: a\rTransfer-Encoding: chunked\r\n",
        b"X-A: a\nTransfer-Encoding: chunked\r\n",
        b"X-A: a\0b\r\n",
        b"X\xff: a\r\n",
    ],
)
@pytest.mark.parametrize("offer", ["h2c", "none"])
def test_nothing_is_smuggled_behind_doubtful_framing(client: Client, lines: bytes, offer: str) -> None:
    client.send(head(offer, lines) + b"0\r\n\r\n" + head("none", LENGTH, "/smuggled") + BODY)
    assert is_malformed(client)


@pytest.mark.parametrize("before", [b"", head("none", LENGTH) + BODY])
@pytest.mark.parametrize("rest", [b"", b"\r\n"])
def test_many_empty_headers_are_refused(client: Client, before: bytes, rest: bytes) -> None:
    enough = head("none", LENGTH).removesuffix(b"\r\n") + b"a:\r\n" * (HEADERS_MAX - 2)
    client.send(before, enough + b"\r\n" + BODY)
    assert [client.answer()[2] for _ in ([before] if before else [])] == [got()] * bool(before)
    assert client.answer()[2] == got()
    client.send(enough + b"a:\r\n" * 9 + rest)  # the parser tells a header with the next one
    status, headers, problem = client.answer()
    assert (status, problem["code"], headers["connection"]) == (431, "HEAD_TOO_LARGE", "close")
    assert client.is_closed()


def test_many_trailers_are_refused(client: Client) -> None:
    client.send(head("none", CHUNKED) + b"0\r\n" + b"a:\r\n" * (HEADERS_MAX + 9))
    status, headers, problem = client.answer()
    assert (status, problem["code"], headers["connection"]) == (431, "HEAD_TOO_LARGE", "close")
    assert client.is_closed()


def test_a_long_pipeline_is_answered_in_part(client: Client) -> None:
    client.send(b"".join(head("none", LENGTH, f"/{i}") + BODY for i in range(2 * PIPELINED_MAX)))
    answers = [client.answer() for _ in range(PIPELINED_MAX + 1)]
    assert [body["path"] for _, _, body in answers] == [f"/{i}" for i in range(PIPELINED_MAX + 1)]
    assert [headers.get("connection") for _, headers, _ in answers] == [None] * PIPELINED_MAX + ["close"]
    assert client.is_closed()


@pytest.mark.parametrize("cut", ["whole", "head", "bytes"])
@pytest.mark.parametrize("offer", ["h2c", "none"])
def test_a_trailer_is_no_header(client: Client, offer: str, cut: str) -> None:
    trailed = CHUNKS.removesuffix(b"\r\n") + b"Upgrade: of the trailer\r\nHost: y\r\n\r\n"
    for path in ("/a", "/b"):
        client.send(*cuts(head(offer, CHUNKED, path) + trailed)[cut])
        assert client.answer()[2] == got(path)


@pytest.mark.parametrize("beside", [b"0\r\nX-A: ", b"0\r\nX", b"0;a=", b"1;a="])
@pytest.mark.parametrize("offer", ["h2c", "none"])
def test_little_is_kept_beside_a_body(client: Client, beside: bytes, offer: str) -> None:
    client.send(head(offer, CHUNKED) + b"1\r\n{\r\n" + beside, b"a" * (1 << 20))
    status, headers, problem = client.answer()
    assert (status, problem["code"], headers["connection"]) == (431, "HEAD_TOO_LARGE", "close")
    assert client.is_closed()


@pytest.mark.parametrize("blank", [b"\r\n", b"\r\n" * 100])
def test_blank_lines_may_come_alone(address: tuple[str, int], blank: bytes) -> None:
    with closing(Client(address)) as client, closing(Client(address)) as other:
        client.send(blank)
        other.send(head("none", LENGTH, "/other") + BODY)
        assert other.answer()[2] == got("/other")  # so the blank lines have been read
        client.send(head("none", LENGTH, "/a") + BODY)
        assert client.answer()[2] == got("/a")


@pytest.mark.parametrize("before", [b"", head("none", LENGTH) + BODY])
def test_few_blank_lines_are_read_before_a_request(client: Client, before: bytes) -> None:
    if before:
        client.send(before)
        assert client.answer()[0] == 200
    client.send(b"\r\n" * (1 << 20))
    status, headers, problem = client.answer()
    assert (status, problem["code"], headers["connection"]) == (431, "HEAD_TOO_LARGE", "close")
    assert client.is_closed()


def test_an_earlier_answer_is_not_spoilt(client: Client) -> None:
    client.send(head("h2c", LENGTH) + BODY + b"\x16\x03\x01\r\n\r\n")
    assert client.answer()[2] == got()
    assert client.is_closed()


def test_an_answer_is_one_write(client: Client) -> None:
    WRITES.clear()
    for path in ("/a", "/b"):
        client.send(head("none", LENGTH, path) + BODY)
        assert client.answer()[2] == got(path)
    first, second = WRITES
    assert [first[:15], second[:15]] == [b"HTTP/1.1 200 OK"] * 2
    assert [json.loads(write.partition(b"\r\n\r\n")[2]) for write in (first, second)] == [
        got("/a"),
        got("/b"),
    ]


def test_the_head_of_a_stream_comes_first(client: Client) -> None:
    WRITES.clear()
    client.send(head("none", LENGTH, "/chunked") + BODY)
    while client.line():
        pass
    assert [client.line() for _ in range(8)] == ["1", "0", "1", "1", "1", "2", "0", ""]
    assert WRITES[0].endswith(b"\r\n\r\n")


@pytest.mark.parametrize(("method", "path", "status"), [("HEAD", "/a", 200), ("POST", "/nothing", 204)])
def test_an_answer_without_a_body_is_written(client: Client, method: str, path: str, status: int) -> None:
    for _ in range(2):
        client.send(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert client.line().split()[1] == str(status)
        while client.line():
            pass


@pytest.mark.parametrize("between", ["%0d%0a", "%0a", "%0d", "%00", "%7f"])
def test_no_header_is_made_up(client: Client, between: str) -> None:
    client.send(f"GET /split?/a{between}made-up:%201 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert client.line().split()[1] == "500"
    while line := client.line():
        assert "made-up" not in line


def ending(server: uvicorn.Server) -> None:
    """Tell a server to end, and return once its connections know."""
    server.should_exit = True
    while any(listening.is_serving() for listening in server.servers):
        time.sleep(0.01)


def test_an_idle_connection_is_answered_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "_LAST_REQUEST_SECONDS", 60)
    with serving() as (server, address), closing(Client(address)) as used, closing(Client(address)) as new:
        used.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        assert "connection" not in used.answer()[1]
        ending(server)
        for client in (used, new):
            client.send(b"POST /last HTTP/1.1\r\nHost: a\r\n", LENGTH, b"\r\n", BODY)
            status, headers, body = client.answer()

            assert (status, headers["connection"], body["body"]) == (200, "close", BODY.decode())
            assert client.is_closed()


def test_a_request_that_is_not_read_yet_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "_LAST_REQUEST_SECONDS", STOP_SECONDS / 2)
    with serving() as (server, address), closing(Client(address)) as late, closing(Client(address)) as stop:
        late.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        late.answer()
        ending(server)
        stop.send(b"GET /stop HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(STOP_SECONDS / 4)
        late.send(b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n")
        status, headers, body = late.answer()

        assert (status, headers["connection"], body["path"]) == (200, "close", "/last")
        assert late.is_closed()


@pytest.mark.parametrize("reason", [b"idle", b"full"])
def test_an_unread_request_keeps_its_connection(address: tuple[str, int], reason: bytes) -> None:
    with closing(Client(address)) as late, closing(Client(address)) as stop:
        late.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        late.answer()
        stop.send(b"GET /stop-%b HTTP/1.1\r\nHost: a\r\n\r\n" % reason)
        time.sleep(STOP_SECONDS / 4)
        late.send(b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n")
        assert late.answer()[2]["path"] == "/last"


def test_an_idle_connection_keeps_no_server_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "_LAST_REQUEST_SECONDS", 0.1)
    with serving() as (server, address), closing(Client(address)) as client:
        client.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        client.answer()
        ending(server)

        assert client.is_closed()
