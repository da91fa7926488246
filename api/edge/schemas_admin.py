"""The HTTP bodies of admins: events, registrations, and their changes."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType, structs

from api.edge.schemas import EventFigures, Wire
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

SPOTS_PER_ADDRESS_MAX = 10_000


class NewEvent(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
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


class Event(EventFigures, frozen=True, kw_only=True):
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


class EventPage(Wire, frozen=True, kw_only=True):
    """Events, oldest first; `nextCursor` asks for the rest."""

    items: list[Event]
    next_cursor: str | None


class Registration(Wire, frozen=True, kw_only=True):
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


class RegistrationPage(Wire, frozen=True, kw_only=True):
    """Registrations in ledger order; `nextCursor` asks for the rest."""

    items: list[Registration]
    next_cursor: str | None


class EventCounter(Wire, frozen=True, kw_only=True):
    """An event's counter, as of now."""

    capacity: int
    spots_reserved: int
    spots_left: int
    waitlist_length: int


class RegistrationChange(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


class GivenReason(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The reason of a change, for the audit trail."""

    reason: Reason | None = None


class EventDeleted(Wire, frozen=True, kw_only=True):
    """The event that is deleted."""

    receipt_id: UUID
    event_id: UUID


class RegistrationChanged(Wire, frozen=True, kw_only=True):
    """A registration and its event's counter as of now, beside what the command did.

    `changed` is false when there was nothing to do. `registration` is null if it has been deleted since.
    """

    receipt_id: UUID
    changed: bool
    from_status: Status
    to_status: Status
    registration: Registration | None
    event: EventCounter


class RegistrationDeleted(Wire, frozen=True, kw_only=True):
    """The spots that a deletion freed, and the event's counter after it."""

    receipt_id: UUID
    registration_id: UUID
    spots_freed: int
    event: EventCounter


class Healed(Wire, frozen=True, kw_only=True):
    """The result of a heal; `drift` is the counter before it minus the rows."""

    receipt_id: UUID
    drift: int
    spots_reserved: int
    overbooked_spots: int


class Protection(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The protection of an event from anonymous clients; what is left out is off.

    `spotsPerAddress` bounds the spots that one address may ask for, `challenge` asks for a proof of work.
    """

    spots_per_address: Annotated[int, Meta(ge=1, le=SPOTS_PER_ADDRESS_MAX)] | None = None
    challenge: bool = False

    @property
    def is_on(self) -> bool:
        """True if it protects from anything."""
        return self.challenge or self.spots_per_address is not None
