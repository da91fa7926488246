"""Every transition of a registration, as an admin makes it over HTTP, and what it does to the counter."""

from typing import Any

import httpx2
import pytest

from tests.stage import Json, Stage


def register(stage: Stage, event: Json, **body: Any) -> Json:
    with stage.client() as client:
        answer = client.post(f"/api/p/{event['slug']}/register", json={"name": "User", **body})
    assert answer.status_code == 201, answer.text
    found: Json = answer.json()
    return found


def patch(stage: Stage, event: Json, registration: Json, status: str, **more: str) -> httpx2.Response:
    path = f"/api/events/{event['id']}/registrations/{registration['registration']['id']}"
    with stage.client() as client:
        return client.patch(path, json={"status": status, **more}, headers=stage.admin)


def delete(stage: Stage, event: Json, registration: Json) -> httpx2.Response:
    path = f"/api/events/{event['id']}/registrations/{registration['registration']['id']}"
    with stage.client() as client:
        return client.delete(path, headers=stage.admin)


@pytest.mark.parametrize(
    ("path", "held"),
    [
        (["CANCELLED"], 0),
        (["WAITLIST"], 0),
        (["CONFIRMED"], 2),
        (["WAITLIST", "CONFIRMED"], 2),
        (["WAITLIST", "CANCELLED"], 0),
        (["CANCELLED", "CONFIRMED"], 2),
        (["CANCELLED", "WAITLIST"], 0),
        (["CANCELLED", "CANCELLED"], 0),
        (["WAITLIST", "CONFIRMED", "CANCELLED", "CONFIRMED"], 2),
    ],
)
def test_the_counter_follows_every_transition(stage: Stage, path: list[str], held: int) -> None:
    event = stage.create_event(capacity=5)
    party = register(stage, event, spotsCount=2)

    answers = [patch(stage, event, party, status) for status in path]

    assert [answer.status_code for answer in answers] == [200] * len(path)
    answer = answers[-1]
    assert answer.json()["registration"]["status"] == path[-1]
    assert answer.json()["event"]["spotsReserved"] == held
    assert answer.json()["event"]["waitlistLength"] == (path[-1] == "WAITLIST")
    counter = stage.get(f"/api/events/{event['id']}/counter")
    assert counter == {"spotsReserved": held, "actualConfirmed": held, "drift": 0}


def test_a_status_that_a_registration_has_already_changes_nothing(stage: Stage) -> None:
    event = stage.create_event()
    party = register(stage, event)
    before = stage.get(f"/api/events/{event['id']}/audit")

    answer = patch(stage, event, party, "CONFIRMED")

    assert (answer.status_code, answer.json()["changed"]) == (200, False)
    assert stage.get(f"/api/events/{event['id']}/audit") == before


def test_no_promotion_past_capacity(stage: Stage) -> None:
    event = stage.create_event(capacity=3, autoPromote=False)
    register(stage, event, spotsCount=2)
    waiting = register(stage, event, spotsCount=3)

    answer = patch(stage, event, waiting, "CONFIRMED")

    assert answer.status_code == 409
    problem = answer.json()
    assert (problem["code"], problem["spotsLeft"], problem["spotsNeeded"]) == ("CAPACITY_EXCEEDED", 1, 3)
    assert stage.get(f"/api/events/{event['id']}")["spotsReserved"] == 2


def test_a_deleted_registration_frees_its_spots_once(stage: Stage) -> None:
    event = stage.create_event(capacity=3)
    party = register(stage, event, spotsCount=3)
    waiting = register(stage, event, spotsCount=2)

    first, second = delete(stage, event, party), delete(stage, event, party)

    assert first.status_code == 200, first.text
    assert first.json()["spotsFreed"] == 3
    assert second.status_code == 404
    assert stage.get(f"/api/events/{event['id']}")["spotsReserved"] == 2
    found = stage.get(f"/api/p/{event['slug']}/receipts/{waiting['receiptId']}")
    assert found["status"] == "CONFIRMED"
    gone = stage.get(f"/api/p/{event['slug']}/receipts/{party['receiptId']}")
    assert gone["status"] == "DELETED"


def test_a_deletion_under_a_key_is_answered_the_same_again(stage: Stage) -> None:
    event = stage.create_event()
    party = register(stage, event, spotsCount=2)
    path = f"/api/events/{event['id']}/registrations/{party['registration']['id']}"
    with stage.client() as client:
        headers = {**stage.admin, "idempotency-key": "delete once"}
        first, second = (client.delete(path, headers=headers) for _ in range(2))

    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json() == second.json()
    assert second.headers["idempotent-replayed"] == "true"


