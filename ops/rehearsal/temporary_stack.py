"""The temporary stack of a rehearsal: a whole service on data of its own."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from ops import child_processes
from ops.rehearsal.drop import ADMIN_KEY, Plan, RehearsalError
from ops.stack import readiness
from ops.stack.programs import CHECKOUT

STACK_START_SECONDS_MAX = 90.0
STACK_STOP_SECONDS_MAX = 30.0
STACK_POLL_SECONDS = 0.1
_PORTS = range(10_000, 32_768)


def free_port() -> int:
    """Return a port that is free now, and that no outgoing connection takes until a server listens there.

    Linux gives outgoing connections the ports from 32768 on (``net.ipv4.ip_local_port_range``).
    """
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port


@contextmanager
def stopped_like_interrupted() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the rehearsal as Ctrl-C does: its stack is stopped."""
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def own_stack(plan: Plan, *, keep: bool) -> Iterator[None]:
    """Run the whole service at the plan's address while the block lasts, on temporary data."""
    port = urlsplit(plan.url).port
    assert port is not None, "the address is the plan's own"
    folder = Path(tempfile.mkdtemp(prefix="admitone-rehearsal-"))
    log = folder / "stack.log"
    try:
        up = [sys.executable, "-m", "ops.cli", "up", "--no-demo", "--data", str(folder / "data")]
        up += ["--port", str(port)]
        stack = child_processes.spawn(up, log=log, env=_own_environment(plan), cwd=CHECKOUT)
        try:
            _wait_ready(port, stack, log)
            yield
        finally:
            child_processes.stop(stack, signal.SIGTERM, STACK_STOP_SECONDS_MAX)
    finally:
        if keep:
            print(f"kept: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _own_environment(plan: Plan) -> dict[str, str]:
    """Return the environment without the addresses of another installation."""
    others = {
        name: value
        for name, value in os.environ.items()
        if not (name.startswith("ADMITONE_") and name.endswith("_URL"))
    }
    return {**others, ADMIN_KEY: plan.admin_key}


def _wait_ready(port: int, stack: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + STACK_START_SECONDS_MAX
    while time.monotonic() < until and stack.poll() is None:
        if readiness.unready(port) is None:
            return
        time.sleep(STACK_POLL_SECONDS)
    raise RehearsalError(
        f"the rehearsal's own stack did not become ready; the end of its log:{child_processes.tail(log)}"
    )
