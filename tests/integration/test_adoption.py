"""An existing system is adopted whole: ids, order, counters and statuses, and its mistakes are told."""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID, uuid5

import psycopg
import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.pool import NullPool

from ops.adoption import adopt as adoption
from ops.adoption.adopt import AdoptionError
from ops.adoption.cleaning import CleanRegistration
from ops.adoption.event_writer import EventWriter
from ops.adoption.report import Fate
from ops.adoption.target import Target
from ops.maintenance import audit, verification
from ops.maintenance.audit import AuditedEvent
from shared.postgres import locks
from tests.databases import as_worker, session_of
from tests.integration.old_systems import (
    PRISMA,
    add_event,
    add_registration,
    adopt,
    content,
    problems,
    run,
)
from tests.stage import CHECKOUT
from worker.owner import apply as apply_batch

NAMESPACE = UUID("a567bcc8-4967-4672-96a7-146c52e11226")
CUID = "clw2k0q7h0000356k8v3x1a2b"
OWN_UUID = "0190c3f2-5b6a-7c1d-8e2f-3a4b5c6d7e8f"
NOON = "2026-01-01 12:00:00.123"

# Neither the order of the rows nor that of the ids is the order in which they were made: minute, then id.
OVERSOLD = [
    ("c9", "Ada", 2, "CONFIRMED", 0),
    (OWN_UUID, "Grace", 4, "CONFIRMED", 2),
    ("c5", "Alan", 5, "CANCELLED", 1),
    ("c4", "Edsger", 3, "WAITLIST", 5),
    ("c1", "Barbara", 1, "WAITLIST", 7),
    ("c7", "Donald", 2, "CONFIRMED", 3),
    ("c8", "Tony", 1, "WAITLIST", 5),
]
IN_ORDER = ["c9", "c5", OWN_UUID, "c7", "c4", "c8", "c1"]


@pytest.fixture
def source(empty_database: str) -> str:
    """Return the URL of an existing system's database, without any event."""
    run(empty_database, PRISMA)
    return empty_database


@pytest.fixture
def oversold(source: str) -> str:
    """Return the URL of that database with an event of five spots of which eight are confirmed."""
    add_event(source, CUID, slug="drop", title="The drop", spotsReserved=6, createdAt=NOON)
    for id_, name, spots, status, minute in OVERSOLD:
        made = f"2026-01-01 12:{minute:02}:00"
        add_registration(source, id_, CUID, name=name, spotsCount=spots, status=status, createdAt=made)
    return source


def test_a_client_can_compute_its_adopted_id() -> None:
    assert adoption.adopted_id(OWN_UUID) == UUID(OWN_UUID)
    assert adoption.adopted_id(OWN_UUID.upper()) == UUID(OWN_UUID)
    assert adoption.adopted_id(CUID) == uuid5(NAMESPACE, CUID)
    assert adoption.adopted_id(OWN_UUID.replace("-", "")) == uuid5(NAMESPACE, OWN_UUID.replace("-", ""))


def test_an_event_keeps_its_ids_its_order_and_its_registrations(oversold: str, database: str) -> None:
    report = adopt(oversold, database)

    assert (report.complete, report.all_taken, report.problems) == (True, True, [])
    event = uuid5(NAMESPACE, CUID)
    rows = run(database, "SELECT * FROM registration WHERE event_id = %s ORDER BY seq", event)
    by_id = {one[0]: one for one in OVERSOLD}
    assert [row.id for row in rows] == [adoption.adopted_id(id_) for id_ in IN_ORDER]
    assert [(row.name, row.spots_count, row.status) for row in rows] == [by_id[id_][1:4] for id_ in IN_ORDER]
    assert [f"{row.created_at:%M %z}" for row in rows] == [f"{by_id[id_][4]:02} +0000" for id_ in IN_ORDER]
    assert {row.command_id for row in rows} == {None}


def test_an_oversold_event_keeps_its_capacity(oversold: str, database: str) -> None:
    (adopted,) = adopt(oversold, database).events

    (event,) = run(database, "SELECT * FROM event")
    counters = (
        event.capacity,
        event.spots_reserved,
        event.overbooked_spots,
        event.waitlist_length,
        event.audit_seq,
    )
    assert counters == (5, 8, 3, 3, 7)
    assert (event.slug, event.title, event.auto_promote) == ("drop", "The drop", True)
    assert event.created_at.isoformat() == "2026-01-01T12:00:00.123000+00:00"
    assert (adopted.overbooked_spots, adopted.drift, adopted.promotable) == (3, -2, 0)


