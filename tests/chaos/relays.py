"""The harness' side of the relays: starts their process, and tells it what each link does."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from ops import child_processes
from ops.stack.programs import CHECKOUT

Mode = Literal["pass", "hold", "refuse", "cut", "misdirect"]
Point = Literal["before", "answered", "told"]
Then = Literal["kill", "stop", "cut", "refuse"]
START_SECONDS_MAX = 30.0
READ_SECONDS = 0.02
"""A thread that waits for its trap leaves the relays to others after so long."""


class Relays:
    """Links by their names, each `(address, target)`; they pass everything until told otherwise.

    An address is the path of a socket, or a host with a port.
    """

    def __init__(self, links: Mapping[str, tuple[str, str]], log: Path) -> None:
        self.links = links
        self._log = log
        self._numbers = count()
        self._lock = threading.Lock()
        """Faults that strike at once use the relays from threads of their own."""
        self._sprung: dict[int, float] = {}
        self._done = -1
        self._buffer = b""

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *child_processes.dies_with_parent(signal.SIGKILL),
                    *(sys.executable, "-P", "-m", "tests.chaos.relay", json.dumps(dict(self.links))),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
                start_new_session=True,
            )
        try:
            until = time.monotonic() + START_SECONDS_MAX
            while not self._read(until - time.monotonic()):
                assert time.monotonic() < until, "the relays do not start"
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        child_processes.stop(self._process, signal.SIGKILL, 1)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def change(self, link: str, mode: Mode, seconds: float = 0.0) -> None:
        """Let a link do this from now on; `seconds` is the delay of everything that passes."""
        self._tell({"link": link, "mode": mode, "seconds": seconds})

    def lead(self, link: str, target: str) -> None:
        """Cut all connections of a link, and let new ones lead to another server."""
        self._tell({"link": link, "target": target})

    def set_trap(self, link: str, text: str, point: Point, then: Then | Mode, pid: int = 0) -> int:
        """Set a trap for the next request with this text; return its number."""
        number = next(self._numbers)
        trap = {"id": number, "text": text, "point": point, "then": then, "pid": pid}
        self._tell({"link": link, "trap": trap})
        return number

    def take_away(self, link: str) -> None:
        """Take a trap away that was not sprung."""
        self._tell({"link": link, "trap": None})

    def sprung(self, number: int, seconds_max: float) -> float | None:
        """Return the time at which a trap was sprung; None if it was not in this time."""
        until = time.monotonic() + seconds_max
        while number not in self._sprung and (left := until - time.monotonic()) > 0:
            with self._lock:
                self._read(min(left, READ_SECONDS))
        return self._sprung.pop(number, None)

    def _tell(self, command: Mapping[str, Any]) -> None:
        """Send a command, and return once it is done."""
        assert self._process.stdin is not None
        with self._lock:
            number = next(self._numbers)
            self._process.stdin.write(json.dumps({**command, "number": number}).encode() + b"\n")
            self._process.stdin.flush()
            until = time.monotonic() + START_SECONDS_MAX
            while self._done < number:
                assert time.monotonic() < until, f"the relays do not answer{child_processes.tail(self._log)}"
                self._read(until - time.monotonic())

    def _read(self, seconds_max: float) -> bool:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        if not select.select([descriptor], [], [], max(seconds_max, 0))[0]:
            return False
        data = os.read(descriptor, 65_536)
        assert data, f"the relays have ended{child_processes.tail(self._log)}"
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in map(json.loads, lines):
            if "sprung" in line:
                self._sprung[line["sprung"]] = line["at"]
            self._done = line.get("done", self._done)
        return bool(lines)
