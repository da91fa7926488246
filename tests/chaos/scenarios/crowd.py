"""A crowd in processes of its own: registrations by the clock or one after the other, or polls of receipts.

Takes a `Crowd` as JSON on standard input, and prints a `Seen`.
"""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle
from typing import IO, cast
from urllib.parse import urlsplit

import msgspec
import uvloop
from msgspec import Struct, field

from ops.stack.programs import CHECKOUT
from shared import open_files

END_SECONDS_MAX = 60
LOST_PAUSE_SECONDS = 0.1
_TRY_AGAIN = frozenset((429, 503))
_BODY = msgspec.json.encode({"name": "One of a crowd"})
_END_OF_HEAD = b"\r\n\r\n"
_STATUS = slice(len("HTTP/1.1 "), len("HTTP/1.1 200"))
_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)", re.IGNORECASE)
_RECEIPT = re.compile(rb"\r\nlocation: [^\r]*/([^/\r]+)", re.IGNORECASE)
_SETTLED = re.compile(rb'\r\netag: "(?!PENDING-)', re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: ([0-9]+)", re.IGNORECASE)


class Crowd(Struct, frozen=True, kw_only=True):
    """So many connections of so many processes ask for the paths in turn, for so many seconds.

    With `per_second` they register at that rate, independent of the answers; a request that finds no free
    connection is not sent. Without it each connection sends when it has its answer, or after a `Retry-After`,
    and no more once a receipt is settled; the first requests are spread over `arrival_seconds`.
    """

    url: str
    method: str
    paths: Sequence[str]
    prefer: str
    connections: int
    seconds: float
    processes: int = 1
    per_second: float | None = None
    arrival_seconds: float = 0.0

    def part(self, number: int) -> "Crowd":
        """Return the part of the process of this number, from 0."""
        return msgspec.structs.replace(
            self,
            paths=self.paths[number :: self.processes],
            connections=self.connections // self.processes,
            per_second=None if self.per_second is None else self.per_second / self.processes,
        )


class Seen(Struct, kw_only=True):
    """The answers by their status, the requests without one, and the receipts that were given.

    `cpu_seconds` is the processor time of the crowd itself.
    """

    statuses: dict[int, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    unsent: int = 0
    receipts: list[str] = field(default_factory=list)
    cpu_seconds: float = 0.0

    def add(self, other: "Seen") -> None:
        """Add what another process saw."""
        self.statuses = dict(Counter(self.statuses) + Counter(other.statuses))
        self.lost = dict(Counter(self.lost) + Counter(other.lost))
        self.unsent += other.unsent
        self.receipts += other.receipts
        self.cpu_seconds += other.cpu_seconds


@contextmanager
def running(crowd: Crowd) -> Iterator[Callable[[], Seen]]:
    """Run a crowd while the block lasts; yield a function that waits for its end and returns what it saw."""
    with ExitStack() as ends:
        parts = [ends.enter_context(_process(crowd.part(number))) for number in range(crowd.processes)]

        def seen() -> Seen:
            all_seen = Seen()
            for process, output in parts:
                status = process.wait()
                assert status == 0, f"the crowd ended with {status}"
                output.seek(0)
                all_seen.add(msgspec.json.decode(output.read(), type=Seen))
            return all_seen

        yield seen


@contextmanager
def _process(part: Crowd) -> Iterator[tuple["subprocess.Popen[bytes]", IO[bytes]]]:
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.chaos.scenarios.crowd"],
            stdin=subprocess.PIPE,
            stdout=output,
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        )
        try:
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(part))
            process.stdin.close()
            yield process, output
        finally:
            process.kill()
            process.wait()


class _LostError(Exception):
    """A request has no answer; the message says why."""


