"""Statements find their rows by key, whatever the tables looked like when they were planned.

They are all statements in files, and the reads of the API that a crowd causes or that a process repeats.
Statements are prepared when the tables are empty, and planned again after ANALYZE when they have one row.
That plan is then kept while the tables grow by many rows, as on the evening of a drop. Then they are
planned again by the statistics of that one row, as when another table of theirs is analysed first. At last
an event's rows are written that was not there when the tables were analysed, and seems to have none.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import make_url

from api.commands import early_answers, pending_count
from api.queries import availability, events, protections, receipts, slugs, status_changes, used_keys
from ops.embedded import Servers
from ops.maintenance import erasure, retention
from shared.postgres import backlog, connections, keys, ledger
from shared.postgres.bounded import BoundedSession
from shared.settings import Settings
from tests.stage import CHECKOUT

pytestmark = pytest.mark.timeout(600)  # filling the tables takes long on a busy machine

ROWS = 250_000
"""Enough for a plan that reads a table, or all of an event, to break every bound on rows and blocks."""
FIRST_PENDING = ROWS - 10_000
"""The commands from this one on are pending."""
OF_FIRST_EVENT = (ROWS - FIRST_PENDING) // 2 + 1
"""The pending commands of the first event."""
OLD = 2 * ROWS // 5
"""Rows from this one on are asked for by their ids."""
KEYED = 3 * ROWS // 5
"""Keys from this one on are asked for."""
COUNT = 50
"""Rows that each statement is asked for."""
BLOCKS_PER_ROW_MAX = 25
"""Blocks of tables and indexes for one row that is found or written by key."""
BIG_TABLES = (
    "command",
    "pending_command",
    "outcome",
    "idempotency_key",
    "registration",
    "audit_entry",
    "event",
)
FOLDERS = ("worker/sql", "shared/postgres/sql")

# Half of all rows are the first event's; the other half are spread over the events with odd numbers.
_EVENT_ID = "pg_temp.key(x'900000000'::bigint + CASE WHEN n % 2 = 0 THEN 0 ELSE n % 1000 END)"
FILL_EVENTS = """
    INSERT INTO event (id, slug, title, capacity, spots_reserved, waitlist_length, audit_seq)
    SELECT pg_temp.key(x'900000000'::bigint + n), 'event-' || n, 'An event', {rows}, {rows} / 2, {rows} / 5,
           CASE WHEN n = 0 THEN {rows} / 2 ELSE {rows} / 1000 END
    FROM generate_series({events}) AS n
