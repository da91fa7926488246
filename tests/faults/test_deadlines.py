"""A PostgreSQL that does not answer: every client has its answer by its own deadline, and the API ends."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import pytest

from tests.stage import Breakable, Json, Stage

_SESSIONS = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'admitone-api'
"""
_INTAKE = _SESSIONS + " AND query LIKE '%%Writes commands into the ledger%%'"
_AND_NEW_ONES = (
    _SESSIONS
    + """
    UNION ALL SELECT split_part(pg_read_file('postmaster.pid'), chr(10), 1)::integer
"""
)
"""With the process that makes new sessions: a read that finds its session busy makes another one."""
_REFUSE = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = '53100'; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON command FOR EACH ROW EXECUTE FUNCTION refuse();
"""


@contextmanager
def frozen(stage: Stage, sessions: str) -> Iterator[None]:
    """Stop these processes of the server."""
    pids = [row["pid"] for row in stage.query(sessions)]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def register(stage: Stage, event: Json, *, wait: int) -> tuple[httpx2.Response, float]:
    began = time.monotonic()
    with stage.client() as client:
        answer = client.post(
            f"/api/p/{event['slug']}/register", json={"name": "User"}, headers={"prefer": f"wait={wait}"}
        )
    return answer, time.monotonic() - began


@pytest.mark.parametrize("sessions", [_INTAKE, _SESSIONS], ids=["intake", "all"])
def test_a_frozen_ledger_ends_no_wait_late(breakable: Breakable, sessions: str) -> None:
    stage = breakable(workers=1)
    event = stage.create_event()
    register(stage, event, wait=5)
    receipt, _ = register(stage, event, wait=5)

    with frozen(stage, sessions), ThreadPoolExecutor() as pool:
        asked = [pool.submit(register, stage, event, wait=1) for _ in range(3)]
        time.sleep(0.2)
        late, late_seconds = register(stage, event, wait=1)
        with stage.client() as client:
            began = time.monotonic()
            read = client.get(receipt.headers["location"], params={"wait": 1})
            read_seconds = time.monotonic() - began
        answers = [future.result() for future in asked]

    assert {(answer.status_code, answer.json()["code"]) for answer, _ in answers} <= {
        (504, "ACCEPTANCE_UNKNOWN"),
        (503, "LEDGER_UNAVAILABLE"),
    }
    assert (late.status_code, late.json()["code"]) == (503, "LEDGER_UNAVAILABLE"), "it was never sent"
    assert max(late_seconds, read_seconds, *(seconds for _, seconds in answers)) < 3
    assert read.status_code in {200, 503}
    after, _ = register(stage, event, wait=20)
    assert (after.status_code, after.json()["status"]) == (201, "CONFIRMED")


def test_a_frozen_session_is_replaced(breakable: Breakable) -> None:
    stage = breakable(workers=1)
    event = stage.create_event()
    register(stage, event, wait=5)

    with frozen(stage, _SESSIONS):
        register(stage, event, wait=1)
        time.sleep(12)  # longer than the statement time-out and a second
        answer, _ = register(stage, event, wait=5)

    assert answer.status_code == 201, answer.text


def test_an_api_ends_although_its_ledger_hangs(breakable: Breakable) -> None:
    stage = breakable(workers=1)
    event = stage.create_event()
    register(stage, event, wait=5)

    with frozen(stage, _AND_NEW_ONES), ThreadPoolExecutor() as pool:
        asked = [pool.submit(register, stage, event, wait=25) for _ in range(3)]
        with stage.client() as client:
            asked.append(
                pool.submit(lambda: (client.get(f"/api/events/{event['id']}", headers=stage.admin), 0.0))
            )
            time.sleep(1)
            began = time.monotonic()
            stage.end_api()
            stage.await_api()
            seconds = time.monotonic() - began
            answers = [future.result()[0] for future in asked]

    assert seconds < 10
    assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}
    assert {answer.status_code for answer in answers} <= {503, 504}


def test_an_error_of_the_ledger_is_no_unknown(breakable: Breakable) -> None:
    stage = breakable(workers=1)
    event = stage.create_event()
    stage.query(_REFUSE)

    answer, seconds = register(stage, event, wait=5)

    assert (answer.status_code, answer.json()["code"]) == (503, "LEDGER_UNAVAILABLE")
    assert seconds < 1
    stage.query("DROP TRIGGER refuse ON command")
    assert register(stage, event, wait=5)[0].status_code == 201
