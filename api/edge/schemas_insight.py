"""The HTTP bodies of an event's audit trail, counter, statistics and explanations."""

from datetime import datetime
from typing import Any
from uuid import UUID

from api.edge.schemas import Wire
from api.edge.schemas_admin import EventCounter
from shared.domain.commands import Status


class AuditEntry(Wire, frozen=True, kw_only=True):
    """One change; hashes are hexadecimal SHA-256, `commandDigest` that of the command's id."""

    number: int
    command_digest: str | None
    kind: str
    actor: str
    reason: str | None
    registration_id: UUID | None
    from_status: str | None
    to_status: str | None
    before_after: dict[str, Any] | None
    spots_delta: int
    spots_reserved: int
    at: str
    hash: str
    previous_hash: str


class AuditPage(Wire, frozen=True, kw_only=True):
    """Audit entries by number; `nextCursor` asks for the rest."""

    items: list[AuditEntry]
    next_cursor: str | None


class FailedCommand(Wire, frozen=True, kw_only=True):
    """A command that could not be decided; its digest is SHA-256 of its id, and the log has the incident."""

    seq: int
    command_digest: str
    kind: str
    actor: str
    accepted_at: datetime
    settled_at: datetime
    incident_id: UUID | None


class FailedCommandPage(Wire, frozen=True, kw_only=True):
    """Failed commands in ledger order; `nextCursor` asks for the rest."""

    items: list[FailedCommand]
    next_cursor: str | None


class Counter(Wire, frozen=True, kw_only=True):
    """The counter beside the sum of the confirmed registrations' spots; drift is their difference."""

    spots_reserved: int
    actual_confirmed: int
    drift: int


class StatusStats(Wire, frozen=True, kw_only=True):
    """Registrations of one status, and the spots that they ask for."""

    registrations: int
    spots: int


class Stats(EventCounter, frozen=True, kw_only=True):
    """An event in figures; `decidedPerMinute` counts the commands settled in the last 60 seconds."""

    by_status: dict[str, StatusStats]
    pending: int
    decided_per_minute: int


class ExplanationStep(Wire, frozen=True, kw_only=True):
    """One entry of the audit trail about a registration, with the event's capacity at that moment.

    `spotsCount` is the party's size after it, and `corrected` names the parts that it corrected.
    """

    number: int
    at: str
    kind: str
    actor: str
    reason: str | None
    from_status: str | None
    to_status: str | None
    spots_delta: int
    spots_reserved: int
    capacity: int
    spots_count: int
    corrected: list[str]


class Explanation(Wire, frozen=True, kw_only=True):
    """The explanation of a registration's status, in sentences for people and steps for programs."""

    registration_id: UUID
    status: Status
    seq: int
    waitlist_position: int | None
    spots_count: int
    spots_left: int
    registrations_ahead: int | None
    spots_ahead: int | None
    sentences: list[str]
    steps_from: int
    """The number of the first entry of the audit trail that was looked at; `…/audit` has those before."""
    steps: list[ExplanationStep]