def test_those_who_will_be_promoted_next_are_counted_and_promoted_by_nobody(
    source: str, database: str
) -> None:
    add_event(source, "e", capacity=6)
    for number, (spots, status) in enumerate(
        [(2, "CONFIRMED"), (7, "WAITLIST"), (1, "WAITLIST"), (2, "WAITLIST"), (3, "WAITLIST")]
    ):
        made = f"2026-01-01 12:0{number}:00"
        add_registration(source, f"r{number}", "e", spotsCount=spots, status=status, createdAt=made)

    (adopted,) = adopt(source, database).events

    assert (adopted.spots_reserved, adopted.waitlist_length, adopted.promotable) == (2, 4, 2)
    assert run(database, "SELECT count(*) FROM registration WHERE status = 'CONFIRMED'") == [(1,)]


def test_the_trail_replays_and_its_hashes_chain(oversold: str, database: str) -> None:
    adopt(oversold, database)

    statuses, counter, last = {}, 0, bytes(32)
    for number, entry in enumerate(run(database, "SELECT * FROM audit_entry ORDER BY number"), 1):
        counter += entry.spots_delta
        statuses[entry.registration_id] = entry.to_status
        at = f"{entry.at:%Y-%m-%dT%H:%M:%S.%fZ}"
        who = str(entry.event_id), number, None, "adopt", "adoption", None, str(entry.registration_id)
        facts = [*who, None, entry.to_status, None, entry.spots_delta, counter, at]
        last = hashlib.sha256(last + json.dumps(facts, separators=(",", ":")).encode()).digest()
        assert (entry.number, entry.spots_reserved, bytes(entry.hash)) == (number, counter, last)
    assert statuses == dict(run(database, "SELECT id, status FROM registration"))
    assert run(database, "SELECT spots_reserved, audit_seq FROM event") == [(counter, len(OVERSOLD))]


def test_verifying_and_auditing_find_nothing_wrong_with_what_was_adopted(
    oversold: str, database: str
) -> None:
    adopt(oversold, database)

    with create_engine(database, poolclass=NullPool).connect() as connection:
        (verified,) = verification.verify(connection)
    assert (verified.in_sync, verified.overbooked_spots) == (True, 3)
    assert audit.check(database) == [AuditedEvent(event="drop", entries=len(OVERSOLD))]
    assert audit.replay(database, "drop").problems == []


def test_a_second_run_changes_nothing(oversold: str, database: str) -> None:
    adopt(oversold, database)
    before = content(database)

    again = adopt(oversold, database)

    assert [event.fate.value for event in again.events] == ["ALREADY_ADOPTED"]
    assert (again.all_taken, content(database)) == (True, before)


def test_a_run_after_a_command_only_tells_what_is_missing(oversold: str, database: str) -> None:
    adopt(oversold, database)
    event = uuid5(NAMESPACE, CUID)
    decide(database, event, "change_event", {"title": "Ours now"})
    before = content(database)
    add_registration(oversold, "late", CUID, spotsCount=3)

    again = adopt(oversold, database)

    assert (problems(again), content(database)) == ([("NOT_IN_TARGET", CUID, None)], before)
    assert (again.left_out.registrations, again.left_out.spots) == (1, 3)


def test_a_dry_run_reports_the_same_and_leaves_nothing(oversold: str, database: str) -> None:
    add_event(oversold, "one", slug="The Same")
    add_event(oversold, "two", slug="the same")
    add_registration(oversold, "lost", "nowhere")

    dry = adopt(oversold, database, dry_run=True)
    assert content(database) == [[], [], [], []]
    real = adopt(oversold, database)

    assert (dry.events, dry.problems, dry.totals) == (real.events, real.problems, real.totals)
    assert [event.fate.value for event in real.events] == ["ADOPTED", "ADOPTED", "LEFT_OUT"]


def test_an_adoption_that_was_killed_goes_on_with_the_next_event(oversold: str, database: str) -> None:
    add_event(oversold, "next", slug="next", createdAt="2026-02-01")
    add_registration(oversold, "r", "next")
    plain = make_url(database).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as blocker:
        # Whoever inserts this slug waits for the end of this transaction: a sure moment for the kill.
        blocker.execute(
            "INSERT INTO event (id, slug, title, capacity) VALUES (gen_random_uuid(), 'next', 'x', 1)"
        )
        killed = start(oversold, database)
        wait_until(lambda: run(database, "SELECT 1 FROM pg_locks WHERE NOT granted") != [])
        killed.kill()
        killed.wait()
        blocker.rollback()
    wait_until_gone(database)
    first = content(database)

    report = adopt(oversold, database)

    assert [event.slug for event in first[0]] == ["drop"]
    assert [event.fate.value for event in report.events] == ["ALREADY_ADOPTED", "ADOPTED"]
    after = content(database)
    assert [row for row in after[2] if row.event_id == first[0][0].id] == first[2]
    assert len(after[1]) == len(OVERSOLD) + 1


