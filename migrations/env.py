"""Alembic's entry: runs the migrations on `ADMITONE_DATABASE_URL`, or on a connection handed in."""

from typing import Any

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection

from shared import settings
from shared.postgres import connections, tables


def _run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=tables.metadata, compare_server_default=True)
    with context.begin_transaction():
        context.run_migrations()


def _main() -> None:
    given: Any = context.config.attributes.get("connection")
    if context.is_offline_mode():
        # The audit trail of what is there is computed, so the migrations cannot be written down as SQL.
        raise CommandError("the migrations need a database: --sql is not possible")
    if given is not None:
        _run(given)
    else:
        database_url = settings.load(settings.DatabaseSettings).database_url
        # A migration that waits for a table keeps all others waiting for it: it is given up instead.
        engine = connections.operator_engine(database_url, writes=True, options="-c lock_timeout=2s")
        with engine.begin() as connection:
            _run(connection)


_main()
