"""Waiting: whoever waits hears of an outcome by news, by looking, or from the ledger."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
import redis

from api.commands.outcome_waiter import Waiting
from api.tasks import end
from shared.domain import ids
from shared.domain.outcomes import Confirmed
from shared.messaging import results
from shared.messaging.results import Announcement, Shelf
from shared.postgres import connections
from shared.postgres.ledger import Settled
from shared.settings import Settings

NEVER_SECONDS = 3_600
ANSWERED_SECONDS_MAX = 20


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Waiting]:
    """Let somebody wait who never asks the ledger."""
    patient = settings.model_copy(update={"ledger_read_seconds": NEVER_SECONDS})
    engine = connections.async_engine(patient)
    client = results.connect_async(patient.result_url)
    waits = Waiting(engine, client, patient, lambda _event_id, _command_ids: None)
    try:
        yield waits
    finally:
        await waits.close()
        await client.aclose()
        await engine.dispose()


def decided(commands: int, events: int = 1) -> list[Settled]:
    """Return outcomes of new commands, of new events in turn."""
    event_ids = [ids.new_id() for _ in range(events)]
    return [
        Settled(
            event_id=event_ids[number % events],
            command_id=ids.new_id(),
            outcome=Confirmed(registration_id=ids.new_id(), spots_count=1),
        )
        for number in range(commands)
    ]


async def all_answered(
    settings: Settings, settled: Sequence[Settled], store: Callable[[Waiting], Awaitable[object]]
) -> bool:
    """Wait for these outcomes while they are stored; tell whether everybody was answered with theirs."""
    async with opened(settings) as waits:
        answers = [
            asyncio.create_task(waits.outcome(one.event_id, one.command_id, NEVER_SECONDS)) for one in settled
        ]
        await asyncio.sleep(0)
        await store(waits)
        answered = await asyncio.wait_for(asyncio.gather(*answers), ANSWERED_SECONDS_MAX)
        return answered == [one.outcome for one in settled]


async def listening(waits: Waiting) -> None:
    """Return when news would be heard."""
    async with asyncio.timeout(ANSWERED_SECONDS_MAX):
        while not waits._news.listening:  # noqa: ASYNC110, SLF001 - nothing else tells
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(("commands", "events"), [(1, 1), (700, 1), (700, 200)])
@pytest.mark.parametrize("told_max", [0, 1_000])
def test_news_alone_is_enough(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, commands: int, events: int, told_max: int
) -> None:
    monkeypatch.setattr(waiting, "_LOOK_SECONDS", NEVER_SECONDS)
    monkeypatch.setattr(results, "_TOLD_MAX", told_max)
    settled = decided(commands, events)

    async def store(waits: Waiting) -> None:
        await listening(waits)
        await asyncio.sleep(0.05)  # the first look is over, and found nothing
        store_all(settings, settled)

    assert asyncio.run(all_answered(settings, settled, store))


@pytest.mark.parametrize(("commands", "events"), [(1, 1), (700, 1), (700, 200)])
def test_what_was_missed_is_found_by_looking(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, commands: int, events: int
) -> None:
    settled = decided(commands, events)

    async def store(waits: Waiting) -> None:
        await listening(waits)
        monkeypatch.setattr(results, "_STORED", b"elsewhere")
        store_all(settings, settled)

    assert asyncio.run(all_answered(settings, settled, store))


def test_without_news_looking_is_enough(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(_result_url: str) -> AsyncIterator[Announcement]:
        raise redis.ConnectionError
        yield Announcement([], [])

    monkeypatch.setattr(results, "listen", nothing)
    settled = decided(300, 3)

    async def store(_waits: Waiting) -> None:
        store_all(settings, settled)

    assert asyncio.run(all_answered(settings, settled, store))


def test_news_is_heard_again_after_the_result_backend_cut_everybody_off(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "_TRY_AGAIN_SECONDS", 0.01)
    client = results.connect(settings.result_url)

    async def cut_off() -> None:
        async with opened(settings) as waits:
            wait = asyncio.create_task(waits.outcome(ids.new_id(), ids.new_id(), NEVER_SECONDS))
            await asyncio.sleep(0)
            await listening(waits)
            client.client_kill_filter(_type="pubsub")
            async with asyncio.timeout(ANSWERED_SECONDS_MAX):
                while not client.pubsub_numsub("admitone.stored")[0][1]:  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(0.01)
            await listening(waits)
            assert not wait.done(), "nobody has an outcome"
            wait.cancel()

    asyncio.run(cut_off())
    client.close()


def test_ending_goes_on_until_the_task_is_done() -> None:
    async def stubborn() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(NEVER_SECONDS)
        await asyncio.sleep(NEVER_SECONDS)

    async def ended() -> bool:
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        await asyncio.wait_for(end(task), ANSWERED_SECONDS_MAX)
        return task.done()

    assert asyncio.run(ended())


def store_all(settings: Settings, settled: Sequence[Settled]) -> None:
    """Store outcomes as a worker does."""
    shelf = Shelf(settings.result_url, NEVER_SECONDS)
    shelf.put(settled)
    shelf.confirm()
    shelf.close()
