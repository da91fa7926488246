"""A run: a drain, faults by seed under a workload of all commands, a drain again, and then the judge."""

import random
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from msgspec import Struct

from tests.chaos import backlog, recovery
from tests.chaos.erasures import Erasures
from tests.chaos.faults import table
from tests.chaos.faults.fault import Fault, Missed
from tests.chaos.judge import evidence, judge
from tests.chaos.judge.evidence import EventEvidence
from tests.chaos.judge.judge import Verdict
from tests.chaos.recovery import Struck
from tests.chaos.servers import OF_THE_WHEELS, Programs
from tests.chaos.service import HarnessError, Part, Service
from tests.chaos.workload import Workload

SETTLED_SECONDS_MAX = 45.0
"""After a fault all commands are decided within this time, or the run ends: deciding is stuck."""
PAUSE_SECONDS = 0.3
AT_ONCE = (1, 1, 1, 2, 3)
"""So many faults strike at once, drawn from this."""
ALL_UP_SHARE = 0.5
"""So often the next faults wait until all workers are back."""
RESUMES_SECONDS_MAX = 2 * 0.5
"""Two ticks."""
DRAIN_SHARE_MIN = 0.8
WARM_UP_PART = 10
"""A backlog of this part goes before the ones that are measured."""
BACKLOGS = 3


class Plan(Struct, frozen=True, kw_only=True):
    """A run ends after so many faults or so many minutes; `timed`: times are judged as well."""

    seed: int
    faults: int = 200
    minutes: float = 5.0
    per_second: float = 200.0
    timed: bool = True
    backlog: int = 20_000
    only: str = ""
    programs: Programs = OF_THE_WHEELS


class Result(Struct, kw_only=True):
    """All that a run found."""

    plan: Plan
    servers: str
    parts: frozenset[Part]
    struck: list[Struck]
    verdict: Verdict
    drained_before: float
    drained_after: float
    resumed_seconds: float
    seconds: float
    late: list[str]

    @property
    def passed(self) -> bool:
        return not (self.verdict.violations or (self.plan.timed and self.late))


