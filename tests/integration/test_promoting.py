"""Promotion of many registrations in bounded transactions, and parties that cannot fit."""

import multiprocessing
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Connection, make_url, text

from shared.domain import ids, rules
from shared.domain.outcomes import WaitlistPromoted
from shared.settings import Settings
from tests import owners
from tests.databases import as_worker, session_of
from tests.owners import an_owner
from tests.simulation.histories import SETTINGS, Request, change, history, move, register
from tests.simulation.in_postgres import InPostgres
from tests.simulation.model import Json, Told
from tests.simulation.worlds import asked
from worker import batch, load
from worker.owner import apply as apply_batch

PORTION = rules.PROMOTED_SPOTS_MAX
MANY = 5 * PORTION // 2

_WAIT = text("""
    INSERT INTO registration (event_id, id, seq, name, spots_count, status)
    SELECT :event_id, gen_random_uuid(), -:parties + n, 'User', :spots, 'WAITLIST'
    FROM generate_series(0, :parties - 1) AS n
""")
_LENGTH = text("UPDATE event SET waitlist_length = waitlist_length + :parties WHERE id = :event_id")


def a_waitlist(connection: Connection, parties: int, spots: int = 1, **settings: object) -> InPostgres:
    """Return an event with parties that have waited since before its first command."""
    world = InPostgres(connection, {**SETTINGS, "capacity": 0, **settings})
    with connection.begin():
        parameters = {"event_id": world.event_id, "parties": parties}
        connection.execute(_WAIT, {**parameters, "spots": spots})
        connection.execute(_LENGTH, parameters)
    return world


def ask(world: InPostgres, *requests: Request) -> list[Told]:
    """Put requests into the ledger."""
    told = list(asked(history(*requests)))
    world.accept(told)
    return told


def outcomes_of(world: InPostgres) -> list[Json]:
    """Return the outcomes in the order of the ledger, `{}` for a pending command."""
    return [told.outcome or {} for told in world.snapshot().commands]


def counters(connection: Connection, world: InPostgres) -> tuple[int, int, int, int]:
    """Return the counters, and the sums of the rows: spots, waiting, spots, waiting."""
    with connection.begin():
        row = connection.execute(
            text("""
                SELECT spots_reserved, waitlist_length,
                       (SELECT coalesce(sum(spots_count), 0) FROM registration
                        WHERE event_id = event.id AND status = 'CONFIRMED') AS confirmed,
                       (SELECT count(*) FROM registration
                        WHERE event_id = event.id AND status = 'WAITLIST') AS waiting
                FROM event WHERE id = :event_id
            """),
            {"event_id": world.event_id},
        ).one()
    return row.spots_reserved, row.waitlist_length, row.confirmed, row.waiting


def apply(world: InPostgres, limit: int = 2_000) -> batch.Applied:
    return apply_batch(session_of(world.connection), [world.event_id], limit)


def test_a_capacity_for_many_is_given_in_portions(connection: Connection) -> None:
    world = a_waitlist(connection, MANY)
    (first,) = ask(world, change(capacity=MANY))
    follow_up = ids.follow_up_id(UUID(first.id))

    applied = apply(world)

    assert applied.unfinished == [world.event_id]
    assert counters(connection, world) == (PORTION, MANY - PORTION, PORTION, MANY - PORTION)
    assert outcomes_of(world) == [
        {"outcome": "event_changed", "changed": ["capacity"], "promoted": PORTION, "moreFollow": True},
        {},
    ]
    (told,) = [told for told in world.snapshot().commands if told.kind == "promote_waitlist"]
    assert (told.id, told.accepted_at) == (str(follow_up), first.accepted_at)

    assert [len(apply(world).settled) for _ in range(3)] == [1, 1, 0]
    assert outcomes_of(world)[1:] == [
        {"outcome": "waitlist_promoted", "promoted": PORTION, "moreFollow": True},
        {"outcome": "waitlist_promoted", "promoted": MANY - 2 * PORTION, "moreFollow": False},
    ]
    assert counters(connection, world) == (MANY, 0, MANY, 0)
    assert apply(world).unfinished == []


