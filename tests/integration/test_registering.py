"""Registering over HTTP: decisions, refusals, receipts, keys, and clear errors."""

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx2
import pytest

from tests.stage import Json, Stage

IN_AN_HOUR = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
AN_HOUR_AGO = (datetime.now(UTC) - timedelta(hours=1)).isoformat()


def post(stage: Stage, event: Json, body: Json, **headers: str) -> httpx2.Response:
    with stage.client() as client:
        return client.post(f"/api/p/{event['slug']}/register", json=body, headers=headers)


def commands_of(stage: Stage, event: Json) -> int:
    (row,) = stage.query("SELECT count(*) AS n FROM command WHERE event_id = %s", event["id"])
    return int(row["n"])


def test_a_registration_is_confirmed_and_its_receipt_found_again(stage: Stage) -> None:
    event = stage.create_event()

    answer = post(stage, event, {"name": "User A", "spotsCount": 2, "email": "User.A@Example.ORG"})

    assert answer.status_code == 201
    body = answer.json()
    assert body["status"] == body["registration"]["status"] == "CONFIRMED"
    assert answer.headers["location"] == f"/api/p/{event['slug']}/receipts/{body['receiptId']}"
    assert stage.get(answer.headers["location"]) == body
    (row,) = stage.registrations(event)
    assert (row["name"], row["email"], row["spotsCount"]) == ("User A", "User.A@example.org", 2)


def test_availability_tells_what_is_left(stage: Stage) -> None:
    event = stage.create_event(capacity=3, maxSpotsPerRegistration=5)
    post(stage, event, {"name": "A", "spotsCount": 2})
    post(stage, event, {"name": "B", "spotsCount": 2})

    found = stage.get(f"/api/p/{event['slug']}")

    assert datetime.fromisoformat(found.pop("asOf")) > datetime.fromisoformat(event["createdAt"])
    assert found == {
        "slug": event["slug"],
        "title": "A drop",
        "capacity": 3,
        "spotsReserved": 2,
        "spotsLeft": 1,
        "waitlistLength": 1,
        "state": "OPEN",
        "opensAt": None,
        "closesAt": None,
        "maxSpotsPerRegistration": 5,
        "spotsOffered": 0,
        "next": "WAITLIST",
        "pending": 0,
    }


@pytest.mark.parametrize(
    ("terms", "code", "state"),
    [
        (
            {"opensAt": IN_AN_HOUR},
            "REGISTRATION_NOT_OPEN",
            "SCHEDULED",
        ),
        ({"closesAt": AN_HOUR_AGO}, "REGISTRATION_CLOSED", "CLOSED"),
        ({"maxSpotsPerRegistration": 1}, "TOO_MANY_SPOTS", "OPEN"),
        ({"capacity": 1}, "TOO_MANY_SPOTS", "OPEN"),
        ({"capacity": 0, "waitlistEnabled": False}, "EVENT_FULL", "OPEN"),
        ({"capacity": 0, "waitlistLimit": 0}, "EVENT_FULL", "OPEN"),
    ],
)
def test_a_refusal_has_a_code_and_a_receipt(stage: Stage, terms: Json, code: str, state: str) -> None:
    event = stage.create_event(**terms)

    answer = post(stage, event, {"name": "User", "spotsCount": 2}, **{"idempotency-key": "has a command"})

    assert (answer.status_code, answer.headers["content-type"]) == (409, "application/problem+json")
    problem = answer.json()
    assert (problem["code"], problem["status"]) == (code, 409)
    receipt = stage.get(f"/api/p/{event['slug']}/receipts/{problem['receiptId']}")
    assert (receipt["status"], receipt["refusal"]["code"]) == ("REFUSED", code)
    assert stage.registrations(event) == []
    assert stage.get(f"/api/p/{event['slug']}")["state"] == state


def test_an_event_that_is_not_open_tells_when(stage: Stage) -> None:
    event = stage.create_event(opensAt=IN_AN_HOUR)

    problem = post(stage, event, {"name": "User"}).json()

    assert datetime.fromisoformat(problem["opensAt"]) == datetime.fromisoformat(event["opensAt"])
    assert problem["detail"] == f"Registration opens at {event['opensAt']}."


