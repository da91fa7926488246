"""An idempotency key has one effect at most, and its replay tells the first outcome beside what is now."""

import hashlib
import secrets
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.integration.test_status_changes import delete, patch, register
from tests.stage import Json, Stage


def key_of(name: str) -> dict[str, str]:
    return {"idempotency-key": name}


def create(stage: Stage, body: Json, **headers: str) -> httpx2.Response:
    with stage.client() as client:
        return client.post("/api/events", json=body, headers={**stage.admin, **headers})


def drop() -> Json:
    return {"slug": f"drop-{secrets.token_hex(6)}", "title": "A drop", "capacity": 3}


def cancel(stage: Stage, event: Json, held: Json, **headers: str) -> httpx2.Response:
    with stage.client() as client:
        return client.delete(f"/api/p/{event['slug']}/receipts/{held['receiptId']}", headers=headers)


def change(stage: Stage, event: Json, held: Json, status: str, key: str) -> httpx2.Response:
    path = f"/api/events/{event['id']}/registrations/{held['registration']['id']}"
    with stage.client() as client:
        return client.patch(path, json={"status": status}, headers={**stage.admin, **key_of(key)})


def told(answer: httpx2.Response) -> tuple[int, str | None, Json]:
    body = answer.json()
    outcome = {name: body.get(name) for name in ("changed", "fromStatus", "toStatus")}
    return answer.status_code, answer.headers.get("idempotent-replayed"), outcome


def ask(stage: Stage, event: Json, header: str, name: str = "User") -> httpx2.Response:
    with stage.client() as client:
        path = f"/api/p/{event['slug']}/register"
        return client.post(path, json={"name": name}, headers=key_of(header))


@pytest.mark.parametrize("header", ['"k"', '"k";p=1', '"a, b"', r'"a\"b"'], ids=range(4))
def test_a_key_of_an_earlier_version_is_found(stage: Stage, header: str) -> None:
    """An earlier version kept the digest of the header as it came, quotes included."""
    event = stage.create_event()
    first = ask(stage, event, "of the earlier version").json()
    as_it_came = hashlib.sha256(header.encode()).digest()
    stage.query("UPDATE idempotency_key SET key = %s WHERE event_id = %s", as_it_came, event["id"])

    again, other = ask(stage, event, header), ask(stage, event, header, "Another")

    assert (again.json()["receiptId"], again.headers.get("idempotent-replayed")) == (
        first["receiptId"],
        "true",
    )
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert len(stage.registrations(event)) == 1


def test_an_earlier_key_is_found_before_a_newer_one(stage: Stage) -> None:
    event = stage.create_event()
    earlier, newer = ask(stage, event, "earlier").json(), ask(stage, event, "k").json()
    as_it_came = hashlib.sha256(b'"k"').digest()
    stage.query("UPDATE idempotency_key SET key = %s WHERE command_id = %s", as_it_came, earlier["receiptId"])

    assert ask(stage, event, '"k"').json()["receiptId"] == earlier["receiptId"]
    assert ask(stage, event, "k").json()["receiptId"] == newer["receiptId"]


def test_an_earlier_keyed_cancellation_is_found(stage: Stage) -> None:
    event = stage.create_event()
    held = register(stage, event)
    cancel(stage, event, held, **key_of("of the earlier version"))
    as_it_came = hashlib.sha256(b'"k"').digest()
    stage.query("UPDATE idempotency_key SET key = %s WHERE event_id = %s", as_it_came, event["id"])

    assert told(cancel(stage, event, held, **key_of('"k"'))) == (200, "true", DONE)


def test_the_spellings_of_a_key_are_one_key(stage: Stage) -> None:
    event = stage.create_event()

    answers = [ask(stage, event, header).json() for header in ('"k"', "k", '"k";p=1', '"k"')]

    assert len({answer["receiptId"] for answer in answers}) == 1


DONE = {"changed": True, "fromStatus": "CONFIRMED", "toStatus": "CANCELLED"}


