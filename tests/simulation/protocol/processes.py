"""API processes and workers: the service's own parts, wired as in production, on simulated transports."""
# ruff: noqa: ANN401 - the values are of many kinds

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from queue import Empty
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch
from uuid import UUID

import msgspec
from sqlalchemy.util import greenlet_spawn

from api import services as api_services
from api.commands.intake import AcceptanceUnknown, CommandRejected, IntakeFull, LedgerUnavailable
from api.commands.submit import CommandRequest, Deadline, Decided
from api.edge.problems import ProblemError
from shared import processes
from shared.domain import commands, ids
from shared.domain.commands import Command, Register
from shared.messaging import queues, results
from shared.messaging.results import Publisher
from shared.postgres import arrays, connections
from shared.postgres.ledger import NumberingBehind
from shared.settings import Settings
from tests.simulation.protocol import loop
from tests.simulation.protocol.loop import Process
from tests.simulation.protocol.memory.broker import AsyncClient, BlockingClient, Consumer, Redis
from tests.simulation.protocol.memory.database import Database
from tests.simulation.protocol.memory.sessions import AcceptingSession, Engine, Network, WorkerSession
from worker import owner as owners
from worker import ownership
from worker.celery_hooks import EventQueues
from worker.owner import Owner

SETTINGS = Settings(
    database_url="postgresql://127.0.0.1:9/nothing",
    broker_url="redis://127.0.0.1:9/0",
    result_url="redis://127.0.0.1:9/0",
    tick_seconds=0.5,
    owner_silence_seconds_max=2,
    answer_wait_seconds=3,
    ledger_patience_seconds=0.3,
    intake_batch_max=6,
    apply_batch_max=4,
    backlog_batch_max=8,
)
BUCKETS = 8
"""Few buckets take little time; several events share one now and then."""


@dataclass(frozen=True)
class Answer:
    """What a request was told: a receipt, an outcome, both or neither."""

    status: str
    receipt_id: UUID | None = None
    outcome: Any = None
    code: str | None = None


@dataclass(frozen=True)
class Transports:
    """The servers, and what happens on the way to them."""

    database: Database
    redis: Redis
    network: Network


class Inbox:
    """The owner's `SimpleQueue`, for a thread that is a greenlet."""

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._arrived = asyncio.Event()

    def put(self, item: object) -> None:
        self._items.append(item)
        self._arrived.set()

    def get(self, *, block: bool = True, timeout: float | None = None) -> Any:
        if not self._items and block:
            self._arrived.clear()
            loop.blocking(self._wait(timeout))
        if not self._items:
            raise Empty
        return self._items.pop(0)

    async def _wait(self, seconds_max: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds_max):
                await self._arrived.wait()


class Worker:
    """A worker process: the owner's thread, and Celery's."""

    def __init__(self, transports: Transports, number: int) -> None:
        self.process = Process(f"worker {number}")
        self._transports = transports
        self.number = number

    async def run(self) -> None:
        clock = asyncio.get_running_loop().time
        publisher = Publisher(SETTINGS.result_url, SETTINGS.result_keep_seconds, clock)
        event_queues = EventQueues(clock)
        with patch.object(processes, "own_number", lambda: self.number):
            owner = Owner(SETTINGS, publisher, event_queues, clock)

        queue = queues.OWNER_QUEUE % self.number
        consumer = Consumer(self._transports.redis, self.process, queue, owner.wake)
        self._transports.redis.consume(consumer)
        event_queues.attach(consumer)
        await greenlet_spawn(owner.run)


class Api:
    """An API process."""

    def __init__(self, number: int) -> None:
        self.process = Process(f"api {number}")
        self._services: api_services.Services | None = None

    async def run(self) -> None:
        self._services = api_services.Services(SETTINGS)
        self._services.start()

    async def answer(  # noqa: PLR0913, PLR0917 - the parts of a request
        self, event_id: UUID, command: Command, actor: str, key: str | None, id_: UUID, wait_seconds: float
    ) -> Answer:
        """Answer a request that waits so long for its outcome, as the routes do."""
        services = self._services
        if services is None:
            return Answer("not accepted")
        now = asyncio.get_running_loop().time()
        due = Deadline(accept_by=now + SETTINGS.answer_wait_seconds, decide_by=now + wait_seconds)
        kind, payload = commands.KINDS[type(command)], msgspec.json.encode(command)
        fingerprint = hashlib.sha256(kind.encode() + b"\0" + payload).digest()
        request = CommandRequest(
            event_id=event_id,
            id=id_,
            kind=kind,
            payload=payload,
            actor=actor,
            idempotency_key=None if key is None else hashlib.sha256(key.encode()).digest(),
            fingerprint=None if key is None else fingerprint,
            slug="a-drop",
            deadline=due,
        )
        events = services.refusing_events
        try:
            if key is None and isinstance(command, Register) and event_id not in events.taking:
                async with asyncio.timeout_at(due.accept_by):
                    refusal = await events.refusal(event_id, command)
                if refusal is not None:
                    return Answer("refused early", outcome=refusal, code=refusal.code.name)
            told = await services.submission.submit(request)
        except (IntakeFull, LedgerUnavailable, CommandRejected, NumberingBehind):
            return Answer("not accepted")
        except (AcceptanceUnknown, TimeoutError):
            return Answer("unknown")
        except ProblemError as problem:
            receipt_id = problem.more.get("receipt_id")
            return Answer("told" if receipt_id else "not accepted", receipt_id, code=problem.code)
        if isinstance(told, Decided):
            return Answer("told", told.receipt_id, told.outcome)
        return Answer("pending", UUID(told.headers["location"].rpartition("/")[2]))


@contextmanager
def wired(transports: Transports, new_id: Callable[[], UUID]) -> Iterator[None]:
    """Let the service's parts use these transports, until the block ends."""
    database, server = transports.database, transports.redis

    def worker_session(settings: Settings) -> WorkerSession:
        loop.blocking(database.moment())
        return WorkerSession(database, transports.network, settings.owner_silence_seconds_max)

    async def accepting_session(_: Settings) -> AcceptingSession:
        await database.moment()
        return AcceptingSession(database, transports.network)

    def connect() -> AcceptingSession:
        return AcceptingSession(database, transports.network)

    sender = SimpleNamespace(send=server.send, probe=None, close=database.moment)
    time_of_loop = SimpleNamespace(
        monotonic=lambda: asyncio.get_running_loop().time(),
        sleep=lambda seconds: loop.blocking(asyncio.sleep(seconds)),
    )
    with ExitStack() as stack:
        replaced: dict[ModuleType, dict[str, Any]] = {
            arrays: dict.fromkeys(("uuids", "digests", "texts", "jsons", "numbers"), list),
            connections: {
                "worker_session": worker_session,
                "accepting_session": accepting_session,
                "async_engine": lambda *_, **__: Engine(connect),
            },
            results: {
                "connect": lambda *_: BlockingClient(server),
                "connect_async": lambda _: AsyncClient(server),
                "announcements": server.announcements,
            },
            queues: {"celery_app": lambda _: None, "connect_sender": lambda *_: sender},
            owners: {"SimpleQueue": Inbox, "time": time_of_loop},
            ids: {"new_id": new_id, "BUCKETS": BUCKETS},
        }
        for module, names in replaced.items():
            stack.enter_context(patch.multiple(module, **names))
        stack.callback(ownership._weights.cache_clear)  # noqa: SLF001 - a worker's weights are of its buckets
        ownership._weights.cache_clear()  # noqa: SLF001
        yield
