"""The rules of the decisions: why a command is refused, and which party takes free spots (pure).

A rule `against_…` returns the refusal of a command, or None. `RefusalCode` lists the codes in their order of
precedence.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import assert_never
from uuid import UUID

from shared.domain import outcomes
from shared.domain.commands import Status, in_utc, rfc3339
from shared.domain.event import EventSettings, EventState, Policy, Registration, Waiter, Waitlist
from shared.domain.outcomes import RefusalCode, Refused
from shared.domain.texts import email_key

PROMOTED_SPOTS_MAX = 1_000
"""A command stops promoting once the parties that it promoted take this many spots or more.

A follow-up promotes the others, so no transaction writes without bound. No command that takes one party's
spots away needs a follow-up, because no party that registers is larger (`SPOTS_PER_COMMAND_MAX`).
"""


NOT_FOUND = Refused(code=RefusalCode.REGISTRATION_NOT_FOUND, detail="There is no such registration.")
EVENT_DELETED = Refused(code=RefusalCode.REGISTRATION_CLOSED, detail="The event was deleted.")
ONLY_SMALLER = Refused(
    code=RefusalCode.TOO_MANY_SPOTS, detail="A holder may only make the party smaller; ask the organiser."
)


def against_registering(settings: EventSettings, accepted_at: datetime, spots_count: int) -> Refused | None:
    """Refuse a registration outside the window, in a pause or of too large a party."""
    match settings.state(accepted_at):
        case EventState.OPEN:
            return against_size(settings, spots_count)
        case EventState.SCHEDULED:
            assert settings.opens_at is not None, "a scheduled event has an opening time"
            opens_at = in_utc(settings.opens_at)
            return Refused(
                code=RefusalCode.REGISTRATION_NOT_OPEN,
                detail=f"Registration opens at {rfc3339(opens_at)}.",
                opens_at=opens_at,
            )
        case EventState.CLOSED:
            return _refused(RefusalCode.REGISTRATION_CLOSED, "Registration has closed.")
        case EventState.PAUSED:  # pragma: no branch - the last of all states
            return _refused(RefusalCode.EVENT_PAUSED, "Registration is paused.")


def against_a_full_event(spots_count: int, spots_left: int) -> Refused:
    """Refuse a party that cannot be confirmed, at an event of which the waitlist takes no party."""
    if spots_left <= 0:
        return outcomes.EVENT_FULL
    free = "1 spot is free" if spots_left == 1 else f"{spots_left} spots are free"
    if spots_count > spots_left:
        return _refused(
            RefusalCode.EVENT_FULL,
            f"{free}, the party needs {spots_count}, and the waitlist takes no more registrations.",
        )
    return _refused(
        RefusalCode.EVENT_FULL,
        f"{free}, for the registrations on the waitlist, which takes no more of them.",
    )


def against_cancelling(settings: EventSettings, accepted_at: datetime) -> Refused | None:
    """Refuse a holder's cancellation after the last moment for it."""
    until = settings.cancel_until
    if until is None or accepted_at < until:
        return None
    return _refused(
        RefusalCode.CANCELLATION_CLOSED, f"Holders could cancel until {rfc3339(until)}; ask the organiser."
    )


def against_becoming(
    before: Registration, status: Status, spots_left: int, holders: Mapping[str, UUID]
) -> Refused | None:
    """Refuse a status that would give one holder two registrations, or an event more than its capacity."""
    if status is before.status or status is Status.CANCELLED:
        return None
    if before.status is Status.CANCELLED:
        refusal = against_second_registration(before.email, before.id, holders)
        if refusal is not None:
            return refusal
    return against_taking(before.spots_count, spots_left) if status is Status.CONFIRMED else None


def against_taking(spots: int, spots_left: int) -> Refused | None:
    """Refuse to confirm more spots than are left."""
    if spots <= spots_left:
        return None
    left = max(spots_left, 0)
    is_left = "1 is left" if left == 1 else f"{left} are left"
    return _exceeded(f"The registration needs {_spots(spots)}; {is_left}.", spots, left)


