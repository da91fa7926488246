"""A crowd beyond what is sustainable: lets it come, and judges all that was answered and what was pending."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import psycopg
from msgspec import Struct

from tests.chaos.scenarios import crowd, sampling
from tests.chaos.scenarios.crowd import Crowd, Seen
from tests.chaos.scenarios.findings import Figure
from tests.chaos.service import HarnessError, Service

EVENTS = 8
CAPACITY = 1_000_000
RATE_FACTOR = 10
SAMPLE_SECONDS = 0.5
SETTLED_SECONDS_MAX = 240.0
NORMAL_SECONDS_MAX = 240.0
GOODPUT_SHARE_BAR = 0.9
NORMAL_SECONDS_BAR = 5.0
API_MEMORY_MB_BAR = 400.0
ANSWER_SECONDS_NORMAL = 1.0
"""A registration that is decided within this time is normal."""

EXPECTED = frozenset((200, 201, 202, 429, 503))
"""Statuses of a right registration: decided, accepted, or not accepted and told so."""

_DECIDED = """
    SELECT count(*)::float8 FROM outcome WHERE settled_at BETWEEN to_timestamp(%s) AND to_timestamp(%s)
"""
_PENDING = """
    SELECT coalesce(sum(pending), 0)::bigint, coalesce(max(pending), 0)
    FROM (SELECT count(*) AS pending FROM pending_command GROUP BY event_id) AS of_event
"""
_ACCEPTED_UNCOUNTED = """
    SELECT coalesce(max(of_all), 0)::bigint, coalesce(max(of_event), 0)::bigint FROM (
        SELECT sum(count(*)) OVER (PARTITION BY date_bin('0.5 s', accepted_at, '2000-01-01')) AS of_all,
               count(*) AS of_event
        FROM command GROUP BY event_id, date_bin('0.5 s', accepted_at, '2000-01-01')
    ) AS of_moment
"""
"""The most commands that were accepted between two counts of the API: those may exceed the limits."""
_SETTLED = """
    SELECT receipt FROM unnest(%s::text[]) AS receipt LEFT JOIN outcome ON command_id = receipt::uuid
    GROUP BY receipt HAVING count(command_id) <> 1
"""


class Limits(Struct, frozen=True, kw_only=True):
    """The pending commands that the API takes, in all and of one event: by default those of the settings."""

    pending_max: int = 200_000
    event_pending_max: int = 50_000


DEFAULTS = Limits()


class Measured(Struct, kw_only=True):
    """What came of a crowd: the decisions a second, and the figures that every crowd is judged by."""

    decided_per_second: float
    sent_per_second: float
    figures: list[Figure]
    violations: list[str]


class Gauges:
    """The most pending commands, in all and of one event, and the most memory of an API process."""

    def __init__(self, service: Service) -> None:
        self.pending_most = self.event_pending_most = 0
        self.memory_mb_most = 0.0
        self._service = service

    def sample(self, session: "psycopg.Connection[tuple[Any, ...]]") -> None:
        """Read all."""
        row = session.execute(_PENDING).fetchone()
        assert row is not None
        self.pending_most = max(self.pending_most, row[0])
        self.event_pending_most = max(self.event_pending_most, row[1])
        for name in self._service.apis:
            self.memory_mb_most = max(self.memory_mb_most, _memory_mb(self._service.pid(name)))


def measure(service: Service, asked: Crowd, limits: Limits = DEFAULTS) -> Measured:
    """Let a crowd come, wait until all is decided, and judge all that was answered."""
    before = service.query("SELECT count(*) FROM command")[0][0]
    gauges = Gauges(service)
    violations = []
    with sampling.sampled(service, SAMPLE_SECONDS, gauges.sample):
        seen, decided = rate(service, asked)
        normal_seconds = _wait_normal(service, asked.paths[0])
        if left := service.wait_settled(service.last_seq(), SETTLED_SECONDS_MAX):
            violations.append(f"unanswered: {left} commands are pending at the end")
    accepted = service.query("SELECT count(*) FROM command")[0][0] - before
    violations += [*_wrong(service, seen), *_beyond(service, gauges, limits)]
    refused = seen.statuses.get(503, 0) + seen.statuses.get(429, 0)
    figures = [
        Figure(name="not sent, for want of a free connection", value=seen.unsent, unit=""),
        Figure(name="accepted", value=accepted, unit=""),
        Figure(name="not accepted, and told so", value=refused, unit=""),
        Figure(name="most commands pending", value=gauges.pending_most, unit=""),
        Figure(name="most commands pending of one event", value=gauges.event_pending_most, unit=""),
        Figure(
            name="most memory of an API process",
            value=gauges.memory_mb_most,
            unit="MB",
            most=API_MEMORY_MB_BAR,
        ),
        Figure(name="normal again after", value=normal_seconds, unit="s", most=NORMAL_SECONDS_BAR),
    ]
    sent = sum(seen.statuses.values()) + sum(seen.lost.values())
    return Measured(
        decided_per_second=decided,
        sent_per_second=sent / asked.seconds,
        figures=figures,
        violations=violations,
    )


def rate(service: Service, asked: Crowd) -> tuple[Seen, float]:
    """Run a crowd; return what it saw, and how many commands a second were decided in its later half."""
    with crowd.running(asked) as crowd_seen:
        until = time.time() + asked.seconds
        seen = crowd_seen()
    began, ended = until - asked.seconds / 2, until
    return seen, service.query(_DECIDED, began, ended)[0][0] / (ended - began)


def create(service: Service, number: int) -> tuple[str, str]:
    """Create an event with room for a crowd; return its id and its slug."""
    asked = {"slug": f"overload-{number}", "title": "Overload", "capacity": CAPACITY}
    with httpx2.Client(base_url=service.url, timeout=30) as client:
        answer = client.post("/api/events", json=asked, headers={"authorization": f"Bearer {service.key}"})
    if answer.status_code != httpx2.codes.CREATED:
        raise HarnessError(f"an event cannot be made: {answer.text}")
    return answer.json()["id"], asked["slug"]  # type: ignore[return-value]


def sustained(service: Service, connections: int, seconds: float) -> Crowd:
    """Create events; return a crowd that registers at them, each client as soon as it has its outcome."""
    return Crowd(
        url=service.url,
        method="POST",
        paths=[f"/api/p/{create(service, n)[1]}/register" for n in range(EVENTS)],
        prefer="",
        connections=connections,
        seconds=seconds,
    )


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


def _beyond(service: Service, gauges: Gauges, limits: Limits) -> Iterator[str]:
    """Say which limit the pending commands exceeded.

    An API process counts its own at once, and those of the others twice a second.
    """
    [(uncounted, uncounted_of_event)] = service.query(_ACCEPTED_UNCOUNTED)
    for pending, pending_max, more in (
        (gauges.pending_most, limits.pending_max, uncounted),
        (gauges.event_pending_most, limits.event_pending_max, uncounted_of_event),
    ):
        if pending > min(len(service.apis) * pending_max, pending_max + more):
            yield f"bound: {pending} commands were pending, not {pending_max}"


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


def _memory_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1_024
    return 0.0
