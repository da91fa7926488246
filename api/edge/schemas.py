"""The HTTP bodies, camelCase on the wire; `api/openapi` describes them by these types."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from msgspec import UNSET, Struct, UnsetType, structs

from shared.domain import commands
from shared.domain.commands import (
    ChangeEvent,
    ChangeStatus,
    CorrectRegistration,
    Email,
    Moment,
    Name,
    Place,
    PolicyName,
    Reason,
    Slug,
    Spots,
    SpotsCount,
    Status,
)
from shared.domain.event import EventState
from shared.domain.offer import Next


class ReceiptStatus(StrEnum):
    """The state of a command and of its registration, as of now."""

    PENDING = "PENDING"
    CONFIRMED = "CONFIRMED"
    WAITLIST = "WAITLIST"
    CANCELLED = "CANCELLED"
    DELETED = "DELETED"
    APPLIED = "APPLIED"
    """A change of the event itself, which is no registration."""
    REFUSED = "REFUSED"
    FAILED = "FAILED"


class Wire(Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of all bodies."""


class NewEvent(
    Wire, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True
):
    """An event to create."""

    slug: Slug
    title: Name
    capacity: Spots
    waitlist_enabled: bool = True
    waitlist_limit: Spots | None = None
    promotion_policy: PolicyName = "strict_fifo"
    auto_promote: bool = True
    max_spots_per_registration: SpotsCount = 10
    opens_at: Moment | None = None
    closes_at: Moment | None = None
    promote_until: Moment | None = None
    cancel_until: Moment | None = None

    def __post_init__(self) -> None:
        """Refuse a window that ends before it begins, and moments that no calendar has."""
        opens_at, closes_at, *_ = (
            moment and commands.in_utc(moment)
            for moment in (self.opens_at, self.closes_at, self.promote_until, self.cancel_until)
        )
        if opens_at and closes_at and closes_at <= opens_at:
            raise ValueError("closesAt must be after opensAt")

    def settings(self) -> ChangeEvent:
        """Return the settings that are no defaults, the slug apart, as a command that sets them."""
        return ChangeEvent(
            **{
                field.name: value
                for field in structs.fields(type(self))
                if (value := getattr(self, field.name)) != field.default and field.name != "slug"
            }
        )


class _EventFigures(Wire, frozen=True, kw_only=True, rename="camel"):
    """The public facts of an event."""

    slug: str
    title: str
    capacity: int
    spots_reserved: int
    spots_left: int
    waitlist_length: int
    state: EventState
    opens_at: datetime | None
    closes_at: datetime | None
    max_spots_per_registration: int


class Availability(_EventFigures, frozen=True, kw_only=True, rename="camel"):
    """The public facts of an event, and what a newcomer would get.

    `spotsOffered` is the largest party that would be confirmed, `next` the answer to a party of one; both are
    as of the last decision before `asOf`, and null unless the event is open. `pending` commands come first.
    """

    spots_offered: int | None
    next: Next | None
    pending: int
    as_of: datetime


class Event(_EventFigures, frozen=True, kw_only=True, rename="camel"):
    """An event with all its settings and counters, for admins; `organiserId` null: the service's own."""

    id: UUID
    overbooked_spots: int
    waitlist_enabled: bool
    waitlist_limit: int | None
    promotion_policy: str
    auto_promote: bool
    promote_until: datetime | None
    cancel_until: datetime | None
    paused: bool
    archived: bool
    promoting: bool
    organiser_id: UUID | None
    created_at: datetime
    updated_at: datetime


class EventPage(Wire, frozen=True, kw_only=True, rename="camel"):
    """Events, oldest first; `nextCursor` asks for the rest."""

    items: list[Event]
    next_cursor: str | None


class RegistrationBrief(Wire, frozen=True, kw_only=True, rename="camel"):
    """A registration as its holder sees it; `waitlistPosition` is 1-based, null unless it waits."""

    id: UUID
    status: Status
    spots_count: int
    waitlist_position: int | None


class Registration(Wire, frozen=True, kw_only=True, rename="camel"):
    """A registration as admins see it; `seq` is its place in the ledger's order.

    `name` and `email` are null for a key without the scope `personal:read`.
    """

    id: UUID
    seq: int
    name: str | None
    email: str | None
    spots_count: int
    status: Status
    waitlist_position: int | None
    created_at: datetime
    updated_at: datetime


class RegistrationPage(Wire, frozen=True, kw_only=True, rename="camel"):
    """Registrations in ledger order; `nextCursor` asks for the rest."""

    items: list[Registration]
    next_cursor: str | None


