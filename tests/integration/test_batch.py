"""One transaction a batch, on real PostgreSQL: what goes wrong with one command stays with that one."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from psycopg.errors import DiskFull
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool
from structlog.testing import capture_logs

from shared.domain import commands, ids, rules
from shared.domain.commands import PendingCommand
from shared.domain.roster import Roster
from tests.databases import as_worker, session_of, settle_all
from tests.simulation import worlds
from tests.simulation.histories import (
    SETTINGS,
    Request,
    change,
    correct,
    delete,
    erase,
    give_receipt,
    heal,
    history,
    move,
    register,
)
from tests.simulation.in_postgres import InPostgres
from tests.simulation.model import Json, Told
from worker import batch, load, save
from worker.load import LoadedEvent
from worker.locked_event import LockedEvent, Session
from worker.owner import apply as apply_batch

WAITERS = 3_000
SIZES = 10
LOOK_TO_FAIL = 3
"""The first finds a batch that is refused, the second its one command alone, the third lets that fail."""

_INSERT_REGISTRATION = text("""
    INSERT INTO registration (event_id, id, seq, name, spots_count, status)
    VALUES (:event_id, :id, :seq, 'Planted', 1, 'CANCELLED')
""")
_INSERT_OLD_HOLDER = text("""
    INSERT INTO registration (event_id, id, seq, name, email, email_key, spots_count, status)
    VALUES (:event_id, :id, 0, 'Old', 'Straße@example.org', 'strasse@example.org', 1, 'WAITLIST')
""")
_INSERT_LATE_COMMAND = text("""
    WITH accepted AS (
        INSERT INTO command (event_id, id, seq, kind, payload, actor) OVERRIDING SYSTEM VALUE
        VALUES (:event_id, :id, 0, 'register', '{"name": "Late"}', 'public')
        RETURNING event_id, seq, id
    )
    INSERT INTO pending_command (event_id, seq, command_id) SELECT * FROM accepted
""")
_DELETE_COMMANDS = text("DELETE FROM command WHERE id = ANY(:ids)")
_INSERT_WAITERS = text("""
    INSERT INTO registration (event_id, id, seq, name, spots_count, status)
    SELECT :event_id, gen_random_uuid(), n, 'Waiter ' || n, 1 + n * 7 % :sizes, 'WAITLIST'
    FROM generate_series(1, :waiters) AS n
