"""Requests that change nothing make no command; a spot that was free before a request is never denied."""

import asyncio
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx2
import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, event, text
from starlette.testclient import TestClient

from api.commands.early_answers import RefusingEvents
from api.main import create_app
from shared.domain import ids
from shared.domain.commands import Register
from shared.domain.outcomes import Refused
from shared.postgres import connections
from shared.settings import Settings
from tests.integration.test_status_changes import patch, register
from tests.simulation.histories import SETTINGS
from tests.simulation.in_postgres import InPostgres
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


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"closesAt": "2020-01-01T00:00:00Z"}, "REGISTRATION_CLOSED"),
        ({"archived": True}, "REGISTRATION_CLOSED"),
        ({"opensAt": "2100-01-01T00:00:00Z"}, "REGISTRATION_NOT_OPEN"),
        ({"paused": True}, "EVENT_PAUSED"),
    ],
)
def test_an_event_that_takes_no_party_grows_no_ledger(stage: Stage, settings: Json, code: str) -> None:
    event = stage.create_event()
    path, crowd = f"/api/events/{event['id']}", [{"name": f"User {n}"} for n in range(50)]
    again = {name: None if isinstance(value, str) else False for name, value in settings.items()}
    with stage.client() as client:
        client.patch(path, json=settings, headers=stage.admin)
        at_first = commands_of(stage, event)
        answers = stage.register_at_once(event, crowd)
        unmet = commands_of(stage, event) - at_first
        client.patch(path, json=again, headers=stage.admin)
        taken = post(client, event, {"name": "Next"})
        client.patch(path, json=settings, headers=stage.admin)
        refused = post(client, event, {"name": "The first behind those who were taken"})
        before = commands_of(stage, event)
        answers += stage.register_at_once(event, crowd)
        met = commands_of(stage, event) - before

    assert (unmet, met) == (0, 0)
    assert taken.status_code == 201
    assert (refused.json()["code"], "receiptId" in refused.json()) == (code, True)
    assert {(a.status_code, a.json()["code"], "receiptId" in a.json()) for a in answers} == {
        (409, code, False)
    }


def test_refusals_that_no_request_awaits_grow_no_ledger(stage: Stage) -> None:
    event, tries = stage.create_event(), 0
    with stage.client() as client:
        post(client, event, {"name": "Taken"})
        client.patch(f"/api/events/{event['id']}", json={"paused": True}, headers=stage.admin)
        while post(client, event, {"name": "Later"}, prefer="respond-async").status_code == 202:
            tries += 1
            assert tries < 40, "each makes a command"
            time.sleep(0.1)
        before = commands_of(stage, event)
        answers = [post(client, event, {"name": "Later"}, prefer="respond-async") for _ in range(50)]

    assert {(a.status_code, a.json()["code"]) for a in answers} == {(409, "EVENT_PAUSED")}
    assert commands_of(stage, event) == before


def test_the_end_of_a_window_grows_no_ledger(stage: Stage) -> None:
    closes_at = datetime.now(UTC) + timedelta(seconds=2)
    event = stage.create_event(closesAt=closes_at.isoformat())
    with stage.client() as client:
        post(client, event, {"name": "In time"})
        while client.get(f"/api/p/{event['slug']}").json()["state"] == "OPEN":
            time.sleep(0.1)
        before = commands_of(stage, event)
        answers = stage.register_at_once(event, [{"name": f"User {n}"} for n in range(50)])

    assert {answer.json()["code"] for answer in answers} == {"REGISTRATION_CLOSED"}
    assert commands_of(stage, event) == before


def test_a_cancelled_receipt_makes_no_command(stage: Stage) -> None:
    event = stage.create_event()
    held = register(stage, event)
    path = f"/api/p/{event['slug']}/receipts/{held['receiptId']}"
    with stage.client() as client:
        first = client.delete(path)
        before = commands_of(stage, event)
        again = [client.delete(path).json() for _ in range(20)]
        keyed = [client.delete(path, headers={"idempotency-key": f"tap {n}"}).json() for n in range(20)]

    unchanged = {**first.json(), "changed": False, "fromStatus": "CANCELLED"}
    assert first.json()["changed"]
    assert again == keyed == [unchanged] * 20
    assert commands_of(stage, event) == before