def add_many(source: str, event_id: str, count: int) -> None:
    """Add registrations to the source: two of three confirmed, a spot each, in the order of their numbers."""
    statement = """
        INSERT INTO "Registration" (id, "eventId", name, "spotsCount", status, "createdAt")
        SELECT 'r' || n, %s, 'User', 1,
               (CASE WHEN n % 3 = 0 THEN 'WAITLIST' ELSE 'CONFIRMED' END)::"RegistrationStatus",
               timestamp '2026-01-01' + n * interval '1 second'
        FROM generate_series(1, %s) AS n
    """
    run(source, statement.replace("n % 3", "n %% 3"), event_id, count)


def facts(target: str) -> list[list[Any]]:
    """Return all that an adoption writes, apart from places and from what depends on its time."""
    return [
        run(target, statement)
        for statement in (
            """
            SELECT id, slug, title, capacity, spots_reserved, overbooked_spots, waitlist_length, audit_seq,
                   auto_promote, paused, opens_at, closes_at, created_at
            FROM event ORDER BY id
            """,
            """
            SELECT event_id, id, name, email, email_key, spots_count, status, created_at
            FROM registration ORDER BY event_id, seq
            """,
            """
            SELECT event_id, number, kind, actor, registration_id, to_status, spots_delta, spots_reserved
            FROM audit_entry ORDER BY event_id, number
            """,
        )
    ]


def assert_consistent(target: str) -> None:
    """Compare counters and audit trail of the only event with its rows."""
    with create_engine(target, poolclass=NullPool).connect() as connection:
        (verified,) = verification.verify(connection)
    assert verified.in_sync
    assert verified.overbooked_spots == max(verified.confirmed - verified.capacity, 0)
    assert [audited.problems for audited in audit.check(target)] == [[]]
    assert audit.replay(target, verified.event).problems == []


def stop_before(monkeypatch: pytest.MonkeyPatch, chunk: int, between: Callable[[], None]) -> None:
    """Have the adoption fail in this chunk, its rows written and not committed; call `between` in others."""
    add, chunks = EventWriter.add, []

    def add_or_stop(writer: EventWriter, batch: Sequence[CleanRegistration]) -> None:
        chunks.append(len(batch))
        if len(chunks) > 1:
            between()
        add(writer, batch)
        if len(chunks) == chunk:
            raise KeyboardInterrupt

    monkeypatch.setattr(EventWriter, "add", add_or_stop)


def test_an_event_of_many_registrations_is_adopted_in_bounded_transactions(
    source: str, database: str
) -> None:
    add_event(source, "e", capacity=7_000)
    add_many(source, "e", 12_000)

    (adopted,) = adopt(source, database).events

    sizes = [
        [row.rows for row in run(database, f"SELECT count(*) AS rows FROM {table} GROUP BY xmin::text")]
        for table in ("registration", "audit_entry")
    ]
    assert [sorted(of_table) for of_table in sizes] == [[2_000, 5_000, 5_000]] * 2
    assert (adopted.registrations, adopted.spots_reserved, adopted.waitlist_length) == (12_000, 8_000, 4_000)
    assert run(database, "SELECT paused, closes_at, overbooked_spots FROM event") == [(False, None, 1_000)]
    assert_consistent(database)


