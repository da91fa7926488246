"""The cost of a worker's tick at rest: many events that exist, some that are active, and many workers.

Each worker is a database session of its own in this process, with the worker's own class for its buckets.
In a tick, every half second, such a worker learns which workers live, takes or gives up buckets, and reads
the ledger for pending commands. An active event has one command, which stays pending, so that each tick
finds it; deciding is not measured here.
"""

import statistics
import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path

import msgspec
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from benchmarks import cpu
from benchmarks.processes import BenchmarkError
from ops import embedded
from ops.maintenance import schema
from shared.domain import ids
from shared.postgres import connections, locks
from shared.settings import Settings
from worker.ownership import Ownership

ACTIVE_SHARE = 100
"""One of so many events is active."""
WORKERS = 50
ROUNDS = 20

_EVENTS = text("""
    INSERT INTO event (id, slug, title, capacity)
    SELECT gen_random_uuid(), 'event-' || number, 'Event', 10 FROM generate_series(1, :events) AS number
""")
_PENDING = text("""
    WITH accepted AS (
        INSERT INTO command (event_id, id, kind, payload, actor)
        SELECT id, gen_random_uuid(), 'register', '{"name": "User"}', 'public'
        FROM (SELECT id FROM event ORDER BY id LIMIT :active) AS active
        RETURNING event_id, seq, id
    )
    INSERT INTO pending_command (event_id, seq, command_id) SELECT event_id, seq, id FROM accepted
""")
_LOCKS = text(f"SELECT count(*) FROM ({locks.HELD}) AS held")


class Ticks(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The milliseconds of workers' ticks, and the advisory locks that all workers hold together.

    `cpu_ms` is the processor time of a tick in PostgreSQL and in the worker; other programs hardly change it.
    """

    events: int
    active: int
    workers: int
    ticks: int
    median_ms: float
    p95_ms: float
    most_ms: float
    cpu_ms: float
    locks: int


def command(events: int, *, as_json: bool) -> None:
    """Measure ticks beside so many events, and print them."""
    with (
        tempfile.TemporaryDirectory(prefix="admitone-ticks-") as folder,
        embedded.running(Path(folder)) as servers,
    ):
        found = run(Settings(**asdict(servers)), events, WORKERS, ROUNDS)
    print(msgspec.json.encode(found).decode() if as_json else _line(found))  # noqa: T201


def run(settings: Settings, events: int, workers: int, rounds: int) -> Ticks:
    """Fill the database, and have so many workers tick one after the other, round by round."""
    active = max(events // ACTIVE_SHARE, 1)
    schema.upgrade(settings.database_url)
    engine = create_engine(settings.database_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection, ExitStack() as stack:
        connection.execute(_EVENTS, {"events": events})
        connection.execute(_PENDING, {"active": active})
        connection.execute(text("VACUUM ANALYZE"))
        owners = [_join(stack, settings, number) for number in range(1, workers + 1)]
        for _ in range(2):  # the first one gives up what the second one takes
            for owner in owners:
                owner.rebalance()
        if sum(len(owner.buckets) for owner in owners) != ids.BUCKETS:
            raise BenchmarkError("the workers have not divided the buckets among them")
        backends = {cpu.POSTGRES: [owner.session.info.backend_pid for owner in owners]}
        before = cpu.used_us(backends)[cpu.POSTGRES] + time.process_time() * cpu.US_PER_SECOND
        spent = [_tick(owner) for _ in range(rounds) for owner in owners]
        used_us = cpu.used_us(backends)[cpu.POSTGRES] + time.process_time() * cpu.US_PER_SECOND - before
        held = connection.execute(_LOCKS).scalar_one()
    *_, p95 = statistics.quantiles(spent, n=20)
    return Ticks(
        events=events,
        active=active,
        workers=workers,
        ticks=len(spent),
        median_ms=statistics.median(spent),
        p95_ms=p95,
        most_ms=max(spent),
        cpu_ms=used_us / len(spent) / 1_000,
        locks=held,
    )


def _join(stack: ExitStack, settings: Settings, number: int) -> Ownership:
    session = stack.enter_context(closing(connections.worker_session(settings)))
    silence = settings.owner_silence_seconds_max
    owner = Ownership(session=session, number=number, silence_seconds_max=silence)
    owner.join()
    return owner


def _tick(owner: Ownership) -> float:
    """Return the milliseconds of one tick."""
    began = time.perf_counter()
    owner.rebalance()
    owner.events_pending()
    return (time.perf_counter() - began) * 1_000


def _line(found: Ticks) -> str:
    return (
        f"{found.events:,} events, {found.active:,} of them with a pending command, {found.workers} workers: "
        f"a tick takes {found.median_ms:.1f} ms (median of {found.ticks:,}), {found.p95_ms:.1f} ms (p95), "
        f"{found.most_ms:.1f} ms at most, and {found.cpu_ms:.1f} ms of processor time. "
        f"All workers together hold {found.locks} locks."
    )
