"""The offer to a newcomer, against what a newcomer of every size would really get."""

import asyncio
from copy import deepcopy
from dataclasses import replace
from datetime import datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import settings as examples
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from api.edge.schemas import Availability
from api.queries import availability, events
from shared.domain import offer
from tests.simulation import histories, worlds
from tests.simulation.histories import HISTORIES, History, change, history, move, register
from tests.simulation.in_memory import InMemory
from tests.simulation.in_postgres import InPostgres
from tests.simulation.model import Model, Told
from tests.simulation.worlds import Witness, World

_SIZES_MAX = 10
_NEWCOMER = Told(
    id=str(UUID(int=1)),
    seq=10**9,
    kind="register",
    payload={"name": "Newcomer"},
    accepted_at=histories.START,
    registration_id=str(UUID(int=2)),
    follow_up_id=str(UUID(int=3)),
)
_NEXT = {"confirmed": "CONFIRMED", "waitlisted": "WAITLIST", "refused": "FULL"}


def expected(model: Model, at: datetime) -> tuple[int | None, str | None]:
    """Return the largest party that is confirmed, and what a party of one gets, each by trying."""
    answers = [
        deepcopy(model).decide(
            replace(_NEWCOMER, accepted_at=at, payload={"name": "Newcomer", "spotsCount": spots})
        )
        for spots in range(1, _SIZES_MAX + 1)
    ]
    if answers[0].get("code") in ("REGISTRATION_CLOSED", "REGISTRATION_NOT_OPEN", "EVENT_PAUSED"):
        return None, None
    confirmed = [size for size, answer in enumerate(answers, 1) if answer["outcome"] == "confirmed"]
    return max(confirmed, default=0), _NEXT[answers[0]["outcome"]]


def lived(world: World, drawn: History) -> Model:
    """Let a history happen, and return what the model makes of it."""
    world.accept(list(worlds.asked(drawn)))
    witness = Witness(world, drawn.settings, drawn.promoted_spots_max)
    witness.drain()
    assert witness.objections == []
    return witness.model


@examples(max_examples=150, deadline=None)
@given(HISTORIES)
def test_an_offer_is_what_newcomers_get(drawn: History) -> None:
    world = InMemory(drawn.settings)
    with worlds.bounded(drawn):
        model = lived(world, drawn)
        at = world.commands[-1].accepted_at
        offered = offer.of(deepcopy(world.roster), at)

        found = (None, None) if offered is None else (offered.spots_offered, offered.next.value)
        assert found == expected(model, at)


async def read(database: str, event_id: UUID) -> Availability:
    engine = create_async_engine(database.replace("+psycopg", "+psycopg_async"))
    try:
        async with engine.connect() as connection:
            slug = await events.event_slug(connection, event_id)
            assert slug is not None
            (found,) = (await availability.read(connection, [slug])).values()
    finally:
        await engine.dispose()
    return found


@pytest.mark.parametrize(
    ("drawn", "offered"),
    [
        (history(), (4, "CONFIRMED")),
        (history(register(3), capacity=20), (10, "CONFIRMED")),
        (history(register(3), register(3)), (0, "WAITLIST")),
        (history(register(3), register(3), waitlistLimit=1), (0, "FULL")),
        (history(register(3), register(3), promotionPolicy="skip_unfit"), (1, "CONFIRMED")),
        (history(register(4), waitlistEnabled=False), (0, "FULL")),
        (history(register(3), waitlistEnabled=False), (1, "CONFIRMED")),
        (history(register(2), move("WAITLIST", 1), register(1), promoted_spots_max=1), (1, "CONFIRMED")),
        (history(register(2), move("WAITLIST", 1)), (2, "CONFIRMED")),
        (history(register(2), register(1), move("WAITLIST", 2), autoPromote=False), (0, "WAITLIST")),
        (history(register(4), register(6), change(capacity=5)), (1, "CONFIRMED")),
        (history(capacity=0), (0, "WAITLIST")),
        (history(register(1), change(paused=True)), (None, None)),
        (history(closesAt=histories.START), (None, None)),
        (history(opensAt=histories.minute(10**7)), (None, None)),
    ],
)
def test_the_public_figures_tell_the_offer(
    database: str, connection: Connection, drawn: History, offered: tuple[int | None, str | None]
) -> None:
    world = InPostgres(connection, drawn.settings)
    with worlds.bounded(drawn):
        model = lived(world, drawn)
        found = asyncio.run(read(database, world.event_id))

        assert (found.spots_offered, found.next, found.pending) == (*offered, 0)
        assert expected(model, found.as_of) == offered


@pytest.mark.parametrize("seed", range(6))
def test_the_public_figures_tell_the_offer_of_a_crowd(
    database: str, connection: Connection, seed: int
) -> None:
    drawn = histories.long(seed)
    world = InPostgres(connection, drawn.settings)
    with worlds.bounded(drawn):
        model = lived(world, drawn)
        found = asyncio.run(read(database, world.event_id))

        assert (found.spots_offered, found.next) == expected(model, found.as_of)


def test_pending_commands_are_told_beside_the_offer(database: str, connection: Connection) -> None:
    drawn = history(register(1), register(2))
    world = InPostgres(connection, drawn.settings)
    world.accept(list(worlds.asked(drawn)))

    found = asyncio.run(read(database, world.event_id))

    assert (found.spots_offered, found.next, found.pending) == (4, "CONFIRMED", 2)
