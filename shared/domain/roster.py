"""One event in memory, as `decisions` finds it and leaves it.

Pure: no I/O, no clock, no random ids; the same roster and the same commands give the same outcomes.
Invariants, after every decision:

1. A decision that confirms leaves `spots_reserved <= capacity`.
2. `spots_reserved` moves by the spots delta of exactly the changes that are written down.
3. A refusal writes no change.
4. No party takes spots ahead of a waiting party that the event's policy would promote.
5. A command promotes parties of at most `PROMOTED_SPOTS_MAX` spots and one party more. If another party is
   owed spots then, one follow-up is pending, and only the follow-up promotes.

    register, fits ─────▶ CONFIRMED ── cancel ──▶ CANCELLED
                            ▲   │                   │   ▲
        promoted, or by an  │   │ to a place        │   │ cancel
        admin: if it fits   │   ▼                   ▼   │
    register, else ──────▶ WAITLIST ◀── to a place ─────┘   CANCELLED ── if it fits ──▶ CONFIRMED

A registration in any status can be deleted. Every move has one spots delta, the difference of what the
registration held before and after, so nothing can be released twice.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, assert_never
from uuid import UUID

from shared.domain import ids, rules
from shared.domain.commands import KINDS, AddRegistration, Kind, PendingCommand, Register, Status
from shared.domain.event import (
    PROMOTION,
    Change,
    EventChanges,
    EventSettings,
    FollowUp,
    Policy,
    Recount,
    Registration,
    Waiter,
    Waitlist,
)
from shared.domain.outcomes import Confirmed, Waitlisted
from shared.domain.texts import email_key

_HEAL: Kind = "heal_counter"


@dataclass(kw_only=True, slots=True)
class Roster:
    """An event as of now, and the changes of the decisions that are `unsaved`.

    `registrations` has at least all registrations that the commands to be decided name and all known
    waiters; `holders` maps the email keys that those commands can touch to the active registration that
    holds each. `recount` is there when a counter is to be healed. `follow_up` is the id of the pending
    follow-up, if any; `promoted_spots` are those that all decisions so far have handed to the waitlist.
    `slug_fixed` and `taken_slugs` are there when the slug is to be changed: whether anything else was asked
    of the event, and which of the slugs asked for another event has.
    """

    settings: EventSettings
    spots_reserved: int
    waitlist: Waitlist
    registrations: dict[UUID, Registration]
    holders: dict[str, UUID]
    recount: Recount | None = None
    slug_fixed: bool = False
    taken_slugs: Collection[str] = ()
    follow_up: UUID | None = None
    promoted_spots: int = 0
    unsaved: EventChanges = field(default_factory=EventChanges)

    @property
    def spots_left(self) -> int:
        """Free spots; negative when the event is oversold."""
        return self.settings.capacity - self.spots_reserved

    def may_take(self, spots: int) -> bool:
        """Return True if so many spots are free, and none of them is for a waiting party."""
        if spots > self.spots_left:
            return False
        match self.settings.promotion_policy:
            case Policy.STRICT_FIFO:
                return not self.waitlist.heads(self.settings.capacity)
            case Policy.SKIP_UNFIT:
                return not self.waitlist.heads(self.spots_left)
        assert_never(self.settings.promotion_policy)

    def enter(
        self, pending: PendingCommand, command: Register | AddRegistration, status: Status
    ) -> Confirmed | Waitlisted:
        """Add the registration that the command asks for, and return the outcome."""
        registration = Registration(
            id=ids.registration_id(pending.id),
            seq=pending.seq,
            original_seq=pending.seq,
            command_id=pending.id,
            name=command.name,
            email=command.email,
            spots_count=command.spots_count,
            status=status,
        )
        reason = command.reason if isinstance(command, AddRegistration) else None
        self.move(pending, None, registration, reason=reason or None)
        id_, spots = registration.id, registration.spots_count
        if status is Status.CONFIRMED:
            return Confirmed(registration_id=id_, spots_count=spots)
        return Waitlisted(registration_id=id_, spots_count=spots, position=self.waitlist.length)

    def promote(self, pending: PendingCommand, *, but: Waiter | None = None) -> int:
        """Offer free spots to the waitlist, and return how many registrations took them.

        `but` is the registration that this very command moved to the waitlist: it does not come straight
        back. The next command that frees spots offers them to that registration as well (decision 0027).
        A command that has promoted enough leaves the others to a follow-up (decision 0034).
        """
        promoted = spots = 0
        promotes = self.settings.promotes(pending.accepted_at)
        while self.follow_up is None and promotes and self.waitlist.length:
            waiter = rules.next_up(
                self.settings.promotion_policy,
                self.waitlist,
                capacity=self.settings.capacity,
                spots_left=self.spots_left,
            )
            if waiter is None or waiter == but:
                break
            if spots >= rules.PROMOTED_SPOTS_MAX:
                self.follow_up = ids.follow_up_id(pending.id)
                self.unsaved.follow_up = FollowUp(id=self.follow_up, accepted_at=pending.accepted_at)
                break
            before = self.registrations[waiter.id]
            self.move(pending, before, before.become(Status.CONFIRMED), kind=PROMOTION)
            promoted, spots = promoted + 1, spots + waiter.spots_count
        self.promoted_spots += spots
        return promoted

    def move(  # noqa: PLR0913 - likewise
        self,
        pending: PendingCommand,
        before: Registration | None,
        after: Registration | None,
        *,
        kind: str | None = None,
        reason: str | None = None,
        before_after: Mapping[str, tuple[Any, Any]] | None = None,
        corrects: bool = False,
    ) -> None:
        """Apply one registration's change to all parts of the roster.

        `corrects` is true if more than the registration's status and place is to be saved.
        """
        unsaved = self.unsaved
        if before is not None:
            del self.registrations[before.id]
            if before.status is Status.WAITLIST:
                self.waitlist.remove(before.waiter)
            if before.email is not None and before.status is not Status.CANCELLED:
                self.holders.pop(email_key(before.email), None)
        if after is not None:
            self.registrations[after.id] = after
            is_new = before is None or after.id in unsaved.entered
            is_corrected = corrects or after.id in unsaved.corrected
            table = unsaved.entered if is_new else unsaved.corrected if is_corrected else unsaved.updated
            if corrects:  # it comes last
                unsaved.updated.pop(after.id, None)
                table.pop(after.id, None)
            table[after.id] = after
            if after.status is Status.WAITLIST:
                self.waitlist.add(after.waiter)
            if after.email is not None and after.status is not Status.CANCELLED:
                self.holders[email_key(after.email)] = after.id
        elif before is not None and unsaved.entered.pop(before.id, None) is None:
            unsaved.updated.pop(before.id, None)
            unsaved.corrected.pop(before.id, None)
            unsaved.deleted.append(before.id)
        moved = after or before
        assert moved is not None, "a registration must have moved"
        self.note(
            pending,
            kind=kind,
            reason=reason,
            registration_id=moved.id,
            from_status=before.status if before else None,
            to_status=after.status if after else None,
            spots_delta=(after.spots_held if after else 0) - (before.spots_held if before else 0),
            before_after=before_after,
        )

    def note(  # noqa: PLR0913 - one for each column of an entry that may differ
        self,
        pending: PendingCommand,
        *,
        kind: str | None = None,
        reason: str | None = None,
        registration_id: UUID | None = None,
        from_status: Status | None = None,
        to_status: Status | None = None,
        spots_delta: int = 0,
        before_after: Mapping[str, tuple[Any, Any]] | None = None,
    ) -> None:
        """Write down a change, and move the counter by its delta."""
        kind = kind or KINDS[type(pending.command)]
        self.spots_reserved += spots_delta
        # A heal's own delta leads from the trail's last counter to the rows, not from the database's.
        self.unsaved.spots_delta += spots_delta if kind != _HEAL else 0
        self.unsaved.waitlist_delta += (to_status is Status.WAITLIST) - (from_status is Status.WAITLIST)
        self.unsaved.changes.append(
            Change(
                kind=kind,
                command_id=pending.id,
                actor=pending.actor,
                reason=reason,
                registration_id=registration_id,
                from_status=from_status,
                to_status=to_status,
                spots_delta=spots_delta,
                spots_reserved=self.spots_reserved,
                before_after=before_after,
            )
        )
