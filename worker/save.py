"""Saves what decisions changed: the only writer of `registration`, `audit_entry` and the counters.

All of it happens in the transaction that holds the events' rows. What most batches need, for however
many events, is one statement: the guarded counters, new registrations, the trail, the outcomes. Every
statement insists on having changed what it should have changed, so that the commit can be sent after it
without waiting for what comes of it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from psycopg.rows import TupleRow
from sqlalchemy import Connection

from shared.domain import commands
from shared.domain.commands import Status
from shared.domain.event import Registration, Terms
from shared.domain.roster import Roster
from shared.postgres import arrays, connections, ledger, rows
from shared.postgres.ledger import Pending, Settled
from shared.postgres.rows import Given, Rows
from worker import audit_trail
from worker.load import Loaded, Overtaken


class GuardRefused(Exception):  # noqa: N818 - reads as the sentence "raise GuardRefused"
    """The counter would have passed the capacity; the transaction must be rolled back."""


_GUARD_REFUSED, _OVERTAKEN = "AO001", "AO002"
"""The SQLSTATEs with which `insist` refuses."""

_CHANGED = """
    WITH changed AS ({change} RETURNING 1)
    SELECT insist((SELECT count(*) FROM changed), {rows}, '{otherwise}')
"""

_GUARD = """
    UPDATE event
    SET spots_reserved = spots_reserved + moved.spots_delta,
        waitlist_length = waitlist_length + moved.waitlist_delta,
        overbooked_spots =
            least(overbooked_spots, greatest(spots_reserved + moved.spots_delta - {capacity}, 0)),
        audit_seq = audit_seq + moved.entries,
        updated_at = now(){settings}
    FROM {moved}
    CROSS JOIN LATERAL (SELECT ctid FROM event WHERE id = moved.event_id OFFSET 0) AS found
    WHERE event.ctid = found.ctid
      AND (moved.spots_delta <= 0 OR spots_reserved + moved.spots_delta <= {capacity})
"""
_MOVED = Rows(
    "moved", event_id=rows.ID, spots_delta=rows.INTEGER, waitlist_delta=rows.INTEGER, entries=rows.BIGINT
)
_GUARD_COUNTERS = _GUARD.format(capacity="capacity", settings="", moved="{moved}")
_GUARD_SETTINGS = _CHANGED.format(
    change=_GUARD.format(
        capacity="CAST(%(capacity)s AS integer)",
        settings="".join(f", {name} = %({name})s" for name in Terms.__struct_fields__),
        moved="""(VALUES (
            CAST(%(event_id)s AS uuid), CAST(%(spots_delta)s AS integer), CAST(%(waitlist_delta)s AS integer),
            CAST(%(entries)s AS bigint)
        )) AS moved (event_id, spots_delta, waitlist_delta, entries)""",
    ),
    rows="1",
    otherwise=_GUARD_REFUSED,
)

# Only here may the counter rise past the capacity: to say that the rows already do.
_HEAL = _CHANGED.format(
    change="""
        UPDATE event
        SET spots_reserved = %(confirmed_spots)s, waitlist_length = %(waitlist_length)s,
            overbooked_spots = greatest(%(confirmed_spots)s - capacity, 0)
        WHERE id = %(event_id)s
    """,
    rows="1",
    otherwise=_OVERTAKEN,
)

_FOUND = """
    CROSS JOIN LATERAL (
        SELECT ctid FROM registration WHERE event_id = named.event_id AND id = named.id OFFSET 0
    ) AS found
    WHERE registration.ctid = found.ctid
"""
_NAMED = "cardinality(CAST(%(ids)s AS uuid[]))"

_DELETE = _CHANGED.format(
    change=f"""
        DELETE FROM registration
        USING ROWS FROM (
            unnest(CAST(%(event_ids)s AS uuid[])), unnest(CAST(%(ids)s AS uuid[]))
        ) AS named (event_id, id)
        {_FOUND}
    """,
    rows=_NAMED,
    otherwise=_OVERTAKEN,
)

_UPDATE = _CHANGED.format(
    change=f"""
        UPDATE registration
        SET status = named.status, seq = named.seq, updated_at = now()
        FROM ROWS FROM (
            unnest(CAST(%(event_ids)s AS uuid[])), unnest(CAST(%(ids)s AS uuid[])),
            jsonb_array_elements_text(CAST(%(statuses)s AS jsonb)), unnest(CAST(%(seqs)s AS bigint[]))
        ) AS named (event_id, id, status, seq)
        {_FOUND}
    """,
    rows=_NAMED,
    otherwise=_OVERTAKEN,
)

_ENTERED = Rows(
    "entered",
    event_id=rows.ID,
    id=rows.ID,
    seq=rows.BIGINT,
    command_id=rows.ID,
    name=rows.TEXT,
    email=rows.TEXT,
    email_key=rows.TEXT,
    spots_count=rows.INTEGER,
    status=rows.TEXT,
)
_ENTER = """
    INSERT INTO registration (event_id, id, seq, command_id, name, email, email_key, spots_count, status)
    SELECT event_id, id, seq, command_id, name, email, email_key, spots_count, status
    FROM {entered}
