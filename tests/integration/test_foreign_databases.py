"""Databases as people have them: settings, encodings, schemas and sessions that are not AdmitOne's own."""

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from ops.adoption.adopt import AdoptionError
from ops.embedded import Servers
from ops.maintenance import audit, retention, schema, status, verification
from ops.maintenance.schema import UnsuitableDatabase
from shared.postgres import connections
from shared.settings import Settings
from tests.integration import old_systems
from tests.integration.test_service_readiness import NO_WORKER, checking, read
from tests.stage import Stage

WAYS_TO_ROWS = ("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan", "enable_nestloop")
DEFAULTS = {
    "datestyle": "German, DMY",
    "timezone": "Asia/Kathmandu",
    "intervalstyle": "iso_8601",
    "search_path": "nowhere",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "standard_conforming_strings": "off",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "client_min_messages": "error",
    "array_nulls": "off",
    "row_security": "off",
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "50ms",
    "plan_cache_mode": "force_custom_plan",
    "client_encoding": "LATIN1",
    "jit_above_cost": "0",
    "gin_fuzzy_search_limit": "1",
    **dict.fromkeys(WAYS_TO_ROWS, "off"),
}


_OF_THE_API = """
    SELECT FROM pg_stat_activity WHERE application_name = 'admitone-api' AND datname = current_database()
"""


_PLAIN = "SELECT current_setting('jit') AS jit, current_setting('gin_fuzzy_search_limit') AS search_limit"


def plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _query(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(plain(url), autocommit=True) as connection:
        return connection.execute(statement.encode()).fetchall()


def wait_until_ended(url: str) -> None:
    """Wait until PostgreSQL has ended the sessions of the API."""
    while _query(url, _OF_THE_API):
        time.sleep(0.1)


def change(servers: Servers, *statements: str) -> None:
    """Run statements beside the database that is tested, without its settings."""
    with psycopg.connect(plain(servers.database_url), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@pytest.fixture
def strange(servers: Servers, empty_database: str) -> str:
    """A migrated database with defaults that are not PostgreSQL's."""
    name = make_url(empty_database).database
    set_ = (f"ALTER DATABASE {name} SET {key} = {value}" for key, value in _quoted().items())
    change(servers, *set_)
    schema.upgrade(empty_database)
    return empty_database


def _quoted() -> dict[str, str]:
    return {key: value if key == "datestyle" else f"'{value}'" for key, value in DEFAULTS.items()}


def test_defaults_of_a_database_change_nothing(servers: Servers, strange: str, tmp_path: Path) -> None:
    with Stage(servers, strange, tmp_path) as stage, stage.client() as client:
        event = stage.create_event(capacity=2, opensAt="2020-01-01T00:00:00Z")
        path = f"/api/p/{event['slug']}/register"
        names = ["Zoë", r"O'Neil \ Söhne", "李 🎟"]
        answers = [client.post(path, json={"name": name}).json() for name in names]
        first = answers[0]
        cancelled = client.delete(f"/api/p/{event['slug']}/receipts/{first['receiptId']}").json()
        shown = stage.registrations(event)
        trail = stage.get(f"/api/events/{event['id']}/audit")["items"]
        why = stage.get(f"/api/events/{event['id']}/registrations/{shown[2]['id']}/explain")
        exported = client.get(f"/api/events/{event['id']}/export", headers=stage.admin).text

        assert [answer["status"] for answer in answers] == ["CONFIRMED", "CONFIRMED", "WAITLIST"]
        assert cancelled["status"] == "CANCELLED"
        assert [row["name"] for row in shown] == names
        assert [row["status"] for row in shown] == ["CANCELLED", "CONFIRMED", "CONFIRMED"]
        assert all(row["createdAt"].endswith(("Z", "+00:00")) for row in shown)
        assert all(entry["at"].endswith(("Z", "+00:00")) for entry in trail)
        assert event["opensAt"] == "2020-01-01T00:00:00Z"
        assert why["status"] == "CONFIRMED"
        assert all(name.replace('"', '""') in exported for name in names)
        assert client.get("/readyz").json()["checks"]["database"] == "ok"

    settings = Settings(database_url=strange, broker_url=servers.broker_url, result_url=servers.result_url)
    assert verification.run(settings, []).in_sync
    assert [found.problems for found in audit.check(strange)] == [[]]
    assert audit.replay(strange, event["slug"]).problems == []
    assert status.read(strange).failed.count == 0
    assert retention.tidy(strange, 1).keys == 0


def test_defaults_of_a_database_change_no_plan(strange: str, settings: Settings) -> None:
    given = [sql.SQL("current_setting({})").format(name) for name in WAYS_TO_ROWS]
    ask = sql.SQL("SELECT ARRAY[{}]").format(sql.SQL(", ").join(given))
    with connections.worker_session(settings.model_copy(update={"database_url": strange})) as session:
        assert session.execute(ask).fetchone() == (["on"] * len(given),)


def test_admins_search_by_plain_plans(strange: str, settings: Settings) -> None:
    async def found() -> tuple[str, str]:
        engine = connections.async_engine(
            settings.model_copy(update={"database_url": strange}), for_admins=True
        )
        async with engine.connect() as connection:
            row = (await connection.execute(text(_PLAIN))).one()
        await engine.dispose()
        return row.jit, row.search_limit

    assert asyncio.run(found()) == ("off", "0")


def test_a_hung_api_process_keeps_no_transaction(settings: Settings) -> None:
    """It would keep its locks, and a snapshot for which PostgreSQL removes no row."""
    quick = settings.model_copy(update={"statement_timeout_seconds": 0.2})

    async def hang() -> None:
        engine = connections.async_engine(quick)
        reading = await engine.connect()
        await reading.execution_options(isolation_level="REPEATABLE READ")
        await reading.execute(text("SELECT FROM event"))
        wait_until_ended(settings.database_url)
        with pytest.raises(DBAPIError) as ended:
            await reading.execute(text("SELECT FROM event"))
        assert ended.value.connection_invalidated
        await reading.close()
        await engine.dispose()

    asyncio.run(hang())


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
def encoded(servers: Servers, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty database in another encoding."""
    name = f"test_{secrets.token_hex(6)}"
    change(
        servers,
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{request.param}' "
        "LOCALE 'C' LOCALE_PROVIDER libc",
    )
    with ExitStack() as stack:
        stack.callback(change, servers, f"DROP DATABASE {name} WITH (FORCE)")
        yield make_url(servers.database_url).set(database=name).render_as_string(hide_password=False)


def test_another_encoding_is_refused(servers: Servers, encoded: str, request: pytest.FixtureRequest) -> None:
    encoding = "LATIN1" if "LATIN1" in request.node.name else "SQL_ASCII"
    said = f"server_encoding is {encoding}, and must be UTF8: make the database with ENCODING 'UTF8'"
    with pytest.raises(UnsuitableDatabase, match=said):
        schema.upgrade(encoded)

    found = read(Settings(database_url=encoded, broker_url=servers.broker_url, result_url=servers.result_url))

    assert (found.ready, found.checks["database"]) == (False, said)


@pytest.mark.parametrize("encoded", ["SQL_ASCII"], indirect=True)
def test_a_text_that_is_no_utf8_ends_the_adoption(encoded: str, database: str) -> None:
    old_systems.run(encoded, old_systems.PRISMA)
    old_systems.add_event(encoded, "e")
    old_systems.add_registration(encoded, "r", "e")
    old_systems.run(encoded, """UPDATE "Registration" SET name = E'Zo\\xeb'""")

    with pytest.raises(AdoptionError, match="invalid byte sequence for encoding"):
        old_systems.adopt(encoded, database)


def test_replica_mode_of_a_role_is_refused(servers: Servers, settings: Settings) -> None:
    """It switches off the triggers that keep the audit trail as it was written."""
    name = make_url(settings.database_url).database
    change(servers, f"ALTER DATABASE {name} SET session_replication_role = replica")

    found = read(settings)

    said = "session_replication_role is replica, and must be origin"
    assert (found.ready, found.checks["database"]) == (False, said)
    with pytest.raises(UnsuitableDatabase, match=said):
        schema.upgrade(settings.database_url)


def test_a_bound_on_transactions_is_refused(servers: Servers, settings: Settings) -> None:
    """It would cut exports, adoptions and migrations."""
    with psycopg.connect(plain(settings.database_url)) as link:
        if link.info.server_version < 170_000:
            pytest.skip("PostgreSQL has it from version 17 on")
    name = make_url(settings.database_url).database
    change(servers, f"ALTER DATABASE {name} SET transaction_timeout = '30s'")

    said = "transaction_timeout is 30s, and must be 0"
    assert read(settings).checks["database"] == said
    with pytest.raises(UnsuitableDatabase, match=said):
        schema.upgrade(settings.database_url)


def test_time_outs_of_a_role_cut_no_adoption(servers: Servers, empty_database: str, database: str) -> None:
    old_systems.run(empty_database, old_systems.PRISMA)
    old_systems.add_event(empty_database, "e")
    for number in range(20):
        old_systems.add_registration(empty_database, f"r{number}", "e")
    for url in (empty_database, database):
        for key in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            change(servers, f"ALTER DATABASE {make_url(url).database} SET {key} = '1ms'")

    assert old_systems.adopt(empty_database, database).registrations == 20


def test_tables_of_another_schema_are_not_made_twice(database: str) -> None:
    with psycopg.connect(plain(database), autocommit=True) as link:
        link.execute("ALTER SCHEMA public RENAME TO tenant; CREATE SCHEMA public")
    with pytest.raises(
        UnsuitableDatabase, match=r"in the schema tenant.*ALTER SCHEMA tenant RENAME TO public"
    ):
        schema.upgrade(database)
    with psycopg.connect(plain(database), autocommit=True) as link:
        link.execute("ALTER SCHEMA public RENAME TO public_before; ALTER SCHEMA tenant RENAME TO public")

    schema.upgrade(database)


def test_cut_sessions_are_no_missing_migration(servers: Servers, settings: Settings) -> None:
    name = make_url(settings.database_url).database

    async def run() -> list[dict[str, str]]:
        async with checking(settings) as (check, _):
            before = await check.readiness()
            change(
                servers, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
            )
            await asyncio.sleep(1.1)  # as long as a readiness is kept
            return [before.checks, (await check.readiness()).checks]

    assert asyncio.run(run()) == [NO_WORKER, NO_WORKER]


def test_a_missing_grant_is_named(servers: Servers, settings: Settings) -> None:
    role = f"role_{secrets.token_hex(4)}"
    url = make_url(settings.database_url).set(username=role).render_as_string(hide_password=False)
    change(servers, f"CREATE ROLE {role} LOGIN")
    try:
        found = read(settings.model_copy(update={"database_url": url}))
    finally:
        change(servers, f"DROP ROLE {role}")

    assert found.checks["database"] == "permission denied for table alembic_version"


def test_an_empty_database_wants_its_migration(servers: Servers, empty_database: str) -> None:
    found = read(
        Settings(database_url=empty_database, broker_url=servers.broker_url, result_url=servers.result_url)
    )

    assert (found.checks["database"], found.checks["schema"]) == ("ok", "run admitone migrate")
