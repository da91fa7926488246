"""The API behind PgBouncer in transaction mode, with the lines that the documentation names."""

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL, make_url

from ops.embedded import Servers, unprivileged
from ops.rehearsal.temporary_stack import free_port
from shared.postgres import locks
from shared.settings import Settings
from tests.e2e.stacks import wait_for
from tests.integration.test_service_readiness import read
from tests.stage import CHECKOUT, Stage

PAGE = (CHECKOUT / "docs/operating.md").read_text(encoding="utf-8").partition("\n### PgBouncer\n")[2]
ROLES = (CHECKOUT / "docs/sql/roles.sql").read_text(encoding="utf-8")
ROLE = "admitone_api"
Bouncer = Callable[[str], str]
_WORKERS = f"""
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE locktype = 'advisory' AND classid::bigint = {locks.WORKER} AND datname = current_database()
"""


def block(language: str) -> str:
    found = re.search(rf"```{language}(?: norun)?\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def bouncer(database: str, tmp_path: Path) -> Iterator[Bouncer]:
    """A function that starts PgBouncer with these lines; it returns the URL of the database behind it."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("there is no pgbouncer on this machine: this lane was not run (apt install pgbouncer)")
    direct = make_url(database)
    with ExitStack() as stack:

        def start(lines: str) -> str:
            port = free_port()
            ini = tmp_path / "pgbouncer.ini"
            folder, server_port = direct.query["host"], direct.query["port"]
            ini.write_text(
                f"[databases]\n{direct.database} = host={folder} port={server_port} user={ROLE}\n"
                f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
                f"auth_type = any\nserver_tls_sslmode = disable\ndefault_pool_size = 3\n{lines}"
            )
            log = stack.enter_context((tmp_path / "pgbouncer.log").open("wb"))
            way = unprivileged.way(Path(program))  # PgBouncer refuses to run as root, as PostgreSQL does
            process = subprocess.Popen([*way.prefix, program, str(ini)], stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            wait_for(process, port, tmp_path / "pgbouncer.log")
            url = URL.create("postgresql", ROLE, None, "127.0.0.1", port, direct.database)
            return url.render_as_string(hide_password=False)

        yield start


class Behind(Stage):
    """A service whose API is behind the pooler, and whose workers are not."""

    pooled_url = ""

    def start_api(self, checkout: Path = CHECKOUT) -> "subprocess.Popen[bytes]":
        with self._pooled():
            return super().start_api(checkout)

    def start_pooled_worker(self) -> None:
        with self._pooled():
            self.start_worker()

    @contextmanager
    def _pooled(self) -> Iterator[None]:
        direct, self.database_url = self.database_url, self.pooled_url
        yield
        self.database_url = direct


@pytest.fixture
def role(database: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """The API's role, which may log in; and a connection that changes it."""
    plain = make_url(database).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(ROLES.encode())
        connection.execute(f"ALTER ROLE {ROLE} LOGIN".encode())
        yield connection
        connection.execute(f"ALTER ROLE {ROLE} RESET ALL".encode())


def test_the_api_works_behind_pgbouncer(
    settings: Settings,
    servers: Servers,
    bouncer: Bouncer,
    role: "psycopg.Connection[tuple[object, ...]]",
    tmp_path: Path,
) -> None:
    role.execute(f"ALTER ROLE {ROLE} SET timezone = 'Asia/Tokyo'".encode())
    found = read(settings.model_copy(update={"database_url": bouncer(block("ini"))}))
    assert found.checks["database"] == "TimeZone is Asia/Tokyo, and must be UTC"

    role.execute(block("sql").encode())
    behind = Behind(servers, settings.database_url, tmp_path, workers=2, api_processes=2)
    behind.pooled_url = bouncer(block("ini"))  # the first one remembers the settings of its sessions
    with behind as stage:
        stage.start_pooled_worker()
        event = stage.create_event(capacity=20)
        for _ in range(3):  # more often than a statement is run before psycopg prepares it
            bodies = [{"name": f"User {n}"} for n in range(20)]
            answers = stage.register_at_once(event, bodies)
            assert {answer.status_code for answer in answers} == {201}
        with stage.client() as client:
            path = f"/api/p/{event['slug']}/register"
            first, again = (
                client.post(path, json={"name": "K"}, headers={"idempotency-key": "k"}) for _ in "ab"
            )
            role.execute(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'".encode()
            )
            assert client.delete(first.headers["location"]).status_code == 200
            exported = client.get(f"/api/events/{event['id']}/export", headers=stage.admin).text
            checks = client.get("/readyz").json()
        assert again.headers["idempotent-replayed"] == "true"
        assert len(stage.registrations(event)) == 61
        assert exported.count("\n") >= 61
        assert checks["ready"], checks
        until = time.monotonic() + 20
        while "a worker needs a session of its own" not in stage.log():
            assert time.monotonic() < until, stage.log()[-3_000:]
            time.sleep(0.05)
        assert stage.query(_WORKERS) == [{"count": 2}]


def test_an_unprepared_pgbouncer_is_named(
    settings: Settings, bouncer: Bouncer, role: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    assert not role.closed
    url = bouncer("pool_mode = transaction\n")

    found = read(settings.model_copy(update={"database_url": url}))

    assert found.checks["database"] == "PgBouncer needs the line ignore_startup_parameters = options"
