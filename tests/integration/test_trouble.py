"""Commands that cannot be written: those that fail for good, those that are set aside, and all others."""

import time
from uuid import UUID

import psycopg
import pytest
from psycopg import errors
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool
from structlog.testing import capture_logs

from shared.domain.outcomes import Failed, SettledCommand
from shared.settings import Settings
from tests.databases import session_of
from tests.owners import an_owner, tick
from tests.simulation import worlds
from tests.simulation.histories import SETTINGS, history, register
from tests.simulation.in_postgres import InPostgres
from tests.simulation.model import Told
from worker import isolation
from worker.owner import apply as apply_batch
from worker.trouble import TIMEOUTS_APART_SECONDS, Troubles

OF_THE_COMMAND = ["22012", "22P02", "23514", "23505", "54000", "54001", "XX000", "XX001"]
NEVER = [
    "08006",
    "25001",
    "40001",
    "40P01",
    "53100",
    "53200",
    "55P03",
    "55006",
    "P0001",
    "42501",
]
NEVER += ["57014"]  # once

_PLANT = """
CREATE FUNCTION plant() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NEW; END $$;
CREATE {kind} planted {when} INSERT ON registration {timing} FOR EACH ROW
WHEN ({condition}) EXECUTE FUNCTION plant()
"""
_UPROOT = "DROP FUNCTION plant CASCADE"
_REFUSE_NOTES = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'no disk' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER refused BEFORE INSERT OR UPDATE ON trouble FOR EACH ROW EXECUTE FUNCTION refuse()
"""
_REFUSE_ALL = """
CREATE FUNCTION all_refused() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'all' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER all_refused BEFORE INSERT ON registration FOR EACH ROW EXECUTE FUNCTION all_refused()
"""
_NOTES = text("SELECT command_id, error, tries FROM trouble")


class Clock:
    """A clock that stands still between the steps of a test."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Stage:
    """An event with a planted command between two others, and its owner."""

    def __init__(
        self,
        connection: Connection,
        body: str,
        *,
        at_commit: bool = False,
        pending: slice = slice(None),
        capacity: int = 1_000,
    ) -> None:
        self.connection = connection
        self.clock = Clock()
        self.troubles = Troubles(self.clock)
        self.world = InPostgres(connection, {**SETTINGS, "capacity": capacity})
        self.commands = list(worlds.asked(history(*[register(1)] * 40)))
        self.culprit = UUID(self.commands[20].id)
        self.plant(body, "=", at_commit=at_commit)
        self.world.accept(self.commands[pending])

    def plant(self, body: str, compared: str, *, at_commit: bool = False) -> None:
        """Run `body` before the registration of the culprit ("="), or of each other command ("<>")."""
        kind, when, timing = (
            ("CONSTRAINT TRIGGER", "AFTER", "DEFERRABLE INITIALLY DEFERRED")
            if at_commit
            else ("TRIGGER", "BEFORE", "")
        )
        condition = f"NEW.command_id {compared} '{self.culprit}'"
        self.run(_PLANT.format(body=body, kind=kind, when=when, timing=timing, condition=condition))

    def run(self, statement: str) -> None:
        with self.connection.begin():
            self.connection.execute(text(statement))

    def apply_all(self) -> None:
        """Apply batches until nothing can be settled."""
        session = session_of(self.connection)
        with capture_logs():
            while apply_batch(session, [self.world.event_id], 100, troubles=self.troubles).settled:
                pass

    def retry(self, seconds: float) -> list[SettledCommand]:
        """Try what is due after so many seconds."""
        self.clock.now += seconds
        session = session_of(self.connection)
        with capture_logs():
            return [s for due in self.troubles.due() for s in isolation.retry(session, due, self.troubles)]

    def outcome(self) -> str | None:
        return self.outcomes()[20]

    def others(self) -> set[str | None]:
        outcomes = self.outcomes()
        return {*outcomes[:20], *outcomes[21:]}

    def outcomes(self) -> list[str | None]:
        return [_word(told) for told in self.world.snapshot().commands]

    def notes(self) -> list[tuple[UUID | None, str, int]]:
        with self.connection.begin():
            return [tuple(row) for row in self.connection.execute(_NOTES)]


def _word(told: Told) -> str | None:
    return None if told.outcome is None else str(told.outcome["outcome"])


def raising(code: str) -> str:
    return f"RAISE EXCEPTION 'planted' USING ERRCODE = '{code}'"


