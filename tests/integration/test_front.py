"""The outermost layer: an id on every answer, and errors as problems, in direct routes too."""

from collections.abc import Iterator
from uuid import UUID

import pytest
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient
from structlog.testing import capture_logs

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


@pytest.mark.parametrize("wait", ["-1", "-0.001", "nan", "inf", "-inf", "1e400", "abc", "", "1,5"])
def test_a_bad_wait_is_refused(stage: Stage, wait: str) -> None:
    event = stage.create_event()
    with stage.client() as client:
        receipt = client.post(f"/api/p/{event['slug']}/register", json={"name": "User"}).headers["location"]
        answer = client.get(receipt, params={"wait": wait})

    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_REQUEST")
    assert answer.json()["detail"].startswith("wait: ")


@pytest.mark.parametrize("wait", ["0", "0.5", "1e3", "20"])
def test_a_settled_receipt_needs_no_wait(stage: Stage, wait: str) -> None:
    event = stage.create_event()
    with stage.client() as client:
        receipt = client.post(f"/api/p/{event['slug']}/register", json={"name": "User"}).headers["location"]
        answer = client.get(receipt, params={"wait": wait})

    assert (answer.status_code, answer.json()["status"]) == (200, "CONFIRMED")


def test_a_short_wait_ends_without_an_outcome(settings: Settings, connection: Connection) -> None:
    event = InPostgres(connection, SETTINGS).event_id  # that no worker owns
    with TestClient(create_app(settings)) as client:
        accepted = client.post(
            f"/api/p/{event}/register", json={"name": "User"}, headers={"prefer": "respond-async"}
        )
        answer = client.get(accepted.headers["location"], params={"wait": "0.5"})

    assert (accepted.status_code, answer.status_code) == (202, 200)
    assert answer.json()["status"] == "PENDING"
