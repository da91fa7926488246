"""Connections to PostgreSQL: a pool for the API, one lasting connection for a worker, others for operators.

A connection that writes is only made to a server that takes writes (`target_session_attrs=read-write`), one
that reads for a client only to a primary. So a URL may name several hosts. No connection overrides a
database's read-only setting. A session that became read-only, or that its server ends, is replaced.
"""

import math
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import TupleRow
from sqlalchemy import Engine, ExceptionContext, create_engine, event
from sqlalchemy.pool import NullPool

from shared import urls
from shared.postgres import (
    arrays,  # noqa: F401 - registers how arrays are sent, before any connection is made
    bounded,
    durability,
    session_settings,
)
from shared.postgres.bounded import BoundedSession
from shared.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

WORKER_APPLICATION = "admitone-worker"
_API_APPLICATION = "admitone-api"
_HOST_LENGTH_MAX = 32  # PostgreSQL cuts an application_name at 63 bytes
_CONNECT_SECONDS_MAX = 5
_ADMIN_WAIT_SECONDS_MAX = 2
# Planning a statement costs more than running it, so each is planned once; and rows are found by their keys,
# even where the planner still takes the tables for empty: `tests/integration/test_plans.py` holds it to that
# (decision 0014).
_PLANNED_ONCE = (
    "-c plan_cache_mode=force_generic_plan "
    "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c enable_memoize=off"
)
# So that a fence of the form ORDER BY … LIMIT 1 finds its row by the one index that has this order.
_BY_ORDER = "-c enable_sort=off"
_ONE_PROCESS = "-c max_parallel_workers_per_gather=0"  # or the number of connections would limit nothing
_LOCK_SECONDS_MAX = (
    0.25  # for a registration's row that another session has locked; locked events are skipped
)
_OPTIONS = session_settings.ARGUMENTS["options"]
_WRITES = {"target_session_attrs": "read-write"}
_READS = {"target_session_attrs": "primary"}
_READ_ONLY = "25006"
_SERVER_ENDS_SESSION = ("57P", "25P03", "25P04")
# libpq's own words, which it does not translate in a process that sets no locale.
_REFUSED_AS_READ_ONLY = ("session is read-only", "server is in hot standby mode")


def async_engine(settings: Settings, *, for_admins: bool = False) -> "AsyncEngine":
    """Return a pool of the API, with a time-out on each statement: the public's, or that of admins' lists.

    Each statement commits by itself, unless a connection is given another isolation level. The intake has one
    connection of its own, admins a third of the others, and the public the rest. So no number of searches and
    exports takes a connection from the public.
    """
    # It loads SQLAlchemy's ORM, which takes a sixth of a worker's start, and a quarter of a command's.
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415

    admins = settings.admin_connections_max
    arguments = _session_args(
        settings,
        _API_APPLICATION,
        _ONE_PROCESS if for_admins else f"{_ONE_PROCESS} {_PLANNED_ONCE} {_BY_ORDER}",
        **_bounds(settings),
    )
    engine = create_async_engine(
        settings.database_url,
        pool_size=admins if for_admins else settings.database_connections_max - 1 - admins,
        max_overflow=0,
        pool_timeout=_ADMIN_WAIT_SECONDS_MAX if for_admins else settings.statement_timeout_seconds,
        pool_pre_ping=False,
        # Set when a connection is made: if it were set at a checkout, a dead connection would refuse it, and
        # SQLAlchemy would leave the connection to the garbage collector.
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        connect_args=arguments | _READS | {"async_creator_fn": _bounded(settings)},
    )
    event.listen(engine.sync_engine, "handle_error", _replace_session)
    return engine


async def accepting_session(settings: Settings) -> BoundedSession:
    """Return a new psycopg connection of the API, on which each statement commits by itself."""
    arguments = _session_args(settings, _API_APPLICATION, _PLANNED_ONCE, **_bounds(settings))
    session: BoundedSession = await _bounded(settings)(**(arguments | _WRITES), autocommit=True)
    session.excused = partial(_waits_for_standby, settings)
    session.server = await durability.server_of(session)
    return session


