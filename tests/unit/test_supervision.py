"""Child processes: started apart, found by what they run, stopped in time, started again with patience."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ops import child_processes
from ops.embedded.data_dir import Servers
from ops.embedded.unprivileged import EmbeddedError
from ops.stack import state_file, supervisor

SERVERS = Servers(
    database_url="postgresql+psycopg://", broker_url="redis+socket://b", result_url="redis+socket://r"
)


@contextmanager
def child(log: Path, code: str, *prefix: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a Python child that says "up" and then runs the code; it is gone afterwards."""
    argv = [*prefix, sys.executable, "-u", "-c", f"import os, signal, sys, time\nprint('up')\n{code}"]
    process = child_processes.spawn(argv, log=log, env=os.environ, cwd=log.parent)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(log: Path, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(child_processes.POLL_SECONDS)


def test_a_child_has_a_session_of_its_own_and_appends_to_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    with child(log, "print(os.getsid(0) == os.getpid(), sys.stdin.read() == '')") as process:
        assert process.wait(10) == 0
    assert log.read_text() == "before\nup\nTrue True\n"


def test_a_child_that_ends_when_asked_is_not_killed(tmp_path: Path) -> None:
    with child(tmp_path / "log", "time.sleep(60)") as process:
        assert child_processes.stop(process, signal.SIGTERM, 10)
        assert process.returncode == -signal.SIGTERM


def test_a_child_that_does_not_end_when_asked_is_killed(tmp_path: Path) -> None:
    with child(
        tmp_path / "log", "signal.signal(15, lambda *_: None)\nprint('deaf')\ntime.sleep(60)"
    ) as process:
        wait_for(tmp_path / "log", "deaf")
        assert not child_processes.stop(process, signal.SIGTERM, 0.05)
        assert process.returncode == -signal.SIGKILL


def test_children_are_found_and_stopped_by_their_arguments(tmp_path: Path) -> None:
    with (
        child(tmp_path / "log", "time.sleep(60)  # one") as one,
        child(tmp_path / "log", "time.sleep(60)") as two,
    ):
        found = child_processes.stop_found(
            lambda pid, argv: pid in {one.pid, two.pid} and argv[-1].endswith("# one"), signal.SIGTERM, 10
        )
        assert found == [one.pid]
        assert (one.wait(10), two.poll()) == (-signal.SIGTERM, None)


def test_a_process_does_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; import os, time; from ops import child_processes as s; import signal\n"
        "p = s.spawn([*s.dies_with_parent(signal.SIGTERM), 'sleep', '60'], log=Path('child'), env=os.environ,"
        " cwd=Path('.'))\n"
        "print(p.pid)\ntime.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    argv = [sys.executable, "-u", "-c", script]
    parent = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=tmp_path, env=environment)
    assert parent.stdout is not None
    with parent, parent.stdout:
        grandchild = int(parent.stdout.readline())
        deadline = time.monotonic() + 10
        while child_processes.arguments(grandchild) != ["sleep", "60"]:
            assert time.monotonic() < deadline
            time.sleep(child_processes.POLL_SECONDS)
        parent.kill()
        while child_processes.arguments(grandchild):
            assert time.monotonic() < deadline
            time.sleep(child_processes.POLL_SECONDS)


def test_what_is_gone_has_no_arguments_environment_or_folder() -> None:
    process = subprocess.Popen(["true"])  # noqa: S607
    process.wait()
    assert child_processes.arguments(process.pid) == []
    assert child_processes.environment(process.pid) == {}
    assert child_processes.folder(process.pid) is None


def test_last_words_are_the_last_lines_of_this_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert child_processes.tail(log) == ""
    log.write_text("an earlier start\n")
    start = child_processes.size(log)
    assert child_processes.tail(log, start) == ""
    with log.open("a") as file:
        file.writelines(f"line {n}\n" for n in range(child_processes.TAIL_LINES + 5))
    expected = [f"  line {n}" for n in range(5, child_processes.TAIL_LINES + 5)]
    assert child_processes.tail(log, start).splitlines() == ["", *expected]


def test_a_part_that_keeps_ending_is_started_ever_later_up_to_a_limit() -> None:
    backoff = supervisor.Backoff()
    assert [backoff.after(0) for _ in range(8)] == [0.25, 0.5, 1, 2, 4, 8, 15, 15]


def test_a_healthy_period_forgets_earlier_ends() -> None:
    backoff = supervisor.Backoff()
    for _ in range(5):
        backoff.after(1)
    assert backoff.after(supervisor.HEALTHY_SECONDS) == supervisor.DELAY_SECONDS_MIN


class Stubborn:
    """A part that cannot be started."""

    name = "stubborn"
    log = Path("stubborn.log")

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process: subprocess.Popen[bytes] | None = process

    def start(self) -> None:
        raise EmbeddedError("no")

    def last_words(self) -> str:
        return ""


def test_a_part_that_cannot_be_started_again_is_tried_later_and_said_once_per_try() -> None:
    process = subprocess.Popen(["false"])  # noqa: S607
    process.wait()
    watched, said = supervisor.Watched(Stubborn(process)), list[str]()
    deadline = time.monotonic() + 10
    while len(said) < 2 and time.monotonic() < deadline:
        watched.tend(said.append)
    assert said == [
        "stubborn ended (exit status 1); starting it again in 0.25 s (log: stubborn.log)",
        "stubborn could not start (no); starting it again in 0.5 s (log: stubborn.log)",
    ]


def test_an_admin_key_is_made_once_and_only_its_owner_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(state_file.KEY_VARIABLE, raising=False)
    first, second = state_file.admin_key(tmp_path), state_file.admin_key(tmp_path)
    assert (first.new, second.new) == (True, False)
    assert first.secret == second.secret
    assert len(first.secret) > 40
    assert (tmp_path / "admin.key").stat().st_mode & 0o777 == 0o600


def test_the_key_of_the_environment_comes_first_and_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(state_file.KEY_VARIABLE, "given")
    assert state_file.admin_key(tmp_path) == state_file.AdminKey(secret="given", kept_in=None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff" * 40])
def test_a_key_file_without_a_key_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.delenv(state_file.KEY_VARIABLE, raising=False)
    (tmp_path / "admin.key").write_bytes(content)
    with pytest.raises(EmbeddedError, match=r"admin\.key"):
        state_file.admin_key(tmp_path)


def test_a_running_stack_is_found_until_it_is_forgotten(tmp_path: Path) -> None:
    here = state_file.Running.here(9000, SERVERS)
    here.write(tmp_path)
    assert state_file.running(tmp_path) == here
    state_file.forget(tmp_path)
    assert state_file.running(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"pid": 1'])
def test_a_broken_state_file_means_that_no_stack_runs(tmp_path: Path, content: str) -> None:
    (tmp_path / "stack.json").write_text(content)
    assert state_file.running(tmp_path) is None


def test_a_stack_whose_process_is_gone_does_not_run(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])  # noqa: S607
    process.wait()
    text = state_file.Running.here(9000, SERVERS)
    text.write(tmp_path)
    path = tmp_path / "stack.json"
    path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', f'"pid": {process.pid}'))
    assert state_file.running(tmp_path) is None
