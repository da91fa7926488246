"""A history of the protocol: processes, clients and faults in a simulated world, drawn from one seed."""

import asyncio
import hashlib
import traceback
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import structlog
from structlog.typing import EventDict

from shared.domain import rules
from shared.domain.event import EventSettings, Policy
from tests.simulation import histories, worlds
from tests.simulation.model import Json
from tests.simulation.protocol import processes
from tests.simulation.protocol.chances import AT_TIMES, NOT_OF_THE_API, OF_REDIS, Chances
from tests.simulation.protocol.clients import BUSY_SECONDS, Clients, short
from tests.simulation.protocol.judge import Judge
from tests.simulation.protocol.loop import Loop, Process
from tests.simulation.protocol.memory.broker import Redis
from tests.simulation.protocol.memory.database import Database, Transaction
from tests.simulation.protocol.memory.rows import EVENTS, Event
from tests.simulation.protocol.processes import SETTINGS, Api, Transports, Worker

_PROMPT_SECONDS = 0.4
"""Once the workers have divided the events, and without any fault, no command waits longer."""
_DIVIDED_SECONDS = 1.8
"""The workers divide the events at a tick, and the API processes read the owners once a second."""
_TICKS_AND_A_MOMENT = 2 * SETTINGS.tick_seconds + 0.3
"""After the last fault no command waits longer."""
_LATE_SECONDS, _LATE_SECONDS_WITHOUT_DATABASE = 0.3, SETTINGS.answer_wait_seconds + 2.5
"""After its wait a request reads what is left; without PostgreSQL it waits longer to be accepted."""
_TOLD_SECONDS, _TOLD_BY_LEDGER_SECONDS = 0.3, 2.0
"""A request is told an outcome of Redis, or of the ledger."""
_PENDING_SECONDS = 0.2
"""A request at the end of its wait reads the ledger once more, in a few steps."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a history."""

    seed: int
    violations: list[str]
    trace: list[str]
    commands: int
    faults: Counter[str]

    @property
    def digest(self) -> str:
        """The digest of the trace."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()

    @property
    def numbers(self) -> frozenset[str]:
        """The numbers of the broken promises, and `model` where the second opinion differs."""
        return frozenset(violation.partition(":")[0] for violation in self.violations)

    def __str__(self) -> str:
        """The trace, and every violation."""
        return "\n".join([f"seed {self.seed}", *self.trace, *self.violations])


def run(seed: int, faults: Collection[str] | None = None) -> Result:
    """Let the history of this seed happen, with these faults or with those that the seed draws."""
    return History(seed, faults).run()


class History:
    """The world of one history."""

    def __init__(self, seed: int, faults: Collection[str] | None = None) -> None:
        self.seed = seed
        self.loop = Loop()
        self.chances = Chances(seed, self.loop, faults)
        self.dice = self.chances.dice
        self.calm = not self.chances.faulty and self.dice.random() < 0.7
        self.promoted_spots_max = self.dice.choice([1, 2, 2_000])
        self.database = Database(self.loop, self.chances.moment, self.chances.flush)
        self.redis = Redis(self.loop, self.chances.moment, self.chances)
        self.settings = {self.chances.new_id(): self._drawn() for _ in range(self.dice.choice([1, 1, 2, 3]))}
        prompt = _PROMPT_SECONDS if self.calm else _TICKS_AND_A_MOMENT
        self.judge = Judge(self.database, self.redis, self.settings, prompt)
        if self.chances.faulty <= NOT_OF_THE_API:
            self.judge.told_seconds_max = _TOLD_SECONDS if self.calm else _TOLD_BY_LEDGER_SECONDS
            # A worker that is stopped in a transaction holds the keys that it releases: an INSERT that asks
            # for one of them waits, and with it all that this API process has to accept.
            held = "stop a worker" in self.chances.faulty
            self.judge.late_seconds_max = _LATE_SECONDS_WITHOUT_DATABASE if held else _LATE_SECONDS
            self.judge.pending_seconds_max = _PENDING_SECONDS
        elif "stop an API process" not in self.chances.faulty:
            self.judge.late_seconds_max = _LATE_SECONDS_WITHOUT_DATABASE
        self.judge.accepts_all = self.chances.faulty <= {*OF_REDIS, "kill a worker", "refuse a commit"}
        self.judge.decides_in_order = "refuse a commit" not in self.chances.faulty
        self.processes: list[Process] = []
        self.apis: list[Api] = []
        self._transports = Transports(self.database, self.redis, self.chances)
        self._workers = 0
        self.chances.replace = self._replace
        self.database.before_commit = self._committing
        self.database.after_commit = self.judge.committed

    def _drawn(self) -> Json:
        return {
            **histories.SETTINGS,
            "capacity": self.dice.randint(1, 8),
            "waitlistEnabled": self.dice.random() < 0.7,
            "waitlistLimit": self.dice.choice([None, None, 2]),
            "promotionPolicy": self.dice.choice(["strict_fifo", "skip_unfit"]),
        }

    def run(self) -> Result:
        """Let everything happen, and judge it."""
        bounded = patch.object(rules, "PROMOTED_SPOTS_MAX", self.promoted_spots_max)
        with self._logging(), processes.wired(self._transports, self.chances.new_id), bounded:
            try:
                self.loop.run_until_complete(self._happen())
                for error in self.loop.unseen_errors():
                    self.judge.say(0, "".join(traceback.format_exception(error)))
            finally:
                self.loop.end(self.processes)
            violations = self.judge.judge(self.promoted_spots_max)
        return Result(
            seed=self.seed,
            violations=violations,
            trace=self.chances.trace,
            commands=sum(len(self.database.rows("command", event_id)) for event_id in self.settings),
            faults=self.chances.happened,
        )

    async def _happen(self) -> None:
        """Start the processes, let the clients ask and faults happen, and wait until all is quiet."""
        self._make_events()
        for _ in range(self.dice.choice([1, 2, 2, 3])):
            self._start_worker()
        for _ in range(self.dice.choice([1, 2, 2])):
            self._start_api()
        await asyncio.sleep(_DIVIDED_SECONDS if self.calm else 0.3)
        self.chances.begin = self.loop.time()
        self.chances.end = self.loop.time() + BUSY_SECONDS
        self.chances.passing(BUSY_SECONDS)
        if self.calm:
            self.judge.calm_at = self.loop.time()
        for fault in sorted(self.chances.faulty.intersection(AT_TIMES)):
            for _ in range(self.dice.randint(1, 3)):
                self.chances.later(self.dice.uniform(0, BUSY_SECONDS), partial(self._break, fault))
        if not self.calm and self.dice.random() < 0.2:
            self.chances.later(self.dice.uniform(0, BUSY_SECONDS), self._start_worker)
        clients = Clients(self.chances, self.judge, self.apis, self._watch)
        asking = self.loop.spawn(clients.ask_all(self.loop, list(self.settings)), None)
        while self.loop.time() < self.chances.disturbed_until:  # noqa: ASYNC110 - faults prolong it
            await asyncio.sleep(self.chances.disturbed_until - self.loop.time() + 0.01)
        self.chances.tell("no fault from now on")
        self.judge.calm_at = min(self.judge.calm_at, self.loop.time())
        await asking
        await asyncio.sleep(_TICKS_AND_A_MOMENT)

    def _make_events(self) -> None:
        events = self.database.tables.setdefault(EVENTS, {})
        for event_id, settings in self.settings.items():
            values = {worlds.column(name): value for name, value in settings.items()}
            values["promotion_policy"] = Policy(values["promotion_policy"])
            events[event_id] = Event(id=event_id, settings=EventSettings(**values))

    def _start_worker(self) -> None:
        self._workers += 1
        self._start(Worker(self._transports, self._workers))

    def _start_api(self) -> None:
        api = Api(len(self.apis) + 1)
        self.apis.append(api)
        self._start(api)

    def _start(self, started: Worker | Api) -> None:
        self.processes.append(started.process)
        self.chances.tell(f"start {started.process.name}")
        self._watch(self.loop.spawn(started.run(), started.process))

    def _replace(self, process: Process) -> None:
        """Start another process in the place of one that was killed."""
        (self._start_worker if process.name.startswith("worker") else self._start_api)()

    def _watch(self, task: asyncio.Task[None]) -> None:
        """Let an error that no part of the service expects fail the history."""

        def look(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self.judge.say(0, "".join(traceback.format_exception(error)))

        task.add_done_callback(look)

    def _break(self, fault: str) -> None:
        if not self.chances.strikes(fault):
            return
        match fault:
            case "end a session":
                for pid in self.dice.sample(
                    sorted(self.database.backends), min(1, len(self.database.backends))
                ):
                    self.database.backends[pid].end()
            case "flush Redis":
                self.redis.flush()
            case "take Redis away":
                self.redis.take_away(self.dice.choice(["is away", "hangs"]))
                self.chances.later(self.dice.uniform(0.05, 1), lambda: self.redis.take_away(""))
            case _:
                self.database.stop()
                self.chances.later(self.dice.uniform(0.05, 1), self.database.start)

    def _committing(self, transaction: Transaction) -> None:
        for (table, event_id), rows in transaction.written.items():
            if table in ("command", "outcome", "key"):
                shown = " ".join(
                    f"{short(key)}{'' if row is not None else ' -'}" for key, row in rows.items()
                )
                pid = transaction.backend.pid
                self.chances.tell(f"session {pid} commits {table} {shown} of {short(event_id)}")
        self.judge.committing(transaction)

    @contextmanager
    def _logging(self) -> Iterator[None]:
        """Put the service's log into the trace."""

        def note(_: object, __: str, entry: EventDict) -> EventDict:
            error = entry.get("error") or entry.get("exc_info") or ""
            self.chances.tell(f"log: {entry['event']} {error!r}" if error else f"log: {entry['event']}")
            raise structlog.DropEvent

        kept = structlog.get_config()["processors"]
        before = list(kept)
        kept[:] = [note]
        try:
            yield
        finally:
            kept[:] = before