def test_a_key_that_changed_nothing_stays_free(stage: Stage) -> None:
    event = stage.create_event()
    held = register(stage, event)
    path = f"/api/p/{event['slug']}/receipts/{held['receiptId']}"

    def cancel(key: str) -> tuple[bool, bool, str]:
        answer = client.delete(path, headers={"idempotency-key": key})
        assert answer.status_code == 200, answer.text
        found = answer.json()
        return found["changed"], "idempotent-replayed" in answer.headers, found["status"]

    with stage.client() as client:
        before = commands_of(stage, event)
        taps = [cancel(key) for key in ("first", "second", "first", "second")]
        after = commands_of(stage, event)
        patch(stage, event, held, "CONFIRMED")
        later = [cancel(key) for key in ("first", "second", "second")]

    assert taps == [
        (True, False, "CANCELLED"),
        (False, False, "CANCELLED"),
        (True, True, "CANCELLED"),
        (False, False, "CANCELLED"),
    ]
    assert after == before + 1
    assert later == [(True, True, "CONFIRMED"), (True, False, "CANCELLED"), (True, True, "CANCELLED")]


def test_a_holders_vain_commands_are_not_made(stage: Stage) -> None:
    event = stage.create_event()
    party, gone = (register(stage, event, spotsCount=3) for _ in range(2))
    path, lost = (f"/api/p/{event['slug']}/receipts/{held['receiptId']}" for held in (party, gone))
    with stage.client() as client:
        deleted = f"/api/events/{event['id']}/registrations/{gone['registration']['id']}"
        assert client.delete(deleted, headers=stage.admin).status_code == 200
        before = commands_of(stage, event)
        same, larger = (client.patch(path, json={"spotsCount": spots}) for spots in (3, 4))
        of_none = [client.delete(lost), client.patch(lost, json={"spotsCount": 1})]
        keyed = [
            client.patch(path, json={"spotsCount": 3}, headers={"idempotency-key": f"{n}"}) for n in range(20)
        ]
        after = commands_of(stage, event)
        refused = client.patch(path, json={"spotsCount": 4}, headers={"idempotency-key": "a refusal's"})
        smaller = client.patch(path, json={"spotsCount": 2}, headers={"idempotency-key": "0"})

    assert {(a.status_code, a.json()["registration"]["spotsCount"]) for a in keyed} == {(200, 3)}
    assert (same.status_code, same.json()["registration"]["spotsCount"]) == (200, 3)
    assert (larger.status_code, larger.json()["code"]) == (409, "TOO_MANY_SPOTS")
    assert [(a.status_code, a.json()["code"]) for a in of_none] == [(404, "REGISTRATION_NOT_FOUND")] * 2
    assert after == before
    assert (refused.json()["code"], "receiptId" in refused.json()) == ("TOO_MANY_SPOTS", True)
    assert (smaller.status_code, smaller.json()["registration"]["spotsCount"]) == (200, 2)


def test_a_cancellation_behind_a_pending_change_is_a_command(
    settings: Settings, connection: Connection
) -> None:
    owner = InPostgres(connection, SETTINGS)
    with_key = settings.model_copy(update={"admin_key": SecretStr("the key of an admin")})
    later = {"prefer": "respond-async", "authorization": "Bearer the key of an admin"}
    url = f"/api/p/{SETTINGS['slug']}"
    with TestClient(create_app(with_key)) as client:
        receipt = client.post(f"{url}/register", json={"name": "Ann"}, headers=later).json()["receiptId"]
        registration = f"/api/events/{owner.event_id}/registrations/{ids.registration_id(UUID(receipt))}"
        answers = [client.delete(f"{url}/receipts/{receipt}", headers=later)]
        owner.apply(9)
        answers.append(client.delete(f"{url}/receipts/{receipt}", headers=later))
        answers.append(client.patch(registration, json={"status": "CONFIRMED"}, headers=later))
        answers.append(client.delete(f"{url}/receipts/{receipt}", headers=later))
        owner.apply(9)
        last = client.get(f"{url}/receipts/{receipt}").json()

    assert [answer.status_code for answer in answers] == [202, 200, 202, 202]
    assert last["status"] == "CANCELLED", "the holder asked for it after the admin had"


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


def test_events_that_open_at_once_share_a_read(settings: Settings, connection: Connection) -> None:
    with connection.begin():
        rows = connection.execute(
            text(
                "INSERT INTO event (id, slug, title, capacity, paused) "
                "SELECT gen_random_uuid(), 'event-' || n, 'A drop', 1, n = 7 "
                "FROM generate_series(0, 299) AS n RETURNING id, paused"
            )
        ).all()
    (paused,) = (row.id for row in rows if row.paused)
    reads: list[str] = []
    engine = connections.async_engine(settings)
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *asked: reads.append(asked[2]))
    events = RefusingEvents(engine)

    async def open_at_once() -> list[Refused | None]:
        try:
            return await asyncio.gather(
                *(events.refusal(row.id, Register(name="User", spots_count=1)) for row in rows)
            )
        finally:
            await engine.dispose()

    refusals = asyncio.run(open_at_once())

    assert [row.id for row, refusal in zip(rows, refusals, strict=True) if refusal] == [paused]
    assert [row.id for row in rows if row.id not in events.taking] == [paused]
    assert len(reads) == 1
