"""Who takes spots that are free: the rules between those who wait and those who come (pure)."""

from enum import StrEnum
from typing import assert_never


class Policy(StrEnum):
    """How an event hands free spots to its waitlist."""

    STRICT_FIFO = "strict_fifo"
    """The head of the waitlist blocks everyone behind it until it fits."""

    SKIP_UNFIT = "skip_unfit"
    """The first in line that fits is next; those that do not fit keep their place."""


def newcomer_may_confirm(
    policy: Policy, *, spots_count: int, spots_left: int, smallest_waiting: int | None
) -> bool:
    """Tell whether a new party may take spots now, without barging past anyone whom the policy would promote.

    `smallest_waiting` is the size of the smallest waiting party, None when nobody waits;
    `spots_left` is negative when the event is oversold.
    """
    if spots_count > spots_left:
        return False
    if smallest_waiting is None:
        return True
    match policy:
        case Policy.STRICT_FIFO:
            return False
        case Policy.SKIP_UNFIT:
            return smallest_waiting > spots_left
    assert_never(policy)
