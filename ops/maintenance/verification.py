"""Compares every counter with its rows, and the ledger's numbering with its commands."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

from rich.console import Console
from rich.table import Column, Table
from sqlalchemy import Connection, text

from shared.errors import ExpectedError
from shared.postgres import connections, ledger
from shared.settings import Settings

_EVENTS = text("""
    SELECT event.id, event.slug AS event, event.title, event.capacity, event.spots_reserved,
           event.waitlist_length, event.overbooked_spots,
           coalesce(sum(registration.spots_count) FILTER (WHERE registration.status = 'CONFIRMED'), 0)::bigint
           AS confirmed,
           count(*) FILTER (WHERE registration.status = 'WAITLIST') AS waiting
    FROM event LEFT JOIN registration ON registration.event_id = event.id
    WHERE CAST(:names AS text[]) IS NULL OR event.slug = ANY(:names) OR event.id::text = ANY(:names)
    GROUP BY event.id
    ORDER BY event.slug
""")


class VerificationError(ExpectedError):
    """The events cannot be verified, audited or healed; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedEvent:
    """One event: its counters beside its rows; they differ after a bug."""

    id: UUID
    event: str
    title: str
    capacity: int
    spots_reserved: int
    confirmed: int
    waitlist_length: int
    waiting: int
    overbooked_spots: int

    @property
    def drift(self) -> int:
        """The spots of the counter less those of the rows."""
        return self.spots_reserved - self.confirmed

    @property
    def in_sync(self) -> bool:
        """Return True if both counters equal their rows."""
        return self.drift == 0 and self.waitlist_length == self.waiting


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
    """The verified events, and by how many numbers the ledger's sequence is behind its commands."""

    numbering_lag: int
    events: list[VerifiedEvent]

    @property
    def in_sync(self) -> bool:
        """Return True if nothing is to be healed."""
        return self.numbering_lag == 0 and all(event.in_sync for event in self.events)


def run(settings: Settings, names: Sequence[str]) -> Verification:
    """Verify the numbering, and all events or those of these slugs or ids."""
    with connections.operator_engine(settings.database_url).connect() as connection:
        return Verification(numbering_lag=ledger.numbering_lag(connection), events=verify(connection, names))


def as_json(verification: Verification) -> dict[str, object]:
    """Return plain values; `inSync` is true if all events and the numbering are in sync."""
    return {
        "in_sync": verification.in_sync,
        "numbering_lag": verification.numbering_lag,
        "events": [plain(event) for event in verification.events],
    }


def plain(event: VerifiedEvent) -> dict[str, object]:
    """Return one event as plain values."""
    return {**asdict(event), "id": str(event.id), "drift": event.drift, "in_sync": event.in_sync}


def show(events: Sequence[VerifiedEvent], numbering_lag: int = 0) -> None:
    """Print the events with drift, the oversold events, and a numbering that is behind."""
    console = Console()
    numbers = "counter", "rows", "difference", "waitlist", "waiting rows", "oversold by"
    table = Table(Column("event", overflow="fold"), *numbers)
    for event in events:
        if event.in_sync and not event.overbooked_spots:
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
    drifted = sum(not event.in_sync for event in events)
    if numbering_lag:
        console.print(
            f"[bold red]The ledger's numbering is {numbering_lag} behind: a new command would get the place "
            "of an older one, so none is accepted. Repair it with --heal."
        )
    console.print(f"{len(events)} events verified, {drifted} with drift.")
