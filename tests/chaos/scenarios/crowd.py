"""A crowd in a process of its own: registrations by the clock or one after the other, or polls of receipts.

Takes a `Crowd` as JSON on standard input, and prints a `Seen`.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle

import msgspec
import uvloop
from msgspec import Struct, field

from ops.rehearsal.http_client import Connection, ConnectionLost
from ops.stack.programs import CHECKOUT
from shared import open_files

END_SECONDS_MAX = 60
LOST_PAUSE_SECONDS = 0.1
_TRY_AGAIN = frozenset((429, 503))
_BODY = msgspec.json.encode({"name": "One of a crowd"})


class Crowd(Struct, frozen=True, kw_only=True):
    """So many connections ask for the paths in turn, for so many seconds.

    With `per_second` they register at that rate, independent of the answers; a request that finds no free
    connection is not sent. Without it each connection sends when it has its answer, or after a `Retry-After`;
    the first requests are spread over `arrival_seconds`.
    """

    url: str
    method: str
    paths: Sequence[str]
    prefer: str
    connections: int
    seconds: float
    per_second: float | None = None
    arrival_seconds: float = 0.0


class Seen(Struct, kw_only=True):
    """The answers by their status, the requests without one, and the receipts that were given."""

    statuses: dict[int, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    unsent: int = 0
    receipts: list[str] = field(default_factory=list)


@contextmanager
def running(crowd: Crowd) -> Iterator[Callable[[], Seen]]:
    """Run a crowd while the block lasts; yield a function that waits for its end and returns what it saw."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.chaos.scenarios.crowd"],
            stdin=subprocess.PIPE,
            stdout=output,
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        )

        def seen() -> Seen:
            status = process.wait()
            assert status == 0, f"the crowd ended with {status}"
            output.seek(0)
            return msgspec.json.decode(output.read(), type=Seen)

        try:
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(crowd))
            process.stdin.close()
            yield seen
        finally:
            process.kill()
            process.wait()


class _Members:
    """All members of a crowd, and what they saw."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.statuses: Counter[int] = Counter()
        self.lost: Counter[str] = Counter()
        self.receipts: list[str] = []
        self.unsent = 0
        self._paths = cycle(crowd.paths)
        self._until = time.monotonic() + crowd.seconds
        self._headers = {"content-type": "application/json", "prefer": crowd.prefer}

    async def run(self) -> Seen:
        connections = [
            Connection(self.crowd.url, request_seconds_max=END_SECONDS_MAX)
            for _ in range(self.crowd.connections)
        ]
        async with asyncio.TaskGroup() as tasks:
            if self.crowd.per_second is None:
                for number, connection in enumerate(connections):
                    after = number * self.crowd.arrival_seconds / len(connections)
                    tasks.create_task(self._again_and_again(connection, after))
            else:
                await self._by_the_clock(connections, self.crowd.per_second, tasks)
        return Seen(statuses=self.statuses, lost=self.lost, unsent=self.unsent, receipts=self.receipts)

    async def _again_and_again(self, connection: Connection, after: float) -> None:
        await asyncio.sleep(after)
        while time.monotonic() < self._until:
            pause_seconds = await self._ask(connection)
            await asyncio.sleep(pause_seconds)

    async def _by_the_clock(
        self, free: list[Connection], per_second: float, tasks: asyncio.TaskGroup
    ) -> None:
        began, sent = time.monotonic(), 0

        async def send(connection: Connection) -> None:
            await self._ask(connection)
            free.append(connection)

        while (now := time.monotonic()) < self._until:
            due = int((now - began) * per_second)
            now_sent = min(due - sent, len(free))
            for _ in range(now_sent):
                tasks.create_task(send(free.pop()))
            self.unsent += due - sent - now_sent
            sent = due
            await asyncio.sleep(0.001)

    async def _ask(self, connection: Connection) -> float:
        """Send the next request; return the seconds until the client asks again."""
        body = _BODY if self.crowd.method == "POST" else b""
        try:
            answer = await connection.request(self.crowd.method, next(self._paths), self._headers, body)
        except ConnectionLost as lost:
            self.lost[str(lost)] += 1
            return LOST_PAUSE_SECONDS
        self.statuses[answer.status] += 1
        location = answer.headers.get(b"location")
        if location is not None:
            self.receipts.append(location.decode().rpartition("/")[2])
        return float(answer.headers.get(b"retry-after", b"0")) if answer.status in _TRY_AGAIN else 0.0


if __name__ == "__main__":
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Crowd)
    open_files.raise_limit()
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(_Members(asked).run())))
    sys.stdout.buffer.flush()
