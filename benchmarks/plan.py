"""The plan of a benchmark: its measurements, their order and their duration."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.processes import BenchmarkError

DECIDED, ACCEPTED, POLLED, REFUSED, AVAILABLE = SERVICE = (
    "admitone",
    "admitone-202",
    "admitone-polls",
    "admitone-409",
    "admitone-availability",
)
"""The service in five roles: it decides, gives receipts, answers polls of receipts, refuses when sold out,
and tells what is left."""
EMPTY, EMPTY_HERE, COUNT, LOCK, COUNTER = BASELINES = ("empty", "empty-here", "count", "lock", "counter")
"""`empty` on uvicorn as it comes and on the service's own server, and three other ways of registering."""
DECIDING = (COUNT, LOCK, COUNTER, DECIDED)
"""The contestants whose cost could grow with the rows and the events."""

CONNECTIONS = (1, 16, 64, 256, 1_000)
ROWS = (1_000, 100_000, 1_000_000)
EVENTS = (1, 10, 1_000)
CONNECTIONS_MAX, ROWS_MAX, EVENTS_MAX, SECONDS_MAX, ROUNDS_MAX = 10_000, 10_000_000, 10_000, 60, 20
MAIN_CONNECTIONS = 256
"""The connections at which rows and events are varied, and all contestants are compared."""
OPEN_LOOP_SHARE = 0.7
"""The open loop's rate, as a part of the decided/s of the closed loop."""
OPEN_LOOP_CONNECTIONS = 1_000
"""Enough for each arrival to find a free connection unless the service stalls."""
WARM_UP_SECONDS = 1
QUICK_SECONDS_ELSEWHERE = 1


@dataclass(frozen=True, order=True, slots=True)
class Point:
    """The connections of the load, the registrations in the tables, and the events they belong to."""

    connections: int
    rows: int
    events: int


@dataclass(frozen=True, slots=True)
class Trial:
    """One measurement of one contestant."""

    contestant: str
    point: Point
    round: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run; raises `BenchmarkError` for values out of range. `seconds` is the time of a main measurement.

    `drop` is the number of registrations of the drop in which memory is watched; with 0 there is no drop.
    """

    quick: bool
    connections: Sequence[int]
    rows: Sequence[int]
    events: Sequence[int]
    seconds: int
    rounds: int
    drain_rows: int
    drop: int
    workers: int = 2

    def __post_init__(self) -> None:
        for name, values, most in (
            ("connections", self.connections, CONNECTIONS_MAX),
            ("rows", self.rows, ROWS_MAX),
            ("events", self.events, EVENTS_MAX),
            ("seconds", [self.seconds], SECONDS_MAX),
            ("rounds", [self.rounds], ROUNDS_MAX),
        ):
            if not values or any(not 1 <= value <= most for value in values):
                raise BenchmarkError(f"{name} must be 1 to {most}")
        if not 0 <= self.drop <= ROWS_MAX:
            raise BenchmarkError(f"drop must be 0 to {ROWS_MAX}")

    @property
    def main(self) -> Point:
        """The point at which all contestants are compared."""
        at_once = MAIN_CONNECTIONS if MAIN_CONNECTIONS in self.connections else max(self.connections)
        return Point(at_once, self.rows[0], self.events[0])

    def seconds_at(self, point: Point) -> int:
        """Return the seconds of a measurement: a quick run takes its full time only at the main point."""
        return self.seconds if point == self.main or not self.quick else QUICK_SECONDS_ELSEWHERE

    def trials(self) -> Iterator[Trial]:
        """Yield every measurement: each round goes through all points, each point through its contestants."""
        for round_ in range(1, self.rounds + 1):
            for point, contestants in self._points():
                for contestant in contestants:
                    yield Trial(contestant, point, round_)

    def _points(self) -> Iterator[tuple[Point, Sequence[str]]]:
        main = self.main
        for connections in self.connections:
            everyone = connections == main.connections or not self.quick
            contestants = (*BASELINES, *SERVICE) if everyone else (EMPTY, COUNTER, DECIDED)
            yield Point(connections, main.rows, main.events), contestants
        for rows in self.rows[1:]:
            yield Point(main.connections, rows, main.events), DECIDING
        for events in self.events[1:]:
            yield Point(main.connections, main.rows, events), DECIDING


def numbers(text: str) -> list[int]:
    """Read `1,16,64`; raises `BenchmarkError`."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BenchmarkError(f"{text!r} is not a list of numbers, such as 1,16,64") from None


def plan(*, quick: bool = False, **options: str | int | None) -> Plan:
    """Return the plan of these options by the names of its fields; a text is numbers with commas between.

    An option that is left out or None is that of a full or a quick run.
    """
    asked: dict[str, Any] = {
        name: numbers(value) if isinstance(value, str) else value
        for name, value in options.items()
        if value is not None
    }
    return replace(QUICK if quick else FULL, **asked)


FULL = Plan(
    quick=False,
    connections=CONNECTIONS,
    rows=ROWS,
    events=EVENTS,
    seconds=5,
    rounds=3,
    drain_rows=100_000,
    drop=1_000_000,
)
QUICK = Plan(
    quick=True,
    connections=(1, MAIN_CONNECTIONS),
    rows=ROWS[:1],
    events=EVENTS[:1],
    seconds=2,
    rounds=1,
    drain_rows=10_000,
    drop=0,
)
