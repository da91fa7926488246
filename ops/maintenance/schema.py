"""Brings a database to the schema of this version."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from shared.postgres import connections, locks

_CHECKOUT = Path(__file__).resolve().parents[2]


def upgrade(database_url: str, revision: str = "head") -> None:
    """Run all migrations up to `revision`; safe to call from several processes at once.

    Each migration is a transaction of its own, and one that builds an index on a table in use ends it before.
    """
    engine = connections.operator_engine(database_url, writes=True)
    with engine.connect() as locking, engine.connect() as connection:
        # Without a transaction, which the building of an index would wait for.
        locking.execution_options(isolation_level="AUTOCOMMIT")
        locking.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": locks.UPGRADE})
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def downgrade(database_url: str, revision: str) -> None:
    """Run the downgrades down to `revision`."""
    engine = connections.operator_engine(database_url, writes=True)
    with engine.connect() as connection:
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
