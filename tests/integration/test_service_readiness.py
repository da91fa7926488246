"""Readiness: one check for all who ask; only what stops deciding makes the service not ready."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
from kombu.exceptions import ConnectionError as RefusedByRabbit
from redis.exceptions import OutOfMemoryError
from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection

from api.commands.intake import Intake
from api.edge.schemas import Readiness
from api.protection.shared_memory import SharedMemory
from api.readiness import ReadinessCheck
from api.services import Services
from ops.embedded import Servers
from ops.maintenance import status
from shared import processes
from shared.messaging import queues, results
from shared.messaging.queues import WakeSender
from shared.postgres import connections, durability, locks, tables
from shared.postgres.durability import Durability, NotConfirmed
from shared.settings import Settings
from tests.stage import Stage
from worker.ownership import Ownership

FINE = dict.fromkeys(("database", "schema", "sequence", "durability", "broker", "results"), "ok")
NO_WORKER = {**FINE, "worker": "no worker ticks"}


@asynccontextmanager
async def checking(
    settings: Settings, sender: WakeSender | None = None, intake: Intake | None = None
) -> AsyncIterator[tuple[ReadinessCheck, list[str]]]:
    """Yield a check, and the statements that it has run."""
    engine = connections.async_engine(settings)
    client = results.connect_async(settings.result_url)
    own = queues.connect_sender(queues.celery_app(settings), settings)
    statements: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *given: statements.append(str(given[2])))
    check = ReadinessCheck(
        engine,
        10,
        intake_fault=(intake or Intake(settings)).fault,
        sender=sender or own,
        client=client,
        shared=SharedMemory(client, b"key"),
    )
    try:
        yield check, statements
    finally:
        check.close()
        await own.close()
        await client.aclose()
        await engine.dispose()


def read(settings: Settings, sender: WakeSender | None = None) -> Readiness:
    """Return the readiness of a service without a worker."""

    async def run() -> Readiness:
        async with checking(settings, sender) as (check, _):
            return await check.readiness()

    return asyncio.run(run())


def test_a_service_without_a_worker_is_not_ready(settings: Settings) -> None:
    assert read(settings) == Readiness(ready=False, degraded=[], checks=NO_WORKER)


def test_a_worker_without_events_is_no_worker(settings: Settings) -> None:
    with connections.worker_session(settings) as session:
        session.execute(f"SELECT pg_advisory_lock_shared({locks.WORKER}, 1)".encode())
        assert read(settings).checks["worker"] == "no worker ticks"
        session.execute(f"SELECT pg_advisory_lock({locks.BUCKET}, 1)".encode())
        assert read(settings).checks["worker"] == "ok"


def test_one_check_answers_all_who_ask(settings: Settings) -> None:
    async def run() -> tuple[int, int, int]:
        async with checking(settings) as (check, statements):
            await asyncio.gather(*(check.readiness() for _ in range(200)))
            first = len(statements)
            await asyncio.gather(*(check.readiness() for _ in range(200)))
            second = len(statements)
            await asyncio.sleep(1.1)
            await asyncio.gather(*(check.readiness() for _ in range(200)))
            return first, second, len(statements)

    first, second, third = asyncio.run(run())
    assert first == second <= 6
    assert third == 2 * first


def test_who_leaves_early_ends_no_check(settings: Settings) -> None:
    async def run() -> Readiness:
        async with checking(settings) as (check, _):
            early = asyncio.create_task(check.readiness())
            late = asyncio.create_task(check.readiness())
            await asyncio.sleep(0)
            early.cancel()
            return await late

    assert asyncio.run(run()).checks == NO_WORKER


class Refusing:
    """A way to a broker that refuses, or takes its time."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.probes = 0

    async def send(self, queue: str, event_ids: object) -> None:
        raise NotImplementedError

    async def probe(self) -> None:
        self.probes += 1
        if self.error is not None:
            raise self.error
        await asyncio.sleep(3_600)

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OutOfMemoryError("command not allowed"), "command not allowed"),
        (redis.AuthenticationError("WRONGPASS"), "WRONGPASS"),
        (redis.ConnectionError("redis.internal:6379"), "cannot be reached"),
        (redis.ConnectionError("max number of clients", status_code="ERR"), "max number of clients"),
        (redis.BusyLoadingError("is loading", status_code="LOADING"), "is loading"),
        (
            redis.ConnectionError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed"),
            "has a certificate that is not trusted",
        ),
        (
            RefusedByRabbit("NOT_ALLOWED - vhost x not found", (10, 40), "Connection.open", 530),
            "NOT_ALLOWED - vhost x not found",
        ),
        (RefusedByRabbit("rabbit.internal:5672"), "cannot be reached"),
        (redis.TimeoutError(), "no answer in time"),
        (ValueError("secret"), "cannot be reached"),
        (redis.exceptions.MovedError("1 10.0.0.1:7"), "is a node of a cluster, which is not supported"),
    ],
)
def test_a_broken_broker_only_degrades(settings: Settings, error: Exception, reason: str) -> None:
    found = read(settings, Refusing(error))

    assert (found.degraded, found.checks) == (["broker"], {**NO_WORKER, "broker": reason})


