"""Availability: a crowd shares a read, answers are told for a short time, and unknown slugs cost little."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, TypeVar

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url
from starlette.testclient import TestClient

from api.main import create_app
from api.queries import availability
from api.queries.availability import Availabilities
from api.queries.reader import Query, Reader
from shared.postgres import connections
from shared.settings import Settings
from tests.stage import Json, Stage

WAIT_SECONDS_MAX = 10
CROWD = 1_000
_Value = TypeVar("_Value")


class _Counted(Reader):
    """A reader that counts its reads, and is asked by a crowd while it reads."""

    reads = 0

    async def read(self, query: Query[_Value], *, snapshot: bool = False) -> _Value:
        self.reads += 1
        return await super().read(query, snapshot=snapshot)


def asked(
    settings: Settings, ask: Callable[[Availabilities], Awaitable[_Value]]
) -> tuple[_Value, Availabilities, int]:
    """Run a coroutine with availabilities of its own; return its value, and how many reads there were."""

    async def run() -> tuple[_Value, Availabilities, int]:
        engine = connections.async_engine(settings)
        reader = _Counted(engine)
        asking = Availabilities(reader)
        try:
            return await ask(asking), asking, reader.reads
        finally:
            await engine.dispose()

    return asyncio.run(run())


def change(settings: Settings, statement: str) -> None:
    url = make_url(settings.database_url).set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
        connection.execute(statement.encode())


@pytest.fixture
def event(settings: Settings) -> None:
    change(
        settings,
        "INSERT INTO event (id, slug, title, capacity) VALUES (gen_random_uuid(), 'drop', 'A drop', 10)",
    )


async def find(asking: Availabilities, slug: str = "drop") -> Json | None:
    answer = await asking.tell(slug, WAIT_SECONDS_MAX)
    body: Json | None = None if answer is None else json.loads(bytes(answer.body))
    return body


@pytest.mark.usefixtures("event")
@pytest.mark.parametrize(("slug", "later"), [("drop", CROWD), ("no-such-event", 0)])
def test_a_crowd_shares_one_read(
    settings: Settings, slug: str, later: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(availability, "AGE_SECONDS_MAX", 3_600)

    async def crowd(asking: Availabilities) -> list[Any]:
        first = await asyncio.gather(*(asking.tell(slug, WAIT_SECONDS_MAX) for _ in range(CROWD)))
        return [*first, *[await asking.tell(slug, WAIT_SECONDS_MAX) for _ in range(later)]]

    answers, _, reads = asked(settings, crowd)

    assert reads == 1
    assert len(set(answers)) == 1, "encoded once"


@pytest.mark.usefixtures("event")
def test_an_answer_is_replaced_when_old(settings: Settings) -> None:
    async def until_changed(asking: Availabilities) -> tuple[Json | None, Json | None]:
        before = after = await find(asking)
        change(settings, "UPDATE event SET capacity = 20")
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while after == before:
                await asyncio.sleep(availability.AGE_SECONDS_MAX / 10)
                after = await find(asking)
        return before, after

    (before, after), _, _ = asked(settings, until_changed)

    assert before is not None
    assert after is not None
    assert after == {**before, "capacity": 20, "spotsLeft": 20, "asOf": after["asOf"]}
    assert after["asOf"] > before["asOf"]


def test_an_event_appears_when_it_is_there(settings: Settings) -> None:
    async def until_there(asking: Availabilities) -> Json:
        assert await find(asking) is None
        change(
            settings,
            "INSERT INTO event (id, slug, title, capacity) VALUES (gen_random_uuid(), 'drop', 'A drop', 10)",
        )
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            found = None
            while found is None:
                await asyncio.sleep(availability.AGE_SECONDS_MAX / 10)
                found = await find(asking)
        return found

    found, _, _ = asked(settings, until_there)

    assert found["spotsLeft"] == 10


def test_unknown_slugs_fill_no_memory(settings: Settings) -> None:
    many = 25_000

    async def flood(asking: Availabilities) -> list[Any]:
        return await asyncio.gather(*(asking.tell(f"no-{n}", WAIT_SECONDS_MAX) for n in range(many)))

    answers, asking, reads = asked(settings, flood)

    assert answers == [None] * many
    assert len(asking.kept) <= 10_000
    assert reads == 5


@pytest.mark.parametrize("slug", ["Drop", "a b", "-", "", "drop\n", "d'rop", "d\x00"])
def test_an_impossible_slug_is_not_read(settings: Settings, slug: str) -> None:
    answer, asking, reads = asked(settings, lambda asking: asking.tell(slug, WAIT_SECONDS_MAX))

    assert (answer, reads, asking.kept) == (None, 0, {})


def test_the_answer_says_as_of_when(stage: Stage) -> None:
    event = stage.create_event(capacity=7)
    with stage.client() as client:
        answer = client.get(f"/api/p/{event['slug']}")
        unknown = client.get("/api/p/no-such-event")

    assert (answer.status_code, unknown.status_code) == (HTTPStatus.OK, HTTPStatus.NOT_FOUND)
    assert unknown.json()["code"] == "EVENT_NOT_FOUND"
    now = stage.query("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS now")
    assert event["createdAt"] < answer.json()["asOf"] <= now[0]["now"]


def test_a_new_event_is_told_at_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "AGE_SECONDS_MAX", 3_600)
    key = "an admin key of this test"
    with TestClient(create_app(settings.model_copy(update={"admin_key": SecretStr(key)}))) as client:
        before = client.get("/api/p/made-now").status_code
        made = {"slug": "made-now", "title": "A drop", "capacity": 1}
        client.post("/api/events", json=made, headers={"authorization": f"Bearer {key}"})
        after = client.get("/api/p/made-now").status_code
    assert (before, after) == (HTTPStatus.NOT_FOUND, HTTPStatus.OK)


def test_parties_out_of_line_take_no_room(settings: Settings) -> None:
    change(
        settings,
        """
        WITH made AS (
            INSERT INTO event (id, slug, title, capacity, spots_reserved, waitlist_length, waitlist_limit)
            SELECT gen_random_uuid(), slug, 'A drop', 3, 3, 2, 2 FROM unnest(ARRAY['drop', 'other']) AS slug
            RETURNING id, slug
        )
        INSERT INTO registration (event_id, id, seq, name, spots_count, status)
        SELECT id, gen_random_uuid(), seq, 'User', spots, status
        FROM made JOIN (VALUES ('drop', 1, 3, 'WAITLIST'), ('drop', 2, 2, 'WAITLIST'),
                               ('drop', 3, 9, 'CANCELLED'), ('other', 4, 9, 'WAITLIST'))
                       AS party (slug, seq, spots, status) USING (slug)
        """,
    )

    def told() -> str | None:
        answer, _, _ = asked(settings, lambda asking: asking.tell("drop", WAIT_SECONDS_MAX))
        assert answer is not None
        found: str | None = json.loads(bytes(answer.body))["next"]
        return found

    assert told() == "FULL"
    change(settings, "UPDATE registration SET spots_count = 4 WHERE seq = 1")
    assert told() == "WAITLIST"
