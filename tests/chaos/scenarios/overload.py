"""Overload: ten times what is sustainable, and then ten thousand clients that wait for their outcomes.

The bounds hold, the service goes on deciding at its rate, everything accepted is decided and told, and soon
after the crowd has gone an answer comes as fast as before.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import psycopg
from msgspec import Struct, field

from tests.chaos.scenarios import ballast, crowd, sampling
from tests.chaos.scenarios.crowd import Crowd, Seen
from tests.chaos.scenarios.findings import Figure, Findings
from tests.chaos.servers import OF_THE_WHEELS, Programs
from tests.chaos.service import HarnessError, Service

EVENTS = 8
CAPACITY = 1_000_000
SUSTAINED_CONNECTIONS = 256
RATE_FACTOR = 10
CROWD_PROCESSES = 2
SAMPLE_SECONDS = 0.5
SETTLED_SECONDS_MAX = 240.0
NORMAL_SECONDS_MAX = 240.0
GOODPUT_SHARE_BAR = 0.9
NORMAL_SECONDS_BAR = 5.0
API_MEMORY_MB_BAR = 400.0
POLLED_SHARE_BAR = 0.8
ANSWER_SECONDS_NORMAL = 1.0
"""A registration that is decided within this time is normal."""
RECEIPTS_READ = 200

EXPECTED = frozenset((200, 201, 202, 429, 503))
"""Statuses of a right registration: decided, accepted, or not accepted and told so."""

_ROOM = {"ADMITONE_CLIENT_CONNECTIONS_MAX": "12000"}
"""Room for all clients in one API process."""
_PENDING_MAX = 200_000
"""The default of ADMITONE_PENDING_MAX."""
_DECIDED = """
    SELECT count(*)::float8 FROM outcome WHERE settled_at BETWEEN to_timestamp(%s) AND to_timestamp(%s)
"""
_ACCEPTED_UNCOUNTED = """
    SELECT coalesce(max(count), 0) FROM (
        SELECT count(*) FROM command GROUP BY date_bin('0.5 s', accepted_at, '2000-01-01')
    ) AS of_moment
"""
"""The most commands that were accepted between two counts of the API: those may exceed the limit."""
_SETTLED = """
    SELECT receipt FROM unnest(%s::text[]) AS receipt LEFT JOIN outcome ON command_id = receipt::uuid
    GROUP BY receipt HAVING count(command_id) <> 1
