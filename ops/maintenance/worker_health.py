"""Whether this host's worker lives, by its own heartbeat: its database session speaks at every tick.

For a container's health check, so it needs PostgreSQL alone: a worker goes on deciding while the broker is
away, and one that is busy with a batch has no time to answer questions.
"""

from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from shared.postgres import connections, locks
from shared.settings import Settings

_SECONDS_MAX = 3


def worker_is_alive(settings: Settings) -> bool:
    """Tell whether a worker of this host spoke within `owner_silence_seconds_max`.

    False too when the database cannot be asked: the worker cannot reach it either, and decides nothing.
    """
    engine = create_engine(
        settings.database_url,
        poolclass=NullPool,
        connect_args={
            "connect_timeout": _SECONDS_MAX,
            "options": f"-c statement_timeout={_SECONDS_MAX * 1000}",
        },
    )
    # As PostgreSQL lists it: cut to the length that fits there.
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
