"""Prepares the tables for a measurement: they hold its own events and registrations, and nothing else.

The tables are emptied and filled for each measurement, so that every contestant finds the same. An event has
its number of registrations, all confirmed, and `SPOTS_LEFT` spots left. The service's registrations have
their commands, outcomes, places and numbered audit entries; only the hashes of these audit entries are not
chained, so the chain of a preloaded event cannot be checked.
"""

import secrets
from uuid import UUID

from benchmarks.arena import Arena

SPOTS_LEFT = 500
LOCK_SECONDS_MAX = 10
OLD_SECONDS = 5
"""Events are removed when their owners have given them up for certain."""

# TRUNCATE, because dead rows would slow the next measurement. A trigger refuses to empty the trail;
# these servers are the benchmark's own, so it may switch the trigger off.
# The event's table is locked first, as an owner does: a worker may still be handling a late wake message.
_EMPTY = f"""
BEGIN;
SET LOCAL lock_timeout = '{LOCK_SECONDS_MAX}s';
SET LOCAL session_replication_role = replica;
LOCK TABLE event IN EXCLUSIVE MODE;
TRUNCATE registration, command, pending_command, outcome, idempotency_key, audit_entry,
         baseline.registration, baseline.event;
DELETE FROM event WHERE updated_at < now() - interval '{OLD_SECONDS} seconds';
UPDATE event SET closes_at = now() - interval '1 hour', capacity = 0, spots_reserved = 0, waitlist_length = 0,
                 overbooked_spots = 0, audit_seq = 0, updated_at = now()
WHERE closes_at IS NULL OR audit_seq > 0;
COMMIT;
"""
_EVENTS = """
INSERT INTO event (id, slug, title, capacity, spots_reserved, audit_seq, waitlist_enabled)
SELECT uuidv7(), %(slug)s || '-' || n, 'A drop', %(rows)s + %(spots_left)s, %(rows)s, %(rows)s, %(waitlist)s
FROM generate_series(1, %(events)s) AS n
RETURNING id, slug
"""
_COMMANDS = """
WITH accepted AS (
    INSERT INTO command (event_id, id, kind, payload, actor)
    SELECT event.id, uuidv7(), 'register',
           jsonb_build_object('name', 'User A', 'spotsCount', 1, 'email', null), 'public'
    FROM generate_series(1, %(rows)s) AS n CROSS JOIN event
    WHERE event.id = ANY(%(events)s)
    RETURNING event_id, id
)
INSERT INTO outcome (event_id, command_id, body, settled_at)
SELECT event_id, id, jsonb_build_object('outcome', 'confirmed', 'registrationId', uuidv7(), 'spotsCount', 1),
       now()
FROM accepted
"""
_REGISTRATIONS = """
INSERT INTO registration (event_id, id, seq, command_id, name, spots_count, status)
SELECT event_id, (outcome ->> 'registrationId')::uuid, seq, id, 'User A', 1, 'CONFIRMED' FROM ledger
"""
_AUDIT = """
INSERT INTO audit_entry (event_id, number, command_id, kind, actor, registration_id, to_status, spots_delta,
                         spots_reserved, at, hash)
SELECT event_id, number, command_id, 'register', 'public', id, status, 1, number, created_at,
       sha256(uuid_send(id))
FROM (SELECT *, row_number() OVER (PARTITION BY event_id ORDER BY seq) AS number FROM registration) AS placed
"""
_BASELINE = """
INSERT INTO baseline.event (id, slug, capacity, spots_reserved)
SELECT gen_random_uuid(), %(slug)s || '-' || n, %(rows)s + %(spots_left)s, %(rows)s
FROM generate_series(1, %(events)s) AS n
RETURNING id, slug
"""
_BASELINE_REGISTRATIONS = """
INSERT INTO baseline.registration (id, event_id, name, spots_count, status)
SELECT gen_random_uuid(), event.id, 'User A', 1, 'CONFIRMED'
FROM generate_series(1, %(rows)s) AS n CROSS JOIN baseline.event
"""
_TIDY = (
    "VACUUM (ANALYZE)",
    "CHECKPOINT",
)

Events = dict[UUID, str]
"""The events of a measurement: id and slug."""


def empty(arena: Arena) -> None:
    """Remove every registration from all tables, and every result from the result backend."""
    arena.database.execute(_EMPTY.encode())
    arena.results.flushdb()


def service(
    arena: Arena, *, events: int, rows: int, spots_left: int = SPOTS_LEFT, waitlist: bool = True
) -> Events:
    """Fill the service's tables with `rows` registrations, an equal share for each event."""
    empty(arena)
    share = rows // events
    database = arena.database
    wanted = {
        "slug": _slug(),
        "events": events,
        "rows": share,
        "spots_left": spots_left,
        "waitlist": waitlist,
    }
    made: Events = dict(database.execute(_EVENTS, wanted).fetchall())
    database.execute(_COMMANDS, {"events": list(made), "rows": share})
    for statement in (_REGISTRATIONS, _AUDIT):
        database.execute(statement)
    _tidy(arena)
    arena.wait_owned()
    return made


def baseline(arena: Arena, *, events: int, rows: int) -> Events:
    """Fill the baselines' tables with `rows` registrations, an equal share for each event."""
    empty(arena)
    wanted = {"slug": _slug(), "events": events, "rows": rows // events, "spots_left": SPOTS_LEFT}
    made: Events = dict(arena.database.execute(_BASELINE, wanted).fetchall())
    arena.database.execute(_BASELINE_REGISTRATIONS, {"rows": rows // events})
    _tidy(arena)
    return made


def _tidy(arena: Arena) -> None:
    """Do the server's background work now, so that it does not happen in the middle of a measurement."""
    for statement in _TIDY:
        arena.database.execute(statement.encode())


def _slug() -> str:
    return f"bench-{secrets.token_hex(6)}"
