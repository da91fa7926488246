"""A full event refuses early, without a command, and never denies a spot that was free before the request."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2

from tests.integration.test_status_changes import patch, register
from tests.stage import Json, Stage


def post(client: httpx2.Client, event: Json, body: Json, **headers: str) -> httpx2.Response:
    return client.post(f"/api/p/{event['slug']}/register", json=body, headers=headers)


def commands_of(stage: Stage, event: Json) -> int:
    (row,) = stage.query("SELECT count(*) AS n FROM command WHERE event_id = %s", event["id"])
    return int(row["n"])


def sold_out(stage: Stage, **settings: object) -> Json:
    """Return an event without a free spot, whose owner has refused a registration."""
    event = stage.create_event(**{"capacity": 1, "waitlistEnabled": False, **settings})
    register(stage, event, email="first@example.org")
    with stage.client() as client:
        assert post(client, event, {"name": "Too late"}).json()["receiptId"], "the owner refuses the first"
    return event


def test_a_sold_out_event_refuses_without_a_command(stage: Stage) -> None:
    event = sold_out(stage)
    before = commands_of(stage, event)

    answers = stage.register_at_once(event, [{"name": f"User {n}"} for n in range(50)])

    assert {(a.status_code, a.json()["code"], "receiptId" in a.json()) for a in answers} == {
        (409, "EVENT_FULL", False)
    }
    assert commands_of(stage, event) == before


def test_early_refusals_keep_the_order_of_precedence(stage: Stage) -> None:
    event = sold_out(stage, maxSpotsPerRegistration=2)
    with stage.client() as client:
        again = post(client, event, {"name": "First", "email": "FIRST@example.org"})
        large = post(client, event, {"name": "Large", "spotsCount": 3})
        client.patch(f"/api/events/{event['id']}", json={"paused": True}, headers=stage.admin)
        paused = post(client, event, {"name": "Paused"})

    assert [a.json()["code"] for a in (again, large, paused)] == [
        "EVENT_FULL",
        "TOO_MANY_SPOTS",
        "EVENT_PAUSED",
    ]


def test_a_request_with_a_key_has_a_receipt(stage: Stage) -> None:
    event = stage.create_event(capacity=1, waitlistEnabled=False)
    mine, another = {"idempotency-key": "mine"}, {"idempotency-key": "another"}
    with stage.client() as client:
        first = post(client, event, {"name": "First"}, **mine)
        post(client, event, {"name": "Too late"})
        replayed = post(client, event, {"name": "First"}, **mine)
        before = commands_of(stage, event)
        refused, again = (post(client, event, {"name": "Other"}, **another) for _ in range(2))

    assert (replayed.status_code, replayed.json()) == (201, first.json())
    assert (refused.status_code, refused.json()["code"]) == (409, "EVENT_FULL")
    assert (again.status_code, again.json()["code"]) == (409, "EVENT_FULL")
    assert len({refused.json()["receiptId"], again.json()["receiptId"]}) == 2  # a refusal releases its key
    assert commands_of(stage, event) == before + 2


def test_a_waitlist_with_room_is_not_sold_out(stage: Stage) -> None:
    event = sold_out(stage)
    with stage.client() as client:
        change = {"waitlistEnabled": True, "waitlistLimit": 1}
        client.patch(f"/api/events/{event['id']}", json=change, headers=stage.admin)
        answers = [post(client, event, {"name": f"User {n}"}) for n in range(3)]

    assert [a.status_code for a in answers] == [201, 409, 409]
    assert answers[0].json()["status"] == "WAITLIST"


def test_a_freed_spot_is_never_denied(stage: Stage) -> None:
    """The only spot is freed and taken again, many times, while a crowd is being refused."""
    event = sold_out(stage)
    (holder,) = stage.registrations(event)
    done = threading.Event()

    def crowd(n: int) -> int:
        refused = 0
        with stage.client() as client:
            while not done.is_set():
                # A party of two never fits: the event stays among the full ones, and no spot is taken.
                answer = post(client, event, {"name": f"Crowd {n}", "spotsCount": 2})
                assert answer.status_code == 409
                refused += 1
        return refused

    with ThreadPoolExecutor(max_workers=8) as pool, stage.client() as client:
        crowds = [pool.submit(crowd, n) for n in range(8)]
        try:
            current: Json = {"registration": holder}
            for _ in range(40):
                assert patch(stage, event, current, "CANCELLED").status_code == 200
                taken = post(client, event, {"name": "Next"})
                assert (taken.status_code, taken.json().get("status")) == (201, "CONFIRMED"), taken.text
                current = taken.json()
        finally:
            done.set()
        assert all(crowd.result() > 0 for crowd in crowds)


def test_a_pending_change_prevents_early_refusals(stage: Stage) -> None:
    seeded = random.Random(3)  # noqa: S311 - reproducible, not secret
    event = sold_out(stage)
    with stage.client() as client:
        for capacity in range(2, 12):
            headers = {**stage.admin, "prefer": "respond-async"}
            change = client.patch(f"/api/events/{event['id']}", json={"capacity": capacity}, headers=headers)
            taken = post(client, event, {"name": f"Next {seeded.random()}"})
            assert change.status_code in {200, 202}
            assert taken.status_code == 201, "the larger capacity was accepted before"