def test_spots_owed_to_the_waitlist_are_said_to_be(stage: Stage) -> None:
    event = stage.create_event(capacity=5, waitlistLimit=1)
    for spots in (1, 1, 1, 3):
        post(stage, event, {"name": "User", "spotsCount": spots})

    problem = post(stage, event, {"name": "One"}).json()
    found = stage.get(f"/api/p/{event['slug']}")

    assert (problem["code"], problem["detail"]) == (
        "EVENT_FULL",
        "2 spots are free, for the registrations on the waitlist, which takes no more of them.",
    )
    assert (found["spotsLeft"], found["spotsOffered"], found["next"]) == (2, 0, "FULL")


@pytest.mark.parametrize("policy", ["strict_fifo", "skip_unfit"])
def test_one_large_party_closes_no_event(stage: Stage, policy: str) -> None:
    event = stage.create_event(capacity=5, waitlistLimit=1, promotionPolicy=policy)

    large = post(stage, event, {"name": "Big", "spotsCount": 10}).json()
    larger = post(stage, event, {"name": "Bigger", "spotsCount": 11}).json()
    one = post(stage, event, {"name": "One"})

    assert (large["code"], large["detail"]) == ("TOO_MANY_SPOTS", "The event has only 5 spots in all.")
    assert larger["detail"] == large["detail"]
    assert (one.status_code, one.json()["status"]) == (201, "CONFIRMED")
    assert stage.get(f"/api/p/{event['slug']}")["waitlistLength"] == 0


def test_without_capacity_every_party_waits(stage: Stage) -> None:
    event = stage.create_event(capacity=0, waitlistLimit=1)

    waiting = post(stage, event, {"name": "Big", "spotsCount": 10}).json()
    refused = post(stage, event, {"name": "One"}).json()

    assert (waiting["status"], waiting["registration"]["waitlistPosition"]) == ("WAITLIST", 1)
    assert refused["code"] == "EVENT_FULL"


def test_a_paused_event_refuses_and_goes_on_when_resumed(stage: Stage) -> None:
    event = stage.create_event()
    path = f"/api/events/{event['id']}"
    with stage.client() as client:
        assert client.patch(path, json={"paused": True}, headers=stage.admin).status_code == 200
        refused = post(stage, event, {"name": "User"})
        assert client.patch(path, json={"paused": False}, headers=stage.admin).status_code == 200
        taken = post(stage, event, {"name": "User"})

    assert (refused.status_code, refused.json()["code"]) == (409, "EVENT_PAUSED")
    assert taken.status_code == 201


def test_one_email_address_has_one_active_registration(stage: Stage) -> None:
    event = stage.create_event()
    first = post(stage, event, {"name": "A", "email": "someone@example.org"})
    second = post(stage, event, {"name": "A", "email": "SomeOne@EXAMPLE.org"})
    with stage.client() as client:
        client.delete(f"/api/p/{event['slug']}/receipts/{first.json()['receiptId']}")
    third = post(stage, event, {"name": "A", "email": "someone@example.org"})

    assert (second.status_code, second.json()["code"]) == (409, "ALREADY_REGISTERED")
    assert third.status_code == 201
    places = {r["id"]: r["seq"] for r in stage.registrations(event)}
    assert places[third.json()["registration"]["id"]] > places[first.json()["registration"]["id"]]


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b'{"name":"x"}', "text/plain", 415, "UNSUPPORTED_MEDIA_TYPE"),
        (b'{"name":"x"', "application/json", 422, "INVALID_REQUEST"),
        (b"[]", "application/json", 422, "INVALID_REQUEST"),
        (b"{}", "application/json", 422, "INVALID_REQUEST"),
        (b'{"name":"  "}', "application/json", 422, "INVALID_REQUEST"),
        (b'{"name":"a\\u0000b"}', "application/json", 422, "INVALID_REQUEST"),
        (b'{"name":"Bob\\nby"}', "application/json", 422, "INVALID_REQUEST"),
        (b'{"name":"\\ud800"}', "application/json", 422, "INVALID_REQUEST"),
        (b'{"name":"\xff"}', "application/json", 422, "INVALID_REQUEST"),
        (b'{"name":"x","spotsCount":0}', "application/json", 422, "INVALID_REQUEST"),
        (b'{"name":"x","spotsCount":1.5}', "application/json", 422, "INVALID_REQUEST"),
        (b'{"name":"x","spotsCount":1e99}', "application/json", 422, "INVALID_REQUEST"),
        (b'{"name":"x","email":"no-address"}', "application/json", 422, "INVALID_REQUEST"),
        (b'{"name":"x","spots":1}', "application/json", 422, "INVALID_REQUEST"),
        (b'{"name":"' + b"x" * 20_000 + b'"}', "application/json", 413, "BODY_TOO_LARGE"),
    ],
)
def test_bad_input_gets_a_clear_problem_and_leaves_no_command(
    stage: Stage, content: bytes, content_type: str, status: int, code: str
) -> None:
    event = stage.create_event()

    with stage.client() as client:
        headers = {"content-type": content_type, "x-request-id": "mine"}
        answer = client.post(f"/api/p/{event['slug']}/register", content=content, headers=headers)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = answer.json()
    assert (problem["status"], problem["code"], problem["requestId"]) == (status, code, "mine")
    assert problem["detail"]
    assert commands_of(stage, event) == 0


