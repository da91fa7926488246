"""Who takes spots that are free, among those who wait and those who come."""

from collections import Counter
from uuid import UUID

import msgspec
import pytest

from shared.domain import commands, rules
from shared.domain.event import EventSettings, Policy, Waiter, Waitlist
from shared.domain.roster import Roster
from tests.simulation.histories import SETTINGS


def waiter(seq: int, spots: int) -> Waiter:
    return Waiter(seq, UUID(int=seq), spots)


def line(*sizes: int) -> Waitlist:
    waiters = [waiter(seq, spots) for seq, spots in enumerate(sizes, 1)]
    return Waitlist.of(waiters, len(sizes), Counter(sizes))


def roster(policy: Policy, waitlist: Waitlist, *, capacity: int, spots_left: int) -> Roster:
    settings = msgspec.convert({**SETTINGS, "capacity": capacity, "promotionPolicy": policy}, EventSettings)
    return Roster(
        settings=settings,
        spots_reserved=capacity - spots_left,
        waitlist=waitlist,
        registrations={},
        holders={},
    )


@pytest.mark.parametrize("policy", Policy)
def test_nobody_is_next_when_nobody_waits(policy: Policy) -> None:
    assert rules.next_up(policy, line(), capacity=9, spots_left=5) is None


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("spots_left", [0, -3])
def test_nobody_is_next_when_nothing_is_free_or_the_event_is_oversold(
    policy: Policy, spots_left: int
) -> None:
    assert rules.next_up(policy, line(1), capacity=9, spots_left=spots_left) is None


@pytest.mark.parametrize(
    ("policy", "sizes", "spots_left", "expected"),
    [
        (Policy.STRICT_FIFO, [2, 1], 2, waiter(1, 2)),
        (Policy.STRICT_FIFO, [2, 1], 1, None),
        (Policy.STRICT_FIFO, [1, 2], 1, waiter(1, 1)),
        (Policy.SKIP_UNFIT, [2, 1], 2, waiter(1, 2)),
        (Policy.SKIP_UNFIT, [2, 1], 1, waiter(2, 1)),
        (Policy.SKIP_UNFIT, [3, 2], 1, None),
        (Policy.SKIP_UNFIT, [3, 2, 2, 1], 2, waiter(2, 2)),
    ],
)
def test_the_policy_says_who_is_next(
    policy: Policy, sizes: list[int], spots_left: int, expected: Waiter | None
) -> None:
    assert rules.next_up(policy, line(*sizes), capacity=9, spots_left=spots_left) == expected


@pytest.mark.parametrize(
    ("policy", "sizes", "spots_count", "spots_left", "expected"),
    [
        (Policy.STRICT_FIFO, [], 2, 2, True),
        (Policy.STRICT_FIFO, [], 3, 2, False),
        (Policy.STRICT_FIFO, [6], 1, 2, False),
        (Policy.SKIP_UNFIT, [], 2, 2, True),
        (Policy.SKIP_UNFIT, [6], 1, 2, True),
        (Policy.SKIP_UNFIT, [6, 2], 1, 2, False),
        (Policy.SKIP_UNFIT, [6], 3, 2, False),
    ],
)
def test_a_newcomer_never_passes_whom_the_policy_would_promote(
    policy: Policy, sizes: list[int], spots_count: int, spots_left: int, *, expected: bool
) -> None:
    event = roster(policy, line(*sizes), capacity=9, spots_left=spots_left)

    assert event.may_take(spots_count) is expected


def test_a_waitlist_of_which_only_the_head_is_known_still_blocks_newcomers() -> None:
    waitlist = Waitlist.of([waiter(1, 6)], 3_000)

    assert not roster(Policy.STRICT_FIFO, waitlist, capacity=9, spots_left=5).may_take(1)


def test_whoever_leaves_from_the_middle_is_passed_over() -> None:
    waitlist = line(2, 2, 2)
    waitlist.remove(waiter(2, 2))
    waitlist.remove(waiter(1, 2))

    assert waitlist.heads(9) == [waiter(3, 2)]
    assert waitlist.length == 1


def test_a_line_that_everybody_has_left_is_gone() -> None:
    waitlist = line(2, 1)
    waitlist.remove(waiter(1, 2))

    assert waitlist.heads(9) == [waiter(2, 1)]
    waitlist.add(waiter(3, 2))
    assert sorted(waitlist.heads(9)) == [waiter(2, 1), waiter(3, 2)]


def test_whoever_goes_to_the_tail_is_behind_all_who_waited() -> None:
    waitlist = line(2, 2)
    waitlist.remove(waiter(1, 2))
    waitlist.add(waiter(9, 2))

    assert rules.next_up(Policy.STRICT_FIFO, waitlist, capacity=9, spots_left=4) == waiter(2, 2)
    assert waitlist.length == 2


@pytest.mark.parametrize("policy", Policy)
def test_an_oversized_party_blocks_no_other(policy: Policy) -> None:
    waitlist = line(10, 1)

    assert rules.next_up(policy, waitlist, capacity=5, spots_left=5) == waiter(2, 1)
    assert rules.next_up(policy, waitlist, capacity=10, spots_left=10) == waiter(1, 10)


@pytest.mark.parametrize("policy", Policy)
def test_a_newcomer_passes_oversized_parties(policy: Policy) -> None:
    assert roster(policy, line(10, 6), capacity=5, spots_left=5).may_take(1)


@pytest.mark.parametrize(
    ("limit", "capacity", "expected"),
    [(None, 5, True), (2, 5, True), (1, 5, False), (3, 10, True), (2, 10, False), (2, 0, False)],
)
def test_oversized_parties_take_no_room(limit: int | None, capacity: int, *, expected: bool) -> None:
    assert line(10, 1).has_room(limit, capacity) is expected


def test_a_waitlist_counts_oversized_parties_it_does_not_know() -> None:
    waitlist = Waitlist.of([waiter(1, 2)], 5, {10: 3, 20: 1})
    assert waitlist.has_room(2, 9)
    assert not waitlist.has_room(2, 10)

    waitlist.remove(waiter(2, 20))
    waitlist.add(waiter(6, 2))
    assert not waitlist.has_room(2, 9)


def test_one_command_can_promote_into_all_spots_of_the_largest_party() -> None:
    assert rules.PROMOTED_SPOTS_MAX >= commands.SPOTS_PER_COMMAND_MAX
