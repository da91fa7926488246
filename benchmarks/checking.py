"""Checks a measurement by the tables alone: a fast wrong answer counts for nothing.

The statements read whole tables, which hold one measurement and nothing else. They rely on the preloaded
state: all parties are of one spot, no registration is cancelled, and only registering changes a table.
"""

from dataclasses import dataclass

from benchmarks.arena import Arena

_RULES = {
    "an event is oversold": "SELECT count(*) FROM event WHERE spots_reserved > capacity",
    "a counter differs from its rows": """
        SELECT count(*) FROM event
        LEFT JOIN (SELECT event_id,
                          sum(spots_count) FILTER (WHERE status = 'CONFIRMED') AS confirmed,
                          count(*) FILTER (WHERE status = 'WAITLIST') AS waiting
                   FROM registration GROUP BY event_id) AS found ON found.event_id = event.id
        WHERE spots_reserved <> coalesce(confirmed, 0) OR waitlist_length <> coalesce(waiting, 0)""",
    "a registration waits while a spot is free": """
        SELECT count(*) FROM event WHERE waitlist_length > 0 AND spots_reserved < capacity""",
    "a registration was overtaken": """
        SELECT count(*) FROM (
            SELECT max(seq) FILTER (WHERE status = 'CONFIRMED') > min(seq) FILTER (WHERE status = 'WAITLIST')
                   AS overtaken
            FROM registration GROUP BY event_id) AS event WHERE overtaken""",
    "a command is pending": "SELECT count(*) FROM pending_command",
    "a command was not settled once": """
        SELECT (SELECT count(*) FROM command) - (SELECT count(*) FROM outcome)
               - (SELECT count(*) FROM pending_command)""",
    "a command failed": "SELECT count(*) FROM ledger WHERE outcome ->> 'outcome' = 'failed'",
    "an outcome has not its registration": """
        SELECT count(*) FROM ledger
        FULL JOIN registration
             ON registration.event_id = ledger.event_id AND registration.command_id = ledger.id
        WHERE coalesce(outcome ->> 'outcome', '') <> 'refused'
          AND CASE outcome ->> 'outcome'
                  WHEN 'confirmed' THEN 'CONFIRMED' WHEN 'waitlisted' THEN 'WAITLIST'
              END IS DISTINCT FROM status""",
    "an audit trail differs from its rows": """
        SELECT count(*) FROM event
        LEFT JOIN (SELECT event_id, count(*) AS entries, max(number) AS last, sum(spots_delta) AS spots
                   FROM audit_entry GROUP BY event_id) AS trail ON trail.event_id = event.id
        LEFT JOIN (SELECT event_id, count(*) AS registrations FROM registration GROUP BY event_id) AS found
               ON found.event_id = event.id
        WHERE (audit_seq, audit_seq, audit_seq, spots_reserved::bigint)
              IS DISTINCT FROM (coalesce(entries, 0), coalesce(last, 0), coalesce(registrations, 0),
                                coalesce(spots, 0))""",
}
"""Each rule, with a statement that counts its violations."""

_LEDGER = "SELECT count(*) FROM command"
_OVERSOLD = """
SELECT coalesce(sum(greatest(confirmed - capacity, 0)), 0)
FROM {schema}.event
JOIN (SELECT event_id, sum(spots_count) AS confirmed FROM {schema}.registration WHERE status = 'CONFIRMED'
      GROUP BY event_id) AS found ON found.event_id = event.id
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """Confirmed spots beyond capacity, and a sentence for each rule that was broken."""

    oversold: int
    violations: list[str]


def service(arena: Arena, *, preloaded: int, answered: int) -> CheckResult:
    """Check the service's tables after it answered at least `answered` accepted commands."""
    violations = [
        f"{rule} ({count} times)" for rule, sql in _RULES.items() if (count := int(arena.scalar(sql)))
    ]
    recorded = int(arena.scalar(_LEDGER)) - preloaded
    if recorded < answered:
        violations.append(f"{answered} registrations were answered, the ledger holds {recorded}")
    return CheckResult(oversold=_oversold(arena, "public"), violations=violations)


def baseline(arena: Arena) -> CheckResult:
    """Count the spots that a contestant oversold; it makes no other promise."""
    return CheckResult(oversold=_oversold(arena, "baseline"), violations=[])


def _oversold(arena: Arena, schema: str) -> int:
    return int(arena.scalar(_OVERSOLD.format(schema=schema)))
