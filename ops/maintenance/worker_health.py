"""The health of this container's worker: its database session executes a statement at every tick.

A container's health check uses it. The worker is found by its number, which follows from what `/proc` says
of its process: a worker of another container or machine of the same name has another number. The check needs
PostgreSQL alone: a worker goes on deciding without the broker, and a worker in the middle of a batch could
not answer a question.
"""

from sqlalchemy.exc import SQLAlchemyError

from shared import processes
from shared.postgres import connections, locks
from shared.settings import Settings

_SECONDS_MAX = 3


def worker_is_alive(settings: Settings) -> bool:
    """Return True if a worker process in this container's `/proc` spoke within `owner_silence_seconds_max`.

    False also if the database cannot be reached: the worker cannot reach it either, and decides nothing.
    """
    engine = connections.operator_engine(
        settings.database_url,
        connect_timeout=_SECONDS_MAX,
        options=f"-c statement_timeout={_SECONDS_MAX * 1000}",
    )
    try:
        with engine.connect() as connection:
            workers = locks.workers(connection)
    except SQLAlchemyError:
        return False
    visible = frozenset(processes.visible_numbers())
    return any(
        worker.number in visible and worker.spoke_within(settings.owner_silence_seconds_max)
        for worker in workers
    )
