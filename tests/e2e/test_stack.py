"""`admitone up` as a person meets it: one folder, one port, and all that can go wrong."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops import child_processes
from ops.rehearsal.temporary_stack import free_port
from ops.stack import programs, state_file
from tests.e2e.stacks import (
    NOBODY,
    READY_SECONDS_MAX,
    STOP_SECONDS_MAX,
    Up,
    as_nobody,
    ask,
    environment,
    fails,
    up,
)

pytestmark = pytest.mark.timeout(180)


FOREIGN = {
    "BROKER_URL": "redis://127.0.0.1:9/0",
    "CELERY_BROKER_URL": "redis://127.0.0.1:9/0",
    "APP": "x",
    "CONFIG_MODULE": "x",
    "PICKLE_PROTOCOL": "x",
    "WEB_CONCURRENCY": "",
    "FORWARDED_ALLOW_IPS": "x",
    "PGHOST": "elsewhere",
    "PGSERVICE": "x",
    "PGOPTIONS": "-c search_path=x",
    "PGSSLMODE": "verify-full",
    "PSYCOPG_IMPL": "x",
    "prometheus_multiproc_dir": "/nowhere",
    "TZ": "Asia/Tokyo",
    "http_proxy": "x",
    "ADMITONE_PORT": "tcp://10.0.0.1:9000",
    "ADMITONE_SERVICE_HOST": "10.0.0.1",
    "ADMITONE_HOST": "",
    "ADMITONE_TICK_SECONDS": " ",
    "ADMITONE_WORKER_METRICS_PORT": "tcp://10.0.0.1:1",
}
"""Variables of other programs and of Kubernetes, and settings without a value: they change nothing."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One stack for the tests that leave it running."""
    with up(tmp_path_factory.mktemp("running"), prefix=(), **FOREIGN) as stack:
        yield stack.ready()


def test_a_first_start_prints_a_command_that_works(running: Up) -> None:
    key = (running.data / "admin.key").read_text().strip()
    assert f"URL        http://localhost:{running.port}\n" in running.said
    assert f"Docs       http://localhost:{running.port}/docs\n" in running.said
    assert f"Admin key  {key}  (kept in {running.data}/admin.key)\n" in running.said
    assert (running.data / "admin.key").stat().st_mode & 0o777 == 0o600
    [command] = re.findall(r"^  (curl .*)$", running.said, re.MULTILINE)
    assert command == (
        f"curl -X POST http://localhost:{running.port}/api/p/demo/register "
        """-H "Content-Type: application/json" -d '{"name":"User A","spotsCount":1}'"""
    )
    assert running.register("User A")


def admin_keys(stack: Up) -> dict[str, bool]:
    """Return which parts of a stack have the admin key in their environment."""
    found = {}
    for part in ("postgres", "valkey", "worker", "api"):
        environment_of_part = child_processes.environment(stack.pid_of(part))
        assert environment_of_part, part
        found[part] = programs.KEY_VARIABLE in environment_of_part
    return found


def test_only_the_api_has_the_admin_key(running: Up) -> None:
    assert admin_keys(running) == {"postgres": False, "valkey": False, "worker": False, "api": True}


def test_variables_of_others_do_not_degrade_it(running: Up) -> None:
    status, found = ask(running.port, "GET", "/readyz")
    assert (status, found["degraded"], set(found["checks"].values())) == (200, [], {"ok"})


def test_other_commands_learn_where_the_stack_runs(running: Up) -> None:
    found = state_file.running(running.data)
    assert found is not None
    assert (found.pid, found.port) == (running.process.pid, running.port)
    assert found.url == f"http://127.0.0.1:{running.port}"
    assert (running.data / "stack.json").stat().st_mode & 0o777 == 0o600


def test_a_second_up_on_the_same_folder_is_refused(running: Up) -> None:
    status, said = fails_beside(running)
    assert (status, said) == (
        2,
        f"admitone: {running.data} is in use by a running stack (process {running.process.pid})\n",
    )


def fails_beside(running: Up) -> tuple[int, str]:
    command = [
        sys.executable,
        "-P",
        "-m",
        "ops.cli",
        "up",
        "--data",
        str(running.data),
        "--port",
        str(free_port()),
    ]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_taken_port_gets_one_clear_line(running: Up, tmp_path: Path) -> None:
    status, said = fails(tmp_path, "--port", str(running.port))
    assert (status, said) == (1, f"admitone: port {running.port} cannot be used: address already in use\n")


@pytest.mark.parametrize("part", ["worker", "api", "valkey", "postgres"])
def test_a_killed_part_is_started_again_and_registration_goes_on(running: Up, part: str) -> None:
    before = running.pid_of(part)
    os.kill(before, signal.SIGKILL)
    name = {"worker": "worker-1", "api": "api-1"}.get(part, part)
    running.wait_until(lambda: f"{name} ended (signal 9); starting it again in 0.25 s" in running.said, 15)
    running.wait_until(lambda: ask_calmly(running) == 201, 30)
    # A registration needs no Valkey, so it may be answered before the part is there again.
    running.wait_until(lambda: running.pids_of(part) not in ([], [before]), 15)


def ask_calmly(running: Up) -> int:
    """Register; an error on the way counts as no answer."""
    try:
        return running.ask("POST", "/api/p/demo/register", {"name": "User B", "spotsCount": 1})[0]
    except OSError:
        return 0


