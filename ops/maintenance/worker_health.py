"""The health of this host's worker: its database session executes a statement at every tick.

A container's health check uses it. It needs PostgreSQL alone: a worker goes on deciding without the broker,
and a worker in the middle of a batch could not answer a question.
"""

from sqlalchemy.exc import SQLAlchemyError

from shared.postgres import connections, locks
from shared.settings import Settings

_SECONDS_MAX = 3


def worker_is_alive(settings: Settings) -> bool:
    """Return True if a worker of this host executed a statement within `owner_silence_seconds_max`.

    False also if the database cannot be reached: the worker cannot reach it either, and decides nothing.
    """
    engine = connections.operator_engine(
        settings.database_url,
        connect_timeout=_SECONDS_MAX,
        options=f"-c statement_timeout={_SECONDS_MAX * 1000}",
    )
    # As PostgreSQL lists the name: cut to the length that fits there.
    _, this_host, _ = connections.worker_name().split("/")
    try:
        with engine.connect() as connection:
            workers = locks.workers(connection)
    except SQLAlchemyError:
        return False
    return any(
        worker.host == this_host and worker.silent_seconds < settings.owner_silence_seconds_max
        for worker in workers
    )
