"""The decisions by which admins, and holders in part, change what was registered (pure).

They keep the roster's invariants: a party grows only into spots that no waiting party is to have, and the
audit trail names the parts that were corrected, never a name or an email address.
"""

import msgspec
from msgspec import UNSET

from shared.domain import rules
from shared.domain.commands import (
    HOLDER,
    AddRegistration,
    ChangeStatus,
    CorrectRegistration,
    DeleteRegistration,
    GiveReceipt,
    PendingCommand,
    Status,
)
from shared.domain.event import Registration
from shared.domain.outcomes import (
    Outcome,
    ReceiptGiven,
    Refused,
    RegistrationCorrected,
    RegistrationDeleted,
    StatusChanged,
)
from shared.domain.roster import Roster

_PERSONAL = ("name", "email")


def add(roster: Roster, pending: PendingCommand, command: AddRegistration) -> Outcome:
    """Register a party, also outside the window, in a pause or beyond the waitlist's limit."""
    settings, spots = roster.settings, command.spots_count
    status = None if command.status is UNSET else Status(command.status)
    refusal = rules.against_size(settings, spots)
    if refusal is None and status is None and not (settings.waitlist_enabled or roster.may_take(spots)):
        refusal = rules.against_a_full_event(spots, roster.spots_left)
    refusal = refusal or rules.against_second_registration(command.email, None, roster.holders)
    if refusal is None and status is Status.CONFIRMED:
        refusal = rules.against_taking(spots, roster.spots_left)
    if refusal is not None:
        return refusal
    if status is None:
        if settings.waitlist_enabled:
            roster.promote(pending)
        status = Status.CONFIRMED if roster.may_take(spots) else Status.WAITLIST
    outcome = roster.enter(pending, command, status)
    if command.status == Status.CONFIRMED:
        roster.promote(pending)  # the head may fit no longer, so that those behind it are next
    return outcome


def correct(roster: Roster, pending: PendingCommand, command: CorrectRegistration) -> Outcome:
    """Correct a registration's name, email address or size.

    A waiting party that grows goes to the tail of the waitlist; one that shrinks keeps its place.
    """
    before = roster.registrations.get(command.registration_id)
    if before is None:
        return rules.NOT_FOUND
    after = _corrected(before, command)
    refusal = None
    if pending.actor == HOLDER and after != before:
        refusal = rules.against_cancelling(roster.settings, pending.accepted_at)
    refusal = refusal or _against(roster, before, after, by_holder=pending.actor == HOLDER)
    if refusal is not None:
        return refusal
    names = {"name": "name", "email": "email", "spots_count": "spotsCount"}
    changed = [name for name in names if getattr(before, name) != getattr(after, name)]
    if changed:
        if after.status is Status.WAITLIST and after.spots_count > before.spots_count:
            after = msgspec.structs.replace(after, seq=pending.seq)
        before_after = {
            names[name]: (None, None) if name in _PERSONAL else (getattr(before, name), getattr(after, name))
            for name in changed
        }
        reason = command.reason or None
        roster.move(pending, before, after, reason=reason, before_after=before_after, corrects=True)
        if after.spots_count != before.spots_count:
            roster.promote(pending)
    return RegistrationCorrected(
        registration_id=before.id, status=before.status, changed=tuple(names[name] for name in changed)
    )


def give_receipt(roster: Roster, pending: PendingCommand, command: GiveReceipt) -> Outcome:
    """Make the command's id the registration's receipt."""
    before = roster.registrations.get(command.registration_id)
    if before is None:
        return rules.NOT_FOUND
    after = msgspec.structs.replace(before, command_id=pending.id)
    roster.move(pending, before, after, reason=command.reason or None, corrects=True)
    return ReceiptGiven(registration_id=before.id)


def change_status(roster: Roster, pending: PendingCommand, command: ChangeStatus) -> Outcome:
    """Move a registration to another status, and offer what it frees to the waitlist."""
    before = roster.registrations.get(command.registration_id)
    if before is None:
        return rules.NOT_FOUND
    refusal = rules.against_becoming(before, command.status, roster.spots_left, roster.holders)
    if pending.actor == HOLDER and before.status is not command.status:
        refusal = rules.against_cancelling(roster.settings, pending.accepted_at) or refusal
    if refusal is not None:
        return refusal
    seq = None
    if command.status is Status.WAITLIST and (
        before.status is not Status.WAITLIST or command.place is not UNSET
    ):
        # The tail is the place of the command that moved the registration there.
        seq = before.original_seq if command.place == "original" else pending.seq
    after = before.become(command.status, seq=seq)
    if after != before:
        roster.move(pending, before, after, reason=command.reason)
        roster.promote(pending, but=after.waiter)
    moved = before.status is after.status and before.seq != after.seq
    return StatusChanged(
        registration_id=before.id,
        from_status=before.status,
        to_status=command.status,
        moved=moved or UNSET,
    )


def delete(roster: Roster, pending: PendingCommand, command: DeleteRegistration) -> Outcome:
    """Remove a registration, and offer what it frees to the waitlist."""
    before = roster.registrations.get(command.registration_id)
    if before is None:
        return rules.NOT_FOUND
    roster.move(pending, before, None, reason=command.reason)
    roster.promote(pending)
    return RegistrationDeleted(
        registration_id=before.id, from_status=before.status, spots_freed=before.spots_held
    )


def _corrected(before: Registration, command: CorrectRegistration) -> Registration:
    parts = {name: getattr(command, name) for name in (*_PERSONAL, "spots_count")}
    return msgspec.structs.replace(
        before, **{name: value for name, value in parts.items() if value is not UNSET}
    )


def _against(roster: Roster, before: Registration, after: Registration, *, by_holder: bool) -> Refused | None:
    """Refuse too large a party, an address that another registration holds, and spots that are not free."""
    grows = after.spots_count > before.spots_count
    if grows:
        refusal = rules.ONLY_SMALLER if by_holder else rules.against_size(roster.settings, after.spots_count)
        if refusal is not None:
            return refusal
    if after.status is not Status.CANCELLED:
        refusal = rules.against_second_registration(after.email, after.id, roster.holders)
        if refusal is not None:
            return refusal
    more = after.spots_held - before.spots_held
    if more <= 0:
        return None
    refusal = rules.against_taking(more, roster.spots_left)
    if refusal is None and not roster.may_take(more):
        return rules.for_those_who_wait(more, roster.spots_left)
    return refusal
