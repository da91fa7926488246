"""Rates without HTTP: PostgreSQL alone writing registrations, and a worker deciding a backlog.

`limit` writes rows like the service's into the service's own table, 500 in one statement with the counter's
move, each committed: no ledger, no decision, no audit, no outcome. `drain` is the real worker on commands
that are in the ledger before its first read. Both write the same number of registrations.
"""

import time
from collections.abc import Callable, Mapping

import msgspec

from benchmarks import checking, cpu, preload
from benchmarks.arena import Arena

ROWS_PER_STATEMENT = 500
ROWS_BEFORE = 1_000
LIMIT, DRAIN = "limit", "drain"

_LIMIT = f"""
WITH held AS (
    SELECT id, capacity - spots_reserved AS spots_left FROM event WHERE id = %s FOR UPDATE
), entered AS (
    INSERT INTO registration (event_id, id, seq, command_id, name, spots_count, status)
    SELECT held.id, uuidv7(), %s + n, uuidv7(), 'User A', 1,
           CASE WHEN n <= spots_left THEN 'CONFIRMED' ELSE 'WAITLIST' END
    FROM held CROSS JOIN generate_series(1, {ROWS_PER_STATEMENT}) AS n
    RETURNING status
), counted AS (
    SELECT count(*) FILTER (WHERE status = 'CONFIRMED') AS spots,
           count(*) FILTER (WHERE status = 'WAITLIST') AS waiting FROM entered
)
UPDATE event SET spots_reserved = spots_reserved + spots, waitlist_length = waitlist_length + waiting
FROM held, counted WHERE event.id = held.id
"""
_LAST_SEQ = "SELECT coalesce(max(seq), 0) FROM registration"
_ASK = """
WITH accepted AS (
    INSERT INTO command (event_id, id, kind, payload, actor)
    SELECT %s, uuidv7(), 'register', jsonb_build_object('name', 'User A', 'spotsCount', 1, 'email', null),
           'public'
    FROM generate_series(1, %s)
    RETURNING event_id, seq, id
)
INSERT INTO pending_command (event_id, seq, command_id) SELECT * FROM accepted
"""
# From the first batch's transaction to the last one's: the worker's delay before its first read is not
# counted, so the first batch is not either.
_DRAINED = """
SELECT count(*) FILTER (WHERE settled_at > first) AS drained,
       extract(epoch FROM max(settled_at) - min(first))::float8 AS seconds
FROM ledger,
     (SELECT min(settled_at) AS first FROM ledger WHERE event_id = %(event)s AND seq > %(after)s) AS began
WHERE event_id = %(event)s AND seq > %(after)s
"""
_LAST_COMMAND = "SELECT coalesce(max(seq), 0) FROM command"


class Bulk(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Registrations written without any HTTP; `cpu_us` is microseconds per registration."""

    name: str
    round: int
    rows: int
    per_second: float
    cpu_us: dict[str, float]
    violations: list[str]


def limit(arena: Arena, rows: int, round_: int) -> Bulk:
    """Write so many registrations with PostgreSQL alone, from one connection."""
    (event_id,) = preload.service(arena, events=1, rows=ROWS_BEFORE)
    last = int(arena.scalar(_LAST_SEQ))
    meter, begin = cpu.Meter({cpu.POSTGRES: [arena.postgres.pid]}), time.perf_counter()
    for first in range(last, last + rows, ROWS_PER_STATEMENT):
        arena.database.execute(_LIMIT.encode(), [event_id, first], prepare=True)
    seconds = time.perf_counter() - begin
    used = {name: us / rows for name, us in meter.read()[0].items()}
    return Bulk(name=LIMIT, round=round_, rows=rows, per_second=rows / seconds, cpu_us=used, violations=[])


def drain(arena: Arena, rows: int, round_: int) -> Bulk:
    """Have the event's owner decide commands that are all in the ledger before its first read."""
    (event_id,) = preload.service(arena, events=1, rows=ROWS_BEFORE)
    after_seq = int(arena.scalar(_LAST_COMMAND))
    groups = {name: pids for name, pids in arena.groups(DRAIN).items() if name != cpu.API}
    arena.database.execute(_ASK, [event_id, rows])
    meter = cpu.Meter(groups)  # the worker reads only at its tick, so inserting is not counted as deciding
    settled = arena.wait_settled()
    used, _ = meter.read()
    checked = checking.service(arena, preloaded=ROWS_BEFORE, answered=rows)
    drained, seconds = _drained(arena, str(event_id), after_seq)
    return Bulk(
        name=DRAIN,
        round=round_,
        rows=rows,
        per_second=drained / seconds if seconds else 0.0,
        cpu_us={name: us / rows for name, us in used.items()},
        violations=[*checked.violations, *([] if settled else ["commands stay undecided"])],
    )


def _drained(arena: Arena, event_id: str, after: int) -> tuple[int, float]:
    row = arena.database.execute(_DRAINED, {"event": event_id, "after": after}).fetchone()
    assert row is not None, "an aggregate yields a row"
    return int(row[0]), float(row[1] or 0)


RUNS: Mapping[str, Callable[[Arena, int, int], Bulk]] = {
    LIMIT: limit,
    DRAIN: drain,
}
"""All bulk runs, in the order of a round."""
