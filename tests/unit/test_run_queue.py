"""The run queue: which events a worker applies next, how many of them, and with how many commands."""

import math
from collections.abc import Callable
from uuid import UUID

import pytest

from shared.domain.outcomes import Confirmed, SettledCommand
from worker.run_queue import (
    CROWD_MIN,
    CROWD_SECONDS,
    EVENTS_PER_BATCH_MAX,
    LOOK_SECONDS,
    READY_MAX,
    RunQueue,
)

BATCH_MAX, BACKLOG_BATCH_MAX = 10, 50
LOOKS_MAX = 100
EVENTS = A, B, C, D = [UUID(int=number) for number in range(1, 5)]


def queue_of(*event_ids: UUID, clock: Callable[[], float] = lambda: 0.0) -> RunQueue:
    queue = RunQueue(BATCH_MAX, BACKLOG_BATCH_MAX, clock)
    queue.add(event_ids)
    return queue


def settled(*event_ids: UUID) -> list[SettledCommand]:
    """Return a settled command for each of these events, twice for an event that is named twice."""
    outcome = Confirmed(registration_id=UUID(int=9), spots_count=1)
    return [SettledCommand(event_id=id_, command_id=UUID(int=8), seq=8, outcome=outcome) for id_ in event_ids]


def batches(queue: RunQueue) -> list[list[UUID]]:
    """Take batches until no event is ready."""
    taken = []
    while queue.ready:
        taken.append(queue.next_batch()[0])
    return taken


def test_events_share_a_batch_in_order() -> None:
    queue = queue_of(B, A, C)
    queue.add([A, D])

    assert queue.next_batch() == ([B, A, C, D], BATCH_MAX)
    assert not queue.ready


def test_without_ready_events_there_is_no_batch() -> None:
    assert queue_of().next_batch() == ([], 0)


def test_a_batch_has_a_bounded_number_of_events() -> None:
    event_ids = [UUID(int=number) for number in range(EVENTS_PER_BATCH_MAX + 3)]

    assert batches(queue_of(*event_ids)) == [
        event_ids[:EVENTS_PER_BATCH_MAX],
        event_ids[EVENTS_PER_BATCH_MAX:],
    ]


def test_a_bounded_number_of_events_is_ready() -> None:
    queue = queue_of(*(UUID(int=number) for number in range(READY_MAX)))
    queue.add([UUID(int=READY_MAX)])
    assert len(queue.ready) == READY_MAX

    queue.next_batch()
    queue.add([UUID(int=READY_MAX)])
    assert UUID(int=READY_MAX) in queue.ready


def test_events_of_a_full_batch_come_again() -> None:
    queue = queue_of(A, B)
    batch, commands_max = queue.next_batch()
    queue.add([C])
    queue.settled(batch, settled(*[A] * (commands_max - 1), B), commands_max)

    assert queue.next_batch() == ([C, A, B], BACKLOG_BATCH_MAX)


def test_a_woken_event_keeps_its_place() -> None:
    queue = queue_of(A)
    batch, commands_max = queue.next_batch()
    queue.add([A, B])
    queue.settled(batch, settled(*[A] * commands_max), commands_max)

    assert queue.next_batch() == ([A, B], BACKLOG_BATCH_MAX)


def test_a_message_does_not_shrink_a_backlog() -> None:
    queue = queue_of(A)
    batch, commands_max = queue.next_batch()
    queue.settled(batch, settled(*[A] * commands_max), commands_max)
    queue.add([A])

    assert queue.next_batch() == ([A], BACKLOG_BATCH_MAX)


def test_events_with_several_commands_come_again() -> None:
    queue = queue_of(A, B, C)
    batch, commands_max = queue.next_batch()
    queue.settled(batch, settled(A, B, C, B), commands_max)

    assert queue.next_batch() == ([B], BATCH_MAX)


def test_the_only_settled_event_comes_again() -> None:
    queue = queue_of(A, B)
    batch, commands_max = queue.next_batch()
    queue.settled(batch, settled(B), commands_max)

    assert queue.next_batch() == ([B], BATCH_MAX)


def test_one_command_each_is_no_crowd() -> None:
    queue = queue_of(A, B)
    batch, commands_max = queue.next_batch()
    queue.settled(batch, settled(A, B), commands_max)
    queue.settled([C], [], commands_max)

    assert not queue.ready


def queue_after_a_crowd(seconds: list[float]) -> RunQueue:
    """Return a queue that found a crowd of A, and nothing in the batch behind it; now it is time to look."""
    queue = queue_of(A, clock=lambda: seconds[0])
    queue.settled(queue.next_batch()[0], settled(*[A] * CROWD_MIN), 2 * CROWD_MIN)
    queue.settled(queue.next_batch()[0], [], BATCH_MAX)
    seconds[0] = queue.look_at
    return queue


