"""The outermost layer: an id on every answer, and errors as problems, in direct routes too."""

import asyncio
from collections.abc import Iterator
from urllib.parse import quote
from uuid import UUID

import httpx2
import pytest
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient
from starlette.types import Message, Send
from structlog.testing import capture_logs

from api.edge.front import GATHER_SECONDS, Front
from api.main import create_app
from api.routes import registrations
from api.services import Services
from shared.settings import Settings
from tests.simulation.histories import SETTINGS
from tests.simulation.in_postgres import InPostgres
from tests.stage import Stage


@pytest.fixture
def api(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """An API in this process whose direct route for registrations raises."""

    async def register(slug: str, services: Services, request: Request) -> Response:
        assert services.settings is settings
        assert request.method == "POST"
        raise RuntimeError(slug)

    monkeypatch.setattr(registrations, "register", register)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def test_an_unforeseen_error_is_a_problem(api: TestClient) -> None:
    with capture_logs() as logs:
        answer = api.post("/api/p/drop/register", json={"name": "User"}, headers={"x-request-id": "mine"})

    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert (problem["code"], problem["requestId"]) == ("INTERNAL_ERROR", "mine")
    assert answer.headers["x-request-id"] == "mine"
    (entry,) = logs
    assert (entry["event"], entry["incident_id"]) == ("unforeseen_error", problem["incidentId"])
    assert isinstance(entry["exc_info"], RuntimeError)


def answer_with(status: int, stage: Stage, method: str, path: str) -> httpx2.Response:
    """Return the answer to a request that has this status, for a path with parts of an event of its own."""
    event = stage.create_event()
    with stage.client() as client:
        receipt = client.post(f"/api/p/{event['slug']}/register", json={"name": "User"}).headers["location"]
        answer = client.request(
            method,
            path.format(receipt=receipt, **event),
            json={"name": "User"} if status == 201 else None,
            headers=({} if status == 401 else dict(stage.admin))
            | ({"if-none-match": "*"} if status == 304 else {}),
        )
    assert answer.status_code == status
    return answer


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/p/{slug}", 200),
        ("POST", "/api/p/{slug}/register", 201),
        ("POST", "/api/p/no-such-event/register", 404),
        ("GET", "/api/p/{slug}/receipts/{id}", 404),
        ("GET", "/api/p/{slug}/receipts/", 404),
        ("DELETE", "/api/p/{slug}/receipts/{id}", 404),
        ("PUT", "/api/p/{slug}/register", 405),
        ("GET", "/api/events", 401),
        ("GET", "/nowhere", 404),
        ("GET", "/readyz", 200),
    ],
)
def test_every_answer_has_its_request_id(stage: Stage, method: str, path: str, status: int) -> None:
    event = stage.create_event()
    url = path.format(slug=event["slug"], id=event["id"])
    body = {"name": "User"} if method == "POST" else None
    with stage.client() as client:
        mine = client.request(method, url, json=body, headers={"X-Request-Id": "mine"})
        others = [client.request(method, url, json=body) for _ in range(2)]

    assert [answer.status_code for answer in (mine, *others)] == [status] * 3
    assert mine.headers.get_list("x-request-id") == ["mine"]
    first, second = (answer.headers.get_list("x-request-id") for answer in others)
    assert len(first) == len(second) == 1
    assert UUID(first[0]) != UUID(second[0])
    for answer in (mine, *others):
        if status >= 400:
            assert answer.json()["requestId"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("sent", ["a" * 128, "Root=1-67891233-abcdef012345678912345678", "YWJj+/=="])
def test_a_client_names_its_request(stage: Stage, sent: str) -> None:
    with stage.client() as client:
        answer = client.get("/nowhere", headers={"x-request-id": sent})
    assert (answer.headers["x-request-id"], answer.json()["requestId"]) == (sent, sent)


@pytest.mark.parametrize("sent", ["", "a" * 129, "a b", 'a"', "<a>", "ä", "${a}", "a\tb", "a,b"])
def test_an_odd_request_id_is_replaced(stage: Stage, sent: str) -> None:
    with stage.client() as client:
        answer = client.get("/nowhere", headers={b"x-request-id": sent.encode("latin-1")})
    assert UUID(answer.headers["x-request-id"]) == UUID(answer.json()["requestId"])


ODD_NUMBERS = ["1_0", "+1", " 1", "1 ", "\uff11", "\u0661", "0x1", "1e1x", "\u00b2"]


@pytest.mark.parametrize("number", ODD_NUMBERS)
def test_numbers_have_one_spelling(stage: Stage, number: str) -> None:
    event = stage.create_event()
    with stage.client() as client:
        receipt = client.post(f"/api/p/{event['slug']}/register", json={"name": "User"}).headers["location"]
        paths = ["/api/events", "/api/keys"]
        paths += [f"/api/events/{event['id']}/{of}" for of in ("registrations", "audit", "commands")]
        answers = [client.get(path, params={"limit": number}, headers=stage.admin) for path in paths]
        answers.append(client.get(receipt, params={"wait": number}))
        cursor = client.get(f"{paths[2]}?cursor={quote(number)}", headers=stage.admin)

    told = [(answer.status_code, *answer.json()["errors"]) for answer in answers]
    limit = {"field": "limit", "reason": "must be a whole number"}
    wait = {"field": "wait", "reason": "must be a number of seconds, 0 or more"}
    assert told == [(422, limit)] * 5 + [(422, wait)]
    assert cursor.status_code == 422


def test_receipts_have_one_spelling(stage: Stage) -> None:
    event = stage.create_event()
    with stage.client() as client:
        url = client.post(f"/api/p/{event['slug']}/register", json={"name": "User"}).headers["location"]
        before, _, id_ = url.rpartition("/")
        wide = "".join(chr(ord(digit) + 0xFEE0) if digit.isdigit() else digit for digit in id_)
        odd = [wide, f"{{{id_}}}", f"urn:uuid:{id_}", id_.replace("-", "_"), id_.replace("-", "") + "_"]
        answers = [
            client.request(method, f"{before}/{quote(id_)}") for id_ in odd for method in ("GET", "DELETE")
        ]

    assert [(a.status_code, a.json()["code"]) for a in answers] == [(404, "RECEIPT_NOT_FOUND")] * 10


@pytest.mark.parametrize(
    "path", ["/api/events/", "/healthz/", "/docs/", "/api/p/x/register/", "//evil.example/x"]
)
def test_nothing_leads_to_the_host_that_a_client_names(stage: Stage, path: str) -> None:
    with stage.client() as client:
        for method in ("GET", "POST", "HEAD", "OPTIONS"):
            answer = client.request(method, path, headers={"host": "evil.example", **stage.admin})
            assert (answer.status_code, answer.headers.get("location")) == (404, None)
            assert "evil.example" not in answer.text.replace(path, "")


def test_the_document_is_known_by_its_tag(stage: Stage) -> None:
    with stage.client() as client:
        first, second, head = (client.request(method, "/openapi.json") for method in ("GET", "GET", "HEAD"))
        tag = first.headers["etag"]
        known = [
            client.get("/openapi.json", headers={"if-none-match": t}) for t in (tag, f"W/{tag}", "*", '"x"')
        ]

    assert first.content == second.content
    assert (head.headers["etag"], head.headers["content-type"]) == (tag, "application/json")
    assert [(a.status_code, a.headers["etag"]) for a in known] == [(304, tag)] * 3 + [(200, tag)]
    assert first.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("wait", ["-1", "-0.001", "nan", "inf", "-inf", "1e400", "abc", "1,5"])
def test_a_bad_wait_is_refused(stage: Stage, wait: str) -> None:
    event = stage.create_event()
    with stage.client() as client:
        receipt = client.post(f"/api/p/{event['slug']}/register", json={"name": "User"}).headers["location"]
        answer = client.get(receipt, params={"wait": wait})

    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_REQUEST")
    assert answer.json()["detail"].startswith("wait: ")


@pytest.mark.parametrize("wait", ["0", "0.5", "1e3", "20", "", " ", "\u200b"])
def test_a_settled_receipt_needs_no_wait(stage: Stage, wait: str) -> None:
    event = stage.create_event()
    with stage.client() as client:
        receipt = client.post(f"/api/p/{event['slug']}/register", json={"name": "User"}).headers["location"]
        answer = client.get(receipt, params={"wait": wait})

    assert (answer.status_code, answer.json()["status"]) == (200, "CONFIRMED")


def test_a_short_wait_ends_without_an_outcome(settings: Settings, connection: Connection) -> None:
    InPostgres(connection, SETTINGS)  # an event that no worker owns
    with TestClient(create_app(settings)) as client:
        accepted = client.post(
            f"/api/p/{SETTINGS['slug']}/register", json={"name": "User"}, headers={"prefer": "respond-async"}
        )
        answer = client.get(accepted.headers["location"], params={"wait": "0.5"})

    assert (accepted.status_code, answer.status_code) == (202, 200)
    assert answer.json()["status"] == "PENDING"


@pytest.mark.parametrize(
    ("method", "path", "status", "cached"),
    [
        ("GET", "/api/p/{slug}", 200, "public, max-age=1, stale-while-revalidate=1"),
        ("GET", "/api/p/no-such-event", 404, "no-store"),
        ("POST", "/api/p/{slug}/register", 201, "no-store"),
        ("POST", "/api/p/{slug}/register", 415, "no-store"),
        ("GET", "{receipt}", 200, "no-store"),
        ("GET", "{receipt}", 304, "no-store"),
        ("GET", "/api/events", 200, "no-store"),
        ("GET", "/api/events/{id}/export", 200, "no-store"),
        ("GET", "/api/events", 401, "no-store"),
        ("PUT", "/api/events", 405, "no-store"),
        ("GET", "/nowhere", 404, "no-store"),
        ("GET", "/healthz", 200, "no-store"),
        ("GET", "/docs", 200, "no-store"),
    ],
)
def test_every_answer_has_a_date_and_says_who_may_keep_it(
    stage: Stage, method: str, path: str, status: int, cached: str
) -> None:
    answer = answer_with(status, stage, method, path)

    assert answer.headers.get_list("cache-control") == [cached]
    assert len(answer.headers.get_list("date")) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/api/p/{slug}",
        "{receipt}",
        "/api/events/{id}",
        "/api/events/{id}/export",
        "/metrics",
        "/healthz",
        "/docs",
        "/nowhere",
    ],
)
def test_a_head_has_the_headers_of_a_get(stage: Stage, path: str) -> None:
    event = stage.create_event()
    with stage.client() as client:
        receipt = client.post(f"/api/p/{event['slug']}/register", json={"name": "User"}).headers["location"]
        url = path.format(receipt=receipt, **event)
        got, head, again = (
            client.request(method, url, headers=stage.admin) for method in ("GET", "HEAD", "GET")
        )

    assert (head.status_code, head.content) == (got.status_code, b"")
    vary = {"date", "x-request-id", "content-length", "transfer-encoding"}
    assert {name: head.headers[name] for name in head.headers if name not in vary} == {
        name: got.headers[name] for name in got.headers if name not in vary
    }
    assert again.status_code == got.status_code


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/api/p/{slug}", "GET, HEAD, OPTIONS"),
        ("/api/p/{slug}/register", "OPTIONS, POST"),
        ("/api/p/{slug}/receipts/{id}", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("/api/p/{slug}/receipt", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("/api/events", "GET, HEAD, OPTIONS, POST"),
        ("/api/events/{id}", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("/api/events/{id}/registrations/{id}", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("/healthz", "GET, HEAD, OPTIONS"),
    ],
)
def test_all_methods_of_a_path_are_told(stage: Stage, path: str, allowed: str) -> None:
    event = stage.create_event()
    with stage.client() as client:
        url = path.format(**event)
        refused, options = (client.request(method, url) for method in ("PROPFIND", "OPTIONS"))
        unknown = client.options("/nowhere")

    assert (refused.status_code, refused.headers.get_list("allow")) == (405, [allowed])
    assert (refused.json()["code"], options.status_code) == ("METHOD_NOT_ALLOWED", 204)
    assert options.headers["allow"] == allowed
    assert unknown.status_code == 404


def test_options_are_told_of_the_whole_server(stage: Stage) -> None:
    with stage.client() as client:
        told, refused = (client.request(m, "/", extensions={"target": b"*"}) for m in ("OPTIONS", "GET"))

    assert (told.status_code, told.headers["allow"]) == (204, "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT")
    assert refused.status_code == 404


EXPOSED = {"location", "retry-after", "etag", "idempotent-replayed", "x-request-id", "preference-applied"}
EXPOSED |= {"ratelimit", "ratelimit-policy"}
SHOP = "https://shop.example"


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        ({SHOP}, SHOP, SHOP),
        ({SHOP, "http://localhost:3000"}, "http://localhost:3000", "http://localhost:3000"),
        ({SHOP}, "https://evil.example", None),
        ({SHOP}, None, None),
        ({"*"}, "https://evil.example", "*"),
        (None, SHOP, None),
    ],
)
def test_pages_of_allowed_origins_may_register(
    settings: Settings,
    connection: Connection,
    origins: set[str] | None,
    origin: str | None,
    allowed: str | None,
) -> None:
    InPostgres(connection, SETTINGS)
    url, mine = f"/api/p/{SETTINGS['slug']}/register", {"origin": origin} if origin else {}
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "idempotency-key"}
    with TestClient(create_app(settings.model_copy(update={"cors_origins": origins}))) as client:
        answers = [
            client.options(url, headers=mine | asked),
            client.post(url, json={"name": "User"}, headers=mine | {"prefer": "respond-async"}),
            client.post(url, json={"name": ""}, headers=mine),
            client.get("/api/p/no-such-event", headers=mine),
        ]
        private = client.get("/api/events", headers=mine)

    assert [answer.status_code for answer in answers] == [204, 202, 422, 404]
    for answer in answers:
        assert answer.headers.get("access-control-allow-origin") == allowed
        exposed = answer.headers.get("access-control-expose-headers", "").lower().split(", ")
        assert set(exposed) == (EXPOSED if allowed else {""})
        assert answer.headers.get("vary") == (
            "Origin" if origins == {SHOP} or len(origins or ()) > 1 else None
        )
    before = answers[0].headers
    assert "POST" in before["access-control-allow-methods"]
    assert {"authorization", "idempotency-key"} <= set(
        before["access-control-allow-headers"].lower().split(", ")
    )
    assert "access-control-allow-origin" not in private.headers


