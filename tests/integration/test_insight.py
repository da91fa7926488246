"""Looking closer, over HTTP and by command: statistics, explanations, exports, verification, audit."""

import asyncio
import csv
import hashlib
import io
import json
import subprocess
import sys
from uuid import UUID

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from api.edge.schemas_insight import Explanation
from api.queries import events, explain
from tests.integration.test_status_changes import delete, patch, register
from tests.stage import CHECKOUT, Json, Stage

COVERED = ["commandDigest", "kind", "actor", "reason", "registrationId", "fromStatus", "toStatus"]
COVERED += ["beforeAfter", "spotsDelta", "spotsReserved", "at"]


def command(stage: Stage, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ops.cli", *arguments],
        cwd=CHECKOUT,
        env=stage.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def busy_event(stage: Stage) -> Json:
    event = stage.create_event(capacity=4, promotionPolicy="skip_unfit")
    parties = [register(stage, event, spotsCount=n) for n in (3, 2, 1, 2)]
    patch(stage, event, parties[0], "CANCELLED", reason="ill")
    delete(stage, event, parties[2])
    return event


def test_statistics_equal_a_recount(stage: Stage) -> None:
    event = busy_event(stage)

    stats = stage.get(f"/api/events/{event['id']}/stats")

    rows = stage.registrations(event)
    for status in ("CONFIRMED", "WAITLIST", "CANCELLED"):
        counted = [row["spotsCount"] for row in rows if row["status"] == status]
        assert stats["byStatus"][status] == {"registrations": len(counted), "spots": sum(counted)}
    assert stats["spotsReserved"] == stats["byStatus"]["CONFIRMED"]["spots"]
    assert stats["waitlistLength"] == stats["byStatus"]["WAITLIST"]["registrations"]
    assert (stats["pending"], stats["decidedPerMinute"]) == (0, 6)


def test_an_export_has_every_registration_and_no_formula(stage: Stage) -> None:
    event = stage.create_event(capacity=2)
    names = ["Ada", "=1+1", "+49 30", "-x", "@home", 'with "quotes", and\\backslash', "Zoë 李"]
    for name in names:
        register(stage, event, name=name, email=f"a{len(name)}.{abs(hash(name))}@example.org")
    path = f"/api/events/{event['id']}/export"
    with stage.client() as client:
        as_csv = client.get(path, headers=stage.admin)
        as_json = client.get(f"{path}?format=ndjson", headers=stage.admin)
        unknown = client.get(f"{path}?format=xml", headers=stage.admin)

    table = list(csv.DictReader(io.StringIO(as_csv.content.decode("utf-8-sig"))))
    lines = [json.loads(line) for line in as_json.text.splitlines()]
    assert as_csv.headers["content-disposition"] == f'attachment; filename="{event["slug"]}.csv"'
    assert [row["name"] for row in table] == [f"'{n}" if n[0] in "=+-@" else n for n in names]
    assert [line["name"] for line in lines] == names
    assert [line["id"] for line in lines] == [row["id"] for row in stage.registrations(event)]
    assert unknown.status_code == 422


def test_an_explanation_says_what_stands_in_the_way(stage: Stage) -> None:
    event = stage.create_event(capacity=5)
    register(stage, event, spotsCount=2)
    head, behind = register(stage, event, spotsCount=5), register(stage, event, spotsCount=1)
    path = f"/api/events/{event['id']}/registrations"

    of_head = stage.get(f"{path}/{head['registration']['id']}/explain")
    of_behind = stage.get(f"{path}/{behind['registration']['id']}/explain")

    assert of_head["sentences"] == [
        "When it was decided, 2 of 5 spots were confirmed and it needs 5: WAITLIST.",
        "It is number 1 of 2 on the waitlist.",
        "The head of the waitlist needs 5, 3 are free, policy strict_fifo.",
    ]
    assert of_behind["sentences"][-1] == (
        "The head of the waitlist needs 5, 3 are free, policy strict_fifo: "
        "no registration behind the head is promoted before it."
    )
    assert (of_behind["registrationsAhead"], of_behind["spotsAhead"], of_behind["spotsLeft"]) == (1, 5, 3)


def test_an_explanation_names_a_party_that_cannot_fit(stage: Stage) -> None:
    event = stage.create_event(capacity=0, waitlistLimit=2)
    large, small = register(stage, event, spotsCount=6), register(stage, event, spotsCount=3)
    with stage.client() as client:
        client.patch(f"/api/events/{event['id']}", json={"capacity": 5}, headers=stage.admin)
    third, fourth = register(stage, event, spotsCount=3), register(stage, event, spotsCount=1)
    path = f"/api/events/{event['id']}/registrations"

    of_large = stage.get(f"{path}/{large['registration']['id']}/explain")
    of_third = stage.get(f"{path}/{third['registration']['id']}/explain")
    of_fourth = stage.get(f"{path}/{fourth['registration']['id']}/explain")

    assert stage.get(f"{path}/{small['registration']['id']}")["status"] == "CONFIRMED"
    assert of_large["sentences"][-2:] == [
        "It is number 1 of 3 on the waitlist.",
        (
            "It needs 6, the event has 5 in all: it keeps its place, and the registrations behind it are "
            "promoted before it until the capacity allows it."
        ),
    ]
    assert of_third["sentences"][-2:] == [
        "It is number 2 of 3 on the waitlist.",
        "The head of the waitlist needs 3, 2 are free, policy strict_fifo.",
    ]
    assert of_fourth["sentences"][-1].startswith("The head of the waitlist needs 3, 2 are free")


def test_an_explanation_says_where_it_began_to_look(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    event = stage.create_event(capacity=1)
    first, second = register(stage, event), register(stage, event)
    with stage.client() as client:
        client.patch(f"/api/events/{event['id']}", json={"capacity": 2}, headers=stage.admin)
    url = make_url(stage.database_url)

    async def explained(id_: str) -> Explanation:
        engine = create_async_engine(url)
        async with engine.connect() as connection:
            found = await events.event_by_id(connection, UUID(event["id"]))
            row = await events.registration(connection, UUID(event["id"]), UUID(id_))
            assert found is not None
            assert row is not None
            explanation = await explain.explain(connection, found, row, reasons=True)
        await engine.dispose()
        return explanation

    whole = asyncio.run(explained(second["registration"]["id"]))
    with monkeypatch.context() as patched:
        patched.setattr(explain, "_ROWS_MAX", 1)
        short = asyncio.run(explained(second["registration"]["id"]))
    monkeypatch.setattr(explain, "ENTRIES_MAX", 1)  # the promotion
    part = asyncio.run(explained(second["registration"]["id"]))
    none = asyncio.run(explained(first["registration"]["id"]))

    assert (whole.steps_from, [step.capacity for step in whole.steps]) == (1, [1, 2])
    for some in (short, part):
        assert (some.steps_from, some.steps) == (4, whole.steps[1:])
    unseen = "Changes before number 4 of the audit trail were not looked at."
    assert (none.steps, none.sentences) == ([], [unseen])


def test_an_explanation_names_a_pause(stage: Stage) -> None:
    event = stage.create_event(capacity=1)
    first, second = register(stage, event), register(stage, event)
    with stage.client() as client:
        client.patch(f"/api/events/{event['id']}", json={"paused": True}, headers=stage.admin)
    patch(stage, event, first, "CANCELLED")
    path = f"/api/events/{event['id']}/registrations/{second['registration']['id']}"

    paused = stage.get(f"{path}/explain")
    with stage.client() as client:
        client.patch(f"/api/events/{event['id']}", json={"paused": False}, headers=stage.admin)

    assert paused["sentences"][-1] == "The event is paused: no registration is promoted until the pause ends."
    assert stage.get(path)["status"] == "CONFIRMED"


def test_promotion_ends_and_goes_on_when_its_end_moves(stage: Stage) -> None:
    event = stage.create_event(capacity=1, promoteUntil="2026-01-01T09:00:00+09:00")
    first, second = register(stage, event), register(stage, event)
    patch(stage, event, first, "CANCELLED")
    path = f"/api/events/{event['id']}/registrations/{second['registration']['id']}"
    barging = register(stage, event)

    ended = stage.get(f"{path}/explain")
    with stage.client() as client:
        change = {"promoteUntil": "2126-01-01T00:00:00Z", "closesAt": "2026-01-01T00:00:00Z"}
        changed = client.patch(f"/api/events/{event['id']}", json=change, headers=stage.admin).json()

    assert ended["sentences"][-1] == (
        "Promotion ended at 2026-01-01T00:00:00Z: 1 are free, and an admin can confirm it."
    )
    assert barging["status"] == "WAITLIST"
    assert (changed["state"], changed["promoteUntil"]) == ("CLOSED", "2126-01-01T00:00:00Z")
    assert stage.get(path)["status"] == "CONFIRMED"


def test_an_admin_confirms_after_promotion_has_ended(stage: Stage) -> None:
    ends = {"promoteUntil": "2026-01-01T00:00:00Z", "cancelUntil": "2126-01-01T00:00:00Z"}
    event = stage.create_event(capacity=1, **ends)
    first, second = register(stage, event), register(stage, event)
    with stage.client() as client:
        client.delete(f"/api/p/{event['slug']}/receipts/{first['receiptId']}")

    confirmed = patch(stage, event, second, "CONFIRMED")

    assert confirmed.json()["registration"]["status"] == "CONFIRMED"
    assert {name: event[name] for name in ends} == ends


def test_holders_cancel_until_an_end_and_admins_after_it(stage: Stage) -> None:
    event = stage.create_event(cancelUntil="2026-01-01T00:00:00Z")
    held = register(stage, event)
    path = f"/api/p/{event['slug']}/receipts/{held['receiptId']}"
    with stage.client() as client:
        refused = client.delete(path)
        by_admin = patch(stage, event, held, "CANCELLED")
        again = client.delete(path)

    assert (refused.status_code, refused.json()["code"]) == (409, "CANCELLATION_CLOSED")
    assert (by_admin.status_code, again.status_code) == (200, 200)
    assert again.json()["status"] == "CANCELLED"


def test_an_explanation_tells_the_whole_story(stage: Stage) -> None:
    event = stage.create_event(capacity=1)
    first, second = register(stage, event), register(stage, event)
    with stage.client() as client:
        client.patch(f"/api/events/{event['id']}", json={"capacity": 2}, headers=stage.admin)
    patch(stage, event, second, "WAITLIST", reason="asked by phone")
    path = f"/api/events/{event['id']}/registrations"

    found = stage.get(f"{path}/{second['registration']['id']}/explain")

    assert found["sentences"] == [
        "When it was decided, 1 of 1 spots were confirmed and it needs 1: WAITLIST.",
        "Promoted when spots became free: 1 of 2 spots were confirmed and it needs 1.",
        (
            "Moved from CONFIRMED to WAITLIST by admin because 'asked by phone': "
            "2 of 2 spots were confirmed and it needs 1."
        ),
        "It is number 1 of 1 on the waitlist.",
        "It was moved by admin to the waitlist; the next change of the event offers it the 1 that are free.",
    ]
    of_first = stage.get(f"{path}/{first['registration']['id']}/explain")
    assert of_first["sentences"] == [
        "When it was decided, 0 of 1 spots were confirmed and it needs 1: CONFIRMED."
    ]


def test_a_waiting_party_beside_free_spots_is_next(stage: Stage) -> None:
    """As an adoption leaves it: nothing has moved the party, and nothing has promoted it yet."""
    event = stage.create_event(capacity=2)
    register(stage, event, spotsCount=2)
    waiting = register(stage, event, spotsCount=2)
    stage.query("UPDATE event SET capacity = 4 WHERE id = %s", event["id"])
    path = f"/api/events/{event['id']}/registrations"

    found = stage.get(f"{path}/{waiting['registration']['id']}/explain")

    assert found["sentences"][-1] == "It is next; the next change of the event offers it the 2 that are free."


def test_an_explanation_knows_parties_that_are_skipped(stage: Stage) -> None:
    terms = {"promotionPolicy": "skip_unfit", "promoteUntil": "2099-01-01T00:00:00Z"}
    event = stage.create_event(capacity=6, **terms)
    register(stage, event, spotsCount=6)
    waiting = [register(stage, event, spotsCount=spots) for spots in (4, 2, 2, 3)]
    stage.query("UPDATE event SET capacity = 8 WHERE id = %s", event["id"])
    path = f"/api/events/{event['id']}/registrations"

    found = [stage.get(f"{path}/{party['registration']['id']}/explain") for party in waiting]

    assert [explanation["sentences"][-1] for explanation in found] == [
        "The head of the waitlist needs 4, 2 are free, policy skip_unfit.",
        "It is next; the next change of the event offers it the 2 that are free.",
        "1 ahead of it fit into the 2 that are free, policy skip_unfit.",
        "It needs 3, 2 are free, policy skip_unfit.",
    ]


def test_a_party_that_never_fits_is_told_so_first(stage: Stage) -> None:
    event = stage.create_event(capacity=3)
    register(stage, event, spotsCount=3)
    waiting = register(stage, event, spotsCount=3)
    path = f"/api/events/{event['id']}"
    with stage.client() as client:
        lower = {"capacity": 2, "allowOverbooked": True}
        assert client.patch(path, json=lower, headers=stage.admin).status_code == 200

    found = stage.get(f"{path}/registrations/{waiting['registration']['id']}/explain")

    assert found["sentences"][-1].startswith("It needs 3, the event has 2 in all: ")


def test_verify_finds_a_numbering_that_is_behind_and_heals_it(stage: Stage) -> None:
    event = stage.create_event(capacity=1)
    register(stage, event)
    stage.query("SELECT setval('command_seq_seq', 1, false)")
    try:
        with stage.client() as client:
            late = client.post(f"/api/p/{event['slug']}/register", json={"name": "Late"})
        found = command(stage, "verify", "--json", event["slug"])
    finally:
        healed = command(stage, "verify", "--heal", "--json", event["slug"])

    assert (late.status_code, late.json()["code"]) == (503, "NUMBERING_BEHIND")
    assert found.returncode == 1
    assert json.loads(found.stdout)["numberingLag"] > 0
    assert healed.returncode == 0, healed.stderr
    assert json.loads(healed.stdout)["numberingLag"] == 0
    register(stage, event)
    places = stage.query("SELECT seq FROM registration WHERE event_id = %s ORDER BY created_at", event["id"])
    assert places == sorted(places, key=lambda row: row["seq"])


def test_the_audit_replays_from_the_answers_alone(stage: Stage) -> None:
    event = busy_event(stage)
    with stage.client() as client:
        change = {"capacity": 9, "closesAt": "2030-01-01T00:00:00Z", "reason": "a bigger hall: Zoë"}
        assert client.patch(f"/api/events/{event['id']}", json=change, headers=stage.admin).status_code == 200
    entries: list[Json] = []
    page: Json = {"nextCursor": "0"}
    while page["nextCursor"] is not None:
        page = stage.get(f"/api/events/{event['id']}/audit?limit=3&cursor={page['nextCursor']}")
        entries += page["items"]

    previous, counter = "0" * 64, 0
    statuses: dict[str, str | None] = {}
    for number, entry in enumerate(entries, start=1):
        assert (entry["number"], entry["previousHash"]) == (number, previous)
        facts = [event["id"], number, *(entry[name] for name in COVERED)]
        covered = json.dumps(facts, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()
        previous = hashlib.sha256(bytes.fromhex(previous) + covered).hexdigest()
        assert entry["hash"] == previous
        counter += entry["spotsDelta"]
        assert entry["spotsReserved"] == counter
        if entry["registrationId"]:
            assert statuses.get(entry["registrationId"]) == entry["fromStatus"]
            statuses[entry["registrationId"]] = entry["toStatus"]
    rows = {row["id"]: row["status"] for row in stage.registrations(event)}
    assert {id_: status for id_, status in statuses.items() if status} == rows
    assert counter == stage.get(f"/api/events/{event['id']}")["spotsReserved"]
    changed = next(entry for entry in entries if entry["kind"] == "change_event")
    assert changed["beforeAfter"] == {"capacity": [4, 9], "closesAt": [None, "2030-01-01T00:00:00Z"]}
    assert changed["reason"] == "a bigger hall: Zoë"


def test_verify_finds_drift_and_has_it_healed(stage: Stage) -> None:
    event = busy_event(stage)
    fine = command(stage, "verify", event["slug"])
    stage.query(
        "UPDATE event SET spots_reserved = spots_reserved - 1 WHERE id = %s RETURNING id", event["id"]
    )
    drifted = command(stage, "verify", "--json", event["slug"])
    in_status = json.loads(command(stage, "status", "--json").stdout)["drift"]
    healed = command(stage, "verify", "--heal", event["id"])
    unknown = command(stage, "verify", "nothing-here")

    assert (fine.returncode, fine.stdout) == (0, "1 events verified, 0 with drift.\n")
    assert drifted.returncode == 1
    (found,) = json.loads(drifted.stdout)["events"]
    assert (found["drift"], found["inSync"]) == (-1, False)
    assert [one for one in in_status if one["event"] == event["slug"]] == [found], "status says the same"
    assert (healed.returncode, healed.stdout) == (0, "1 events verified, 0 with drift.\n")
    assert (unknown.returncode, unknown.stderr) == (2, "admitone: there is no event nothing-here\n")
    assert stage.get(f"/api/events/{event['id']}/audit")["items"][-1]["actor"] == "verify"
    assert command(stage, "audit", "replay", event["slug"]).returncode == 0


def test_a_lowered_audit_seq_is_healed(stage: Stage) -> None:
    event = busy_event(stage)
    stage.query("UPDATE event SET audit_seq = audit_seq - 2 WHERE id = %s", event["id"])
    with stage.client() as client:
        path, headers = f"/api/p/{event['slug']}/register", {"prefer": "respond-async"}
        receipts = [
            client.post(path, json={"name": "Late"}, headers=headers).headers["location"] for _ in "123"
        ]
    found = command(stage, "verify", event["slug"])
    checked = command(stage, "audit", "check", event["slug"])
    healed = command(stage, "verify", "--heal", event["slug"])

    assert (found.returncode, checked.returncode, healed.returncode) == (1, 1, 0), healed.stderr
    assert "audit_seq does not count 2 entries" in " ".join(found.stdout.split())
    assert "the event counts 6 of 8 entries" in " ".join(checked.stdout.split())
    with stage.client() as client:
        told = [client.get(receipt, params={"wait": "20"}).json() for receipt in receipts]
    assert {receipt["status"] for receipt in told} == {"WAITLIST"}, "no command has failed meanwhile"
    assert command(stage, "audit", "replay", event["slug"]).returncode == 0
    assert command(stage, "audit", "check", event["slug"]).returncode == 0


def test_a_raised_audit_seq_is_named_only(stage: Stage) -> None:
    event = busy_event(stage)
    stage.query("UPDATE event SET audit_seq = audit_seq + 2, spots_reserved = 1 WHERE id = %s", event["id"])
    try:
        healed = command(stage, "verify", "--heal", event["slug"])
    finally:
        stage.query("UPDATE event SET audit_seq = audit_seq - 2 WHERE id = %s", event["id"])

    assert healed.returncode == 1
    assert "audit_seq counts 2 more entries than there are" in " ".join(healed.stdout.split())
    assert command(stage, "verify", "--heal", event["slug"]).returncode == 0


def test_audit_commands_name_the_first_broken_entry(stage: Stage) -> None:
    event = busy_event(stage)
    checked, replayed = (
        command(stage, "audit", "check", event["slug"]),
        command(stage, "audit", "replay", event["id"]),
    )
    stage.query("ALTER TABLE audit_entry DISABLE TRIGGER audit_entry_append_only")
    try:
        stage.query("UPDATE audit_entry SET actor = 'nobody' WHERE event_id = %s AND number = 3", event["id"])
    finally:
        stage.query("ALTER TABLE audit_entry ENABLE TRIGGER audit_entry_append_only")
    stage.query("UPDATE registration SET status = 'CANCELLED' WHERE event_id = %s", event["id"])
    broken = command(stage, "audit", "check", "--json", event["slug"])
    differing = command(stage, "audit", "replay", event["slug"])

    assert (checked.returncode, replayed.returncode) == (0, 0)
    assert "all in order" in checked.stdout
    assert broken.returncode == differing.returncode == 1
    (found,) = json.loads(broken.stdout)["events"]
    assert found["problems"] == ["entry 3 is broken: its hash does not follow from it and the entry before"]
    assert "is CANCELLED; the trail says CONFIRMED" in differing.stdout


def test_status_shows_workers_their_events_and_the_backlog(stage: Stage) -> None:
    event = stage.create_event()
    register(stage, event)

    found = json.loads(command(stage, "status", "--json").stdout)
    shown = command(stage, "status")

    assert {worker["pid"] for worker in found["workers"]} == {worker.pid for worker in stage.workers}
    owners = [worker for worker in found["workers"] if event["slug"] in worker["events"]]
    assert len(owners) == 1
    assert all(worker["tickAgeSeconds"] < 5 for worker in found["workers"])
    assert found["backlog"] == []
    assert (shown.returncode, "Nothing is pending." in shown.stdout) == (0, True)