class EventCounter(Wire, frozen=True, kw_only=True, rename="camel"):
    """An event's counter, as of now."""

    capacity: int
    spots_reserved: int
    spots_left: int
    waitlist_length: int


class RegistrationChange(Wire, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A new status of a registration, or its corrected parts, and the reason, for the audit trail.

    `place` is the place on the waitlist: without it the tail, unless the registration waits already.
    """

    status: Status | UnsetType = UNSET
    place: Place | UnsetType = UNSET
    name: Name | UnsetType = UNSET
    email: Email | UnsetType | None = UNSET
    spots_count: SpotsCount | UnsetType = UNSET
    reason: Reason | None = None

    def __post_init__(self) -> None:
        """Refuse a change of nothing, of two kinds at once, and a place anywhere but on the waitlist."""
        corrects = any(part is not UNSET for part in (self.name, self.email, self.spots_count))
        if corrects is (self.status is not UNSET):
            raise ValueError("status must be given, or else some of name, email and spotsCount")
        if self.place is not UNSET and self.status is not Status.WAITLIST:
            raise ValueError("place is only for the status WAITLIST")

    def command(self, registration_id: UUID) -> ChangeStatus | CorrectRegistration:
        """Return the command that asks for this change."""
        if self.status is not UNSET:
            return ChangeStatus(
                registration_id=registration_id, status=self.status, place=self.place, reason=self.reason
            )
        return CorrectRegistration(
            registration_id=registration_id,
            name=self.name,
            email=self.email,
            spots_count=self.spots_count,
            reason=self.reason or UNSET,
        )


class PartySize(Wire, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The new, smaller size of a holder's party."""

    spots_count: SpotsCount


class GivenReason(Wire, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The reason of a change, for the audit trail."""

    reason: Reason | None = None


class EventDeleted(Wire, frozen=True, kw_only=True, rename="camel"):
    """The event that is deleted."""

    receipt_id: UUID
    event_id: UUID


class RegistrationChanged(Wire, frozen=True, kw_only=True, rename="camel"):
    """A registration and its event's counter as of now, beside what the command did.

    `changed` is false when there was nothing to do. `registration` is null if it has been deleted since.
    """

    receipt_id: UUID
    changed: bool
    from_status: Status
    to_status: Status
    registration: Registration | None
    event: EventCounter


class RegistrationDeleted(Wire, frozen=True, kw_only=True, rename="camel"):
    """The spots that a deletion freed, and the event's counter after it."""

    receipt_id: UUID
    registration_id: UUID
    spots_freed: int
    event: EventCounter


class Healed(Wire, frozen=True, kw_only=True, rename="camel"):
    """The result of a heal; `drift` is the counter before it minus the rows."""

    receipt_id: UUID
    drift: int
    spots_reserved: int
    overbooked_spots: int


class Refusal(Wire, frozen=True, kw_only=True, rename="camel"):
    """The reason of a refusal: a code for programs, a sentence for people."""

    code: str
    detail: str


class Receipt(Wire, frozen=True, kw_only=True, rename="camel"):
    """The state of a command; `ahead` counts the commands before it while it is pending.

    `taskId` is the id under which Celery's `AsyncResult` finds the outcome; it does not give the receipt
    away.
    """

    receipt_id: UUID
    task_id: str
    status: ReceiptStatus
    registration: RegistrationBrief | None = None
    refusal: Refusal | None = None
    ahead: int | None = None
    incident_id: UUID | None = None


class Cancelled(Receipt, frozen=True, kw_only=True, rename="camel"):
    """The receipt of a registration as of now, beside what the cancellation did to the registration."""

    changed: bool
    from_status: Status
    to_status: Status


class FieldError(Wire, frozen=True, kw_only=True, rename="camel"):
    """A field, parameter or header that is wrong, and the reason in words for people."""

    field: str
    reason: str


class Problem(Wire, frozen=True, kw_only=True, rename="camel"):
    """An error as RFC 9457 has it, with a stable `code` and the request's id."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    receipt_id: UUID | UnsetType = UNSET
    incident_id: UUID | UnsetType = UNSET
    spots_left: int | UnsetType = UNSET
    spots_needed: int | UnsetType = UNSET
    opens_at: datetime | UnsetType = UNSET
    errors: list[FieldError] | UnsetType = UNSET


class Readiness(Wire, frozen=True, kw_only=True, rename="camel"):
    """The readiness of the service and of each of its parts; `degraded` names parts that stop nothing."""

    ready: bool
    degraded: list[str]
    checks: dict[str, str]