@pytest.mark.parametrize(
    "path",
    ["", "/{id}", "/{id}/registrations", "/{id}/audit", "/{id}/commands", "/{id}/stats", "/{id}/export"],
)
def test_an_unknown_parameter_is_refused_by_name(stage: Stage, path: str) -> None:
    event = stage.create_event()
    with stage.client() as client:
        url = "/api/events" + path.format(**event)
        answer = client.get(url, params={"stauts": "CONFIRMED", "limit": "1"}, headers=stage.admin)

    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_REQUEST")
    assert {"field": "stauts", "reason": "is no parameter of this route"} in answer.json()["errors"]


@pytest.mark.parametrize("query", ["/registrations?q=a&q=b", "/export?format=csv&format=ndjson"])
def test_a_repeated_parameter_is_refused_by_name(stage: Stage, query: str) -> None:
    url = f"/api/events/{stage.create_event()['id']}{query}"
    with stage.client() as client:
        answer = client.get(url, headers=stage.admin)

    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_REQUEST")


@pytest.mark.parametrize("slugs", [["a", "b"], ["a", "a"]])
def test_a_repeated_filter_lists_nothing(stage: Stage, slugs: list[str]) -> None:
    with stage.client() as client:
        answer = client.get("/api/events", params={"slug": slugs}, headers=stage.admin)

    assert answer.json()["errors"] == [{"field": "slug", "reason": "is there more than once"}]


