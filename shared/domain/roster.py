"""One event in memory: decides one command at a time.

Pure: no I/O, no clock, no random ids; the same roster and the same commands give the same outcomes.
Invariants, after every decision:

1. A decision that confirms leaves `spots_reserved <= capacity`.
2. `spots_reserved` moves by the spots delta of exactly the changes that are written down.
3. A refusal writes no change.
4. Nobody takes spots ahead of a waiting party whom the event's policy would promote.

    register, fits ─────▶ CONFIRMED ── cancel ──▶ CANCELLED
                            ▲   │                   │   ▲
        promoted, or by an  │   │ to the tail       │   │ cancel
        admin: if it fits   │   ▼                   ▼   │
    register, else ──────▶ WAITLIST ◀── to the tail ────┘   CANCELLED ── if it fits ──▶ CONFIRMED

A registration in any status can be deleted. Every move has one spots delta, the difference of what the
registration held before and after, so nothing can be released twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, assert_never
from uuid import UUID

from shared.domain import commands, outcomes, promotion, rules
from shared.domain.commands import (
    Accepted,
    ChangeEvent,
    ChangeStatus,
    DeleteRegistration,
    HealCounter,
    Register,
    Status,
    email_key,
)
from shared.domain.event import PROMOTION, Change, Recount, Registration, Terms
from shared.domain.outcomes import (
    Confirmed,
    CounterHealed,
    EventChanged,
    Outcome,
    RegistrationDeleted,
    StatusChanged,
    Waitlisted,
)
from shared.domain.promotion import Waiter, Waitlist


@dataclass(kw_only=True, slots=True)
class Roster:
    """An event as of now, and the changes that the decisions since loading have made.

    `registrations` has at least all that the commands to be decided name and all known waiters;
    `holders` maps the email keys that those commands can touch to the active registration that
    holds each. `recount` is there when a counter is to be healed.
    """

    terms: Terms
    spots_reserved: int
    waitlist: Waitlist
    registrations: dict[UUID, Registration]
    holders: dict[str, UUID]
    recount: Recount | None = None
    changes: list[Change] = field(default_factory=list)
    entered: set[UUID] = field(default_factory=set)
    changed: set[UUID] = field(default_factory=set)
    deleted: set[UUID] = field(default_factory=set)

    @property
    def spots_left(self) -> int:
        """Free spots; negative when the event is oversold."""
        return self.terms.capacity - self.spots_reserved

    def written(self) -> None:
        """Forget the changes so far: they are written down."""
        self.changes, self.entered, self.changed, self.deleted = [], set(), set(), set()

    def decide(self, accepted: Accepted) -> Outcome:
        """Return the one outcome of a command and write down what it changes."""
        match accepted.command:
            case Register() as command:
                return self._register(accepted, command)
            case ChangeStatus() as command:
                return self._change_status(accepted, command)
            case DeleteRegistration() as command:
                return self._delete(accepted, command)
            case ChangeEvent() as command:
                return self._change_event(accepted, command)
            case HealCounter() as command:
                return self._heal(accepted, command)
        assert_never(accepted.command)

    def _register(self, accepted: Accepted, command: Register) -> Outcome:
        refusal = rules.against_registering(self.terms, accepted.accepted_at, command, self.holders)
        if refusal is not None:
            return refusal
        has_room = self._waitlist_has_room()
        if has_room:
            self._promote(accepted)
        if self._newcomer_may_confirm(command.spots_count):
            registration_id = self._enter(accepted, command, Status.CONFIRMED)
            return Confirmed(registration_id=registration_id, spots_count=command.spots_count)
        if not has_room:
            return outcomes.EVENT_FULL
        registration_id = self._enter(accepted, command, Status.WAITLIST)
        return Waitlisted(
            registration_id=registration_id,
            spots_count=command.spots_count,
            position=self.waitlist.length,
        )

    def _newcomer_may_confirm(self, spots_count: int) -> bool:
        return promotion.newcomer_may_confirm(
            self.terms.promotion_policy, self.waitlist, spots_count=spots_count, spots_left=self.spots_left
        )

    def _waitlist_has_room(self) -> bool:
        limit = self.terms.waitlist_limit
        return self.terms.waitlist_enabled and (limit is None or self.waitlist.length < limit)

    def _enter(self, accepted: Accepted, command: Register, status: Status) -> UUID:
        registration = Registration(
            id=accepted.registration_id,
            seq=accepted.seq,
            command_id=accepted.id,
            name=command.name,
            email=command.email,
            spots_count=command.spots_count,
            status=status,
        )
        self.entered.add(registration.id)
        self._move(accepted, None, registration)
        return registration.id

    def _change_status(self, accepted: Accepted, command: ChangeStatus) -> Outcome:
        before = self.registrations.get(command.registration_id)
        if before is None:
            return rules.NOT_FOUND
        refusal = rules.against_becoming(before, command.status, self.spots_left, self.holders)
        if refusal is not None:
            return refusal
        if before.status is not command.status:
            # To the waitlist is to its tail: the place of the command that moved it there.
            seq = accepted.seq if command.status is Status.WAITLIST else None
            after = before.become(command.status, seq=seq)
            self._move(accepted, before, after, reason=command.reason)
            self._promote(accepted, but=after.waiter)
        return StatusChanged(registration_id=before.id, from_status=before.status, to_status=command.status)

    def _delete(self, accepted: Accepted, command: DeleteRegistration) -> Outcome:
        before = self.registrations.get(command.registration_id)
        if before is None:
            return rules.NOT_FOUND
        self.deleted.add(before.id)
        self._move(accepted, before, None, reason=command.reason)
        self._promote(accepted)
        return RegistrationDeleted(
            registration_id=before.id, from_status=before.status, spots_freed=before.spots_held
        )

    def _change_event(self, accepted: Accepted, command: ChangeEvent) -> Outcome:
        before, after = self.terms, self.terms.changed(command)
        refusal = rules.against_settings(before, after, self.spots_reserved)
        if refusal is not None:
            return refusal
        differences = before.differences(after)
        if differences:
            self.terms = after
            reason = command.reason if isinstance(command.reason, str) else None
            self._note(accepted, reason=reason, before_after=differences)
        return EventChanged(changed=tuple(differences), promoted=self._promote(accepted))

    def _heal(self, accepted: Accepted, command: HealCounter) -> Outcome:
        assert self.recount is not None, "healing needs a recount"
        found, counted = (self.spots_reserved, self.waitlist.length), self.recount
        drift = found[0] - counted.confirmed_spots
        differences = {
            name: (before, after)
            for name, before, after in (
                ("spotsReserved", found[0], counted.confirmed_spots),
                ("waitlistLength", found[1], counted.waitlist_length),
            )
            if before != after
        }
        # What moved the counter is not in the trail, which goes on from where it ended itself.
        self.spots_reserved, self.waitlist.length = counted.audited_spots, counted.waitlist_length
        spots_delta = counted.confirmed_spots - counted.audited_spots
        if differences or spots_delta:
            self._note(
                accepted, reason=command.reason, spots_delta=spots_delta, before_after=differences or None
            )
        healed = CounterHealed(
            drift=drift, spots_reserved=self.spots_reserved, overbooked_spots=max(-self.spots_left, 0)
        )
        self._promote(accepted)
        return healed

    def _promote(self, accepted: Accepted, *, but: Waiter | None = None) -> int:
        """Offer what is free to the waitlist, and return how many took it.

        `but` is whom this very command put there: an admin who moves somebody to the waitlist does
        not see them come straight back. The next command that frees spots offers them to everybody.
        """
        promoted = 0
        while self.terms.auto_promote:
            waiter = promotion.next_up(self.terms.promotion_policy, self.waitlist, self.spots_left)
            if waiter is None or waiter == but:
                break
            before = self.registrations[waiter.id]
            self._move(accepted, before, before.become(Status.CONFIRMED), kind=PROMOTION)
            promoted += 1
        return promoted

    def _move(
        self,
        accepted: Accepted,
        before: Registration | None,
        after: Registration | None,
        *,
        kind: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Carry one registration's change through everything that the roster keeps."""
        if before is not None:
            self._leave(before)
        if after is not None:
            self._take_place(after)
        one = after or before
        assert one is not None, "something must have moved"
        held_before, held_after = (before.spots_held if before else 0), (after.spots_held if after else 0)
        self._note(
            accepted,
            kind=kind,
            reason=reason,
            registration_id=one.id,
            from_status=before.status if before else None,
            to_status=after.status if after else None,
            spots_delta=held_after - held_before,
        )

    def _leave(self, before: Registration) -> None:
        del self.registrations[before.id]
        if before.status is Status.WAITLIST:
            self.waitlist.remove(before.waiter)
        if before.email is not None and before.status is not Status.CANCELLED:
            self.holders.pop(email_key(before.email), None)

    def _take_place(self, after: Registration) -> None:
        self.registrations[after.id] = after
        self.changed.add(after.id)
        if after.status is Status.WAITLIST:
            self.waitlist.add(after.waiter)
        if after.email is not None and after.status is not Status.CANCELLED:
            self.holders[email_key(after.email)] = after.id

    def _note(  # noqa: PLR0913 - one for each column of an entry that may differ
        self,
        accepted: Accepted,
        *,
        kind: str | None = None,
        reason: str | None = None,
        registration_id: UUID | None = None,
        from_status: Status | None = None,
        to_status: Status | None = None,
        spots_delta: int = 0,
        before_after: Mapping[str, tuple[Any, Any]] | None = None,
    ) -> None:
        self.spots_reserved += spots_delta
        self.changes.append(
            Change(
                kind=kind or commands.kind(accepted.command),
                command_id=accepted.id,
                actor=accepted.actor,
                reason=reason,
                registration_id=registration_id,
                from_status=from_status,
                to_status=to_status,
                spots_delta=spots_delta,
                spots_reserved=self.spots_reserved,
                before_after=before_after,
            )
        )
