"""The project's own load generator, in a process of its own: `python -m benchmarks.load.generator`.

Reads a load as JSON from standard input and writes its result as JSON to standard output. Bounded by the
load's seconds, and in an open loop by the number of its requests.

An open loop sends each request when its arrival is due, independent of the answers: no arrival waits for
another one, unless all connections of the load are busy. An arrival that has found no connection by the end
of the load is never sent. Such arrivals, and those with an error as their answer, count as later than any
answer can be, so that a service that stalls cannot look fast.
"""

import asyncio
import itertools
import math
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from time import perf_counter

import msgspec
import uvloop

from benchmarks import cpu
from benchmarks.load.load import Load, LoadResult
from ops.rehearsal import http_client
from ops.stack.programs import CHECKOUT

ANSWER_SECONDS_MAX = 15.0
"""A request without an answer after this time is an error."""
END_SECONDS_MAX = 60
LOST_PAUSE_SECONDS = 0.01
MS = 1_000


def run(load: Load) -> LoadResult:
    """Run a generator process and return its result."""
    before = cpu.children_us()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load.generator"],
        input=msgspec.json.encode(load),
        stdout=subprocess.PIPE,
        cwd=CHECKOUT,
        check=True,
        timeout=load.seconds + END_SECONDS_MAX,
    )
    result = msgspec.json.decode(done.stdout, type=LoadResult)
    return msgspec.structs.replace(result, cpu_us=cpu.children_us() - before)


class _Tally:
    """The answers and errors of a load so far."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.paths = itertools.cycle(load.paths)
        self.body = load.body.encode()
        self.errors = 0
        self.times_ms: list[float] = []

    @property
    def sent(self) -> int:
        """Return the number of requests that have an answer or an error."""
        return len(self.times_ms) + self.errors

    async def ask(self, connection: http_client.Connection, since: float) -> None:
        """Send one request; its time counts from `since`."""
        load = self.load
        try:
            answer = await connection.request(load.method, next(self.paths), load.headers, self.body)
        except http_client.ConnectionLost:
            self.errors += 1
            await asyncio.sleep(LOST_PAUSE_SECONDS)
            return
        if answer.status == load.expected:
            self.times_ms.append((perf_counter() - since) * MS)
        else:
            self.errors += 1


async def generate(load: Load) -> LoadResult:
    """Run the load in this process."""
    tally = _Tally(load)
    begin = perf_counter()
    if load.per_second is None:
        await asyncio.gather(*(_again_and_again(tally, begin) for _ in range(load.connections)))
        return _result(tally, perf_counter() - begin)
    arrivals = round(load.per_second * load.seconds)
    late_ms = await _OpenLoop(tally).run(arrivals)
    result = _result(tally, perf_counter() - begin, lost=arrivals - len(tally.times_ms))
    return msgspec.structs.replace(result, unsent=arrivals - tally.sent, late_p99_ms=late_ms)


def _connection(load: Load) -> http_client.Connection:
    return http_client.Connection(load.url, request_seconds_max=ANSWER_SECONDS_MAX)


async def _again_and_again(tally: _Tally, begin: float) -> None:
    async with _connection(tally.load) as connection:
        while (now := perf_counter()) - begin < tally.load.seconds:
            await tally.ask(connection, now)


class _OpenLoop:
    """Requests that start by the clock, each on a connection that is free at the time."""

    def __init__(self, tally: _Tally) -> None:
        self._tally = tally
        # The connection that became free last is taken first, so that no more are opened than are needed.
        self._connections = [_connection(tally.load) for _ in range(tally.load.connections)]
        self._free = self._connections.copy()
        self._waiting: deque[float] = deque()

    async def run(self, arrivals: int) -> float:
        """Send all arrivals that can be sent; return the 99th percentile in ms of how late the clock was."""
        late_ms: list[float] = []
        async with AsyncExitStack() as ends, asyncio.TaskGroup() as tasks:
            for connection in self._connections:
                await ends.enter_async_context(connection)
            begin, seconds = perf_counter(), self._tally.load.seconds
            self._end = begin + seconds
            for number in range(arrivals):
                due = begin + number * seconds / arrivals
                await asyncio.sleep(due - perf_counter())  # lets answers be read also when the clock is late
                late_ms.append((perf_counter() - due) * MS)
                if self._free:
                    tasks.create_task(self._send(self._free.pop(), due))
                else:
                    self._waiting.append(due)
        return percentile(sorted(late_ms), 99)

    async def _send(self, connection: http_client.Connection, due: float) -> None:
        """Send an arrival, and then the arrivals that have found no connection, the oldest first."""
        await self._tally.ask(connection, due)
        while self._waiting and perf_counter() < self._end:
            await self._tally.ask(connection, self._waiting.popleft())
        self._free.append(connection)


def _result(tally: _Tally, seconds: float, lost: int = 0) -> LoadResult:
    """Return the load's result; each lost request counts as long as the latest answer could take."""
    longest_ms = (tally.load.seconds + ANSWER_SECONDS_MAX) * MS
    times = sorted([*tally.times_ms, *[longest_ms] * lost])
    return LoadResult(
        answers=len(tally.times_ms),
        errors=tally.errors,
        seconds=seconds,
        p50_ms=percentile(times, 50),
        p95_ms=percentile(times, 95),
        p99_ms=percentile(times, 99),
        max_ms=percentile(times, 100),
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile of ordered values; 0 when there are none."""
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else 0.0


if __name__ == "__main__":
    requested = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(generate(requested))))
