"""One event in memory: decides one command at a time.

Pure: no I/O, no clock, no random ids; the same roster and the same commands give the same outcomes.
Invariants, after every decision:

1. A decision that confirms leaves `spots_reserved <= capacity`.
2. `spots_reserved` moves by the spots delta of exactly the changes that are written down.
3. A refusal writes no change.
4. Nobody takes spots ahead of a waiting party whom the event's policy would promote.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import assert_never
from uuid import UUID

from shared.commands import Accepted, Register, Status, email_key
from shared.outcomes import Confirmed, Outcome, RefusalCode, Refused, Waitlisted
from worker import promotion
from worker.promotion import Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """The settings of an event that decisions depend on; `waitlist_limit` None means no limit."""

    capacity: int
    waitlist_enabled: bool
    waitlist_limit: int | None
    promotion_policy: Policy
    max_spots_per_registration: int
    opens_at: datetime | None
    closes_at: datetime | None
    paused: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """One party at the event; `seq` is its place."""

    id: UUID
    seq: int
    command_id: UUID
    name: str
    email: str | None
    spots_count: int
    status: Status


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One registration's change of status, and the counter after it: one row and one audit entry."""

    registration: Registration
    from_status: Status | None
    spots_delta: int
    spots_reserved: int
    command_id: UUID
    actor: str


@dataclass(kw_only=True, slots=True)
class Roster:
    """An event as of now, and the changes that the decisions since loading have made.

    `smallest_waiting` is the size of the smallest waiting party, None when nobody waits.
    `holders` has the email keys that hold an active registration, at least all those that the
    commands to be decided name.
    """

    terms: Terms
    spots_reserved: int
    waitlist_length: int
    smallest_waiting: int | None
    holders: set[str]
    changes: list[Change] = field(default_factory=list)

    def decide(self, accepted: Accepted) -> Outcome:
        """Return the one outcome of a command and write down what it changes."""
        match accepted.command:
            case Register() as command:
                return self._register(accepted, command)
        assert_never(accepted.command)

    def _register(self, accepted: Accepted, command: Register) -> Outcome:
        refusal = self._refusal(accepted.accepted_at, command)
        if refusal is not None:
            return refusal
        if self._may_confirm(command.spots_count):
            self._enter(accepted, command, Status.CONFIRMED)
            return Confirmed(registration_id=accepted.registration_id, spots_count=command.spots_count)
        if not self._waitlist_has_room():
            return _refused(RefusalCode.EVENT_FULL, "The event is full and its waitlist takes nobody.")
        self._enter(accepted, command, Status.WAITLIST)
        return Waitlisted(
            registration_id=accepted.registration_id,
            spots_count=command.spots_count,
            position=self.waitlist_length,
        )

    def _refusal(self, accepted_at: datetime, command: Register) -> Refused | None:
        """Return why nobody in this place could register so, in the order of the codes' precedence."""
        terms = self.terms
        if terms.opens_at is not None and accepted_at < terms.opens_at:
            return _refused(RefusalCode.REGISTRATION_CLOSED, "Registration has not opened yet.")
        if terms.closes_at is not None and accepted_at >= terms.closes_at:
            return _refused(RefusalCode.REGISTRATION_CLOSED, "Registration has closed.")
        if terms.paused:
            return _refused(RefusalCode.EVENT_PAUSED, "Registration is paused.")
        if command.spots_count > terms.max_spots_per_registration:
            return _refused(
                RefusalCode.TOO_MANY_SPOTS,
                f"One registration may have at most {terms.max_spots_per_registration} spots.",
            )
        if command.email is not None and email_key(command.email) in self.holders:
            return _refused(
                RefusalCode.ALREADY_REGISTERED, "This email address already has a registration here."
            )
        return None

    def _may_confirm(self, spots_count: int) -> bool:
        return promotion.newcomer_may_confirm(
            self.terms.promotion_policy,
            spots_count=spots_count,
            spots_left=self.terms.capacity - self.spots_reserved,
            smallest_waiting=self.smallest_waiting,
        )

    def _waitlist_has_room(self) -> bool:
        limit = self.terms.waitlist_limit
        return self.terms.waitlist_enabled and (limit is None or self.waitlist_length < limit)

    def _enter(self, accepted: Accepted, command: Register, status: Status) -> None:
        spots_delta = command.spots_count if status is Status.CONFIRMED else 0
        self.spots_reserved += spots_delta
        if status is Status.WAITLIST:
            self.waitlist_length += 1
            self.smallest_waiting = min(self._waiting_sizes(command.spots_count))
        if command.email is not None:
            self.holders.add(email_key(command.email))
        self.changes.append(
            Change(
                registration=Registration(
                    id=accepted.registration_id,
                    seq=accepted.seq,
                    command_id=accepted.id,
                    name=command.name,
                    email=command.email,
                    spots_count=command.spots_count,
                    status=status,
                ),
                from_status=None,
                spots_delta=spots_delta,
                spots_reserved=self.spots_reserved,
                command_id=accepted.id,
                actor=accepted.actor,
            )
        )

    def _waiting_sizes(self, newcomer: int) -> Iterable[int]:
        return (newcomer,) if self.smallest_waiting is None else (newcomer, self.smallest_waiting)


def _refused(code: RefusalCode, detail: str) -> Refused:
    return Refused(code=code, detail=detail)
