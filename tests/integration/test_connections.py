"""Connections whose clients do nothing, or take too long: each is ended, and others are served meanwhile."""

import asyncio
import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path

import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from api.edge.connections import Limits, Phase, Server
from api.edge.http_protocol import HttpProtocol
from ops.rehearsal.temporary_stack import free_port
from shared import open_files
from tests.integration.test_http_protocol import Client
from tests.stage import CHECKOUT, Stage

OPEN_MAX = 16
LIMIT = 1.0
LONGER = 4.0
"""Longer than any connection may be in a phase with a limit."""
PATIENCE = 20
BIG = 20_000_000
GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n"


NO_CHUNK = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nx\r\n"
CHUNKED = b"POST /%s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"

released = threading.Event()
"""What requests for `/held` wait for."""
begun: list[str] = []
"""The paths of all requests that the application was given."""


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the length of the body; `/slow` and `/held` read it late.

    `/big` and `/stream` answer with much, `/left` when its client has left.
    """
    request = Request(scope, receive)
    begun.append(scope["path"])
    if scope["path"] == "/slow":
        await asyncio.sleep(LONGER)
    if scope["path"] == "/held":
        await asyncio.to_thread(released.wait)
    try:
        told = str(len(await request.body()))
    except ClientDisconnect:
        return
    if scope["path"] == "/left":
        await receive()
    if scope["path"] == "/stream":
        await StreamingResponse(parts(told))(scope, receive, send)
        return
    await PlainTextResponse(told * BIG if scope["path"] == "/big" else told)(scope, receive, send)


async def parts(told: str) -> AsyncIterator[str]:
    for _ in range(20):
        yield told * (BIG // 20)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that gives its clients a second."""
    config = uvicorn.Config(application, http=HttpProtocol, ws="none", lifespan="off", log_config=None)
    limits = Limits(
        open_max=OPEN_MAX,
        head_seconds=LIMIT,
        body_seconds=LIMIT,
        idle_seconds=LIMIT,
        answer_seconds=LIMIT,
    )
    running = Server(config, limits)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        wait_until(lambda: running.started)
        yield running
        running.should_exit = True
        thread.join()


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[[], Client]]:
    """A function that opens connections; all of them are gone at the end."""
    address = server.servers[0].sockets[0].getsockname()
    with ExitStack() as ends:
        yield lambda: ends.enter_context(closing(Client(address)))
    wait_until(lambda: not server.server_state.connections)


@pytest.fixture
def waiting(connect: Callable[[], Client], server: Server) -> Iterator[list[Client]]:
    """As many clients as may be connected, each with a request that is held until `released` is set."""
    released.clear()
    clients = [connect() for _ in range(OPEN_MAX)]
    for client in clients:
        client.send(GET % b"held")
    wait_until(lambda: len(server.server_state.tasks) == OPEN_MAX)
    yield clients
    released.set()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


@contextmanager
def trickling(clients: Mapping[Client, bytes]) -> Iterator[None]:
    """Send each client's byte again and again, until the block ends."""
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(0.2):
            for client, byte in clients.items():
                with suppress(OSError):  # the server takes no more
                    client.send(byte)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def ask(client: Client, path: bytes = b"") -> str:
    client.send(GET % path)
    return text(client)


def text(client: Client) -> str:
    """Return the text of an answer; fail if it is a problem."""
    status, _, body = client.answer()
    assert status == 200
    return str(body)


def test_a_silent_client_hears_nothing(connect: Callable[[], Client]) -> None:
    new, used, blank, used_blank = (connect() for _ in range(4))
    for client in (used, used_blank):
        ask(client)
    with trickling({blank: b"\n", used_blank: b"\r"}):
        assert [client.is_closed() for client in (new, used, blank, used_blank)] == [True] * 4


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
def test_half_a_request_is_answered(connect: Callable[[], Client], used: bool) -> None:  # noqa: FBT001
    halves = {
        b"G": b"",
        b"GET /a": b"a",
        b"GET / HTTP/1.1\r\nHost: x\r\n": b"",
        b"GET / HTTP/1.1\r\nHost": b"X",
        POST % (b"", 999, b"") + b"123": b"4",
        POST % (b"", 9, b""): b"",
    }
    clients = {}
    for half, rest in halves.items():
        client = connect()
        clients[client] = rest
        if used:
            ask(client)
        client.send(half)
    with trickling(clients):
        for client in clients:
            status, headers, problem = client.answer()
            assert (status, problem["code"], headers["connection"]) == (408, "REQUEST_TIMEOUT", "close")
            assert client.is_closed()


def test_a_request_that_was_given_up_stays_so(connect: Callable[[], Client], server: Server) -> None:
    client = connect()
    client.send(b"GET /given-up HTTP/1.1\r\nHost: x\r\n")
    assert client.answer()[0] == HTTPStatus.REQUEST_TIMEOUT
    client.send(b"\r\n" + GET % b"given-up")
    wait_until(lambda: not server.server_state.connections)
    assert "/given-up" not in begun, "its client may have sent it again elsewhere"