def run(plan: Plan, folder: Path) -> Result:
    """Run in this folder, which keeps the servers' data and all logs."""
    began = time.monotonic()
    with Service(folder, programs=plan.programs) as service:
        backlog.drain(service, plan.backlog // WARM_UP_PART)
        before = _drained(service, plan)
        workload = Workload(service.url, service.key, plan.seed, plan.per_second)
        struck: list[Struck] = []
        try:
            workload.start()
            with Erasures(service, workload, plan.seed):
                found = [*strike_all(plan, service, workload, struck), *_not_ready(service)]
            workload.stop()
        except BaseException:
            workload.abandon()
            raise
        if left := service.wait_settled(service.last_seq(), SETTLED_SECONDS_MAX):
            found.append(f"unanswered: {left} commands are pending at the end")
        after = before if found else _drained(service, plan)
        history = workload.history
        ended = max((fault.ended for fault in struck), default=time.time())
        resumed = Struck(name="", target="", began=ended, ended=ended, since=ended, bar_seconds=0, alone=True)
        verdict = _judged(service, workload, struck, resumed)
        versions = service.versions()
    verdict.violations += found
    verdict.violations += [f"unexpected: {text}" for text in history.unexpected]
    late = [text for summary in recovery.summarise(struck) for text in summary.late]
    if resumed.recovery_seconds > RESUMES_SECONDS_MAX:
        late.append(
            f"after the last fault deciding resumed in {resumed.recovery_seconds:.2f} s, not two ticks"
        )
    if after < DRAIN_SHARE_MIN * before:
        late.append(f"a backlog drains at {after:,.0f}/s, before the faults at {before:,.0f}/s")
    return Result(
        plan=plan,
        servers=versions,
        parts=service.parts,
        struck=struck,
        verdict=verdict,
        drained_before=before,
        drained_after=after,
        resumed_seconds=resumed.recovery_seconds,
        seconds=time.monotonic() - began,
        late=late,
    )


def strike_all(plan: Plan, service: Service, workload: Workload, struck: list[Struck]) -> list[str]:
    """Strike and heal faults, a few at once, and add them to `struck`; return what went wrong meanwhile.

    Ends early where deciding does not go on.
    """
    chance = random.Random(f"{plan.seed} faults")  # noqa: S311 - a run must be repeatable
    deck = table.deck(service, workload, chance, plan.only)
    until = time.monotonic() + 60 * plan.minutes
    postponed: list[Fault] = []
    found: list[str] = []
    while len(struck) < plan.faults and time.monotonic() < until and not found:
        if chance.random() < ALL_UP_SHARE:
            found += _not_ready(service)
        count = min(chance.choice(AT_ONCE), plan.faults - len(struck))
        pause_seconds = chance.uniform(0.5, 1.5) * PAUSE_SECONDS
        faults = _drawn(deck, postponed, count)
        all_up = service.joined()
        now = time.time()
        for earlier in struck:
            earlier.until = min(earlier.until, now)
        struck += _strike(faults, all_up=all_up)
        names = ", ".join(fault.name for fault in faults)
        if left := service.wait_settled(service.last_seq(), SETTLED_SECONDS_MAX):
            found.append(f"stuck: {left} commands are not decided {SETTLED_SECONDS_MAX:g} s after {names}")
        found += [f"counter drift: event {id_} in a snapshot after {names}" for id_ in service.drifting()]
        time.sleep(pause_seconds)
    return found


def _not_ready(service: Service) -> list[str]:
    """Wait until all workers have joined and the service is ready; return a sentence if it never is."""
    try:
        service.wait_joined()
        service.wait_ready()
    except HarnessError as error:
        return [f"stuck: {str(error).splitlines()[0]}"]
    return []


def _drawn(deck: Iterator[Fault], postponed: list[Fault], count: int) -> list[Fault]:
    """Draw as many faults; one that touches a part that another one touches is postponed."""
    candidates = [*postponed, *islice(deck, count)]
    postponed.clear()
    drawn: list[Fault] = []
    for fault in candidates:
        apart = all(fault.parts.isdisjoint(other.parts) for other in drawn)
        (drawn if apart and len(drawn) < count else postponed).append(fault)
    return drawn


def _strike(faults: list[Fault], *, all_up: bool) -> list[Struck]:
    """Let the faults strike, one soon after the other, and heal each when its time is over."""
    struck: list[Struck] = []
    healing: list[tuple[float, Fault, Struck]] = []
    for fault in faults:
        began = time.time()
        try:
            fault.strike()
        except Missed:
            continue
        began = fault.struck_at or began
        done = Struck(
            name=fault.name,
            target=", ".join(sorted(fault.parts)),
            began=began,
            ended=began,
            since=began,
            bar_seconds=fault.bar_seconds,
            alone=all_up and len(faults) == 1,
        )
        struck.append(done)
        healing.append((time.monotonic() + fault.seconds, fault, done))
        time.sleep(fault.chance.uniform(0.0, 0.1))
    for due, fault, done in sorted(healing, key=lambda item: item[0]):
        time.sleep(max(due - time.monotonic(), 0))
        fault.heal()
        done.ended = time.time()
        if fault.recovers_from == "end":
            done.since = done.ended
        _say(f"{done.ended - done.began:5.1f} s  {fault.describe()}")
    return struck


def _drained(service: Service, plan: Plan) -> float:
    """Return the rate at which a backlog drains, the median of a few."""
    return statistics.median(backlog.drain(service, plan.backlog) for _ in range(BACKLOGS))


def _judged(service: Service, workload: Workload, struck: list[Struck], resumed: Struck) -> Verdict:
    history = workload.history
    backlog.add_to(history, service)
    by_since = sorted([*struck, resumed], key=lambda fault: fault.since)
    with service.session() as session:

        def events() -> Iterator[EventEvidence]:
            for event in evidence.read(session, history):
                recovery.add_event(by_since, event.commands)
                yield event

        return judge.judge(events())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - the progress of a run