def worker_session(settings: Settings) -> psycopg.Connection[TupleRow]:
    """Return a new session of a worker, which PostgreSQL ends if the process hangs; each statement commits.

    The session's advisory locks are a worker's title to its events, so a worker that is silent for
    `owner_silence_seconds_max` must lose the session, and with it the ability to commit. A psycopg connection
    never connects a second time: statements after the end of the session fail. Raises psycopg's
    `OperationalError` also if a pooler hands the statements on: the locks would stay with its own sessions.
    """
    silence = settings.owner_silence_seconds_max
    arguments = _session_args(
        settings,
        worker_name(),
        _PLANNED_ONCE,
        statement_timeout=settings.statement_timeout_seconds,
        lock_timeout=_LOCK_SECONDS_MAX,
        idle_session_timeout=silence,
        idle_in_transaction_session_timeout=silence,
        tcp_user_timeout=silence,  # of the server's side: it notices a host that vanished
    )
    session = psycopg.connect(**(arguments | _WRITES), autocommit=True)
    if session.execute(bounded.SERVER_PROCESS).fetchone() != (session.info.backend_pid,):
        session.close()
        raise psycopg.OperationalError(
            "a worker needs a session of its own: give it PostgreSQL's address, not that of PgBouncer"
        )
    return session


def operator_engine(database_url: str, *, writes: bool = False, **arguments: Any) -> Engine:
    """Return an engine for a command of the operator, without a pool and without time-outs.

    One that only reads takes any server if the URL names one host, and the primary among several.
    """
    several = "," in str(urls.libpq_arguments(database_url).get("host", ""))
    target = _WRITES if writes else _READS if several else {}
    arguments["options"] = f"{_OPTIONS} {arguments.get('options', '')}"
    connect_args = {**session_settings.ARGUMENTS, **arguments, **target}
    return create_engine(database_url, poolclass=NullPool, hide_parameters=True, connect_args=connect_args)


def must_be_replaced(error: BaseException) -> bool:
    """Return True if a session that gave this error is of no more use: read-only, or ended by its server."""
    state = getattr(error, "sqlstate", None) or ""
    return state == _READ_ONLY or state.startswith(_SERVER_ENDS_SESSION)


def is_read_only(error: BaseException) -> bool:
    """Return True if a statement or a new connection was refused because the server takes no writes."""
    text = str(error)
    return getattr(error, "sqlstate", None) == _READ_ONLY or any(
        words in text for words in _REFUSED_AS_READ_ONLY
    )


def worker_name() -> str:
    """Return the name under which PostgreSQL lists this worker: `admitone-worker/<host>/<pid>`."""
    return f"{WORKER_APPLICATION}/{socket.gethostname()[:_HOST_LENGTH_MAX]}/{os.getpid()}"


def _bounds(settings: Settings) -> dict[str, float]:
    """Return the time-outs of the API's sessions; a process that hangs in a transaction loses its session."""
    seconds = settings.statement_timeout_seconds
    return {"statement_timeout": seconds, "idle_in_transaction_session_timeout": seconds}


def _bounded(settings: Settings) -> Callable[..., Any]:
    return bounded.connector(settings.statement_timeout_seconds + bounded.GRACE_SECONDS)


async def _waits_for_standby(settings: Settings, pid: int) -> bool:
    """Return True if the commit of this process waits for a standby, which no time-out of the server ends."""
    arguments = _session_args(settings, _API_APPLICATION, statement_timeout=bounded.GRACE_SECONDS)
    async with await bounded.connector(bounded.GRACE_SECONDS)(**(arguments | _READS)) as asking:
        return await durability.waits_for_standby(asking, pid)


def _replace_session(context: ExceptionContext) -> None:
    """Have SQLAlchemy make a new connection after an error that the session would give for ever."""
    if must_be_replaced(context.original_exception):
        context.is_disconnect = True


def _session_args(
    settings: Settings, application: str, planning: str = "", **timeouts_seconds: float
) -> dict[str, Any]:
    """Return psycopg's arguments for a session; the URL may set other limits of the connection than these."""
    timeouts = " ".join(f"-c {name}={math.ceil(value * 1000)}" for name, value in timeouts_seconds.items())
    return {
        "connect_timeout": _CONNECT_SECONDS_MAX,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        **urls.libpq_arguments(settings.database_url),
        **session_settings.ARGUMENTS,
        "application_name": application,
        "options": f"{_OPTIONS} {planning} {timeouts}",
    }
