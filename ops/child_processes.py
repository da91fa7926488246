"""Starts child processes, finds them again, and stops them by their pids.

A child has a session of its own, so that Ctrl-C on the terminal reaches only its parent. It writes to a log
file, because a pipe can fill up. The kernel signals the child when its parent dies. Where the kernel cannot,
a later start finds the child by its arguments: a pid file may be stale, or its number reused.
"""

import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TypeAlias

Matches: TypeAlias = Callable[[int, Sequence[str]], bool]
"""A function that recognises a process by its pid and arguments."""
POLL_SECONDS = 0.02
KILL_SECONDS_MAX = 5.0
"""The time in which the kernel ends a process after SIGKILL; a disk that hangs can delay it longer."""
TAIL_LINES = 12
TAIL_BYTES = 8_192


@cache
def _parent_death_tool() -> bool:
    """Return True if this system's ``setpriv`` can have the kernel signal a child when its parent dies."""
    if shutil.which("setpriv") is None:
        return False
    probe = ["setpriv", "--pdeathsig", "TERM", "--", "true"]
    return subprocess.run(probe, check=False, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0


def dies_with_parent(number: signal.Signals) -> tuple[str, ...]:
    """Return the command prefix that makes a child receive this signal when its parent dies.

    The prefix is empty where the platform has none; the next start then finds and stops the child. The kernel
    counts the *thread* that started the child as its parent: start children from a thread that lives.
    """
    return ("setpriv", "--pdeathsig", number.name.removeprefix("SIG"), "--") if _parent_death_tool() else ()


class Child(ABC):
    """A child process with a log of its own; it may be started again after it ended."""

    def __init__(self, name: str, logs: Path) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        """The process id of the child, which must have been started."""
        return self._started().pid

    @abstractmethod
    def start(self) -> None:
        """Start the child, also after it ended."""

    def last_words(self) -> str:
        """Return the end of the child's log since its start, an indented line each."""
        return tail(self.log, self._log_start)

    def _started(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, f"{self.name} was not started"  # a caller's mistake
        return self.process


def spawn(
    argv: Sequence[str], *, log: Path, env: Mapping[str, str], cwd: Path, pass_fds: Collection[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a child in its own session, with its output appended to ``log``."""
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes], number: signal.Signals, seconds: float) -> bool:
    """Signal a child and wait; kill it after ``seconds``. Return True if it ended by itself."""
    process.send_signal(number)
    try:
        process.wait(max(seconds, 0))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


def stop_found(matches: Matches, number: signal.Signals, seconds: float) -> list[int]:
    """Signal every process that ``matches``, wait, kill those that are left; return the pids.

    Raises `TimeoutError` if a process outlives even SIGKILL.
    """
    stopped = living = find(matches)
    for sign, wait in ((number, seconds), (signal.SIGKILL, KILL_SECONDS_MAX)):
        for pid in living:
            with suppress(ProcessLookupError):
                os.kill(pid, sign)
        deadline = time.monotonic() + wait
        while living and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            living = find(matches)
        if not living:
            return stopped
    raise TimeoutError(f"process {', '.join(map(str, living))} does not end")


def find(matches: Matches) -> list[int]:
    """Return the pids of the living processes that ``matches``; never this process."""
    pids = (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdecimal())
    return [pid for pid in pids if pid != os.getpid() and (args := arguments(pid)) and matches(pid, args)]


def arguments(pid: int) -> list[str]:
    """Return a process's arguments; empty if it has ended or is a kernel thread."""
    raw = _of_kernel(pid, "cmdline")
    return [os.fsdecode(part) for part in raw.rstrip(b"\0").split(b"\0")] if raw else []


def environment(pid: int) -> dict[str, str]:
    """Return the environment a process was started with; empty if it has ended or may not be read."""
    pairs = _of_kernel(pid, "environ").split(b"\0")
    return dict(os.fsdecode(pair).split("=", 1) for pair in pairs if b"=" in pair)


def _of_kernel(pid: int, file: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes()
    except OSError:
        return b""


def folder(pid: int) -> Path | None:
    """Return a process's working directory; None if it has ended or may not be read."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return None


def size(log: Path) -> int:
    """Return a log's length in bytes, from which `tail` can start."""
    return log.stat().st_size if log.exists() else 0


def tail(log: Path, start: int = 0) -> str:
    """Return the last lines written to ``log`` after byte ``start``, indented; empty if there are none."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(start, size(log) - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "".join(f"\n  {line}" for line in lines[-TAIL_LINES:])
