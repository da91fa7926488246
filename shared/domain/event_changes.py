"""The decisions about an event as a whole: settings, deletion, erasure and healing (pure)."""

import msgspec

from shared.domain import ids, rules
from shared.domain.commands import ChangeEvent, DeleteEvent, Erase, HealCounter, PendingCommand, Status
from shared.domain.event import Erasure
from shared.domain.outcomes import CounterHealed, Erased, EventChanged, Outcome
from shared.domain.roster import Roster
from shared.domain.texts import email_key


def change(roster: Roster, pending: PendingCommand, command: ChangeEvent) -> Outcome:
    """Change the event's settings, and offer what that frees to the waitlist."""
    before, after = roster.settings, roster.settings.changed(command)
    refusal = rules.against_settings(
        before, after, roster.spots_reserved, allow_overbooked=command.allow_overbooked is True
    )
    if refusal is None and after.slug != before.slug:
        refusal = rules.against_slug(after.slug, roster.taken_slugs, fixed=roster.slug_fixed)
    if refusal is not None:
        return refusal
    if rules.overbooks(before, after, roster.spots_reserved):
        roster.unsaved.overbooked_from = max(roster.unsaved.overbooked_from or 0, before.capacity)
    differences = before.differences(after)
    if differences:
        roster.settings = roster.unsaved.settings = after
        reason = command.reason if isinstance(command.reason, str) else None
        roster.note(pending, reason=reason, before_after=differences)
    promoted = roster.promote(pending)
    return EventChanged(
        changed=tuple(differences), promoted=promoted, more_follow=roster.follow_up is not None
    )


def delete(roster: Roster, pending: PendingCommand, command: DeleteEvent) -> Outcome:
    """Close the event for good, under a slug that no other event wants."""
    before = roster.settings
    slug = f"deleted-{ids.registration_id(pending.id)}"
    roster.settings = roster.unsaved.settings = msgspec.structs.replace(before, deleted=True, slug=slug)
    differences = before.differences(roster.settings)
    roster.note(pending, reason=command.reason or None, before_after=differences)
    return EventChanged(changed=tuple(differences), promoted=0, more_follow=roster.follow_up is not None)


def erase(roster: Roster, pending: PendingCommand, command: Erase) -> Outcome:
    """Note an entry for each registration that has anything personal, or one without a registration."""
    named = [roster.registrations[id_] for id_ in command.registration_ids if id_ in roster.registrations]
    erased = [before for before in named if before != before.erased]
    reason = command.reason or None
    for before in erased:
        roster.registrations[before.id] = before.erased
        if before.email is not None and before.status is not Status.CANCELLED:
            roster.holders.pop(email_key(before.email), None)
        status = before.status
        roster.note(pending, reason=reason, registration_id=before.id, from_status=status, to_status=status)
    if not erased:
        roster.note(pending, reason=reason)
    roster.unsaved.erasure = Erasure(
        registration_ids=[before.id for before in erased], command_ids=command.command_ids
    )
    return Erased(registrations=len(erased))


def heal(roster: Roster, pending: PendingCommand, command: HealCounter) -> Outcome:
    """Set the counters to what the rows say."""
    assert roster.recount is not None, "healing needs a recount"
    counted = roster.recount
    drift = roster.spots_reserved - counted.confirmed_spots
    differences = {
        name: (before, after)
        for name, before, after in (
            ("spotsReserved", roster.spots_reserved, counted.confirmed_spots),
            ("waitlistLength", roster.waitlist.length, counted.waitlist_length),
        )
        if before != after
    }
    # The trail has no entry for the change that moved the counter; it goes on from its own last counter.
    roster.spots_reserved, roster.waitlist.length = counted.audited_spots, counted.waitlist_length
    spots_delta = counted.confirmed_spots - counted.audited_spots
    if differences or spots_delta:
        roster.unsaved.recount = counted
        roster.note(pending, reason=command.reason, spots_delta=spots_delta, before_after=differences or None)
    healed = CounterHealed(
        drift=drift, spots_reserved=roster.spots_reserved, overbooked_spots=max(-roster.spots_left, 0)
    )
    roster.promote(pending)
    return healed
