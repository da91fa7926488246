"""The outcomes: every accepted command gets exactly one of them, which never changes.

An expected "no" is a `Refused` with a code, never an exception. `Failed` is an error: the command could
not be decided and changed nothing, and the log has the incident that the outcome names.
"""

from datetime import datetime
from enum import StrEnum
from typing import TypeAlias
from uuid import UUID

from msgspec import UNSET, DecodeError, Struct, UnsetType, ValidationError, json

from shared.domain.commands import Status


class RefusalCode(StrEnum):
    """The reason of a refusal, in order of precedence: the first that applies is the answer."""

    REGISTRATION_NOT_FOUND = "REGISTRATION_NOT_FOUND"
    """The registration does not exist, or was deleted."""
    CANCELLATION_CLOSED = "CANCELLATION_CLOSED"
    """The holder's command was accepted after holders could cancel."""
    REGISTRATION_CLOSED = "REGISTRATION_CLOSED"
    """The command was accepted after the event closed, or the event is archived or deleted."""
    REGISTRATION_NOT_OPEN = "REGISTRATION_NOT_OPEN"
    """The command was accepted before the event opened."""
    EVENT_PAUSED = "EVENT_PAUSED"
    """Registration is paused."""
    TOO_MANY_SPOTS = "TOO_MANY_SPOTS"
    """The party is larger than one registration may be, or than the event's capacity."""
    EVENT_FULL = "EVENT_FULL"
    """No spots are free for this party, and the waitlist is closed or at its limit."""
    ALREADY_REGISTERED = "ALREADY_REGISTERED"
    """The email address holds another active registration at the event."""
    CAPACITY_EXCEEDED = "CAPACITY_EXCEEDED"
    """The registration needs more spots than are left."""
    CAPACITY_BELOW_RESERVED = "CAPACITY_BELOW_RESERVED"
    """The new capacity is lower, and below what is confirmed."""
    WINDOW_INVALID = "WINDOW_INVALID"
    """The event would close before it opens."""
    SLUG_FIXED = "SLUG_FIXED"
    """Something was asked of the event under its slug, which can therefore not change."""
    SLUG_TAKEN = "SLUG_TAKEN"
    """Another event has the slug, or had it a moment ago."""


class _OutcomeBase(Struct, frozen=True, kw_only=True, rename="camel", tag_field="outcome"):
    """Base of all outcomes."""


class Confirmed(_OutcomeBase, frozen=True, kw_only=True, tag="confirmed"):
    """The registration holds its spots."""

    registration_id: UUID
    spots_count: int


class Waitlisted(_OutcomeBase, frozen=True, kw_only=True, tag="waitlisted"):
    """The registration waits; `position` was its 1-based place when this was decided."""

    registration_id: UUID
    spots_count: int
    position: int


class StatusChanged(_OutcomeBase, frozen=True, kw_only=True, tag="status_changed"):
    """The registration has its new status; both are equal if it had that status before.

    `moved` is there, and true, if it waited before and waits at another place now.
    """

    registration_id: UUID
    from_status: Status
    to_status: Status
    moved: bool | UnsetType = UNSET


class RegistrationCorrected(_OutcomeBase, frozen=True, kw_only=True, tag="registration_corrected"):
    """The registration is as asked for, in the same status; `changed` names the parts that differ now."""

    registration_id: UUID
    status: Status
    changed: tuple[str, ...]


class ReceiptGiven(_OutcomeBase, frozen=True, kw_only=True, tag="receipt_given"):
    """The command's id is the registration's receipt, in the place of the one before."""

    registration_id: UUID


class RegistrationDeleted(_OutcomeBase, frozen=True, kw_only=True, tag="deleted"):
    """The registration is gone; `spots_freed` is zero unless it was confirmed."""

    registration_id: UUID
    from_status: Status
    spots_freed: int


class Erased(_OutcomeBase, frozen=True, kw_only=True, tag="erased"):
    """Nothing personal is left of the command's registrations; `registrations` counts those that had any."""

    registrations: int


class EventChanged(_OutcomeBase, frozen=True, kw_only=True, tag="event_changed"):
    """The event has its new settings; `promoted` registrations were confirmed in the same transaction.

    `more_follow`: a follow-up is pending that promotes more.
    """

    changed: tuple[str, ...]
    promoted: int
    more_follow: bool = False


class CounterHealed(_OutcomeBase, frozen=True, kw_only=True, tag="counter_healed"):
    """The counters equal the rows; `drift` is the counter of spots before minus the rows.

    `overbooked_spots` are the confirmed spots beyond the capacity; none is confirmed until they are gone.
    """

    drift: int
    spots_reserved: int
    overbooked_spots: int


class WaitlistPromoted(_OutcomeBase, frozen=True, kw_only=True, tag="waitlist_promoted"):
    """A follow-up confirmed `promoted` registrations; `more_follow`: another follow-up is pending."""

    promoted: int
    more_follow: bool


class Refused(_OutcomeBase, frozen=True, kw_only=True, tag="refused", omit_defaults=True):
    """Nothing changed; `code` is for programs, `detail` is a sentence for people.

    `retry_after_seconds` is there if the answer may soon be another one.
    """

    code: RefusalCode
    detail: str
    retry_after_seconds: int | None = None
    spots_left: int | None = None
    spots_needed: int | None = None
    opens_at: datetime | None = None


class Failed(_OutcomeBase, frozen=True, kw_only=True, tag="failed"):
    """The command could not be decided and changed nothing; the log has the incident."""

    incident_id: UUID


Outcome: TypeAlias = (
    Confirmed
    | Waitlisted
    | StatusChanged
    | RegistrationCorrected
    | ReceiptGiven
    | RegistrationDeleted
    | Erased
    | EventChanged
    | CounterHealed
    | WaitlistPromoted
    | Refused
    | Failed
)


class SettledCommand(Struct, frozen=True, kw_only=True):
    """An event's command, `seq` its place in the ledger, with its one outcome."""

    event_id: UUID
    command_id: UUID
    seq: int
    outcome: Outcome


EVENT_FULL = Refused(code=RefusalCode.EVENT_FULL, detail="The event is full and its waitlist takes nobody.")

FULL_FOR_NOW = Refused(
    code=RefusalCode.EVENT_FULL,
    detail="The waitlist is at its limit, and its registrations are being promoted: ask again.",
    retry_after_seconds=1,
)
"""The refusal of a newcomer as long as a follow-up is pending that makes room on the waitlist."""

_DECODER: json.Decoder[Outcome] = json.Decoder(Outcome)


def decode(payload: str | bytes) -> Outcome:
    """Read an outcome back; raises `msgspec.ValidationError` for anything else."""
    try:
        return _DECODER.decode(payload)
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValidationError(str(error)) from error
