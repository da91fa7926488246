"""Many events in one transaction, on real PostgreSQL: each is decided as if it were alone."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool
from structlog.testing import capture_logs

from shared.domain.outcomes import SettledCommand
from shared.messaging.results import Publisher
from shared.settings import Settings
from tests import owners
from tests.databases import run, session_of
from tests.owners import an_owner
from tests.simulation import worlds
from tests.simulation.histories import SETTINGS, Request, change, delete, heal, history, move, register
from tests.simulation.in_postgres import InPostgres
from tests.simulation.model import Json
from worker import load
from worker.batch import Applied, BatchRefused
from worker.load import Overtaken
from worker.locked_event import LockedEvent
from worker.owner import apply as apply_batch
from worker.save import BatchWriter

LIMIT = 100
HISTORIES = (
    (register(2), register(2), register(1), move("CANCELLED", 2), register(1)),
    (register(1, "ada@example.org"), register(1, "ADA@example.org"), move("CANCELLED", 1)),
    (register(3), register(3), change(capacity=9), register(1)),
    (register(1), register(1), delete(1), register(4), heal()),
    (register(1, "ada@example.org"), move("WAITLIST", 1), move("CONFIRMED", 1)),
)
_CONFLICTING = text("""
    INSERT INTO registration (event_id, id, seq, name, spots_count, status)
    VALUES (:event_id, :id, -1, 'Planted', 1, 'CANCELLED')
""")
_WITHOUT_TRAIL = text("UPDATE event SET audit_seq = 7 WHERE id = :event_id")
_SETTLE_BY_HAND = text("""
    WITH settled AS (DELETE FROM pending_command WHERE event_id = :event_id RETURNING event_id, command_id)
    INSERT INTO outcome (event_id, command_id, body, settled_at)
    SELECT event_id, command_id, '{"outcome": "failed"}', now() FROM settled
""")
_PENDING_AGAIN = text("""
    INSERT INTO pending_command (event_id, seq, command_id)
    SELECT event_id, seq, id FROM command WHERE event_id = :event_id
""")
_CUT_OFF = """
    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE application_name LIKE 'admitone-worker%' AND datname = current_database()
"""


def a_world(connection: Connection, *requests: Request) -> InPostgres:
    """Return an event with these commands pending."""
    world = InPostgres(connection, SETTINGS)
    world.accept(list(worlds.asked(history(*requests))))
    return world


def apply_all(connection: Connection, those: Collection[InPostgres], limit: int = LIMIT) -> int:
    """Decide one batch of these events together; return how many commands were settled."""
    return len(apply_batch(session_of(connection), [world.event_id for world in those], limit).settled)


def told(world: InPostgres) -> tuple[Sequence[object], ...]:
    """Return what became of an event, without what differs between any two: ids of its own, times, hashes."""
    now = world.snapshot()
    outcomes = [{**(one.outcome or {}), "incidentId": None} for one in now.commands]
    rows = [(row.id, row.command_id, row.spots_count, row.status) for row in now.rows]
    trail = [(e.number, e.kind, e.registration_id, e.to_status, e.spots_reserved) for e in now.entries]
    settings = {name: value for name, value in now.settings.items() if name != "slug"}
    return outcomes, rows, trail, (now.spots_reserved, now.waitlist_length, settings)


def outcomes(world: InPostgres) -> list[str | None]:
    """Return in one word what every command was answered, None where it is pending."""
    return [None if one.outcome is None else str(one.outcome["outcome"]) for one in world.snapshot().commands]


def test_a_shared_batch_decides_as_single_ones_do(connection: Connection) -> None:
    alone = [a_world(connection, *requests) for requests in HISTORIES]
    together = [a_world(connection, *requests) for requests in HISTORIES]

    for world in alone:
        while world.apply(LIMIT):
            pass
    while apply_all(connection, together):
        pass

    assert [told(world) for world in together] == [told(world) for world in alone]
    assert all(None not in outcomes(world) for world in together)


def test_a_crowded_event_leaves_the_others_room(connection: Connection) -> None:
    crowded = a_world(connection, *[register(1)] * 60)
    quiet = [a_world(connection, register(1)) for _ in range(12)]

    settled = apply_all(connection, [crowded, *quiet], limit=40)

    assert [outcomes(world) for world in quiet] == [["confirmed"]] * 12
    assert settled == 12 + sum(outcome is not None for outcome in outcomes(crowded)) <= 40
    assert outcomes(crowded)[0] == "confirmed"


def test_a_locked_event_is_left_for_later(database: str, connection: Connection) -> None:
    held, free = a_world(connection, register(1)), a_world(connection, register(1))
    with create_engine(database, poolclass=NullPool).begin() as other:
        other.execute(text("SELECT FROM event WHERE id = :id FOR UPDATE"), {"id": held.event_id})
        assert apply_all(connection, [held, free]) == 1

    assert (outcomes(held), outcomes(free)) == ([None], ["confirmed"])
    assert apply_all(connection, [held, free]) == 1
    assert outcomes(held) == ["confirmed"]


def _lose_in_between(database: str, world: InPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a second owner settle the event's commands as soon as the first has found them."""
    lock_events = load.lock_events

    def lock_and_lose(*parameters: Any) -> list[LockedEvent]:
        events = lock_events(*parameters)
        with create_engine(database, poolclass=NullPool).begin() as second:
            second.execute(_SETTLE_BY_HAND, {"event_id": world.event_id})
        return events

    monkeypatch.setattr(load, "lock_events", lock_and_lose)