@pytest.mark.parametrize("at_commit", [False, True])
@pytest.mark.parametrize("code", OF_THE_COMMAND)
def test_an_error_of_its_own_fails_a_command(connection: Connection, code: str, *, at_commit: bool) -> None:
    stage = Stage(connection, raising(code), at_commit=at_commit)
    stage.apply_all()
    assert (stage.outcome(), stage.others(), stage.notes()) == ("failed", {"confirmed"}, [])


@pytest.mark.parametrize("code", NEVER)
def test_no_other_error_fails_a_command(connection: Connection, code: str) -> None:
    stage = Stage(connection, raising(code))
    stage.apply_all()
    assert (stage.outcome(), stage.others()) == (None, {"confirmed"})
    assert stage.notes() == [(stage.culprit, f"{code} planted", 1)]

    tries = range(1, 2 if code == "57014" else 20)
    for _ in tries:
        assert stage.retry(TIMEOUTS_APART_SECONDS) == []
    assert stage.outcome() is None
    assert stage.notes() == [(stage.culprit, f"{code} planted", 1 + len(tries))]

    stage.run(_UPROOT)
    (settled,) = stage.retry(TIMEOUTS_APART_SECONDS)
    assert settled.command_id == stage.culprit
    assert (stage.outcome(), stage.notes()) == ("confirmed", [])


@pytest.mark.parametrize("code", ["25006", "57P01"])
def test_an_error_that_ends_the_session_blames_no_command(connection: Connection, code: str) -> None:
    stage = Stage(connection, raising(code))
    with pytest.raises(psycopg.Error):
        stage.apply_all()
    assert (stage.outcome(), stage.notes(), stage.troubles.due()) == (None, [], [])


def test_three_time_outs_apart_fail_a_command(connection: Connection) -> None:
    stage = Stage(connection, "PERFORM pg_sleep(60)")
    stage.apply_all()
    assert (stage.outcome(), stage.others()) == (None, {"confirmed"})

    for _ in range(5):
        assert stage.retry(TIMEOUTS_APART_SECONDS / 5 - 0.1) == [], "too soon: it does not count"
    assert stage.retry(TIMEOUTS_APART_SECONDS / 2) == [], "the second"
    (failed,) = stage.retry(TIMEOUTS_APART_SECONDS)

    assert isinstance(failed.outcome, Failed)
    assert (stage.outcome(), stage.notes(), stage.troubles.due()) == ("failed", [], [])


def test_a_server_in_trouble_sets_nothing_aside(connection: Connection) -> None:
    stage = Stage(connection, "PERFORM pg_sleep(60)")
    stage.run(_REFUSE_NOTES)
    for _ in range(3):
        with pytest.raises(errors.DiskFull):
            stage.apply_all()
        stage.clock.now += TIMEOUTS_APART_SECONDS
    assert stage.outcome() is None
    assert stage.troubles.left_out([stage.world.event_id]) == []


def test_a_failure_that_cannot_be_written_waits(connection: Connection) -> None:
    stage = Stage(connection, raising("23514"))
    stage.run(f"ALTER TABLE outcome ADD CONSTRAINT planted CHECK (command_id <> '{stage.culprit}') NOT VALID")
    stage.apply_all()
    assert (stage.outcome(), stage.others()) == (None, {"confirmed"})

    stage.run("ALTER TABLE outcome DROP CONSTRAINT planted")
    stage.retry(TIMEOUTS_APART_SECONDS)
    assert stage.outcome() == "failed"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("payload", "CAST(repeat('[', 4000) || repeat(']', 4000) AS jsonb)"),
        ("payload", "'{\"name\": 1e400}'"),
        ("accepted_at", "'infinity'"),
        ("kind", "''"),
    ],
)
def test_an_unreadable_row_fails_alone(connection: Connection, column: str, value: str) -> None:
    stage = Stage(connection, "NULL")
    row = f"WHERE event_id = '{stage.world.event_id}' AND id = '{stage.culprit}'"
    stage.run(f"UPDATE command SET {column} = {value} {row}")
    stage.apply_all()
    stage.run(f"UPDATE command SET payload = '{{}}', accepted_at = now(), kind = 'register' {row}")
    assert (stage.outcome(), stage.others()) == ("failed", {"confirmed"})


