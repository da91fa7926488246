"""The HTTP bodies of the public and the service, camelCase on the wire; `api/openapi` describes them all."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from shared.domain.commands import AT_THE_END, Register, SpotsCount, Status
from shared.domain.event import EventState
from shared.domain.offer import Next

Solution = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=4_096,
        pattern=r"^[A-Za-z0-9+/]+={0,2}$" + AT_THE_END,
        description="the solution of a challenge, as ALTCHA's widget sends it",
        extra={"rule": "must be the solution of a challenge, in the form of ALTCHA"},
    ),
]


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


class EventFigures(Wire, frozen=True, kw_only=True):
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


class Availability(EventFigures, frozen=True, kw_only=True):
    """The public facts of an event, and what a newcomer would get.

    `spotsOffered` is the largest party that would be confirmed, `next` the answer to a party of one; both are
    as of the last decision before `asOf`, and null unless the event is open. `pending` commands come first.
    """

    spots_offered: int | None
    next: Next | None
    pending: int
    as_of: datetime


class Registering(Register, frozen=True, kw_only=True):
    """A registration as the public asks for it; `altcha` is the solution of a challenge, if one is needed."""

    altcha: Solution | UnsetType = UNSET


class RegistrationBrief(Wire, frozen=True, kw_only=True):
    """A registration as its holder sees it; `waitlistPosition` is 1-based, null unless it waits."""

    id: UUID
    status: Status
    spots_count: int
    waitlist_position: int | None


class PartySize(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The new, smaller size of a holder's party."""

    spots_count: SpotsCount


class Refusal(Wire, frozen=True, kw_only=True):
    """The reason of a refusal: a code for programs, a sentence for people."""

    code: str
    detail: str


class Receipt(Wire, frozen=True, kw_only=True):
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


class Cancelled(Receipt, frozen=True, kw_only=True):
    """The receipt of a registration as of now, beside what the cancellation did to the registration."""

    changed: bool
    from_status: Status
    to_status: Status


class FieldError(Wire, frozen=True, kw_only=True):
    """A field, parameter or header that is wrong, and the reason in words for people."""

    field: str
    reason: str


class Problem(Wire, frozen=True, kw_only=True):
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


class Readiness(Wire, frozen=True, kw_only=True):
    """The readiness of the service and of each of its parts; `degraded` names parts that stop nothing."""

    ready: bool
    degraded: list[str]
    checks: dict[str, str]


class IndexLinks(Wire, frozen=True, kw_only=True):
    """Where the parts of the service are; `demo` is null if there is no demonstration event."""

    docs: str = "/docs"
    openapi: str = "/openapi.json"
    health: str = "/healthz"
    readiness: str = "/readyz"
    demo: str | None


class Index(Wire, frozen=True, kw_only=True):
    """The name and the version of this service, and the places of its parts."""

    service: str = "AdmitOne"
    version: str
    links: IndexLinks
