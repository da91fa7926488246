"""The chances of a history: how long each step takes, and what goes wrong at it, all drawn from one seed."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Collection
from types import SimpleNamespace
from uuid import UUID

import psycopg

from tests.simulation.protocol import loop
from tests.simulation.protocol.loop import Loop, Process
from tests.simulation.protocol.memory.sessions import Session

AT_STEPS = {
    "kill a worker": 0.01,
    "stop a worker": 0.01,
    "kill an API process": 0.005,
    "stop an API process": 0.005,
    "lose a request": 0.02,
    "lose an answer": 0.05,
    "lose an answer early": 0.05,
    "cut a process off": 0.01,
    "lose messages": 0.5,
    "double messages": 0.5,
    "delay messages": 0.5,
    "refuse a commit": 0.3,
}
"""The faults that happen at a step, and at which share of the steps."""
AT_TIMES = ("end a session", "flush Redis", "take Redis away", "restart PostgreSQL")
"""The faults that happen at any time."""
OF_REDIS = ("lose messages", "double messages", "delay messages", "flush Redis", "take Redis away")
NOT_OF_THE_API = frozenset((*OF_REDIS, "kill a worker", "stop a worker"))
"""The faults that disturb neither an API process nor the way to the database."""
CLOCKS_APART = "set clocks apart"
FAULTS = (*AT_STEPS, *AT_TIMES, CLOCKS_APART)

_KINDS_MAX = 4
_SLOW = 0.03
_BORN = 1_800_000_000
_HOUR = 3_600
_STOPPED_SECONDS_MAX = 4
"""More than a request waits to be accepted."""
_SET_ASIDE_SECONDS = 1
"""A command that was refused alone waits so long at most before it is tried again."""


class NotSerialized(psycopg.errors.SerializationFailure):
    """The server's refusal of a transaction that it cannot serialize: it may succeed the next time."""

    diag = SimpleNamespace(  # type: ignore[assignment]  # an error of a server has more
        severity_nonlocalized="ERROR", message_primary="could not serialize access", constraint_name=None
    )


class Chances:
    """The random numbers of a history, and its trace."""

    def __init__(self, seed: int, world: Loop, faults: Collection[str] | None) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - reproducible, not secret
        drawn = self.dice.sample(FAULTS, self.dice.choice([0, 0, 1, 1, 2, _KINDS_MAX]))
        self.faulty = frozenset(drawn if faults is None else faults)
        self.happened: Counter[str] = Counter()
        self.trace: list[str] = []
        self.begin, self.end = 0.0, 0.0
        """Faults happen between these times."""
        self.disturbed_until = 0.0
        self.replace: Callable[[Process], None] = lambda _: None
        self._loop = world
        self._left = 3 + 2 * len(self.faulty)
        self._flush_seconds_max = self.dice.choice([0.002, 0.002, 0.04])
        self._cut_off: dict[Process | None, float] = {}

    def tell(self, what: str) -> None:
        """Add a line to the trace."""
        process = loop.current()
        self.trace.append(f"{self._loop.time():8.4f}  {process.name if process else '':9}  {what}")

    def new_id(self) -> UUID:
        """Stand for `ids.new_id`, on a clock that may be wrong."""
        ahead = _HOUR if CLOCKS_APART in self.faulty and self.dice.random() < 0.5 else 0
        milliseconds = int((_BORN + self._loop.time() + ahead) * 1_000)
        return UUID(int=milliseconds << 80 | 0x7 << 76 | 0x2 << 62 | self.dice.getrandbits(60))

    def strikes(self, fault: str) -> bool:
        """Return True if a fault happens at this occasion."""
        if fault not in self.faulty or self._left <= 0 or not self.begin < self._loop.time() < self.end:
            return False
        if fault in AT_STEPS and self.dice.random() >= AT_STEPS[fault]:
            return False
        self._left -= 1
        self.happened[fault] += 1
        self.tell(f"* {fault}")
        return True

    def passing(self, seconds: float) -> float:
        """Note that something is wrong for so long."""
        self.disturbed_until = max(self.disturbed_until, self._loop.time() + seconds)
        return seconds

    def later(self, seconds: float, happens: Callable[[], object]) -> None:
        """Let something happen in so many seconds, which is a step of no process."""
        self._loop.spawn(self._happens(self.passing(seconds), happens), None)

    async def _happens(self, seconds: float, happens: Callable[[], object]) -> None:
        await asyncio.sleep(seconds)
        happens()

    # --- steps

    def latency(self) -> float:
        """Return the seconds that a step takes; a few take far longer than the others."""
        usual = self.dice.uniform(0.0001, 0.002)
        return usual * 20 if self.dice.random() < _SLOW else usual

    async def moment(self) -> None:
        """Let a step of a process or a server take its time; the process may be killed or stopped at it."""
        process = loop.current()
        if process is not None and process.alive:
            self._strike(process)
        await asyncio.sleep(self.latency())

    async def flush(self) -> None:
        """Let a commit take its time; it may be refused, as one that PostgreSQL cannot serialize is."""
        await asyncio.sleep(self.dice.uniform(0, self._flush_seconds_max))
        if self.strikes("refuse a commit"):
            self.passing(_SET_ASIDE_SECONDS)
            raise NotSerialized

    def _strike(self, process: Process) -> None:
        kind = "a worker" if process.name.startswith("worker") else "an API process"
        if self.strikes(f"kill {kind}"):
            process.kill()
            self.later(self.dice.uniform(0.05, 1), lambda: self.replace(process))
        elif not process.stopped and self.strikes(f"stop {kind}"):
            process.stop()
            self.later(self.dice.uniform(0.05, _STOPPED_SECONDS_MAX), lambda: process.go_on(self._loop))

    # --- the network

    async def there(self, session: Session) -> None:
        """Carry a request to the database."""
        await self.moment()
        if self.strikes("lose a request") or self._cut_off.get(loop.current(), 0) > self._loop.time():
            _lose(session)

    def sent(self, session: Session) -> None:
        """Let the client give up while the database executes the request."""
        if self.strikes("lose an answer early"):
            _lose(session)

    async def back(self, session: Session) -> None:
        """Carry the answer back."""
        if self.strikes("cut a process off"):
            self._cut_off[loop.current()] = self._loop.time() + self.passing(self.dice.uniform(0.05, 1))
            _lose(session)
        if self.strikes("lose an answer"):
            _lose(session)
        await self.moment()

    def copies(self) -> int:
        """Return how often a message arrives."""
        if self.strikes("lose messages"):
            return 0
        return 3 if self.strikes("double messages") else 1

    def delay(self) -> float:
        """Return how long a message takes."""
        return self.dice.uniform(0.01, 1) if self.strikes("delay messages") else self.latency()


def _lose(session: Session) -> None:
    session.cut()
    raise psycopg.OperationalError("connection lost")
