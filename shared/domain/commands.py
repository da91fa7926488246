"""The commands: every change is a command, accepted first and decided later.

A command is a frozen value that holds all that its decision needs from the client. The ledger keeps its
JSON form (camelCase, as clients send it).
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal, TypeAlias
from uuid import UUID

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, ValidationError, json

VERSION = 2
"""The version of the commands' format: a reader of a lower version leaves a command pending."""

SPOTS_PER_COMMAND_MAX = 1_000
SPOTS_MAX = 1_000_000_000  # PostgreSQL's integer, with room for sums
NAME_LENGTH_MAX = 200
EMAIL_LENGTH_MAX = 320
REASON_LENGTH_MAX = 500
SLUG_LENGTH_MAX = 100
ERASED_AT_ONCE_MAX = 500

# Any printable text that is not only white space: PostgreSQL's jsonb cannot hold all control characters.
PRINTABLE = r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"

# Python's `$` also matches before a last line feed.
AT_THE_END = r"(?!\n)"

SLUG = r"^[a-z0-9]+(-[a-z0-9]+)*$"

Name = Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH_MAX, pattern=PRINTABLE + AT_THE_END)]
EMAIL = {"format": "email"}
Email = Annotated[
    str,
    Meta(
        min_length=3,
        max_length=EMAIL_LENGTH_MAX,
        pattern="@",
        extra_json_schema=EMAIL,
        extra={"rule": "must be an email address, such as ann@example.org"},
    ),
]
Reason = Annotated[str, Meta(min_length=1, max_length=REASON_LENGTH_MAX, pattern=PRINTABLE + AT_THE_END)]
Slug = Annotated[
    str,
    Meta(
        pattern=SLUG + AT_THE_END,
        max_length=SLUG_LENGTH_MAX,
        description="lower case, digits and hyphens",
        extra={"rule": "must be 1 to 100 lower-case letters, digits and single hyphens between them"},
    ),
]
SpotsCount = Annotated[int, Meta(ge=1, le=SPOTS_PER_COMMAND_MAX)]
Spots = Annotated[int, Meta(ge=0, le=SPOTS_MAX)]
Moment = Annotated[datetime, Meta(tz=True)]

PUBLIC = "public"
HOLDER = "holder"
"""The actors of the commands that no key permits: of all people, and of those with a receipt."""
PUBLIC_ACTORS = frozenset((PUBLIC, HOLDER))

Kind = Literal[
    "register",
    "add_registration",
    "change_status",
    "correct_registration",
    "give_receipt",
    "delete_registration",
    "erase",
    "change_event",
    "delete_event",
    "heal_counter",
    "promote_waitlist",
]
Place = Literal["tail", "original"]
PolicyName = Literal["strict_fifo", "skip_unfit"]


class Status(StrEnum):
    """The status of a registration."""

    CONFIRMED = "CONFIRMED"
    WAITLIST = "WAITLIST"
    CANCELLED = "CANCELLED"


class UnreadableCommand(Exception):  # noqa: N818 - reads as the sentence "raise UnreadableCommand"
    """The ledger holds a command that this version cannot read; the message names the part."""


