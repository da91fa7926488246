"""The rows of the tables in memory, and what several statements do with them."""
# ruff: noqa: ANN401 - the values are of many kinds

from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg

from shared.domain.event import EventSettings
from tests.simulation.protocol.memory.database import Transaction

Parameters = dict[str, Any]
Read = Any

_SERVICE = UUID(int=0)
"""The place of rows that belong to no event."""
EVENTS = "event", _SERVICE


class OutcomeRow(NamedTuple):
    """A row of `ledger.outcomes_of`."""

    id: UUID
    outcome: str
    to_confirm: str | None


class OwnerRow(NamedTuple):
    """A row of `locks.owners`."""

    number: int
    buckets: list[int]


class CountRow(NamedTuple):
    """A row of `PendingCount`."""

    event_id: UUID
    pending: int


class RefusingEventRow(NamedTuple):
    """A row of `early_answers._READ_EVENTS`."""

    id: UUID
    event: str


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table `event`."""

    id: UUID
    settings: EventSettings
    spots_reserved: int = 0
    waitlist_length: int = 0
    overbooked_spots: int = 0
    audit_seq: int = 0
    follow_up_id: UUID | None = None

    def moved(self, spots: int, waiting: int, entries: int) -> "Event":
        reserved = self.spots_reserved + spots
        return msgspec.structs.replace(
            self,
            spots_reserved=reserved,
            waitlist_length=self.waitlist_length + waiting,
            overbooked_spots=min(self.overbooked_spots, max(reserved - self.settings.capacity, 0)),
            audit_seq=self.audit_seq + entries,
        )

    def checked(self) -> "Event":
        if not 0 <= self.spots_reserved <= self.settings.capacity + self.overbooked_spots:
            raise psycopg.errors.CheckViolation("event_not_oversold")
        if self.waitlist_length < 0:
            raise psycopg.errors.CheckViolation("event_waitlist_length_not_negative")
        return self


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table `command`."""

    id: UUID
    seq: int
    kind: str
    payload: str
    actor: str
    version: int
    accepted_at: Any


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table `registration`."""

    id: UUID
    seq: int
    original_seq: int | None
    command_id: UUID
    name: str
    email: str | None
    email_key: str | None
    spots_count: int
    status: str


async def inserted(tx: Transaction, table: str, event_id: UUID, key: object, row: Read) -> bool:
    """INSERT … ON CONFLICT DO NOTHING: a transaction that has the key is waited for."""
    await tx.lock(table, event_id, key)
    if tx.get(table, event_id, key) is not None:
        return False
    await tx.write(table, event_id, key, row)
    return True


def text(payload: Any) -> str:
    return payload.decode() if isinstance(payload, bytes) else payload


def waiting(tx: Transaction, event_id: UUID) -> list[Registration]:
    waiting = [row for row in tx.rows("registration", event_id).values() if row.status == "WAITLIST"]
    return sorted(waiting, key=lambda row: row.seq)