def for_those_who_wait(spots: int, spots_left: int) -> Refused:
    """Return the refusal of spots that are free and belong to waiting parties."""
    return _exceeded(
        f"The registration needs {_spots(spots)} more; the free spots are for those who wait.",
        spots,
        spots_left,
    )


def against_settings(
    before: EventSettings, after: EventSettings, spots_reserved: int, *, allow_overbooked: bool = False
) -> Refused | None:
    """Refuse a lower capacity below the confirmed spots, and a window that ends before it begins."""
    if overbooks(before, after, spots_reserved) and not allow_overbooked:
        return _refused(
            RefusalCode.CAPACITY_BELOW_RESERVED,
            f"{spots_reserved} spots are confirmed; the capacity cannot be {after.capacity}.",
        )
    if after.opens_at is not None and after.closes_at is not None and after.closes_at <= after.opens_at:
        return _refused(RefusalCode.WINDOW_INVALID, "The event must close after it opens.")
    return None


def overbooks(before: EventSettings, after: EventSettings, spots_reserved: int) -> bool:
    """Return True if the capacity is lowered below the confirmed spots."""
    return after.capacity < before.capacity and after.capacity < spots_reserved


def against_slug(slug: str, taken: Collection[str], *, fixed: bool) -> Refused | None:
    """Refuse another slug once something was asked of the event, and the slug of another event."""
    if fixed:
        return _refused(
            RefusalCode.SLUG_FIXED, "Commands were sent under the event's slug; it cannot change any more."
        )
    if slug in taken:
        return _refused(RefusalCode.SLUG_TAKEN, f"Another event has the slug {slug!r}, or had it just now.")
    return None


def against_size(settings: EventSettings, spots_count: int) -> Refused | None:
    """Refuse a party that one registration, or the event, can never hold.

    An event without any capacity takes every party on its waitlist.
    """
    per_registration, capacity = settings.max_spots_per_registration, settings.capacity
    if 0 < capacity < min(spots_count, per_registration):
        return _refused(RefusalCode.TOO_MANY_SPOTS, f"The event has only {_spots(capacity)} in all.")
    if spots_count > per_registration:
        return _refused(
            RefusalCode.TOO_MANY_SPOTS, f"One registration may have at most {_spots(per_registration)}."
        )
    return None


def against_second_registration(
    email: str | None, own_id: UUID | None, holders: Mapping[str, UUID]
) -> Refused | None:
    """Refuse an email address that an active registration other than this one holds."""
    holder = None if email is None else holders.get(email_key(email))
    if holder is None or holder == own_id:
        return None
    return _refused(RefusalCode.ALREADY_REGISTERED, "This email address already has a registration here.")


def next_up(policy: Policy, waitlist: Waitlist, *, capacity: int, spots_left: int) -> Waiter | None:
    """Return the registration that takes free spots next, None if the policy promotes none.

    `spots_left` is negative when the event is oversold.
    """
    if spots_left <= 0:
        return None
    match policy:
        case Policy.STRICT_FIFO:
            head = min(waitlist.heads(capacity), default=None)
            return head if head is not None and head.spots_count <= spots_left else None
        case Policy.SKIP_UNFIT:
            return min(waitlist.heads(spots_left), default=None)
    assert_never(policy)


def _spots(count: int) -> str:
    return "1 spot" if count == 1 else f"{count} spots"


def _exceeded(detail: str, spots_needed: int, spots_left: int) -> Refused:
    return Refused(
        code=RefusalCode.CAPACITY_EXCEEDED, detail=detail, spots_left=spots_left, spots_needed=spots_needed
    )


def _refused(code: RefusalCode, detail: str) -> Refused:
    return Refused(code=code, detail=detail)