class _CommandBase(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base of all commands."""


class Register(_CommandBase, frozen=True, kw_only=True):
    """Register a party for `spots_count` spots."""

    name: Name
    spots_count: SpotsCount = 1
    email: Email | None = None


class AddRegistration(_CommandBase, frozen=True, kw_only=True, omit_defaults=True):
    """Register a party in an admin's name; without a status it is placed as a newcomer."""

    name: Name
    spots_count: SpotsCount = 1
    email: Email | None = None
    status: Literal["CONFIRMED", "WAITLIST"] | UnsetType = UNSET
    reason: Reason | UnsetType = UNSET


class ChangeStatus(_CommandBase, frozen=True, kw_only=True):
    """Move a registration to another status; by a holder or an admin.

    `place` is the place on the waitlist; without it a registration that waits already stays where it is.
    """

    registration_id: UUID
    status: Status
    reason: Reason | None = None
    place: Place | UnsetType = UNSET


class CorrectRegistration(_CommandBase, frozen=True, kw_only=True, omit_defaults=True):
    """Correct a registration; a part that is left out stays as it is. A holder may make the party smaller."""

    registration_id: UUID
    name: Name | UnsetType = UNSET
    email: Email | UnsetType | None = UNSET
    spots_count: SpotsCount | UnsetType = UNSET
    reason: Reason | UnsetType = UNSET


class GiveReceipt(_CommandBase, frozen=True, kw_only=True, omit_defaults=True):
    """Make this command's id the receipt of a registration; its receipt so far is valid no longer."""

    registration_id: UUID
    reason: Reason | UnsetType = UNSET


class DeleteRegistration(_CommandBase, frozen=True, kw_only=True):
    """Remove a registration; a confirmed one frees its spots."""

    registration_id: UUID
    reason: Reason | None = None


class Erase(_CommandBase, frozen=True, kw_only=True, omit_defaults=True):
    """Erase what is personal of registrations, and the payloads of settled commands; all else stays.

    `subject` is a keyed digest of the address that was asked for, never the address itself.
    """

    registration_ids: Annotated[tuple[UUID, ...], Meta(max_length=ERASED_AT_ONCE_MAX)] = ()
    command_ids: Annotated[tuple[UUID, ...], Meta(max_length=ERASED_AT_ONCE_MAX)] = ()
    subject: str | UnsetType = UNSET
    reason: Reason | UnsetType = UNSET


class ChangeEvent(_CommandBase, frozen=True, kw_only=True, omit_defaults=True):
    """Change an event's settings; a setting that is left out stays as it is."""

    title: Annotated[Name, Meta(description="shown in public")] | UnsetType = UNSET
    capacity: Spots | UnsetType = UNSET
    waitlist_enabled: bool | UnsetType = UNSET
    waitlist_limit: Spots | UnsetType | None = UNSET
    promotion_policy: PolicyName | UnsetType = UNSET
    auto_promote: bool | UnsetType = UNSET
    max_spots_per_registration: SpotsCount | UnsetType = UNSET
    opens_at: Moment | UnsetType | None = UNSET
    closes_at: Moment | UnsetType | None = UNSET
    promote_until: Moment | UnsetType | None = UNSET
    cancel_until: Moment | UnsetType | None = UNSET
    paused: bool | UnsetType = UNSET
    slug: Slug | UnsetType = UNSET
    archived: bool | UnsetType = UNSET
    allow_overbooked: (
        Annotated[bool, Meta(description="take a capacity below the confirmed spots")] | UnsetType
    ) = UNSET
    reason: Reason | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Refuse moments that PostgreSQL would keep and Python could not read back."""
        for moment in (self.opens_at, self.closes_at, self.promote_until, self.cancel_until):
            if isinstance(moment, datetime):
                in_utc(moment)


class DeleteEvent(_CommandBase, frozen=True, kw_only=True, omit_defaults=True):
    """Close an event for good, hide it, and release its slug; its rows and its audit trail stay."""

    reason: Reason | UnsetType = UNSET


class HealCounter(_CommandBase, frozen=True, kw_only=True):
    """Set an event's counters to what its registrations say."""

    reason: Reason | None = None


class PromoteWaitlist(_CommandBase, frozen=True, kw_only=True):
    """Go on promoting where an earlier command stopped: the follow-up of that command.

    The owner writes it, in the transaction that settles the earlier command; no client can ask for it.
    """


Command: TypeAlias = (
    Register
    | AddRegistration
    | ChangeStatus
    | CorrectRegistration
    | GiveReceipt
    | DeleteRegistration
    | Erase
    | ChangeEvent
    | DeleteEvent
    | HealCounter
    | PromoteWaitlist
)
HoldersCommand: TypeAlias = ChangeStatus | CorrectRegistration


class PendingCommand(Struct, frozen=True, kw_only=True):
    """A command with its place in the ledger, not decided yet.

    `accepted_at` is the database's clock when the command was accepted.
    """

    command: Command
    id: UUID
    seq: int
    actor: str
    accepted_at: datetime


KINDS: Mapping[type[Command], Kind] = {
    Register: "register",
    AddRegistration: "add_registration",
    ChangeStatus: "change_status",
    CorrectRegistration: "correct_registration",
    GiveReceipt: "give_receipt",
    DeleteRegistration: "delete_registration",
    Erase: "erase",
    ChangeEvent: "change_event",
    DeleteEvent: "delete_event",
    HealCounter: "heal_counter",
    PromoteWaitlist: "promote_waitlist",
}
"""The words under which the ledger files the commands."""


_SINCE_VERSION_2 = (AddRegistration, CorrectRegistration, GiveReceipt, Erase, DeleteEvent)
_OF_EVENT_SINCE_VERSION_2 = ("slug", "archived", "allow_overbooked", "promote_until", "cancel_until")


def version_of(command: Command) -> int:
    """Return the version of the commands' format that a reader of this command must know."""
    match command:
        case ChangeStatus(place=place):
            newer = place is not UNSET
        case ChangeEvent():
            newer = any(getattr(command, name) is not UNSET for name in _OF_EVENT_SINCE_VERSION_2)
        case _:
            newer = isinstance(command, _SINCE_VERSION_2)
    return 2 if newer else 1


def decode(kind: str, payload: str | bytes | Raw) -> Command:
    """Read a command back from the ledger; raises `UnreadableCommand`."""
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise UnreadableCommand(f"unknown kind of command: {kind!r}")
    try:
        return decoder.decode(payload)
    except ValidationError as error:
        raise UnreadableCommand(f"{kind}: {error}") from error


def in_utc(moment: datetime) -> datetime:
    """Return the moment in UTC; raises `ValueError` where that is before year 1 or after 9999."""
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("must be in the years 1 to 9999, in UTC") from error


def rfc3339(moment: datetime) -> str:
    """Return the moment as people and programs read it: `2026-12-01T09:00:00Z`."""
    return in_utc(moment).isoformat().replace("+00:00", "Z")


_DECODERS: dict[str, json.Decoder[Command]] = {kind: json.Decoder(type_) for type_, kind in KINDS.items()}