def test_a_replayed_change_tells_the_first_outcome(stage: Stage) -> None:
    event = stage.create_event()
    held = register(stage, event)

    first = change(stage, event, held, "CANCELLED", "p")
    patch(stage, event, held, "CONFIRMED")
    reinstated = change(stage, event, held, "CANCELLED", "p")
    delete(stage, event, held)
    deleted = change(stage, event, held, "CANCELLED", "p")

    assert [told(answer) for answer in (first, reinstated, deleted)] == [
        (200, None, DONE),
        (200, "true", DONE),
        (200, "true", DONE),
    ]
    assert reinstated.json()["registration"]["status"] == "CONFIRMED"
    assert deleted.json()["registration"] is None


def test_a_replayed_cancellation_tells_the_first_outcome(stage: Stage) -> None:
    event = stage.create_event()
    held = register(stage, event)

    first = cancel(stage, event, held, **key_of("c"))
    patch(stage, event, held, "CONFIRMED")
    reinstated = cancel(stage, event, held, **key_of("c"))
    delete(stage, event, held)
    deleted = cancel(stage, event, held, **key_of("c"))

    assert [told(answer) for answer in (first, reinstated, deleted)] == [
        (200, None, DONE),
        (200, "true", DONE),
        (200, "true", DONE),
    ]
    assert [a.json()["status"] for a in (first, reinstated, deleted)] == ["CANCELLED", "CONFIRMED", "DELETED"]


def test_a_deletion_hides_no_replay_from_a_new_receipt(stage: Stage) -> None:
    event = stage.create_event()
    held = register(stage, event, spotsCount=2)
    path = f"/api/events/{event['id']}/registrations/{held['registration']['id']}/receipt"
    with stage.client() as client:
        given = client.post(path, headers=stage.admin).json()
        receipt = f"/api/p/{event['slug']}/receipts/{given['receiptId']}"

        def answers() -> list[tuple[int, str | None]]:
            shrunk = client.patch(receipt, json={"spotsCount": 1}, headers=key_of("s"))
            cancelled = client.delete(receipt, headers=key_of("c"))
            return [(a.status_code, a.headers.get("idempotent-replayed")) for a in (shrunk, cancelled)]

        first = answers()
        delete(stage, event, held)
        assert (first, answers()) == ([(200, None)] * 2, [(200, "true")] * 2)


def test_a_replayed_registration_is_shown_as_it_is_now(stage: Stage) -> None:
    event = stage.create_event(capacity=1)
    register(stage, event)
    path = f"/api/p/{event['slug']}/register"
    with stage.client() as client:
        first = client.post(path, json={"name": "User"}, headers=key_of("r")).json()
        client.patch(f"/api/events/{event['id']}", json={"capacity": 2}, headers=stage.admin)
        promoted = client.post(path, json={"name": "User"}, headers=key_of("r")).json()
        delete(stage, event, first)
        deleted = client.post(path, json={"name": "User"}, headers=key_of("r")).json()

    assert [body["status"] for body in (first, promoted, deleted)] == ["WAITLIST"] * 3
    assert promoted["registration"]["status"] == "CONFIRMED"
    assert deleted["registration"] is None


def test_a_replayed_addition_is_shown_as_it_is_now(stage: Stage) -> None:
    event = stage.create_event(capacity=1)
    path = f"/api/events/{event['id']}/registrations"
    with stage.client() as client:
        headers = {**stage.admin, **key_of("add")}
        first = client.post(path, json={"name": "Guest"}, headers=headers).json()
        patch(stage, event, first, "CANCELLED")
        again = client.post(path, json={"name": "Guest"}, headers=headers)

    assert (again.status_code, again.json()["status"]) == (201, "CONFIRMED")
    assert again.json()["registration"]["status"] == "CANCELLED"


def test_a_replayed_deletion_is_found(stage: Stage) -> None:
    event = stage.create_event()
    held = register(stage, event, spotsCount=2)
    path = f"/api/events/{event['id']}/registrations/{held['registration']['id']}"
    with stage.client() as client:
        answers = [client.delete(path, headers={**stage.admin, **key_of("d")}) for _ in range(2)]

    assert [(a.status_code, a.json()["spotsFreed"]) for a in answers] == [(200, 2), (200, 2)]


