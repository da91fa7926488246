"""The project's own load generator, in a process of its own: `python -m benchmarks.generator`.

Reads a load as JSON from standard input and writes what it heard to standard output. Bounded by the
load's seconds, and in an open loop by the number of its requests.
"""

import asyncio
import itertools
import math
import subprocess
import sys
from collections.abc import Sequence
from time import perf_counter

import msgspec
import uvloop

from benchmarks import cpu
from benchmarks.load import Heard, Load
from ops import crowd
from ops.programs import CHECKOUT

END_SECONDS_MAX = 60
LOST_PAUSE_SECONDS = 0.01
MS = 1_000


def run(load: Load) -> Heard:
    """Run a generator process and return what it heard."""
    before = cpu.children_us()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.generator"],
        input=msgspec.json.encode(load),
        stdout=subprocess.PIPE,
        cwd=CHECKOUT,
        check=True,
        timeout=load.seconds + END_SECONDS_MAX,
    )
    heard = msgspec.json.decode(done.stdout, type=Heard)
    return msgspec.structs.replace(heard, cpu_us=cpu.children_us() - before)


class _Tally:
    """What is heard while a load lasts."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.paths = itertools.cycle(load.paths)
        self.body = load.body.encode()
        self.errors = 0
        self.times_ms: list[float] = []

    async def ask(self, connection: crowd.Connection, since: float) -> None:
        """Send one request; its time counts from `since`."""
        load = self.load
        try:
            answer = await connection.request(load.method, next(self.paths), load.headers, self.body)
        except crowd.ConnectionLost:
            self.errors += 1
            await asyncio.sleep(LOST_PAUSE_SECONDS)
            return
        if answer.status == load.expected:
            self.times_ms.append((perf_counter() - since) * MS)
        else:
            self.errors += 1


async def generate(load: Load) -> Heard:
    """Put the load on from this process."""
    tally = _Tally(load)
    begin = perf_counter()
    if load.per_second is None:
        await asyncio.gather(*(_again_and_again(tally, begin) for _ in range(load.connections)))
    else:
        starts = itertools.count()
        await asyncio.gather(*(_on_time(tally, begin, starts) for _ in range(load.connections)))
    return _heard(tally, perf_counter() - begin)


async def _again_and_again(tally: _Tally, begin: float) -> None:
    async with crowd.Connection(tally.load.url) as connection:
        while (now := perf_counter()) - begin < tally.load.seconds:
            await tally.ask(connection, now)


async def _on_time(tally: _Tally, begin: float, starts: "itertools.count[int]") -> None:
    """Take the next request that nobody has, and send it when it is due, or later when all were busy."""
    rate = tally.load.per_second
    assert rate is not None, "an open loop has a rate"
    async with crowd.Connection(tally.load.url) as connection:
        while (start := next(starts)) < rate * tally.load.seconds:
            due = begin + start / rate
            await asyncio.sleep(due - perf_counter())
            await tally.ask(connection, due)


def _heard(tally: _Tally, seconds: float) -> Heard:
    times = sorted(tally.times_ms)
    return Heard(
        answers=len(times),
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
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(generate(asked))))
