"""The load client against a small server that misbehaves on demand."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

import msgspec
import pytest
import trustme

from ops.rehearsal import evidence, http_client

Script = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]

LIVES = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Kind: Lively\r\n\r\nok"


class Server:
    """Answers each request as its script says; counts connections and keeps the requests."""

    def __init__(self, script: Script) -> None:
        self.script, self.connections, self.requests = script, 0, list[bytes]()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                await self.script(self.requests[-1], writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Server, str]]:
    server = Server(script)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        yield server, f"http{'s' if tls else ''}://localhost:{port}"


def saying(*answers: str) -> Script:
    """Give the answers in turn, the last one for ever; an empty one closes the connection."""
    left = list(answers)

    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        answer = left.pop(0) if len(left) > 1 else left[0]
        writer.write(answer.encode())
        if not answer:
            writer.close()

    return script


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 20))


def test_requests_share_one_connection_and_arrive_whole() -> None:
    async def scene() -> None:
        async with serving(saying(LIVES)) as (server, url), http_client.Connection(url) as connection:
            answer = await connection.request("POST", "/a?b=c", {"x-key": "1"}, b'{"name":"Zo\xc3\xab"}')
            await connection.request("GET", "/next")
        assert answer == http_client.Answer(200, {b"content-length": b"2", b"x-kind": b"Lively"}, b"ok")
        assert server.connections == 1
        host = url.removeprefix("http://")
        assert server.requests == [
            f"POST /a?b=c HTTP/1.1\r\nhost: {host}\r\nx-key: 1\r\ncontent-length: 15\r\n\r\n".encode()
            + b'{"name":"Zo\xc3\xab"}',
            f"GET /next HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n".encode(),
        ]

    run(scene())


def test_an_answer_in_pieces_is_put_together() -> None:
    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        head = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        for piece in (head, '2\r\n{"\r\n', '5\r\na":1}\r\n', "0\r\n", "\r\n"):
            writer.write(piece.encode())
            await writer.drain()
            await asyncio.sleep(0.01)

    async def scene() -> None:
        async with serving(script) as (server, url), http_client.Connection(url) as connection:
            for _ in range(2):
                answer = await connection.request("GET", "/")
                assert (answer.status, answer.json()) == (200, {"a": 1})
        assert server.connections == 1

    run(scene())


def test_a_server_that_says_good_bye_gets_a_new_connection() -> None:
    async def scene() -> None:
        bye = LIVES.replace("X-Kind: Lively", "Connection: close")
        async with serving(saying(bye)) as (server, url), http_client.Connection(url) as connection:
            for _ in range(3):
                assert (await connection.request("GET", "/")).body == b"ok"
        assert server.connections == 3

    run(scene())


def test_a_connection_closed_while_idle_is_opened_again() -> None:
    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(LIVES.encode())
        await writer.drain()
        writer.close()

    async def scene() -> None:
        async with serving(script) as (server, url), http_client.Connection(url) as connection:
            await connection.request("GET", "/")
            await asyncio.sleep(0.05)
            await connection.request("GET", "/")
        assert server.connections == 2

    run(scene())


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "the server closed the connection"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", "no answer within 0.1 s"),
        ("SMTP ready\r\n", "not HTTP"),
    ],
)
def test_a_broken_answer_costs_the_connection(answer: str, reason: str) -> None:
    async def scene() -> None:
        async with serving(saying(answer, LIVES)) as (server, url):
            async with http_client.Connection(url, request_seconds_max=0.1) as connection:
                with pytest.raises(http_client.ConnectionLost, match=reason):
                    await connection.request("GET", "/")
                assert (await connection.request("GET", "/")).body == b"ok"
            assert server.connections == 2

    run(scene())


def test_a_cancelled_request_does_not_leave_its_answer_to_the_next() -> None:
    async def script(request: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1 if b"/slow" in request else 0)
        writer.write(LIVES.encode().replace(b"ok", b"no" if b"/slow" in request else b"ok"))

    async def scene() -> None:
        async with serving(script) as (_, url), http_client.Connection(url) as connection:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(connection.request("GET", "/slow"), 0.02)
            assert (await connection.request("GET", "/fast")).body == b"ok"

    run(scene())


def test_a_client_sends_one_request_at_once() -> None:
    async def scene() -> None:
        async with serving(saying(LIVES)) as (_, url), http_client.Connection(url) as connection:
            await connection.request("GET", "/")
            first = asyncio.create_task(connection.request("GET", "/"))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="one request at a time"):
                await connection.request("GET", "/")
            assert (await first).body == b"ok"

    run(scene())


def test_nobody_listening_is_a_lost_connection() -> None:
    async def scene() -> None:
        async with serving(saying(LIVES)) as (_, url):
            pass
        async with http_client.Connection(url) as connection:
            with pytest.raises(http_client.ConnectionLost):
                await connection.request("GET", "/")

    run(scene())


@pytest.mark.parametrize(
    "url", ["localhost:9000", "ftp://host", "http://", "http://host/path", "http://host:x"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"address of a service|Port could not be cast"):
        http_client.Connection(url)


@pytest.mark.parametrize("trusted", [True, False])
def test_tls_takes_only_a_certificate_it_can_verify(
    monkeypatch: pytest.MonkeyPatch, *, trusted: bool
) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    client = ssl.create_default_context()
    if trusted:
        authority.configure_trust(client)
    monkeypatch.setattr(http_client, "_tls_context", lambda: client)

    async def scene() -> None:
        async with serving(saying(LIVES), tls) as (_, url), http_client.Connection(url) as connection:
            if trusted:
                assert (await connection.request("GET", "/")).body == b"ok"
            else:
                with pytest.raises(http_client.ConnectionLost, match="certificate"):
                    await connection.request("GET", "/")

    run(scene())


def test_insisting_outlasts_refusals_and_losses() -> None:
    async def scene() -> None:
        later = "HTTP/1.1 503 Later\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n"
        script = saying(later, "", later.replace("503", "429"), LIVES)
        async with serving(script) as (server, url), http_client.Connection(url) as connection:
            answer = await http_client.insist(connection, "POST", "/", until=lambda: perf_counter() + 9)
            assert (answer.body, connection.retries) == (b"ok", 3)
        assert len(set(server.requests)) == 1

    run(scene())


def test_insisting_ends_with_the_last_reason() -> None:
    async def scene() -> None:
        later = "HTTP/1.1 503 Later\r\nretry-after: soon\r\ncontent-length: 0\r\n\r\n"
        deadline = perf_counter() + 0.3
        async with serving(saying(later)) as (_, url), http_client.Connection(url) as connection:
            with pytest.raises(http_client.GaveUp, match="HTTP 503"):
                await http_client.insist(connection, "GET", "/", until=lambda: deadline)
            assert connection.retries >= 2

    run(scene())


def serving_event(page_of: int, **wrong: str) -> Script:
    """Serve an event of five registrations in pages, with some resources' answers put wrong."""
    event = {
        "id": "e",
        "capacity": 9,
        "spotsReserved": 5,
        "waitlistLength": 0,
        "promotionPolicy": "strict_fifo",
    }
    rows = [
        {"id": f"r{at}", "seq": at, "name": "n", "spotsCount": 1, "status": "CONFIRMED"} for at in range(5)
    ]

    async def script(request: bytes, writer: asyncio.StreamWriter) -> None:
        target = request.split()[1].decode()
        resource = target.removeprefix("/api/events/e").partition("?")[0].strip("/")
        start = int(target.partition("cursor=%26")[2] or 0)
        more = {"nextCursor": f"&{start + page_of}" if start + page_of < 5 else None}
        pages = {
            "": event,
            "registrations": {"items": rows[start : start + page_of], **more},
            "audit": {"items": [], "nextCursor": None},
            "counter": {"spotsReserved": 5, "actualConfirmed": 5, "drift": 0},
        }
        body = wrong.get(resource, msgspec.json.encode(pages[resource]).decode())
        status = "200 OK" if b"authorization: Bearer secret" in request and body else "401 Unauthorized"
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())

    return script