"""

_SAVE = f"""
    WITH moved AS ({_GUARD_COUNTERS} RETURNING event.id),
         entered AS ({_ENTER}),
         noted AS ({audit_trail.APPEND}),
         settled AS ({ledger.SETTLE} RETURNING command.id)
    SELECT insist((SELECT count(*) FROM moved), {{moved_count}}, '{_GUARD_REFUSED}'),
           insist((SELECT count(*) FROM settled), {{settled_count}}, '{_OVERTAKEN}')
"""


class Writer:
    """Sends what decisions change to the database, which writes it while the next are made."""

    def __init__(self, session: psycopg.Connection[TupleRow]) -> None:
        self._session = session

    def save(self, decided: Sequence[Loaded], pending: Sequence[Pending], settled: Sequence[Settled]) -> None:
        """Send what the rosters' decisions have changed, and the outcomes of what was pending.

        The rosters go on from there.
        """
        changed = [loaded for loaded in decided if loaded.roster.changes]
        counted = [loaded for loaded in changed if not self._move_at_once(loaded)]
        # Those who leave go first, so that whoever comes may have their place, or their email address.
        self._delete([(one.event.id, id_) for one in changed for id_ in _gone(one.roster)])
        kept = [(one.event.id, registration) for one in changed for registration in _kept(one.roster)]
        self._update([(event, r) for event, r in kept if r.status is Status.CANCELLED])
        self._update([(event, r) for event, r in kept if r.status is not Status.CANCELLED])
        noted = [audit_trail.entries(one.event, one.roster.changes) for one in changed]
        statement, parameters = rows.stated(
            _SAVE,
            _moving(counted),
            _entering([(one.event.id, r) for one in changed for r in _entered(one.roster)]),
            audit_trail.appending(noted),
            ledger.settling(pending, settled),
        )
        self._session.execute(statement, parameters)
        for loaded, entries in zip(changed, noted, strict=True):
            loaded.written(entries[-1].digest)

    def _move_at_once(self, loaded: Loaded) -> bool:
        """Move the counters in a statement of their own where more than they change; tell whether."""
        event, roster = loaded.event, loaded.roster
        spots, waiting = event.spots_reserved, event.waitlist_length
        if roster.recount is not None:
            spots, waiting = roster.recount.confirmed_spots, roster.recount.waitlist_length
            counted = {"event_id": event.id, "confirmed_spots": spots, "waitlist_length": waiting}
            self._send(_HEAL, counted)
        elif roster.terms == event.terms:
            return False
        moved = {
            "event_id": event.id,
            "spots_delta": roster.spots_reserved - spots,
            "waitlist_delta": roster.waitlist.length - waiting,
            "entries": len(roster.changes),
        }
        self._send(_GUARD_SETTINGS, {**moved, **msgspec.structs.asdict(roster.terms)})
        return True

    def _delete(self, gone: Sequence[tuple[UUID, UUID]]) -> None:
        if gone:
            events, ids = zip(*gone, strict=True)
            parameters = {"event_ids": arrays.ids(events), "ids": arrays.ids(ids)}
            self._send(_DELETE, parameters)

    def _update(self, changed: Sequence[tuple[UUID, Registration]]) -> None:
        if changed:
            parameters = {
                "event_ids": arrays.ids(event_id for event_id, _ in changed),
                "ids": arrays.ids(r.id for _, r in changed),
                "statuses": arrays.json(r.status for _, r in changed),
                "seqs": arrays.numbers(r.seq for _, r in changed),
            }
            self._send(_UPDATE, parameters)

    def _send(self, statement: str, parameters: dict[str, Any]) -> None:
        self._session.execute(statement.encode(), parameters)


@contextmanager
def writing(connection: Connection, meanwhile: Callable[[], None]) -> Iterator[Writer]:
    """Write while the block goes on deciding; when it ends, all is written and committed.

    What there is to do `meanwhile` is done once all has been sent, and must not raise.

    Raises `GuardRefused`, `Overtaken` or psycopg's errors, and then nothing is, unless what broke is the
    connection: then nobody knows.
    """
    session = connections.session(connection)
    try:
        with session.pipeline():
            yield Writer(session)
            session.execute(b"COMMIT")
            meanwhile()
    except psycopg.Error as error:
        if error.sqlstate == _GUARD_REFUSED:
            raise GuardRefused("a counter does not move past its capacity") from error
        if error.sqlstate == _OVERTAKEN:
            raise Overtaken from error
        raise


def _gone(roster: Roster) -> set[UUID]:
    return roster.deleted - roster.entered


def _kept(roster: Roster) -> list[Registration]:
    return [roster.registrations[id_] for id_ in roster.changed - roster.entered - roster.deleted]


def _entered(roster: Roster) -> list[Registration]:
    return [roster.registrations[id_] for id_ in roster.entered - roster.deleted]


def _moving(counted: Sequence[Loaded]) -> Given:
    return _MOVED.of(
        counted,
        event_id=(one.event.id for one in counted),
        spots_delta=(one.roster.spots_reserved - one.event.spots_reserved for one in counted),
        waitlist_delta=(one.roster.waitlist.length - one.event.waitlist_length for one in counted),
        entries=(len(one.roster.changes) for one in counted),
    )


def _entering(entered: Sequence[tuple[UUID, Registration]]) -> Given:
    registrations = [registration for _, registration in entered]
    return _ENTERED.of(
        registrations,
        event_id=(event_id for event_id, _ in entered),
        email_key=(r.email and commands.email_key(r.email) for r in registrations),
    )