def looks(queue: RunQueue, seconds: list[float]) -> list[tuple[float, list[UUID]]]:
    """Return the batches that find nothing from now on, each with its time."""
    found: list[tuple[float, list[UUID]]] = []
    while queue.ready or queue.look_at < math.inf:
        assert len(found) < LOOKS_MAX
        if not queue.ready:
            seconds[0] = queue.look_at
        batch, commands_max = queue.next_batch()
        if batch:
            found.append((seconds[0], batch))
            queue.settled(batch, [], commands_max)
    return found


def test_a_crowd_is_looked_for_a_while() -> None:
    seconds = [0.0]
    queue = queue_of(A, B, clock=lambda: seconds[0])
    batch, _ = queue.next_batch()
    queue.settled(batch, settled(*[A] * CROWD_MIN, B, B), 2 * CROWD_MIN)

    at_once, *later = looks(queue, seconds)

    assert at_once == (0, [A, B])
    assert [batch for _, batch in later] == [[A]] * len(later)
    assert [at for at, _ in later] == pytest.approx([n * LOOK_SECONDS for n in range(1, len(later) + 1)])
    assert CROWD_SECONDS - LOOK_SECONDS <= later[-1][0] < CROWD_SECONDS


def test_a_crowd_that_comes_is_looked_for_again() -> None:
    seconds = [0.0]
    queue = queue_after_a_crowd(seconds)
    queue.settled(queue.next_batch()[0], settled(*[A] * CROWD_MIN), 2 * CROWD_MIN)

    assert queue.look_at == math.inf, "its commands came"
    assert looks(queue, seconds)[-1][0] > CROWD_SECONDS


def test_a_few_commands_need_their_messages() -> None:
    seconds = [0.0]
    queue = queue_of(A, clock=lambda: seconds[0])
    queue.settled(queue.next_batch()[0], settled(*[A] * (CROWD_MIN - 1)), BATCH_MAX)

    assert looks(queue, seconds) == [(0, [A])]


def test_a_look_takes_other_events_along() -> None:
    seconds = [0.0]
    queue = queue_after_a_crowd(seconds)
    queue.add([B])

    assert queue.next_batch()[0] == [B, A]


def test_events_of_a_refused_batch_go_alone() -> None:
    queue = queue_of(A, B)
    queue.refused(queue.next_batch()[0])
    queue.add([C, D])

    assert batches(queue) == [[A], [B], [C, D]]


def test_isolated_events_do_not_hold_up_others() -> None:
    queue = queue_of(A, B)
    batch, _ = queue.next_batch()
    queue.add([C])
    queue.refused(batch)
    queue.add([D])

    assert batches(queue) == [[C, D], [A], [B]]


def test_isolated_events_rejoin_at_a_tick() -> None:
    queue = queue_of(A, B)
    queue.refused(queue.next_batch()[0])
    for event_id in (A, B):
        queue.settled(queue.next_batch()[0], settled(event_id, event_id), BATCH_MAX)
    assert batches(queue) == [[A], [B]]

    queue.tick()
    queue.add([A, B, C])

    assert batches(queue) == [[A, B, C]]


def test_a_failing_event_pauses_longer_each_time() -> None:
    seconds = [0.0]
    queue = queue_of(A, clock=lambda: seconds[0])
    pauses = []
    for _ in range(3):
        assert queue.next_batch()[0] == [A]
        queue.refused([A])
        assert not queue.ready
        failed_at = seconds[0]
        while not queue.ready:
            seconds[0] += 0.25
            queue.add([A, B])
            if batches(queue) == [[A], [B]]:
                queue.add([A])
        pauses.append(seconds[0] - failed_at)

    assert pauses == [0.5, 1, 1]


def test_a_failing_event_stays_isolated_past_a_tick() -> None:
    seconds = [0.0]
    queue = queue_of(A, clock=lambda: seconds[0])
    queue.refused(queue.next_batch()[0])
    queue.tick()
    seconds[0] = 1
    queue.add([B, A])
    assert batches(queue) == [[B], [A]]

    assert queue.settled([A], settled(A), BATCH_MAX) == [A], "it fails no longer"
    queue.tick()
    queue.add([B, A])
    assert batches(queue) == [[A, B]]
    assert queue.settled([A], settled(A), BATCH_MAX) == []


def test_a_backlog_does_not_starve_other_events() -> None:
    queue = queue_of(A, B)
    queue.refused(queue.next_batch()[0])
    order = []
    for _ in range(6):
        batch, commands_max = queue.next_batch()
        order += batch
        queue.settled(batch, settled(*batch * commands_max), commands_max)

    assert order == [A, B] * 3
