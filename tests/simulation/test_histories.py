"""Random histories of everything that can be asked: answers and states, against a second opinion."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, event, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sqlalchemy import Connection
from structlog.typing import EventDict

from shared.domain.event import PROMOTION
from tests.databases import settle_all
from tests.simulation import histories, worlds
from tests.simulation.histories import HISTORIES, History, history, register
from tests.simulation.in_memory import InMemory
from tests.simulation.in_postgres import InPostgres
from tests.simulation.worlds import Witness
from worker import batch

_BATCH_MAX = 3


@examples(max_examples=400, deadline=None)
@given(HISTORIES)
def test_the_roster_decides_every_history_as_the_naive_model_does(drawn: History) -> None:
    world = InMemory(drawn.settings)

    assert worlds.run(world, drawn) == []

    for kind, count in Counter(
        (change.kind, change.to_status) for change in world.roster.unsaved.changes
    ).items():
        event(f"{kind}: {min(count, 3)}")
    for told in world.commands:
        event((told.outcome or {}).get("code", "not refused"))


@pytest.mark.parametrize("seeds", [range(20), range(20, 40), range(40, 60)])
def test_the_roster_decides_long_and_crowded_histories_as_the_naive_model_does(seeds: range) -> None:
    promoted = 0
    for seed in seeds:
        drawn = histories.long(seed)
        world = InMemory(drawn.settings)

        assert worlds.run(world, drawn) == [], seed

        promoted += sum(change.kind == PROMOTION for change in world.roster.unsaved.changes)
    assert promoted > len(seeds), "crowded histories see promotions"


@pytest.mark.parametrize("seed", range(12))
def test_postgresql_holds_long_and_crowded_histories_as_the_naive_model_does(
    connection: Connection, logs: list[EventDict], seed: int
) -> None:
    drawn = histories.long(seed)

    assert worlds.run(InPostgres(connection, drawn.settings), drawn) == []
    assert logs == [], "no batch was refused"


@pytest.mark.parametrize(
    "drawn",
    [
        history(
            *[register(3), register(5), histories.change(capacity=3), register(3)],
            capacity=6,
            waitlistLimit=1,
            limit=2,
        ),
        history(
            *[register(3), *[register(5)] * 3, histories.change(capacity=3), *[register(1)] * 4],
            capacity=6,
            waitlistLimit=3,
            limit=5,
        ),
        history(
            *[register(10), *[register(4)] * 3, *[register(8)] * 5],
            histories.change(capacity=3, allowOverbooked=True, waitlistLimit=4),
            *[histories.change(capacity=5, allowOverbooked=True), register(1)],
            capacity=10,
            limit=2,
        ),
        history(
            *[register(3), register(5), histories.change(capacity=3)],
            *[histories.change(waitlistLimit=1), register(3)],
            capacity=6,
            limit=3,
        ),
    ],
)
def test_a_batch_knows_the_parties_that_became_oversized(connection: Connection, drawn: History) -> None:
    assert worlds.run(InPostgres(connection, drawn.settings), drawn) == []


@pytest.mark.parametrize(
    "drawn",
    [
        history(
            *[register(1)] * 5,
            *[histories.change(capacity=5), histories.change(autoPromote=True)],
            capacity=0,
            autoPromote=False,
            limit=1,
        ),
        history(*[register(1)] * 6, *map(histories.delete, (5, 4, 3, 6)), capacity=1, limit=6),
        history(
            *[register(1)] * 3,
            *[histories.give_receipt(2), histories.move("WAITLIST", 2)],
            histories.move("WAITLIST", 2, "original"),
            capacity=1,
            limit=4,
        ),
        history(register(3), *(histories.change(capacity=c, allowOverbooked=True) for c in (2, 1))),
        history(
            *[register(1)] * 3,
            *[histories.move("WAITLIST", 1), histories.correct(1, name="Bob")],
            histories.move("CONFIRMED", 1),
            autoPromote=False,
            limit=3,
        ),
    ],
    ids=["switched on", "heads leave", "new receipt", "overbooked", "corrected"],
)
def test_a_batch_knows_the_places_that_it_needs(
    connection: Connection, logs: list[EventDict], drawn: History
) -> None:
    assert worlds.run(InPostgres(connection, drawn.settings), drawn) == []
    assert logs == [], "no batch was refused"


@examples(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=HISTORIES, part=st.integers(1, 64))
def test_postgresql_holds_after_every_batch_what_the_naive_model_says(
    connection: Connection,
    logs: list[EventDict],
    monkeypatch: pytest.MonkeyPatch,
    drawn: History,
    part: int,
) -> None:
    monkeypatch.setattr(batch, "_FIRST_PART", part)  # how many are decided before the first are written
    assert worlds.run(InPostgres(connection, drawn.settings), drawn) == []
    assert logs == [], "no batch was refused"


@examples(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=HISTORIES)
def test_two_owners_at_once_decide_what_one_alone_would_have(
    database: str, connection: Connection, drawn: History
) -> None:
    world = InPostgres(connection, drawn.settings)
    asked = list(worlds.asked(drawn))
    world.accept(asked)

    with worlds.bounded(drawn):
        with ThreadPoolExecutor(2) as owners:
            one, other = owners.map(lambda _: settle_all(database, world.event_id, _BATCH_MAX), range(2))
        witness = Witness(world, drawn.settings, drawn.promoted_spots_max)
        witness.drain()

    follow_ups = [told for told in world.snapshot().commands if told.kind == "promote_waitlist"]
    assert len(one + other) == len(asked) + len(follow_ups)
    assert witness.objections == []