def test_a_request_may_wait_for_its_answer(connect: Callable[[], Client]) -> None:
    assert ask(connect(), b"slow") == "0"


def test_a_body_that_is_read_late_is_taken(connect: Callable[[], Client]) -> None:
    for size in (9, 1_000_000):
        client, asking = connect(), connect()
        client.send(POST % (b"slow", size, b"") + b"b" * size)
        asking.send(POST % (b"slow", size, b"Expect: 100-continue\r\n"))
        assert (asking.line(), asking.line()) == ("HTTP/1.1 100 Continue", "")
        asking.send(b"b" * size)
        assert (text(client), text(asking)) == (str(size), str(size))


@pytest.mark.parametrize("part", ["head", "body"])
def test_nonsense_behind_a_request_waits_for_its_answer(
    connect: Callable[[], Client], server: Server, part: str
) -> None:
    nonsense = b"nonsense\r\n\r\n" if part == "head" else NO_CHUNK
    released.clear()
    client = connect()
    client.send(GET % b"held" + nonsense)
    wait_until(lambda: bool(server.server_state.tasks))
    (connection,) = server.server_state.connections
    phase = connection.phase  # type: ignore[union-attr]  # each is one with phases
    released.set()
    assert phase is Phase.SERVED
    assert text(client) == "0"
    assert client.is_closed()


def test_half_a_head_does_not_spoil_an_answer(connect: Callable[[], Client]) -> None:
    client = connect()
    client.send(GET % b"slow" + b"GET / HT")
    assert text(client) == "0"
    assert client.is_closed()


@pytest.mark.parametrize("path", [b"big", b"stream"])
def test_a_client_that_takes_nothing_is_cut_off(
    connect: Callable[[], Client], server: Server, path: bytes
) -> None:
    client = connect()
    client.send(POST % (path, 1, b"") + b"1")
    wait_until(lambda: bool(server.server_state.connections))
    wait_until(lambda: not server.server_state.connections)
    assert len(client.rest()) < BIG