class _Wire(asyncio.Protocol):
    """A connection with one request at a time; it reads no more of an answer than the crowd counts.

    A client that parses every header takes three times the processor time, which the service would lack.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._received = b""

    async def head(self, request: bytes, host: str, port: int) -> bytes:
        """Send a request, and return the head of its answer; raises `_LostError`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(END_SECONDS_MAX):
                if self._transport is None or self._transport.is_closing():
                    await loop.create_connection(lambda: self, host, port)
                assert self._transport is not None, "the connection is made"
                self._answer = loop.create_future()
                self._transport.write(request)
                return await self._answer
        except OSError as error:  # refused, or a time-out
            if self._transport is not None:
                self._transport.abort()
            raise _LostError(str(error) or "no answer in time") from error

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._received = cast("asyncio.Transport", transport), b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(_END_OF_HEAD)
        length = _LENGTH.search(head)
        if end and len(body) >= (0 if length is None else int(length[1])):
            self._received = b""
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(head)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(_LostError(str(error or "the server closed the connection")))


class _Members:
    """All members of a crowd, and what they saw."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.statuses: Counter[int] = Counter()
        self.lost: Counter[str] = Counter()
        self.receipts: list[str] = []
        self.unsent = 0
        address = urlsplit(crowd.url)
        self._address = address.hostname or "", address.port or 80
        self._requests = cycle([_request(crowd, path) for path in crowd.paths])
        self._until = time.monotonic() + crowd.seconds

    async def run(self) -> Seen:
        wires = [_Wire() for _ in range(self.crowd.connections)]
        async with asyncio.TaskGroup() as tasks:
            if self.crowd.per_second is None:
                for number, wire in enumerate(wires):
                    after = number * self.crowd.arrival_seconds / len(wires)
                    tasks.create_task(self._again_and_again(wire, after))
            else:
                await self._by_the_clock(wires, self.crowd.per_second, tasks)
        return Seen(
            statuses=self.statuses,
            lost=self.lost,
            unsent=self.unsent,
            receipts=self.receipts,
            cpu_seconds=time.process_time(),
        )

    async def _again_and_again(self, wire: _Wire, after: float) -> None:
        await asyncio.sleep(after)
        while time.monotonic() < self._until:
            pause_seconds = await self._ask(wire)
            if pause_seconds is None:
                return
            await asyncio.sleep(pause_seconds)

    async def _by_the_clock(self, free: list[_Wire], per_second: float, tasks: asyncio.TaskGroup) -> None:
        began, sent = time.monotonic(), 0

        async def send(wire: _Wire) -> None:
            await self._ask(wire)
            free.append(wire)

        while (now := time.monotonic()) < self._until:
            due = int((now - began) * per_second)
            now_sent = min(due - sent, len(free))
            for _ in range(now_sent):
                tasks.create_task(send(free.pop()))
            self.unsent += due - sent - now_sent
            sent = due
            await asyncio.sleep(0.001)

    async def _ask(self, wire: _Wire) -> float | None:
        """Send the next request; return the seconds until the client asks again, None if it knows all."""
        try:
            head = await wire.head(next(self._requests), *self._address)
        except _LostError as lost:
            self.lost[str(lost)] += 1
            return LOST_PAUSE_SECONDS
        status = int(head[_STATUS])
        self.statuses[status] += 1
        receipt = _RECEIPT.search(head)
        if receipt is not None:
            self.receipts.append(receipt[1].decode())
        if _SETTLED.search(head):
            return None
        retry_after = _RETRY_AFTER.search(head) if status in _TRY_AGAIN else None
        return 0.0 if retry_after is None else float(retry_after[1])


def _request(crowd: Crowd, path: str) -> bytes:
    body = _BODY if crowd.method == "POST" else b""
    lines = [f"{crowd.method} {path} HTTP/1.1", f"host: {urlsplit(crowd.url).netloc}"]
    lines += [f"prefer: {crowd.prefer}"] * bool(crowd.prefer)
    lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join(lines).encode() + _END_OF_HEAD + body


if __name__ == "__main__":
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Crowd)
    open_files.raise_limit()
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(_Members(asked).run())))
    sys.stdout.buffer.flush()
