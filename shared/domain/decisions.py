"""The decision about each command (pure): what it makes of an event's roster, and its outcome."""

from typing import assert_never

from shared.domain import corrections, event_changes, outcomes, rules
from shared.domain.commands import (
    AddRegistration,
    ChangeEvent,
    ChangeStatus,
    CorrectRegistration,
    DeleteEvent,
    DeleteRegistration,
    Erase,
    GiveReceipt,
    HealCounter,
    PendingCommand,
    PromoteWaitlist,
    Register,
    Status,
)
from shared.domain.outcomes import Outcome, WaitlistPromoted
from shared.domain.roster import Roster


def decide(roster: Roster, pending: PendingCommand) -> Outcome:  # noqa: C901 - a case for each command
    """Return the outcome of a command, and note its changes in the roster."""
    if roster.settings.deleted and not isinstance(pending.command, Erase | HealCounter | PromoteWaitlist):
        return rules.EVENT_DELETED
    match pending.command:
        case Register() as command:
            return _register(roster, pending, command)
        case AddRegistration() as command:
            return corrections.add(roster, pending, command)
        case ChangeStatus() as command:
            return corrections.change_status(roster, pending, command)
        case CorrectRegistration() as command:
            return corrections.correct(roster, pending, command)
        case GiveReceipt() as command:
            return corrections.give_receipt(roster, pending, command)
        case DeleteRegistration() as command:
            return corrections.delete(roster, pending, command)
        case Erase() as command:
            return event_changes.erase(roster, pending, command)
        case ChangeEvent() as command:
            return event_changes.change(roster, pending, command)
        case DeleteEvent() as command:
            return event_changes.delete(roster, pending, command)
        case HealCounter() as command:
            return event_changes.heal(roster, pending, command)
        case PromoteWaitlist():
            return _promote_further(roster, pending)
    assert_never(pending.command)


def _register(roster: Roster, pending: PendingCommand, command: Register) -> Outcome:
    settings, spots = roster.settings, command.spots_count
    refusal = rules.against_registering(settings, pending.accepted_at, spots)
    if refusal is not None:
        return refusal
    has_room = settings.waitlist_enabled and roster.waitlist.has_room(
        settings.waitlist_limit, settings.capacity
    )
    second = rules.against_second_registration(command.email, None, roster.holders)
    if roster.waitlist.length and has_room and second is None:
        roster.promote(pending)
    may_confirm = roster.may_take(spots)
    if not (has_room or may_confirm):
        waits_for_room = settings.waitlist_enabled and roster.follow_up is not None
        full = rules.against_a_full_event(spots, roster.spots_left)
        return outcomes.FULL_FOR_NOW if waits_for_room else full
    if second is not None:
        return second
    return roster.enter(pending, command, Status.CONFIRMED if may_confirm else Status.WAITLIST)


def _promote_further(roster: Roster, pending: PendingCommand) -> Outcome:
    if roster.follow_up == pending.id:
        roster.follow_up = None
    promoted = roster.promote(pending)
    return WaitlistPromoted(promoted=promoted, more_follow=roster.follow_up is not None)