@pytest.mark.parametrize("count", [0, 1, 2, 4, 5])
def test_an_event_is_opened_by_its_last_chunk(
    source: str, database: str, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr("ops.adoption.sources.source.BATCH_ROWS", 2)
    add_event(source, "e")
    add_many(source, "e", count)

    (adopted,) = adopt(source, database).events

    assert (adopted.registrations, adopted.fate) == (count, Fate.ADOPTED)
    assert run(database, "SELECT audit_seq, paused, closes_at FROM event") == [(count, False, None)]
    assert_consistent(database)


def test_between_two_chunks_the_event_is_closed_and_consistent(
    oversold: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.adoption.sources.source.BATCH_ROWS", 2)
    seen = []

    def between() -> None:
        plain = make_url(database).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(plain) as other:
            row = other.execute("SELECT paused, closes_at < now(), audit_seq FROM event").fetchone()
        seen.append(row)
        assert_consistent(database)

    stop_before(monkeypatch, 4, between)
    with pytest.raises(KeyboardInterrupt):
        adopt(oversold, database)

    assert seen == [(True, True, 2), (True, True, 4), (True, True, 6)]
    assert_consistent(database)
    (refused,) = register(database, uuid5(NAMESPACE, CUID), 1)
    assert refused["code"] == "REGISTRATION_CLOSED"


@pytest.mark.parametrize("chunk", [1, 2, 3, 4])
def test_an_event_whose_adoption_stopped_is_adopted_to_the_end(
    oversold: str, database: str, module_database: str, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    for number in range(3):
        made = f"2026-01-01 12:2{number}:00"
        add_registration(oversold, f"m{number}", CUID, email="a@example.com", createdAt=made)
    add_registration(oversold, "bad", CUID, status="PENDING", createdAt=NOON)
    adopt(oversold, module_database)
    expected = adopt(oversold, database, dry_run=True)
    with monkeypatch.context() as stopped:
        stopped.setattr("ops.adoption.sources.source.BATCH_ROWS", 3)
        stop_before(stopped, chunk, lambda: assert_consistent(database))
        with pytest.raises(KeyboardInterrupt):
            adopt(oversold, database)
    monkeypatch.setattr("ops.adoption.sources.source.BATCH_ROWS", 4)

    report = adopt(oversold, database)

    assert facts(database) == facts(module_database)
    assert_consistent(database)
    assert (report.events, report.problems) == (expected.events, expected.problems)
    assert [event.fate for event in adopt(oversold, database).events] == [Fate.ALREADY_ADOPTED]


def test_a_killed_adoption_goes_on_within_an_event(source: str, database: str) -> None:
    add_event(source, "e", capacity=10)
    add_many(source, "e", 30)
    killed = start(
        source,
        database,
        before="""
import os
from ops.adoption.sources import source
from ops.adoption.event_writer import EventWriter
source.BATCH_ROWS, add = 10, EventWriter.add
def add_or_die(writer, batch):
    add(writer, batch)
    if writer.registrations == 20:
        os.kill(os.getpid(), 9)
EventWriter.add = add_or_die
""",
    )
    assert killed.wait() == -9
    wait_until_gone(database)
    assert run(database, "SELECT audit_seq, paused FROM event") == [(10, True)]
    assert_consistent(database)

    (adopted,) = adopt(source, database).events

    assert (adopted.registrations, adopted.spots_reserved, adopted.waitlist_length) == (30, 20, 10)
    assert run(database, "SELECT audit_seq, paused, closes_at FROM event") == [(30, False, None)]
    places = run(database, "SELECT name, id FROM registration ORDER BY seq")
    assert [row.id for row in places] == [uuid5(NAMESPACE, f"r{number}") for number in range(1, 31)]
    assert_consistent(database)


def test_what_admins_decide_between_two_runs_is_kept(
    source: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.adoption.sources.source.BATCH_ROWS", 2)
    add_event(source, "e", capacity=3)
    add_many(source, "e", 6)
    stop_before(monkeypatch, 3, lambda: None)
    with pytest.raises(KeyboardInterrupt):
        adopt(source, database)
    event, gone = uuid5(NAMESPACE, "e"), uuid5(NAMESPACE, "r1")

    (outcome,) = decide(database, event, "delete_registration", {"registrationId": str(gone)})
    adopt(source, database)

    assert outcome["outcome"] == "deleted"
    ids = [row.id for row in run(database, "SELECT id FROM registration ORDER BY seq")]
    assert ids == [uuid5(NAMESPACE, f"r{number}") for number in range(2, 7)]
    assert run(database, "SELECT spots_reserved, waitlist_length, audit_seq FROM event") == [(3, 2, 7)]
    assert_consistent(database)


def test_an_event_that_was_opened_meanwhile_is_not_touched_further(
    source: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.adoption.sources.source.BATCH_ROWS", 2)
    add_event(source, "e")
    add_many(source, "e", 3)
    transaction = Target.transaction

    def transaction_after_opening(target: Target, **options: bool) -> AbstractContextManager[object]:
        run(database, "UPDATE event SET paused = false")
        return transaction(target, **options)

    with monkeypatch.context() as opened:
        opened.setattr(Target, "transaction", transaction_after_opening)
        with pytest.raises(AdoptionError, match="was opened or changed"):
            adopt(source, database)

    assert problems(adopt(source, database)) == [("NOT_IN_TARGET", "e", None)]
    assert run(database, "SELECT audit_seq FROM event") == [(2,)]
    assert_consistent(database)


def test_an_event_that_is_refused_midway_stays_closed_until_it_is_mended(
    source: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.adoption.sources.source.BATCH_ROWS", 2)
    add_event(source, "e")
    for number in range(4):
        made = f"2026-01-01 12:0{number}"
        add_registration(source, f"r{number}", "e", spotsCount=900_000_000, createdAt=made)

    refused = adopt(source, database)

    assert problems(refused) == [("EVENT_REFUSED", "e", None)]
    assert refused.problems[0].detail.endswith("; its first 2 registrations are adopted, and it stays closed")
    assert run(database, "SELECT audit_seq, paused FROM event") == [(2, True)]
    assert_consistent(database)
    run(source, """UPDATE "Registration" SET "spotsCount" = 1 WHERE id IN ('r2', 'r3')""")
    assert adopt(source, database).all_taken
    assert run(database, "SELECT audit_seq, paused, closes_at FROM event") == [(4, False, None)]
    assert_consistent(database)


def start(source: str, target: str, *, before: str = "") -> subprocess.Popen[bytes]:
    """Run an adoption in a process of its own, after the statements `before`."""
    program = before + (
        "\nimport sys; from ops.adoption import adopt as adoption; from ops.adoption.report import Report;"
        "adoption.adopt(sys.argv[2], sys.argv[1], Report(dry_run=False))"
    )
    return subprocess.Popen([sys.executable, "-c", program, source, target], cwd=CHECKOUT)


def wait_until_gone(target: str) -> None:
    """Wait until PostgreSQL has ended the session of a killed adoption."""
    session = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'admitone-adoption'"
    wait_until(lambda: run(target, session) == [])


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)


def test_only_what_cannot_be_taken_is_left_out(source: str, database: str) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"status": "PENDING"}, "STATUS_UNKNOWN"),
        ({"status": None}, "STATUS_UNKNOWN"),
        ({"spotsCount": 0}, "SPOTS_COUNT_INVALID"),
        ({"spotsCount": -1}, "SPOTS_COUNT_INVALID"),
        ({"spotsCount": None}, "SPOTS_COUNT_INVALID"),
        ({"spotsCount": 2_000_000_000}, "SPOTS_COUNT_INVALID"),
        ({"name": None}, "NAME_EMPTY"),
        ({"name": " \t\x7f "}, "NAME_EMPTY"),
    ]
    add_event(source, "e")
    for number, (what, _) in enumerate(bad):
        add_registration(source, f"bad{number}", "e", createdAt=NOON, **what)
    add_registration(source, "good", "e", spotsCount=2)

    report = adopt(source, database)

    assert problems(report) == [(code, "e", f"bad{number}") for number, (_, code) in enumerate(bad)]
    assert not report.all_taken
    assert run(database, "SELECT id FROM registration") == [(uuid5(NAMESPACE, "good"),)]
    assert run(database, "SELECT spots_reserved, audit_seq FROM event") == [(2, 1)]


def test_each_registration_that_can_be_mended_is_taken_and_told(source: str, database: str) -> None:
    bad: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
        ({"name": "Bob\tby\nTables"}, "NAME_CHANGED", {"name": "Bob by Tables"}),
        ({"name": "Zoe\u0308\u2028of\u202eOz\u200b"}, "NAME_CHANGED", {"name": "Zoë of Oz"}),
        ({"name": "N" * 201}, "NAME_CUT", {"name": "N" * 200}),
        ({"email": "nobody"}, "EMAIL_UNUSABLE", {"email": None, "email_key": None}),
        ({"email": "n@" + "o" * 320}, "EMAIL_UNUSABLE", {"email": None, "email_key": None}),
        ({"createdAt": "infinity"}, "CREATED_AT_UNUSABLE", {"name": "User"}),
        ({"createdAt": None}, "CREATED_AT_UNUSABLE", {"name": "User"}),
    ]
    add_event(source, "e")
    for number, (what, *_) in enumerate(bad):
        add_registration(source, f"bad{number}", "e", **{"createdAt": NOON, **what})

    report = adopt(source, database)

    assert problems(report) == [(code, "e", f"bad{number}") for number, (_, code, _) in enumerate(bad)]
    assert report.all_taken
    rows = run(database, "SELECT * FROM registration ORDER BY seq")
    for row, (*_, now) in zip(rows, bad, strict=True):
        assert {name: getattr(row, name) for name in now} == now


def test_addresses_are_kept_in_the_form_in_which_registering_compares_them(
    source: str, database: str
) -> None:
    add_event(source, "e")
    for number, email in enumerate(["Ada@EXAMPLE.com", "grace@bücher.example.com", "tony@localhost"]):
        add_registration(source, f"r{number}", "e", email=email, createdAt=f"2026-01-01 12:0{number}")

    assert adopt(source, database).problems == []
    assert run(database, "SELECT email, email_key FROM registration ORDER BY seq") == [
        ("Ada@example.com", "ada@example.com"),
        ("grace@bücher.example.com", "grace@xn--bcher-kva.example.com"),
        ("tony@localhost", "tony@localhost"),
    ]


def test_the_earliest_active_registration_keeps_an_address_that_several_have(
    source: str, database: str
) -> None:
    add_event(source, "e")
    add_event(source, "other", slug="other")
    statuses = ["CANCELLED", "WAITLIST", "CONFIRMED", "CANCELLED", "CONFIRMED"]
    for number, status in enumerate(statuses):
        made = f"2026-01-01 12:0{number}"
        email = "ADA@example.com" if number % 2 else "ada@example.com"
        add_registration(source, f"r{number}", "e", email=email, status=status, createdAt=made)
    add_registration(source, "elsewhere", "other", email="ada@example.com")

    report = adopt(source, database)

    assert problems(report) == [("EMAIL_TAKEN", "e", "r2"), ("EMAIL_TAKEN", "e", "r4")]
    kept = dict(run(database, "SELECT id, email_key IS NOT NULL FROM registration"))
    ids = [f"r{number}" for number in range(5)]
    assert [kept[uuid5(NAMESPACE, id_)] for id_ in ids] == [True, True, False, True, False]
    assert kept[uuid5(NAMESPACE, "elsewhere")]


def test_an_address_is_compared_with_those_of_batches_before(
    source: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.adoption.sources.source.BATCH_ROWS", 1)
    add_event(source, "e")
    for number in range(3):
        add_registration(
            source, f"r{number}", "e", email="a@example.com", createdAt=f"2026-01-01 12:0{number}"
        )

    assert problems(adopt(source, database)) == [("EMAIL_TAKEN", "e", "r1"), ("EMAIL_TAKEN", "e", "r2")]


def test_a_registration_without_its_event_is_left_out(source: str, database: str) -> None:
    add_registration(source, "lost", "nowhere")
    add_registration(source, "loose", None)

    found = problems(adopt(source, database))

    assert sorted(found, key=str) == [
        ("REGISTRATION_WITHOUT_EVENT", "nowhere", "lost"),
        ("REGISTRATION_WITHOUT_EVENT", None, "loose"),
    ]


def test_each_event_that_cannot_be_taken_is_left_out_with_its_registrations(
    source: str, database: str
) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"capacity": None}, "CAPACITY_INVALID"),
        ({"capacity": -1}, "CAPACITY_INVALID"),
        ({"capacity": 2_000_000_000}, "CAPACITY_INVALID"),
        ({"slug": "!!!"}, "SLUG_UNUSABLE"),
        ({"slug": "here"}, "SLUG_TAKEN"),
        ({"slug": "GOOD"}, "SLUG_TAKEN"),
    ]
    run(database, "INSERT INTO event (id, slug, title, capacity) VALUES (gen_random_uuid(), 'here', 'x', 1)")
    for number, (what, _) in enumerate(bad):
        add_event(source, f"bad{number}", createdAt=NOON, **what)
        add_registration(source, f"r{number}", f"bad{number}")
    add_event(source, "good")
    add_event(source, "second-good", slug="good", createdAt="2100-01-01")

    report = adopt(source, database)

    told = [one for one in problems(report) if one[0] != "SLUG_CHANGED"]
    expected = [(code, f"bad{number}", None) for number, (_, code) in enumerate(bad)]
    assert told == [*expected, ("SLUG_TAKEN", "second-good", None)]
    assert [event.source_id for event in report.events if event.fate is Fate.ADOPTED] == ["good"]
    assert run(database, "SELECT slug FROM event ORDER BY slug") == [("good",), ("here",)]
    assert run(database, "SELECT count(*) FROM registration") == [(0,)]


