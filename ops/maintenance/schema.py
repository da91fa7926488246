"""Brings a database to the schema of this version."""

import sys
import time
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from shared.errors import ExpectedError
from shared.postgres import connections, locks, session_settings

_CHECKOUT = Path(__file__).resolve().parents[2]
# An earlier version took the schema that the role's search_path named.
_ELSEWHERE = text("""
    SELECT quote_ident(min(nspname)) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind = 'r' AND relname IN ('alembic_version', 'audit_entry', 'command')
      AND to_regclass('public.alembic_version') IS NULL
    GROUP BY nspname HAVING count(*) = 3 LIMIT 1
""")


class UnsuitableDatabase(ExpectedError):  # noqa: N818 - reads as the sentence "raise UnsuitableDatabase"
    """The database has to be changed before AdmitOne can use it; the message says how."""


# A transaction that builds an index keeps all writers of its table waiting: these are built outside of one.
_INDEXES = {
    "registration_search_idx": """
        registration USING gin (search_words(event_id, name, email)) WITH (gin_pending_list_limit = 64)
    """,
    "event_created_idx": "event (created_at, id) WHERE NOT deleted",
    "command_payload_idx": "command (accepted_at) WHERE payload <> '{}'::jsonb",
    "command_deletion_idx": "command (accepted_at) WHERE kind = 'delete_registration'",
}
_IS_VALID = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
_LOOK_AGAIN_SECONDS = 0.2
# A migration that waits for a table, such as behind a dump, keeps all others waiting for it. The wait is
# longer than PostgreSQL's deadlock_timeout, after which an autovacuum gives way.
_LOCK_SECONDS_MAX, _LOCK_PAUSE_SECONDS = 2, 4
_WAITS = "admitone: waiting until no other session, such as pg_dump, uses a table that is to be changed\n"
_WAIT = text(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS_MAX}s'")


def upgrade(database_url: str, revision: str = "head") -> None:
    """Run all migrations up to `revision` in one transaction; safe to call from several processes at once.

    Indexes that need not be there for the service to work are built after it, while the service works.
    As long as another session uses a table, the transaction is begun again and again, so that the service has
    its turns. Raises `UnsuitableDatabase`, and changes nothing then.
    """
    engine = connections.operator_engine(database_url, writes=True)
    said = False
    while not _has_migrated(engine, revision):
        if not said:
            sys.stderr.write(_WAITS)
            said = True
        time.sleep(_LOCK_PAUSE_SECONDS)
    if revision == "head":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            _build_indexes(connection)


def _has_migrated(engine: Engine, revision: str) -> bool:
    """Run all migrations in one transaction; return False if another session keeps one of them waiting."""
    try:
        _migrate(engine, revision)
    except OperationalError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            return False
        raise
    return True


def _migrate(engine: Engine, revision: str) -> None:
    with engine.begin() as connection:
        if faults := session_settings.faults(connection):
            raise UnsuitableDatabase(f"the database cannot be used: {'; '.join(faults)}")
        if elsewhere := connection.execute(_ELSEWHERE).scalar():
            raise UnsuitableDatabase(
                f"the tables are in the schema {elsewhere}, and AdmitOne uses public: run "
                f"ALTER SCHEMA public RENAME TO public_before; ALTER SCHEMA {elsewhere} RENAME TO public"
            )
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": locks.UPGRADE})
        connection.execute(_WAIT)
        config = Config(toml_file=_CHECKOUT / "pyproject.toml", attributes={"connection": connection})
        command.upgrade(config, revision)


def _build_indexes(connection: Connection) -> None:
    """Build the indexes that are not there, one process at a time; begin anew where a build was cut off."""
    try_lock = text("SELECT pg_try_advisory_lock(:lock)")
    while not connection.execute(try_lock, {"lock": locks.UPGRADE}).scalar_one():
        time.sleep(_LOOK_AGAIN_SECONDS)  # the building waits for a statement that waits
    for name, definition in _INDEXES.items():
        if not connection.execute(_IS_VALID, {"name": name}).scalar_one_or_none():
            connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))
            connection.execute(text(f"CREATE INDEX CONCURRENTLY {name} ON {definition}"))
