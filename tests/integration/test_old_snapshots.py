"""`status` names what keeps PostgreSQL from removing the rows of settled commands."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from ops.maintenance import schema, status
from shared.postgres import connections, snapshots
from shared.postgres.snapshots import Snapshot
from tests.integration.clusters import one_postgres
from tests.standbys import Cluster

KEEPING = {
    "a snapshot": ("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT FROM event"),
    "a row lock": ("BEGIN", "SELECT FROM event WHERE slug = 'drop' FOR UPDATE"),
}
EVENT = "INSERT INTO event (id, slug, title, capacity) VALUES (gen_random_uuid(), '{}', 'A drop', 5)"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a snapshot count as old at once."""
    monkeypatch.setattr(snapshots, "OLD_SECONDS", 0.2)
    monkeypatch.setattr(snapshots, "OLD_TRANSACTIONS", 3)


@contextmanager
def session(url: str, name: str = "test") -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True, application_name=name) as connection:
        yield connection


def create_events(url: str, *slugs: str) -> None:
    with session(url) as writing:
        for slug in slugs:
            writing.execute(EVENT.format(slug).encode())


def old_snapshots(url: str, name: str) -> list[Snapshot]:
    """Return the old snapshots of this name, once there is one."""
    found: list[Snapshot] = []
    for _ in range(100):
        found = [snapshot for snapshot in status.read(url).old_snapshots if name in snapshot.name]
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(status.read(url).old_snapshots)


@pytest.mark.parametrize("keeping", KEEPING)
def test_an_old_session_is_named(database: str, keeping: str, capsys: pytest.CaptureFixture[str]) -> None:
    create_events(database, "drop")
    with session(database, "pg_dump") as dumping:
        for statement in KEEPING[keeping]:
            dumping.execute(statement.encode())
        create_events(database, "b", "c")
        (found,) = old_snapshots(database, "pg_dump")
        assert (found.pid, found.state, found.transactions) == (
            dumping.info.backend_pid,
            "idle in transaction",
            3 if keeping == "a row lock" else 2,
        )
        status.show(status.read(database))
        shown = " ".join(capsys.readouterr().out.split())
        assert f"Old snapshot of process {found.pid} (pg_dump, idle in transaction), " in shown
        dumping.execute(b"ROLLBACK")
    assert status.read(database).old_snapshots == []


def test_a_transaction_without_a_snapshot_keeps_nothing(database: str) -> None:
    with session(database) as idle:
        idle.execute(b"BEGIN")
        idle.execute(b"SELECT FROM event")
        time.sleep(2 * snapshots.OLD_SECONDS)
        assert status.read(database).old_snapshots == []


def test_a_role_is_told_what_it_may_know(database: str) -> None:
    with session(database) as granting:
        for statement in ("CREATE ROLE {}", "GRANT CONNECT ON DATABASE {db} TO {}"):
            granting.execute(statement.format("onlooker", db=make_url(database).database).encode())
    create_events(database, "drop")
    try:
        with session(database, "report") as reporting:
            reporting.execute(b"BEGIN ISOLATION LEVEL REPEATABLE READ")
            reporting.execute(b"SELECT FROM event")
            assert read_as(database, "onlooker") == []
            create_events(database, "b", "c", "d")
            (found,) = read_as(database, "onlooker")
            assert (found.pid, found.name) == (reporting.info.backend_pid, "report")
            assert (found.state, found.seconds) == (None, None)
    finally:
        with session(database) as revoking:
            revoking.execute(b"DROP OWNED BY onlooker")
            revoking.execute(b"DROP ROLE onlooker")


def read_as(database: str, role: str) -> list[Snapshot]:
    engine = connections.operator_engine(database, options=f"-c role={role}")
    with engine.connect() as connection:
        return [snapshot for snapshot in snapshots.read(connection) if snapshot.is_old]


def test_a_prepared_transaction_is_named(tmp_path: Path) -> None:
    with one_postgres(tmp_path / "data") as server:
        url = f"postgresql+psycopg://admitone@/admitone?host={server.sockets}&port=5432"
        with session(url) as setting:
            setting.execute(b"ALTER SYSTEM SET max_prepared_transactions = 1")
        server.stop()
        server.start()
        server.wait_ready()
        schema.upgrade(url)
        with session(url) as forgetful:
            forgetful.execute(b"BEGIN")
            forgetful.execute(EVENT.format("drop").encode())
            forgetful.execute(b"PREPARE TRANSACTION 'Forgotten'")
        (found,) = old_snapshots(url, "prepared transaction Forgotten")
        assert (found.pid, found.state) == (None, None)
        assert found.seconds is not None


def test_a_replication_slot_is_named(tmp_path: Path, migrated_cluster: Path) -> None:
    with Cluster(tmp_path, migrated_cluster) as cluster:
        cluster.query(cluster.primary, "SELECT pg_create_physical_replication_slot('standby')")
        for setting in ("hot_standby_feedback = on", "primary_slot_name = 'standby'"):
            cluster.query(cluster.standby, f"ALTER SYSTEM SET {setting}")
        cluster.query(cluster.standby, "ALTER SYSTEM SET wal_receiver_status_interval = '1s'")
        cluster.query(cluster.standby, "SELECT pg_reload_conf()")
        standby = f"postgresql+psycopg://admitone@/admitone?host={cluster.standby.sockets}&port=5432"
        with session(standby) as reporting:
            reporting.execute(b"BEGIN ISOLATION LEVEL REPEATABLE READ")
            reporting.execute(b"SELECT FROM event")
            time.sleep(2)  # the standby tells its snapshot every second
            create_events(cluster.servers.database_url, *"abcd")
            (found,) = old_snapshots(cluster.servers.database_url, "replication slot standby")
            assert (found.pid, found.state, found.seconds) == (None, None, None)