def test_an_event_whose_confirmed_spots_are_beyond_counting_is_left_out(source: str, database: str) -> None:
    add_event(source, "e")
    for number in range(3):
        add_registration(source, f"r{number}", "e", spotsCount=900_000_000)
    add_event(source, "good", createdAt="2027-01-01")

    report = adopt(source, database)

    assert problems(report) == [("EVENT_REFUSED", "e", None)]
    assert run(database, "SELECT slug FROM event") == [("good",)]


def test_each_event_that_can_be_mended_is_taken_and_told(source: str, database: str) -> None:
    bad: list[tuple[dict[str, Any], str, tuple[str, str]]] = [
        ({"slug": "Été_à Paris!"}, "SLUG_CHANGED", ("ete-a-paris", "A drop")),
        ({"slug": "s" * 101}, "SLUG_CHANGED", ("s" * 100, "A drop")),
        ({"title": " "}, "TITLE_CHANGED", ("e2", "e2")),
        ({"title": "Two\nlines"}, "TITLE_CHANGED", ("e3", "Two lines")),
        ({"title": "T" * 201}, "TITLE_CHANGED", ("e4", "T" * 200)),
        ({"createdAt": "26.11.2025"}, "CREATED_AT_UNUSABLE", ("e5", "A drop")),
    ]
    run(source, 'ALTER TABLE "Event" ALTER "createdAt" DROP DEFAULT, ALTER "createdAt" TYPE text')
    for number, (what, *_) in enumerate(bad):
        add_event(source, f"e{number}", **{"createdAt": "2025-11-26", **what})

    report = adopt(source, database)

    assert problems(report) == [(code, f"e{number}", None) for number, (_, code, _) in enumerate(bad)]
    assert report.all_taken
    events = {row.id: (row.slug, row.title) for row in run(database, "SELECT * FROM event")}
    assert [events[event.id] for event in report.events] == [now for *_, now in bad]