@pytest.mark.parametrize("policy", ["strict_fifo", "skip_unfit"])
def test_a_newcomer_is_decided_between_portions_and_waits(connection: Connection, policy: str) -> None:
    world = a_waitlist(connection, MANY, promotionPolicy=policy)
    ask(world, change(capacity=MANY + 1))
    apply(world)
    world.accept(list(asked(history(change(), register(1))))[1:])

    assert [len(apply(world).settled) for _ in range(2)] == [1, 1]

    (newcomer,) = (told.outcome for told in world.snapshot().commands if told.kind == "register")
    assert newcomer is not None
    assert (newcomer["outcome"], newcomer["position"]) == ("waitlisted", MANY - 2 * PORTION + 1)
    while apply(world).settled:
        pass
    assert counters(connection, world) == (MANY + 1, 0, MANY + 1, 0)


def test_a_full_waitlist_asks_newcomers_to_come_again(connection: Connection) -> None:
    world = a_waitlist(connection, MANY, waitlistLimit=10)
    ask(world, change(capacity=MANY))
    apply(world)
    world.accept(list(asked(history(change(), register(1))))[1:])
    assert [len(apply(world).settled) for _ in range(2)] == [1, 1]

    (newcomer,) = (told.outcome for told in world.snapshot().commands if told.kind == "register")

    assert newcomer == {"outcome": "refused", "code": "EVENT_FULL", "retryAfterSeconds": 1}


def test_commands_behind_a_follow_up_wait_for_no_tick(connection: Connection) -> None:
    world = a_waitlist(connection, PORTION + 1)
    ask(world, change(capacity=PORTION + 1))
    apply(world)
    world.accept(list(asked(history(change(), register(1))))[1:])

    applied = apply(world)

    assert [type(command.outcome) for command in applied.settled] == [WaitlistPromoted]
    assert applied.unfinished == [world.event_id]
    assert apply(world).unfinished == []


def test_many_cancellations_promote_in_several_transactions(connection: Connection) -> None:
    world = InPostgres(connection, {**SETTINGS, "capacity": MANY, "maxSpotsPerRegistration": 500})
    parties = MANY // 500
    ask(world, *[register(500)] * parties)
    apply(world)
    with connection.begin():
        parameters = {"event_id": world.event_id, "parties": MANY}
        connection.execute(_WAIT, {**parameters, "spots": 1})
        connection.execute(_LENGTH, parameters)
    requests = [*[register(500)] * parties, *[move("CANCELLED", back) for back in range(1, parties + 1)]]
    world.accept(list(asked(history(*requests)))[parties:])

    sizes = []
    while True:
        before = counters(connection, world)[3]
        if not apply(world).settled:
            break
        sizes.append(before - counters(connection, world)[3])

    assert sizes == [PORTION, PORTION, MANY - 2 * PORTION]
    assert counters(connection, world) == (MANY, 0, MANY, 0)


def test_a_batch_may_promote_almost_two_portions(connection: Connection) -> None:
    first, second = PORTION - 1, PORTION
    spots = first + second
    world = InPostgres(connection, {**SETTINGS, "capacity": spots, "maxSpotsPerRegistration": PORTION})
    ask(world, register(first), register(second))
    apply(world)
    with connection.begin():
        connection.execute(_WAIT, {"event_id": world.event_id, "parties": spots + 5, "spots": 1})
        connection.execute(_LENGTH, {"event_id": world.event_id, "parties": spots + 5})
    cancelled = history(register(first), register(second), move("CANCELLED", 2), move("CANCELLED", 1))
    world.accept(list(asked(cancelled))[2:])
    apply(world)

    assert counters(connection, world) == (spots, 5, spots, 5)


def test_a_party_behind_the_last_portion_is_not_forgotten(connection: Connection) -> None:
    spots = 3
    parties = PORTION // spots + 2  # the last that a portion takes exceeds it, and one more is owed spots
    world = a_waitlist(connection, parties, spots=spots)
    ask(world, change(capacity=parties * spots))
    while apply(world).settled:
        pass

    assert counters(connection, world) == (parties * spots, 0, parties * spots, 0)