"""
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
    """`measured_seconds` for each rate, `seconds` of overload; `settings` of the service, by their variables.

    The crowd has so many `connections`. Each of the `pollers` asks again and again, and each question waits
    for `poll_seconds`; without pollers that part is left out.
    """

    seed: int = 0
    seconds: float = 60.0
    measured_seconds: float = 10.0
    connections: int = RATE_FACTOR * SUSTAINED_CONNECTIONS
    pollers: int = 10_000
    poll_seconds: int = 30
    settings: Mapping[str, str] = field(default_factory=dict)
    timed: bool = True
    programs: Programs = OF_THE_WHEELS

    @property
    def pending_max(self) -> int:
        return int(self.settings.get("ADMITONE_PENDING_MAX", _PENDING_MAX))


class Gauges:
    """The most pending commands, and the most memory of an API process."""

    def __init__(self, service: Service) -> None:
        self.pending_most = 0
        self.memory_mb_most = 0.0
        self._service = service

    def sample(self, session: "psycopg.Connection[tuple[Any, ...]]") -> None:
        """Read both."""
        row = session.execute("SELECT count(*) FROM pending_command").fetchone()
        assert row is not None
        self.pending_most = max(self.pending_most, row[0])
        for name in self._service.apis:
            self.memory_mb_most = max(self.memory_mb_most, _memory_mb(self._service.pid(name)))


def run(plan: Plan, folder: Path) -> Findings:
    """Measure what is sustainable, send ten times as much, and let clients wait while others register."""
    began = time.monotonic()
    violations: list[str] = []
    figures: list[Figure] = []
    with Service(folder, settings={**_ROOM, **plan.settings}, programs=plan.programs) as service:
        service.wait_joined()
        paths = [f"/api/p/{_create(service, n)[1]}/register" for n in range(EVENTS)]
        sustained = Crowd(
            url=service.url,
            method="POST",
            paths=paths,
            prefer="",
            connections=SUSTAINED_CONNECTIONS,
            seconds=plan.measured_seconds,
        )
        _rate(service, sustained)  # warms up
        _, peak = _rate(service, sustained)
        figures.append(Figure(name="sustainable rate", value=peak, unit="decisions/s"))
        if plan.pollers:
            figures += _polled(service, plan, sustained, violations)
        figures += _overloaded(service, plan, sustained, peak, violations)
        versions = service.versions()
    return Findings(
        scenario="overload",
        seed=plan.seed,
        timed=plan.timed,
        servers=versions,
        seconds=time.monotonic() - began,
        figures=figures,
        violations=violations,
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
        per_second=RATE_FACTOR * peak,
    )
    first = msgspec.structs.replace(asked, seconds=plan.measured_seconds)
    cores = _rate(service, first)[0].cpu_seconds / first.seconds
    with ballast.running(cores, asked.processes):
        _, beside = _rate(service, sustained)
    before = service.query("SELECT count(*) FROM command")[0][0]
    gauges = Gauges(service)
    with sampling.sampled(service, SAMPLE_SECONDS, gauges.sample):
        seen, goodput = _rate(service, asked)
        normal_seconds = _wait_normal(service, sustained.paths[0])
        left = service.wait_settled(service.last_seq(), SETTLED_SECONDS_MAX)
    if left:
        violations.append(f"unanswered: {left} commands are pending at the end")
    accepted = service.query("SELECT count(*) FROM command")[0][0] - before
    (uncounted,) = service.query(_ACCEPTED_UNCOUNTED)[0]
    violations += _wrong(service, seen)
    if gauges.pending_most > plan.pending_max + uncounted:
        violations.append(f"bound: {gauges.pending_most} commands were pending, not {plan.pending_max}")
    sent = sum(seen.statuses.values()) + sum(seen.lost.values())
    refused = seen.statuses.get(503, 0) + seen.statuses.get(429, 0)
    return [
        Figure(name="registrations sent", value=sent / plan.seconds, unit="/s"),
        Figure(name="processor time of the crowd", value=cores, unit="cores"),
        Figure(name="sustainable rate beside a ballast of that weight", value=beside, unit="decisions/s"),
        Figure(name="decided under overload", value=goodput, unit="/s"),
        Figure(name="not sent, for want of a free connection", value=seen.unsent, unit=""),
        Figure(name="accepted", value=accepted, unit=""),
        Figure(name="not accepted, and told so", value=refused, unit=""),
        Figure(name="most commands pending", value=gauges.pending_most, unit=""),
        Figure(
            name="most memory of an API process",
            value=gauges.memory_mb_most,
            unit="MB",
            most=API_MEMORY_MB_BAR,
        ),
        Figure(
            name="decided under overload, of the rate beside the ballast",
            value=goodput / beside,
            unit="",
            least=GOODPUT_SHARE_BAR,
        ),
        Figure(name="normal again after", value=normal_seconds, unit="s", most=NORMAL_SECONDS_BAR),
    ]


def _wrong(service: Service, seen: Seen) -> list[str]:
    """Return what a client should never see, and each receipt without exactly one outcome."""
    found = [f"unanswered request: {reason}, {times} times" for reason, times in seen.lost.items()]
    found += [
        f"unexpected: status {status}, {times} times"
        for status, times in seen.statuses.items()
        if status not in EXPECTED
    ]
    if len(set(seen.receipts)) < len(seen.receipts):
        found.append("doubled: two requests got one receipt")
    found += [
        f"lost: receipt {id_} has no outcome, or two" for (id_,) in service.query(_SETTLED, seen.receipts)
    ]
    return found


def _polled(service: Service, plan: Plan, sustained: Crowd, violations: list[str]) -> list[Figure]:
    """Let clients wait for the outcomes of an event that cannot be decided, while others register.

    The clients come evenly over the time that they wait, so they ask again evenly. The decisions are compared
    with those beside a ballast of the clients' weight.
    """
    event_id, slug = _create(service, EVENTS)
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
            _, polled = _rate(service, sustained)
            lock.execute("COMMIT")
            told = polls_seen()
    service.wait_settled(service.last_seq(), SETTLED_SECONDS_MAX)
    cores = told.cpu_seconds / polls.seconds
    with ballast.running(cores, polls.processes):
        _, alone = _rate(service, sustained)
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


def _rate(service: Service, asked: Crowd) -> tuple[Seen, float]:
    """Run a crowd; return what it saw, and how many commands a second were decided in its later half."""
    with crowd.running(asked) as crowd_seen:
        until = time.time() + asked.seconds
        seen = crowd_seen()
    began, ended = until - asked.seconds / 2, until
    return seen, service.query(_DECIDED, began, ended)[0][0] / (ended - began)


def _wait_normal(service: Service, path: str) -> float:
    """Return the time until a registration is decided as fast as without a crowd."""
    began = time.monotonic()
    with httpx2.Client(base_url=service.url, timeout=30) as client:
        while time.monotonic() < began + NORMAL_SECONDS_MAX:
            sent = time.monotonic()
            with suppress(httpx2.HTTPError):
                answer = client.post(path, json={"name": "Afterwards"}, headers={"prefer": "wait=1"})
                if (
                    answer.status_code == httpx2.codes.CREATED
                    and time.monotonic() < sent + ANSWER_SECONDS_NORMAL
                ):
                    return sent - began
            time.sleep(SAMPLE_SECONDS)
    raise HarnessError(f"registrations are not normal after {NORMAL_SECONDS_MAX:g} s{service.last_words()}")


def _create(service: Service, number: int) -> tuple[str, str]:
    """Create an event with room for a crowd; return its id and its slug."""
    asked = {"slug": f"overload-{number}", "title": "Overload", "capacity": CAPACITY}
    with httpx2.Client(base_url=service.url, timeout=30) as client:
        answer = client.post("/api/events", json=asked, headers={"authorization": f"Bearer {service.key}"})
    if answer.status_code != httpx2.codes.CREATED:
        raise HarnessError(f"an event cannot be made: {answer.text}")
    return answer.json()["id"], asked["slug"]  # type: ignore[return-value]


def _memory_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1_024
    return 0.0
