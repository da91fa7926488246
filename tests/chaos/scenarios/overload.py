"""Overload: ten times what is sustainable, and ten thousand clients that wait for their outcomes.

The bounds hold, the service goes on deciding at its rate, everything accepted is decided and told, and soon
after the crowd has gone an answer comes as fast as before.
"""

import time
from pathlib import Path

import httpx2
import msgspec
from msgspec import Struct

from tests.chaos.scenarios import ballast, crowd, excess, pressure
from tests.chaos.scenarios.crowd import Crowd
from tests.chaos.scenarios.findings import Figure, Findings
from tests.chaos.servers import OF_THE_WHEELS, Programs
from tests.chaos.service import Service

SUSTAINED_CONNECTIONS = 256
CROWD_PROCESSES = 2
POLLED_SHARE_BAR = 0.8

_ROOM = {"ADMITONE_CLIENT_CONNECTIONS_MAX": "12000"}
"""Room for all clients in one API process."""
_ADD_PENDING = """
    WITH accepted AS (
        INSERT INTO command (event_id, id, kind, payload, actor)
        SELECT %s::uuid, gen_random_uuid(), 'register', '{"name": "Waits", "spotsCount": 1}', 'public'
        FROM generate_series(1, %s)
        RETURNING event_id, seq, id
    ), pending AS (
        INSERT INTO pending_command (event_id, seq, command_id) SELECT * FROM accepted
    )
    SELECT id::text FROM accepted
"""


class Plan(Struct, frozen=True, kw_only=True):
    """`measured_seconds` for each rate, and `seconds` of each overload.

    The crowd has so many `connections`. Each of the `pollers` asks again and again, and each question waits
    for `poll_seconds`; without pollers that part is left out.
    """

    seed: int = 0
    seconds: float = 60.0
    measured_seconds: float = 10.0
    connections: int = pressure.RATE_FACTOR * SUSTAINED_CONNECTIONS
    pollers: int = 10_000
    poll_seconds: int = 30
    timed: bool = True
    programs: Programs = OF_THE_WHEELS


def run(plan: Plan, folder: Path) -> Findings:
    """Measure what is sustainable, offer ten times as much, and let clients wait while others register.

    At last ten times as much is sent to a service that decides slowly.
    """
    began = time.monotonic()
    violations: list[str] = []
    figures: list[Figure] = []
    with Service(folder, settings=_ROOM, programs=plan.programs) as service:
        service.wait_joined()
        sustained = pressure.sustained(service, SUSTAINED_CONNECTIONS, plan.measured_seconds)
        pressure.rate(service, sustained)  # warms up
        _, peak = pressure.rate(service, sustained)
        figures.append(Figure(name="sustainable rate", value=peak, unit="decisions/s"))
        if plan.pollers:
            figures += _polled(service, plan, sustained, violations)
        figures += _overloaded(service, plan, sustained, peak, violations)
        versions = service.versions()
    more_figures, more_violations = excess.measure(
        folder / "slow", plan.programs, plan.measured_seconds, plan.seconds
    )
    return Findings(
        scenario="overload",
        seed=plan.seed,
        timed=plan.timed,
        servers=versions,
        seconds=time.monotonic() - began,
        figures=figures + more_figures,
        violations=violations + more_violations,
    )


def _overloaded(
    service: Service, plan: Plan, sustained: Crowd, peak: float, violations: list[str]
) -> list[Figure]:
    """Send ten times the sustainable rate, and judge all that was answered.

    The decisions are compared with those of the sustained crowd beside a ballast. The ballast has the weight
    of a first, shorter crowd: behind the long one PostgreSQL cleans up its tables.
    """
    asked = msgspec.structs.replace(
        sustained,
        prefer="respond-async",
        connections=plan.connections,
        seconds=plan.seconds,
        processes=CROWD_PROCESSES,
        per_second=pressure.RATE_FACTOR * peak,
    )
    first = msgspec.structs.replace(asked, seconds=plan.measured_seconds)
    cores = pressure.rate(service, first)[0].cpu_seconds / first.seconds
    with ballast.running(cores, asked.processes):
        _, beside = pressure.rate(service, sustained)
    found = pressure.measure(service, asked)
    violations += found.violations
    return [
        Figure(name="registrations sent", value=found.sent_per_second, unit="/s"),
        Figure(name="processor time of the crowd", value=cores, unit="cores"),
        Figure(name="sustainable rate beside a ballast of that weight", value=beside, unit="decisions/s"),
        Figure(name="decided under overload", value=found.decided_per_second, unit="/s"),
        Figure(
            name="decided under overload, of the rate beside the ballast",
            value=found.decided_per_second / beside,
            unit="",
            least=pressure.GOODPUT_SHARE_BAR,
        ),
        *found.figures,
    ]


def _polled(service: Service, plan: Plan, sustained: Crowd, violations: list[str]) -> list[Figure]:
    """Let clients wait for the outcomes of an event that cannot be decided, while others register.

    The clients come evenly over the time that they wait, so they ask again evenly. The decisions are compared
    with those beside a ballast of the clients' weight.
    """
    event_id, slug = pressure.create(service, pressure.EVENTS)
    with service.session() as lock:
        lock.execute("BEGIN")
        lock.execute("SELECT FROM event WHERE id = %s::uuid FOR UPDATE", [event_id])
        ids = [id_ for (id_,) in service.query(_ADD_PENDING, event_id, plan.pollers)]
        polls = Crowd(
            url=service.url,
            method="GET",
            paths=[f"/api/p/{slug}/receipts/{id_}?wait={plan.poll_seconds}" for id_ in ids],
            prefer="",
            connections=plan.pollers,
            seconds=plan.poll_seconds + 1.5 * plan.measured_seconds,
            arrival_seconds=plan.poll_seconds,
        )
        with crowd.running(polls) as polls_seen:
            time.sleep(plan.poll_seconds + plan.measured_seconds / 4)  # until all of them wait
            _, polled = pressure.rate(service, sustained)
            lock.execute("COMMIT")
            told = polls_seen()
    service.wait_settled(service.last_seq(), pressure.SETTLED_SECONDS_MAX)
    cores = told.cpu_seconds / polls.seconds
    with ballast.running(cores, polls.processes):
        _, alone = pressure.rate(service, sustained)
    wrong = {status: times for status, times in told.statuses.items() if status != httpx2.codes.OK}
    if wrong or told.lost:
        violations.append(f"unexpected: pollers were answered {wrong}, and lost {told.lost}")
    return [
        Figure(name="clients that wait for an outcome", value=plan.pollers, unit=""),
        Figure(name="answers to them", value=sum(told.statuses.values()), unit=""),
        Figure(name="processor time of these clients", value=cores, unit="cores"),
        Figure(
            name="decided meanwhile, of the rate beside a ballast of that weight",
            value=polled / alone,
            unit="",
            least=POLLED_SHARE_BAR,
        ),
    ]