def test_a_batch_reads_few_waiting_registrations(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "_WAITERS_READ_MAX", PORTION)
    worlds = [a_waitlist(connection, MANY) for _ in range(3)]
    for world in worlds:
        ask(world, change(capacity=MANY))
    session = session_of(connection)

    applied = apply_batch(session, [world.event_id for world in worlds], 100)

    assert len(applied.settled) == 1
    first, second, third = (world.event_id for world in worlds)
    assert applied.unfinished == [second, third, first]
    while (applied := apply_batch(session, [world.event_id for world in worlds], 100)).settled:
        pass
    for world in worlds:
        assert counters(connection, world) == (MANY, 0, MANY, 0)


def test_other_events_come_between_the_portions(
    connection: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, other = a_waitlist(connection, MANY), InPostgres(connection, SETTINGS)
    ask(large, change(capacity=MANY))
    ask(other, register(1))
    owner = an_owner(settings)
    settled: list[set[UUID]] = []
    apply = apply_batch

    def recording(*arguments: Any) -> batch.Applied:
        applied = apply(*arguments)
        settled.append({command.event_id for command in applied.settled})
        return applied

    monkeypatch.setattr("worker.owner.apply", recording)
    while {} in outcomes_of(large):
        owners.tick(owner)
    owner.close()

    assert counters(connection, large) == (MANY, 0, MANY, 0)
    assert other.event_id in set().union(*settled[:2])
    assert [large.event_id in events for events in settled[:3]] == [True] * 3


def _apply_for_ever(database: str, event_id: UUID) -> None:
    with as_worker(database) as owner:
        session = session_of(owner)
        while True:
            apply_batch(session, [event_id], 2_000)


def test_an_owner_killed_in_the_middle_loses_nothing(database: str, connection: Connection) -> None:
    world = a_waitlist(connection, 4 * MANY)
    (asked_for,) = ask(world, change(capacity=4 * MANY))
    for moment in (0.8, 1.0, 1.3):
        owner = multiprocessing.get_context("spawn").Process(
            target=_apply_for_ever, args=(database, world.event_id), daemon=True
        )
        owner.start()
        owner.join(moment)
        owner.kill()
        owner.join()
    _wait_for_the_owners_session(database)

    while apply(world).settled:
        pass

    assert counters(connection, world) == (4 * MANY, 0, 4 * MANY, 0)
    found = outcomes_of(world)
    assert sum(outcome["promoted"] for outcome in found) == 4 * MANY
    assert [outcome["moreFollow"] for outcome in found] == [True] * (len(found) - 1) + [False]
    entries = world.snapshot().entries
    assert [entry.number for entry in entries] == list(range(1, 4 * MANY + 2))
    assert entries[0].command_id == asked_for.id


def _wait_for_the_owners_session(database: str) -> None:
    """Wait until PostgreSQL has ended the transaction of the killed owner."""
    plain = make_url(database).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as session:
        session.execute("SELECT FROM event FOR UPDATE")


@pytest.mark.parametrize("policy", ["strict_fifo", "skip_unfit"])
@pytest.mark.parametrize("asked_alone", [True, False])
def test_parties_that_cannot_fit_take_no_room(
    connection: Connection, policy: str, *, asked_alone: bool
) -> None:
    world = a_waitlist(connection, 500, 10, capacity=9, waitlistLimit=1, promotionPolicy=policy)
    ask(world, register(9), change(title="Still the same"), register(1), register(1), change(capacity=4))

    while apply(world, 1 if asked_alone else 100).settled:
        pass

    assert [outcome.get("code", outcome["outcome"]) for outcome in outcomes_of(world)] == [
        "confirmed",
        "event_changed",
        "waitlisted",
        "EVENT_FULL",
        "CAPACITY_BELOW_RESERVED",
    ]


def test_a_capacity_that_shrinks_puts_parties_out_of_line(connection: Connection) -> None:
    world = a_waitlist(connection, 3, 10, capacity=9, waitlistLimit=1)
    requests = [change(capacity=12, autoPromote=False), register(1), change(capacity=3), register(3)]
    ask(world, *requests, register(1), change(capacity=40, autoPromote=True))

    while apply(world).settled:
        pass

    assert [outcome.get("code", outcome["outcome"]) for outcome in outcomes_of(world)] == [
        "event_changed",
        "EVENT_FULL",
        "event_changed",
        "confirmed",
        "waitlisted",
        "event_changed",
    ]
    assert counters(connection, world) == (34, 0, 34, 0)
