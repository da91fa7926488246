"""Brings a database to the schema of this version."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

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


def upgrade(database_url: str, revision: str = "head") -> None:
    """Run all migrations up to `revision`; safe to call from several processes at once.

    Raises `UnsuitableDatabase`, and changes nothing then.
    """
    engine = connections.operator_engine(database_url, writes=True)
    with engine.begin() as connection:
        if faults := session_settings.faults(connection):
            raise UnsuitableDatabase(f"the database cannot be used: {'; '.join(faults)}")
        if elsewhere := connection.execute(_ELSEWHERE).scalar():
            raise UnsuitableDatabase(
                f"the tables are in the schema {elsewhere}, and AdmitOne uses public: run "
                f"ALTER SCHEMA public RENAME TO public_before; ALTER SCHEMA {elsewhere} RENAME TO public"
            )
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": locks.UPGRADE})
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def downgrade(database_url: str, revision: str) -> None:
    """Run the downgrades down to `revision`."""
    engine = connections.operator_engine(database_url, writes=True)
    with engine.begin() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


def head() -> str:
    """Return the newest revision that this version knows."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None, "the checkout has no migrations"
    return revision


def _config() -> Config:
    return Config(toml_file=_CHECKOUT / "pyproject.toml")
