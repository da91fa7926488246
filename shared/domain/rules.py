"""The rules of refusal: each returns the refusal of a command, or None (pure).

`RefusalCode` lists the codes in their order of precedence.
"""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from shared.domain.commands import Register, Status
from shared.domain.event import EventSettings, EventState, Registration
from shared.domain.outcomes import RefusalCode, Refused
from shared.domain.texts import email_key

NOT_FOUND = Refused(code=RefusalCode.REGISTRATION_NOT_FOUND, detail="There is no such registration.")


def against_registering(
    settings: EventSettings, accepted_at: datetime, command: Register, holders: Mapping[str, UUID]
) -> Refused | None:
    """Refuse a registration outside the window, in a pause, of too large a party or of a known holder."""
    match settings.state(accepted_at):
        case EventState.SCHEDULED:
            return _refused(RefusalCode.REGISTRATION_CLOSED, "Registration has not opened yet.")
        case EventState.CLOSED:
            return _refused(RefusalCode.REGISTRATION_CLOSED, "Registration has closed.")
        case EventState.PAUSED:
            return _refused(RefusalCode.EVENT_PAUSED, "Registration is paused.")
        case EventState.OPEN:
            pass
    refusal = _against_size(settings, command.spots_count)
    if refusal is not None:
        return refusal
    return None if command.email is None else _against_second_registration(command.email, None, holders)


def against_becoming(
    before: Registration, status: Status, spots_left: int, holders: Mapping[str, UUID]
) -> Refused | None:
    """Refuse a status that would give one holder two registrations, or an event more than its capacity."""
    if status is before.status or status is Status.CANCELLED:
        return None
    if before.status is Status.CANCELLED:
        refusal = before.email and _against_second_registration(before.email, before.id, holders)
        if refusal:
            return refusal
    if status is Status.CONFIRMED and before.spots_count > spots_left:
        left = max(spots_left, 0)
        is_left = "1 is left" if left == 1 else f"{left} are left"
        return Refused(
            code=RefusalCode.CAPACITY_EXCEEDED,
            detail=f"The registration needs {_spots(before.spots_count)}; {is_left}.",
            spots_left=left,
            spots_needed=before.spots_count,
        )
    return None


def against_settings(before: EventSettings, after: EventSettings, spots_reserved: int) -> Refused | None:
    """Refuse a capacity below the confirmed spots, and a window that ends before it begins."""
    if after.capacity != before.capacity and after.capacity < spots_reserved:
        return _refused(
            RefusalCode.CAPACITY_BELOW_RESERVED,
            f"{spots_reserved} spots are confirmed; the capacity cannot be {after.capacity}.",
        )
    if after.opens_at is not None and after.closes_at is not None and after.closes_at <= after.opens_at:
        return _refused(RefusalCode.WINDOW_INVALID, "The event must close after it opens.")
    return None


def _against_size(settings: EventSettings, spots_count: int) -> Refused | None:
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


def _against_second_registration(
    email: str, own_id: UUID | None, holders: Mapping[str, UUID]
) -> Refused | None:
    holder = holders.get(email_key(email))
    if holder is None or holder == own_id:
        return None
    return _refused(RefusalCode.ALREADY_REGISTERED, "This email address already has a registration here.")


def _spots(count: int) -> str:
    return "1 spot" if count == 1 else f"{count} spots"


def _refused(code: RefusalCode, detail: str) -> Refused:
    return Refused(code=code, detail=detail)