def test_a_broker_that_hangs_is_asked_once(settings: Settings) -> None:
    sender = Refusing(None)

    async def run() -> list[Readiness]:
        async with checking(settings, sender) as (check, _):
            began = time.monotonic()
            found = [await check.readiness()]
            assert time.monotonic() - began < 3
            return found

    [found] = asyncio.run(run())
    assert found.degraded == ["broker"]
    assert found.checks["broker"] == "no answer within 0.8 s"


def test_a_database_that_takes_no_writes_is_not_ready(settings: Settings, connection: Connection) -> None:
    name = make_url(settings.database_url).database
    with connection.begin():
        connection.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
    found = read(settings)

    assert (found.ready, found.checks["database"]) == (False, "read-only")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"username": "nobody"}, "refuses the connection: see the log"),
        ({"database": "no_such"}, "refuses the connection: see the log"),
        ({"host": "127.0.0.1", "port": 1}, "cannot be reached"),
    ],
)
def test_a_refused_connection_is_told(settings: Settings, change: dict[str, Any], reason: str) -> None:
    url = make_url(settings.database_url)
    if "port" in change:
        url = url.set(query={})
    elsewhere = url.set(**change).render_as_string(hide_password=False)

    found = read(settings.model_copy(update={"database_url": elsewhere}))

    assert (found.ready, found.checks["database"]) == (False, reason)


def test_a_risk_to_durability_only_degrades(settings: Settings, connection: Connection) -> None:
    name = make_url(settings.database_url).database
    with connection.begin():
        connection.execute(text(f'ALTER DATABASE "{name}" SET synchronous_commit = off'))
    found = read(settings)

    risk = "synchronous_commit is off: a crash can lose commands that were answered"
    assert (found.degraded, found.checks) == (["durability"], {**NO_WORKER, "durability": risk})


@pytest.mark.parametrize("off", ["fsync", "full_page_writes"])
def test_each_setting_is_read_by_its_name(connection: Connection, off: str) -> None:
    for statement in (
        "CREATE SCHEMA before",
        f"""
        CREATE FUNCTION before.current_setting(name text) RETURNS text LANGUAGE sql
        RETURN CASE name WHEN '{off}' THEN 'off' ELSE pg_catalog.current_setting(name) END
        """,
        "SET search_path = before, pg_catalog",
    ):
        connection.execute(text(statement))

    assert durability.read(connection) == Durability(
        fsync=off != "fsync",
        full_page_writes=off != "full_page_writes",
        synchronous_commit="on",
        synchronous_standby=False,
        sessions_waiting=0,
    )


def test_a_renamed_session_is_no_worker(settings: Settings) -> None:
    """Such as that of a worker behind PgBouncer with `application_name_add_host`."""
    with connections.worker_session(settings) as renamed:
        Ownership(session=renamed, number=processes.own_number(), silence_seconds_max=10).join()
        renamed.execute("SET application_name = 'admitone-worker/host/1 - 10.0.0.1:5432'")

        assert read(settings).checks == NO_WORKER


@pytest.mark.parametrize(
    ("revision", "state"), [("0001", "run admitone migrate"), ("9999", "ok"), (tables.REVISION, "ok")]
)
def test_a_later_schema_serves_too(
    settings: Settings, connection: Connection, revision: str, state: str
) -> None:
    with connection.begin():
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})

    assert read(settings).checks["schema"] == state


