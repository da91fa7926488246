"""A worker is stopped while PostgreSQL sends it a backlog: no time-out of the server cuts it off then."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import psycopg
from sqlalchemy import create_engine, make_url
from sqlalchemy.pool import NullPool

from ops.maintenance import audit
from shared.postgres import locks
from tests.stage import Breakable, Json, Stage

COMMANDS = 1_500
SPOTS = 700
DEADLINE_SECONDS = 60  # the silence that a worker may keep is 10 s
_BACKLOG = """
    WITH accepted AS (
        INSERT INTO command (event_id, id, kind, payload, actor)
        SELECT %s, gen_random_uuid(), 'register',
               jsonb_build_object('name', repeat('n', 180) || number, 'spotsCount', 1), 'public'
        FROM generate_series(1, %s) AS number
        RETURNING event_id, seq, id
    )
    INSERT INTO pending_command (event_id, seq, command_id) SELECT event_id, seq, id FROM accepted
"""
_SESSION_OF = """
    SELECT pid, wait_event_type, wait_event FROM pg_stat_activity
    WHERE application_name LIKE 'admitone-worker/%%' AND application_name LIKE %s
"""


def waits_for(stage: Stage, worker: subprocess.Popen[bytes]) -> str | None:
    """Return the event that the session of a worker waits for."""
    rows = stage.query(_SESSION_OF, f"%/{worker.pid}")
    return rows[0]["wait_event"] if rows else None


def owner(stage: Stage, event: Json) -> subprocess.Popen[bytes] | None:
    """Return the worker that owns the event, None while it has no owner."""
    engine = create_engine(stage.database_url, poolclass=NullPool)
    with engine.connect() as connection:
        pids = {worker.pid for worker in locks.workers(connection) if worker.owns(UUID(event["id"]))}
    return next((worker for worker in stage.workers if worker.pid in pids), None)


@contextmanager
def stopped_while_it_reads(stage: Stage, event: Json) -> Iterator[subprocess.Popen[bytes]]:
    """Give the event a backlog, and stop its owner between asking for it and reading it.

    The owner's statement waits for a table that is locked until the owner is stopped. An attempt that misses
    the moment is followed by another one.
    """
    url = make_url(stage.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    reader = owner(stage, event)
    assert reader is not None
    until = time.monotonic() + DEADLINE_SECONDS
    try:
        while waits_for(stage, reader) != "ClientWrite":
            assert time.monotonic() < until, "the worker was never stopped at that moment"
            reader.send_signal(signal.SIGSTOP)
            stage.query(_BACKLOG, event["id"], COMMANDS)
            with psycopg.connect(url) as holder:
                holder.execute("LOCK TABLE command IN ACCESS EXCLUSIVE MODE")
                reader.send_signal(signal.SIGCONT)
                while waits_for(stage, reader) != "relation" and time.monotonic() < until:
                    pass
                reader.send_signal(signal.SIGSTOP)
            time.sleep(0.5)  # PostgreSQL sends as much as there is room for
        yield reader
    finally:
        reader.send_signal(signal.SIGCONT)


def wait_until_settled(stage: Stage) -> None:
    """Return when no command is pending."""
    until = time.monotonic() + DEADLINE_SECONDS
    while stage.query("SELECT seq FROM pending_command LIMIT 1"):
        assert time.monotonic() < until, stage.log()[-3_000:]
        time.sleep(0.1)


def test_a_worker_stopped_in_a_read_is_replaced(breakable: Breakable) -> None:
    stage = breakable(workers=0, api_processes=0)
    stage.more_environment |= {"ADMITONE_APPLY_BATCH_MAX": "2000", "ADMITONE_OWNER_SILENCE_SECONDS_MAX": "4"}
    for start in (stage.start_worker, stage.start_worker, stage.start_api):
        start()
    stage.wait_ready()
    event = stage.create_event(capacity=SPOTS)
    while owner(stage, event) is None:
        time.sleep(0.05)

    with stopped_while_it_reads(stage, event) as stopped:
        wait_until_settled(stage)
        assert owner(stage, event) not in {None, stopped}

    until = time.monotonic() + DEADLINE_SECONDS
    while stage.log().count("ownership_lost") < 1 or stage.log().count("worker_joined") < 3:
        assert time.monotonic() < until, stage.log()[-3_000:]
        time.sleep(0.1)
    (accepted,) = stage.query("SELECT count(*) AS n FROM command")
    rows = stage.query("SELECT status, count(*) AS n FROM registration GROUP BY status ORDER BY status")
    assert [tuple(row.values()) for row in rows] == [
        ("CONFIRMED", SPOTS),
        ("WAITLIST", accepted["n"] - SPOTS),
    ]
    assert stage.query("SELECT count(*) AS n FROM audit_entry") == [accepted], "nothing is done twice"
    assert audit.replay(stage.database_url, event["slug"]).problems == []
    stage.end(next(worker for worker in stage.workers if worker is not stopped))
    with stage.client() as client:
        path = f"/api/p/{event['slug']}/register"
        answer = client.post(path, json={"name": "Later"}, headers={"prefer": "wait=25"})
    assert (answer.status_code, answer.json()["status"]) == (201, "WAITLIST"), "it decides again"
