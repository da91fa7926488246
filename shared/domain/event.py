"""An event while its owner decides: settings, registrations, waitlist and changes (pure)."""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from shared.domain.commands import ChangeEvent, Status

PROMOTION = "promotion"
"""The kind of a change without a command of its own: a waiting registration took freed spots."""


class EventState(StrEnum):
    """The state of an event: only an open event takes registrations."""

    SCHEDULED = "SCHEDULED"
    OPEN = "OPEN"
    PAUSED = "PAUSED"
    CLOSED = "CLOSED"


class Policy(StrEnum):
    """The rule by which an event gives free spots to its waitlist."""

    STRICT_FIFO = "strict_fifo"
    """The head of the line blocks all registrations behind it until it fits."""

    SKIP_UNFIT = "skip_unfit"
    """The first registration that fits is next; the others keep their places."""


class EventSettings(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The settings of an event that decisions depend on; `waitlist_limit` None means no limit.

    An archived event is over, until it is taken out of the archive; a deleted one is over for good.
    """

    slug: str
    title: str
    capacity: int
    waitlist_enabled: bool
    waitlist_limit: int | None
    promotion_policy: Policy
    auto_promote: bool
    max_spots_per_registration: int
    opens_at: datetime | None
    closes_at: datetime | None
    promote_until: datetime | None
    cancel_until: datetime | None
    paused: bool
    archived: bool = False
    deleted: bool = False

    def state(self, at: datetime) -> EventState:
        """Return the event's state at this moment; closed precedes paused."""
        if self.archived or self.deleted:
            return EventState.CLOSED
        if self.closes_at is not None and at >= self.closes_at:
            return EventState.CLOSED
        if self.opens_at is not None and at < self.opens_at:
            return EventState.SCHEDULED
        return EventState.PAUSED if self.paused else EventState.OPEN

    def promotes(self, at: datetime) -> bool:
        """Return True if a command accepted at this moment offers free spots to the waitlist."""
        ended = self.promote_until is not None and at >= self.promote_until
        return self.auto_promote and not (self.paused or self.archived or self.deleted or ended)

    def changed(self, command: ChangeEvent) -> "EventSettings":
        """Return the settings with the command's values."""
        changes = {
            name: value
            for name in self.__struct_fields__
            if (value := getattr(command, name, msgspec.UNSET)) is not msgspec.UNSET
        }
        if "promotion_policy" in changes:
            changes["promotion_policy"] = Policy(changes["promotion_policy"])
        return msgspec.structs.replace(self, **changes)

    def differences(self, after: "EventSettings") -> dict[str, tuple[Any, Any]]:
        """Return `(before, after)` of every setting that differs, as plain values under its name in JSON."""
        old, new = msgspec.to_builtins(self), msgspec.to_builtins(after)
        return {
            name: (old[name], new[name])
            for own_name, name in zip(self.__struct_fields__, self.__struct_encode_fields__, strict=True)
            if getattr(self, own_name) != getattr(after, own_name)  # one moment has many spellings
        }


class Waiter(NamedTuple):
    """A waiting registration; a lower `seq` is further ahead."""

    seq: int
    id: UUID
    spots_count: int


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """One party at the event; `seq` is its place, `original_seq` the one that it had first.

    `command_id` is its receipt. An adopted registration has none until an admin gives it one. `original_seq`
    is None where no decision can ask for it.
    """

    id: UUID
    seq: int
    original_seq: int | None = None
    command_id: UUID | None
    name: str
    email: str | None
    spots_count: int
    status: Status

    @property
    def erased(self) -> "Registration":
        """The registration with an empty name, which no client can send, and without an address."""
        return msgspec.structs.replace(self, name="", email=None)

    @property
    def spots_held(self) -> int:
        """Spots of the capacity that the registration takes."""
        return self.spots_count if self.status is Status.CONFIRMED else 0

    @property
    def waiter(self) -> Waiter:
        """The registration as an entry of the waitlist."""
        return Waiter(self.seq, self.id, self.spots_count)

    def become(self, status: Status, *, seq: int | None = None) -> "Registration":
        """Return the registration with another status, and with another place if `seq` is not None."""
        return msgspec.structs.replace(self, status=status, seq=self.seq if seq is None else seq)


@dataclass(slots=True)
class Waitlist:
    """The waiting registrations, ordered within each party size.

    An oversized party is larger than the event's whole capacity. It keeps its place and counts in positions,
    but it is out of line: it blocks no other party and takes no room under the waitlist's limit. It is in
    line again when the capacity allows it. Without any capacity no party is oversized.

    A waitlist may know only a part of them: of each size as many from the head as can be promoted or leave
    while this object is used. `length` counts all waiting registrations.
    """

    length: int = 0
    _lines: dict[int, list[Waiter]] = field(default_factory=dict)
    _known: set[tuple[int, int]] = field(default_factory=set)
    _parties: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(
        cls, waiters: Iterable[Waiter], length: int, oversized: Mapping[int, int] | None = None
    ) -> "Waitlist":
        """Return a waitlist of `length` that knows these registrations.

        `oversized` are the numbers of oversized parties by size, as far as the waitlist's limit depends on
        them.
        """
        waitlist = cls()
        for waiter in waiters:
            waitlist.add(waiter)
        waitlist.length, waitlist._parties = length, Counter(oversized)
        return waitlist

    def add(self, waiter: Waiter) -> None:
        """Add a registration, in the place that `seq` gives."""
        heapq.heappush(self._lines.setdefault(waiter.spots_count, []), waiter)
        self._known.add((waiter.seq, waiter.spots_count))
        self._parties[waiter.spots_count] += 1
        self.length += 1

    def remove(self, waiter: Waiter) -> None:
        """Remove a registration, from any place."""
        self._known.discard((waiter.seq, waiter.spots_count))
        self._parties[waiter.spots_count] -= 1
        self.length -= 1

    def heads(self, spots_max: int) -> list[Waiter]:
        """Return the first registration of every party size up to `spots_max`."""
        heads = []
        for size, line in list(self._lines.items()):
            if size > spots_max:
                continue
            while line and (line[0].seq, size) not in self._known:
                heapq.heappop(line)
            if line:
                heads.append(line[0])
            else:
                del self._lines[size]
        return heads

    def has_room(self, limit: int | None, capacity: int) -> bool:
        """Return True if fewer than `limit` registrations are in line at this capacity."""
        if limit is None or self.length < limit:
            return True
        if capacity == 0:
            return False
        oversized = sum(count for size, count in self._parties.items() if size > capacity)
        return self.length - oversized < limit


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change of an event, as the audit trail keeps it, without number, time and hash.

    A change of a registration's status has `registration_id`; a change of the event's settings or counter
    has none. `before_after` holds `[before, after]` of every setting that changed, and of a party's size; for
    a name or an email address both are None. Only an entry of an adopted registration has no command.
    """

    kind: str
    command_id: UUID | None
    actor: str
    reason: str | None
    registration_id: UUID | None
    from_status: str | None
    to_status: str | None
    spots_delta: int
    spots_reserved: int
    before_after: Mapping[str, Any] | None = None


class Recount(msgspec.Struct, frozen=True, kw_only=True):
    """The sums of an event's rows, and the counter after its last audit entry."""

    confirmed_spots: int
    waitlist_length: int
    audited_spots: int


class FollowUp(msgspec.Struct, frozen=True, kw_only=True):
    """A `PromoteWaitlist` for the ledger, with the accept time of the command that it goes on from."""

    id: UUID
    accepted_at: datetime


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """Registrations that lose what is personal, and settled commands that lose their payload."""

    registration_ids: Sequence[UUID]
    command_ids: Sequence[UUID]


class EventChanges(msgspec.Struct, kw_only=True):
    """The changes of decisions that are not saved yet; each registration is in one of the four tables.

    `corrected` has those of which more than status and place changed, in the order of the decisions.
    `settings` and `recount` are None unless a decision changed the settings or healed the counters; the
    deltas then count from the recount. `overbooked_from` is the highest capacity that a decision lowered
    below the confirmed spots, None if none did. `follow_up` is the command that promotes further, if any has
    to; `erasure` is there after an `Erase`.
    """

    changes: list[Change] = []
    entered: dict[UUID, Registration] = {}
    updated: dict[UUID, Registration] = {}
    corrected: dict[UUID, Registration] = {}
    deleted: list[UUID] = []
    erasure: Erasure | None = None
    settings: EventSettings | None = None
    overbooked_from: int | None = None
    recount: Recount | None = None
    spots_delta: int = 0
    waitlist_delta: int = 0
    follow_up: FollowUp | None = None