def test_a_connection_waits_while_the_api_process_is_started_again(running: Up) -> None:
    os.kill(running.pid_of("api"), signal.SIGKILL)
    status, _ = running.ask("GET", "/api/p/demo")  # made while no API process lives
    assert status == 200


def test_ctrl_c_stops_everything_and_loses_nothing(running: Up) -> None:
    receipt = running.register("User C")
    notes = running.data / "metrics" / "notes"
    notes.write_text("precious")
    assert running.stop() < STOP_SECONDS_MAX
    assert running.said.endswith("Stopping.\nStopped.\n")
    with up(running.data.parent) as again:
        again.ready()
        assert notes.read_text() == "precious"
        assert f"Admin key  in {running.data}/admin.key\n" in again.said
        status, body = again.ask("GET", f"/api/p/demo/receipts/{receipt}")
        assert (status, body["status"]) == (200, "CONFIRMED")
        second = again.register("User D")
        again.process.kill()  # a killed `up` stops nothing itself
        again.process.wait()
        with up(running.data.parent) as after:
            after.ready()
            assert after.ask("GET", f"/api/p/demo/receipts/{second}")[1]["status"] == "CONFIRMED"
            assert after.stop(signal.SIGTERM) < STOP_SECONDS_MAX


def test_two_stacks_of_two_users_run_together(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="ad mit ") as name:
        odd = Path(name)
        prefix: tuple[str, ...] = ()
        if os.geteuid() == 0:
            prefix = as_nobody()
            os.chown(odd, NOBODY if prefix else 0, -1)
        with (
            up(odd, "--api-processes", "2", prefix=prefix) as ordinary,
            up(tmp_path, "--no-demo", ADMITONE_ADMIN_KEY="a-key-of-the-environment") as other,
        ):
            assert ordinary.ready().register("User A")
            assert other.ready().ask("GET", "/api/p/demo")[0] == 404
            assert "Admin key  as ADMITONE_ADMIN_KEY says" in other.said
            assert [part for part, has_it in admin_keys(other).items() if has_it] == ["api"]
            assert not (other.data / "admin.key").exists()
            assert ordinary.stop() < STOP_SECONDS_MAX
            assert other.ask("GET", "/healthz")[0] == 200
            assert other.stop() < STOP_SECONDS_MAX


def test_ctrl_c_during_the_start_stops_it_and_leaves_no_process(tmp_path: Path) -> None:
    with up(tmp_path) as stack:
        stack.wait_until((stack.data / "postgres").exists, READY_SECONDS_MAX)
        assert stack.stop() < STOP_SECONDS_MAX
        assert stack.said == f"Starting AdmitOne; its data is in {stack.data}.\nStopped.\n"


def test_a_second_ctrl_c_hastens_the_stop(tmp_path: Path) -> None:
    with up(tmp_path) as stack:
        stack.ready()
        os.kill(stack.pid_of("worker"), signal.SIGSTOP)  # it would use up all the time that it is given
        stack.process.send_signal(signal.SIGINT)
        stack.wait_until(lambda: "Stopping." in stack.said, 15)
        assert stack.stop() < STOP_SECONDS_MAX / 3


def test_a_broken_data_folder_gets_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("precious")
    status, said = fails(tmp_path)
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith(f"admitone: {tmp_path}/data cannot be the data folder: ")
    assert (tmp_path / "data").read_text() == "precious"


def test_a_wrong_setting_gets_one_clear_line(tmp_path: Path) -> None:
    status, said = fails(tmp_path, ADMITONE_TICK_SECONDS="soon")
    assert (status, said.count("\n")) == (2, 2)
    assert said.splitlines()[-1].startswith("admitone: ADMITONE_TICK_SECONDS: ")


def test_a_program_that_dies_at_start_is_said_with_its_last_words(tmp_path: Path) -> None:
    with up(tmp_path, prefix=(), PYTHONFAULTHANDLER="1") as stack:
        stack.wait_until(lambda: any(map(catches_abort, stack.pids_of("worker"))), 30)
        os.kill(stack.pid_of("worker"), signal.SIGABRT)
        status = stack.process.wait(READY_SECONDS_MAX)
        assert (status, stack.said.splitlines()[1]) == (1, "admitone: worker-1 ended at start (signal 6)")
        logged = (tmp_path / "data" / "log" / "worker-1.log").read_text(encoding="utf-8").rstrip()
        assert "Fatal Python error: Aborted" in logged
        # Whatever Python was doing, its last lines are said.
        assert "".join(f"  {line}\n" for line in logged.splitlines()[-5:]) in stack.said


def catches_abort(pid: int) -> bool:
    """Return True once Python in this process would say why it was aborted."""
    try:
        status = Path("/proc", str(pid), "status").read_text(encoding="ascii")
    except OSError:
        return False
    caught = re.search(r"SigCgt:\s*([0-9a-f]+)", status)
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGABRT - 1) & 1)


@pytest.mark.parametrize("option", ["--workers=0", "--api-processes=0", "--port=0", "--port=65536"])
def test_an_option_out_of_range_is_refused(tmp_path: Path, option: str) -> None:
    status, said = fails(tmp_path, option)
    assert status == 2
    assert f"Invalid value for '{option.partition('=')[0]}'" in said
    assert not (tmp_path / "data").exists()
