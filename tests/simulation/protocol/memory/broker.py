"""Redis in memory: the result backend, its announcements, and the queues of wake messages."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, Protocol
from uuid import UUID

import msgspec
import redis

from shared.messaging import queues
from tests.simulation.protocol import loop
from tests.simulation.protocol.loop import Loop

_HANG_SECONDS = 0.5
_ANNOUNCEMENT = msgspec.json.Decoder(list[UUID])


class Fate(Protocol):
    """What becomes of a message on its way."""

    def copies(self) -> int:
        """Return how often a message arrives."""

    def delay(self) -> float:
        """Return how long a message takes."""


class Redis:
    """One server, with all that is in it; `moment` lets the time of a step pass."""

    def __init__(self, world: Loop, moment: Callable[[], Awaitable[None]], fate: Fate) -> None:
        self.away = ""
        self.values: dict[str, bytes] = {}
        self._loop, self._moment, self._fate = world, moment, fate
        self._queues: defaultdict[str, list[list[UUID]]] = defaultdict(list)
        self._consumers: list[Consumer] = []
        self._listeners: list[asyncio.Queue[list[UUID] | None]] = []

    async def ask(self) -> None:
        """Reach the server; raises as a client does when it is away or hangs."""
        await self._moment()
        if self.away == "hangs":
            await asyncio.sleep(_HANG_SECONDS)
            raise redis.TimeoutError("Timeout reading from socket")
        if self.away:
            raise redis.ConnectionError("Connection refused")

    def flush(self) -> None:
        """Lose everything."""
        self.values.clear()
        self._queues.clear()

    def take_away(self, how: str) -> None:
        """Break all connections; let new ones fail, or hang."""
        self.away = how
        for listener in self._listeners:
            listener.put_nowait(None)

    # --- the result backend

    def write(self, keys: Sequence[str], values: Sequence[bytes], announced: bytes) -> None:
        """Store and announce outcomes, at once."""
        self.values.update(zip(keys, values, strict=True))
        for listener in self._listeners:
            for _ in range(self._fate.copies()):
                self._loop.call_later(
                    self._fate.delay(), listener.put_nowait, _ANNOUNCEMENT.decode(announced)
                )

    async def announcements(self, _: str) -> AsyncIterator[list[UUID]]:
        """Stand for `results.announcements`."""
        await self.ask()
        listener: asyncio.Queue[list[UUID] | None] = asyncio.Queue()
        self._listeners.append(listener)
        process = loop.current()
        if process is not None:
            process.on_death.append(lambda: self._forget(listener))
        yield []
        while (event_ids := await listener.get()) is not None:
            yield event_ids
        self._forget(listener)
        raise redis.ConnectionError("Connection closed by server")

    def _forget(self, listener: "asyncio.Queue[list[UUID] | None]") -> None:
        with suppress(ValueError):
            self._listeners.remove(listener)

    # --- the broker

    async def send(self, queue: str, event_ids: Sequence[UUID]) -> None:
        """Add a message to a queue; it may be lost, doubled or late on its way."""
        await self.ask()
        for _ in range(self._fate.copies()):
            self._loop.spawn(self._arrive(queue, list(event_ids), self._fate.delay()), None)

    async def _arrive(self, queue: str, event_ids: list[UUID], delay: float) -> None:
        await asyncio.sleep(delay)
        self._queues[queue] = [*self._queues[queue], event_ids][-queues.MESSAGES_MAX :]
        self._serve(queue)

    def _serve(self, queue: str) -> None:
        for consumer in self._consumers:
            if queue in consumer.queues and not self.away:
                for event_ids in self._queues.pop(queue, []):
                    self._loop.spawn(consumer.deliver(event_ids), consumer.process)

    def consume(self, consumer: "Consumer") -> None:
        """Deliver the messages of a consumer's queues from now on, until its process ends."""
        self._consumers.append(consumer)
        consumer.process.on_death.append(lambda: self._consumers.remove(consumer))
        for queue in consumer.queues:
            self._serve(queue)


class Consumer:
    """A worker's Celery consumer, as far as `EventQueues` uses it."""

    def __init__(
        self, server: Redis, process: loop.Process, queue: str, receive: Callable[[Sequence[UUID]], None]
    ) -> None:
        self.process = process
        self.queues = {queue}
        self.task_consumer = self
        self.connection = SimpleNamespace(transport=SimpleNamespace(driver_type="redis"))
        self._server, self._receive = server, receive

    def call_soon(self, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(callback)

    def add_queue(self, queue: Any) -> None:  # noqa: ANN401 - kombu's queue
        self.queues.add(queue.name)

    def cancel_by_queue(self, name: str) -> None:
        self.queues.discard(name)

    def consume(self) -> None:
        for queue in sorted(self.queues):
            self._server._serve(queue)  # noqa: SLF001 - the two are one connection

    async def deliver(self, event_ids: Sequence[UUID]) -> None:
        await self._server._moment()  # noqa: SLF001
        self._receive(event_ids)


class BlockingClient:
    """The client of the result writer."""

    connection_pool = SimpleNamespace(connection_kwargs={})

    def __init__(self, server: Redis) -> None:
        self._server = server

    def eval(self, _: str, count: int, *arguments: Any) -> None:
        loop.blocking(self._server.ask())
        self._server.write(arguments[:count], arguments[count + 3 :], arguments[count + 2])
        loop.blocking(self._server._moment())  # noqa: SLF001

    def close(self) -> None:
        """There is no connection."""


class AsyncClient:
    """The client of the result poller."""

    def __init__(self, server: Redis) -> None:
        self._server = server

    async def mget(self, keys: Collection[str]) -> list[bytes | None]:
        await self._server.ask()
        found = [self._server.values.get(key) for key in keys]
        await self._server._moment()  # noqa: SLF001
        return found

    async def aclose(self) -> None:
        """There is no connection."""
