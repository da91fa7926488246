"""The rules by which waiting parties and newcomers take free spots (pure).

An oversized party is larger than the event's whole capacity. It keeps its place on the waitlist and counts in
positions, but it is out of line: it blocks no other party and takes no room under the waitlist's limit. It is
in line again when the capacity allows it. Without any capacity no party is oversized.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, assert_never
from uuid import UUID

PROMOTED_SPOTS_MAX = 1_000
"""A command stops promoting once the parties that it promoted take this many spots or more.

A follow-up promotes the others, so no transaction writes without bound. No command that takes one party's
spots away needs a follow-up, because no party that registers is larger (`SPOTS_PER_COMMAND_MAX`).
"""


class Policy(StrEnum):
    """The rule by which an event gives free spots to its waitlist."""

    STRICT_FIFO = "strict_fifo"
    """The head of the line blocks all registrations behind it until it fits."""

    SKIP_UNFIT = "skip_unfit"
    """The first registration that fits is next; the others keep their places."""


class Waiter(NamedTuple):
    """A waiting registration; a lower `seq` is further ahead."""

    seq: int
    id: UUID
    spots_count: int


@dataclass(slots=True)
class Waitlist:
    """The waiting registrations, ordered within each party size.

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


def newcomer_may_confirm(
    policy: Policy, waitlist: Waitlist, *, capacity: int, spots_count: int, spots_left: int
) -> bool:
    """Return True if a new party may take spots: it passes no waiting party that the policy would promote."""
    if spots_count > spots_left:
        return False
    match policy:
        case Policy.STRICT_FIFO:
            return not waitlist.heads(capacity)
        case Policy.SKIP_UNFIT:
            return not waitlist.heads(spots_left)
    assert_never(policy)
