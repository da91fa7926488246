"""A running `admitone up` for tests, and the certainty that nothing of it is left."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from ops import child_processes
from ops.embedded import data_dir
from ops.rehearsal.temporary_stack import free_port
from ops.stack import programs

CHECKOUT = Path(__file__).resolve().parents[2]
READY_SECONDS_MAX = 60
STOP_SECONDS_MAX = 10
NOBODY = 65_534


class Up:
    """A running `admitone up`, its output in a file."""

    def __init__(self, place: Path, *options: str, prefix: tuple[str, ...] = (), **variables: str) -> None:
        self.data = place / "data"
        self.port = free_port()
        self.output = place / f"output-{self.port}"
        arguments = ("up", "--data", str(self.data), "--port", str(self.port), "--workers", "1", *options)
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-P", "-m", "ops.cli", *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(**variables),
                cwd=place,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """Everything it has printed."""
        return self.output.read_text()

    def ready(self) -> "Up":
        self.wait_until(lambda: "is ready after" in self.said or self.has_ended(), READY_SECONDS_MAX)
        assert self.process.poll() is None, self.said
        return self

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for something; fail with all that the stack and its programs said last."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = [f"{log.name}:{child_processes.tail(log)}" for log in (self.data / "log").glob("*")]
                raise AssertionError("\n".join(["it took too long", self.said, *logs]))
            time.sleep(0.05)

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        return ask(self.port, method, path, body)

    def register(self, name: str) -> str:
        status, body = self.ask("POST", "/api/p/demo/register", {"name": name, "spotsCount": 1})
        assert status == 201, body
        return str(body["receiptId"])

    def pid_of(self, part: str) -> int:
        """Return the one process of the stack that is this part."""
        [pid] = self.pids_of(part)
        return pid

    def pids_of(self, part: str) -> list[int]:
        """Return the processes of the stack that are this part: one, or none while it is started again."""
        mine = {"postgres": f"-D\0{self.data}", "valkey": str(data_dir.sockets(self.data) / "valkey.sock")}
        wanted = mine.get(part, f"ops.cli\0{part}")
        return [p for p in processes_of(self.data) if wanted in "\0".join(child_processes.arguments(p))]

    def stop(self, number: signal.Signals = signal.SIGINT) -> float:
        """Signal it; return the seconds it took to end, having checked that it left nothing."""
        began = time.monotonic()
        self.process.send_signal(number)
        status = self.process.wait(STOP_SECONDS_MAX + 5)
        took = time.monotonic() - began
        assert status == 0, self.said
        assert processes_of(self.data) == []
        assert not (self.data / "stack.json").exists()
        return took


def as_nobody() -> tuple[str, ...]:
    """Return the prefix that makes root an ordinary user, who may at most read what is root's.

    Below a folder of mode 0700 the user keeps root's reach for reading, which access() counts because of the
    bit: PostgreSQL asks access() whether its programs can be run. Empty in a sandbox without another user.
    """
    drop = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    reads = "-all,+dac_read_search"
    caps = (f"--inh-caps={reads}", f"--ambient-caps={reads}", "--securebits=+no_setuid_fixup")
    for prefix in ((*drop, "--"), (*drop, *caps, "--")):
        # Through a shell: setpriv itself still has root's reach when it starts its command.
        probe = [*prefix, "sh", "-c", '"$0" -P -m ops.cli --version; exit $?', sys.executable]
        if subprocess.run(probe, env=environment(), capture_output=True, check=False).returncode == 0:
            return prefix
    return ()


def environment(**variables: str) -> Mapping[str, str]:
    mine = {name: value for name, value in os.environ.items() if not name.startswith("ADMITONE_")}
    return {**mine, "PYTHONPATH": str(CHECKOUT), **variables}


def wait_for(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Return when the process listens on its port of this machine."""
    until = time.monotonic() + READY_SECONDS_MAX
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        with closing(socket.socket()) as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)


def ask(port: int, method: str, path: str, body: object = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  # http to this machine
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def processes_of(data: Path) -> list[int]:
    """Return the processes of a data folder: servers by arguments or title, programs by their mark."""
    marks = (str(data), str(data_dir.sockets(data)), f"admitone-{data_dir.digest(data)}")

    def ours(pid: int, argv: Sequence[str]) -> bool:
        marked = child_processes.environment(pid).get(programs.MARK) == str(data)
        return marked or ("up" not in argv and any(mark in part for part in argv for mark in marks))

    return child_processes.find(ours)


@contextmanager
def up(place: Path, *options: str, prefix: tuple[str, ...] = (), **variables: str) -> Iterator[Up]:
    """Start a stack; whatever happens, nothing of it is left."""
    stack = Up(place, *options, prefix=prefix, **variables)
    try:
        yield stack
    finally:
        if stack.process.poll() is None:
            stack.process.kill()
            stack.process.wait()
        for pid in processes_of(stack.data):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def fails(place: Path, *options: str, **variables: str) -> tuple[int, str]:
    """Run an `up` that must end by itself; return its status and what it said."""
    with up(place, *options, prefix=(), **variables) as stack:
        status = stack.process.wait(READY_SECONDS_MAX)
        assert processes_of(stack.data) == []
        return status, stack.said