""")


def asked(*requests: Request) -> list[Told]:
    """Return these commands, in this order."""
    return list(worlds.asked(history(*requests)))


def answers(world: InPostgres) -> list[str]:
    """Return in one word what every command was answered, in ledger order."""
    return [_word(told.outcome) for told in world.snapshot().commands]


def before_each_look(monkeypatch: pytest.MonkeyPatch, call: Callable[[int], None]) -> None:
    """Have this called before every look at what is pending, with its number from 1 on."""
    numbers, lock_events = count(1), load.lock_events

    def locking(*parameters: Any) -> list[LockedEvent]:
        call(next(numbers))
        return lock_events(*parameters)

    monkeypatch.setattr(load, "lock_events", locking)


def _word(outcome: Json | None) -> str:
    if outcome is None:
        return "pending"
    return str(outcome.get("code", outcome["outcome"]))


def counters(world: InPostgres) -> tuple[int, int]:
    """Return the spots reserved, by the counter and by the rows."""
    now = world.snapshot()
    return now.spots_reserved, sum(row.spots_count for row in now.rows if row.status == "CONFIRMED")


@pytest.mark.parametrize(
    ("unreadable", "why"),
    [
        ({"kind": "register", "payload": {"name": ""}}, "register: Expected `str` of length >= 1"),
        ({"kind": "register", "payload": {"name": "Ada", "seats": 2}}, "unknown field `seats`"),
        ({"kind": "teleport", "payload": {}}, "unknown kind of command: 'teleport'"),
        ({"kind": "heal_counter", "payload": [1]}, "heal_counter: "),
    ],
)
def test_an_unreadable_command_fails_alone(
    connection: Connection, unreadable: dict[str, Any], why: str
) -> None:
    world = InPostgres(connection, SETTINGS)
    first, middle, last = asked(register(2), register(1), register(1))
    world.accept([first, replace(middle, **unreadable), last])

    with capture_logs() as logs:
        while world.apply(100):
            pass

    assert answers(world) == ["confirmed", "failed", "confirmed"]
    assert counters(world) == (3, 3)
    (incident,) = logs
    failed = world.snapshot().commands[1].outcome
    assert failed == {"outcome": "failed", "incidentId": str(incident["incident_id"])}
    assert incident["command_digest"] == hashlib.sha256(UUID(middle.id).bytes).hexdigest()
    assert why in str(incident["exc_info"])


def test_commands_whose_rows_are_gone_stop_no_event(connection: Connection) -> None:
    world = InPostgres(connection, SETTINGS)
    told = asked(*[register(1)] * 6)
    world.accept(told)
    with connection.begin():
        connection.execute(_DELETE_COMMANDS, {"ids": [UUID(command.id) for command in told[:4]]})

    with capture_logs() as logs:
        while world.apply(2):
            pass

    assert answers(world) == ["confirmed", "confirmed"]
    assert counters(world) == (2, 2)
    assert [entry["event"] for entry in logs] == ["command_failed"] * 4


def test_only_the_culprit_of_a_refused_batch_fails(
    connection: Connection,
) -> None:
    world = InPostgres(connection, SETTINGS)
    commands = asked(register(2), register(1), register(1), move("CANCELLED", 3), delete(1))
    with connection.begin():
        connection.execute(
            _INSERT_REGISTRATION,
            {"event_id": world.event_id, "id": UUID(commands[1].registration_id), "seq": -1},
        )
    world.accept(commands)

    with capture_logs() as logs:
        assert world.apply(100) == 5

    assert answers(world) == ["confirmed", "failed", "confirmed", "status_changed", "deleted"]
    assert counters(world) == (0, 0)
    assert [entry["event"] for entry in logs] == ["batch_refused", "command_failed"]
    assert world.apply(100) == 0


@pytest.mark.parametrize(
    ("size", "culprits", "looks_max"), [(256, [40, 200], 50), (48, list(range(48)), 3 * 48)]
)
def test_culprits_are_found_in_few_looks(
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    culprits: list[int],
    looks_max: int,
) -> None:
    world = InPostgres(connection, {**SETTINGS, "capacity": 400})
    commands = asked(*[register(1)] * size)
    with connection.begin():
        for place, culprit in enumerate(culprits):
            planted = {"event_id": world.event_id, "id": UUID(commands[culprit].registration_id)}
            connection.execute(_INSERT_REGISTRATION, {**planted, "seq": -1 - place})
    world.accept(commands)
    looks: list[int] = []
    before_each_look(monkeypatch, looks.append)
    with capture_logs():
        while world.apply(300):
            pass

    assert [number for number, word in enumerate(answers(world)) if word == "failed"] == culprits
    assert counters(world) == (size - len(culprits),) * 2
    assert len(looks) <= looks_max


def test_a_retried_batch_reports_an_incident_once(
    connection: Connection,
) -> None:
    world = InPostgres(connection, SETTINGS)
    commands = asked(*[register(1)] * 8)
    with connection.begin():
        planted = {"event_id": world.event_id, "id": UUID(commands[6].registration_id), "seq": -1}
        connection.execute(_INSERT_REGISTRATION, planted)
    world.accept([replace(commands[0], kind="teleport"), *commands[1:]])

    with capture_logs() as logs:
        assert world.apply(100) == 8

    failed = [told.outcome for told in world.snapshot().commands if _word(told.outcome) == "failed"]
    incidents = [entry["incident_id"] for entry in logs if entry["event"] == "command_failed"]
    assert incidents == [outcome["incidentId"] for outcome in failed if outcome]
    assert len(incidents) == 2


def test_a_broken_off_retry_returns_the_settled_part(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = InPostgres(connection, SETTINGS)
    commands = asked(*[register(1)] * 4)
    with connection.begin():
        planted = {"event_id": world.event_id, "id": UUID(commands[2].registration_id), "seq": -1}
        connection.execute(_INSERT_REGISTRATION, planted)
    world.accept(commands)

    def end(look: int) -> None:
        if look > 4:
            raise TimeoutError

    def full(*_: object) -> None:
        raise DiskFull

    before_each_look(monkeypatch, end)
    monkeypatch.setattr(save, "note_trouble", full)
    with capture_logs() as logs:
        assert world.apply(100) == 2

    assert answers(world) == ["confirmed", "confirmed", "pending", "pending"]
    assert [entry["event"] for entry in logs] == ["batch_refused", "event_not_applied"]


def test_the_guard_stops_an_overselling_owner(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = InPostgres(connection, SETTINGS)
    world.accept(asked(register(2), register(2), register(1), register(1)))
    monkeypatch.setattr(Roster, "spots_left", property(lambda _: 1_000))

    with capture_logs() as logs:
        assert world.apply(100) == 4

    assert answers(world) == ["confirmed", "confirmed", "failed", "failed"]
    assert counters(world) == (4, 4)
    assert [type(entry["exc_info"]).__name__ for entry in logs[1:]] == ["GuardRefused", "GuardRefused"]


@pytest.mark.parametrize(
    ("statement", "last"),
    [
        ("UPDATE_REGISTRATIONS", move("CANCELLED", 2)),
        ("DELETE_REGISTRATIONS", delete(2)),
        ("CORRECT_REGISTRATION", correct(2, spotsCount=1)),
        ("SAVE_SETTINGS", change(capacity=9)),
    ],
)
def test_a_change_that_misses_its_row_is_undone(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, statement: str, last: Request
) -> None:
    world = InPostgres(connection, SETTINGS)
    commands = asked(register(2), register(1), last)
    world.accept(commands[:2])
    world.apply(100)
    before = world.snapshot()
    start, where, end = getattr(save, statement).rpartition(b"WHERE ")
    monkeypatch.setattr(save, statement, start + where + b"false AND " + end)
    world.accept(commands[2:])
    with capture_logs():
        world.apply(100)

    now = world.snapshot()
    assert answers(world)[2] in {"pending", "failed"}
    assert (now.rows, now.entries, now.settings) == (before.rows, before.entries, before.settings)


@pytest.mark.parametrize(
    "last", [move("CANCELLED", 8), delete(8), correct(8, spotsCount=1), give_receipt(8), erase(8)]
)
def test_a_row_that_is_gone_changes_no_other(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, last: Request
) -> None:
    world = InPostgres(connection, {**SETTINGS, "capacity": 100})
    commands = asked(*[register(2, "ada@example.org"), *[register(2)] * 7], last)
    world.accept(commands[:8])
    world.apply(100)
    (gone,) = [row.id for row in world.snapshot().rows if row.email]
    rosters = load.rosters

    def loaded(session: Session, *decidable: Any) -> list[LoadedEvent]:
        found = rosters(session, *decidable)
        session.execute("DELETE FROM registration WHERE id = %s", [gone])
        return found

    monkeypatch.setattr(load, "rosters", loaded)
    before = [row for row in world.snapshot().rows if row.id != gone]
    world.accept(commands[8:])
    with capture_logs():
        world.apply(100)

    assert [row for row in world.snapshot().rows if row.id != gone] == before


def test_a_decision_that_raises_changes_nothing(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = InPostgres(connection, SETTINGS)
    world.accept(asked(register(4), register(1)))
    world.apply(100)
    before = world.snapshot()

    def broken(*_: object) -> None:
        raise RuntimeError("a bug in promotion")

    monkeypatch.setattr(rules, "next_up", broken)
    world.accept(asked(register(4), register(1), move("CANCELLED", 2), move("CANCELLED", 9))[2:])
    with capture_logs():
        assert world.apply(100) == 2

    now = world.snapshot()
    assert answers(world)[2:] == ["failed", "REGISTRATION_NOT_FOUND"]
    assert (now.rows, now.entries, now.spots_reserved) == (before.rows, before.entries, before.spots_reserved)


def test_a_late_command_is_not_the_culprit(
    database: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = InPostgres(connection, SETTINGS)
    (culprit,) = asked(register(1))
    world.accept([culprit])
    late = ids.new_id()
    with connection.begin():
        connection.execute(
            _INSERT_REGISTRATION,
            {"event_id": world.event_id, "id": UUID(culprit.registration_id), "seq": -1},
        )

    def come_late(look: int) -> None:
        if look == LOOK_TO_FAIL:
            with create_engine(database, poolclass=NullPool).begin() as other:
                other.execute(_INSERT_LATE_COMMAND, {"event_id": world.event_id, "id": late})

    before_each_look(monkeypatch, come_late)
    with capture_logs():
        while world.apply(100):
            pass

    outcomes = {told.id: _word(told.outcome) for told in world.snapshot().commands}
    assert outcomes == {str(late): "confirmed", culprit.id: "failed"}


def test_two_owners_at_once_decide_every_command_once(database: str, connection: Connection) -> None:
    world = InPostgres(connection, {**SETTINGS, "capacity": 10})
    world.accept(asked(*[register(1)] * 60))

    with ThreadPoolExecutor(2) as owners:
        one, other = owners.map(lambda _: settle_all(database, world.event_id, 4), range(2))

    assert sorted(one + other) == sorted(UUID(told.id) for told in world.snapshot().commands)
    assert answers(world) == ["confirmed"] * 10 + ["waitlisted"] * 50
    assert counters(world) == (10, 10)


def test_the_ledger_orders_not_the_ids(connection: Connection) -> None:
    world = InPostgres(connection, {**SETTINGS, "capacity": 1})
    world.accept(asked(*[register(1)] * 3)[::-1])  # as of processes with different clocks

    batch.apply(session_of(connection), [world.event_id], 3)

    assert answers(world) == ["confirmed", "waitlisted", "waitlisted"]


def test_events_take_turns_in_a_batch(connection: Connection) -> None:
    crowded, other = InPostgres(connection, SETTINGS), InPostgres(connection, {**SETTINGS, "slug": "other"})
    *crowd, last = asked(*[register(1)] * 6)
    crowded.accept(crowd)
    other.accept([last])

    batch.apply(session_of(connection), [crowded.event_id, other.event_id], 3)

    assert answers(crowded) == ["confirmed"] * 2 + ["pending"] * 3
    assert answers(other) == ["confirmed"]


def test_commands_that_are_left_out_take_no_share(connection: Connection) -> None:
    world = InPostgres(connection, SETTINGS)
    commands = [UUID(told.id) for told in asked(*[register(1)] * 5)]
    world.accept(asked(*[register(1)] * 5))

    applied = batch.apply(session_of(connection), [world.event_id], 2, load.Scope(left_out=commands[:2]))

    assert [settled.command_id for settled in applied.settled] == commands[2:4]


def test_an_erasure_empties_no_erasure(connection: Connection) -> None:
    world = InPostgres(connection, SETTINGS)
    registered, first, second = asked(register(1), erase(1), erase(1))
    second = replace(second, payload={"commandIds": [registered.id, first.id]})
    for told in (registered, first, second):
        world.accept([told])
        world.apply(100)

    assert [told.payload for told in world.snapshot().commands] == [
        {"erased": True},
        first.payload,
        second.payload,
    ]


def test_a_heal_is_decided_alone(connection: Connection) -> None:
    world = InPostgres(connection, SETTINGS)
    world.accept(asked(register(3), heal(), register(1), register(1)))
    with connection.begin():
        connection.execute(text("UPDATE event SET spots_reserved = 2, waitlist_length = 2"))

    assert [world.apply(100) for _ in range(4)] == [1, 1, 2, 0]

    first, second, third, fourth = asked(register(3), heal(), register(1), register(1))
    assert [told.outcome for told in world.snapshot().commands] == [
        {"outcome": "waitlisted", "registrationId": first.registration_id, "spotsCount": 3, "position": 3},
        {"outcome": "counter_healed", "drift": 2, "spotsReserved": 0, "overbookedSpots": 0},
        {"outcome": "confirmed", "registrationId": third.registration_id, "spotsCount": 1},
        {"outcome": "waitlisted", "registrationId": fourth.registration_id, "spotsCount": 1, "position": 1},
    ]
    healed, promoted = (entry for entry in world.snapshot().entries if entry.command_id == second.id)
    assert (healed.spots_delta, healed.before_after) == (
        -2,
        {"spotsReserved": [2, 0], "waitlistLength": [3, 1]},
    )
    assert (promoted.registration_id, promoted.spots_reserved) == (first.registration_id, 3)
    assert counters(world) == (4, 4)


@pytest.mark.parametrize(
    "settings", [{"opensAt": "0001-01-01T00:00:00+14:00"}, {"closesAt": "9999-12-31T23:59:59-12:00"}]
)
def test_extreme_moments_leave_the_event_readable(connection: Connection, settings: Json) -> None:
    world = InPostgres(connection, SETTINGS)
    world.accept(asked(change(**settings), register(1)))

    with capture_logs():
        while world.apply(1):
            pass

    assert answers(world)[1] == "confirmed"


def test_a_heal_offers_the_spots_it_finds(connection: Connection) -> None:
    world = InPostgres(connection, {**SETTINGS, "capacity": 0})
    world.accept(asked(*[register(1)] * 6))
    world.apply(100)
    with connection.begin():
        connection.execute(text("UPDATE event SET capacity = 5, spots_reserved = 5"))

    world.accept(asked(*[register(1)] * 6, heal())[6:])
    world.apply(100)

    assert counters(world) == (5, 5)
    assert world.snapshot().waitlist_length == 1


def test_a_large_cancellation_promotes_many_small_parties(connection: Connection) -> None:
    world = InPostgres(connection, {**SETTINGS, "capacity": 6})
    commands = asked(register(6), *[register(1)] * 8, move("CANCELLED", 9))
    world.accept(commands[:-1])
    world.apply(100)

    world.accept(commands[-1:])
    world.apply(100)

    assert counters(world) == (6, 6)
    assert world.snapshot().waitlist_length == 2


def test_an_address_that_is_held_again_confirms_no_other(connection: Connection) -> None:
    world = InPostgres(connection, SETTINGS)
    one, other = register(1, "ada@example.org"), register(1, "ada@example.org")
    for told in asked(one, move("CANCELLED", 1), other, move("CONFIRMED", 2)):
        world.accept([told])
        world.apply(100)

    assert answers(world) == ["confirmed", "status_changed", "confirmed", "ALREADY_REGISTERED"]


def test_registrations_of_one_holder_swap_in_a_batch(connection: Connection) -> None:
    world = InPostgres(connection, SETTINGS)
    one, other = register(1, "ada@example.org"), register(1, "Ada@example.org")
    swaps = [
        request for back in (2, 1, 2, 1) for request in (move("CANCELLED", 3 - back), move("CONFIRMED", back))
    ]
    commands = asked(one, move("CANCELLED", 1), other, *swaps)
    world.accept(commands[:3])
    world.apply(100)

    with capture_logs() as logs:
        for swap in range(3, len(commands), 2):
            world.accept(commands[swap : swap + 2])
            world.apply(100)

    assert answers(world) == ["confirmed", "status_changed", "confirmed"] + ["status_changed"] * len(swaps)
    assert counters(world) == (1, 1)
    assert logs == [], "no batch was refused"


@pytest.mark.parametrize("email", ["straße@example.org", "Straße@example.org", "strasse@example.org"])
def test_a_holder_of_the_version_before_is_found(connection: Connection, email: str) -> None:
    world = InPostgres(connection, SETTINGS)
    with connection.begin():
        connection.execute(_INSERT_OLD_HOLDER, {"event_id": world.event_id, "id": ids.new_id()})

    world.accept(asked(register(1, email), register(1, "ada@straße.example")))
    world.apply(100)

    assert answers(world) == ["ALREADY_REGISTERED", "confirmed"]


def test_a_recount_has_a_time_out_of_its_own(
    database: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = load.RECOUNT.replace(b"WHERE event_id =", b"WHERE pg_sleep(0.2) IS NOT NULL AND event_id =")
    monkeypatch.setattr(load, "RECOUNT", slow)
    world = InPostgres(connection, SETTINGS)
    world.accept(asked(register(1), heal(), register(1)))

    with as_worker(database, options="-c statement_timeout=100ms") as impatient:
        session = session_of(impatient)
        while apply_batch(session, [world.event_id], 100).settled:
            pass
        timeout = session.execute("SHOW statement_timeout").fetchone()

    assert answers(world) == ["confirmed", "counter_healed", "confirmed"]
    assert timeout == ("100ms",)


@pytest.mark.parametrize("policy", ["strict_fifo", "skip_unfit"])
def test_only_the_heads_of_a_waitlist_are_loaded(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    world = InPostgres(connection, {**SETTINGS, "capacity": 0, "promotionPolicy": policy})
    with connection.begin():
        connection.execute(_INSERT_WAITERS, {"event_id": world.event_id, "waiters": WAITERS, "sizes": SIZES})
        connection.execute(text("UPDATE event SET waitlist_length = :waiters"), {"waiters": WAITERS})
    waiting = sorted(world.snapshot().rows, key=lambda row: row.seq)
    loaded: list[int] = []
    rosters = load.rosters

    def counting(
        session: Session, decidable: Sequence[tuple[LockedEvent, Sequence[PendingCommand]]]
    ) -> list[LoadedEvent]:
        events = rosters(session, decidable)
        loaded.extend(len(event.roster.registrations) for event in events)
        return events

    monkeypatch.setattr(load, "rosters", counting)
    world.accept(asked(change(capacity=103)))
    assert world.apply(100) == 1

    free, expected = 103, []
    for row in waiting:
        if row.spots_count <= free:
            expected.append(row.id)
            free -= row.spots_count
        elif policy == "strict_fifo":
            break
    now = world.snapshot()
    assert [entry.registration_id for entry in now.entries if entry.kind == "promotion"] == expected
    assert {row.id for row in now.rows if row.status == "CONFIRMED"} == set(expected)
    assert counters(world) == (103 - free, 103 - free)
    assert now.waitlist_length == WAITERS - len(expected)
    assert loaded == [sum(103 // size + 2 for size in range(1, SIZES + 1))]


def test_a_command_of_a_newer_version_waits_for_a_newer_worker(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = InPostgres(connection, SETTINGS)
    world.accept(asked(register(1), register(1), register(1)))
    newer = "UPDATE command SET version = 3, payload = payload || '{\"fromThen\": 1}' WHERE id = :id"
    second = str(world.snapshot().commands[1].id)
    with connection.begin():
        connection.execute(text(newer), {"id": second})

    assert [world.apply(10), world.apply(10)] == [1, 0]
    assert answers(world) == ["confirmed", "pending", "pending"], "nothing passes it"

    monkeypatch.setattr(commands, "VERSION", 3)
    with connection.begin():
        connection.execute(
            text("UPDATE command SET payload = payload - 'fromThen' WHERE id = :id"), {"id": second}
        )
    assert world.apply(10) == 2
    assert answers(world) == ["confirmed", "confirmed", "confirmed"]
