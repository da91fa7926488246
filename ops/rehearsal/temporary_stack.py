"""The temporary stack of a rehearsal: a whole service on data of its own."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

import uvloop

from ops import child_processes
from ops.rehearsal import http_client
from ops.rehearsal.drop import ADMIN_KEY, Plan, RehearsalError
from ops.stack.programs import CHECKOUT

STACK_START_SECONDS_MAX = 90.0
STACK_STOP_SECONDS_MAX = 30.0
STACK_POLL_SECONDS = 0.1


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
    folder = Path(tempfile.mkdtemp(prefix="admitone-rehearsal-"))
    log = folder / "stack.log"
    try:
        up = [sys.executable, "-m", "ops.cli", "up", "--no-demo", "--data", str(folder / "data")]
        up += ["--port", str(urlsplit(plan.url).port)]
        stack = child_processes.spawn(up, log=log, env=_own_environment(plan), cwd=CHECKOUT)
        try:
            uvloop.run(_until_ready(plan.url, stack, log))
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


async def _until_ready(url: str, stack: subprocess.Popen[bytes], log: Path) -> None:
    until = perf_counter() + STACK_START_SECONDS_MAX
    async with http_client.Connection(url) as connection:
        while perf_counter() < until and stack.poll() is None:
            with suppress(http_client.ConnectionLost):
                if (await connection.request("GET", "/readyz")).status == HTTPStatus.OK:
                    return
            await asyncio.sleep(STACK_POLL_SECONDS)
    raise RehearsalError(
        f"the rehearsal's own stack did not become ready; the end of its log:{child_processes.tail(log)}"
    )
