"""Admins and holders at once: whatever the mix, counters equal rows and nothing is given out twice."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx2

from ops.maintenance import audit
from tests.stage import Json, Stage

RECOUNT = """
    SELECT event.spots_reserved, event.waitlist_length, event.capacity,
           coalesce(sum(spots_count) FILTER (WHERE status = 'CONFIRMED'), 0) AS confirmed,
           count(*) FILTER (WHERE status = 'WAITLIST') AS waiting
    FROM event LEFT JOIN registration ON registration.event_id = event.id
    WHERE event.id = %s GROUP BY event.id
"""


def test_ten_admins_promoting_into_one_free_spot_promote_exactly_one(stage: Stage) -> None:
    event = stage.create_event(capacity=1, autoPromote=False)
    answers = stage.register_at_once(event, [{"name": f"User {n}"} for n in range(11)])
    confirmed = [a.json() for a in answers if a.json()["status"] == "CONFIRMED"]
    waiting = [a.json() for a in answers if a.json()["status"] == "WAITLIST"]
    with stage.client() as client:
        client.delete(f"/api/p/{event['slug']}/receipts/{confirmed[0]['receiptId']}")

        def promote(registration: Json) -> httpx2.Response:
            path = f"/api/events/{event['id']}/registrations/{registration['registration']['id']}"
            return client.patch(path, json={"status": "CONFIRMED"}, headers=stage.admin)

        with ThreadPoolExecutor(max_workers=10) as pool:
            promoted = list(pool.map(promote, waiting))

    assert Counter(a.status_code for a in promoted) == {200: 1, 409: 9}
    problems = [a.json() for a in promoted if a.status_code == 409]
    assert {(p["code"], p["spotsLeft"], p["spotsNeeded"]) for p in problems} == {("CAPACITY_EXCEEDED", 0, 1)}
    assert stage.get(f"/api/events/{event['id']}/counter")["drift"] == 0


def test_many_cancel_and_spots_are_freed_once(stage: Stage) -> None:
    event = stage.create_event(capacity=10)
    party = stage.register_at_once(event, [{"name": "Party", "spotsCount": 4}])[0].json()
    stage.register_at_once(event, [{"name": "Other", "spotsCount": 3}])
    path = f"/api/events/{event['id']}/registrations/{party['registration']['id']}"
    with stage.client() as client:

        def end(n: int) -> int:
            if n % 2:
                return client.delete(path, headers=stage.admin).status_code
            return client.delete(f"/api/p/{event['slug']}/receipts/{party['receiptId']}").status_code

        with ThreadPoolExecutor(max_workers=10) as pool:
            statuses = Counter(pool.map(end, range(10)))

    assert set(statuses) <= {200, 404}
    assert stage.get(f"/api/events/{event['id']}")["spotsReserved"] == 3


def test_a_mix_of_everything_leaves_counters_rows_and_audit_in_agreement(stage: Stage) -> None:
    seeded = random.Random(7)  # noqa: S311 - reproducible, not secret
    event = stage.create_event(capacity=20, promotionPolicy="skip_unfit")
    bodies: list[Json] = [{"name": f"Party {n}", "spotsCount": seeded.randint(1, 4)} for n in range(30)]
    parties = [a.json() for a in stage.register_at_once(event, bodies)]
    base = f"/api/events/{event['id']}"
    with stage.client() as client:

        def do(n: int) -> int:
            party = seeded.choice(parties)
            path = f"{base}/registrations/{party['registration']['id']}"
            match n % 5:
                case 0:
                    status = seeded.choice(["CONFIRMED", "WAITLIST", "CANCELLED"])
                    return client.patch(path, json={"status": status}, headers=stage.admin).status_code
                case 1:
                    return client.delete(path, headers=stage.admin).status_code
                case 2:
                    return client.delete(f"/api/p/{event['slug']}/receipts/{party['receiptId']}").status_code
                case 3:
                    capacity = seeded.randint(15, 30)
                    return client.patch(base, json={"capacity": capacity}, headers=stage.admin).status_code
                case _:
                    body = {"name": f"Late {n}", "spotsCount": seeded.randint(1, 4)}
                    return client.post(f"/api/p/{event['slug']}/register", json=body).status_code

        with ThreadPoolExecutor(max_workers=25) as pool:
            statuses = Counter(pool.map(do, range(150)))

    assert set(statuses) <= {200, 201, 404, 409}
    (row,) = stage.query(RECOUNT, event["id"])
    assert row["spots_reserved"] == row["confirmed"] <= row["capacity"]
    assert row["waitlist_length"] == row["waiting"]
    (checked,) = audit.check(stage.database_url, [event["slug"]])
    replayed = audit.replay(stage.database_url, event["slug"])
    assert checked.problems == replayed.problems == []
    assert checked.entries > 30
