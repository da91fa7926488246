"""Alembic's entry: runs the migrations on `ADMITONE_DATABASE_URL`, or on a connection handed in."""

from typing import Any

from alembic import context
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from shared import settings, tables


def _run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=tables.metadata, compare_server_default=True)
    with context.begin_transaction():
        context.run_migrations()


def _main() -> None:
    given: Any = context.config.attributes.get("connection")
    if context.is_offline_mode():
        context.configure(dialect_name="postgresql", target_metadata=tables.metadata, literal_binds=True)
        with context.begin_transaction():
            context.run_migrations()
    elif given is not None:
        _run(given)
    else:
        engine = create_engine(settings.load(settings.DatabaseSettings).database_url, poolclass=NullPool)
        with engine.begin() as connection:
            _run(connection)


_main()