def test_the_checker_reads_all_pages_of_an_event() -> None:
    async def scene() -> None:
        async with serving(serving_event(page_of=2)) as (_, url), http_client.Connection(url) as connection:
            snapshot = await evidence.fetch(connection, "e", "secret")
        assert [row.id for row in snapshot.rows] == ["r0", "r1", "r2", "r3", "r4"]
        assert (snapshot.event.capacity, snapshot.counter.drift, snapshot.entries) == (9, 0, [])

    run(scene())


@pytest.mark.parametrize(
    ("script", "key", "words"),
    [
        (serving_event(page_of=5), "other", r"GET /api/events/e answered HTTP 401"),
        (serving_event(page_of=5, audit="[]"), "secret", r"/audit.* does not keep to the contract"),
        (serving_event(page_of=0), "secret", r"/registrations has more than 3 pages"),
    ],
)
def test_tables_that_cannot_be_read_say_which(
    script: Script, key: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "PAGES_MAX", 3)

    async def scene() -> None:
        async with serving(script) as (_, url), http_client.Connection(url) as connection:
            with pytest.raises(evidence.FetchFailed, match=words):
                await evidence.fetch(connection, "e", key)

    run(scene())


def test_an_event_that_does_not_come_to_rest_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "STILL_PAUSE_SECONDS", 0)
    calm = serving_event(page_of=5)
    reads = 0

    async def script(request: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal reads
        reads += 1
        restless = serving_event(page_of=5)
        if request.split()[1] == b"/api/events/e":
            event = {"id": "e", "capacity": 9, "spotsReserved": reads, "waitlistLength": 0}
            body = msgspec.json.encode({**event, "promotionPolicy": "strict_fifo"}).decode()
            restless = serving_event(5, **{"": body})
        await (restless if request.split()[1] == b"/api/events/e" else calm)(request, writer)

    async def scene() -> None:
        async with serving(script) as (_, url), http_client.Connection(url) as connection:
            with pytest.raises(evidence.FetchFailed, match="kept changing"):
                await evidence.fetch(connection, "e", "secret")

    run(scene())
