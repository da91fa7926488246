"""The report of a run: medians of its rounds, and ratios within its rounds.

A ratio is taken within each round, between measurements that followed each other, and the report has the
median of the rounds' ratios: another program that slows the machine for a minute slows both measurements.
"""

from collections.abc import Callable, Iterable, Mapping
from statistics import median

import msgspec

from benchmarks import cpu, plan
from benchmarks.bulk import DRAIN, LIMIT, Bulk
from benchmarks.drop import Drop
from benchmarks.measure import Measurement
from benchmarks.plan import Plan, Point

SERVER_GROUPS = (cpu.API, cpu.WORKER, cpu.POSTGRES, cpu.VALKEY)
Figure = Callable[[Measurement], float]
FIGURES: Mapping[str, Figure] = {
    "perSecond": lambda m: m.per_second,
    "p50Ms": lambda m: m.p50_ms,
    "p95Ms": lambda m: m.p95_ms,
    "p99Ms": lambda m: m.p99_ms,
    "cpuUs": lambda m: sum(m.cpu_us.get(group, 0.0) for group in SERVER_GROUPS),
    "apiCpuUs": lambda m: m.cpu_us[cpu.API],
    "workerCpuUs": lambda m: m.cpu_us[cpu.WORKER],
    "postgresCpuUs": lambda m: m.cpu_us[cpu.POSTGRES],
}
_TIMES = ("per_second", "p50_ms", "p95_ms", "p99_ms")
_RATE, _P50, _P99, _CPU, _API_CPU = "perSecond", "p50Ms", "p99Ms", "cpuUs", "apiCpuUs"