def test_a_body_that_lies_about_its_length_is_cut_off(stage: Stage) -> None:
    event = stage.create_event()

    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 1_000

    with stage.client() as client:
        headers = {"content-type": "application/json"}
        answer = client.post(f"/api/p/{event['slug']}/register", content=chunks(), headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (413, "BODY_TOO_LARGE")


def test_an_unknown_event_is_not_found(stage: Stage) -> None:
    with stage.client() as client:
        answers = [
            client.post("/api/p/nothing-here/register", json={"name": "x"}),
            client.get("/api/p/nothing-here"),
            client.post("/api/p/a%00b/register", json={"name": "x"}),
            client.get(f"/api/p/nothing-here/receipts/{uuid.uuid4()}"),
            client.get(f"/api/events/{uuid.uuid4()}", headers=stage.admin),
            client.get(f"/api/events/{uuid.uuid4()}/registrations", headers=stage.admin),
            client.get(f"/api/events/{uuid.uuid4()}/audit", headers=stage.admin),
            client.get(f"/api/events/{uuid.uuid4()}/counter", headers=stage.admin),
            client.patch(f"/api/events/{uuid.uuid4()}", json={"capacity": 1}, headers=stage.admin),
        ]

    assert [(a.status_code, a.json()["code"]) for a in answers] == [(404, "EVENT_NOT_FOUND")] * len(answers)


def test_a_receipt_that_was_never_issued_is_unknown_and_not_pending(stage: Stage) -> None:
    event = stage.create_event()
    with stage.client() as client:
        answers = [
            client.get(f"/api/p/{event['slug']}/receipts/{name}")
            for name in (uuid.uuid4(), "not-a-receipt", event["id"])
        ]
        cancelled = client.delete(f"/api/p/{event['slug']}/receipts/{uuid.uuid4()}")

    assert [(a.status_code, a.json()["code"]) for a in [*answers, cancelled]] == [
        (404, "RECEIPT_NOT_FOUND")
    ] * 4


def test_who_does_not_want_to_wait_gets_a_receipt_that_settles(stage: Stage) -> None:
    event = stage.create_event()

    answer = post(stage, event, {"name": "User"}, prefer="respond-async")

    assert answer.status_code == 202
    body = answer.json()
    assert (body["status"], body["registration"]) == ("PENDING", None)
    assert body["ahead"] == 0
    assert 1 <= int(answer.headers["retry-after"]) <= 30
    assert stage.get(answer.headers["location"] + "?wait=10")["status"] == "CONFIRMED"


def test_an_unchanged_receipt_is_not_sent_again(stage: Stage) -> None:
    event = stage.create_event(capacity=1)
    first = post(stage, event, {"name": "A"}).json()
    second = post(stage, event, {"name": "B"}).json()
    path = f"/api/p/{event['slug']}/receipts/{second['receiptId']}"
    with stage.client() as client:
        seen = client.get(path)
        again = client.get(path, headers={"if-none-match": f'"other", W/{seen.headers["etag"]}'})
        client.delete(f"/api/p/{event['slug']}/receipts/{first['receiptId']}")
        promoted = client.get(path, headers={"if-none-match": seen.headers["etag"]})

    assert (again.status_code, again.content) == (304, b"")
    assert (promoted.status_code, promoted.json()["status"]) == (200, "CONFIRMED")


def test_the_same_key_and_body_get_the_same_answer(stage: Stage) -> None:
    event = stage.create_event(capacity=1)
    key = {"idempotency-key": str(uuid.uuid4())}
    body = {"name": "User", "spotsCount": 1}

    first, second = post(stage, event, body, **key), post(stage, event, body, **key)
    with stage.client() as client:  # other white space, the same request
        third = client.post(
            f"/api/p/{event['slug']}/register",
            content=b'{ "spotsCount": 1, "name": "User" }',
            headers={"content-type": "application/json", **key},
        )

    assert [a.status_code for a in (first, second, third)] == [201] * 3
    assert first.json() == second.json() == third.json()
    assert ["idempotent-replayed" in a.headers for a in (first, second, third)] == [False, True, True]
    assert commands_of(stage, event) == len(stage.registrations(event)) == 1


def test_a_refusal_releases_its_key(stage: Stage) -> None:
    event = stage.create_event(capacity=0, waitlistEnabled=False)
    key = {"idempotency-key": "refused"}

    first, second = post(stage, event, {"name": "User"}, **key), post(stage, event, {"name": "User"}, **key)
    with stage.client() as client:
        client.patch(f"/api/events/{event['id']}", json={"capacity": 1}, headers=stage.admin)
    third = post(stage, event, {"name": "Another"}, **key)
    fourth = post(stage, event, {"name": "Another"}, **key)

    assert [a.status_code for a in (first, second, third, fourth)] == [409, 409, 201, 201]
    assert first.json()["receiptId"] != second.json()["receiptId"]
    assert "idempotent-replayed" not in second.headers
    assert (fourth.headers["idempotent-replayed"], fourth.json()) == ("true", third.json())


def test_a_key_that_was_used_for_something_else_is_refused(stage: Stage) -> None:
    event = stage.create_event()
    key = {"idempotency-key": "used twice"}
    post(stage, event, {"name": "User"}, **key)

    answer = post(stage, event, {"name": "Another"}, **key)

    assert (answer.status_code, answer.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert commands_of(stage, event) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there"])
def test_an_impossible_key_is_refused(stage: Stage, key: str) -> None:
    event = stage.create_event()

    answer = post(stage, event, {"name": "User"}, **{"idempotency-key": key})

    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_REQUEST")
    assert commands_of(stage, event) == 0


def test_twenty_at_once_with_one_key_are_one_registration(stage: Stage) -> None:
    event = stage.create_event()

    answers = stage.register_at_once(event, [{"name": "User"}] * 20, **{"idempotency-key": "once"})

    assert [a.status_code for a in answers] == [201] * 20
    assert len({a.json()["receiptId"] for a in answers}) == 1
    assert sum("idempotent-replayed" not in a.headers for a in answers) == 1
    assert stage.get(f"/api/events/{event['id']}")["spotsReserved"] == 1


def test_twenty_at_once_with_one_address_are_one_registration(stage: Stage) -> None:
    event = stage.create_event()

    answers = stage.register_at_once(event, [{"name": "User", "email": "one@example.org"}] * 20)

    assert sorted(a.status_code for a in answers) == [201] + [409] * 19
    assert {a.json()["code"] for a in answers if a.status_code == 409} == {"ALREADY_REGISTERED"}


def test_admin_routes_need_a_key_and_the_right_one(stage: Stage) -> None:
    event = stage.create_event()
    path = f"/api/events/{event['id']}"
    viewer = {"authorization": f"Bearer {stage.viewer_key}"}
    with stage.client() as client:
        without = client.get(path)
        wrong = client.get(path, headers={"authorization": "Bearer something-else-entirely"})
        reading = client.get(path, headers=viewer)
        writing = client.patch(path, json={"capacity": 1}, headers=viewer)
        creating = client.post("/api/events", json={"slug": "x", "title": "X", "capacity": 1}, headers=viewer)

    assert [a.status_code for a in (without, wrong, reading, writing, creating)] == [401, 401, 200, 403, 403]
    assert without.headers["www-authenticate"] == "Bearer"
    assert without.json()["code"] == "UNAUTHORIZED"


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"slug": "Has Spaces"}, 422, "INVALID_REQUEST"),
        ({"slug": "inj\nected"}, 422, "INVALID_REQUEST"),
        ({"title": ""}, 422, "INVALID_REQUEST"),
        ({"capacity": -1}, 422, "INVALID_REQUEST"),
        ({"capacity": 2**31}, 422, "INVALID_REQUEST"),
        ({"promotionPolicy": "random"}, 422, "INVALID_REQUEST"),
        ({"opensAt": "2026-11-24T10:00:00"}, 422, "INVALID_REQUEST"),
        ({"opensAt": "2026-11-24T10:00:00Z", "closesAt": "2026-11-24T09:00:00Z"}, 422, "INVALID_REQUEST"),
        ({"opensAt": "0001-01-01T00:00:00+14:00"}, 422, "INVALID_REQUEST"),
        ({"closesAt": "9999-12-31T23:59:59-12:00"}, 422, "INVALID_REQUEST"),
        ({"colour": "red"}, 422, "INVALID_REQUEST"),
    ],
)
def test_an_event_that_makes_no_sense_is_not_created(
    stage: Stage, change: Json, status: int, code: str
) -> None:
    with stage.client() as client:
        answer = client.post(
            "/api/events", json={"slug": "sense", "title": "S", "capacity": 1, **change}, headers=stage.admin
        )

    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_slug_belongs_to_one_event(stage: Stage) -> None:
    event = stage.create_event()
    with stage.client() as client:
        body = {"slug": event["slug"], "title": "Another", "capacity": 1}
        answer = client.post("/api/events", json=body, headers=stage.admin)

    assert (answer.status_code, answer.json()["code"]) == (409, "SLUG_TAKEN")


