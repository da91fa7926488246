"""A PostgreSQL that takes no writes for a while: answered at once, and over when it takes them again."""

import time

import psycopg
import pytest
from sqlalchemy import make_url

from ops.adoption import adopt
from ops.adoption.links import AdoptionError
from ops.adoption.report import Report
from tests.stage import Breakable, Json, Stage

_SESSIONS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'admitone-%'
"""
_WRITTEN_MEANWHILE = """
    WITH written AS (
        INSERT INTO command (event_id, id, kind, payload, actor)
        VALUES ('{}', gen_random_uuid(), 'register', '{{"name":"Written meanwhile"}}', 'public')
        RETURNING event_id, seq, id
    )
    INSERT INTO pending_command (event_id, seq, command_id) SELECT * FROM written
"""
ANSWER_SECONDS_MAX = 10


def administer(stage: Stage, *statements: str) -> None:
    """Run statements one by one in a session that may write."""
    url = make_url(stage.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True, options="-c default_transaction_read_only=off") as session:
        for statement in statements:
            session.execute(statement.encode())


def make_read_only(stage: Stage) -> None:
    """Leave read-only sessions, as a failover does; a session that is made meanwhile stays read-only."""
    administer(stage, "ALTER DATABASE admitone SET default_transaction_read_only = on", _SESSIONS)
    with stage.client() as client:  # the sessions are made anew, as far as they can be
        client.get("/readyz")
        client.post("/api/p/none/register", json={"name": "User"})
    time.sleep(1)


def register(stage: Stage, event: Json, name: str) -> tuple[int, Json, float]:
    began = time.monotonic()
    with stage.client() as client:
        answer = client.post(f"/api/p/{event['slug']}/register", json={"name": name})
    return answer.status_code, answer.json(), time.monotonic() - began


def test_a_read_only_ledger_answers_503_and_recovers(breakable: Breakable) -> None:
    stage = breakable(workers=1)
    event = stage.create_event()
    assert register(stage, event, "Before")[0] == 201
    make_read_only(stage)

    status, problem, seconds = register(stage, event, "Meanwhile")
    with stage.client() as client:
        creation = client.post(
            "/api/events", json={"slug": "late", "title": "Late", "capacity": 1}, headers=stage.admin
        )
        availability = client.get(f"/api/p/{event['slug']}")
    administer(stage, "ALTER DATABASE admitone RESET default_transaction_read_only")
    until = time.monotonic() + ANSWER_SECONDS_MAX
    while (after := register(stage, event, "After"))[0] != 201 and time.monotonic() < until:
        time.sleep(0.2)

    assert (status, problem["code"]) == (503, "LEDGER_UNAVAILABLE")
    assert seconds < 1, "answered at once"
    assert (creation.status_code, creation.json()["code"]) == (503, "LEDGER_UNAVAILABLE")
    assert availability.status_code == 200, "reading goes on"
    assert after[0] == 201, stage.log()[-3_000:]
    assert [r["name"] for r in stage.registrations(event)] == ["Before", "After"]


def test_a_worker_leaves_a_session_that_became_read_only(breakable: Breakable) -> None:
    stage = breakable(workers=1)
    event = stage.create_event()
    register(stage, event, "Before")
    administer(stage, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    time.sleep(1)
    administer(stage, _WRITTEN_MEANWHILE.format(event["id"]))
    time.sleep(2)
    administer(stage, "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")
    until = time.monotonic() + ANSWER_SECONDS_MAX
    while len(stage.registrations(event)) < 2 and time.monotonic() < until:
        time.sleep(0.2)

    assert "ownership_lost" in stage.log()
    assert [r["name"] for r in stage.registrations(event)] == ["Before", "Written meanwhile"]


def test_adopting_into_a_read_only_database_is_refused(breakable: Breakable) -> None:
    stage = breakable(workers=1)
    administer(stage, "ALTER DATABASE admitone SET default_transaction_read_only = on")

    with pytest.raises(AdoptionError, match=r"the target takes no writes: .*read-only"):
        adopt.adopt(stage.database_url, stage.database_url, Report(dry_run=False))
