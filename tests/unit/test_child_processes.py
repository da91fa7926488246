"""Child processes: started apart, found by their arguments, stopped in time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ops import child_processes


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


def test_a_child_has_its_own_session_and_log(tmp_path: Path) -> None:
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
        child(tmp_path / "one", "time.sleep(60)  # one") as one,
        child(tmp_path / "two", "time.sleep(60)") as two,
    ):
        for log in ("one", "two"):  # a process that is about to execute its program has no arguments
            wait_for(tmp_path / log, "up")
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
