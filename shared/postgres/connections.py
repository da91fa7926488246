"""Connections to PostgreSQL: a pool for the API, one lasting connection for a worker."""

import math
import os
import socket
from typing import Any

import psycopg
from psycopg.rows import TupleRow
from sqlalchemy import Connection, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from shared.postgres import arrays  # noqa: F401 - registers how arrays are sent, before any connection is made
from shared.settings import Settings

WORKER_APPLICATION = "admitone-worker"
_API_APPLICATION = "admitone-api"
_HOST_LENGTH_MAX = 32  # PostgreSQL cuts an application_name at 63 bytes
_CONNECT_SECONDS_MAX = 5
# Planning a statement costs more than running it, so each is planned once; and rows are found by their keys,
# even where the planner still takes the tables for empty: `tests/integration/test_plans.py` holds it to that
# (decision 0014).
_PLANNED_ONCE = (
    "-c plan_cache_mode=force_generic_plan -c jit=off "
    "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c enable_memoize=off"
)
_LOCK_SECONDS_MAX = (
    0.25  # for a registration's row that another session has locked; locked events are skipped
)


def async_engine(settings: Settings) -> AsyncEngine:
    """Return the API's pool, with a time-out on each statement; it leaves one connection to the intake."""
    return create_async_engine(
        settings.database_url,
        pool_size=settings.database_connections_max - 1,
        max_overflow=0,
        pool_timeout=settings.statement_timeout_seconds,
        pool_pre_ping=False,
        connect_args=_connect_args(_API_APPLICATION, statement_timeout=settings.statement_timeout_seconds),
    )


async def accepting_session(settings: Settings) -> psycopg.AsyncConnection[TupleRow]:
    """Return a new psycopg connection of the API, on which each statement commits by itself."""
    arguments = _session_args(
        settings, _API_APPLICATION, statement_timeout=settings.statement_timeout_seconds
    )
    return await psycopg.AsyncConnection.connect(**arguments, autocommit=True)


def worker_session(settings: Settings) -> psycopg.Connection[TupleRow]:
    """Return a new session of a worker, which PostgreSQL ends if the process hangs; each statement commits.

    The session's advisory locks are a worker's title to its events, so a worker that is silent for
    `owner_silence_seconds_max` must lose the session, and with it the ability to commit. A psycopg connection
    never connects a second time: statements after the end of the session fail.
    """
    silence = settings.owner_silence_seconds_max
    arguments = _session_args(
        settings,
        worker_name(),
        statement_timeout=settings.statement_timeout_seconds,
        lock_timeout=_LOCK_SECONDS_MAX,
        idle_session_timeout=silence,
        idle_in_transaction_session_timeout=silence,
        tcp_user_timeout=silence,  # of the server's side: it notices a host that vanished
    )
    return psycopg.connect(**arguments, autocommit=True)


def session(connection: Connection) -> psycopg.Connection[TupleRow]:
    """Return the psycopg connection of a worker's connection, for statements in pipeline mode."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection), "the only driver"
    return driver


def worker_name() -> str:
    """Return the name under which PostgreSQL lists this worker: `admitone-worker/<host>/<pid>`."""
    return f"{WORKER_APPLICATION}/{socket.gethostname()[:_HOST_LENGTH_MAX]}/{os.getpid()}"


def _session_args(settings: Settings, application: str, **timeouts_seconds: float) -> dict[str, Any]:
    """Return psycopg's arguments for a session whose statements are planned once."""
    url = make_url(settings.database_url)
    _, address = url.get_dialect()().create_connect_args(url)
    return {**address, **_connect_args(application, _PLANNED_ONCE, **timeouts_seconds)}


def _connect_args(application: str, planning: str = "", **timeouts_seconds: float) -> dict[str, Any]:
    timeouts = " ".join(f"-c {name}={math.ceil(value * 1000)}" for name, value in timeouts_seconds.items())
    options = f"-c timezone=UTC {planning} {timeouts}"
    return {
        "application_name": application,
        "options": options,
        "connect_timeout": _CONNECT_SECONDS_MAX,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }
