"""An event that a transaction has locked, and the session of that transaction."""

from datetime import datetime
from uuid import UUID

import msgspec
import psycopg
from psycopg.rows import TupleRow

from shared.domain.event import EventSettings

Session = psycopg.Connection[TupleRow]
PendingRow = tuple[UUID, int, int, str, str, str, str]
"""`(id, seq, version, kind, payload, actor, accepted_at)` of a pending command, not read yet."""


class LockedEvent(msgspec.Struct, rename="camel"):
    """An event that this transaction has locked, with its first pending commands in ledger order.

    `last_hash` is the hexadecimal hash of its newest audit entry, None when it has none; `now` is the
    transaction's time; `follow_up` is the id of the event's pending follow-up. `cut` is true if the next
    pending command has to be decided in another batch.
    """

    id: UUID
    audit_seq: int
    last_hash: str | None
    now: datetime
    spots_reserved: int
    waitlist_length: int
    follow_up: UUID | None
    settings: EventSettings
    pending: list[PendingRow]
    cut: bool = False
