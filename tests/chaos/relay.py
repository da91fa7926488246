"""The relays between the service's programs and its servers, in a process of their own.

Each program has a link of its own to each server. A link passes everything, or it holds, refuses, delays,
cuts, or puts wake messages into other queues. A trap waits for a text in a request, and kills, stops or cuts
off the program at one of three points:

    before      the request has not left
    answered    the server has answered, and the program has not heard it
    told        the program has just heard it

Commands come as lines of JSON on standard input. Standard output tells of each command that is done, and of
each trap that was sprung.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any, cast

import uvloop

MISDIRECTED = {b"event.": b"evemt.", b"worker.": b"wprker."}
"""The names of the queues, and those to which a link misdirects the messages."""
TOLD_SECONDS = 0.0005
"""The time in which a program can take one more step after an answer, before its trap is sprung."""


class Link:
    """A listening socket, and where its connections lead: paths of sockets, or hosts with a port."""

    def __init__(self, address: str, target: str) -> None:
        self.address, self.target = address, target
        self.server: asyncio.Server | None = None
        """Kept here: uvloop stops listening when a server is collected as garbage."""
        self.pairs: set[Pair] = set()
        self.mode = "pass"
        self.delay_seconds = 0.0
        self.trap: dict[str, Any] | None = None

    async def listen(self) -> None:
        loop, accept = asyncio.get_running_loop(), partial(_accept, self)
        if (tcp := _tcp(self.address)) is not None:
            self.server = await loop.create_server(accept, *tcp)
            return
        with suppress(FileNotFoundError):
            os.unlink(self.address)  # noqa: PTH108 - the path of a socket
        self.server = await loop.create_unix_server(accept, self.address, backlog=512)
        os.chmod(self.address, 0o777)  # noqa: PTH101, S103 - its folder is private

    async def connect(self, pair: "Pair") -> None:
        loop, end = asyncio.get_running_loop(), partial(End, pair, "server")
        if (tcp := _tcp(self.target)) is not None:
            await loop.create_connection(end, *tcp)
        else:
            await loop.create_unix_connection(end, self.target)

    def change(self, mode: str, delay_seconds: float = 0.0) -> None:
        self.mode, self.delay_seconds = mode, delay_seconds
        for pair in list(self.pairs):
            if mode in {"refuse", "cut"}:
                pair.cut()
            elif mode in {"pass", "misdirect"}:
                pair.release()
        if mode == "cut":
            self.mode = "pass"


class Pair:
    """A program's connection and the server's, with what waits between the two."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.ends: dict[str, asyncio.Transport] = {}
        self.waiting: deque[tuple[float, str, bytes]] = deque()
        self.held = False
        self.answering: dict[str, Any] | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.closed = False

    def take(self, to: str, data: bytes) -> None:
        """Take data on its way; no data is the end of the stream."""
        if to == "server" and self.link.mode == "misdirect":
            for queue, other in MISDIRECTED.items():
                data = data.replace(b"\r\n" + queue, b"\r\n" + other)
        trap = self.link.trap
        if to == "server" and trap is not None and trap["text"].encode() in data:
            if trap["point"] == "before":
                self._spring(trap, to, data)
                return
            self.link.trap, self.answering = None, trap
        elif to == "program" and self.answering is not None:
            trap, self.answering = self.answering, None
            if trap["point"] == "answered":
                self._spring(trap, to, data)
                return
            asyncio.get_running_loop().call_later(TOLD_SECONDS, self._spring, trap, to, b"")
        self._queue(to, data)

    def _queue(self, to: str, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.waiting.append((loop.time() + self.link.delay_seconds, to, data))
        self.flush()

    def flush(self) -> None:
        """Pass on what may pass now."""
        loop = asyncio.get_running_loop()
        while self.waiting and not self.held and self.link.mode != "hold":
            due, to, data = self.waiting[0]
            if to not in self.ends:
                return
            if due > loop.time():
                loop.call_later(due - loop.time(), self.flush)
                return
            self.waiting.popleft()
            if not data:
                self.ends[to].close()
            elif not self.ends[to].is_closing():
                self.ends[to].write(data)

    def release(self) -> None:
        """Pass on what was held, without delay."""
        self.held = False
        self.waiting = deque((0.0, to, data) for _, to, data in self.waiting)
        self.flush()

    def cut(self) -> None:
        """End both connections; what was on its way is lost."""
        self.closed = True
        self.link.pairs.discard(self)
        for end in self.ends.values():
            end.abort()

    def _spring(self, trap: dict[str, Any], to: str, data: bytes) -> None:
        self.link.trap = None
        match trap["then"]:
            case "kill":
                with suppress(ProcessLookupError):
                    os.kill(trap["pid"], signal.SIGKILL)
            case "stop":
                with suppress(ProcessLookupError):
                    os.kill(trap["pid"], signal.SIGSTOP)
                self.held = True
                self._queue(to, data)
            case "cut":
                self.cut()
            case then:
                self.link.change(then)
        print(json.dumps({"sprung": trap["id"], "at": time.time()}), flush=True)  # noqa: T201


class End(asyncio.Protocol):
    """One of a pair's two connections."""

    def __init__(self, pair: Pair, name: str) -> None:
        self.pair, self.name = pair, name
        self.other = "server" if name == "program" else "program"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        made = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        if self.pair.closed or self.pair.link.mode == "refuse":
            self.pair.closed = True
            made.abort()
            return
        self.pair.ends[self.name] = made
        if self.name == "program":
            self.pair.link.pairs.add(self.pair)
            self.pair.connecting = asyncio.create_task(self._connect())
        self.pair.flush()

    async def _connect(self) -> None:
        try:
            await self.pair.link.connect(self.pair)
        except OSError:
            self.pair.cut()

    def data_received(self, data: bytes) -> None:
        self.pair.take(self.other, data)

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.pair.closed:
            self.pair.take(self.other, b"")
        if self.name == "program" and self.other not in self.pair.ends:
            self.pair.closed = True
        if all(end.is_closing() for end in self.pair.ends.values()):
            self.pair.link.pairs.discard(self.pair)


def _accept(link: Link) -> End:
    return End(Pair(link), "program")


def _tcp(address: str) -> tuple[str, int] | None:
    """Return host and port; None for the path of a socket."""
    host, _, port = address.rpartition(":")
    return None if address.startswith("/") else (host, int(port))


async def serve(links: dict[str, Link]) -> None:
    """Serve all links until the end of standard input."""
    loop = asyncio.get_running_loop()
    for link in links.values():
        await link.listen()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print(json.dumps({"ready": True}), flush=True)  # noqa: T201
    while line := await reader.readline():
        command = json.loads(line)
        link = links[command["link"]]
        if "trap" in command:
            link.trap = command["trap"]
        elif "target" in command:
            link.target = command["target"]
            link.change("cut")
        else:
            link.change(command["mode"], command.get("seconds", 0.0))
        print(json.dumps({"done": command["number"]}), flush=True)  # noqa: T201


if __name__ == "__main__":
    uvloop.run(serve({name: Link(*ends) for name, ends in json.loads(sys.argv[1]).items()}))