def test_events_and_registrations_come_in_pages_and_can_be_searched(stage: Stage) -> None:
    event = stage.create_event(capacity=2)
    names = ["Ada", "Grace_H", "GraceXH", "Barbara"]
    for name in names:
        post(stage, event, {"name": name})
    path = f"/api/events/{event['id']}/registrations"

    first = stage.get(f"{path}?limit=3")
    rest = stage.get(f"{path}?limit=3&cursor={first['nextCursor']}")
    found = stage.get(f"{path}?q=grace_h")
    waiting = stage.get(f"{path}?status=WAITLIST")

    assert [r["name"] for r in first["items"] + rest["items"]] == names
    assert rest["nextCursor"] is None
    assert [r["name"] for r in found["items"]] == ["Grace_H"]
    assert [(r["name"], r["waitlistPosition"]) for r in waiting["items"]] == [("GraceXH", 1), ("Barbara", 2)]
    one = stage.get(f"{path}/{waiting['items'][1]['id']}")
    assert one == waiting["items"][1]
    slugs, cursor = [], ""
    while cursor is not None:
        page = stage.get(f"/api/events?limit=2{cursor and '&cursor='}{cursor}")
        slugs += [e["slug"] for e in page["items"]]
        cursor = page["nextCursor"]
    assert event["slug"] in slugs
    assert len(slugs) == len(set(slugs))


