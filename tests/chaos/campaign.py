"""A run: a drain, faults by seed under a workload of all commands, a drain again, and then the judge."""

import random
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from msgspec import Struct

from tests.chaos import backlog, recovery
from tests.chaos.erasures import Erasures
from tests.chaos.faults import table
from tests.chaos.faults.fault import SILENCE_SECONDS, Fault, Missed
from tests.chaos.faults.processes import WORKER_KILLED_SECONDS_MAX
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
SALVOS = (1, 1, 1, 8, 16)
"""The size of a salvo is drawn from this; a single fault strikes when all workers are back."""
POSTPONED_MAX = 8
"""So many faults that have to wait for their parts are passed by, at most."""
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
    salvos: list[Struck]
    verdict: Verdict
    commands_of_backlogs: int
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
    with ThreadPoolExecutor() as threads, Service(folder, programs=plan.programs) as service:
        backlog.drain(service, plan.backlog // WARM_UP_PART)
        before = _drained(service, plan)
        workload = Workload(service.url, service.key, plan.seed, plan.per_second)
        struck: list[Struck] = []
        salvos: list[Struck] = []
        try:
            workload.start()
            with Erasures(service, workload, plan.seed):
                found = [
                    *strike_all(plan, service, workload, threads=threads, struck=struck, salvos=salvos),
                    *_not_ready(service),
                ]
            workload.stop()
        except BaseException:
            workload.abandon()
            raise
        if left := service.wait_settled(service.last_seq(), SETTLED_SECONDS_MAX):
            found.append(f"unanswered: {left} commands are pending at the end")
        after = before if found else _drained(service, plan)
        history = workload.history
        ended = max((fault.ended for fault in [*struck, *salvos]), default=time.time())
        resumed = Struck(name="", target="", began=ended, ended=ended, since=ended, bar_seconds=0, alone=True)
        verdict = _judged(service, workload, [*struck, *salvos, resumed])
        versions = service.versions()
    verdict.violations += found
    verdict.violations += [f"unexpected: {text}" for text in history.unexpected]
    late = [text for summary in recovery.summarise([*struck, *salvos]) for text in summary.late]
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
        salvos=salvos,
        verdict=verdict,
        commands_of_backlogs=sum(o.attempts for o in history.operations if o.mark == backlog.MARK),
        drained_before=before,
        drained_after=after,
        resumed_seconds=resumed.recovery_seconds,
        seconds=time.monotonic() - began,
        late=late,
    )


def strike_all(  # noqa: PLR0913 - all that a run has
    plan: Plan,
    service: Service,
    workload: Workload,
    *,
    threads: ThreadPoolExecutor,
    struck: list[Struck],
    salvos: list[Struck],
) -> list[str]:
    """Strike and heal faults, a salvo at a time, and add them to `struck`; return what went wrong meanwhile.

    `salvos` gets the end of each salvo of several, as a fault of its own. Ends early where deciding does not
    go on. The threads live as long as the service: a program ends with the thread that started it.
    """
    chance = random.Random(f"{plan.seed} faults")  # noqa: S311 - a run must be repeatable
    deck = table.deck(service, workload, chance, plan.only)
    until = time.monotonic() + 60 * plan.minutes
    postponed: deque[Fault] = deque()
    found: list[str] = []
    while len(struck) < plan.faults and time.monotonic() < until and not found:
        count = min(chance.choice(SALVOS), plan.faults - len(struck))
        pause_seconds = chance.uniform(0.5, 1.5) * PAUSE_SECONDS
        if count == 1:
            found += _not_ready(service)
        salvo = _strike(threads, deck, postponed, count, until)
        struck += salvo
        names = ", ".join(fault.name for fault in salvo)
        if len(salvo) > 1:
            found += _no_worker(service)
            salvos.append(_end_of(salvo))
        time.sleep(pause_seconds)
        now = time.time()
        for fault in (*salvo, *salvos[-1:]):
            fault.until = min(fault.until, now)
        if left := service.wait_settled(service.last_seq(), SETTLED_SECONDS_MAX):
            found.append(f"stuck: {left} commands are not decided {SETTLED_SECONDS_MAX:g} s after {names}")
        found += [f"counter drift: event {id_} in a snapshot after {names}" for id_ in service.drifting()]
    return found


