"""Answers leave no cycles of objects behind, since a collection of many stops an API process (0091)."""

import asyncio
import gc
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from pydantic import SecretStr
from starlette.types import ASGIApp, Message

from api.main import create_app
from shared.domain import ids
from shared.settings import Settings
from tests.integration.test_http_protocol import Client, address  # noqa: F401 - a fixture
from tests.stage import Json, Stage

COUNT = 20
ADMIN_KEY = secrets.token_urlsafe(24)
REGISTERING = json.dumps({"name": "User A"}).encode()
JSON = {"content-type": "application/json"}
ADMIN = {**JSON, "authorization": f"Bearer {ADMIN_KEY}"}

Asked = tuple[str, str, bytes, dict[str, str]]


@contextmanager
def leaving_no_cycles() -> Iterator[None]:
    """Fail if as many objects as there are answers wait for the collector at the end."""
    gc.collect()
    gc.disable()
    try:
        yield
        assert gc.collect() < COUNT
    finally:
        gc.enable()


@asynccontextmanager
async def running(stage: Stage, settings: Settings) -> AsyncIterator[ASGIApp]:
    """Run an API of the stage's service in this process."""
    servers = {"broker_url": stage.servers.broker_url, "result_url": stage.servers.result_url}
    values = {"database_url": stage.database_url, **servers, "admin_key": SecretStr(ADMIN_KEY)}
    front = create_app(settings.model_copy(update=values))
    async with front.app.router.lifespan_context(front.app):
        yield front


async def ask(app: ASGIApp, method: str, path: str, body: bytes, headers: dict[str, str]) -> int:
    """Return the status of the answer, asking as the server does."""
    bodies: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    statuses: list[int] = []

    async def receive() -> Message:
        return bodies.pop()

    async def send(message: Message) -> None:
        statuses.append(message.get("status", 0))

    sent = {"host": "localhost", **headers}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        "client": ("127.0.0.1", 1),
    }
    await app(scope, receive, send)
    return statuses[0]


def requests(event: Json, full: Json) -> dict[int, list[Asked]]:
    """Return requests by the status of their answers; the second event is sold out."""
    register, refused = (f"/api/p/{each['slug']}/register" for each in (event, full))
    receipt = f"/api/p/{event['slug']}/receipts/{ids.new_id()}"
    return {
        200: [("GET", f"/api/p/{event['slug']}", b"", {}), ("GET", "/api/events", b"", ADMIN)],
        201: [("POST", register, REGISTERING, JSON)],
        202: [("POST", register, REGISTERING, {**JSON, "prefer": "respond-async"})],
        401: [("GET", "/api/events", b"", {}), ("GET", f"/api/p/{event['slug']}/receipt", b"", {})],
        404: [
            ("POST", "/api/p/none/register", REGISTERING, JSON),
            ("GET", "/api/p/none", b"", {}),
            ("GET", receipt, b"", {}),
            ("GET", f"/api/events/{ids.new_id()}", b"", ADMIN),
            ("GET", "/nothing", b"", {}),
        ],
        405: [("PUT", f"/api/p/{event['slug']}", b"", {})],
        409: [
            ("POST", refused, REGISTERING, JSON),
            ("POST", refused, REGISTERING, {**JSON, "prefer": "wait=5", "idempotency-key": "a key"}),
            ("PATCH", f"/api/events/{full['id']}", b'{"capacity":0}', ADMIN),
        ],
        413: [("POST", register, b" " * 1_000_000, JSON)],
        415: [("POST", register, REGISTERING, {})],
        422: [("POST", register, body, JSON) for body in (b"{}", b"{", b"[" * 10_000, b"\xff", b"")],
    }


async def answer_all(stage: Stage, settings: Settings, all_requests: dict[int, list[Asked]]) -> None:
    async with running(stage, settings) as app:
        for status, asked in all_requests.items():
            for request in asked:
                assert await ask(app, *request) == status  # the first one also fills what is remembered
                with leaving_no_cycles():
                    assert {await ask(app, *request) for _ in range(COUNT)} == {status}


def test_answers_leave_no_cycles(stage: Stage, settings: Settings) -> None:
    event = stage.create_event(capacity=1_000)
    full = stage.create_event(capacity=1, waitlistEnabled=False)
    with stage.client() as client:
        assert client.post(f"/api/p/{full['slug']}/register", json={"name": "User"}).status_code == 201

    asyncio.run(answer_all(stage, settings, requests(event, full)))


@pytest.mark.parametrize(
    ("head", "status"),
    [(b"", 400), (b"host: a\r\n" + b"a: b\r\n" * 200, 431), (b"host: a\r\na: " + b"b" * 40_000, 431)],
    ids=["no host", "many headers", "a long header"],
)
def test_refused_heads_leave_no_cycles(address: tuple[str, int], head: bytes, status: int) -> None:  # noqa: F811
    with leaving_no_cycles():
        for _ in range(COUNT):
            client = Client(address)
            client.send(b"GET / HTTP/1.1\r\n" + head + b"\r\n")
            assert client.answer()[0] == status
            client.close()
        time.sleep(0.1)  # the server sees the ends of the connections