def test_a_preference_is_told_with_every_answer(stage: Stage) -> None:
    event = stage.create_event(capacity=1, waitlistEnabled=False)
    url, wait = f"/api/p/{event['slug']}/register", {"prefer": "Wait=9"}
    with stage.client() as client:
        answers = [client.post(url, json={"name": "User"}, headers=wait) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [201, 409]
    assert [answer.headers["preference-applied"] for answer in answers] == ["wait=9"] * 2


@pytest.mark.parametrize(
    ("path", "reasons"),
    [
        ("/api/events/x", {"eventId": "must be an id, such as 01a21425-ecb9-728d-8e9f-f73da8bf37ea"}),
        (
            "/api/events/{id}/registrations?limit=2.5&status=LATE",
            {"limit": "must be a whole number", "status": "must be 'CONFIRMED', 'WAITLIST' or 'CANCELLED'"},
        ),
        ("/api/events/{id}/audit?limit=0", {"limit": "must be 1 or more"}),
        ("/api/events/{id}/audit?limit=1001", {"limit": "must be 1000 or less"}),
        ("/api/events/{id}/audit?cursor=x", {"cursor": "is not the nextCursor of a page"}),
        ("/api/events?=1", {"(no name)": "is no parameter of this route"}),
        (f"/api/events?{'x' * 200}=1", {"x" * 100: "is no parameter of this route"}),
    ],
)
def test_wrong_parameters_have_reasons_in_words(stage: Stage, path: str, reasons: dict[str, str]) -> None:
    event = stage.create_event()
    with stage.client() as client:
        answer = client.get(path.format(**event), headers=stage.admin)

    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_REQUEST")
    assert {error["field"]: error["reason"] for error in answer.json()["errors"]} == reasons


def test_a_head_ends_before_the_body(settings: Settings) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "HEAD", "path": "/healthz", "headers": [], "query_string": b""}
    asyncio.run(create_app(settings)(scope, receive, send))

    assert [(message["type"], message.get("body", b"")) for message in sent] == [
        ("http.response.start", b""),
        ("http.response.body", b""),
    ]
    assert scope["method"] == "HEAD", "by which the server knows that there is no body"


