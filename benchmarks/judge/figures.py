"""The figures by which a version is judged, and how one turn measures each of them."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

import msgspec
import uvloop

from benchmarks import cpu, measure, plan, receipts
from benchmarks.judge.version import Events, Version
from benchmarks.load import runner
from benchmarks.load.load import Load
from benchmarks.measure import Watched
from benchmarks.processes import BenchmarkError

CLOSED_256, CLOSED_16, CLOSED_1, DRAIN, OPEN, EVENTS_1000 = FIGURES = (
    "closed-256",
    "closed-16",
    "closed-1",
    "drain",
    "open",
    "events-1000",
)
PER_SECOND, P50, P99 = "decided/s", "p50 ms", "p99 ms"
API_CPU, WORKER_CPU, POSTGRES_CPU = "API CPU µs", "worker CPU µs", "PostgreSQL CPU µs"
DRAIN_COMMANDS = 20_000
FILL_SECONDS = 1
IDLE = "idle"


class Measured(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One figure of one version in one turn.

    `values` are the figure's by name; processor time is microseconds per decision. The core shares are parts
    of one core, `others_share` is the part of the whole machine that other programs used. `unsent` and
    `late_p99_ms` are an open loop's, as in `benchmarks.load.load.LoadResult`.
    """

    values: dict[str, float]
    errors: int = 0
    unsent: int = 0
    late_p99_ms: float = 0.0
    generator_core_share: float = 0.0
    idle_core_share: float = 0.0
    others_share: float = 0.0
    violations: list[str]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn: the measured version, the idle version, and the seconds of the load."""

    version: Version
    idle: Version
    seconds: int
    open_per_second: float | None = None

    @property
    def groups(self) -> dict[str, Collection[int]]:
        """Return the processes whose processor time counts, by group."""
        return {**self.version.groups(), IDLE: self.idle.own_pids}


def _closed(turn: Turn, connections: int, events: int = 1) -> Measured:
    with turn.version.events(events) as made:
        load = measure.registrations(turn.version.url, made.values(), connections, turn.seconds)
        watched, violations = _watch(turn, made, load)
    result, used = watched.result, watched.used_us
    values = {
        PER_SECOND: result.per_second,
        P50: result.p50_ms,
        P99: result.p99_ms,
        **_cpu_us(used, max(result.answers, 1)),
    }
    return _measured(turn, watched, values, violations)


def _open(turn: Turn) -> Measured:
    assert turn.open_per_second is not None, "the closed loop is measured first"
    with turn.version.events(1) as made:
        load = measure.registrations(turn.version.url, made.values(), plan.MAIN_CONNECTIONS, turn.seconds)
        watched, violations = _watch(turn, made, load, turn.open_per_second)
    result, used = watched.result, watched.used_us
    values = {P50: result.p50_ms, P99: result.p99_ms, **_cpu_us(used, max(result.answers, 1))}
    return _measured(turn, watched, values, violations)


def _drain(turn: Turn) -> Measured:
    """Fill the ledger while the event's row is locked, then measure the workers deciding the backlog."""
    version = turn.version
    with version.events(1) as made:
        with version.rows_locked(made):
            accepted = _fill(turn, made)
            if version.pending(made) < accepted:
                raise BenchmarkError(f"{version.name} decided commands of an event whose row is locked")
            meter, begin = cpu.Meter(turn.groups), time.perf_counter()
        settled = version.wait_settled(made)
        seconds, (used, others_share) = time.perf_counter() - begin, meter.read()
        violations = version.violations(made, accepted)
        per_second = version.drained_per_second(made)
    costs = _cpu_us(used, accepted)
    del costs[API_CPU]
    return Measured(
        values={PER_SECOND: per_second, **costs},
        idle_core_share=used[IDLE] / (seconds * cpu.US_PER_SECOND),
        others_share=others_share,
        violations=[*violations, *([] if settled else ["the backlog was not decided in time"])],
    )


def _fill(turn: Turn, made: Events) -> int:
    """Have commands accepted until there are `DRAIN_COMMANDS`; return how many."""
    load = measure.registrations(turn.version.url, made.values(), plan.MAIN_CONNECTIONS, FILL_SECONDS)
    load = msgspec.structs.replace(load, headers=measure.RESPOND_ASYNC, expected=HTTPStatus.ACCEPTED)
    accepted = 0
    while accepted < DRAIN_COMMANDS:
        result = runner.run(load, turn.version.folder)
        if not result.answers or result.errors:
            raise BenchmarkError(
                f"{turn.version.name} accepted {result.answers}, with {result.errors} errors"
            )
        accepted += result.answers
    return accepted


def _watch(
    turn: Turn, made: Events, load: Load, per_second: float | None = None
) -> tuple[Watched, list[str]]:
    """Warm the version up, run the load, and check the answers and the tables."""
    version = turn.version
    uvloop.run(receipts.probe(load))
    warmed = runner.run(msgspec.structs.replace(load, seconds=plan.WARM_UP_SECONDS), version.folder)
    version.wait_settled(made)
    measured_load = load if per_second is None else measure.open_loop(load, per_second)
    watched = measure.watch(measured_load, turn.groups, version.folder, lambda: version.wait_settled(made))
    answered = 1 + warmed.answers + watched.result.answers
    return watched, [*measure.answers_wrong(watched), *version.violations(made, answered)]


def _cpu_us(used_us: Mapping[str, float], decisions: int) -> dict[str, float]:
    names = {API_CPU: cpu.API, WORKER_CPU: cpu.WORKER, POSTGRES_CPU: cpu.POSTGRES}
    return {name: used_us[group] / decisions for name, group in names.items()}


def _measured(turn: Turn, watched: Watched, values: dict[str, float], violations: list[str]) -> Measured:
    result = watched.result
    return Measured(
        values=values,
        errors=result.errors,
        unsent=result.unsent,
        late_p99_ms=result.late_p99_ms or 0.0,
        generator_core_share=result.cpu_us / (turn.seconds * cpu.US_PER_SECOND),
        idle_core_share=watched.used_us[IDLE] / (turn.seconds * cpu.US_PER_SECOND),
        others_share=watched.others_share,
        violations=violations,
    )


MEASURES: Mapping[str, Callable[[Turn], Measured]] = {
    CLOSED_256: partial(_closed, connections=plan.MAIN_CONNECTIONS),
    CLOSED_16: partial(_closed, connections=16),
    CLOSED_1: partial(_closed, connections=1),
    DRAIN: _drain,
    OPEN: _open,
    EVENTS_1000: partial(_closed, connections=plan.MAIN_CONNECTIONS, events=1_000),
}
"""How each figure is measured once; raises `BenchmarkError` if the version gives an unexpected answer."""
