"""Scale: workers and API processes join and leave under load, each told to end as at a deployment.

One owner decides each event at any moment, no command waits long for a rebalance, nothing is lost, and no
request goes without an answer.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from msgspec import Struct

from shared.domain import ids
from shared.postgres import locks
from tests.chaos.judge import evidence, judge
from tests.chaos.scenarios import sampling, witness
from tests.chaos.scenarios.findings import Figure, Findings
from tests.chaos.servers import OF_THE_WHEELS, Programs
from tests.chaos.service import HarnessError, Service
from tests.chaos.workload import Workload

SETTLED_SECONDS_MAX = 45.0
MOVED_SECONDS_MAX = 60.0
SAMPLE_SECONDS = 0.02
WAIT_SECONDS_BAR = 1.0
"""No command waits longer for a decision while events move between workers."""

_OWNED = f"""
    SELECT count(DISTINCT objid), count(*), count(DISTINCT pid) FROM pg_locks
    WHERE locktype = 'advisory' AND classid::bigint = {locks.BUCKET} AND objsubid = 2 AND granted
"""
_WAITED = """
    SELECT coalesce(max(seconds), 0), coalesce(percentile_disc(0.99) WITHIN GROUP (ORDER BY seconds), 0)
    FROM (
        SELECT extract(epoch FROM settled_at - accepted_at)::float8 AS seconds
        FROM ledger WHERE settled_at >= to_timestamp(%s) AND accepted_at < to_timestamp(%s)
    ) AS waited
"""


class Step(Struct, kw_only=True):
    """A process that joined or left, until the next one; `moved_seconds` until every bucket had its owner."""

    name: str
    began: float
    ended: float = 0.0
    moved_seconds: float = 0.0


class Plan(Struct, frozen=True, kw_only=True):
    """`hold_seconds` is the time between two steps."""

    seed: int
    per_second: float = 300.0
    hold_seconds: float = 6.0
    timed: bool = True
    programs: Programs = OF_THE_WHEELS


class Owners:
    """The owners of all buckets, by their locks: each bucket has one owner, or none for a moment."""

    def __init__(self) -> None:
        self.samples = 0
        self.violations: list[str] = []
        self.unowned_seconds = 0.0
        """The longest time during which some bucket had no owner, after all had one."""
        self._complete = time.monotonic()

    def sample(self, session: "psycopg.Connection[tuple[Any, ...]]") -> None:
        """Look at the locks of this moment."""
        row = session.execute(_OWNED.encode()).fetchone()
        assert row is not None
        owned, owners, _ = row
        self.samples += 1
        if owned != owners:
            self.violations.append(f"owner: {owners} sessions have the locks of {owned} buckets")
        self.unowned_seconds = max(self.unowned_seconds, time.monotonic() - self._complete)
        if owned == ids.BUCKETS:
            self._complete = time.monotonic()


def run(plan: Plan, folder: Path) -> Findings:
    """Grow from one worker to four and shrink again, then likewise from one API process to two."""
    began = time.monotonic()
    steps: list[Step] = []
    with Service(folder, workers=1, api_processes=1, programs=plan.programs) as service:
        witness.install(service)
        workload = Workload(service.url, service.key, plan.seed, plan.per_second)
        try:
            workload.start()
            owners = Owners()
            with sampling.sampled(service, SAMPLE_SECONDS, owners.sample):
                _scale(service, plan, steps)
            workload.stop()
        except BaseException:
            workload.abandon()
            raise
        left = service.wait_settled(service.last_seq(), SETTLED_SECONDS_MAX)
        found = witness.testimony(service)
        waits = [service.query(_WAITED, step.began, step.ended)[0] for step in steps]
        with service.session() as session:
            verdict = judge.judge(evidence.read(session, workload.history))
        versions = service.versions()
    violations = [
        *verdict.violations,
        *found.violations,
        *owners.violations,
        *(f"unexpected: {text}" for text in workload.history.unexpected),
        *(f"unanswered request: {text}" for text in workload.history.lost),
    ]
    if left:
        violations.append(f"unanswered: {left} commands are pending at the end")
    figures = [
        Figure(name="operations", value=verdict.operations, unit=""),
        Figure(name="commands", value=verdict.commands, unit=""),
        Figure(name="workers that decided", value=len(found.batches), unit=""),
        Figure(name="batches", value=sum(found.batches.values()), unit=""),
        Figure(name="moves of an event to another worker", value=found.moves, unit=""),
        Figure(name="samples of the locks", value=owners.samples, unit=""),
        Figure(name="longest time with a bucket without an owner", value=owners.unowned_seconds, unit="s"),
    ]
    for step, (worst, p99) in zip(steps, waits, strict=True):
        figures += [
            Figure(name=f"{step.name}: all buckets owned after", value=step.moved_seconds, unit="s"),
            Figure(name=f"{step.name}: p99 of the waits for a decision", value=p99, unit="s"),
            Figure(name=f"{step.name}: longest wait", value=worst, unit="s", most=WAIT_SECONDS_BAR),
        ]
    return Findings(
        scenario="scale",
        seed=plan.seed,
        timed=plan.timed,
        servers=versions,
        seconds=time.monotonic() - began,
        figures=figures,
        violations=violations,
    )


def _scale(service: Service, plan: Plan, steps: list[Step]) -> None:
    """Let processes join one by one; those that leave are the oldest, which have most to hand over."""

    @contextmanager
    def step(name: str) -> Iterator[None]:
        made = Step(name=name, began=time.time())
        yield
        _wait_moved(service)
        made.moved_seconds = time.time() - made.began
        time.sleep(plan.hold_seconds)
        made.ended = time.time()
        steps.append(made)

    for number in (2, 3, 4):
        with step(f"worker {number} joins"):
            service.add(f"worker-{number}")
            service.wait_joined()
    with step("API process 2 joins"):
        service.add("api-2")
    with step("API process 1 leaves"):
        service.end("api-1")
    for number in (1, 2, 3):
        with step(f"worker {number} leaves"):
            service.end(f"worker-{number}")


def _wait_moved(service: Service) -> None:
    """Return once all workers together own every bucket."""
    until = time.monotonic() + MOVED_SECONDS_MAX
    while service.query(_OWNED)[0] != (ids.BUCKETS, ids.BUCKETS, len(service.workers)):
        if time.monotonic() > until:
            raise HarnessError(f"buckets have no owner{service.last_words()}")
        time.sleep(SAMPLE_SECONDS)
