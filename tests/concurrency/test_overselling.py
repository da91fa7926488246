"""No event is ever oversold: many at once, over HTTP, against real processes."""

import random
from collections import Counter

from tests.stage import Breakable, Stage


def test_no_overselling_with_two_simultaneous_registrations(stage: Stage) -> None:
    event = stage.create_event(capacity=100)
    fill = stage.register_at_once(event, [{"name": f"User {n}", "spotsCount": 1} for n in range(99)])
    assert Counter(answer.json()["status"] for answer in fill) == {"CONFIRMED": 99}

    last = stage.register_at_once(
        event, [{"name": "User A", "spotsCount": 1}, {"name": "User B", "spotsCount": 1}]
    )

    assert [answer.status_code for answer in last] == [201, 201]
    assert sorted(answer.json()["status"] for answer in last) == ["CONFIRMED", "WAITLIST"]
    after = stage.get(f"/api/events/{event['id']}")
    assert (after["spotsReserved"], after["spotsLeft"], after["waitlistLength"]) == (100, 0, 1)


def test_no_overselling_with_ten_simultaneous_registrations(stage: Stage) -> None:
    event = stage.create_event(capacity=1)

    answers = stage.register_at_once(event, [{"name": f"User {n}"} for n in range(10)])

    assert Counter(answer.json()["status"] for answer in answers) == {"CONFIRMED": 1, "WAITLIST": 9}
    waiting = [
        a.json()["registration"]["waitlistPosition"] for a in answers if a.json()["status"] == "WAITLIST"
    ]
    assert sorted(waiting) == list(range(1, 10))
    assert stage.get(f"/api/events/{event['id']}/counter") == {
        "spotsReserved": 1,
        "actualConfirmed": 1,
        "drift": 0,
    }


def test_two_hundred_parties_at_once_fill_the_event_and_no_more(stage: Stage) -> None:
    seeded = random.Random(20261124)  # noqa: S311 - reproducible, not secret
    event = stage.create_event(capacity=300, promotionPolicy="skip_unfit")
    sizes = [seeded.randint(1, 6) for _ in range(200)]

    answers = stage.register_at_once(
        event, [{"name": f"Party {n}", "spotsCount": s} for n, s in enumerate(sizes)]
    )

    assert {answer.status_code for answer in answers} == {201}
    confirmed = sum(size for size, a in zip(sizes, answers, strict=True) if a.json()["status"] == "CONFIRMED")
    waiting = [size for size, a in zip(sizes, answers, strict=True) if a.json()["status"] == "WAITLIST"]
    assert confirmed <= 300
    assert all(size > 300 - confirmed for size in waiting), "somebody waits who would fit"
    rows = stage.registrations(event)
    assert sum(row["spotsCount"] for row in rows if row["status"] == "CONFIRMED") == confirmed
    told = {a.json()["registration"]["id"]: a.json()["registration"]["waitlistPosition"] for a in answers}
    assert {row["id"]: row["waitlistPosition"] for row in rows} == told, "each was told its place in the line"


def test_every_api_process_shares_one_limit(breakable: Breakable) -> None:
    stage = breakable(workers=2, api_processes=2)
    event = stage.create_event(capacity=50)

    answers = stage.register_at_once(event, [{"name": f"User {n}"} for n in range(200)])

    assert Counter(answer.json()["status"] for answer in answers) == {"CONFIRMED": 50, "WAITLIST": 150}
