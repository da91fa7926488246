"""A backlog: many commands at once, written past the API while no worker runs on; and how fast it drains."""

import signal
import time
from typing import Any

import psycopg

from tests.chaos.database import POLL_SECONDS
from tests.chaos.history import History, Made, Operation
from tests.chaos.service import Service
from tests.chaos.wishes import SETTINGS

EVENTS = 20
DRAIN_SECONDS_MAX = 120.0
MARK = "backlog"
CAPACITY = 100
_CREATE = f"""
    INSERT INTO event (id, slug, title, capacity)
    SELECT gen_random_uuid(), '{MARK}-' || gen_random_uuid(), 'Backlog', {CAPACITY}
    FROM generate_series(1, {EVENTS}) RETURNING id
"""
_ACCEPT = f"""
    WITH accepted AS (
        INSERT INTO command (event_id, id, kind, payload, actor)
        SELECT event_id, gen_random_uuid(), 'register',
               jsonb_build_object('name', '{MARK}', 'spotsCount', 1), 'public'
        FROM unnest(%s::uuid[]) AS event_id, generate_series(1, %s) AS number ORDER BY number
        RETURNING event_id, seq, id
    )
    INSERT INTO pending_command (event_id, seq, command_id) SELECT * FROM accepted
"""
_LEFT = "SELECT count(*) FROM pending_command"
_EVENTS = f"SELECT id::text, slug FROM event WHERE slug LIKE '{MARK}-%'"
_OF_EVENT = "SELECT count(*) FROM command WHERE event_id = %s"


def drain(service: Service, count: int) -> float:
    """Return how many commands a second the workers decide from a backlog on events of its own."""
    if count < EVENTS:
        return 0.0
    service.wait_joined()
    for name in service.workers:
        service.signal(name, signal.SIGSTOP)
    try:
        with service.session() as session:
            events = [row[0] for row in session.execute(_CREATE.encode()).fetchall()]
            session.execute(_ACCEPT.encode(), [events, count // EVENTS])
    finally:
        began = time.monotonic()
        for name in service.workers:
            service.signal(name, signal.SIGCONT)
    with service.session() as session:
        while _left(session) and time.monotonic() < began + DRAIN_SECONDS_MAX:
            time.sleep(POLL_SECONDS)
    return count / (time.monotonic() - began)


def _left(session: "psycopg.Connection[tuple[Any, ...]]") -> int:
    (left,) = session.execute(_LEFT.encode()).fetchone() or (0,)
    return int(left)


def add_to(history: History, service: Service) -> None:
    """Add the events of all backlogs to a history, each with one operation that stands for its commands."""
    for id_, slug in service.query(_EVENTS):
        settings = {**SETTINGS, "title": "Backlog", "capacity": CAPACITY, "slug": slug}
        history.events[id_] = Made(id=id_, slug=slug, settings=settings)
        [(attempts,)] = service.query(_OF_EVENT, id_)
        number = len(history.operations)
        history.operations.append(
            Operation(number=number, kind="register", event_id=id_, mark=MARK, attempts=attempts)
        )