def test_numbers_behind_the_ledger_are_not_ready(
    settings: Settings, connection: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    with connection.begin():
        connection.execute(text("UPDATE ledger_mark SET seq = 1000"))

    assert read(settings).checks["sequence"] == "is behind the ledger; run admitone verify --heal"
    status.show(status.read(settings.database_url))
    assert "The ledger's numbering is behind its commands" in capsys.readouterr().out


def test_a_database_without_tables_is_not_ready(settings: Settings, empty_database: str) -> None:
    found = read(settings.model_copy(update={"database_url": empty_database}))

    assert (found.ready, found.checks["schema"]) == (False, "run admitone migrate")


def test_a_database_that_is_away_is_not_ready(settings: Settings) -> None:
    found = read(settings.model_copy(update={"database_url": "postgresql+psycopg://127.0.0.1:9/nothing"}))

    assert (found.ready, found.checks["database"]) == (False, "cannot be reached")


@contextmanager
def limited(connection: Connection, connections_max: int) -> Iterator[str]:
    """Yield a role that may have so many connections, and may read, and draw the ledger's numbers."""
    role = f"limited_{secrets.token_hex(4)}"
    connection.execution_options(isolation_level="AUTOCOMMIT")
    connection.execute(text(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT {connections_max}"))
    connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"))
    connection.execute(text(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"))
    try:
        yield role
    finally:
        connection.execute(text(f"DROP OWNED BY {role}"))
        connection.execute(text(f"DROP ROLE {role}"))


def as_role(settings: Settings, role: str) -> Settings:
    url = make_url(settings.database_url).set(username=role).render_as_string(hide_password=False)
    return settings.model_copy(update={"database_url": url, "ledger_patience_seconds": 0.1})


def test_reads_leave_the_intake_its_connection(settings: Settings, connection: Connection) -> None:
    async def run(limited_settings: Settings) -> None:
        services = Services(limited_settings)
        services.start()
        slow = "SELECT pg_sleep(0.2)"
        reads = [services.read(lambda read: read.execute(text(slow))) for _ in range(5)]
        await asyncio.gather(*reads, return_exceptions=True)
        try:
            await services.intake.confirm_all(set())
        finally:
            await services.close()

    with limited(connection, 3) as role:
        asyncio.run(run(as_role(settings, role)))


def test_a_write_leaves_the_wait_to_the_intake(settings: Settings) -> None:
    async def run() -> list[str]:
        services = Services(settings)
        services.start()

        async def how(connection: AsyncConnection) -> str:
            return str((await connection.execute(text("SHOW synchronous_commit"))).scalar_one())

        try:
            due = asyncio.get_running_loop().time() + 10
            return [await services.write(how, due), await services.read(how)]
        finally:
            await services.close()

    assert asyncio.run(run()) == ["local", "on"]


def test_an_intake_without_a_session_is_not_ready(settings: Settings, connection: Connection) -> None:

    async def run() -> list[str]:
        async with checking(settings, intake=intake) as (check, _):
            with pytest.raises(NotConfirmed):
                await intake.confirm_all(set())
            found = [(await check.readiness()).checks["database"]]
            connection.execute(text(f"ALTER ROLE {role} CONNECTION LIMIT 1"))
            while found[-1] != "ok":
                await asyncio.sleep(0.1)
                found.append((await check.readiness()).checks["database"])
            await intake.close()
            return found

    with limited(connection, 0) as role:
        intake = Intake(as_role(settings, role))
        found = asyncio.run(run())
    assert {*found} == {
        "gives no more connections: see CONNECTION LIMIT of the role, and max_connections",
        "ok",
    }


def test_a_crowd_of_probes_slows_no_registration(servers: Servers, database: str, tmp_path: Path) -> None:
    """The probes cost one check a second, so registrations beside them are answered as ever."""
    with Stage(servers, database, tmp_path) as stage, stage.client() as client:
        event = stage.create_event()

        async def probe() -> list[int]:
            limits = httpx2.Limits(max_connections=200)
            async with httpx2.AsyncClient(base_url=stage.url, limits=limits, timeout=30) as crowd:
                return [
                    a.status_code for a in await asyncio.gather(*(crowd.get("/readyz") for _ in range(200)))
                ]

        assert asyncio.run(probe()) == [200] * 200
        assert client.post(f"/api/p/{event['slug']}/register", json={"name": "User"}).status_code == 201
