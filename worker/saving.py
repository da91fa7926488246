"""Saves what decisions changed: the only writer of `registration`, `audit_entry` and the counters.

All of it happens in the transaction that holds the events' rows. What most batches need, for however
many events, is one statement: the guarded counters, new registrations, the trail, the outcomes.
"""

from collections.abc import Sequence
from uuid import UUID

import msgspec
from sqlalchemy import Connection, TextClause, text

from shared import arrays, commands, ledger
from shared.commands import Status
from shared.ledger import Settled
from worker import trail
from worker.records import Loaded, Overtaken
from worker.roster import Roster
from worker.state import Registration, Terms


class GuardRefused(Exception):  # noqa: N818 - reads as the sentence "raise GuardRefused"
    """The counter would have passed the capacity; the transaction must be rolled back."""


_GUARD = """
    UPDATE event
    SET spots_reserved = spots_reserved + moved.spots_delta,
        waitlist_length = waitlist_length + moved.waitlist_delta,
        overbooked_spots =
            least(overbooked_spots, greatest(spots_reserved + moved.spots_delta - {capacity}, 0)),
        audit_seq = audit_seq + moved.entries,
        updated_at = now(){settings}
    FROM {moved} AS moved (event_id, spots_delta, waitlist_delta, entries)
    CROSS JOIN LATERAL (SELECT ctid FROM event WHERE id = moved.event_id OFFSET 0) AS found
    WHERE event.ctid = found.ctid
      AND (moved.spots_delta <= 0 OR spots_reserved + moved.spots_delta <= {capacity})
"""
_GUARD_COUNTERS = _GUARD.format(
    capacity="capacity",
    settings="",
    moved="""ROWS FROM (
        unnest(CAST(:moved_events AS uuid[])), unnest(CAST(:spots_deltas AS integer[])),
        unnest(CAST(:waitlist_deltas AS integer[])), unnest(CAST(:entries AS bigint[]))
    )""",
)
_GUARD_SETTINGS = text(
    _GUARD.format(
        capacity="CAST(:capacity AS integer)",
        settings="".join(f", {name} = :{name}" for name in Terms.__struct_fields__),
        moved="""(VALUES (
            CAST(:event_id AS uuid), CAST(:spots_delta AS integer), CAST(:waitlist_delta AS integer),
            CAST(:entries AS bigint)
        ))""",
    )
)

# Only here may the counter rise past the capacity: to say that the rows already do.
_HEAL = text("""
    UPDATE event
    SET spots_reserved = :confirmed_spots, waitlist_length = :waitlist_length,
        overbooked_spots = greatest(:confirmed_spots - capacity, 0)
    WHERE id = :event_id
""")

_FOUND = """
    CROSS JOIN LATERAL (
        SELECT ctid FROM registration WHERE event_id = named.event_id AND id = named.id OFFSET 0
    ) AS found
    WHERE registration.ctid = found.ctid
"""

_DELETE = text(f"""
    DELETE FROM registration
    USING ROWS FROM (unnest(CAST(:event_ids AS uuid[])), unnest(CAST(:ids AS uuid[]))) AS named (event_id, id)
    {_FOUND}
""")

_UPDATE = text(f"""
    UPDATE registration
    SET status = named.status, seq = named.seq, updated_at = now()
    FROM ROWS FROM (
        unnest(CAST(:event_ids AS uuid[])), unnest(CAST(:ids AS uuid[])),
        jsonb_array_elements_text(CAST(:statuses AS jsonb)), unnest(CAST(:seqs AS bigint[]))
    ) AS named (event_id, id, status, seq)
    {_FOUND}
""")

_ENTER = """
    INSERT INTO registration (event_id, id, seq, command_id, name, email, email_key, spots_count, status)
    SELECT entered.*
    FROM ROWS FROM (
        unnest(CAST(:entered_events AS uuid[])), unnest(CAST(:entered_ids AS uuid[])),
        unnest(CAST(:entered_seqs AS bigint[])), unnest(CAST(:entered_commands AS uuid[])),
        jsonb_array_elements_text(CAST(:names AS jsonb)), jsonb_array_elements_text(CAST(:emails AS jsonb)),
        jsonb_array_elements_text(CAST(:email_keys AS jsonb)), unnest(CAST(:spots_counts AS integer[])),
        jsonb_array_elements_text(CAST(:statuses AS jsonb))
    ) AS entered
"""

_SAVE = text(f"""
    WITH moved AS ({_GUARD_COUNTERS} RETURNING event.id),
         entered AS ({_ENTER}),
         noted AS ({trail.APPEND}),
         settled AS ({ledger.SETTLE} RETURNING command.id)
    SELECT (SELECT count(*) FROM moved) AS moved, (SELECT count(*) FROM settled) AS settled
""")

_SETTLE = text(ledger.SETTLE)