def test_a_client_that_takes_slowly_gets_all(connect: Callable[[], Client]) -> None:
    client, asking = connect(), connect()
    client.hold_little()
    client.send(POST % (b"big", 1, b"") + b"1")
    taken = 0
    for _ in range(10):
        taken += len(client.some(BIG // 10))
        assert ask(asking) == "0", "many short requests leave no connection idle"
        time.sleep(LONGER / 8)
    assert taken + len(client.rest()) > BIG


@pytest.mark.parametrize(
    ("requests", "answers"),
    [
        (GET % b"slow", ["0"]),
        (GET % b"", ["0"]),
        (b"GET /slow HTTP/1.0\r\n\r\n", ["0"]),
        (POST % (b"slow", 3, b"") + b"abc", ["3"]),
        (POST % (b"slow", 1_000_000, b"") + b"b" * 1_000_000, ["1000000"]),
        (CHUNKED % b"slow", ["3"]),
        (GET % b"slow" + POST % (b"", 3, b"") + b"abc" + GET % b"", ["0", "3", "0"]),
        (GET % b"slow" + b"GET / HT", ["0"]),
    ],
    ids=["late", "soon", "old", "body", "large", "chunked", "pipeline", "half"],
)
def test_a_client_that_sends_no_more_is_answered(
    connect: Callable[[], Client], requests: bytes, answers: list[str]
) -> None:
    client = connect()
    client.send(requests)
    client.end()
    assert [text(client) for _ in answers] == answers
    assert client.is_closed()


def test_the_last_answer_says_that_it_is(connect: Callable[[], Client]) -> None:
    client = connect()
    client.send(GET % b"slow")
    client.end()
    assert client.answer()[1]["connection"] == "close"


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
def test_half_a_request_has_no_answer(connect: Callable[[], Client], used: bool) -> None:  # noqa: FBT001
    for half in (b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\n", POST % (b"slow", 9, b"") + b"1"):
        client = connect()
        if used:
            ask(client)
        client.send(half)
        client.end()
        assert client.is_closed()


def test_a_client_that_only_sends_is_cut_off(connect: Callable[[], Client], server: Server) -> None:
    client = connect()
    client.send(POST % (b"big", 1, b"") + b"1")
    client.end()
    wait_until(lambda: bool(server.server_state.connections))
    wait_until(lambda: not server.server_state.connections)
    assert len(client.rest()) < BIG


def test_clients_that_may_have_left_make_room(connect: Callable[[], Client], waiting: list[Client]) -> None:
    for client in waiting[: OPEN_MAX // 2]:
        client.end()
    assert ask(connect()) == "0"
    released.set()
    assert [text(client) for client in waiting[OPEN_MAX // 2 :]] == ["0"] * (OPEN_MAX // 2)


def test_many_idle_connections_make_room(connect: Callable[[], Client]) -> None:
    waiting = connect()
    waiting.send(GET % b"slow")
    with capture_logs() as logs:
        for number in range(3 * OPEN_MAX):
            client = connect()
            if number % 2:
                assert ask(client) == "0"
            else:
                client.send(b"GET")
        wait_until(lambda: any(entry.get("reason") == "no_room" for entry in logs))
    assert ask(connect()) == "0"
    assert text(waiting) == "0"


def test_the_longest_idle_connection_makes_room(connect: Callable[[], Client], server: Server) -> None:
    for _ in range(OPEN_MAX // 2):
        connect()
    looks = server.server_state._looks  # type: ignore[attr-defined]  # noqa: SLF001 - the next would end these
    wait_until(lambda: server.server_state._looks == looks + 2)  # type: ignore[attr-defined]  # noqa: SLF001
    newer = [connect() for _ in range(OPEN_MAX // 2)]
    assert [ask(client) for client in (connect(), *newer)] == ["0"] * (1 + len(newer))


def test_a_connection_too_many_is_told(connect: Callable[[], Client], waiting: list[Client]) -> None:
    with capture_logs() as logs:
        refused = connect()
        refused.send(GET % b"")
        status, headers, problem = refused.answer()
        wait_until(lambda: any(entry.get("reason") == "full" for entry in logs))
    assert (status, problem["code"]) == (503, "TOO_MANY_CONNECTIONS")
    assert (headers["connection"], headers["retry-after"]) == ("close", "1")
    assert refused.is_closed()
    released.set()
    assert [text(client) for client in waiting] == ["0"] * OPEN_MAX
    assert ask(connect()) == "0"


def test_very_many_connections_are_cut_off(
    connect: Callable[[], Client], server: Server, waiting: list[Client]
) -> None:
    others = [connect() for _ in range(200)]
    with suppress(ConnectionResetError):
        assert others[-1].is_closed()
    assert len(server.server_state.connections) < OPEN_MAX + 100
    released.set()
    assert [text(client) for client in waiting] == ["0"] * OPEN_MAX


def test_a_wrong_chunk_is_refused(connect: Callable[[], Client]) -> None:
    client = connect()
    client.send(NO_CHUNK)
    status, _, problem = client.answer()
    assert (status, problem["code"]) == (400, "MALFORMED_REQUEST")
    assert client.is_closed()


@pytest.mark.parametrize("path", [b"slow", b"left"])
def test_a_client_that_leaves_a_pipeline_leaves_no_trace(
    connect: Callable[[], Client], server: Server, caplog: pytest.LogCaptureFixture, path: bytes
) -> None:
    client = connect()
    client.send(GET % b"", GET % path * 9)
    assert text(client) == "0"
    client.reset()
    wait_until(lambda: not server.server_state.tasks)
    assert caplog.text == ""


@contextmanager
def api_with(stage: Stage, limit: str, log: Path) -> Iterator[tuple[str, int]]:
    """Run an API process under a limit of open files, and yield its address."""
    address = "127.0.0.1", free_port()
    command = [sys.executable, "-P", "-m", "ops.cli", "api", "--port", str(address[1])]
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", f'ulimit {limit}; exec "$@"', "sh", *command],
            cwd=CHECKOUT,
            env=stage.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: answers(address) or process.poll() is not None)
        yield address
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(PATIENCE)


def answers(address: tuple[str, int]) -> bool:
    with suppress(OSError), closing(http.client.HTTPConnection(*address, timeout=PATIENCE)) as connection:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == HTTPStatus.OK
    return False


@contextmanager
def many_idle(address: tuple[str, int], count: int) -> Iterator[list[socket.socket]]:
    """Open connections that say nothing, or half a head."""
    open_files.raise_limit()
    with ExitStack() as ends:
        idle = [ends.enter_context(socket.create_connection(address)) for _ in range(count)]
        for silent in idle[::2]:
            silent.sendall(b"GET / HTTP/1.1\r\n")
        yield idle


def test_a_thousand_idle_connections_leave_the_api_up(stage: Stage, tmp_path: Path) -> None:
    log, event = tmp_path / "log", stage.create_event()
    with api_with(stage, "-n 1024", log) as address, many_idle(address, 1_200):
        assert answers(address)
        with closing(http.client.HTTPConnection(*address, timeout=PATIENCE)) as connection:
            body, headers = '{"name":"User"}', {"content-type": "application/json"}
            connection.request("POST", f"/api/p/{event['slug']}/register", body, headers)
            assert connection.getresponse().status == HTTPStatus.CREATED
        wait_until(lambda: "reason=no_room" in log.read_text())
        assert "few_open_files" in log.read_text()
        assert "Traceback" not in log.read_text()


def test_the_api_raises_its_limit_of_open_files(stage: Stage, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with api_with(stage, "-Sn 256", log) as address, many_idle(address, 400) as idle:
        assert answers(address)
        for each in idle:
            each.setblocking(False)
            with pytest.raises(BlockingIOError):  # an end of the connection would be there to read
                each.recv(1)
        assert "few_open_files" not in log.read_text()