def test_the_two_systems_may_share_a_database(database: str) -> None:
    run(database, "CREATE SCHEMA old", *())
    run(database, "SET search_path = old;" + PRISMA)
    run(database, """INSERT INTO old."Event" (id, slug, title, capacity) VALUES ('e', 'e', 'e', 1)""")
    url = make_url(database).set(drivername="postgres")
    url = url.update_query_dict({"schema": "old", "connection_limit": "5", "pgbouncer": "true"})

    report = adopt(url.render_as_string(hide_password=False), database)

    assert [event.fate.value for event in report.events] == ["ADOPTED"]


def test_other_types_and_missing_columns_are_adopted(source: str, database: str) -> None:
    run(
        source,
        'ALTER TABLE "Event" DROP "spotsReserved", DROP "createdAt", ALTER id TYPE uuid USING id::uuid',
    )
    run(
        source,
        'ALTER TABLE "Registration" DROP email, ALTER status TYPE text, ALTER "createdAt" TYPE timestamptz',
    )
    run(source, 'ALTER TABLE "Registration" ALTER id TYPE uuid USING id::uuid')
    run(source, 'ALTER TABLE "Registration" ALTER "eventId" TYPE uuid USING "eventId"::uuid')
    run(source, """INSERT INTO "Event" VALUES (%s, 'e', 'e', 3)""", OWN_UUID)
    add_registration(source, OWN_UUID, OWN_UUID, createdAt="2026-01-01 14:00+02")

    (event,) = adopt(source, database).events

    assert (str(event.id), event.registrations, event.drift) == (OWN_UUID, 1, None)
    (row,) = run(database, "SELECT id, created_at FROM registration")
    assert (str(row.id), row.created_at.isoformat()) == (OWN_UUID, "2026-01-01T12:00:00+00:00")


