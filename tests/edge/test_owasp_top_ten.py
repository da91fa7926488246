"""The OWASP API Security Top 10 of 2023, each risk as requests.

Where the rest of a risk is held:

1. Object level authorization: `tests/integration/test_api_keys.py` asks every route for foreign events.
2. Authentication: `tests/unit/test_wrong_keys.py`, and `test_api_keys.py` for ended and revoked keys.
3. Property level authorization: `test_api_keys.py` for personal data; here for forged fields.
4. Resource consumption: `test_http_protocol.py` for heads, `test_pending_count.py` for commands,
   `test_admin_places.py` for reads, `tests/faults/test_deadlines.py` for time.
5. Function level authorization: `test_api_keys.py` asks every route without its scope.
6. Sensitive business flows: `tests/concurrency/test_overselling.py`; an event's settings bound a party.
7. Server side request forgery: no request names an address; here.
8. Misconfiguration: `test_pages.py` for the headers of every answer, `test_front.py` for other origins.
9. Inventory: here, and `tests/unit/test_openapi.py` for what a route may answer.
10. Unsafe consumption of APIs: `test_unreadable_outcomes.py`, `test_waking.py`: what Redis says is checked.
"""

import json
from typing import Any
from uuid import uuid4

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route

from api.main import create_app
from shared.settings import Settings
from tests.stage import Json, Stage

PAGES = {"/openapi.json", "/docs", "/docs/{name}"}
"""The document, and the page that shows it."""
FORGED = {
    "id": str(uuid4()),
    "seq": 1,
    "status": "CONFIRMED",
    "registrationId": str(uuid4()),
    "spotsReserved": 0,
    "overbookedSpots": 1_000,
    "organiserId": None,
    "actor": "admin",
    "acceptedAt": "2000-01-01T00:00:00Z",
    "createdBy": "admin",
    "__proto__": {},
}


def registered(stage: Stage, event: Json) -> str:
    with stage.client() as client:
        answer = client.post(f"/api/p/{event['slug']}/register", json={"name": "User"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["receiptId"])


def document_of(stage: Stage) -> Json:
    with stage.client() as client:
        document: Json = client.get("/openapi.json").json()
    return document


def test_a_receipt_is_of_its_event_alone(stage: Stage) -> None:
    ours, other = stage.create_event(), stage.create_event()
    receipt = registered(stage, ours)
    foreign = f"/api/p/{other['slug']}/receipts/{receipt}"
    with stage.client() as client:
        answers = [
            client.get(foreign),
            client.delete(foreign),
            client.patch(foreign, json={"spotsCount": 1}),
            client.get(f"/api/p/{ours['slug']}/receipts/{uuid4()}"),
        ]
        now = client.get(f"/api/p/{ours['slug']}/receipts/{receipt}").json()

    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(404, "RECEIPT_NOT_FOUND")}
    assert now["status"] == "CONFIRMED"


@pytest.mark.parametrize(
    "credentials",
    [
        "",
        "Bearer",
        "Bearer null",
        "Basic YWRtaW46YWRtaW4=",
        "bearer undefined",
        "{key}",
        "Token {key}",
    ],
)
def test_only_a_key_as_a_bearer_opens_a_route(stage: Stage, credentials: str) -> None:
    sent = {"authorization": credentials.format(key=stage.key), "x-api-key": stage.key}
    with stage.client() as client:
        answer = client.get("/api/events", headers=sent)
        by_address = client.get("/api/events", params={"key": stage.key, "access_token": stage.key})

    for refused in (answer, by_address):
        assert (refused.status_code, refused.json()["code"]) == (401, "UNAUTHORIZED")
        assert refused.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("method", "path", "own"),
    [
        ("POST", "/api/p/{slug}/register", {"name": "User"}),
        ("PATCH", "/api/p/{slug}/receipts/{receipt}", {"spotsCount": 1}),
        ("POST", "/api/events", {"slug": "forged", "title": "Forged", "capacity": 1}),
        ("PATCH", "/api/events/{id}", {"title": "Forged"}),
        ("POST", "/api/events/{id}/registrations", {"name": "User"}),
        ("PATCH", "/api/events/{id}/registrations/{registration}", {"name": "Forged"}),
        ("POST", "/api/events/{id}/counter/heal", {}),
        ("POST", "/api/keys", {"name": "forged", "scopes": ["events:read"], "organiser": None}),
    ],
)
def test_no_body_sets_what_is_not_a_clients(
    stage: Stage, method: str, path: str, own: dict[str, Any]
) -> None:
    event = stage.create_event()
    receipt = registered(stage, event)
    (registration,) = stage.registrations(event)
    url = path.format(receipt=receipt, registration=registration["id"], **event)
    known = {"status"} if "/registrations" in path else set()
    with stage.client() as client:
        for field, value in FORGED.items():
            if field in known:
                continue
            answer = client.request(method, url, json={**own, field: value}, headers=stage.admin)
            assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_REQUEST"), field
            assert {"field": field, "reason": "is no field of this request"} in answer.json()["errors"]

    assert stage.get(f"/api/events/{event['id']}")["title"] == event["title"]
    assert stage.registrations(event) == [registration]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b'{"name":"' + b"x" * 20_000 + b'"}', 413),
        (b"[" * 8_000 + b"]" * 8_000, 422),
        (b'{"a":' * 2_000 + b"1" + b"}" * 2_000, 422),
        (b'{"name":"User","spotsCount":' + b"9" * 5_000 + b"}", 422),
        (b'{"name":"User","spotsCount":1e999}', 422),
        (b"{" + b",".join(b'"%d":1' % number for number in range(1_500)) + b"}", 422),
        (json.dumps({"name": "User", "email": "a" * 15_000 + "@example.org"}).encode(), 422),
    ],
    ids=range(7),
)
def test_a_request_consumes_little(stage: Stage, sent: bytes, status: int) -> None:
    event = stage.create_event()
    with stage.client() as client:
        answer = client.post(
            f"/api/p/{event['slug']}/register", content=sent, headers={"content-type": "application/json"}
        )

    assert answer.status_code == status, answer.text[:300]
    assert len(answer.content) < 20_000
    assert stage.registrations(event) == []