def test_whom_an_admin_moves_to_the_waitlist_goes_to_its_tail(stage: Stage) -> None:
    event = stage.create_event(capacity=1)
    first, second, third = (register(stage, event) for _ in range(3))

    answer = patch(stage, event, first, "WAITLIST", reason="gave it back")

    assert answer.json()["registration"]["waitlistPosition"] == 2
    statuses = {r["id"]: r["status"] for r in stage.registrations(event)}
    assert [statuses[r["registration"]["id"]] for r in (first, second, third)] == [
        "WAITLIST",
        "CONFIRMED",
        "WAITLIST",
    ]
    entries = stage.get(f"/api/events/{event['id']}/audit")["items"]
    assert [(e["kind"], e["fromStatus"], e["toStatus"], e["reason"]) for e in entries[-2:]] == [
        ("change_status", "CONFIRMED", "WAITLIST", "gave it back"),
        ("promotion", "WAITLIST", "CONFIRMED", None),
    ]


def test_a_raised_capacity_promotes_as_many_as_fit_in_order(stage: Stage) -> None:
    event = stage.create_event(capacity=0)
    parties = [register(stage, event, spotsCount=n) for n in (1, 2, 3, 1)]

    with stage.client() as client:
        answer = client.patch(f"/api/events/{event['id']}", json={"capacity": 5}, headers=stage.admin)

    assert (answer.status_code, answer.json()["spotsReserved"], answer.json()["waitlistLength"]) == (
        200,
        3,
        2,
    )
    statuses = {r["id"]: r["status"] for r in stage.registrations(event)}
    assert [statuses[p["registration"]["id"]] for p in parties] == [
        "CONFIRMED",
        "CONFIRMED",
        "WAITLIST",
        "WAITLIST",
    ]


def test_a_capacity_below_what_is_reserved_is_refused(stage: Stage) -> None:
    event = stage.create_event(capacity=5)
    register(stage, event, spotsCount=3)

    with stage.client() as client:
        answer = client.patch(f"/api/events/{event['id']}", json={"capacity": 2}, headers=stage.admin)

    assert (answer.status_code, answer.json()["code"]) == (409, "CAPACITY_BELOW_RESERVED")
    assert stage.get(f"/api/events/{event['id']}")["capacity"] == 5


def test_a_holder_cancels_once_and_the_next_in_line_is_confirmed(stage: Stage) -> None:
    event = stage.create_event(capacity=1)
    mine, other = register(stage, event), register(stage, event)
    path = f"/api/p/{event['slug']}/receipts/{mine['receiptId']}"

    with stage.client() as client:
        answers = [client.delete(path), client.delete(path)]

    assert [(a.status_code, a.json()["status"]) for a in answers] == [(200, "CANCELLED")] * 2
    found = stage.get(f"/api/p/{event['slug']}/receipts/{other['receiptId']}")
    assert found["status"] == "CONFIRMED"
    assert stage.get(f"/api/events/{event['id']}")["spotsReserved"] == 1


def test_a_drifted_counter_is_healed_and_the_healing_audited(stage: Stage) -> None:
    event = stage.create_event(capacity=5)
    register(stage, event, spotsCount=2)
    stage.query("UPDATE event SET spots_reserved = 4 WHERE id = %s RETURNING id", event["id"])

    with stage.client() as client:
        answer = client.post(
            f"/api/events/{event['id']}/counter/heal", json={"reason": "by hand"}, headers=stage.admin
        )

    assert answer.status_code == 200, answer.text
    assert (answer.json()["drift"], answer.json()["spotsReserved"], answer.json()["overbookedSpots"]) == (
        2,
        2,
        0,
    )
    last = stage.get(f"/api/events/{event['id']}/audit")["items"][-1]
    assert (last["kind"], last["reason"], last["beforeAfter"]) == (
        "heal_counter",
        "by hand",
        {"spotsReserved": [4, 2]},
    )
    assert (last["spotsDelta"], last["spotsReserved"]) == (0, 2), "the trail never knew of the drift"


def test_an_event_that_really_is_oversold_is_frozen_until_it_fits(stage: Stage) -> None:
    event = stage.create_event(capacity=2, autoPromote=False)
    parties = [register(stage, event) for _ in range(4)]
    stage.query("UPDATE registration SET status = 'CONFIRMED' WHERE event_id = %s RETURNING id", event["id"])

    with stage.client() as client:
        healed = client.post(f"/api/events/{event['id']}/counter/heal", headers=stage.admin).json()
    newcomer = register(stage, event)
    patch(stage, event, parties[0], "CANCELLED")
    refused = patch(stage, event, newcomer, "CONFIRMED")

    assert (healed["drift"], healed["overbookedSpots"]) == (-2, 2)
    assert newcomer["status"] == "WAITLIST"
    assert (refused.status_code, refused.json()["code"]) == (409, "CAPACITY_EXCEEDED")
    after = stage.get(f"/api/events/{event['id']}")
    assert (after["capacity"], after["spotsReserved"], after["overbookedSpots"]) == (2, 3, 1)