def _not_ready(service: Service) -> list[str]:
    """Wait until all workers have joined and the service is ready; return a sentence if it never is."""
    try:
        service.wait_joined()
        service.wait_ready()
    except HarnessError as error:
        return [f"stuck: {str(error).splitlines()[0]}"]
    return []


def _no_worker(service: Service) -> list[str]:
    """Wait until a worker has joined; return a sentence if none ever does."""
    try:
        service.wait_joined(workers_min=1)
    except HarnessError as error:
        return [f"stuck: {str(error).splitlines()[0]}"]
    return []


def _strike(
    threads: ThreadPoolExecutor, deck: Iterator[Fault], postponed: deque[Fault], count: int, until: float
) -> list[Struck]:
    """Let a salvo strike: each fault as soon as no other one touches its parts; return those that struck.

    Each fault strikes and is healed on a thread of its own, so a long one holds up those of its parts only.
    """
    struck: list[Struck] = []
    striking: dict[Future[Struck | None], Fault] = {}
    alone = count == 1
    try:
        while striking or (count and time.monotonic() < until):
            fault = _next(deck, postponed, list(striking.values())) if count else None
            if fault is not None:
                count -= 1
                striking[threads.submit(_strike_one, fault, alone=alone)] = fault
                time.sleep(fault.chance.uniform(0.0, 0.1))
                continue
            for done in wait(striking, return_when=FIRST_COMPLETED).done:
                del striking[done]
                if (found := done.result()) is not None:
                    struck.append(found)
    finally:
        wait(striking)  # else a fault is healed after the service has ended
    return struck


def _next(deck: Iterator[Fault], postponed: deque[Fault], striking: list[Fault]) -> Fault | None:
    """Return the next fault that touches no part of those that strike now; None if they have to end first."""
    for fault in postponed:
        if fault.is_apart_from(striking):
            postponed.remove(fault)
            return fault
    while len(postponed) < POSTPONED_MAX:
        fault = next(deck)
        if fault.is_apart_from(striking):
            return fault
        postponed.append(fault)
    return None


def _strike_one(fault: Fault, *, alone: bool) -> Struck | None:
    """Let a fault strike, and heal it when its time is over; return None if it did not strike."""
    began = time.time()
    try:
        fault.strike()
    except Missed:
        return None
    time.sleep(fault.seconds)
    fault.heal()
    began, ended = fault.struck_at or began, time.time()
    _say(f"{ended - began:5.1f} s  {fault.describe()}")
    return Struck(
        name=fault.name,
        target=", ".join(sorted(fault.parts)),
        began=began,
        ended=ended,
        since=ended if fault.recovers_from == "end" else began,
        bar_seconds=fault.bar_seconds,
        alone=alone,
    )


def _end_of(salvo: list[Struck]) -> Struck:
    """Return the end of a salvo, from which deciding goes on within the longest bar of its faults.

    It is judged like a fault that was alone. A worker has joined by now: without one nothing is decided. A
    bar that allows for the silence of a worker is not counted, because that silence is over.
    """
    now = time.time()
    bar_seconds = max(
        (fault.bar_seconds for fault in salvo if fault.bar_seconds < SILENCE_SECONDS),
        default=WORKER_KILLED_SECONDS_MAX,
    )
    return Struck(
        name=f"several at once, within {bar_seconds:g} s",
        target=", ".join(fault.name for fault in salvo),
        began=min(fault.began for fault in salvo),
        ended=now,
        since=now,
        bar_seconds=bar_seconds,
        alone=True,
    )


def _drained(service: Service, plan: Plan) -> float:
    """Return the rate at which a backlog drains, the median of a few."""
    return statistics.median(backlog.drain(service, plan.backlog) for _ in range(BACKLOGS))


def _judged(service: Service, workload: Workload, struck: list[Struck]) -> Verdict:
    history = workload.history
    backlog.add_to(history, service)
    by_since = sorted(struck, key=lambda fault: fault.since)
    with service.session() as session:

        def events() -> Iterator[EventEvidence]:
            for event in evidence.read(session, history):
                recovery.add_event(by_since, event.commands)
                yield event

        return judge.judge(events())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - the progress of a run
