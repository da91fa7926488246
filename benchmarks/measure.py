"""Measures one contestant once: fresh tables, a warm-up, the load, then a check of the answers."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import msgspec
import uvloop

from benchmarks import checking, cpu, plan, preload, receipts
from benchmarks.arena import Arena
from benchmarks.checking import CheckResult
from benchmarks.load import runner
from benchmarks.load.load import Answers, Load, LoadResult
from benchmarks.plan import Point, Trial

BODY = '{"name":"User A","spotsCount":1}'
HEADERS = {"content-type": "application/json"}
RESPOND_ASYNC = {**HEADERS, "prefer": "respond-async"}
DECISION_WAIT_MS = 5_000
"""The service's wait for a decision, after which its answer is 202 instead of 201."""


class Measurement(Answers, frozen=True, kw_only=True, rename="camel"):
    """The figures of one contestant at one point in one round.

    `cpu_us` is microseconds of processor time per answer, by group of processes. `oversold` counts confirmed
    spots beyond capacity, over the whole measurement. `others_share` is the part of the machine that other
    programs used at the time.
    """

    contestant: str
    connections: int
    rows: int
    events: int
    round: int
    per_second: float
    oversold: int
    cpu_us: dict[str, float]
    others_share: float
    violations: list[str]


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The start of a measurement: the load to run, and the check of the tables after it.

    `check` gets the number of all answers.
    """

    load: Load
    check: Callable[[int], CheckResult]


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A load, with the processor time in microseconds that each group used for it."""

    result: LoadResult
    used_us: dict[str, float]
    others_share: float
    settled: bool


def measure(arena: Arena, trial: Trial, seconds: int, per_second: float | None = None) -> Measurement:
    """Measure one contestant for `seconds`; with `per_second`, in an open loop of that rate."""
    ground = ground_of(arena, trial)
    warmed = runner.run(msgspec.structs.replace(ground.load, seconds=plan.WARM_UP_SECONDS), arena.folder)
    arena.wait_settled()
    load = msgspec.structs.replace(ground.load, seconds=seconds)
    if per_second is not None:
        load = open_loop(load, per_second)
    watched = watch(load, arena.groups(trial.contestant), arena.folder, arena.wait_settled)
    arena.calm(trial.contestant)
    checked = ground.check(warmed.answers + watched.result.answers)
    return _measurement(trial, watched, checked)


def open_loop(load: Load, per_second: float) -> Load:
    """Return the same requests as arrivals at that rate."""
    return msgspec.structs.replace(load, per_second=per_second, connections=plan.OPEN_LOOP_CONNECTIONS)


def watch(
    load: Load, groups: Mapping[str, Collection[int]], folder: Path, wait_settled: Callable[[], bool]
) -> Watched:
    """Run the load, and count processor time until all its commands are decided."""
    meter = cpu.Meter(groups)
    result = runner.run(load, folder)
    settled = wait_settled()  # a contestant that accepts quickly pays for deciding too
    used, others_share = meter.read(result.cpu_us)
    return Watched(
        result=result,
        used_us={**used, cpu.GENERATOR: result.cpu_us},
        others_share=others_share,
        settled=settled,
    )


def _measurement(trial: Trial, watched: Watched, checked: CheckResult) -> Measurement:
    result = watched.result
    return Measurement(
        contestant=trial.contestant,
        connections=trial.point.connections,
        rows=trial.point.rows,
        events=trial.point.events,
        round=trial.round,
        **{name: getattr(result, name) for name in Answers.__struct_fields__},
        per_second=result.per_second,
        oversold=checked.oversold,
        cpu_us={name: us / max(result.answers, 1) for name, us in watched.used_us.items()},
        others_share=watched.others_share,
        violations=[
            *(answers_wrong(watched) if trial.contestant in plan.SERVICE else []),
            *checked.violations,
        ],
    )


def answers_wrong(watched: Watched) -> list[str]:
    """Return a sentence for each fault of the service's answers as a whole."""
    result = watched.result
    wrong = [] if watched.settled else ["accepted registrations stay undecided"]
    if result.errors:
        wrong.append(f"{result.errors} of the answers were errors")
    if result.max_ms >= DECISION_WAIT_MS and result.late_p99_ms is None:  # an open loop counts from earlier
        wrong.append(f"an answer took {result.max_ms:.0f} ms: it may not have been a decision")
    return wrong


def ground_of(arena: Arena, trial: Trial) -> Ground:
    """Fill the tables for a contestant, and check one answer of it."""
    point = trial.point
    if trial.contestant in plan.BASELINES:
        events = preload.baseline(arena, events=point.events, rows=point.rows)
        url = arena.baselines[trial.contestant].url
        load = registrations(url, events.values(), point.connections)
        ground = Ground(load=load, check=lambda _answers: checking.baseline(arena))
    else:
        ground = _service_ground(arena, trial.contestant, point)
    uvloop.run(receipts.probe(ground.load))
    return ground


def _service_ground(arena: Arena, contestant: str, point: Point) -> Ground:
    share = point.rows // point.events
    sold_out = contestant == plan.REFUSED
    events = preload.service(
        arena,
        events=point.events,
        rows=point.rows,
        spots_left=0 if sold_out else preload.SPOTS_LEFT,
        waitlist=not sold_out,
    )
    slugs, url = list(events.values()), arena.api.url
    recorded = contestant in {plan.DECIDED, plan.ACCEPTED}  # the others' answers need no command

    def check(answers: int) -> CheckResult:
        return checking.service(arena, preloaded=share * point.events, answered=answers if recorded else 0)

    load = registrations(url, slugs, point.connections)
    if contestant == plan.POLLED:
        load = uvloop.run(receipts.polls(load))
    elif contestant == plan.REFUSED:
        load = msgspec.structs.replace(load, expected=HTTPStatus.CONFLICT)
    elif contestant == plan.ACCEPTED:
        load = msgspec.structs.replace(load, headers=RESPOND_ASYNC, expected=HTTPStatus.ACCEPTED)
    elif contestant == plan.AVAILABLE:
        paths = [f"/api/p/{slug}" for slug in slugs]
        reading = {"method": "GET", "paths": paths, "headers": {}, "body": "", "expected": HTTPStatus.OK}
        load = msgspec.structs.replace(load, **reading)
    return Ground(load=load, check=check)


def registrations(
    url: str, slugs: Iterable[str], connections: int, seconds: int = plan.WARM_UP_SECONDS
) -> Load:
    """Return registrations for all these events in turn."""
    return Load(
        url=url,
        method="POST",
        paths=[f"/api/p/{slug}/register" for slug in slugs],
        headers=HEADERS,
        body=BODY,
        expected=HTTPStatus.CREATED,
        connections=connections,
        seconds=seconds,
    )