def test_trouble_of_the_event_sets_nothing_aside(connection: Connection) -> None:
    stage = Stage(connection, "NULL")
    stage.run(_REFUSE_ALL)
    with pytest.raises(errors.DiskFull):
        stage.apply_all()
    assert stage.troubles.left_out([stage.world.event_id]) == []

    stage.run("DROP FUNCTION all_refused CASCADE")
    stage.apply_all()
    assert {*stage.outcomes()} == {"confirmed"}


def test_the_note_of_an_event_ends(settings: Settings, connection: Connection) -> None:
    stage = Stage(connection, "NULL")
    stage.run(_REFUSE_ALL)
    owner = an_owner(settings)
    with capture_logs():
        tick(owner)
        noted = stage.notes()
        stage.run("DROP FUNCTION all_refused CASCADE")
        until = time.monotonic() + 20
        while stage.outcome() is None and time.monotonic() < until:  # the event pauses
            time.sleep(0.1)
            tick(owner)
    owner.close()

    assert noted == [(None, "53100 all", 1)]
    assert (stage.outcome(), stage.notes()) == ("confirmed", [])


def test_a_passed_trouble_costs_no_place(connection: Connection) -> None:
    stage = Stage(connection, raising("53100"), pending=slice(20, 21), capacity=1)
    stage.apply_all()
    assert stage.outcomes() == [None]
    assert stage.troubles.left_out([stage.world.event_id]) == [stage.culprit]

    stage.run(_UPROOT)
    stage.world.accept(stage.commands[21:22])
    stage.apply_all()
    assert stage.outcomes() == ["confirmed", "waitlisted"]


def test_an_outcome_is_told_although_the_batch_behind_it_is_refused(connection: Connection) -> None:
    stage = Stage(connection, raising("53100"), pending=slice(20, 21))
    stage.apply_all()
    stage.run(_UPROOT)
    stage.plant(raising("53100"), "<>")
    stage.world.accept(stage.commands[21:30])

    session = session_of(connection)
    settled = apply_batch(session, [stage.world.event_id], 100, troubles=stage.troubles).settled
    assert [command.command_id for command in settled] == [stage.culprit]
    with pytest.raises(errors.DiskFull):
        stage.apply_all()
    assert stage.outcomes() == ["confirmed", *[None] * 9]


@pytest.mark.parametrize("taken_away", [False, True])
def test_a_try_that_finds_nothing_is_the_last(
    database: str, connection: Connection, *, taken_away: bool
) -> None:
    stage = Stage(connection, raising("53100"))
    stage.apply_all()
    with create_engine(database, poolclass=NullPool).begin() as other:
        if taken_away:
            stage.run(f"DELETE FROM pending_command WHERE command_id = '{stage.culprit}'")
        else:
            other.execute(text("SELECT FROM event FOR UPDATE"))
        assert stage.retry(TIMEOUTS_APART_SECONDS) == []
        assert (stage.troubles.due(), stage.notes()) == ([], [])

    stage.run(_UPROOT)
    stage.apply_all()
    assert stage.outcome() == (None if taken_away else "confirmed")


def test_what_a_refused_batch_leaves_is_next(connection: Connection) -> None:
    stage = Stage(connection, raising("53100"))
    with capture_logs():
        applied = apply_batch(session_of(connection), [stage.world.event_id], 100, troubles=stage.troubles)

    assert len(applied.settled) == len(stage.commands) - 1
    assert applied.unfinished == [stage.world.event_id], "more may wait behind it"


def test_a_try_takes_no_other_command(connection: Connection) -> None:
    stage = Stage(connection, raising("53100"), pending=slice(20, 21))
    stage.apply_all()
    stage.run(_UPROOT)
    apply_batch(session_of(connection), [stage.world.event_id], 100)
    stage.world.accept(stage.commands[21:22])

    assert stage.retry(TIMEOUTS_APART_SECONDS) == [], "another owner has settled it"
    assert stage.outcomes() == ["confirmed", None]


def test_troubles_end_with_the_ownership(settings: Settings, connection: Connection) -> None:
    stage = Stage(connection, raising("53100"))
    owner, other = an_owner(settings), an_owner(settings)
    with capture_logs():
        tick(owner)
        assert owner._troubles.event_ids() == {stage.world.event_id}  # noqa: SLF001
        stage.run(_UPROOT)
        assert owner._ownership is not None  # noqa: SLF001
        owner._ownership.session.close()  # noqa: SLF001
        tick(other)
        assert stage.outcome() == "confirmed"
        other.close()
        tick(owner)
        tick(owner)

    assert owner._troubles.event_ids() == set(), "it would try the command in vain for ever"  # noqa: SLF001
    owner.close()