def test_a_passing_refusal_of_an_admin_releases_the_key(stage: Stage) -> None:
    event = stage.create_event(capacity=1)
    first, second = register(stage, event), register(stage, event)

    refused = change(stage, event, second, "CONFIRMED", "later")
    with stage.client() as client:
        settings = {"autoPromote": False}
        client.patch(f"/api/events/{event['id']}", json=settings, headers=stage.admin)
    patch(stage, event, first, "CANCELLED")
    confirmed = change(stage, event, second, "CONFIRMED", "later")

    assert (refused.status_code, refused.json()["code"]) == (409, "CAPACITY_EXCEEDED")
    assert (confirmed.status_code, confirmed.json()["toStatus"]) == (200, "CONFIRMED")


def test_keys_of_admins_and_of_the_public_never_meet(stage: Stage) -> None:
    event = stage.create_event()
    path = f"/api/p/{event['slug']}/register"
    with stage.client() as client:
        public = client.post(path, json={"name": "User"}, headers=key_of("same"))
    by_admin = change(stage, event, public.json(), "CANCELLED", "same")

    assert (public.status_code, by_admin.status_code) == (201, 200)


def test_an_event_is_created_once_under_a_key(stage: Stage) -> None:
    body, key = drop(), key_of(secrets.token_hex(8))

    first = create(stage, body, **key)
    with stage.client() as client:
        client.patch(f"/api/events/{first.json()['id']}", json={"capacity": 7}, headers=stage.admin)
    again = create(stage, body | {"waitlistEnabled": True}, **key)
    other = create(stage, drop(), **key)
    without = create(stage, body)
    changed = change_event(stage, first.json(), **key)

    assert (first.status_code, "idempotent-replayed" in first.headers) == (201, False)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert again.headers["location"] == first.headers["location"] == f"/api/events/{first.json()['id']}"
    assert again.json()["capacity"] == 7, "the event is shown as it is now"
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert (without.status_code, without.json()["code"]) == (409, "SLUG_TAKEN")
    assert changed.status_code == 200, "the event has keys of its own"


def change_event(stage: Stage, event: Json, **headers: str) -> httpx2.Response:
    with stage.client() as client:
        headers = {**stage.admin, **headers}
        return client.patch(f"/api/events/{event['id']}", json={"title": "New"}, headers=headers)


def test_the_key_of_a_deleted_event_makes_no_other(stage: Stage) -> None:
    body, key = drop(), key_of(secrets.token_hex(8))
    created = create(stage, body, **key).json()
    with stage.client() as client:
        client.patch(f"/api/events/{created['id']}", json={"slug": f"{body['slug']}-2"}, headers=stage.admin)
        moved = create(stage, body, **key)
        client.delete(f"/api/events/{created['id']}", headers=stage.admin)
    deleted = create(stage, body, **key)

    assert (moved.status_code, moved.json()["slug"]) == (201, f"{body['slug']}-2")
    assert (deleted.status_code, deleted.json()["code"]) == (404, "EVENT_NOT_FOUND")
    assert deleted.headers["idempotent-replayed"] == "true"


def test_a_taken_slug_releases_the_key_of_the_event(stage: Stage) -> None:
    key = key_of(secrets.token_hex(8))
    taken = stage.create_event()

    refused = create(stage, drop() | {"slug": taken["slug"]}, **key)
    created = create(stage, drop(), **key)

    assert (refused.status_code, refused.json()["code"]) == (409, "SLUG_TAKEN")
    assert created.status_code == 201


@pytest.mark.parametrize("same", [True, False])
def test_twenty_at_once_create_one_event(stage: Stage, *, same: bool) -> None:
    body, key = drop(), key_of(secrets.token_hex(8))
    bodies = [body if same else drop() for _ in range(20)]

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda asked: create(stage, asked, **key), bodies))

    created = [answer for answer in answers if answer.status_code == 201]
    assert len({answer.json()["id"] for answer in created}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in created) == 1
    assert len(created) == (20 if same else 1)
    assert {answer.json()["code"] for answer in answers if answer not in created} <= {
        "IDEMPOTENCY_KEY_REUSED"
    }