class Line(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One contestant at one point: medians of the rounds, and each figure's ratios to two other contestants.

    `errors` is the sum, `oversold` and `others_share` the most of the rounds. `generator_share` is the
    generator's part of all processor time. A ratio is null where the other was not measured.
    """

    contestant: str
    connections: int
    rows: int
    events: int
    per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    errors: int
    oversold: int
    cpu_us: dict[str, float]
    generator_share: float
    others_share: float
    to_empty: dict[str, float | None]
    to_counter: dict[str, float | None]


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One ratio of the summary; null if the run did not measure it."""

    name: str
    ratio: float | None


class OpenLoop(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The service under arrivals at a fixed rate; times count from when each should have been sent.

    `generator_core_share` is the part of a core that the generator needed to send at that rate.
    """

    asked_per_second: float
    generator_core_share: float
    measured: Measurement


class Report(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Everything about one run. `violations` name what was wrong; with any of them its figures are void.

    `others_share_max` is the largest part of the machine that others used during a measurement.
    """

    machine: dict[str, str]
    durability: dict[str, str]
    seconds: int
    rounds: int
    lines: list[Line]
    bulk: dict[str, float]
    bulk_cpu_us: dict[str, dict[str, float]]
    open_loop: OpenLoop
    drop: Drop | None
    summary: list[Compared]
    others_share_max: float
    violations: list[str]


class Results:
    """All measurements of a run, by contestant, point and round."""

    def __init__(self, measured: Iterable[Measurement], bulk: Iterable[Bulk]) -> None:
        self.by_place: dict[tuple[str, Point], dict[int, Measurement]] = {}
        for measurement in measured:
            point = Point(measurement.connections, measurement.rows, measurement.events)
            self.by_place.setdefault((measurement.contestant, point), {})[measurement.round] = measurement
        self.bulk: dict[str, dict[int, Bulk]] = {}
        for each in bulk:
            self.bulk.setdefault(each.name, {})[each.round] = each

    def ratio(
        self, figure: str, upper: tuple[str, Point], lower: tuple[str, Point], of_lower: str | None = None
    ) -> float | None:
        """Return the median over the rounds of a figure at `upper` over that, or another one, at `lower`."""
        above, below = FIGURES[figure], FIGURES[of_lower or figure]
        return _ratio(
            {round_: above(m) for round_, m in self.by_place.get(upper, {}).items()},
            {round_: below(m) for round_, m in self.by_place.get(lower, {}).items()},
        )

    def bulk_ratio(self, upper: str, lower: str) -> float | None:
        """Return the median over the rounds of the rate of `upper` over that of `lower`."""
        above, below = self.bulk.get(upper, {}), self.bulk.get(lower, {})
        return _ratio(
            {r: b.per_second for r, b in above.items()}, {r: b.per_second for r, b in below.items()}
        )

    def lines(self) -> list[Line]:
        """Return a line for each contestant at each point, in the order in which they were measured."""
        return [self._line(contestant, point) for contestant, point in self.by_place]

    def decided_per_second(self, place: Point) -> float:
        """Return the service's median rate of decisions."""
        return median(m.per_second for m in self.by_place[plan.DECIDED, place].values())

    def others_share_max(self) -> float:
        """Return the largest part of the machine that others used during a measurement."""
        return max(m.others_share for rounds in self.by_place.values() for m in rounds.values())

    def _line(self, contestant: str, point: Point) -> Line:
        rounds = list(self.by_place[contestant, point].values())
        cpu_us = {group: median(m.cpu_us[group] for m in rounds) for group in rounds[0].cpu_us}
        # Nothing of `empty` depends on rows or events: it is measured once for all of them.
        base = next(
            (p for c, p in self.by_place if c == plan.EMPTY and p.connections == point.connections), point
        )
        here = contestant, point
        return Line(
            contestant=contestant,
            connections=point.connections,
            rows=point.rows,
            events=point.events,
            **{name: median(getattr(m, name) for m in rounds) for name in _TIMES},
            errors=sum(m.errors for m in rounds),
            oversold=max(m.oversold for m in rounds),
            cpu_us=cpu_us,
            generator_share=cpu_us[cpu.GENERATOR] / (sum(cpu_us.values()) or 1),
            others_share=max(m.others_share for m in rounds),
            to_empty={figure: self.ratio(figure, here, (plan.EMPTY, base)) for figure in FIGURES},
            to_counter={figure: self.ratio(figure, here, (plan.COUNTER, point)) for figure in FIGURES},
        )


def summary(results: Results, wanted: Plan) -> list[Compared]:
    """Return the ratios that compare the cost of a decision with the other contestants'."""
    main = wanted.main
    alone = Point(1, main.rows, main.events)
    rows = max(wanted.rows) if len(wanted.rows) > 1 else plan.ROWS[-1]
    events = max(wanted.events) if len(wanted.events) > 1 else plan.EVENTS[-1]
    decided, counter, empty = ((name, main) for name in (plan.DECIDED, plan.COUNTER, plan.EMPTY))
    wide = (plan.DECIDED, Point(main.connections, rows, main.events))
    spread = (plan.DECIDED, Point(main.connections, main.rows, events))
    ratios = {
        "decided/s over empty": results.ratio(_RATE, decided, empty),
        "decided/s over counter": results.ratio(_RATE, decided, counter),
        "p99 over counter's": results.ratio(_P99, decided, counter),
        "decided/s over lock": results.ratio(_RATE, decided, (plan.LOCK, main)),
        "one client's p50 over counter's": results.ratio(_P50, (plan.DECIDED, alone), (plan.COUNTER, alone)),
        "drain over limit": results.bulk_ratio(DRAIN, LIMIT),
        "accepted/s over empty": results.ratio(_RATE, (plan.ACCEPTED, main), empty),
        "status polls/s over empty": results.ratio(_RATE, (plan.POLLED, main), empty),
        "sold-out refusals/s over empty": results.ratio(_RATE, (plan.REFUSED, main), empty),
        "availability reads/s over empty": results.ratio(_RATE, (plan.AVAILABLE, main), empty),
        f"decision cost at {rows:,} rows over {main.rows:,}": results.ratio(_CPU, wide, decided),
        f"decided/s over {events:,} events over {main.events:,}": results.ratio(_RATE, spread, decided),
        "API CPU over empty's CPU": results.ratio(_API_CPU, decided, empty),
        "worker CPU over empty's CPU": results.ratio("workerCpuUs", decided, empty, _API_CPU),
    }
    return [Compared(name=name, ratio=ratio) for name, ratio in ratios.items()]


def bulk_medians(results: Results) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the median rate of each bulk run, and its processor time per registration by group."""
    rates = {name: median(b.per_second for b in rounds.values()) for name, rounds in results.bulk.items()}
    used = {
        name: {group: median(b.cpu_us[group] for b in rounds.values()) for group in rounds[1].cpu_us}
        for name, rounds in results.bulk.items()
    }
    return rates, used


def _ratio(above: Mapping[int, float], below: Mapping[int, float]) -> float | None:
    ratios = [above[r] / below[r] for r in above.keys() & below.keys() if below[r]]
    return median(ratios) if ratios else None
