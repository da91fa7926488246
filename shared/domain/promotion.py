"""The rules by which waiting parties and newcomers take free spots (pure)."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import assert_never
from uuid import UUID


class Policy(StrEnum):
    """The rule by which an event gives free spots to its waitlist."""

    STRICT_FIFO = "strict_fifo"
    """The head of the waitlist blocks all registrations behind it until it fits."""

    SKIP_UNFIT = "skip_unfit"
    """The first registration that fits is next; the others keep their places."""


@dataclass(frozen=True, order=True, slots=True)
class Waiter:
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
    _known: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, waiters: Iterable[Waiter], length: int) -> "Waitlist":
        """Return a waitlist of `length` that knows these registrations."""
        waitlist = cls()
        for waiter in waiters:
            waitlist.add(waiter)
        waitlist.length = length
        return waitlist

    def add(self, waiter: Waiter) -> None:
        """Add a registration, in the place that `seq` gives."""
        heapq.heappush(self._lines.setdefault(waiter.spots_count, []), waiter)
        self._known.add(waiter.seq)
        self.length += 1

    def remove(self, waiter: Waiter) -> None:
        """Remove a registration, from any place."""
        self._known.discard(waiter.seq)
        self.length -= 1

    def heads(self) -> list[Waiter]:
        """Return the first registration of every party size."""
        heads = []
        for size, line in list(self._lines.items()):
            while line and line[0].seq not in self._known:
                heapq.heappop(line)
            if line:
                heads.append(line[0])
            else:
                del self._lines[size]
        return heads


def next_up(policy: Policy, waitlist: Waitlist, spots_left: int) -> Waiter | None:
    """Return the registration that takes free spots next, None if the policy promotes none.

    `spots_left` is negative when the event is oversold.
    """
    if spots_left <= 0:
        return None
    heads = waitlist.heads()
    match policy:
        case Policy.STRICT_FIFO:
            head = min(heads, default=None)
            return head if head is not None and head.spots_count <= spots_left else None
        case Policy.SKIP_UNFIT:
            return min((head for head in heads if head.spots_count <= spots_left), default=None)
    assert_never(policy)


def newcomer_may_confirm(policy: Policy, waitlist: Waitlist, *, spots_count: int, spots_left: int) -> bool:
    """Return True if a new party may take spots: it passes no waiting party that the policy would promote."""
    if spots_count > spots_left:
        return False
    match policy:
        case Policy.STRICT_FIFO:
            return waitlist.length == 0
        case Policy.SKIP_UNFIT:
            return next_up(policy, waitlist, spots_left) is None
    assert_never(policy)
