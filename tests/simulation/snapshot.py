"""An event as plain data: what its tables hold between two transactions."""

from dataclasses import dataclass
from datetime import datetime

from msgspec import Struct

from tests.simulation.model import Json, Told


class Row(Struct, frozen=True, kw_only=True):
    """A registration as the table has it."""

    id: str
    seq: int
    command_id: str | None
    name: str
    email: str | None
    spots_count: int
    status: str


class Entry(Struct, frozen=True, kw_only=True):
    """An audit entry as the table has it."""

    event_id: str
    number: int
    command_id: str
    kind: str
    actor: str
    reason: str | None
    registration_id: str | None
    from_status: str | None
    to_status: str | None
    before_after: Json | None
    spots_delta: int
    spots_reserved: int
    at: datetime
    hash: bytes


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """An event between two transactions; commands in order of `seq`, entries of `number`."""

    settings: Json
    spots_reserved: int
    waitlist_length: int
    overbooked_spots: int
    audit_seq: int
    rows: tuple[Row, ...]
    entries: tuple[Entry, ...]
    commands: tuple[Told, ...]