""".replace("{rows}", str(ROWS))
FILL = (
    f"""
    INSERT INTO command (event_id, id, seq, kind, payload, actor) OVERRIDING SYSTEM VALUE
    SELECT {_EVENT_ID}, pg_temp.key(n), n, 'register', '{{{{"name": "User"}}}}', 'public'
    FROM generate_series({{rows}}) AS n
    """,
    f"""
    INSERT INTO pending_command (event_id, seq, command_id)
    SELECT {_EVENT_ID}, n, pg_temp.key(n) FROM generate_series({{rows}}) AS n WHERE n >= {FIRST_PENDING}
    """,
    f"""
    INSERT INTO idempotency_key (event_id, key, command_id, fingerprint)
    SELECT {_EVENT_ID}, int8send(n), pg_temp.key(n), int8send(n)
    FROM generate_series({{rows}}) AS n WHERE n % 3 = 0
    """,
    f"""
    INSERT INTO registration (event_id, id, seq, command_id, name, email, email_key, spots_count, status)
    SELECT {_EVENT_ID}, pg_temp.key(n), n, pg_temp.key(n), 'User',
           n || '@example.org', n || '@example.org', 1 + n / 20 % 4,
           CASE WHEN n / 2 % 10 < 4 THEN 'CONFIRMED' WHEN n / 2 % 10 < 8 THEN 'WAITLIST' ELSE 'CANCELLED' END
    FROM generate_series({{rows}}) AS n
    """,
    f"""
    INSERT INTO outcome (event_id, command_id, body, settled_at)
    SELECT {_EVENT_ID}, pg_temp.key(n), json_build_object('registrationId', pg_temp.key(n)), now()
    FROM generate_series({{rows}}) AS n WHERE n < {FIRST_PENDING}
    """,
    f"""
    INSERT INTO audit_entry (event_id, number, kind, actor, spots_delta, spots_reserved, at, hash)
    SELECT {_EVENT_ID}, CASE WHEN n % 2 = 0 THEN n / 2 ELSE n / 1000 + 1 END,
           'register', 'public', 1, 1, now(), int8send(n)
    FROM generate_series({{rows}}) AS n
    """,
)
KEY_FUNCTION = """
    CREATE FUNCTION pg_temp.key(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE
    AS $$ SELECT lpad(to_hex(n), 32, '0')::uuid $$
"""
_PARAMETER = re.compile(r":'(\w+)'")
_NAMED = re.compile(r"(?<!:):(\w+)")
_COMMENT = re.compile(r"--.*")

Execute = Callable[[str], list[Any]]


def _list(type_: str, value: Callable[[int], object]) -> str:
    return f"ARRAY[{', '.join(str(value(number)) for number in range(COUNT))}]::{type_}[]"


def _key(number: int) -> str:
    return f"'{UUID(int=number)}'::uuid"


def _bytes(number: int) -> str:
    return f"'\\x{number:016x}'"


_FIRST_EVENT = _key(0x900000000)
_ODD_EVENTS = _list("uuid", lambda i: _key(0x900000001 + 2 * i))
_SAME_EVENT = _list("uuid", lambda _: _FIRST_EVENT)
_OLD_IDS = _list("uuid", lambda i: _key(OLD + 2 * i))
_NEW_IDS = _list("uuid", lambda i: _key(0x700000000 + i))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A statement with its parameters, the indexes by which it reads, and the rows that it may read."""

    parameters: Mapping[str, str]
    indexes: frozenset[str]
    rows_max: int
    either: frozenset[str]
    """Indexes any of which will do."""
    whole: bool
    """A table may be read from its beginning: all of it, or up to a limit."""


def _case(
    indexes: str = "", rows_max: int = COUNT, *, either: str = "", whole: bool = False, **parameters: str
) -> Case:
    return Case(
        parameters=parameters,
        indexes=frozenset(indexes.split()),
        rows_max=rows_max,
        either=frozenset(either.split()),
        whole=whole,
    )


CASES = {
    "lock_events": _case(
        "pending_command_pkey command_pkey outcome_pkey event_pkey audit_entry_pkey",
        20 * COUNT,
        event_ids=f"{_ODD_EVENTS} || {_FIRST_EVENT}",
        share="13",
        commands_max="100",
        first_seq="0",
        left_out=_NEW_IDS,
        statement_ms="400",
        lock_ms="200",
    ),
    # 500 odd events have pending commands, ten or twenty each.
    "find_pending_events": _case("pending_command_pkey", 10_000, after=_key(0)),
    "first_pending": _case("pending_command_pkey", COUNT + 1, event_id=_FIRST_EVENT, left_out=_NEW_IDS),
    "note_trouble": _case(event_id=_FIRST_EVENT, command_id=_key(1), error="'error'"),
    "forget_trouble": _case("trouble_command_key", event_ids=_SAME_EVENT, command_id=_key(1)),
    "forget_settled": _case("pending_command_pkey outcome_pkey", 2 * OF_FIRST_EVENT, event_id=_FIRST_EVENT),
    "find_registrations": _case(
        "registration_pkey command_pkey", 2 * COUNT, event_id=_FIRST_EVENT, ids=_OLD_IDS
    ),
    "find_slugs": _case(
        "command_pkey event_slug_key event_slug_released_idx",
        2 * COUNT + 1,
        event_id=_FIRST_EVENT,
        slugs=_list("text", lambda i: f"'event-{i + 1}'"),
        held_seconds="1",
    ),
    "find_holders": _case(
        "registration_holder_key",
        event_ids=_SAME_EVENT,
        email_keys=_list("text", lambda i: f"'{OLD + 2 * i}@example.org'"),
    ),
    "read_waitlist": _case(
        "registration_waitlist_size_idx",
        300,
        event_id=_FIRST_EVENT,
        capacity="1000000",
        freed="100",
        leaving_sizes="'{1}'",
        leaving_parties="'{5}'",
    ),
    "count_oversized": _case(
        "registration_waitlist_size_idx",
        20 * COUNT,
        event_ids=f"{_ODD_EVENTS} || {_FIRST_EVENT}",
        capacities=f"{_list('integer', lambda _: '3')} || 3",
        parties_max=f"{_list('bigint', lambda _: '4')} || 500::bigint",
    ),
    "save_follow_up": _case(
        "event_pkey", 2, event_id=_FIRST_EVENT, id=_key(0x700000000), accepted_at="now()"
    ),
    "recount": _case("registration_place_key audit_entry_pkey", ROWS // 500 + 2, event_id=_key(0x900000001)),
    "save_batch": _case(
        "pending_command_pkey idempotency_key_command_key event_pkey",
        6 * COUNT,
        moved_event_ids=_ODD_EVENTS,
        moved_spots=_list("integer", lambda _: "1"),
        moved_waiting=_list("integer", lambda _: "0"),
        moved_entries=_list("bigint", lambda _: "1"),
        entered_event_ids=_SAME_EVENT,
        entered_ids=_NEW_IDS,
        entered_seqs=_list("bigint", lambda i: 2_000_000 + i),
        entered_command_ids=_NEW_IDS,
        entered_names=_list("text", lambda _: "'User'"),
        entered_emails=_list("text", lambda i: f"'{i}@example.com'"),
        entered_email_keys=_list("text", lambda i: f"'{i}@example.com'"),
        entered_spots_counts=_list("integer", lambda _: "1"),
        entered_statuses=_list("text", lambda _: "'CONFIRMED'"),
        noted_event_ids=_SAME_EVENT,
        noted_numbers=_list("bigint", lambda i: 2_000_000 + i),
        noted_hashes=_list("bytea", _bytes),
        noted_command_ids=_NEW_IDS,
        noted_kinds=_list("text", lambda _: "'register'"),
        noted_actors=_list("text", lambda _: "'public'"),
        noted_reasons=_list("text", lambda _: "NULL"),
        noted_registration_ids=_NEW_IDS,
        noted_from_statuses=_list("text", lambda _: "NULL"),
        noted_to_statuses=_list("text", lambda _: "'CONFIRMED'"),
        noted_before_afters=_list("jsonb", lambda _: "NULL"),
        noted_spots_deltas=_list("integer", lambda _: "1"),
        noted_spots_reserved=_list("integer", lambda _: "1"),
        settled_event_ids=_SAME_EVENT,
        settled_seqs=_list("bigint", lambda i: FIRST_PENDING + 2 * i),
        settled_ids=_list("uuid", lambda i: _key(FIRST_PENDING + 2 * i)),
        settled_outcomes=_list("jsonb", lambda _: "'{}'::jsonb"),
        released_event_ids=_SAME_EVENT,
        released_ids=_list("uuid", lambda i: _key(KEYED + 6 * i)),
    ),
    "save_settings": _case(
        "event_pkey",
        event_id=_FIRST_EVENT,
        slug="'event-0'",
        title="'A drop'",
        capacity="1000000",
        waitlist_enabled="true",
        waitlist_limit="NULL",
        promotion_policy="'strict_fifo'",
        auto_promote="true",
        max_spots_per_registration="4",
        opens_at="NULL",
        closes_at="NULL",
        promote_until="NULL",
        cancel_until="NULL",
        paused="false",
        archived="false",
        deleted="false",
        overbooked_from="NULL",
        spots="1",
        waiting="0",
        entries="1",
    ),
    "heal_counters": _case("event_pkey", event_id=_FIRST_EVENT, confirmed_spots="1", waitlist_length="1"),
    "update_registrations": _case(
        "registration_pkey",
        2 * COUNT,
        event_ids=_SAME_EVENT,
        ids=_OLD_IDS,
        statuses=_list("text", lambda _: "'CANCELLED'"),
        seqs=_list("bigint", lambda i: 3_000_000 + i),
        original_seqs=_list("bigint", lambda i: OLD + 2 * i),
    ),
    "correct_registration": _case(
        "registration_pkey",
        2,
        event_id=_FIRST_EVENT,
        id=_key(OLD),
        name="'User'",
        email="'user@example.com'",
        email_key="'user@example.com'",
        spots_count="1",
        status="'CANCELLED'",
        seq="3000000",
        command_id=_key(0x700000000),
        original_seq=str(OLD),
    ),
    "erase": _case(
        "command_pkey pending_command_pkey idempotency_key_command_key registration_pkey",
        6 * COUNT,
        event_id=_FIRST_EVENT,
        registration_ids=_OLD_IDS,
        command_ids=_OLD_IDS,
    ),
    "delete_registrations": _case("registration_pkey", 2 * COUNT, event_ids=_SAME_EVENT, ids=_OLD_IDS),
    "accept_commands": _case(
        "command_pkey idempotency_key_pkey",
        event_ids=_SAME_EVENT,
        ids=_NEW_IDS,
        kinds=_list("text", lambda _: "'register'"),
        payloads=_list("jsonb", lambda _: "'{}'::jsonb"),
        actors=_list("text", lambda _: "'public'"),
        versions=_list("smallint", lambda _: "1"),
        idempotency_keys=_list("bytea", lambda i: _bytes(9_000_000 + i)),
        former_keys=_list("bytea", lambda i: _bytes(8_000_000 + i)),
        fingerprints=_list("bytea", _bytes),
        last_number="0::bigint",
    ),
    "find_commands": _case(
        "command_pkey idempotency_key_pkey",
        3 * COUNT,
        event_ids=_SAME_EVENT,
        ids=_OLD_IDS,
        idempotency_keys=_list("bytea", lambda i: _bytes(KEYED + 6 * i)),
        former_keys=_list("bytea", lambda i: _bytes(KEYED + 3 + 6 * i)),
    ),
}
# A line of an event, as waiting clients see it, is counted whole: a few times a second at most.
CASES |= {
    "receipts": _case(
        "command_pkey event_pkey outcome_pkey registration_pkey",
        4 * COUNT,
        event_ids=_SAME_EVENT,
        ids=_OLD_IDS,
    ),
    "waitlists": _case(
        rows_max=ROWS // 2,
        either="registration_waitlist_idx registration_waitlist_size_idx",
        event_ids=f"ARRAY[{_FIRST_EVENT}]",
    ),
    "backlogs": _case("pending_command_pkey", 3 * OF_FIRST_EVENT, event_ids=f"ARRAY[{_FIRST_EVENT}]"),
    "outcomes": _case("outcome_pkey", 2 * COUNT, event_ids=_SAME_EVENT, ids=_OLD_IDS),
    "status_changes": _case(
        "event_pkey audit_entry_pkey",
        3 * COUNT,
        event_ids=_ODD_EVENTS,
        seen=_list("bigint", lambda _: str(ROWS // 1_000 - 1)),
    ),
    "availability": _case(
        "event_slug_key pending_command_pkey registration_waitlist_size_idx outcome_pkey",
        3 * OF_FIRST_EVENT,
        slugs="ARRAY['event-0']",
    ),
    "early_answers": _case(
        "event_pkey pending_command_pkey command_pkey registration_waitlist_size_idx outcome_pkey",
        4 * OF_FIRST_EVENT + 500 * COUNT,
        event_ids=f"{_ODD_EVENTS} || {_FIRST_EVENT}",
    ),
    "early_answer_to_holder": _case(
        "event_pkey pending_command_pkey command_pkey registration_waitlist_size_idx outcome_pkey "
        "registration_pkey idempotency_key_pkey",
        4 * OF_FIRST_EVENT,
        event_id=_FIRST_EVENT,
        registration_id=_key(OLD),
        receipt_id=_key(OLD),
        keys=_list("bytea", lambda i: _bytes(OLD + 1 + 6 * i)),
    ),
    "used_keys": _case(
        "idempotency_key_pkey",
        2 * COUNT,
        event_id=_FIRST_EVENT,
        keys=_list("bytea", lambda i: _bytes(OLD + 1 + 6 * i)),
    ),
    "pending_counts": _case("pending_command_pkey", 20_100, whole=True, pending_max="100000"),
    "pending": _case("pending_command_pkey", 20_100, whole=True),
    "oldest_pending": _case("pending_command_pkey command_pkey", 2_100, whole=True, limit="10"),
    "pace": _case("pending_command_pkey", 3 * OF_FIRST_EVENT, event_id=_FIRST_EVENT, mark=str(ROWS - 1_000)),
    "event_ids": _case("event_slug_key", 3 * COUNT, slugs=_list("text", lambda i: f"'event-{i + 1}'")),
    "given_up_slugs": _case("event_slug_released_idx", seconds="5"),
    "held_slug": _case("event_slug_released_idx", slug="'event-1'", held_seconds="1"),
    "event": _case("event_pkey outcome_pkey", 2, id=_FIRST_EVENT),
    "event_slug": _case("event_pkey", 1, id=_FIRST_EVENT, deleted="false"),
    "owned_event": _case("event_pkey", 1, id=_FIRST_EVENT, organiser_id=_key(1)),
    "registration": _case(
        "registration_pkey event_pkey",
        ROWS // 2,
        either="registration_waitlist_idx registration_waitlist_size_idx",
        event_id=_FIRST_EVENT,
        id=_key(OLD + 10),
    ),
    "key_principals": _case("api_key_digest_key", digests=_list("bytea", _bytes)),
    "changed_protections": _case("event_protection_changed_idx", seconds="300"),
    "protection": _case("event_pkey event_protection_pkey", 1, event_id=_FIRST_EVENT),
}
# Their plans are PostgreSQL's own. A list may read all of its event, to count positions as well.
CASES |= {
    "registrations": _case(rows_max=2 * ROWS, event_id=_FIRST_EVENT, status="NULL", after="0", limit="50"),
    "registrations_of_status": _case(
        rows_max=2 * ROWS, event_id=_FIRST_EVENT, status="'CANCELLED'", after="0", limit="50"
    ),
    "registrations_with_word": _case(
        rows_max=2 * ROWS, event_id=_FIRST_EVENT, status="NULL", after="0", limit="50", q="'user'"
    ),
    "registrations_with_rare_word": _case(
        rows_max=ROWS // 2, event_id=_FIRST_EVENT, status="'CONFIRMED'", after="0", limit="50", q=f"'{OLD}'"
    ),
    "audit_entries": _case(rows_max=3 * COUNT, event_id=_FIRST_EVENT, after="0", limit="50", reasons="true"),
    "failed_commands": _case(rows_max=2 * COUNT, event_id=_FIRST_EVENT, after="0", limit="50"),
    "commands_to_erase": _case(rows_max=2 * ROWS, event_id=_FIRST_EVENT),
    "keys_to_forget": _case(rows_max=ROWS // 20, cutoff="'infinity'", limit=str(COUNT)),
    "ledger": _case(rows_max=2 * ROWS, event_id=_FIRST_EVENT),
}
STATES = (
    "empty",
    "one row",
    "one row's plan among many",
    "one row's statistics among many",
    "many rows",
    "another event's statistics among many",
)


OF_THE_API = {
    "receipts": receipts._RECEIPTS,  # noqa: SLF001
    "waitlists": receipts._WAITLISTS,  # noqa: SLF001
    "backlogs": receipts._BACKLOGS,  # noqa: SLF001
    "outcomes": ledger._OUTCOMES,  # noqa: SLF001
    "status_changes": status_changes._READ,  # noqa: SLF001
    "availability": availability._READ,  # noqa: SLF001
    "early_answers": early_answers._READ_EVENTS,  # noqa: SLF001
    "early_answer_to_holder": early_answers._READ_REGISTRATION,  # noqa: SLF001
    "used_keys": used_keys._IS_USED,  # noqa: SLF001
    "pending_counts": pending_count._COUNT,  # noqa: SLF001
    "pending": backlog._PENDING,  # noqa: SLF001
    "oldest_pending": backlog._OLDEST,  # noqa: SLF001
    "pace": backlog._LINE,  # noqa: SLF001
    "event_ids": events._EVENT_IDS,  # noqa: SLF001
    "given_up_slugs": slugs._GIVEN_UP,  # noqa: SLF001
    "held_slug": events._SLUG_IS_HELD,  # noqa: SLF001
    "event": events._EVENT_BY_ID,  # noqa: SLF001
    "event_slug": events._EVENT_SLUG,  # noqa: SLF001
    "owned_event": events._IS_OWNED,  # noqa: SLF001
    "registration": events._REGISTRATION,  # noqa: SLF001
    "key_principals": keys._PRINCIPALS,  # noqa: SLF001
    "changed_protections": protections._RECENTLY_CHANGED,  # noqa: SLF001
    "protection": protections._READ,  # noqa: SLF001
}
"""The API's statements that a crowd causes, or a process by itself again and again."""
OF_ADMINS = {
    "registrations": events._ALL,  # noqa: SLF001
    "registrations_of_status": events._ALL,  # noqa: SLF001
    "registrations_with_word": events._WITH_WORD,  # noqa: SLF001
    "registrations_with_rare_word": events._WITH_WORD,  # noqa: SLF001
    "audit_entries": events._AUDIT,  # noqa: SLF001
    "failed_commands": events._FAILED,  # noqa: SLF001
    "commands_to_erase": erasure._COMMANDS,  # noqa: SLF001
    "keys_to_forget": retention._FORGET_KEYS,  # noqa: SLF001
    "ledger": "SELECT count(settled_at) FROM ledger WHERE event_id = :event_id",
}
"""Statements of admins and of operators, and one that reads an event by the view `ledger`."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The scans of tables as `(node, index, condition)`, and what they have read."""

    scans: list[tuple[str, str, str]]
    rows: float
    blocks: int


def statements() -> dict[str, str]:
    """Return the statements by name, in PostgreSQL's own notation of parameters."""
    in_files = {
        path.stem: path.read_text()
        for folder in FOLDERS
        for path in sorted((CHECKOUT / folder).glob("*.sql"))
    }
    reads = OF_THE_API | OF_ADMINS
    return in_files | {name: _NAMED.sub(r":'\1'", str(read)) for name, read in reads.items()}


def prepare(execute: Execute, name: str, statement: str) -> None:
    """Prepare a statement; its parameters are numbered in the order of the case."""
    places = {parameter: f"${place}" for place, parameter in enumerate(CASES[name].parameters, 1)}
    numbered = _PARAMETER.sub(lambda match: places[match[1]], _COMMENT.sub("", statement))
    execute(f"PREPARE {name} AS {numbered}")


def explain(execute: Execute, name: str) -> Plan:
    """Execute a prepared statement in a transaction that is rolled back; return its plan."""
    arguments = f"({', '.join(given)})" if (given := CASES[name].parameters.values()) else ""
    execute("BEGIN")
    try:
        ((explained,),) = execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {name} {arguments}")
    finally:
        execute("ROLLBACK")
    plans = explained if isinstance(explained, list) else json.loads(explained)
    scans = [node for node in _nodes(plans[0]["Plan"]) if "Scan" in node["Node Type"]]
    scans = [node for node in scans if node.get("Relation Name") in BIG_TABLES or "Index Name" in node]
    return Plan(
        scans=sorted({_shape(node) for node in scans}),
        rows=sum(_rows_read(node) for node in scans),
        blocks=sum(node["Shared Hit Blocks"] + node["Shared Read Blocks"] for node in scans),
    )


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _shape(node: dict[str, Any]) -> tuple[str, str, str]:
    condition = node.get("Index Cond") or node.get("TID Cond") or node.get("Recheck Cond") or ""
    return node["Node Type"], node.get("Index Name", ""), condition


def _rows_read(node: dict[str, Any]) -> float:
    names = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    return float(sum(node.get(name, 0) for name in names) * node["Actual Loops"])


async def reading_session(settings: Settings, *, for_admins: bool) -> BoundedSession:
    """Return a session as the API's pools make them."""
    engine = connections.async_engine(settings, for_admins=for_admins)
    async with engine.connect() as connection:
        pooled = await connection.get_raw_connection()
        session = pooled.driver_connection
        assert isinstance(session, BoundedSession)
        pooled.detach()
    return session


def fill(filling: "psycopg.Connection[Any]", rows: str) -> None:
    """Write the rows with these numbers: a first, a last, and maybe a step."""
    for statement in FILL:
        filling.execute(statement.format(rows=rows).encode())


def write_after_statistics_of_another_event(filling: "psycopg.Connection[Any]") -> None:
    """Write the first event's rows anew, after the tables were analysed with those of one other event."""
    for table in BIG_TABLES[:-1]:
        filling.execute(f"TRUNCATE {table}".encode())
    fill(filling, f"1, {ROWS}, 1000")
    filling.execute(b"ANALYZE")
    fill(filling, f"2, {ROWS}, 2")


@pytest.fixture(scope="module")
def plans(servers: Servers, module_database: str) -> Iterator[dict[str, dict[str, Plan]]]:
    """The plans of all statements in all states of the tables, by state and statement."""
    settings = Settings(
        database_url=module_database,
        broker_url=servers.broker_url,
        result_url=servers.result_url,
        owner_silence_seconds_max=600,  # the sessions are idle while the tables grow
        statement_timeout_seconds=60,
    )
    plain = make_url(module_database).set(drivername="postgresql").render_as_string(hide_password=False)
    loop = asyncio.new_event_loop()
    with ExitStack() as stack:
        stack.callback(loop.close)
        filling = stack.enter_context(psycopg.connect(plain, autocommit=True))
        worker = stack.enter_context(connections.worker_session(settings))
        accepting = loop.run_until_complete(ledger.open_session(settings))
        stack.callback(lambda: loop.run_until_complete(accepting.close()))
        reading, reading_for_admins = (
            loop.run_until_complete(reading_session(settings, for_admins=for_admins))
            for for_admins in (False, True)
        )
        stack.callback(lambda: loop.run_until_complete(reading.close()))
        stack.callback(lambda: loop.run_until_complete(reading_for_admins.close()))

        def in_worker(statement: str) -> list[Any]:
            cursor = worker.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

        def in_api(session: BoundedSession, statement: str) -> list[Any]:
            async def run() -> list[Any]:
                cursor = await session.execute(statement.encode())
                return await cursor.fetchall() if cursor.description else []

            return loop.run_until_complete(run())

        def explained() -> dict[str, Plan]:
            return {name: explain(executes[name], name) for name in sources}

        sources = statements()
        in_files = {path.stem for path in (CHECKOUT / "worker/sql").glob("*.sql")} | {"read_waitlist"}
        in_intake, in_pool = partial(in_api, accepting), partial(in_api, reading)
        in_admins_pool = partial(in_api, reading_for_admins)
        executes: dict[str, Execute] = (
            dict.fromkeys(sources, in_intake)
            | dict.fromkeys(in_files, in_worker)
            | dict.fromkeys(OF_THE_API, in_pool)
            | dict.fromkeys(OF_ADMINS, in_admins_pool)
        )
        filling.execute(b"SET session_replication_role = replica")  # the rows that refer to others are right
        filling.execute(KEY_FUNCTION.encode())
        filling.execute(FILL_EVENTS.format(events="0, 0").encode())  # others refer to it
        for table in BIG_TABLES:  # only the test itself renews statistics
            filling.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)".encode())
        for name, source in sources.items():
            prepare(executes[name], name, source)
        found = {"empty": explained()}
        fill(filling, "2, 2")
        filling.execute(b"ANALYZE")
        found["one row"] = explained()
        filling.execute(b"SET synchronous_commit = off")
        filling.execute(FILL_EVENTS.format(events="1, 999").encode())
        fill(filling, "1, 1")
        fill(filling, f"3, {ROWS}")
        found["one row's plan among many"] = explained()
        for execute in (in_worker, in_intake, in_pool, in_admins_pool):
            execute("DISCARD PLANS")
        found["one row's statistics among many"] = explained()
        filling.execute(b"ANALYZE")
        found["many rows"] = explained()
        write_after_statistics_of_another_event(filling)
        for execute in (in_worker, in_intake, in_pool, in_admins_pool):
            execute("DISCARD PLANS")
        found["another event's statistics among many"] = explained()
        yield found


def test_every_statement_has_a_case() -> None:
    assert set(CASES) == set(statements())


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", [name for name in CASES if name not in OF_ADMINS])
def test_rows_are_found_by_key(plans: dict[str, dict[str, Plan]], name: str, state: str) -> None:
    plan = plans[state][name]

    found = {index for _, index, _ in plan.scans if index}
    assert found - CASES[name].either == CASES[name].indexes, plan
    assert CASES[name].whole or all(condition for _, _, condition in plan.scans), plan
    assert "Seq Scan" not in {node for node, _, _ in plan.scans}, plan


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", CASES)
def test_few_rows_are_read(plans: dict[str, dict[str, Plan]], name: str, state: str) -> None:
    plan, rows_max = plans[state][name], CASES[name].rows_max

    assert plan.rows <= rows_max, plan
    assert plan.blocks <= rows_max * BLOCKS_PER_ROW_MAX, plan
