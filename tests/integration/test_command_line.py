"""The command line with what people type: wrong options, narrow terminals, a machine that refuses."""

import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner

from ops.cli import main as cli
from ops.maintenance import status
from ops.rehearsal.temporary_stack import free_port
from tests.integration.test_api_keys import an_organiser, typed
from tests.stage import CHECKOUT, Stage


@pytest.mark.parametrize(
    "words",
    [
        ["tidy", "--days=-1"],
        ["tidy", "--days=1000000"],
        ["tidy", "--days=99999999999"],
        ["erase", "--ended-days=1000000"],
        ["erase", "--ended-days=1", f"--reason={501 * 'x'}"],
        ["erase", "--ended-days=1", "--reason=\u202e"],
    ],
    ids=" ".join,
)
def test_an_option_out_of_range_is_refused(stage: Stage, words: list[str]) -> None:
    done = typed(stage, *words)

    assert done.exit_code == 2
    assert words[-1].partition("=")[0] in done.stderr


@pytest.mark.parametrize("option", ["registrations", "capacity", "clients", "party-max"])
@pytest.mark.parametrize("value", ["0", "2000000000"])
def test_a_rehearsal_has_bounds(option: str, value: str) -> None:
    done = CliRunner().invoke(cli.app, ["rehearse", f"--{option}={value}"])

    assert done.exit_code == 2
    assert done.stderr.startswith(f"rehearse: {option} must be 1 to ")


def test_a_narrow_terminal_shows_keys_whole(stage: Stage) -> None:
    organiser = f"{an_organiser()} [red]"
    scopes = ["events:read", "registrations:write"]
    typed(stage, "keys", "create", "box", "--organiser", organiser, *(f"--scope={scope}" for scope in scopes))

    shown = CliRunner().invoke(cli.app, ["keys", "list"], env={**stage.environment(), "COLUMNS": "80"}).stdout

    assert all(scope in shown for scope in [*scopes, "[red]"])
    assert "…" not in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fd", "77"], "[Errno 9] Bad file descriptor"),
        (["--host", "no-such-host.invalid"], "cannot listen at no-such-host.invalid, port 9000: "),
        (["--host", f"{70 * 'x'}.example"], f"cannot listen at {70 * 'x'}.example, port 9000: "),
        (["--host", "192.0.2.1"], "cannot listen at 192.0.2.1, port 9000: Cannot assign requested address"),
    ],
    ids=["descriptor", "name", "no name", "address"],
)
def test_an_api_that_cannot_listen_says_so_in_one_line(stage: Stage, words: list[str], said: str) -> None:
    status, lines = _api(stage, *words)

    assert status == 1
    assert len(lines) == 1
    assert lines[0].startswith(f"admitone: {said}")


@pytest.mark.parametrize(
    "words",
    [["ops.cli", "api"], ["ops.cli", "worker"], ["celery", "-A", "worker.main", "worker", "--pool=solo"]],
    ids=" ".join,
)
def test_a_program_runs_without_standard_streams(stage: Stage, words: list[str]) -> None:
    port = str(free_port())
    closing = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-P", "-m", *words]
    environment = {**stage.environment(), "ADMITONE_PORT": port}
    with subprocess.Popen(closing, cwd=CHECKOUT, env=environment) as process:
        try:
            while not _runs(stage, process.pid, None if "worker" in words else port):
                assert process.poll() is None
                time.sleep(0.1)
            streams = [str(Path(f"/proc/{process.pid}/fd/{number}").readlink()) for number in range(3)]
        finally:
            process.terminate()

    assert streams == ["/dev/null"] * 3, "else a connection would get what is written to a stream"


def _runs(stage: Stage, pid: int, port: str | None) -> bool:
    if port is None:
        return any(worker.pid == pid for worker in status.read(stage.database_url).workers)
    with suppress(httpx2.TransportError):
        return httpx2.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    return False


def test_an_api_does_not_begin_at_a_taken_port(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, lines = _api(stage, "--port", str(port))

    assert status == 1
    (line,) = lines
    assert line.startswith(f"admitone: cannot listen at 127.0.0.1, port {port}: Address already in use")


def _api(stage: Stage, *words: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ops.cli", "api", *words],
        env=stage.environment(),
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()


OF_WORKERS = "ops.maintenance.worker_health", "worker.owner", "worker.celery_hooks"
OF_OPERATORS = tuple(
    f"ops.maintenance.{name}" for name in ("api_keys", "audit", "retention", "status", "verification")
)


@pytest.mark.parametrize(
    ("modules", "unneeded"),
    [(OF_WORKERS, {"sqlalchemy.orm"}), (OF_OPERATORS, {"celery", "redis", "sqlalchemy.orm"})],
    ids=["workers", "operators"],
)
def test_a_start_loads_only_what_it_needs(modules: tuple[str, ...], unneeded: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys, {', '.join(modules)}; print(*sys.modules)"],
        env={"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=True,
    )

    loaded = set(done.stdout.split())
    assert {"sqlalchemy", "psycopg"} <= loaded
    assert not loaded & unneeded