@pytest.mark.parametrize("commands", [1, 2])
def test_an_overtaken_event_decides_nothing_again(
    database: str, connection: Connection, monkeypatch: pytest.MonkeyPatch, commands: int
) -> None:
    world = a_world(connection, *[register(1)] * commands)
    _lose_in_between(database, world, monkeypatch)

    with capture_logs() as logs:
        assert apply_all(connection, [world]) == 0

    assert [entry["event"] for entry in logs] == ["overtaken"]
    assert world.snapshot().rows == ()
    assert outcomes(world) == ["failed"] * commands


def test_an_overtaken_batch_decides_nothing_again(
    database: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    overtaken, other = a_world(connection, register(1)), a_world(connection, register(1))
    _lose_in_between(database, overtaken, monkeypatch)

    with pytest.raises(Overtaken):
        apply_all(connection, [overtaken, other])
    monkeypatch.undo()

    assert (overtaken.snapshot().rows, other.snapshot().rows) == ((), ())
    assert apply_all(connection, [overtaken, other]) == 1
    assert (outcomes(overtaken), outcomes(other)) == (["failed"], ["confirmed"])


@pytest.mark.parametrize("spots", [1, 99], ids=["confirmed", "refused"])
def test_a_settled_command_that_is_pending_stops_none(connection: Connection, spots: int) -> None:
    world = a_world(connection, register(spots))
    assert apply_all(connection, [world]) == 1
    settled = outcomes(world)
    with connection.begin():
        connection.execute(_PENDING_AGAIN, {"event_id": world.event_id})
    world.accept(list(worlds.asked(history(register(spots), register(2))))[1:])

    with capture_logs():
        assert [apply_all(connection, [world]) for _ in range(2)] == [0, 1]

    assert outcomes(world) == [*settled, "confirmed"]


def _poison(connection: Connection, world: InPostgres) -> None:
    """Let the database refuse what the event's first command would write."""
    first = world.snapshot().commands[0]
    with connection.begin():
        connection.execute(_CONFLICTING, {"event_id": world.event_id, "id": UUID(first.registration_id)})


def test_one_poisoned_event_refuses_the_batch(connection: Connection) -> None:
    poisoned, healthy = a_world(connection, register(1), register(2)), a_world(connection, register(1))
    _poison(connection, poisoned)

    with pytest.raises(BatchRefused):
        apply_all(connection, [poisoned, healthy])

    assert (outcomes(poisoned), outcomes(healthy)) == ([None, None], [None])


def test_an_owner_isolates_the_poisoned_event(connection: Connection, settings: Settings) -> None:
    poisoned, healthy = a_world(connection, register(1), register(2)), a_world(connection, register(1))
    _poison(connection, poisoned)
    owner = an_owner(settings)

    with capture_logs() as logs:
        owners.tick(owner)
    owner.close()

    assert (outcomes(poisoned), outcomes(healthy)) == (["failed", "confirmed"], ["confirmed"])
    assert "command_failed" in [entry["event"] for entry in logs]


def test_a_cut_off_trail_stalls_no_other_event(connection: Connection, settings: Settings) -> None:
    cut_off, healthy = a_world(connection, register(1)), a_world(connection, register(1))
    with connection.begin():
        connection.execute(_WITHOUT_TRAIL, {"event_id": cut_off.event_id})
    owner = an_owner(settings)

    with capture_logs() as logs:
        owners.tick(owner)
    owner.close()

    assert (outcomes(cut_off), outcomes(healthy)) == ([None], ["confirmed"])
    assert {"event": "overtaken", "event_id": str(cut_off.event_id), "log_level": "warning"} in logs


def test_a_locked_row_delays_one_command(database: str, connection: Connection, settings: Settings) -> None:
    stuck, healthy = a_world(connection, register(1)), a_world(connection, register(1))
    apply_all(connection, [stuck, healthy])
    for world in (stuck, healthy):
        world.accept(list(worlds.asked(history(register(1), move("CANCELLED", 1), register(1))))[1:])
    owner = an_owner(settings)

    with create_engine(database, poolclass=NullPool).begin() as other, capture_logs() as logs:
        rows = text("SELECT FROM registration WHERE event_id = :event_id FOR UPDATE")
        other.execute(rows, {"event_id": stuck.event_id})
        owners.tick(owner)
        for _ in range(5):
            owners.wake(owner, stuck.event_id, healthy.event_id)
    assert [entry["event"] for entry in logs].count("command_set_aside") == 1
    with connection.begin():
        (error,) = connection.execute(text("SELECT error FROM trouble")).scalars()
    assert error.startswith("55P03"), "not a time-out, of which three would fail the command"
    assert outcomes(healthy)[1:] == ["status_changed", "confirmed"]
    assert outcomes(stuck)[1:] == [None, "confirmed"]

    while None in outcomes(stuck):
        owners.tick(owner)
    owner.close()
    assert outcomes(stuck)[1:] == ["status_changed", "confirmed"]


def test_a_lone_crowded_event_fills_its_batch(
    connection: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowded = a_world(connection, *[register(1)] * 60)
    for _ in range(12):
        a_world(connection, register(1))
    limits: Json = {"apply_batch_max": 40, "backlog_batch_max": 40}
    owner = an_owner(settings.model_copy(update=limits))
    sizes, apply = [], apply_batch

    def counting(*parameters: Any) -> Applied:
        applied = apply(*parameters)
        sizes.append(len(applied.settled))
        return applied

    monkeypatch.setattr("worker.owner.apply", counting)
    owners.tick(owner)
    owner.close()

    assert None not in outcomes(crowded)
    assert max(sizes) == 40, "alone it fills its batch"


def test_an_owner_without_broker_finishes_a_backlog(connection: Connection, settings: Settings) -> None:
    limits: Json = {"apply_batch_max": 5, "backlog_batch_max": 10}
    those = [a_world(connection, *[register(1)] * 7) for _ in range(6)]
    owner = an_owner(settings.model_copy(update=limits))

    owners.tick(owner)
    owner.close()

    assert [outcomes(world) for world in those] == [["confirmed"] * 4 + ["waitlisted"] * 3] * 6


@pytest.mark.parametrize(("crowd", "seen"), [(9, "a9"), (19, "aa*9"), (20, "aa**"), (21, "aa*a*1")])
def test_a_backlog_publishes_during_the_next_batch(
    connection: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch, crowd: int, seen: str
) -> None:
    """`a` is a batch whose statements are sent, `*` ten published outcomes."""
    limits: Json = {"apply_batch_max": 10, "backlog_batch_max": 10, "tick_seconds": 10}
    world = a_world(connection, *[register(1)] * crowd)
    published: list[str] = []
    steps: list[str] = []
    save = BatchWriter.save

    def write(_: Publisher, settled: Sequence[SettledCommand]) -> None:
        committed = {told.id for told in world.snapshot().commands if told.outcome is not None}
        published.extend(str(command.command_id) for command in settled)
        assert committed >= set(published)
        steps.append("*" if len(settled) == 10 else str(len(settled)))

    def watched(writer: BatchWriter, *batch: Any) -> None:
        steps.append("a")
        save(writer, *batch)

    monkeypatch.setattr(Publisher, "write", write)
    monkeypatch.setattr(BatchWriter, "save", watched)
    owner = an_owner(settings.model_copy(update=limits))
    with capture_logs() as logs:
        owners.tick(owner)
    owner.close()

    assert "".join(steps) == seen
    assert published == [told.id for told in world.snapshot().commands]
    assert "results_not_stored" not in [entry["event"] for entry in logs]


@pytest.mark.parametrize("end", ["tick", "close"])
def test_outcomes_without_a_next_batch_are_published(
    database: str, connection: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    limits: Json = {"apply_batch_max": 10, "backlog_batch_max": 10}
    world = a_world(connection, *[register(1)] * 15)
    published: list[str] = []

    def write(_: Publisher, settled: Sequence[SettledCommand]) -> None:
        published.extend(str(command.command_id) for command in settled)

    monkeypatch.setattr(Publisher, "write", write)
    owner = an_owner(settings.model_copy(update=limits))
    owner.tick()
    owner.apply_batch()
    assert published == []
    run(database, _CUT_OFF)

    with capture_logs():
        getattr(owner, end)()

    assert published == [told.id for told in world.snapshot().commands[:10]]
    owner.close()


def test_a_cut_off_session_blames_no_event(
    database: str, connection: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    those = [a_world(connection, register(1)) for _ in range(2)]
    owner = an_owner(settings)
    lock_events = load.lock_events

    def cut_off(*parameters: Any) -> list[LockedEvent]:
        monkeypatch.undo()
        run(database, _CUT_OFF)
        return lock_events(*parameters)

    monkeypatch.setattr(load, "lock_events", cut_off)
    with capture_logs() as logs:
        owners.tick(owner)
    assert [entry["event"] for entry in logs if entry["log_level"] != "info"] == ["ownership_lost"]

    owners.tick(owner)
    owner.close()
    assert [outcomes(world) for world in those] == [["confirmed"]] * 2
