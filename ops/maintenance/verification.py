"""Compares every counter with its rows, and the ledger's numbering with its commands.

The counters of an event are those of its registrations, and `audit_seq`, the number of its last audit entry.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

from rich.console import Console
from rich.table import Column, Table
from sqlalchemy import Connection, text

from shared.errors import ExpectedError
from shared.postgres import backlog, connections, ledger
from shared.settings import Settings

_EVENTS = text("""
    SELECT event.id, event.slug AS event, event.title, event.capacity, event.spots_reserved,
           event.waitlist_length, event.overbooked_spots,
           coalesce(sum(registration.spots_count) FILTER (WHERE registration.status = 'CONFIRMED'), 0)::bigint
           AS confirmed,
           count(*) FILTER (WHERE registration.status = 'WAITLIST') AS waiting,
           (SELECT coalesce(max(number), 0) FROM audit_entry WHERE event_id = event.id) - event.audit_seq
           AS trail_lag
    FROM event LEFT JOIN registration ON registration.event_id = event.id
    WHERE CAST(:names AS text[]) IS NULL OR event.slug = ANY(:names) OR event.id::text = ANY(:names)
    GROUP BY event.id
    ORDER BY event.slug
""")


class VerificationError(ExpectedError):
    """The events cannot be verified, audited or healed; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedEvent:
    """One event: its counters beside its rows; they differ after a bug.

    `trail_lag` is the number of audit entries that `audit_seq` does not count; below zero, of those that are
    missing at the trail's end.
    """

    id: UUID
    event: str
    title: str
    capacity: int
    spots_reserved: int
    confirmed: int
    waitlist_length: int
    waiting: int
    overbooked_spots: int
    trail_lag: int

    @property
    def has_drift(self) -> bool:
        """Return True if a counter of registrations differs from its rows."""
        return self.drift != 0 or self.waitlist_length != self.waiting

    @property
    def drift(self) -> int:
        """The spots of the counter less those of the rows."""
        return self.spots_reserved - self.confirmed

    @property
    def in_sync(self) -> bool:
        """Return True if all counters equal their rows."""
        return not self.has_drift and self.trail_lag == 0


def verify(connection: Connection, names: Sequence[str] = ()) -> list[VerifiedEvent]:
    """Return all events, or those of these slugs or ids, from one snapshot."""
    rows = connection.execute(_EVENTS, {"names": list(names) or None}).mappings()
    events = [VerifiedEvent(**row) for row in rows]
    check_names(names, {name for event in events for name in (event.event, str(event.id))})
    return events


def check_names(names: Sequence[str], known: Collection[str]) -> None:
    """Raise `VerificationError` if an event was asked for by a slug or id that is not known."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise VerificationError(f"there is no event {', '.join(unknown)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """The verified events, and by how many numbers the ledger's sequence is behind its commands.

    `events_gone` are the ids of events without their rows, each with the number of its pending commands.
    """

    numbering_lag: int
    events: list[VerifiedEvent]
    events_gone: list[tuple[str, int]]

    @property
    def in_sync(self) -> bool:
        """Return True if nothing is to be healed."""
        fine = self.numbering_lag == 0 and not self.events_gone
        return fine and all(event.in_sync for event in self.events)


def run(settings: Settings, names: Sequence[str]) -> Verification:
    """Verify the numbering, and all events or those of these slugs or ids."""
    with connections.operator_engine(settings.database_url).connect() as connection:
        return Verification(
            numbering_lag=ledger.numbering_lag(connection),
            events=verify(connection, names),
            events_gone=events_gone(connection, names),
        )


def events_gone(connection: Connection, names: Sequence[str]) -> list[tuple[str, int]]:
    """Return the events that have pending commands and no row, unless the verification is of these events."""
    return [] if names else [(row.slug, row.pending) for row in backlog.by_event(connection) if row.is_gone]


def as_json(verification: Verification) -> dict[str, object]:
    """Return plain values; `inSync` is true if all events and the numbering are in sync."""
    return {
        "in_sync": verification.in_sync,
        "numbering_lag": verification.numbering_lag,
        "events": [plain(event) for event in verification.events],
        "events_gone": dict(verification.events_gone),
    }


def plain(event: VerifiedEvent) -> dict[str, object]:
    """Return one event as plain values."""
    return {**asdict(event), "id": str(event.id), "drift": event.drift, "in_sync": event.in_sync}


def show(
    events: Sequence[VerifiedEvent], numbering_lag: int = 0, events_gone: Sequence[tuple[str, int]] = ()
) -> None:
    """Print the events that differ, are oversold or have no row, and a numbering that is behind."""
    console = Console()
    numbers = "counter", "rows", "difference", "waitlist", "waiting rows", "oversold by"
    table = Table(Column("event", overflow="fold"), *numbers)
    for event in events:
        if not event.has_drift and not event.overbooked_spots:
            continue
        table.add_row(
            event.event,
            str(event.spots_reserved),
            str(event.confirmed),
            f"{event.drift:+d}",
            str(event.waitlist_length),
            str(event.waiting),
            str(event.overbooked_spots or "-"),
        )
    if table.row_count:
        console.print(table)
    for event in events:
        if event.trail_lag:
            console.print(f"[bold red]{_trail(event)}")
    for event_id, pending in events_gone:
        console.print(
            f"[bold red]The row of the event {event_id} was deleted, and {pending} of its commands are "
            "pending: restore the row, or delete the commands."
        )
    drifted = sum(event.has_drift for event in events)
    if numbering_lag:
        console.print(
            f"[bold red]The ledger's numbering is {numbering_lag} behind: a new command would get the place "
            "of an older one, so none is accepted. Repair it with --heal."
        )
    console.print(f"{len(events)} events verified, {drifted} with drift.")


def _trail(event: VerifiedEvent) -> str:
    if event.trail_lag > 0:
        found, way_out = f"does not count {event.trail_lag} entries", "repair it with verify --heal"
    else:
        found, way_out = f"counts {-event.trail_lag} more entries than there are", "look at audit check"
    return f"{event.event}: audit_seq {found} of the trail, so changes are not written; {way_out}."