def save(connection: Connection, decided: Sequence[Loaded], settled: Sequence[Settled]) -> None:
    """Write what the rosters' decisions changed, and their outcomes.

    Raises `GuardRefused` or `Overtaken`; then nothing of it may be committed.
    """
    changed = [loaded for loaded in decided if loaded.roster.changes]
    counted = [loaded for loaded in changed if not _move_at_once(connection, loaded)]
    # Those who leave go first, so that whoever comes may have their place, or their email address.
    _delete(connection, [(one.event.id, id_) for one in changed for id_ in _gone(one.roster)])
    kept = [(one.event.id, registration) for one in changed for registration in _kept(one.roster)]
    _update(connection, [(event, r) for event, r in kept if r.status is Status.CANCELLED])
    _update(connection, [(event, r) for event, r in kept if r.status is not Status.CANCELLED])
    done = connection.execute(
        _SAVE,
        {
            **_moving(counted),
            **_entering([(one.event.id, r) for one in changed for r in _entered(one.roster)]),
            **trail.appending([(one.event, one.roster.changes) for one in changed]),
            **ledger.settling(settled),
        },
    ).one()
    if done.moved != len(counted):
        raise GuardRefused(f"{len(counted) - done.moved} counters do not move past their capacity")
    if done.settled != len(settled):
        raise Overtaken


def settle(connection: Connection, settled: Settled) -> bool:
    """Write an outcome that changes nothing else; tell whether the command was still pending."""
    return connection.execute(_SETTLE, ledger.settling([settled])).rowcount == 1


def _gone(roster: Roster) -> set[UUID]:
    return roster.deleted - roster.entered


def _kept(roster: Roster) -> list[Registration]:
    return [roster.registrations[id_] for id_ in roster.changed - roster.entered - roster.deleted]


def _entered(roster: Roster) -> list[Registration]:
    return [roster.registrations[id_] for id_ in roster.entered - roster.deleted]


def _move_at_once(connection: Connection, loaded: Loaded) -> bool:
    """Move the counters in a statement of their own where more than they change; tell whether."""
    event, roster = loaded.event, loaded.roster
    spots, waiting = event.spots_reserved, event.waitlist_length
    if roster.recount is not None:
        spots, waiting = roster.recount.confirmed_spots, roster.recount.waitlist_length
        connection.execute(
            _HEAL, {"event_id": event.id, "confirmed_spots": spots, "waitlist_length": waiting}
        )
    elif roster.terms == event.terms:
        return False
    moved = {
        "event_id": event.id,
        "spots_delta": roster.spots_reserved - spots,
        "waitlist_delta": roster.waitlist.length - waiting,
        "entries": len(roster.changes),
    }
    result = connection.execute(_GUARD_SETTINGS, {**moved, **msgspec.structs.asdict(roster.terms)})
    if result.rowcount != 1:
        raise GuardRefused(f"event {event.id}: the counter does not move past the capacity")
    return True


def _moving(counted: Sequence[Loaded]) -> dict[str, str]:
    return {
        "moved_events": arrays.ids(one.event.id for one in counted),
        "spots_deltas": arrays.numbers(
            one.roster.spots_reserved - one.event.spots_reserved for one in counted
        ),
        "waitlist_deltas": arrays.numbers(
            one.roster.waitlist.length - one.event.waitlist_length for one in counted
        ),
        "entries": arrays.numbers(len(one.roster.changes) for one in counted),
    }


def _entering(entered: Sequence[tuple[UUID, Registration]]) -> dict[str, str]:
    return {
        "entered_events": arrays.ids(event_id for event_id, _ in entered),
        "entered_ids": arrays.ids(r.id for _, r in entered),
        "entered_seqs": arrays.numbers(r.seq for _, r in entered),
        "entered_commands": arrays.ids(r.command_id for _, r in entered),
        "names": arrays.json(r.name for _, r in entered),
        "emails": arrays.json(r.email for _, r in entered),
        "email_keys": arrays.json(r.email and commands.email_key(r.email) for _, r in entered),
        "spots_counts": arrays.numbers(r.spots_count for _, r in entered),
        "statuses": arrays.json(r.status for _, r in entered),
    }


def _delete(connection: Connection, gone: Sequence[tuple[UUID, UUID]]) -> None:
    if gone:
        events, ids = zip(*gone, strict=True)
        _execute(connection, _DELETE, {"event_ids": arrays.ids(events), "ids": arrays.ids(ids)}, len(gone))


def _update(connection: Connection, changed: Sequence[tuple[UUID, Registration]]) -> None:
    if changed:
        parameters = {
            "event_ids": arrays.ids(event_id for event_id, _ in changed),
            "ids": arrays.ids(r.id for _, r in changed),
            "statuses": arrays.json(r.status for _, r in changed),
            "seqs": arrays.numbers(r.seq for _, r in changed),
        }
        _execute(connection, _UPDATE, parameters, len(changed))


def _execute(connection: Connection, statement: TextClause, parameters: dict[str, str], rows: int) -> None:
    if connection.execute(statement, parameters).rowcount != rows:
        raise Overtaken
