"""Systems of other shapes are adopted: what changes the meaning of a row is honoured, or told."""

import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.pool import NullPool

from ops.adoption import adopt as adoption
from ops.adoption.adopt import AdoptionError, adopted_id
from ops.adoption.cleaning import CleanRegistration
from ops.adoption.event_writer import EventWriter
from ops.adoption.report import GONE, Report
from ops.adoption.sources.survey import STATUSES_MAX
from ops.maintenance import audit, verification
from shared.postgres.tables import SLUG_HELD_SECONDS
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
from worker import batch

STATE = """
SELECT CASE WHEN closes_at <= now() THEN 'CLOSED' WHEN paused THEN 'PAUSED'
            WHEN opens_at > now() THEN 'SCHEDULED' ELSE 'OPEN' END AS state
FROM event WHERE slug = %s
"""


@pytest.fixture
def source(empty_database: str) -> str:
    """Return the URL of an existing system's database, without any event."""
    run(empty_database, PRISMA)
    return empty_database


def with_query(url: str, parameters: str) -> str:
    return make_url(url).update_query_string(parameters).render_as_string(hide_password=False)


def states(target: str) -> dict[str, str]:
    slugs = [row.slug for row in run(target, "SELECT slug FROM event ORDER BY slug")]
    return {slug: run(target, STATE, slug)[0].state for slug in slugs}


def columns(source: str, table: str, definitions: str) -> None:
    run(source, f'ALTER TABLE "{table}" {definitions}')


def register(target: str, event_id: UUID) -> dict[str, Any]:
    """Have a stranger register for a spot, and return the outcome."""
    return decide(target, event_id, "register", {"name": "New", "spotsCount": 1})


