"""Corrections over HTTP: what an admin, and a holder, may put right, and what they then see."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import psycopg
import pytest
from sqlalchemy import make_url

from tests.stage import Json, Stage

SLUG_SECONDS_MAX = 5

_WAITING = "SELECT pid FROM pg_locks WHERE relation = 'idempotency_key'::regclass AND NOT granted"


def register(stage: Stage, event: Json, name: str, spots: int = 1, **more: Any) -> Json:
    body = {"name": name, "spotsCount": spots, **more}
    with stage.client() as client:
        answer = client.post(f"/api/p/{event['slug']}/register", json=body)
    assert answer.status_code == 201, answer.text
    found: Json = answer.json()
    return found


def ask(stage: Stage, method: str, path: str, body: Json | None = None, key: str = "") -> httpx2.Response:
    headers = {**stage.admin, **({"idempotency-key": key} if key else {})}
    with stage.client() as client:
        return client.request(method, path, json=body, headers=headers)


def of(event: Json, party: Json | None = None, more: str = "") -> str:
    path = f"/api/events/{event['id']}"
    return path + (f"/registrations/{party['registration']['id']}{more}" if party else more)


def public(event: Json, receipt_id: str) -> str:
    return f"/api/p/{event['slug']}/receipts/{receipt_id}"


def names(stage: Stage, event: Json) -> list[tuple[str, str]]:
    return [(row["name"], row["status"]) for row in stage.registrations(event)]


def code(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


def test_too_many_confirmed_go_back_to_their_places(stage: Stage) -> None:
    event = stage.create_event(capacity=3)
    parties = [register(stage, event, name) for name in ("A", "B", "C", "W1", "W2")]

    refused = ask(stage, "PATCH", of(event), {"capacity": 2})
    taken = ask(stage, "PATCH", of(event), {"capacity": 2, "allowOverbooked": True, "reason": "not 3"})
    moved = ask(stage, "PATCH", of(event, parties[2]), {"status": "WAITLIST", "place": "original"})

    assert code(refused) == (409, "CAPACITY_BELOW_RESERVED")
    assert (taken.status_code, taken.json()["overbookedSpots"], taken.json()["spotsLeft"]) == (200, 1, 0)
    assert (moved.status_code, moved.json()["registration"]["waitlistPosition"]) == (200, 1)
    assert [status for _, status in names(stage, event)] == ["CONFIRMED"] * 2 + ["WAITLIST"] * 3
    assert stage.get(of(event))["overbookedSpots"] == 0
    assert [name for name, _ in names(stage, event)] == ["A", "B", "C", "W1", "W2"]


@pytest.mark.parametrize("moved_by", ["this version", "one before"])
def test_a_waiting_registration_finds_its_original_place(stage: Stage, moved_by: str) -> None:
    event = stage.create_event(capacity=1)
    _, first, _ = (register(stage, event, name) for name in ("A", "W1", "W2"))

    ask(stage, "PATCH", of(event, first), {"status": "WAITLIST", "place": "tail"})
    behind = [name for name, _ in names(stage, event)]
    if moved_by == "one before":
        stage.query("UPDATE registration SET original_seq = NULL WHERE event_id = %s", event["id"])
    answers = [
        ask(stage, "PATCH", of(event, first), {"status": "WAITLIST", "place": "original"}) for _ in "12"
    ]

    assert behind == ["A", "W2", "W1"]
    assert [(a.status_code, a.json()["changed"]) for a in answers] == [(200, True), (200, False)]
    assert [name for name, _ in names(stage, event)] == ["A", "W1", "W2"]


def test_an_overbooked_event_hands_nothing_out(stage: Stage) -> None:
    event = stage.create_event(capacity=3)
    parties = [register(stage, event, name) for name in ("A", "B", "C", "W1")]
    ask(stage, "PATCH", of(event), {"capacity": 1, "allowOverbooked": True})

    ask(stage, "PATCH", of(event, parties[0]), {"status": "CANCELLED"})
    raised = ask(stage, "PATCH", of(event), {"capacity": 2})

    assert (raised.status_code, raised.json()["overbookedSpots"]) == (200, 0)
    assert dict(names(stage, event))["W1"] == "WAITLIST"
    assert ask(stage, "PATCH", of(event), {"capacity": 3}).json()["spotsReserved"] == 3


def test_a_name_and_an_address_are_corrected(stage: Stage) -> None:
    event = stage.create_event()
    party = register(stage, event, "Anm", email="anm@example.org")
    register(stage, event, "Bob", email="bob@example.org")

    taken = ask(stage, "PATCH", of(event, party), {"email": "BOB@example.org"})
    answer = ask(
        stage, "PATCH", of(event, party), {"name": "Ann", "email": "ann@Example.org", "reason": "typo"}
    )
    again = register(stage, event, "Other", email="anm@example.org")
    same = ask(stage, "PATCH", of(event, party), {"name": "Ann"})

    assert code(taken) == (409, "ALREADY_REGISTERED")
    assert (answer.status_code, answer.json()["changed"]) == (200, True)
    assert (answer.json()["registration"]["name"], answer.json()["registration"]["email"]) == (
        "Ann",
        "ann@example.org",
    )
    assert again["status"] == "CONFIRMED"
    assert same.json()["changed"] is False
    (entry,) = [
        e for e in stage.get(of(event, more="/audit"))["items"] if e["kind"] == "correct_registration"
    ]
    assert entry["beforeAfter"] == {"name": [None, None], "email": [None, None]}
    assert (entry["reason"], entry["fromStatus"], entry["toStatus"]) == ("typo", "CONFIRMED", "CONFIRMED")


def test_an_address_is_taken_away(stage: Stage) -> None:
    event = stage.create_event()
    party = register(stage, event, "Ann", email="ann@example.org")

    answer = ask(stage, "PATCH", of(event, party), {"email": None})

    assert answer.json()["registration"]["email"] is None
    assert register(stage, event, "Ann", email="ann@example.org")["status"] == "CONFIRMED"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"reason": "none"},
        {"status": "CANCELLED", "name": "Ann"},
        {"status": "CONFIRMED", "place": "original"},
        {"place": "original"},
        {"status": "WAITLIST", "place": "first"},
        {"name": None},
        {"name": " "},
        {"email": "nobody"},
        {"spotsCount": 0},
        {"spotsCount": None},
    ],
)
def test_a_change_that_means_nothing_is_refused(stage: Stage, body: Json) -> None:
    event = stage.create_event()
    party = register(stage, event, "Ann")

    assert code(ask(stage, "PATCH", of(event, party), body)) == (422, "INVALID_REQUEST")


def test_a_smaller_party_frees_spots(stage: Stage) -> None:
    event = stage.create_event(capacity=4)
    large = register(stage, event, "Large", 4)
    waiting = register(stage, event, "Waits", 2)

    answer = ask(stage, "PATCH", of(event, large), {"spotsCount": 2})

    assert (answer.status_code, answer.json()["registration"]["spotsCount"]) == (200, 2)
    assert stage.get(public(event, waiting["receiptId"]))["status"] == "CONFIRMED"
    assert stage.get(of(event, more="/counter")) == {"spotsReserved": 4, "actualConfirmed": 4, "drift": 0}


def test_a_party_grows_into_free_spots_only(stage: Stage) -> None:
    event = stage.create_event(capacity=5, maxSpotsPerRegistration=4)
    party = register(stage, event, "Grows", 2)

    grown = ask(stage, "PATCH", of(event, party), {"spotsCount": 3})
    other = register(stage, event, "Other", 1)
    much = ask(stage, "PATCH", of(event, party), {"spotsCount": 5})
    register(stage, event, "Waits", 4)
    ahead = ask(stage, "PATCH", of(event, party), {"spotsCount": 4})
    over = ask(stage, "PATCH", of(event, other), {"spotsCount": 3})

    assert grown.json()["registration"]["spotsCount"] == 3
    assert code(much) == (409, "TOO_MANY_SPOTS")
    assert code(ahead) == (409, "CAPACITY_EXCEEDED")
    assert (ahead.json()["spotsLeft"], ahead.json()["spotsNeeded"]) == (1, 1)
    assert "those who wait" in ahead.json()["detail"]
    assert (over.json()["spotsLeft"], over.json()["spotsNeeded"]) == (1, 2)


def test_a_waiting_party_that_grows_goes_to_the_tail(stage: Stage) -> None:
    event = stage.create_event(capacity=3)
    register(stage, event, "A", 3)
    first, _ = register(stage, event, "W1"), register(stage, event, "W2")

    ask(stage, "PATCH", of(event, first), {"spotsCount": 2})

    assert [name for name, _ in names(stage, event)] == ["A", "W2", "W1"]


def test_a_holder_may_only_make_the_party_smaller(stage: Stage) -> None:
    event = stage.create_event(capacity=3)
    party = register(stage, event, "Ann", 3)
    waiting = register(stage, event, "Waits")
    path = public(event, party["receiptId"])

    with stage.client() as client:
        smaller = client.patch(path, json={"spotsCount": 2})
        larger = client.patch(path, json={"spotsCount": 3})
        named = client.patch(path, json={"spotsCount": 1, "name": "Eve"})

    assert (smaller.status_code, smaller.json()["registration"]["spotsCount"]) == (200, 2)
    assert code(larger) == (409, "TOO_MANY_SPOTS")
    assert code(named) == (422, "INVALID_REQUEST")
    assert stage.get(public(event, waiting["receiptId"]))["status"] == "CONFIRMED"


def test_an_admin_adds_past_window_pause_and_limit(stage: Stage) -> None:
    event = stage.create_event(
        capacity=2, waitlistLimit=0, closesAt="2020-01-01T00:00:00Z", opensAt="2019-01-01T00:00:00Z"
    )
    ask(stage, "PATCH", of(event), {"paused": True})
    path = of(event, more="/registrations")

    added = [ask(stage, "POST", path, {"name": name, "reason": "by phone"}) for name in "ABC"]
    fits_not = ask(stage, "POST", path, {"name": "D", "status": "CONFIRMED"})
    waits = ask(stage, "POST", path, {"name": "E", "status": "WAITLIST"})
    large = ask(stage, "POST", path, {"name": "F", "spotsCount": 3})

    assert [a.json()["status"] for a in added] == ["CONFIRMED", "CONFIRMED", "WAITLIST"]
    assert [a.status_code for a in added] == [201] * 3
    assert code(fits_not) == (409, "CAPACITY_EXCEEDED")
    assert waits.json()["registration"]["waitlistPosition"] == 2
    assert code(large) == (409, "TOO_MANY_SPOTS")
    with stage.client() as client:
        cancelled = client.delete(public(event, added[0].json()["receiptId"]))
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "CANCELLED")


def test_a_promotion_keeps_the_original_place(stage: Stage) -> None:
    event = stage.create_event(capacity=2, promotionPolicy="skip_unfit")
    large, first, _ = (register(stage, event, name, spots) for name, spots in (("L", 2), ("A", 1), ("B", 2)))
    ask(stage, "POST", of(event, first, "/receipt"))  # its place is not that of its receipt any more
    ask(stage, "PATCH", of(event, first), {"status": "WAITLIST", "place": "tail"})
    ask(stage, "PATCH", of(event, large), {"spotsCount": 1})
    promoted = names(stage, event)

    moved = ask(stage, "PATCH", of(event, first), {"status": "WAITLIST", "place": "original"})

    assert ("A", "CONFIRMED") in promoted
    assert moved.json()["registration"]["waitlistPosition"] == 1


def test_spots_that_a_confirmed_newcomer_leaves_go_to_the_waitlist(stage: Stage) -> None:
    event = stage.create_event(capacity=2, promotionPolicy="skip_unfit")
    party, waiting = register(stage, event, "Two", 2), register(stage, event, "W")
    ask(stage, "PATCH", of(event, party), {"status": "WAITLIST", "place": "original"})

    added = ask(stage, "POST", of(event, more="/registrations"), {"name": "New", "status": "CONFIRMED"})

    assert waiting["status"] == "WAITLIST"
    assert added.status_code == 201, added.text
    assert names(stage, event) == [("Two", "WAITLIST"), ("W", "CONFIRMED"), ("New", "CONFIRMED")]


def test_a_new_receipt_makes_the_lost_one_dead(stage: Stage) -> None:
    event = stage.create_event()
    party = register(stage, event, "Ann", 2)

    given = ask(stage, "POST", of(event, party, "/receipt"), {"reason": "lost"})
    newest = ask(stage, "POST", of(event, party, "/receipt"))

    assert (given.status_code, newest.status_code) == (201, 201)
    assert newest.json()["registration"]["id"] == party["registration"]["id"]
    lost = [public(event, receipt) for receipt in (party["receiptId"], given.json()["receiptId"])]
    path = public(event, newest.json()["receiptId"])
    with stage.client() as client:
        dead = [client.request(method, receipt) for receipt in lost for method in ("GET", "DELETE")]
        dead += [client.patch(receipt, json={"spotsCount": 1}) for receipt in lost]
        alive = client.patch(path, json={"spotsCount": 1}), client.delete(path)
    assert [code(answer) for answer in dead] == [(404, "RECEIPT_NOT_FOUND")] * 6
    assert [answer.json()["status"] for answer in alive] == ["CONFIRMED", "CANCELLED"]
    assert "receiptId" not in str(stage.get(of(event, more="/audit")))


def test_a_receipt_dies_before_a_cancellation_in_vain_is_shown(stage: Stage) -> None:
    event = stage.create_event()
    party = register(stage, event, "Ann")
    ask(stage, "PATCH", of(event, party), {"status": "CANCELLED"})
    url = make_url(stage.database_url).set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False)) as other, ThreadPoolExecutor() as threads:
        # The receipt is known to be valid by then, and the outcome is read behind this lock.
        other.execute("LOCK TABLE idempotency_key")
        with stage.client() as client:
            answer = threads.submit(client.delete, public(event, party["receiptId"]))
            while not stage.query(_WAITING):
                time.sleep(0.02)
            other.execute(
                "UPDATE registration SET command_id = gen_random_uuid() WHERE id = %s",
                [party["registration"]["id"]],
            )
            other.commit()
            gone = answer.result()

    assert code(gone) == (404, "RECEIPT_NOT_FOUND")
    assert "receiptId" not in gone.json(), "no command was made"


def test_no_other_receipt_cancels(stage: Stage) -> None:
    event = stage.create_event()
    party = register(stage, event, "Ann", 2)
    receipts = [
        ask(stage, "PATCH", of(event, party), body).json()["receiptId"]
        for body in ({"spotsCount": 1}, {"status": "WAITLIST"})
    ]

    with stage.client() as client:
        answers = [client.delete(public(event, receipt)) for receipt in receipts]

    assert [answer.status_code for answer in answers] == [404, 404]


def test_an_archived_event_is_closed_and_in_no_list(stage: Stage) -> None:
    event = stage.create_event(capacity=1)
    first, _ = register(stage, event, "A"), register(stage, event, "W")

    answer = ask(stage, "PATCH", of(event), {"archived": True})
    with stage.client() as client:
        refused = client.post(f"/api/p/{event['slug']}/register", json={"name": "B"})
    ask(stage, "DELETE", of(event, first))

    assert (answer.json()["archived"], answer.json()["state"]) == (True, "CLOSED")
    assert stage.get(f"/api/p/{event['slug']}")["state"] == "CLOSED"
    assert code(refused) == (409, "REGISTRATION_CLOSED")
    assert event["id"] not in ids_of(stage)
    assert event["id"] in ids_of(stage, "&archived=true")
    assert names(stage, event) == [("W", "WAITLIST")], "nobody is promoted when it is over"
    ask(stage, "PATCH", of(event), {"archived": False})
    assert names(stage, event) == [("W", "CONFIRMED")]


def ids_of(stage: Stage, query: str = "") -> set[str]:
    return {one["id"] for one in stage.get(f"/api/events?limit=1000{query}")["items"]}


def test_a_deleted_event_is_gone_and_its_slug_free(stage: Stage) -> None:
    event = stage.create_event(capacity=1)
    party = register(stage, event, "A")

    gone = ask(stage, "DELETE", of(event) + "?reason=called+off", key="once")
    again = ask(stage, "DELETE", of(event), key="other")

    assert (gone.status_code, gone.json()["eventId"]) == (200, event["id"])
    assert code(again) in {(409, "REGISTRATION_CLOSED"), (404, "EVENT_NOT_FOUND")}
    assert code(ask(stage, "DELETE", of(event))) == (404, "EVENT_NOT_FOUND")
    replayed = ask(stage, "DELETE", of(event) + "?reason=called+off", key="once")
    assert replayed.json() == gone.json()
    for path in ("", "/registrations", "/stats", "/counter"):
        assert code(ask(stage, "GET", of(event, more=path))) == (404, "EVENT_NOT_FOUND"), path
    assert event["id"] not in ids_of(stage) | ids_of(stage, "&archived=true")
    assert stage.get(of(event, more="/audit"))["items"][-1]["kind"] == "delete_event"
    assert stage.get(of(event, more="/audit?cursor=1000"))["items"] == []
    reused = created(stage, event["slug"])
    registered = register(stage, reused, "B")
    assert registered["status"] == "CONFIRMED"
    assert names(stage, reused) == [("B", "CONFIRMED")]
    with stage.client() as client:
        assert code(client.get(public(event, party["receiptId"]))) == (404, "RECEIPT_NOT_FOUND")


def created(stage: Stage, slug: str) -> Json:
    """Create an event once its slug is free."""
    until = time.monotonic() + SLUG_SECONDS_MAX
    while True:
        answer = ask(stage, "POST", "/api/events", {"slug": slug, "title": "Another", "capacity": 5})
        if answer.status_code != 409 or time.monotonic() > until:
            break
        time.sleep(0.05)
    assert answer.status_code == 201, answer.text
    found: Json = answer.json()
    return found


def test_a_slug_that_was_just_given_up_is_taken(stage: Stage) -> None:
    event = stage.create_event()
    ask(stage, "DELETE", of(event))
    # As if it had been given up a moment ago, however long this test takes.
    stage.query("UPDATE event SET slug_released_at = now() + interval '1 hour' WHERE id = %s", event["id"])

    refused = ask(stage, "POST", "/api/events", {"slug": event["slug"], "title": "B", "capacity": 5})
    other = stage.create_event()
    moved = ask(stage, "PATCH", of(other), {"slug": event["slug"]})

    assert code(refused) == (409, "SLUG_TAKEN")
    assert code(moved) == (409, "SLUG_TAKEN")


def test_each_slug_given_up_a_moment_ago_is_taken(stage: Stage) -> None:
    event, other = stage.create_event(), stage.create_event()
    for letter in "bc":
        assert ask(stage, "PATCH", of(event), {"slug": f"{event['slug']}-{letter}"}).status_code == 200
        stage.query(
            "UPDATE event SET slug_released_at = now() + interval '1 hour' WHERE id = %s", event["id"]
        )

    for slug in (event["slug"], f"{event['slug']}-b"):
        assert code(ask(stage, "PATCH", of(other), {"slug": slug})) == (409, "SLUG_TAKEN")


def test_a_slug_changes_until_something_was_asked(stage: Stage) -> None:
    event, other = stage.create_event(), stage.create_event()
    slug = f"{event['slug']}-b"

    taken = ask(stage, "PATCH", of(event), {"slug": other["slug"]})
    back = [ask(stage, "PATCH", of(event), {"slug": given}).status_code for given in (slug, event["slug"])]
    moved = ask(stage, "PATCH", of(event), {"slug": slug, "title": "B"})
    register(stage, moved.json(), "A")
    fixed = ask(stage, "PATCH", of(event), {"slug": event["slug"]})
    same = ask(stage, "PATCH", of(event), {"slug": slug})

    assert code(taken) == (409, "SLUG_TAKEN")
    assert back == [200, 200], "its own former slug is free for it"
    assert (moved.status_code, moved.json()["slug"]) == (200, slug)
    assert code(fixed) == (409, "SLUG_FIXED")
    assert same.status_code == 200
    assert stage.get(f"/api/p/{slug}")["title"] == "B"


def test_an_explanation_names_the_corrections(stage: Stage) -> None:
    event = stage.create_event(capacity=5)
    party = register(stage, event, "Anm", 4)
    ask(stage, "PATCH", of(event, party), {"name": "Ann", "spotsCount": 2, "reason": "two are ill"})
    ask(stage, "POST", of(event, party, "/receipt"))
    added = ask(stage, "POST", of(event, more="/registrations"), {"name": "Bob", "reason": "by phone"}).json()

    assert stage.get(of(event, party, "/explain"))["sentences"] == [
        "When it was decided, 0 of 5 spots were confirmed and it needs 4: CONFIRMED.",
        "Corrected in name and spotsCount by admin because 'two are ill': since then it needs 2.",
        "Given a new receipt by admin.",
    ]
    assert stage.get(of(event, added, "/explain"))["sentences"] == [
        (
            "When it was added by admin because 'by phone', "
            "2 of 5 spots were confirmed and it needs 1: CONFIRMED."
        )
    ]


def test_a_key_outlives_its_receipt(stage: Stage) -> None:
    event = stage.create_event()
    with stage.client() as client:
        path, keyed = f"/api/p/{event['slug']}/register", {"idempotency-key": "mine"}
        first = client.post(path, json={"name": "Ann"}, headers=keyed)
        given = ask(stage, "POST", of(event, first.json(), "/receipt"))
        again = client.post(path, json={"name": "Ann"}, headers=keyed)
        cancelled = client.delete(public(event, first.json()["receiptId"]))

    assert given.status_code == 201
    assert (again.status_code, again.json()["status"], again.json()["registration"]) == (
        201,
        "CONFIRMED",
        None,
    )
    assert code(cancelled) == (404, "RECEIPT_NOT_FOUND")


def test_a_holder_shrinks_until_the_end_of_cancelling(stage: Stage) -> None:
    event = stage.create_event()
    party = register(stage, event, "Ann", 3)
    ask(stage, "PATCH", of(event), {"cancelUntil": "2020-01-01T00:00:00Z"})

    with stage.client() as client:
        late = client.patch(public(event, party["receiptId"]), json={"spotsCount": 1})
    by_admin = ask(stage, "PATCH", of(event, party), {"spotsCount": 1})

    assert code(late) == (409, "CANCELLATION_CLOSED")
    assert by_admin.json()["registration"]["spotsCount"] == 1