def test_a_source_of_another_shape_is_refused_in_a_line(source: str, database: str) -> None:
    changes = {
        'ALTER TABLE "Event" DROP slug': 'the source\'s table "Event" has no column "slug"',
        'ALTER TABLE "Event" ADD slug text; ALTER TABLE "Registration" DROP "createdAt", DROP status': (
            'the source\'s table "Registration" has no column "status", "createdAt"'
        ),
        'DROP TABLE "Registration"': 'the source has no table "Registration"',
    }
    for change, message in changes.items():
        run(source, change)
        with pytest.raises(AdoptionError) as refused:
            adopt(source, database)
        assert str(refused.value).startswith(f"{message}; if ")


def test_a_target_that_is_not_migrated_is_refused(source: str, database: str) -> None:
    run(database, "UPDATE alembic_version SET version_num = '0002'")
    with pytest.raises(AdoptionError, match="at migration 0002"):
        adopt(source, database)
    run(database, "DROP TABLE alembic_version")
    with pytest.raises(AdoptionError, match="no schema yet"):
        adopt(source, database)


def test_a_source_that_cannot_be_opened_is_told_without_its_password(database: str) -> None:
    wrong = ["nonsense", "mysql://u:secret@host/name", "postgresql://u:secret@127.0.0.1:1/name"]
    for url in [*wrong, "postgresql://u:a@secret@127.0.0.1:1/name"]:
        with pytest.raises(AdoptionError, match="the source") as refused:
            adopt(url, database)
        assert "secret" not in str(refused.value)
        assert "\n" not in str(refused.value)


def test_two_adoptions_at_once_are_refused(source: str, database: str) -> None:
    plain = make_url(database).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [locks.ADOPTION])
        with pytest.raises(AdoptionError, match="another adoption"):
            adopt(source, database)


def test_the_command_prints_one_object_and_ends_with_what_it_means(
    oversold: str, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert adoption.command(database, oversold, dry_run=True, as_json=True) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["dryRun"], printed["complete"], printed["allTaken"]) == (True, True, True)
    assert (printed["eventsAdopted"], printed["registrationsAdopted"]) == (1, len(OVERSOLD))
    assert printed["events"][0]["sourceId"] == CUID
    assert printed["events"][0]["id"] == str(uuid5(NAMESPACE, CUID))

    add_registration(oversold, "bad", CUID, status="PENDING")
    assert adoption.command(database, oversold, dry_run=False, as_json=True) == 1
    printed = json.loads(capsys.readouterr().out)
    assert (printed["allTaken"], printed["problemCounts"]) == (False, {"STATUS_UNKNOWN": 1})