def test_the_service_says_how_it_is(stage: Stage) -> None:
    with stage.client() as client:
        healthy, ready = client.get("/healthz"), client.get("/readyz")
        document = client.get("/openapi.json").json()
        docs = client.get("/docs")

    assert (healthy.status_code, ready.status_code, docs.status_code) == (200, 200, 200)
    assert ready.json()["checks"] == dict.fromkeys(
        ("database", "schema", "sequence", "worker", "durability", "broker", "results"), "ok"
    )
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, answer in operation["responses"].items():
                for kind, content in answer.get("content", {}).items():
                    assert content.get("examples") or content.get("example"), (method, path, status, kind)


def test_a_method_or_path_that_is_not_there_gets_a_problem(stage: Stage) -> None:
    with stage.client() as client:
        answers = [client.get("/nowhere"), client.put("/healthz")]

    assert [(a.status_code, a.headers["content-type"]) for a in answers] == [
        (404, "application/problem+json"),
        (405, "application/problem+json"),
    ]


def test_long_polls_end_with_the_decision(stage: Stage) -> None:
    event = stage.create_event()
    with ThreadPoolExecutor(max_workers=8) as pool:
        receipts = [
            post(stage, event, {"name": f"User {n}"}, prefer="respond-async").headers["location"]
            for n in range(8)
        ]
        began = time.monotonic()
        found = list(pool.map(lambda path: stage.get(f"{path}?wait=20"), receipts))

    assert {f["status"] for f in found} == {"CONFIRMED"}
    assert time.monotonic() - began < 20, "the answers came with the decision, not with the end of the wait"