async def ask_for_health(front: Front, send: Send) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/healthz", "headers": [], "query_string": b""}
    await front({**scope, "client": ("127.0.0.1", 1)}, receive, send)


def test_answers_are_counted_once_and_together(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    count = Front._count  # noqa: SLF001 - the moment of the count

    def counting(front: Front) -> None:
        counted.append(len(front._answered))  # noqa: SLF001 - likewise
        count(front)

    async def send(_: Message) -> None:
        pass

    async def run() -> None:
        front = create_app(settings)
        async with front.app.router.lifespan_context(front.app):
            for times in (1, 3):
                await asyncio.gather(*(ask_for_health(front, send) for _ in range(times)))
                await asyncio.sleep(10 * GATHER_SECONDS)

    monkeypatch.setattr(Front, "_count", counting)
    asyncio.run(run())

    assert (counted[0], sum(counted)) == (1, 4)
    assert 0 not in counted


def test_a_broken_answer_is_followed_by_no_other(settings: Settings) -> None:
    sent: list[str] = []

    async def send(message: Message) -> None:
        sent.append(message["type"])
        if message["type"] == "http.response.body":
            raise OSError

    async def run() -> None:
        front = create_app(settings)
        async with front.app.router.lifespan_context(front.app):
            with pytest.raises(OSError):  # noqa: PT011 - it has no text
                await ask_for_health(front, send)

    asyncio.run(run())

    assert sent == ["http.response.start", "http.response.body"]