def test_the_report_for_people_names_events_and_problems_and_nobody(
    oversold: str, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    add_registration(oversold, "bad", CUID, name="Mallory", spotsCount=0)

    assert adoption.command(database, oversold, dry_run=False, as_json=False) == 1

    printed = capsys.readouterr().out
    for part in ("drop", "8 of 5", "-2", "SPOTS_COUNT_INVALID", "left out", "1 events with 7 registrations"):
        assert part in printed
    assert "Mallory" not in printed


def test_a_run_that_stops_midway_tells_what_it_did_until_then(
    oversold: str, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ops.adoption.links.LOCK_SECONDS_MAX", 1)
    add_event(oversold, "next", createdAt="2026-02-01")
    plain = make_url(database).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as blocker:
        blocker.execute(
            "INSERT INTO event (id, slug, title, capacity) VALUES (gen_random_uuid(), 'next', 'x', 1)"
        )
        with pytest.raises(AdoptionError, match="lock timeout"):
            adoption.command(database, oversold, dry_run=False, as_json=False)

    printed = capsys.readouterr().out
    assert "1 events with 7 registrations" in printed
    assert "stopped before its end" in printed


def register(target: str, event_id: UUID, *spots: int) -> list[dict[str, Any]]:
    """Put commands into the ledger, let them be decided, and return their outcomes in order."""
    return decide(target, event_id, "register", *({"name": "New", "spotsCount": count} for count in spots))


def decide(target: str, event_id: UUID, kind: str, *payloads: dict[str, Any]) -> list[dict[str, Any]]:
    """Put commands of this kind into the ledger, let them be decided, and return their outcomes in order."""
    for payload in payloads:
        statement = """
            WITH accepted AS (
                INSERT INTO command (event_id, id, kind, payload, actor)
                VALUES (%s, gen_random_uuid(), %s, %s, 'public')
                RETURNING event_id, seq, id
            )
            INSERT INTO pending_command (event_id, seq, command_id) SELECT * FROM accepted
        """
        run(target, statement, event_id, kind, json.dumps(payload))
    with as_worker(target) as connection:
        apply_batch(session_of(connection), [event_id], 100)
    rows = run(target, "SELECT outcome FROM ledger WHERE event_id = %s ORDER BY seq", event_id)
    return [row.outcome for row in rows[-len(payloads) :]]


def test_whoever_registers_afterwards_waits_behind_those_who_waited_before(
    oversold: str, database: str
) -> None:
    adopt(oversold, database)
    event = uuid5(NAMESPACE, CUID)

    outcomes = register(database, event, 1, 2)

    assert [outcome["position"] for outcome in outcomes] == [4, 5]
    waiting = "SELECT id FROM registration WHERE status = 'WAITLIST' ORDER BY seq"
    adopted = [uuid5(NAMESPACE, id_) for id_ in ("c4", "c8", "c1")]
    assert [row.id for row in run(database, waiting)][:3] == adopted
    assert run(database, "SELECT spots_reserved, waitlist_length FROM event") == [(8, 5)]


def test_those_who_waited_before_are_promoted_first(source: str, database: str) -> None:
    add_event(source, "e", capacity=2)
    add_registration(source, "waiting", "e", status="WAITLIST")
    adopt(source, database)

    outcomes = register(database, uuid5(NAMESPACE, "e"), 1, 1)

    assert [outcome["outcome"] for outcome in outcomes] == ["confirmed", "waitlisted"]
    kinds = run(database, "SELECT kind FROM audit_entry ORDER BY number")
    assert [row.kind for row in kinds] == ["adopt", "promotion", "register", "register"]


def test_an_adopted_party_that_cannot_fit_blocks_no_other(source: str, database: str) -> None:
    add_event(source, "e", capacity=2)
    add_registration(source, "large", "e", spotsCount=3, status="WAITLIST")
    adopt(source, database)

    outcomes = register(database, uuid5(NAMESPACE, "e"), 1, 3)

    assert [outcome.get("code", outcome["outcome"]) for outcome in outcomes] == [
        "confirmed",
        "TOO_MANY_SPOTS",
    ]


def test_adopted_places_meet_none_of_the_ledger(oversold: str, database: str) -> None:
    other = run(
        database,
        "INSERT INTO event (id, slug, title, capacity) VALUES (gen_random_uuid(), 'x', 'x', 9) RETURNING id",
    )[0].id
    register(database, other, 1, 1, 1)
    adopt(oversold, database)
    register(database, other, 1)

    places: Sequence[int] = [
        row.seq for row in run(database, "SELECT seq FROM registration ORDER BY created_at")
    ]
    assert len(set(places)) == len(places) == len(OVERSOLD) + 4
    before, adopted, after = (
        run(database, f"SELECT min(seq) AS first, max(seq) AS last FROM registration WHERE {which}")[0]
        for which in (f"event_id = '{other}' AND seq <= 3", f"event_id <> '{other}'", f"event_id = '{other}'")
    )
    assert before.last < adopted.first <= adopted.last < after.last
