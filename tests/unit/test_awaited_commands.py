"""The registry of awaited commands: every wait ends once, with the outcome or without."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import nullcontext
from types import MappingProxyType, SimpleNamespace
from typing import cast
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from api.commands import ledger_fallback, outcome_waiter
from api.commands.intake import Intake
from api.commands.ledger_fallback import LedgerFallback
from api.commands.outcome_waiter import AwaitedCommand, OutcomeWaiter, ResultPoller
from api.tasks import SingleTask
from shared import metrics
from shared.domain.outcomes import Confirmed, Outcome
from shared.messaging import results
from shared.postgres import ledger
from shared.postgres.ledger import RecordedOutcome
from shared.settings import Settings

NEVER_SECONDS = 3_600
NOWHERE = "redis://127.0.0.1:9/0"
SETTINGS = Settings(
    database_url="postgresql://nowhere/none", broker_url=NOWHERE, result_url=NOWHERE, answer_read_max=2
)
OUTCOME = Confirmed(registration_id=UUID(int=9), spots_count=1)
SOON_SECONDS_MAX = 20
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
        (awaited,) = waiter.all()
        waiter.answer(awaited, OUTCOME)
        answers = await asyncio.gather(*waits, return_exceptions=True)
        assert (waiter.by_event, waiter.all()) == ({}, [])
        return answers[1:]

    assert asyncio.run(run()) == [OUTCOME, OUTCOME]


def test_a_wait_ends_without_an_outcome() -> None:
    asked: list[AwaitedCommand] = []

    async def run() -> tuple[object, object, object]:
        waiter = OutcomeWaiter(NEVER_SECONDS)
        waiter.ask_ledger = asked.append
        at_once = await waiter.outcome(A, UUID(int=1), 0)
        late = await waiter.outcome(A, UUID(int=1), 0.001)
        return at_once, late, waiter.by_event

    assert asyncio.run(run()) == (None, None, {})
    assert asked == [], "no request would take the ledger's answer"


def test_waits_that_are_given_up_leave_nothing() -> None:
    async def run() -> object:
        waiter = OutcomeWaiter(NEVER_SECONDS)
        waits = [waiting(waiter, A, 1) for _ in range(3)]
        for wait in waits:
            await asyncio.sleep(0)
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        return waiter.by_event

    assert asyncio.run(run()) == {}


def test_only_a_new_command_has_its_acceptance_timed() -> None:
    async def run() -> list[float | None]:
        waiter = OutcomeWaiter(NEVER_SECONDS)
        new = asyncio.create_task(waiter.outcome(A, UUID(int=1), NEVER_SECONDS, accepted_now=True))
        earlier = waiting(waiter, A, 2)
        await asyncio.sleep(0)
        times = [awaited.accepted_at for awaited in waiter.all()]
        waiter.release()
        await asyncio.gather(new, earlier)
        return times

    new, earlier = asyncio.run(run())
    assert new is not None
    assert earlier is None


def test_a_released_waiter_keeps_no_request() -> None:
    async def run() -> list[object]:
        waiter = OutcomeWaiter(NEVER_SECONDS)
        waits = [waiting(waiter, A, 1), waiting(waiter, B, 2)]
        await asyncio.sleep(0)
        waiter.release()
        return [*await asyncio.gather(*waits), await waiting(waiter, C, 3)]

    assert asyncio.run(run()) == [None, None, None]


def test_a_wait_starts_the_poller() -> None:
    async def run() -> list[list[UUID]]:
        waiter = OutcomeWaiter(NEVER_SECONDS)
        polls: list[list[UUID]] = []

        async def poll() -> None:
            polls.append([awaited.command_id for awaited in waiter.all()])

        waiter.poller = SingleTask(poll)
        waits = [waiting(waiter, A, 1), waiting(waiter, A, 2)]
        await until(lambda: polls)
        waits.append(waiting(waiter, B, 3))
        await until(lambda: len(polls) == 2)
        waiter.release()
        await asyncio.gather(*waits)
        return polls

    assert asyncio.run(run()) == [[UUID(int=1), UUID(int=2)], [UUID(int=1), UUID(int=2), UUID(int=3)]]


def test_an_overdue_command_is_asked_for() -> None:
    async def run() -> list[AwaitedCommand]:
        waiter = OutcomeWaiter(0.001)
        asked: list[AwaitedCommand] = []
        waiter.ask_ledger = asked.append
        wait = waiting(waiter, A, 1)
        await until(lambda: asked)
        waiter.answer(asked[0], OUTCOME)
        assert await wait == OUTCOME
        return asked

    (awaited,) = asyncio.run(run())
    assert (awaited.event_id, awaited.command_id) == (A, UUID(int=1))


def test_an_unanswered_question_to_the_ledger_ends() -> None:
    asked: list[AwaitedCommand] = []

    async def run() -> tuple[object, object]:
        waiter = OutcomeWaiter(0.001)
        waiter.ask_ledger = asked.append
        async with asyncio.timeout(SOON_SECONDS_MAX):
            return await waiter.outcome(A, UUID(int=1), 0.01), waiter.by_event

    assert asyncio.run(run()) == (None, {})
    assert len(asked) == 1


def test_a_command_answered_in_time_is_not_asked_for() -> None:
    async def run() -> list[AwaitedCommand]:
        waiter = OutcomeWaiter(0.2)
        asked: list[AwaitedCommand] = []
        waiter.ask_ledger = asked.append
        answered = waiting(waiter, A, 1)
        await asyncio.sleep(0)
        waiter.answer(waiter.all()[0], OUTCOME)
        await answered
        overdue = waiting(waiter, B, 2)
        await until(lambda: asked)
        waiter.release()
        await overdue
        return asked

    assert [awaited.event_id for awaited in asyncio.run(run())] == [B]


def test_polling_reaches_every_event_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome_waiter, "_POLL_SECONDS", 0.001)
    reads: list[set[UUID]] = []

    async def nothing(_: object, command_ids: Sequence[UUID]) -> list[None]:
        reads.append(set(command_ids))
        return [None] * len(command_ids)

    monkeypatch.setattr(results, "read", nothing)

    async def run() -> None:
        waiter = OutcomeWaiter(NEVER_SECONDS)
        waits = [waiting(waiter, event_id, n) for n, event_id in enumerate((A, A, B, C))]
        await asyncio.sleep(0)
        poller = ResultPoller(waiter, results.connect_async(NOWHERE), SETTINGS, lambda _, __: None)
        poller.task.ensure_running()
        await until(lambda: len(reads) > 2)
        waiter.release()
        await asyncio.gather(*waits)
        await poller.close()

    with capture_logs():
        asyncio.run(run())

    assert reads[:3] == [{UUID(int=n) for n in numbers} for numbers in ((0, 2), (3, 0), (2, 3))]


def test_announcements_share_the_next_read(monkeypatch: pytest.MonkeyPatch) -> None:
    announced, reads = 0, 0

    async def announcements(_: str) -> AsyncIterator[list[UUID]]:
        nonlocal announced
        while announced < 100:
            announced += 1
            yield [A]
            await asyncio.sleep(0)
        await asyncio.sleep(NEVER_SECONDS)

    async def nothing(_: object, command_ids: Sequence[UUID]) -> list[None]:
        nonlocal reads
        reads += 1
        await until(lambda: announced == 100)
        return [None] * len(command_ids)

    monkeypatch.setattr(outcome_waiter, "_POLL_SECONDS", NEVER_SECONDS)
    monkeypatch.setattr(results, "announcements", announcements)
    monkeypatch.setattr(results, "read", nothing)

    async def run() -> None:
        waiter = OutcomeWaiter(NEVER_SECONDS)
        wait = waiting(waiter, A, 1)
        await asyncio.sleep(0)
        poller = ResultPoller(waiter, results.connect_async(NOWHERE), SETTINGS, lambda _, __: None)
        poller.task.ensure_running()
        await until(lambda: reads > 1)
        await asyncio.sleep(0.05)  # in which further reads would begin
        waiter.release()
        await wait
        await poller.close()

    asyncio.run(run())

    assert reads == 2, "the first, and one for all that was announced meanwhile"


async def reads_of(
    monkeypatch: pytest.MonkeyPatch,
    event_ids: Sequence[UUID],
    announced: Sequence[UUID],
    count: int,
    known: Mapping[UUID, Outcome] = MappingProxyType({}),
) -> list[set[UUID]]:
    """Return the reads while commands 1, 2 and so on are awaited, of these events, without another poll.

    The events `announced` are announced again after every read, until there were `count` reads.
    """
    reads: list[set[UUID]] = []

    async def announcements(_: str) -> AsyncIterator[list[UUID]]:
        for number in range(count):
            await until(lambda: len(reads) >= number)  # noqa: B023 - used at once
            yield [*announced]
        await asyncio.sleep(NEVER_SECONDS)

    async def read(_: object, command_ids: Sequence[UUID]) -> list[Outcome | None]:
        reads.append(set(command_ids))
        return [known.get(id_) for id_ in command_ids]

    monkeypatch.setattr(outcome_waiter, "_POLL_SECONDS", NEVER_SECONDS)
    monkeypatch.setattr(results, "announcements", announcements)
    monkeypatch.setattr(results, "read", read)
    waiter = OutcomeWaiter(NEVER_SECONDS)
    waits = [waiting(waiter, event_id, number) for number, event_id in enumerate(event_ids, 1)]
    await asyncio.sleep(0)
    poller = ResultPoller(waiter, results.connect_async(NOWHERE), SETTINGS, lambda _, __: None)
    poller.task.ensure_running()
    await until(lambda: len(reads) >= count)
    await asyncio.sleep(0.05)  # in which further reads would begin
    waiter.release()
    await asyncio.gather(*waits)
    await poller.close()
    return reads


def test_events_without_news_take_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = asyncio.run(reads_of(monkeypatch, [A, A, C], [A, B], 2))

    assert reads == [{UUID(int=1), UUID(int=3)}, {UUID(int=1), UUID(int=2)}]


def test_many_announced_commands_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = asyncio.run(reads_of(monkeypatch, [A, B, C], [A, B, C], 2))

    assert [len(read) for read in reads[:2]] == [2, 1]


def test_undecided_commands_are_not_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = asyncio.run(reads_of(monkeypatch, [A, A], [A], 1, {UUID(int=1): OUTCOME}))

    assert reads == [{UUID(int=1), UUID(int=2)}]


def test_a_closed_poller_leaves_no_task() -> None:
    async def run() -> tuple[int, int]:
        waiter = OutcomeWaiter(NEVER_SECONDS)
        poller = ResultPoller(waiter, results.connect_async(NOWHERE), SETTINGS, lambda _, __: None)
        wait = waiting(waiter, A, 1)
        await asyncio.sleep(0)
        poller.task.ensure_running()
        await asyncio.sleep(0)
        running = len(asyncio.all_tasks())
        await poller.close()
        waiter.release()
        await wait
        return running, len(asyncio.all_tasks())

    with capture_logs():
        assert asyncio.run(run()) == (4, 1)


def asking(
    waiter: OutcomeWaiter, again_seconds: float, reads: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> LedgerFallback:
    """Return a fallback whose ledger has no outcome; `reads` gets the commands of every read."""

    async def nothing(_: object, pairs: Sequence[tuple[UUID, UUID]]) -> dict[UUID, RecordedOutcome]:
        reads.append([command_id.int for _, command_id in pairs])
        return {}

    async def confirm(_: object) -> None:
        pass

    monkeypatch.setattr(ledger, "outcomes_of", nothing)
    engine, intake = SimpleNamespace(connect=nullcontext), SimpleNamespace(confirm=confirm)
    return LedgerFallback(
        waiter, cast("AsyncEngine", engine), cast("Intake", intake), again_seconds, lambda *_: None
    )


def test_the_ledger_is_asked_again_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[list[int]] = []

    async def run() -> int:
        waiter = OutcomeWaiter(NEVER_SECONDS)
        fallback = asking(waiter, NEVER_SECONDS, reads, monkeypatch)
        waits = [waiting(waiter, A, 1), waiting(waiter, B, 2)]
        await asyncio.sleep(0)
        first, second = waiter.all()
        fallback.ask(first)
        await until(lambda: reads)
        fallback.ask(first)
        fallback.ask(second)
        await until(lambda: len(reads) > 1)
        waiter.release()
        await asyncio.gather(*waits)
        await fallback.close()
        return len(asyncio.all_tasks())

    assert asyncio.run(run()) == 1, "the fallback reads on after its end"
    assert reads == [[1], [2]]


def test_the_ledger_is_not_asked_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[list[int]] = []

    async def run() -> None:
        waiter = OutcomeWaiter(NEVER_SECONDS)
        fallback = asking(waiter, 0, reads, monkeypatch)
        wait = waiting(waiter, A, 1)
        await asyncio.sleep(0)
        fallback.ask(waiter.all()[0])
        await until(lambda: reads)
        waiter.release()
        await wait
        await until(lambda: len(asyncio.all_tasks()) == 1)

    asyncio.run(run())


def test_a_failed_read_is_made_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[Exception] = [RuntimeError()]
    timed: list[float] = []

    async def failing_once(_: object, pairs: Sequence[tuple[UUID, UUID]]) -> dict[UUID, RecordedOutcome]:
        if errors:
            raise errors.pop()
        return {command_id: RecordedOutcome(OUTCOME, None) for _, command_id in pairs}

    async def run() -> list[object]:
        waiter = OutcomeWaiter(0)
        fallback = asking(waiter, 0, [], monkeypatch)
        monkeypatch.setattr(ledger, "outcomes_of", failing_once)
        waiter.ask_ledger = fallback.ask
        new = waiter.outcome(A, UUID(int=1), NEVER_SECONDS, accepted_now=True)
        async with asyncio.timeout(SOON_SECONDS_MAX):
            return [*await asyncio.gather(new, waiting(waiter, A, 2))]

    monkeypatch.setattr(metrics, "answer_seconds", SimpleNamespace(observe=timed.append))
    monkeypatch.setattr(ledger_fallback, "_READING_SHARE", 1e-9)  # as after a read that took very long
    with capture_logs() as logs:
        assert asyncio.run(run()) == [OUTCOME, OUTCOME]

    assert [entry["event"] for entry in logs] == ["ledger_not_readable"]
    assert len(timed) == 1, "only a new command's answer is timed"


async def until(there: Callable[[], object]) -> None:
    async with asyncio.timeout(SOON_SECONDS_MAX):
        while not there():  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.001)
