"""The counter's migration as plain SQL does what the migration itself does, and its check finds drift."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.pool import NullPool

from ops.maintenance import schema
from tests.databases import EMPTY, FULL, OPEN, OVERSOLD, REGISTRATIONS, Event, fill, run, shape

SCRIPTS = Path(__file__).resolve().parents[2] / "docs" / "sql"
VALUES = """
SELECT id, capacity, spots_reserved, overbooked_spots,
       (SELECT version_num FROM alembic_version) AS version
FROM event ORDER BY id
"""

LATE_REGISTRATION = """
INSERT INTO registration (event_id, id, name, spots_count, status)
VALUES (:event_id, gen_random_uuid(), 'In flight', 3, 'CONFIRMED')
"""


def play(script: str, database_url: str) -> list[dict[str, Any]]:
    """Run a script as a client like psql does; return the rows of its last statement, if it has any."""
    url = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        cursor = connection.execute((SCRIPTS / script).read_bytes())
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def old_database(empty_database: str) -> str:
    """Return the URL of a database whose system counted rows, and oversold an event."""
    schema.upgrade(empty_database, "0001")
    fill(empty_database)
    return empty_database


@pytest.fixture
def counted(old_database: str) -> str:
    """Return the URL of that database with the counter, by plain SQL."""
    play("counter-up.sql", old_database)
    return old_database


def test_the_plain_sql_gives_the_same_database_as_the_migration(old_database: str) -> None:
    play("counter-up.sql", old_database)
    by_script = shape(old_database), run(old_database, VALUES)
    play("counter-down.sql", old_database)
    schema.upgrade(old_database, "0002")
    assert (shape(old_database), run(old_database, VALUES)) == by_script
    assert by_script[1][0] == (OVERSOLD.id, 3, 4, 1, "0002")


def test_the_rollback_restores_the_schema_and_every_registration(old_database: str) -> None:
    registrations = "SELECT * FROM registration ORDER BY id"
    before = shape(old_database), run(old_database, registrations)
    play("counter-up.sql", old_database)
    play("counter-down.sql", old_database)
    assert (shape(old_database), run(old_database, registrations)) == before
    assert run(old_database, "SELECT version_num FROM alembic_version") == [("0001",)]


def test_after_the_plain_sql_the_other_migrations_go_on(counted: str) -> None:
    schema.upgrade(counted)
    assert run(counted, "SELECT count(*) FROM audit_entry") == [(len(REGISTRATIONS),)]


@pytest.mark.parametrize(("script", "at"), [("counter-up.sql", "0002"), ("counter-down.sql", "0004")])
def test_a_script_at_the_wrong_migration_changes_nothing(old_database: str, script: str, at: str) -> None:
    schema.upgrade(old_database, at)
    before = shape(old_database), run(old_database, VALUES)
    with pytest.raises(psycopg.errors.RaiseException, match="nothing was changed"):
        play(script, old_database)
    assert (shape(old_database), run(old_database, VALUES)) == before


def test_the_check_finds_nothing_when_counters_and_rows_agree(counted: str) -> None:
    assert play("counter-verify.sql", counted) == []


@pytest.mark.parametrize(
    ("event", "tampering", "counter", "actual"),
    [
        (OPEN, "UPDATE event SET spots_reserved = 5 WHERE id = :id", 5, 4),
        (FULL, "UPDATE event SET spots_reserved = 1 WHERE id = :id", 1, 2),
        (EMPTY, "UPDATE event SET spots_reserved = 1 WHERE id = :id", 1, 0),
        (FULL, "UPDATE registration SET status = 'CANCELLED' WHERE event_id = :id", 2, 0),
        (OVERSOLD, "DELETE FROM registration WHERE event_id = :id", 4, 0),
    ],
)
def test_the_check_finds_exactly_the_event_that_was_tampered_with(
    counted: str, event: Event, tampering: str, counter: int, actual: int
) -> None:
    run(counted, tampering, id=event.id)
    assert play("counter-verify.sql", counted) == [
        {
            "id": event.id,
            "title": event.title,
            "counter": counter,
            "actual": actual,
            "difference": counter - actual,
        }
    ]


def test_a_registration_in_flight_is_waited_for_and_counted(old_database: str) -> None:
    """A counting system locks the event, counts, then inserts: the script comes before all of it or after."""
    with (
        ThreadPoolExecutor() as pool,
        create_engine(old_database, poolclass=NullPool).connect() as registering,
    ):
        registering.execute(text("SELECT FROM event WHERE id = :id FOR UPDATE"), {"id": EMPTY.id})
        script = pool.submit(play, "counter-up.sql", old_database)
        while not run(old_database, "SELECT FROM pg_locks WHERE NOT granted"):
            assert not script.done()
        registering.execute(text(LATE_REGISTRATION), {"event_id": EMPTY.id})
        registering.commit()
        script.result()
    assert run(old_database, VALUES)[-1] == (EMPTY.id, EMPTY.capacity, 3, 0, "0002")