def test_the_viewer_key_changes_nothing(stage: Stage) -> None:
    event = stage.create_event()
    asked = 0
    with stage.client() as client:
        for path, methods in document_of(stage)["paths"].items():
            for method in methods.keys() - {"get"}:
                if path.startswith("/api/p/"):
                    continue
                asked += 1
                url = path.format(event_id=event["id"], registration_id=uuid4(), prefix="ao_000000000000")
                for key, status in ((f"Bearer {stage.viewer_key}", 403), ("", 401)):
                    answer = client.request(method, url, headers={"authorization": key})
                    assert answer.status_code == status, (method, url)
    assert asked >= 8


def test_no_request_names_an_address_to_ask(stage: Stage) -> None:
    document = document_of(stage)
    bodies = [
        answer["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for methods in document["paths"].values()
        for route in methods.values()
        if (answer := route.get("requestBody"))
    ]
    properties = {name for body in bodies for name in document["components"]["schemas"][body]["properties"]}

    assert len(bodies) > 5
    assert not [
        name for name in properties if any(word in name.lower() for word in ("url", "uri", "host", "hook"))
    ]


@pytest.mark.parametrize(
    "forged", ["host", "x-forwarded-host", "forwarded", "x-original-url", "x-rewrite-url"]
)
def test_no_header_leads_elsewhere(stage: Stage, forged: str) -> None:
    event = stage.create_event()
    value = "host=evil.example" if forged == "forwarded" else "evil.example"
    with stage.client() as client:
        page = client.get("/", headers={"accept": "text/html", forged: value})
        slash = client.get("/api/events/", headers={**stage.admin, forged: value})
        made = client.post(f"/api/p/{event['slug']}/register", json={"name": "User"}, headers={forged: value})

    assert made.headers["location"].startswith(f"/api/p/{event['slug']}/receipts/")
    for answer in (page, slash, made):
        assert "evil.example" not in answer.text + str(answer.headers)


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "PUT"])
def test_no_other_method_is_answered(stage: Stage, method: str) -> None:
    sent = "Bearer sent"
    with stage.client() as client:
        for path in ("/", "/docs", "/healthz", "/api/events", "/api/p/demo", "/openapi.json"):
            answer = client.request(method, path, headers={"authorization": sent})
            assert (answer.status_code, answer.json()["code"]) == (405, "METHOD_NOT_ALLOWED"), path
            assert sent not in answer.text


def test_every_route_is_in_the_document(settings: Settings) -> None:
    app = create_app(settings).app
    documented = {
        (path, method.upper()) for path, methods in app.openapi()["paths"].items() for method in methods
    }
    routes = [route for route in app.state.routes if isinstance(route, Route)]
    served = {(route.path, method) for route in routes for method in route.methods or ()}
    undocumented = {path for path, method in served - documented if method != "HEAD"}

    assert len([route for route in routes if isinstance(route, APIRoute)]) >= len(documented)
    assert undocumented == PAGES
