"""What a benchmark measures, in which order, and for how long."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

from benchmarks.processes import BenchmarkError

DECIDED, ACCEPTED, POLLED, REFUSED = SERVICE = ("admitone", "admitone-202", "admitone-polls", "admitone-409")
"""The service, asked for decisions, for receipts, for what became of one, and when it is sold out."""
EMPTY, COUNT, LOCK, COUNTER = BASELINES = ("empty", "count", "lock", "counter")
DECIDING = (COUNT, LOCK, COUNTER, DECIDED)
"""Whose cost could grow with what there is."""

CONNECTIONS = (1, 16, 64, 256, 1_000)
ROWS = (1_000, 100_000, 1_000_000)
EVENTS = (1, 10, 1_000)
CONNECTIONS_MAX, ROWS_MAX, EVENTS_MAX, SECONDS_MAX, ROUNDS_MAX = 10_000, 10_000_000, 10_000, 60, 20
MAIN_CONNECTIONS = 256
"""Where rows and events are varied, and all is compared."""
OPEN_LOOP_SHARE = 0.7
"""Of the decided/s that the closed loop measured."""
OPEN_LOOP_CONNECTIONS = 1_000
"""So many that an arrival finds one free unless the service stalls."""
WARM_UP_SECONDS = 1
QUICK_SECONDS_ELSEWHERE = 1


@dataclass(frozen=True, order=True, slots=True)
class Point:
    """So many connections ask for so many events that have so many registrations together."""

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
    """One run; refuses what makes no sense. `seconds` is the time of each measurement that counts most.

    `drop` is how many registrations the drop has in which memory is watched; with none there is no drop.
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
        """Return how long to measure there: a quick run takes its time only where all are compared."""
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
            everybody = (*BASELINES, *SERVICE) if connections == main.connections or not self.quick else ()
            yield Point(connections, main.rows, main.events), everybody or (EMPTY, COUNTER, DECIDED)
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


class Options(TypedDict, total=False):
    """What a run is asked for on the command line; lists are numbers with commas between."""

    quick: bool
    connections: str | None
    rows: str | None
    events: str | None
    seconds: int | None
    rounds: int | None
    drop: int | None


def plan(  # noqa: PLR0913 - one parameter for each option
    *,
    quick: bool = False,
    connections: str | None = None,
    rows: str | None = None,
    events: str | None = None,
    seconds: int | None = None,
    rounds: int | None = None,
    drop: int | None = None,
) -> Plan:
    """Return the plan that the options ask for; what is not given is that of a full or a quick run."""
    some = QUICK if quick else FULL
    return Plan(
        quick=quick,
        connections=numbers(connections) if connections else some.connections,
        rows=numbers(rows) if rows else some.rows,
        events=numbers(events) if events else some.events,
        seconds=some.seconds if seconds is None else seconds,
        rounds=some.rounds if rounds is None else rounds,
        drain_rows=some.drain_rows,
        drop=some.drop if drop is None else drop,
    )


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