def decide(target: str, event_id: UUID, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Put a command into the ledger, let it be decided, and return the outcome."""
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
        batch.apply(session_of(connection), [event_id], 100)
    outcome: dict[str, Any] = run(target, "SELECT outcome FROM ledger ORDER BY seq DESC LIMIT 1")[0].outcome
    return outcome


def assert_consistent(target: str) -> None:
    """Compare counters and audit trails with the rows."""
    with create_engine(target, poolclass=NullPool).connect() as connection:
        verified = verification.verify(connection)
    assert [event.event for event in verified if not event.in_sync] == []
    assert [audited.problems for audited in audit.check(target) if audited.problems] == []
    replayed = [audit.replay(target, event.event) for event in verified]
    assert [audited.problems for audited in replayed if audited.problems] == []


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("sslmode=prefer&sslaccept=strict", "has sslaccept of other drivers"),
        ("ssl=true", "has ssl of other drivers"),
        ("sslmode=prefer&sslrootcert=/nowhere", "sslrootcert names no file"),
    ],
)
def test_no_certificate_goes_unverified_unsaid(
    source: str, database: str, parameters: str, said: str
) -> None:
    with pytest.raises(AdoptionError, match=said):
        adopt(with_query(source, parameters), database)

    adopt(with_query(source, "sslmode=prefer&sslaccept=accept_invalid_certs"), database)


def test_deleted_rows_are_left_out_and_counted(source: str, database: str) -> None:
    columns(source, "Event", 'ADD "archived" boolean NOT NULL DEFAULT false, ADD deleted_at timestamp')
    columns(source, "Registration", 'ADD "deletedAt" timestamp, ADD "isDeleted" smallint DEFAULT 0')
    add_event(source, "e")
    add_event(source, "archived", archived=True)
    add_event(source, "deleted", deleted_at="2025-01-01")
    add_registration(source, "kept", "e", spotsCount=2)
    add_registration(source, "removed", "e", spotsCount=3, deletedAt="2025-01-01")
    add_registration(source, "flagged", "e", status="WAITLIST", isDeleted=1)
    add_registration(source, "of-archived", "archived", spotsCount=4)
    add_registration(source, "of-deleted", "deleted", spotsCount=5)

    report = adopt(source, database)

    assert states(database) == {"e": "OPEN"}
    assert [row.name for row in run(database, "SELECT name FROM registration")] == ["User"]
    assert report.all_taken
    counts = {code.value: (t.problems, t.registrations, t.spots) for code, t in report.totals.items()}
    assert counts == {"EVENT_DELETED": (2, 2, 9), "REGISTRATION_DELETED": (2, 2, 4)}
    assert (report.left_out.registrations, report.left_out.spots) == (4, 13)


@pytest.mark.parametrize("none", ["0001-01-01", "-infinity"])
def test_a_time_not_set_deletes_nothing(source: str, database: str, none: str) -> None:
    columns(source, "Registration", 'ADD discarded_at timestamp NOT NULL, ADD "cancelledAt" timestamptz')
    add_event(source, "e")
    add_registration(source, "kept", "e", name="Kept", discarded_at=none, cancelledAt=none)
    add_registration(source, "gone", "e", name="Gone", discarded_at="2025-01-01", cancelledAt=none)

    report = adopt(source, database)

    assert run(database, "SELECT name, status FROM registration") == [("Kept", "CONFIRMED")]
    assert problems(report) == [("REGISTRATION_DELETED", "e", "gone")]


def test_a_cancellation_in_a_column_counts(source: str, database: str) -> None:
    columns(source, "Registration", 'ADD "cancelledAt" timestamp')
    add_event(source, "e")
    add_registration(source, "r", "e", cancelledAt="2025-01-01")

    report = adopt(source, database)

    assert problems(report) == [("STATUS_CHANGED", "e", "r")]
    assert run(database, "SELECT status, spots_reserved FROM registration, event") == [("CANCELLED", 0)]
    assert report.events[0].drift == 0


ENDS: list[tuple[str, str, Any, str]] = [
    ("closesAt", "timestamp", "2025-01-01", "CLOSED"),
    ("closesAt", "timestamp", "2099-01-01", "OPEN"),
    ("closesAt", "timestamp", "infinity", "OPEN"),
    ("closesAt", "timestamp", "-infinity", "CLOSED"),
    ("registration_closes_at", "timestamptz", "2025-01-01", "CLOSED"),
    ("deadline", "text", "2025-01-01T10:00:00Z", "CLOSED"),
    ("deadline", "text", "", "OPEN"),
    ("deadline", "text", "0000-00-00 00:00:00", "OPEN"),
    ("deadline", "text", "noon on Friday", "CLOSED"),
    ("startsAt", "timestamp", "2025-01-01", "CLOSED"),
    ("date", "date", "2025-01-01", "CLOSED"),
    ("event_date", "date", "2099-01-01", "OPEN"),
    ("endsAt", "bigint", 1735725600000, "CLOSED"),
    ("opensAt", "timestamp", "2099-01-01", "SCHEDULED"),
    ("paused", "boolean", True, "PAUSED"),
    ("is_paused", "integer", 1, "PAUSED"),
    ("status", "text", "CANCELLED", "CLOSED"),
    ("status", "text", "published", "OPEN"),
    ("status", "text", "paused", "PAUSED"),
    ("status", "text", "HALF_FULL", "CLOSED"),
    ("cancelled", "boolean", True, "CLOSED"),
    ("cancelled_at", "timestamp", "2025-01-01", "CLOSED"),
    ("cancelled_at", "timestamptz", "0001-01-01 00:00Z", "OPEN"),
    ("cancelled_at", "timestamp", "-infinity", "OPEN"),
    ("cancelled_at", "text", "0001-01-01T00:00:00Z", "OPEN"),
    ("cancelled_at", "bigint", -62135596800, "OPEN"),
    ("isActive", "boolean", False, "CLOSED"),
    ("isActive", "boolean", True, "OPEN"),
    ("published", "character(1)", "N", "CLOSED"),
    ("publishedAt", "timestamp", None, "CLOSED"),
    ("featured", "boolean", False, "CLOSED"),
    ("visibility", "text", "friends", "OPEN"),
    ("goesLive", "timestamp", "2025-01-01", "CLOSED"),
    ("goesLive", "timestamp", None, "OPEN"),
    ("Frozen_On", "text", "2025-01-01", "CLOSED"),
    ("during", "tstzrange", "[2025-01-01Z,2025-01-02Z)", "CLOSED"),
    ("days", "date[]", "{2025-01-01}", "CLOSED"),
    ("tags", "text[]", "{music}", "OPEN"),
    ("soldOut", "text", "false", "CLOSED"),
]


def test_each_column_that_ends_an_event_is_honoured(source: str, database: str) -> None:
    expected = {}
    for number, (column, type_, value, state) in enumerate(ENDS):
        schema, slug = f"s{number:02}", f"e{number:02}"
        run(source, f"CREATE SCHEMA {schema}; SET search_path = {schema}; {PRISMA}")
        statement = f'ALTER TABLE {schema}."Event" ADD "{column}" {type_}'
        run(source, statement)
        run(
            source,
            f'INSERT INTO {schema}."Event" (id, slug, title, capacity, "{column}")'
            " SELECT slug, slug, slug, 5, %s FROM (SELECT %s::text AS slug) AS named",
            value,
            slug,
        )
        url = make_url(source).set(drivername="postgresql").update_query_dict({"schema": schema})
        adopt(url.render_as_string(hide_password=False), database)
        expected[slug] = state

    found = states(database)

    assert {ENDS[int(slug[1:])]: state for slug, state in found.items()} == {
        ENDS[int(slug[1:])]: state for slug, state in expected.items()
    }


def test_nobody_is_promoted_at_last_years_event(source: str, database: str) -> None:
    columns(source, "Event", 'ADD "closesAt" timestamp')
    add_event(source, "e", capacity=1, closesAt="2025-01-01 12:00")
    add_registration(source, "came", "e")
    add_registration(source, "waited", "e", status="WAITLIST")
    event_id, came = adopted_id("e"), str(adopted_id("came"))

    (adopted,) = adopt(source, database).events

    assert adopted.promotable == 0
    assert register(database, event_id)["code"] == "REGISTRATION_CLOSED"
    decide(database, event_id, "change_status", {"registrationId": came, "status": "CANCELLED"})
    assert run(database, "SELECT status FROM registration ORDER BY seq") == [("CANCELLED",), ("WAITLIST",)]
    (event,) = run(database, "SELECT closes_at, promote_until FROM event")
    assert {at.isoformat() for at in event} == {"2025-01-01T12:00:00+00:00"}


def test_settings_of_the_source_are_kept(source: str, database: str) -> None:
    columns(
        source,
        "Event",
        'ADD waitlist_enabled text, ADD "waitlistLimit" int, ADD "maxSpotsPerPerson" int,'
        ' ADD "autoPromote" int',
    )
    more: dict[str, Any] = {"waitlistLimit": 7, "maxSpotsPerPerson": 4, "autoPromote": 0}
    add_event(source, "told", waitlist_enabled="no", **more)
    add_event(source, "silent", waitlist_enabled="")
    add_event(source, "odd", waitlistLimit=-1, maxSpotsPerPerson=0)

    report = adopt(source, database)

    settings = run(
        database,
        "SELECT slug, waitlist_enabled, waitlist_limit, max_spots_per_registration, auto_promote"
        " FROM event ORDER BY slug",
    )
    assert settings == [
        ("odd", True, None, 10, True),
        ("silent", True, None, 10, True),
        ("told", False, 7, 4, False),
    ]
    assert problems(report) == [("SETTING_UNUSABLE", "odd", None)] * 2


def mapping_of(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_capacity_zero_waits_for_its_meaning(source: str, database: str, tmp_path: Path) -> None:
    add_event(source, "zero", capacity=0)
    add_registration(source, "r1", "zero", spotsCount=600)
    add_registration(source, "r2", "zero", spotsCount=421, status="WAITLIST")
    add_event(source, "empty", capacity=0)
    add_event(source, "null", capacity=None)

    report = adopt(source, database)

    assert states(database) == {"empty": "CLOSED"}
    assert sorted(problems(report)) == [
        ("CAPACITY_INVALID", "null", None),
        ("CAPACITY_UNCLEAR", "zero", None),
    ]
    assert (report.left_out.registrations, report.left_out.spots) == (2, 1021)
    assert not report.all_taken

    said = mapping_of(tmp_path / "m", 'zero_capacity = "unlimited"\nno_capacity = "unlimited"\n')
    again = adopt(source, database, mapping=said)

    assert states(database) == {"empty": "OPEN", "null": "OPEN", "zero": "OPEN"}
    assert again.all_taken
    capacities = run(database, "SELECT slug, capacity, overbooked_spots FROM event ORDER BY slug")
    assert capacities == [(slug, 1_000_000_000, 0) for slug in ("empty", "null", "zero")]
    assert_consistent(database)


def test_a_column_that_is_ignored_closes_nothing(source: str, database: str, tmp_path: Path) -> None:
    columns(source, "Event", "ADD featured boolean DEFAULT true")
    add_event(source, "e")

    closed = adopt(source, database)

    assert states(database) == {"e": "CLOSED"}
    assert (problems(closed), closed.all_taken) == ([("COLUMN_NOT_UNDERSTOOD", "e", None)], True)
    assert closed.events[0].closed_because == ["featured is not understood"]

    adopt(source, database, mapping=mapping_of(tmp_path / "m", '[event.columns]\nfeatured = "ignored"\n'))

    assert states(database) == {"e": "OPEN"}


def test_the_report_lists_every_column(source: str, database: str) -> None:
    columns(source, "Event", 'ADD description text, ADD "updatedAt" timestamp DEFAULT now()')
    columns(source, "Registration", "ADD phone text, ADD vip boolean")
    add_event(source, "e")
    add_event(source, "f", slug="f", description="It is long")
    add_registration(source, "r", "e", vip=True)

    report = adopt(source, database, dry_run=True)

    listed = {(c.table, c.column): (c.meaning, c.honoured, c.rows_with_value) for c in report.columns}
    for table in ("Event", "Registration"):
        names = run(source, "SELECT column_name FROM information_schema.columns WHERE table_name = %s", table)
        assert {column for of, column in listed if of == table} == {row.column_name for row in names}
    assert listed["Event", "capacity"] == ("capacity", True, 2)
    assert listed["Event", "description"] == ("?", False, 1)
    assert listed["Event", "updatedAt"] == ("ignored", False, 2)
    assert listed["Registration", "vip"] == ("?", False, 1)
    assert listed["Registration", "phone"] == ("?", False, 0)


MAPPED = """
CREATE SCHEMA app;
CREATE TYPE app.reg_status AS ENUM ('confirmed', 'WAITLISTED', 'CANCELED', 'in_review');
CREATE TABLE app.happenings (
    id serial PRIMARY KEY, url text, label text, places int, created_at timestamptz DEFAULT now()
);
CREATE TABLE app.sign_ups (
    id serial PRIMARY KEY, happening_id int, first_name text, last_name text, mail text, pax numeric,
    state app.reg_status, created_at timestamp DEFAULT now()
);
INSERT INTO app.happenings (url, label, places) VALUES ('drop', 'The drop', 4);
INSERT INTO app.sign_ups (happening_id, first_name, last_name, pax, state, created_at) VALUES
    (1, 'Ada', 'Lovelace', 2, 'confirmed', '2026-01-01 10:00'),
    (1, 'Alan', 'Turing', 1, 'WAITLISTED', '2026-01-01 11:00'),
    (1, 'Grace', NULL, 1, 'CANCELED', '2026-01-01 12:00'),
    (1, 'Tony', 'Hoare', 3, 'in_review', '2026-01-01 13:00');
"""


def test_a_mapping_is_printed_edited_and_given_back(
    empty_database: str, database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(empty_database, MAPPED)
    with pytest.raises(AdoptionError, match='no table "Event"'):
        adoption.print_mapping(empty_database)
    tables = '[event]\ntable = "happenings"\n[registration]\ntable = "sign_ups"\n'
    adoption.print_mapping(empty_database, mapping_of(tmp_path / "tables.toml", tables))
    printed = capsys.readouterr().out
    assert "still to be named: slug, title, capacity" in printed
    with pytest.raises(AdoptionError, match='no column "slug", "title", "capacity"'):
        adopt(empty_database, database, mapping=mapping_of(tmp_path / "printed.toml", printed))
    for column, meaning in {
        "url": "slug",
        "label": "title",
        "places": "capacity",
        "happening_id": "eventId",
        "pax": "spotsCount",
    }.items():
        printed = printed.replace(f'"{column}" = "?"', f'"{column}" = "{meaning}"')
    printed = printed.replace('time_zone = "UTC"', 'time_zone = "Europe/Berlin"')

    report = adopt(empty_database, database, mapping=mapping_of(tmp_path / "edited.toml", printed))

    assert problems(report) == [("STATUS_UNKNOWN", "1", "4")]
    assert (report.left_out.registrations, report.left_out.spots) == (1, 3)
    rows = run(database, "SELECT name, spots_count, status, created_at FROM registration ORDER BY seq")
    assert [row[:3] for row in rows] == [
        ("Ada Lovelace", 2, "CONFIRMED"),
        ("Alan Turing", 1, "WAITLIST"),
        ("Grace", 1, "CANCELLED"),
    ]
    assert rows[0].created_at.isoformat() == "2026-01-01T09:00:00+00:00"
    adoption.print_mapping(empty_database, tmp_path / "edited.toml")
    assert tomllib.loads(capsys.readouterr().out) == tomllib.loads(printed)


@pytest.mark.parametrize(
    ("events", "registrations"), [("text", "bigint"), ("bigint", "integer"), ("numeric", "integer")]
)
def test_ids_of_two_types_are_compared_as_texts(
    source: str, database: str, events: str, registrations: str
) -> None:
    ids = ["7", "5000000000"] + (["abc", " 7"] if events == "text" else [])
    for number, id_ in enumerate(ids):
        add_event(source, id_, slug=f"e{number}")
    for id_ in ("7", "8"):
        add_registration(source, f"r{id_}", id_)
    columns(source, "Event", f"ALTER id TYPE {events} USING id::{events}")
    columns(source, "Registration", f'ALTER "eventId" TYPE {registrations} USING "eventId"::{registrations}')

    report = adopt(source, database)

    adopted = {event.source_id: event.registrations for event in report.events}
    assert adopted == dict.fromkeys(ids, 0) | {"7": 1}
    assert problems(report) == [("REGISTRATION_WITHOUT_EVENT", "8", "r8")]


def test_a_slug_that_is_given_up_is_held(source: str, database: str) -> None:
    add_event(source, "first", slug="b", createdAt="2026-01-01")
    add_event(source, "second", slug="a", createdAt="2026-01-02")
    adopt(source, database)
    run(source, """UPDATE "Event" SET slug = CASE slug WHEN 'b' THEN 'c' ELSE 'b' END""")

    assert problems(adopt(source, database)) == []

    held = """
        SELECT former.former_slugs, later.updated_at >= former.slug_released_at + make_interval(secs => %s)
        FROM event AS former, event AS later WHERE former.slug = 'c' AND later.slug = 'b'
    """
    assert [tuple(row) for row in run(database, held, SLUG_HELD_SECONDS)] == [(["b"], True)]


def test_row_security_hides_no_row_unsaid(source: str, database: str) -> None:
    add_event(source, "e")
    for number in range(2):
        add_registration(source, f"r{number}", "e", spotsCount=1 + number)
    role = f"reader_{uuid4().hex}"
    run(source, f'CREATE ROLE {role} LOGIN; GRANT SELECT ON "Event", "Registration" TO {role}')
    run(source, 'ALTER TABLE "Registration" ENABLE ROW LEVEL SECURITY')
    run(source, 'CREATE POLICY ours ON "Registration" USING ("spotsCount" = 1)')
    reader = make_url(source).set(username=role).render_as_string(hide_password=False)

    try:
        with pytest.raises(AdoptionError, match='row-level security policy for table "Registration"'):
            adopt(reader, database)
        run(source, f"ALTER ROLE {role} BYPASSRLS")
        assert [event.registrations for event in adopt(reader, database).events] == [2]
    finally:
        run(source, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_an_id_may_have_any_name(source: str, database: str, tmp_path: Path) -> None:
    add_event(source, "e", slug="of-e")
    add_registration(source, "r", "e")
    for table in ("Event", "Registration"):
        columns(source, table, "RENAME id TO uuid")
        columns(source, table, "ADD id serial")
    text = '[{}.columns]\nuuid = "id"\nid = "ignored"\n'
    mapping = mapping_of(tmp_path / "ids.toml", text.format("event") + text.format("registration"))

    report = adopt(source, database, mapping=mapping)

    assert (problems(report), [event.registrations for event in report.events]) == ([], [1])
    assert run(database, "SELECT id FROM event")[0].id == adopted_id("e")

    for table in ("Event", "Registration"):
        columns(source, table, "DROP id")
        columns(source, table, 'RENAME uuid TO "ID"')
    assert [event.source_id for event in adopt(source, database).events] == ["e"]


def test_a_mapping_says_what_no_status_means(
    source: str, database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns(source, "Event", "ADD status text")
    columns(source, "Registration", "ALTER status TYPE text")
    add_event(source, "e")
    for id_, status in (("null", None), ("empty", ""), ("other", "?")):
        add_registration(source, id_, "e", status=status)
    adoption.print_mapping(source)
    printed = capsys.readouterr().out
    assert '"" = "?"    # 1 rows' in printed
    assert '"" = "?"    # 2 rows' in printed
    event, registration = printed.split("[registration]")
    edited = (event.replace('"" = "?"', '"" = "OPEN"'), registration.replace('"" = "?"', '"" = "CONFIRMED"'))

    report = adopt(source, database, mapping=mapping_of(tmp_path / "edited", "[registration]".join(edited)))

    assert (problems(report), states(database)) == ([("STATUS_UNKNOWN", "e", "other")], {"e": "OPEN"})
    assert run(database, "SELECT status FROM registration") == [("CONFIRMED",)] * 2


def test_a_status_is_known_among_many_others(source: str, database: str) -> None:
    columns(source, "Registration", "ALTER status TYPE text")
    add_event(source, "e")
    for number in range(STATUSES_MAX + 1):
        add_registration(source, f"other-{number}", "e", status=f"SEAT {number}")
    add_registration(source, "waits", "e", status="waiting list")

    report = adopt(source, database)

    assert report.registrations == 1
    assert run(database, "SELECT status FROM registration") == [("WAITLIST",)]


SNAKE = """
CREATE TABLE events (
    id bigserial PRIMARY KEY, slug varchar(80), name text, max_capacity int,
    created_at timestamp DEFAULT now()
);
CREATE TABLE registrations (
    id bigserial PRIMARY KEY, event_id bigint, full_name text, email_address text, quantity smallint,
    status varchar(20), created_at timestamp DEFAULT now(), updated_at timestamp DEFAULT now()
);
INSERT INTO events (slug, name, max_capacity) VALUES ('drop', 'The drop', 4);
INSERT INTO registrations (event_id, full_name, email_address, quantity, status) VALUES
    (1, 'Ada', 'Ada@example.com', 2, 'confirmed');
CREATE VIEW "ALL_EVENTS" AS SELECT * FROM events;
"""


@pytest.mark.parametrize("tables", ["plain", "views", "shared"])
def test_known_names_need_no_mapping(empty_database: str, database: str, tmp_path: Path, tables: str) -> None:
    source = database if tables == "shared" else empty_database
    run(source, SNAKE)
    mapping = '[event]\ntable = "ALL_EVENTS"\n' if tables == "views" else ""

    report = adopt(source, database, mapping=mapping_of(tmp_path / "m", mapping))

    assert (problems(report), states(database)) == ([], {"drop": "OPEN"})
    rows = run(database, "SELECT name, email, spots_count, status FROM registration")
    assert rows == [("Ada", "Ada@example.com", 2, "CONFIRMED")]


def test_a_time_zone_that_nobody_named_is_told(
    empty_database: str, database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = make_url(empty_database).database
    run(empty_database, SNAKE + f"ALTER DATABASE \"{name}\" SET timezone = 'Asia/Tokyo'")

    assumed = adopt(empty_database, database)
    adoption.print_mapping(empty_database)
    printed = capsys.readouterr().out
    said = adopt(empty_database, database, mapping=mapping_of(tmp_path / "m", printed))

    assert problems(assumed) == [("TIME_ZONE_ASSUMED", None, None)]
    assert (assumed.all_taken, problems(said)) == (True, [])
    assert "the database's own is Asia/Tokyo" in printed


def test_several_tables_of_events_need_a_mapping(empty_database: str, database: str, tmp_path: Path) -> None:
    run(empty_database, SNAKE)
    run(empty_database, "CREATE TABLE event (LIKE events)")
    run(empty_database, "INSERT INTO event (id, slug, name, max_capacity) VALUES (1, 'other', 'Other', 4)")
    named = tmp_path / "m"
    named.write_bytes(b'\xef\xbb\xbf[event]\r\ntable = "events"\r\n')  # as a Windows editor writes it

    with pytest.raises(AdoptionError, match="several tables of events"):
        adopt(empty_database, database)
    report = adopt(empty_database, database, mapping=named)

    assert (problems(report), states(database)) == ([], {"drop": "OPEN"})


def test_a_mapping_with_a_mistake_is_refused(source: str, database: str, tmp_path: Path) -> None:
    mistakes = {
        "this is no TOML": "is not valid",
        'zero_capacity = "maybe"': "is not valid",
        'colour = "red"': "is not valid",
        "spots_each = 0": "is not valid",
        'time_zone = "Mars/Olympus"': "'Mars/Olympus' is unknown",
        '[event.columns]\nnone = "title"': "names a column 'none'",
        '[event.columns]\ntitle = "headline"': "says 'headline' of the column 'title'",
        '[event.columns]\nslug = "title"\ntitle = "title"': "to more than one column",
        '[registration.statuses]\nOK = "FINE"': "says 'FINE' of the status 'OK'",
        '[event]\ntable = "nowhere"': 'no table "nowhere"',
    }
    for text, message in mistakes.items():
        with pytest.raises(AdoptionError, match=message) as refused:
            adopt(source, database, mapping=mapping_of(tmp_path / "m", text))
        assert "\n" not in str(refused.value)
    with pytest.raises(AdoptionError, match="cannot be read"):
        adopt(source, database, mapping=tmp_path / "missing")


@pytest.mark.parametrize("table", ['"Event"', '"Registration"'])
@pytest.mark.parametrize("change", ["INSERT INTO {} SELECT * FROM {}", "UPDATE {} SET id = NULL"])
def test_rows_without_ids_of_their_own_are_refused(
    source: str, database: str, table: str, change: str
) -> None:
    add_event(source, "e1")
    add_registration(source, "r1", "e1")
    run(source, f'ALTER TABLE {table} DROP CONSTRAINT {table[:-1]}_pkey", ALTER id DROP NOT NULL')
    run(source, change.format(table, table))

    with pytest.raises(AdoptionError, match=f"1 ids in .*{table} are null, or those of several rows"):
        adopt(source, database)


def test_all_events_can_be_adopted_closed_first(source: str, database: str) -> None:
    columns(source, "Event", 'ADD "opensAt" timestamp')
    add_event(source, "e")
    add_event(source, "later", slug="later", opensAt="2099-01-01")

    adopt(source, database, closed=True)
    assert states(database) == {"e": "CLOSED", "later": "CLOSED"}
    before = content(database)
    adopt(source, database, closed=True)
    assert content(database) == before
    adopt(source, database)

    assert states(database) == {"e": "OPEN", "later": "SCHEDULED"}
    assert_consistent(database)


@pytest.mark.parametrize("batch_rows", [1, 3])
def test_a_second_run_brings_an_event_up_to_date(
    source: str, database: str, monkeypatch: pytest.MonkeyPatch, batch_rows: int
) -> None:
    monkeypatch.setattr("ops.adoption.sources.source.BATCH_ROWS", batch_rows)
    columns(source, "Event", 'ADD "closesAt" timestamp')
    add_event(source, "e", capacity=5)
    for number, (status, email) in enumerate(
        [
            ("CONFIRMED", "a@example.com"),
            ("CONFIRMED", "b@example.com"),
            ("WAITLIST", "c@example.com"),
            ("WAITLIST", None),
            ("CANCELLED", None),
        ]
    ):
        made = f"2026-01-01 12:0{number}"
        add_registration(source, f"r{number}", "e", status=status, email=email, createdAt=made)
    adopt(source, database)
    changes = """
        UPDATE "Registration" SET status = 'CANCELLED' WHERE id = 'r1';
        UPDATE "Registration" SET status = 'CONFIRMED', "spotsCount" = 3, email = 'b@example.com'
        WHERE id = 'r2';
        UPDATE "Registration" SET email = 'c@example.com', name = 'Renamed' WHERE id = 'r0';
        DELETE FROM "Registration" WHERE id = 'r3';
        UPDATE "Event" SET capacity = 4, title = 'Moved', "closesAt" = '2099-01-01';
    """
    run(source, changes)
    add_registration(source, "early", "e", status="WAITLIST", createdAt="2026-01-01 12:01:30")
    add_registration(source, "late", "e", status="WAITLIST", email="a@example.com", createdAt="2026-01-02")

    dry = adopt(source, database, dry_run=True)
    report = adopt(source, database)

    assert [event.fate.value for event in report.events] == ["UPDATED"]
    assert (dry.events, dry.problems) == (report.events, report.problems)
    placed = run(database, "SELECT id FROM registration ORDER BY seq")
    assert [row.id for row in placed] == [
        adopted_id(id_) for id_ in ("r0", "r1", "early", "r2", "r4", "late")
    ]
    assert run(database, "SELECT capacity, title, spots_reserved, waitlist_length FROM event") == [
        (4, "Moved", 4, 2)
    ]
    facts = "SELECT name, email_key, spots_count, status FROM registration ORDER BY seq"
    assert run(database, facts) == [
        ("Renamed", "c@example.com", 1, "CONFIRMED"),
        ("User", "b@example.com", 1, "CANCELLED"),
        ("User", None, 1, "WAITLIST"),
        ("User", "b@example.com", 3, "CONFIRMED"),
        ("User", None, 1, "CANCELLED"),
        ("User", "a@example.com", 1, "WAITLIST"),
    ]
    assert_consistent(database)
    before = content(database)
    assert [event.fate.value for event in adopt(source, database).events] == ["ALREADY_ADOPTED"]
    assert content(database) == before


def stop_at(monkeypatch: pytest.MonkeyPatch, chunk: int, then: Callable[[], None]) -> None:
    """Have the second adoption from here on call `then` before it writes this chunk."""
    add, chunks = EventWriter.add, []

    def add_after(writer: EventWriter, batch: Sequence[CleanRegistration]) -> None:
        chunks.append(batch)
        if len(chunks) == chunk:
            then()
        add(writer, batch)

    monkeypatch.setattr(EventWriter, "add", add_after)


def interrupt() -> None:
    raise KeyboardInterrupt


def moved_on(source: str, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adopt six that wait; then all are cancelled in the source, and two are new."""
    monkeypatch.setattr("ops.adoption.sources.source.BATCH_ROWS", 2)
    add_event(source, "e")
    for number in range(6):
        add_registration(source, f"r{number}", "e", status="WAITLIST", createdAt=f"2026-01-0{number + 1}")
    adopt(source, database)
    run(source, """UPDATE "Registration" SET status = 'CANCELLED'""")
    add_registration(source, "r8", "e", createdAt="2026-01-08")


def test_an_update_that_was_killed_goes_on(
    source: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved_on(source, database, monkeypatch)
    with monkeypatch.context() as killed:
        stop_at(killed, 3, interrupt)
        with pytest.raises(KeyboardInterrupt):
            adopt(source, database)
    assert states(database) == {"e": "CLOSED"}
    assert run(database, "SELECT finished_at FROM adoption") == [(None,)]
    assert_consistent(database)

    (event,) = adopt(source, database).events

    assert (event.spots_reserved, event.waitlist_length) == (1, 0)
    assert states(database) == {"e": "OPEN"}
    assert_consistent(database)


def test_a_command_between_two_chunks_is_kept(
    source: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved_on(source, database, monkeypatch)
    with monkeypatch.context() as killed:
        stop_at(killed, 3, interrupt)
        with pytest.raises(KeyboardInterrupt):
            adopt(source, database)
    decide(database, adopted_id("e"), "change_event", {"title": "Ours"})

    report = adopt(source, database)

    assert problems(report) == [("NOT_IN_TARGET", "e", None)]
    assert (report.left_out.registrations, report.left_out.spots) == (2, 2)
    assert run(database, "SELECT title, waitlist_length, spots_reserved FROM event") == [("Ours", 2, 1)]
    assert_consistent(database)


def test_a_refused_stranger_does_not_end_the_updates(source: str, database: str) -> None:
    add_event(source, "e")
    adopt(source, database, closed=True)
    register(database, adopted_id("e"))
    add_registration(source, "late", "e")

    assert [event.fate.value for event in adopt(source, database).events] == ["UPDATED"]
    assert states(database) == {"e": "OPEN"}
    assert_consistent(database)


def test_an_event_deleted_since_comes_closed(source: str, database: str) -> None:
    columns(source, "Event", 'ADD "deletedAt" timestamp')
    add_event(source, "e")
    adopt(source, database)
    run(source, """UPDATE "Event" SET "deletedAt" = now()""")

    (event,) = adopt(source, database).events

    assert event.closed_because == ["the source has it as deleted or archived"]
    assert states(database) == {"e": "CLOSED"}


def gone(report: Report) -> list[tuple[str, str | None, str | None, str]]:
    """Return the problems of what the source has no longer, the beginning of their details at the end."""
    return [
        (problem.code.value, problem.event_id, problem.registration_id, problem.detail.partition(",")[0])
        for problem in report.problems
        if problem.code in GONE
    ]


def test_an_event_erased_in_the_source_is_named(source: str, database: str) -> None:
    for id_ in ("stays", "goes", "archived"):
        add_event(source, id_)
    add_registration(source, "r", "goes", spotsCount=2)
    adopt(source, database)
    decide(database, adopted_id("archived"), "change_event", {"archived": True})
    run(source, """DELETE FROM "Registration"; DELETE FROM "Event" WHERE id <> 'stays'""")
    before = content(database)

    dry, report = adopt(source, database, dry_run=True), adopt(source, database)

    assert gone(report) == [("EVENT_GONE", "goes", None, "goes was adopted")]
    (problem,) = report.problems
    assert "it is not closed here, with 2 spots confirmed and 0 registrations waiting" in problem.detail
    assert dry.problems == report.problems
    assert content(database) == before, "nothing is changed by itself"
    assert (report.all_taken, report.left_out.problems) == (True, 0)


def test_a_registration_erased_in_the_source_is_named(source: str, database: str) -> None:
    for event in ("ours", "theirs"):
        add_event(source, event)
        for name in ("stays", "goes", "cancelled"):
            add_registration(source, f"{event}-{name}", event, spotsCount=2)
    adopt(source, database)
    cancelled = {"registrationId": str(adopted_id("ours-cancelled")), "status": "CANCELLED"}
    decide(database, adopted_id("ours"), "change_status", cancelled)
    run(source, """DELETE FROM "Registration" WHERE id NOT LIKE '%-stays'""")
    ours = "SELECT * FROM registration WHERE event_id = %s ORDER BY id"
    before = run(database, ours, adopted_id("ours"))

    report = adopt(source, database)

    assert sorted(gone(report)) == sorted(
        [
            ("REGISTRATION_GONE", "ours", str(adopted_id("ours-goes")), "it is kept here"),
            ("REGISTRATION_GONE", "theirs", str(adopted_id("theirs-goes")), "it is removed here"),
            ("REGISTRATION_GONE", "theirs", str(adopted_id("theirs-cancelled")), "it is removed here"),
        ]
    )
    assert run(database, ours, adopted_id("ours")) == before
    left = run(database, "SELECT id FROM registration WHERE event_id = %s", adopted_id("theirs"))
    assert [row.id for row in left] == [adopted_id("theirs-stays")]
    assert report.as_json()["goneCounts"] == {
        "REGISTRATION_GONE": {"problems": 3, "registrations": 3, "spots": 6}
    }
    assert (report.all_taken, report.left_out.spots) == (True, 0)
    assert gone(adopt(source, database)) == gone(report)[:1], "told again as long as it is kept"


def test_a_dry_run_locks_one_event_at_a_time(source: str, database: str) -> None:
    add_event(source, "one")
    add_event(source, "two", slug="two", createdAt="2099-01-01")
    report = Report(dry_run=True)

    adoption.adopt(database, source, report)

    assert run(database, "SELECT count(*) FROM event") == [(0,)]
    assert json.loads(json.dumps(report.as_json()))["eventsAdopted"] == 2


def test_two_systems_with_the_same_numbers_are_told_apart(
    empty_database: str, database: str, module_database: str
) -> None:
    run(empty_database, SNAKE)
    adopt(empty_database, database)
    before = content(database)
    run(module_database, SNAKE.replace("'drop', 'The drop'", "'gala', 'The gala'"))

    report = adopt(module_database, database)

    assert problems(report) == [("ID_TAKEN", "1", None)]
    assert (report.left_out.registrations, report.left_out.spots) == (1, 2)
    assert content(database) == before


TEXT_IDS = SNAKE.replace("id bigserial", "id text DEFAULT '1'").replace("event_id bigint", "event_id text")


@pytest.mark.parametrize("id_", ["7", "0198c2a4-7c11-7b3e-9d5a-3f1c2b4a5d6e", "cm3x1y8a90000qzrmn831i7rn"])
@pytest.mark.parametrize("created", ["created_at = NULL", "created_at = '2026-01-01'"])
def test_an_event_may_change_its_slug(empty_database: str, database: str, id_: str, created: str) -> None:
    run(empty_database, TEXT_IDS)
    run(
        empty_database,
        f"UPDATE events SET id = '{id_}', {created}; UPDATE registrations SET event_id = '{id_}'",
    )
    adopt(empty_database, database)
    run(empty_database, "UPDATE events SET slug = 'gala'")

    report = adopt(empty_database, database)

    assert (problems(report), [event.fate.name for event in report.events]) == ([], ["UPDATED"])
    assert states(database) == {"gala": "OPEN"}


@pytest.mark.parametrize("id_", ["0198c2a4-7c11-7b3e-9d5a-3f1c2b4a5d6e", "cm3x1y8a90000qzrmn831i7rn"])
def test_an_id_of_its_own_tells_an_event(empty_database: str, database: str, id_: str) -> None:
    run(empty_database, TEXT_IDS)
    run(empty_database, f"UPDATE events SET id = '{id_}'; DELETE FROM registrations")
    adopt(empty_database, database)
    run(empty_database, "UPDATE events SET slug = 'gala', name = 'The gala', created_at = NULL")

    assert (problems(adopt(empty_database, database)), states(database)) == ([], {"gala": "OPEN"})


def test_numbers_without_times_are_told_apart(empty_database: str, database: str) -> None:
    run(empty_database, SNAKE)
    run(empty_database, "UPDATE events SET created_at = NULL")
    adopt(empty_database, database)
    run(empty_database, "UPDATE events SET slug = 'gala', name = 'The gala'")

    report = adopt(empty_database, database)

    assert problems(report) == [("ID_TAKEN", "1", None)]
    assert "adopt it with its slug or title of then first" in report.problems[0].detail


def test_places_of_the_source_precede_its_times(source: str, database: str) -> None:
    columns(source, "Registration", 'ADD "waitlistPosition" int')
    add_event(source, "e")
    for id_, place, made in [("a", 2, "01"), ("b", 1, "02"), ("c", None, "03"), ("d", None, "01")]:
        more = {"status": "WAITLIST", "name": id_, "createdAt": f"2026-01-{made}"}
        add_registration(source, id_, "e", waitlistPosition=place, **more)

    adopt(source, database)

    assert [row.name for row in run(database, "SELECT name FROM registration ORDER BY seq")] == [*"dcba"]


def with_times(source: str, times: Sequence[str]) -> None:
    """Add an event with a registration at each of the times, which are texts."""
    columns(source, "Registration", 'ALTER "createdAt" DROP DEFAULT, ALTER "createdAt" TYPE text')
    add_event(source, "e")
    for place, at in enumerate(times):
        add_registration(source, f"r{place}", "e", name=at, createdAt=at)


@pytest.mark.parametrize(
    "times",
    [
        ["2026-10-25T02:50:00+02:00", "2026-10-25T02:10:00+01:00"],
        ["2026-10-25T10:00:00Z", "2026-10-25T10:00:00.9Z"],
        ["2026-10-25T09:00:00", "2026-10-25 10:00:00"],
        ["25.10.2026"],
    ],
)
def test_times_that_do_not_sort_are_refused(source: str, database: str, times: list[str]) -> None:
    with_times(source, times)

    with pytest.raises(AdoptionError, match="do not sort as times"):
        adopt(source, database)


@pytest.mark.parametrize(
    "times",
    [
        ["2026-10-25T10:00:00.050Z", "2026-10-25T10:00:00.900Z"],
        ["2026-10-25 10:00:00+02:00", "2026-10-25 10:00:00.01+02:00"],
        ["2026-10-25T10:00:00", "2026-10-25T10:00:00.9"],
    ],
)
def test_times_as_texts_give_the_order(source: str, database: str, times: list[str]) -> None:
    with_times(source, times)

    adopt(source, database)

    assert [row.name for row in run(database, "SELECT name FROM registration ORDER BY seq")] == times


def test_places_that_are_texts_are_refused(source: str, database: str, tmp_path: Path) -> None:
    columns(source, "Registration", "ADD line text")

    with pytest.raises(AdoptionError, match='"line" do not sort as numbers'):
        adopt(source, database, mapping=mapping_of(tmp_path / "m", '[registration.columns]\nline = "place"'))


def test_a_column_may_have_any_name(source: str, database: str) -> None:
    columns(source, "Event", 'ADD "100%s" boolean, ADD "{0}""b" date')
    columns(source, "Registration", 'ADD "at 50%" boolean')
    add_event(source, "e")
    add_registration(source, "r", "e")
    run(source, 'UPDATE "Event" SET "100%s" = true')

    (event,) = adopt(source, database).events

    assert (event.registrations, event.closed_because) == (1, ["100%s is not understood"])


def test_numbers_of_one_moment_are_in_order(source: str, database: str) -> None:
    columns(source, "Registration", "ALTER id TYPE bigint USING 0")
    add_event(source, "e")
    for number in (10, 9, 100):
        add_registration(source, str(number), "e", name=str(number), createdAt="2026-01-01")

    adopt(source, database)

    names = [row.name for row in run(database, "SELECT name FROM registration ORDER BY seq")]
    assert names == ["9", "10", "100"]
