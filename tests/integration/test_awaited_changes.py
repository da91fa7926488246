"""Holders who wait for a change of their status, and are told of it without asking again and again."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import UUID

import httpx2
import pytest
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from api.queries import status_changes
from api.queries.reader import Reader
from api.queries.status_changes import StatusChanges
from shared.domain import ids
from shared.postgres import connections
from shared.settings import Settings
from tests.integration.test_status_changes import delete, patch, register
from tests.simulation import worlds
from tests.simulation.histories import SETTINGS, Request, change, history
from tests.simulation.histories import register as asked_to_register
from tests.simulation.in_postgres import InPostgres
from tests.stage import Json, Stage

LONG_SECONDS = 30
PASSED_SECONDS = 3 * status_changes._PAUSE_SECONDS  # noqa: SLF001 - in which changes are read


def path_of(event: Json, held: Json) -> str:
    return f"/api/p/{event['slug']}/receipts/{held['receiptId']}"


def ask(
    stage: Stage, path: str, tag: str = "", wait: int = LONG_SECONDS, seconds_max: float = 2 * LONG_SECONDS
) -> httpx2.Response:
    headers = {"if-none-match": tag} if tag else {}
    with httpx2.Client(base_url=stage.url, timeout=seconds_max) as client:
        return client.get(f"{path}?wait={wait}", headers=headers)


@contextmanager
def waiting(stage: Stage, path: str, tag: str) -> Iterator[list[httpx2.Response]]:
    """Wait for a change meanwhile; at the end the list has the answer."""
    answers: list[httpx2.Response] = []
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, stage, path, tag, seconds_max=LONG_SECONDS / 2)
        time.sleep(PASSED_SECONDS)  # a change before the request is found as well; this tries the wait
        yield answers
        answers.append(asked.result())


def test_a_promotion_ends_the_wait(stage: Stage) -> None:
    event = stage.create_event(capacity=1)
    first, second = register(stage, event), register(stage, event)
    path = path_of(event, second)
    seen = ask(stage, path, wait=0)

    with waiting(stage, path, seen.headers["etag"]) as answers:
        patch(stage, event, first, "CANCELLED")

    (promoted,) = answers
    assert (promoted.status_code, promoted.json()["status"]) == (200, "CONFIRMED")
    assert promoted.headers["etag"] != seen.headers["etag"]


@pytest.mark.parametrize("status", ["CANCELLED", "DELETED"])
def test_a_confirmed_holder_waits_too(stage: Stage, status: str) -> None:
    event = stage.create_event()
    held = register(stage, event)
    path = path_of(event, held)

    with waiting(stage, path, ask(stage, path, wait=0).headers["etag"]) as answers:
        if status == "DELETED":
            delete(stage, event, held)
        else:
            patch(stage, event, held, status)

    assert answers[0].json()["status"] == status


def test_a_position_that_moves_ends_no_wait(stage: Stage) -> None:
    event = stage.create_event(capacity=1)
    first, second, third, last = (register(stage, event) for _ in range(4))
    path = path_of(event, last)
    seen = ask(stage, path, wait=0)
    patch(stage, event, second, "CANCELLED")

    with waiting(stage, path, seen.headers["etag"]) as answers:
        patch(stage, event, third, "CANCELLED")
        time.sleep(PASSED_SECONDS)
        patch(stage, event, first, "CANCELLED")
    moved = ask(stage, path, '"CONFIRMED-and-other-content"', wait=1)

    assert answers[0].json()["status"] == "CONFIRMED"
    assert (moved.status_code, moved.json()["status"]) == (200, "CONFIRMED")


def test_an_unchanged_receipt_is_told_when_the_time_is_up(stage: Stage) -> None:
    event = stage.create_event(capacity=0)
    path = path_of(event, register(stage, event))

    again = ask(stage, path, f'W/{ask(stage, path, wait=0).headers["etag"]}, "other"', wait=1)

    assert (again.status_code, again.content) == (304, b"")


def test_without_a_tag_a_waiting_holder_is_told_when_to_ask(stage: Stage) -> None:
    event = stage.create_event(capacity=1)
    confirmed, waits = register(stage, event), register(stage, event)

    answers = [ask(stage, path_of(event, waits), tag) for tag in ("", '"other"', '"CONFIRMED-0"')]

    for answer in answers:
        assert (answer.status_code, answer.json()["status"]) == (200, "WAITLIST")
        assert 15 <= int(answer.headers["retry-after"]) <= 60
    assert "retry-after" not in ask(stage, path_of(event, confirmed)).headers


def test_a_settled_refusal_is_not_waited_for(stage: Stage) -> None:
    event = stage.create_event(capacity=0, waitlistEnabled=False)
    with stage.client() as client:
        refused = client.post(
            f"/api/p/{event['slug']}/register", json={"name": "User"}, headers={"idempotency-key": "one"}
        ).json()  # without a key it would make no command, and so no receipt
    path = path_of(event, refused)

    again = ask(stage, path, ask(stage, path, wait=0).headers["etag"], seconds_max=LONG_SECONDS / 2)

    assert again.status_code == 304


def apply(world: InPostgres, *requests: Request) -> None:
    """Let the owner decide these."""
    world.accept(list(worlds.asked(history(*requests))))
    while world.apply(100):
        pass


def use(settings: Settings, work: Callable[[StatusChanges], Awaitable[None]]) -> None:
    async def run() -> None:
        engine = connections.async_engine(settings)
        changes = StatusChanges(Reader(engine))
        try:
            await work(changes)
            assert changes._events == {}, "no client waits"  # noqa: SLF001 - what it remembers
        finally:
            await changes.close()
            await engine.dispose()

    asyncio.run(run())


def test_a_crowd_that_waits_shares_its_reads(
    settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    worlds_of = [InPostgres(connection, {**SETTINGS, "capacity": 0}) for _ in range(2)]
    requests = [asked_to_register()] * 5 + [change(capacity=2), change(capacity=3)]
    reads = 0
    read = StatusChanges._read  # noqa: SLF001 - counted

    async def counted(self: StatusChanges, event_ids: Sequence[UUID], connection: AsyncConnection) -> None:
        nonlocal reads
        reads += 1
        await read(self, event_ids, connection)

    monkeypatch.setattr(StatusChanges, "_read", counted)
    registrations = [ids.registration_id(worlds.command_id(number)) for number in range(5)]

    async def crowd(changes: StatusChanges) -> None:
        waiting = {
            (place, number): asyncio.create_task(changes.wait(world.event_id, id_, 5, LONG_SECONDS))
            for place, world in enumerate(worlds_of)
            for number, id_ in enumerate(registrations * 500)
        }
        await asyncio.sleep(0)
        apply(worlds_of[0], *requests)
        promoted = {key for key in waiting if key[0] == 0 and key[1] % 5 < 3}
        await asyncio.wait([waiting[key] for key in promoted])
        assert {key for key, task in waiting.items() if task.done()} == promoted
        changes.release()
        await asyncio.wait(waiting.values())
        await changes.wait(worlds_of[0].event_id, registrations[4], 0, LONG_SECONDS)

    use(settings, crowd)

    assert reads < 20, "the reads do not grow with the clients"


def test_a_change_before_the_wait_is_found(settings: Settings, connection: Connection) -> None:
    """One client has seen the change and goes on waiting; another one has not."""
    world = InPostgres(connection, {**SETTINGS, "capacity": 0})
    apply(world, asked_to_register(), change(capacity=1))
    registration_id = ids.registration_id(worlds.command_id(0))
    seen_all, seen_first = 3, 1

    async def both(changes: StatusChanges) -> None:
        knows = asyncio.create_task(changes.wait(world.event_id, registration_id, seen_all, LONG_SECONDS))
        await asyncio.sleep(PASSED_SECONDS)
        async with asyncio.timeout(LONG_SECONDS / 2):
            await changes.wait(world.event_id, registration_id, seen_first, LONG_SECONDS)
        assert not knows.done()
        changes.release()
        await knows

    use(settings, both)
