"""The registry of awaited commands: every wait ends once, with the outcome or without."""

import asyncio
from uuid import UUID

from api.commands.outcome_waiter import OutcomeWaiter
from shared.domain.outcomes import Confirmed

NEVER_SECONDS = 3_600
OUTCOME = Confirmed(registration_id=UUID(int=9), spots_count=1)
A, B, C = (UUID(int=number) for number in range(1, 4))


def waiting(waiter: OutcomeWaiter, event_id: UUID, number: int) -> "asyncio.Task[object]":
    return asyncio.create_task(waiter.outcome(event_id, UUID(int=number), NEVER_SECONDS))


def test_all_waits_for_a_command_are_answered() -> None:
    async def run() -> list[object]:
        waiter = OutcomeWaiter(NEVER_SECONDS)
        waits = [waiting(waiter, A, 1) for _ in range(3)]
        await asyncio.sleep(0)
        waits[0].cancel()
        await asyncio.sleep(0)
        (awaited,) = waiter
        waiter.answer(awaited, OUTCOME)
        answers = await asyncio.gather(*waits, return_exceptions=True)
        assert (bool(waiter), A in waiter, list(waiter)) == (False, False, [])
        return answers[1:]

    assert asyncio.run(run()) == [OUTCOME, OUTCOME]


def test_a_wait_ends_without_an_outcome() -> None:
    async def run() -> tuple[object, object, bool]:
        waiter = OutcomeWaiter(NEVER_SECONDS)
        at_once = await waiter.outcome(A, UUID(int=1), 0)
        late = await waiter.outcome(A, UUID(int=1), 0.001)
        return at_once, late, bool(waiter)

    assert asyncio.run(run()) == (None, None, False)


def test_a_released_waiter_keeps_no_request() -> None:
    async def run() -> list[object]:
        waiter = OutcomeWaiter(NEVER_SECONDS)
        waits = [waiting(waiter, A, 1), waiting(waiter, B, 2)]
        await asyncio.sleep(0)
        waiter.release()
        return [*await asyncio.gather(*waits), await waiting(waiter, C, 3)]

    assert asyncio.run(run()) == [None, None, None]


def test_readers_start_with_each_wait() -> None:
    async def run() -> int:
        waiter = OutcomeWaiter(NEVER_SECONDS)
        starts = []
        waiter.readers = (lambda: starts.append(bool(waiter)),)
        waits = [waiting(waiter, A, 1), waiting(waiter, A, 2)]
        await asyncio.sleep(0)
        assert starts == [True, True]
        waiter.release()
        await asyncio.gather(*waits)
        return len(starts)

    assert asyncio.run(run()) == 2


def test_events_take_turns() -> None:
    async def run() -> list[list[UUID]]:
        waiter = OutcomeWaiter(NEVER_SECONDS)
        waits = [waiting(waiter, event_id, n) for n, event_id in enumerate((A, A, B, C))]
        await asyncio.sleep(0)
        assert [awaited.command_id.int for awaited in waiter.first(A, 5)] == [0, 1]
        assert [awaited.command_id.int for awaited in waiter.first(A, 1)] == [0]
        turns = [waiter.next_events(2) for _ in range(3)]
        waiter.release()
        await asyncio.gather(*waits)
        return turns

    assert asyncio.run(run()) == [[A, B], [C, A], [B, C]]
