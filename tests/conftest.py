"""Real servers for every test: PostgreSQL and Valkey from wheels, databases made by the migrations."""

import gc
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Connection, make_url

from ops import embedded
from ops.embedded import Servers
from ops.maintenance import schema
from shared.settings import Settings
from tests.databases import as_worker
from tests.stage import Breakable, Stage

_TEMPLATE = "template_admitone"


def pytest_collection_finish() -> None:
    """Keep the modules and the tests, which last to the end of the run, out of all garbage collections."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """PostgreSQL and Valkey, for this run alone."""
    with embedded.running(tmp_path_factory.mktemp("servers")) as addresses:
        yield addresses


@pytest.fixture(scope="session")
def template(servers: Servers) -> str:
    """The name of a migrated database that new ones are copied from."""
    _execute(servers, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_TEMPLATE)))
    schema.upgrade(_named(servers, _TEMPLATE))
    return _TEMPLATE


@pytest.fixture
def empty_database(servers: Servers) -> Iterator[str]:
    """The URL of a database that no migration has seen."""
    with ExitStack() as stack:
        yield _database(servers, "template0", stack)


@pytest.fixture
def database(servers: Servers, template: str) -> Iterator[str]:
    """The URL of an empty database with the current schema."""
    with ExitStack() as stack:
        yield _database(servers, template, stack)


@pytest.fixture(scope="module")
def module_database(servers: Servers, template: str) -> Iterator[str]:
    """The URL of a database with the current schema for all tests of one module."""
    with ExitStack() as stack:
        yield _database(servers, template, stack)


@pytest.fixture
def settings(servers: Servers, database: str) -> Settings:
    """Settings for that database."""
    return Settings(database_url=database, broker_url=servers.broker_url, result_url=servers.result_url)


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    """A connection to that database; every transaction is the test's own."""
    with as_worker(database) as opened:
        yield opened


@pytest.fixture(scope="session")
def stage(servers: Servers, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One API process and two workers, for tests that break nothing; each test makes its own event."""
    with ExitStack() as stack:
        database = _database(servers, template, stack)
        yield stack.enter_context(Stage(servers, database, tmp_path_factory.mktemp("stage"), workers=2))


@pytest.fixture(scope="session")
def migrated_cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a stopped PostgreSQL with the current schema, for servers that start with a copy."""
    data = tmp_path_factory.mktemp("migrated")
    with embedded.running(data) as servers:
        schema.upgrade(servers.database_url)
    return data / "postgres"


@pytest.fixture
def breakable(tmp_path: Path, migrated_cluster: Path) -> Iterator[Breakable]:
    """A stage with servers of its own, for tests that kill and flush."""
    with Breakable(tmp_path, migrated_cluster) as made:
        yield made


def _database(servers: Servers, template: str, stack: ExitStack) -> str:
    name = f"test_{secrets.token_hex(6)}"
    identifier = sql.Identifier(name)
    _execute(servers, sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(identifier, sql.Identifier(template)))
    stack.callback(_execute, servers, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))
    return _named(servers, name)


def _named(servers: Servers, name: str) -> str:
    return make_url(servers.database_url).set(database=name).render_as_string(hide_password=False)


def _execute(servers: Servers, statement: sql.Composed) -> None:
    url = make_url(servers.database_url).set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(statement)
