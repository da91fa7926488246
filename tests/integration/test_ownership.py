"""Owners of buckets on real PostgreSQL: how workers divide, lose and take over the events."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import psycopg
import pytest
from sqlalchemy import Connection, make_url, text
from structlog.testing import capture_logs

from shared.domain import commands, ids
from shared.postgres import connections, locks
from shared.settings import Settings
from tests import owners
from tests.databases import run
from tests.integration.test_many_events import a_world, outcomes
from tests.owners import an_owner
from tests.simulation.histories import register
from worker.ownership import Ownership

EVENTS = 18_000
SILENCE_SECONDS_MAX = 0.5
DEADLINE_SECONDS = 20
_MANY = text("""
    WITH made AS (
        INSERT INTO event (id, slug, title, capacity)
        SELECT gen_random_uuid(), 'e' || gen_random_uuid(), 'E', 1 FROM generate_series(1, :events)
        RETURNING id
    ), accepted AS (
        INSERT INTO command (event_id, id, kind, payload, actor)
        SELECT made.id, gen_random_uuid(), 'register', '{"name": "A"}', 'public'
        FROM made, generate_series(1, :commands)
        RETURNING event_id, seq, id
    )
    INSERT INTO pending_command (event_id, seq, command_id) SELECT event_id, seq, id FROM accepted
""")
_END_WORKERS = """
    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE application_name LIKE 'admitone-worker%' AND datname = current_database()
"""
_READ = b"""
    SELECT relname, pg_stat_get_xact_blocks_fetched(relid) + coalesce((
        SELECT sum(pg_stat_get_xact_blocks_fetched(indexrelid)) FROM pg_index WHERE indrelid = relid
    ), 0)
    FROM pg_stat_xact_user_tables
"""
_LARGE = b"SELECT repeat('x', 1000) FROM generate_series(1, 100000)"

Join = Callable[[int], Ownership]


@pytest.fixture
def join(settings: Settings) -> Iterator[Join]:
    """Return a worker of this number, without a process of its own."""
    with ExitStack() as stack:

        def joined(number: int) -> Ownership:
            session = stack.enter_context(closing(connections.worker_session(settings)))
            made = Ownership(session=session, number=number, silence_seconds_max=SILENCE_SECONDS_MAX)
            made.join()
            return made

        yield joined


def tick_all(workers: Sequence[Ownership]) -> None:
    for worker in workers:
        worker.rebalance()


def test_a_lone_worker_owns_every_event(join: Join) -> None:
    worker = join(1)

    moved = worker.rebalance()

    assert (moved.gained, moved.lost) == (ids.BUCKETS, 0)
    assert worker.rebalance().gained == 0, "a bucket that is locked twice would need two unlocks"
    assert all(ids.bucket(ids.new_id()) in worker.buckets for _ in range(100))


def test_a_locked_mark_takes_no_events(join: Join, settings: Settings) -> None:
    worker = join(1)

    with connections.worker_session(settings) as other, other.transaction():
        other.execute("LOCK TABLE ledger_mark IN ACCESS EXCLUSIVE MODE")
        assert worker.rebalance().gained == ids.BUCKETS


def known_by_all(settings: Settings) -> int:
    async def read() -> int:
        engine = connections.async_engine(settings)
        async with engine.connect() as connection:
            version = await locks.version_known_by_all(connection)
        await engine.dispose()
        return version

    return asyncio.run(read())


def test_a_version_counts_once_every_worker_knows_it(join: Join, settings: Settings) -> None:
    joined = join(1)
    assert known_by_all(settings) == commands.VERSION

    with connections.worker_session(settings) as older:  # it announces nothing
        older.execute(f"SELECT pg_advisory_lock_shared({locks.WORKER}, 2)".encode())
        assert known_by_all(settings) == 1
    joined.rebalance()
    assert known_by_all(settings) == commands.VERSION


def test_workers_divide_the_buckets_among_them(join: Join) -> None:
    first = join(1)
    first.rebalance()
    before = set(first.buckets)
    workers = [first, join(2), join(3)]

    tick_all(workers)
    tick_all(workers)

    shares = [worker.buckets for worker in workers]
    assert set.union(*shares) == before
    assert sum(map(len, shares)) == ids.BUCKETS, "no bucket has two owners"
    assert all(ids.BUCKETS / 6 < len(share) < ids.BUCKETS / 2 for share in shares)


def test_only_a_leaving_workers_share_moves(join: Join) -> None:
    workers = [join(number) for number in (1, 2, 3)]
    tick_all(workers)
    tick_all(workers)
    *staying, leaving = workers
    before = [set(worker.buckets) for worker in staying]

    leaving.session.close()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while sum(len(worker.buckets) for worker in staying) < ids.BUCKETS and time.monotonic() < deadline:
        tick_all(staying)

    assert all(worker.buckets > had for worker, had in zip(staying, before, strict=True))
    assert sum(len(worker.buckets) for worker in staying) == ids.BUCKETS


def test_idle_and_pending_events_take_no_locks(connection: Connection, settings: Settings) -> None:
    with connection.begin():
        connection.execute(_MANY, {"events": EVENTS, "commands": 1})
    owner = an_owner(settings)
    with capture_logs() as logs:
        owners.tick(owner)
    (held,) = run(settings.database_url, f"SELECT count(*) FROM ({locks.HELD}) AS held")
    owner.close()

    assert [entry["event"] for entry in logs] == ["worker_joined", "buckets_moved"]
    assert held[0] == ids.BUCKETS + 2, "its number, and the version that it knows"


def test_a_worker_without_tables_does_not_join(settings: Settings) -> None:
    url = make_url(settings.database_url).set(database="postgres").render_as_string(hide_password=False)
    owner = an_owner(settings.model_copy(update={"database_url": url}))
    with capture_logs() as logs:
        owners.tick(owner)
    owner.close()

    assert [entry["event"] for entry in logs] == ["ownership_lost"]


def read_by_a_tick(worker: Ownership) -> dict[str, int]:
    """Return the blocks that a tick reads of each table with its indexes, where it reads any."""
    with worker.session.transaction():
        worker.rebalance()
        worker.events_pending()
        found = worker.session.execute(_READ).fetchall()
    return {table: int(blocks) for table, blocks in found if blocks}


@pytest.mark.parametrize("workers", [1, 5])
def test_a_tick_reads_no_idle_event(connection: Connection, join: Join, workers: int) -> None:
    with connection.begin():
        connection.execute(_MANY, {"events": EVENTS, "commands": 0})
        connection.execute(_MANY, {"events": 60, "commands": 1})
    connection.execute(text("VACUUM ANALYZE"))
    joined = [join(number) for number in range(1, workers + 1)]
    for _ in range(3):
        tick_all(joined)

    read = read_by_a_tick(joined[0])

    assert read.keys() == {"ledger_mark", "pending_command"}
    assert sum(read.values()) < 50
    assert len(joined[0].session.execute(locks.HELD.encode()).fetchall()) == ids.BUCKETS + 2 * workers


@pytest.mark.parametrize(("events", "commands"), [(0, 0), (19, 1), (20, 1), (30, 7), (3, 50), (4_500, 1)])
def test_every_pending_event_is_found(connection: Connection, join: Join, events: int, commands: int) -> None:
    with connection.begin():
        connection.execute(_MANY, {"events": events, "commands": commands})
    pending = set(connection.execute(text("SELECT id FROM event")).scalars())
    worker = join(1)
    worker.rebalance()

    calls = -(-max(events, 1) // 4_000)
    for _ in range(2):
        found = [worker.events_pending() for _ in range(calls)]
        assert sorted(id_ for ids_ in found for id_ in ids_) == sorted(pending)
        assert all(len(ids_) <= 4_000 for ids_ in found)


def test_pending_events_of_others_are_left_out(connection: Connection, join: Join) -> None:
    with connection.begin():
        connection.execute(_MANY, {"events": 100, "commands": 1})
    workers = [join(1), join(2)]
    tick_all(workers)
    tick_all(workers)

    found = [set(worker.events_pending()) for worker in workers]

    assert set.union(*found) == set(connection.execute(text("SELECT id FROM event")).scalars())
    assert not set.intersection(*found)


def stop_reading(session: "psycopg.Connection[object]") -> None:
    """Ask for more than the connection holds, and read nothing of it."""
    session.pgconn.send_query(_LARGE)


def stop_sending(session: "psycopg.Connection[object]") -> None:
    """Send a statement in pipeline mode, and not the end of the pipeline."""
    session.pgconn.enter_pipeline_mode()
    session.pgconn.send_query_params(b"SELECT 1", None)
    session.pgconn.send_flush_request()
    session.pgconn.flush()


@pytest.mark.parametrize("fall_silent", [stop_reading, stop_sending])
def test_a_silent_workers_events_move(
    join: Join, fall_silent: Callable[["psycopg.Connection[object]"], None]
) -> None:
    silent = join(1)
    silent.rebalance()
    other = join(2)
    other.rebalance()
    assert not other.buckets
    assert not other.has_its_share
    fall_silent(silent.session)

    with capture_logs() as logs:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while len(other.buckets) < ids.BUCKETS and time.monotonic() < deadline:
            other.rebalance()
            time.sleep(0.05)

    assert len(other.buckets) == ids.BUCKETS
    assert [entry["event"] for entry in logs] == ["silent_worker_ended"]


def test_a_worker_that_ticks_is_not_ended(join: Join) -> None:
    workers = [join(1), join(2)]
    deadline = time.monotonic() + 3 * SILENCE_SECONDS_MAX
    with capture_logs() as logs:
        while time.monotonic() < deadline:
            tick_all(workers)
            time.sleep(0.05)

    assert logs == []
    assert sum(len(worker.buckets) for worker in workers) == ids.BUCKETS


def test_a_worker_in_a_statement_is_not_ended(join: Join) -> None:
    """Such as in a commit that waits for a standby."""
    busy, other = join(1), join(2)
    with ThreadPoolExecutor() as pool, capture_logs() as logs:
        statement = pool.submit(busy.session.execute, "SELECT pg_sleep(3 * %s)", [SILENCE_SECONDS_MAX])
        while not statement.done():
            other.rebalance()
            time.sleep(0.05)

    assert statement.exception() is None
    assert logs == []


def test_workers_of_another_database_do_not_count(join: Join, settings: Settings) -> None:
    url = make_url(settings.database_url).set(database="postgres").render_as_string(hide_password=False)
    worker = join(1)
    with connections.worker_session(settings.model_copy(update={"database_url": url})) as session:
        Ownership(session=session, number=2, silence_seconds_max=SILENCE_SECONDS_MAX).join()

        assert worker.rebalance().gained == ids.BUCKETS


def test_a_cut_off_commit_is_noted(join: Join) -> None:
    worker = join(1)
    worker.session.execute("DO $$ BEGIN RAISE WARNING 'cut off' USING ERRCODE = '01000'; END $$")

    assert len(worker.cut_off) == 1


def test_a_former_owner_decides_nothing(connection: Connection, settings: Settings, join: Join) -> None:
    owner = an_owner(settings)
    owners.tick(owner)
    run(settings.database_url, _END_WORKERS)
    other = join(2)
    other.rebalance()
    assert len(other.buckets) == ids.BUCKETS
    world = a_world(connection, register(1))

    with capture_logs() as logs:
        for _ in range(3):
            owners.wake(owner, world.event_id)
    owner.close()

    assert outcomes(world) == [None]
    assert [entry["event"] for entry in logs] == ["ownership_lost"]


def test_a_session_without_its_own_lock_owns_nothing(
    connection: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = connections.worker_session(settings)
    owner = an_owner(settings)
    with monkeypatch.context() as first:
        first.setattr(connections, "worker_session", lambda _: session)
        owners.tick(owner)
    world = a_world(connection, register(1))
    other = connections.worker_session(settings)  # it has the worker's number, and is not its session
    Ownership(session=other, number=owner.number, silence_seconds_max=60).join()
    session.execute("SELECT pg_advisory_unlock_all()")  # as a pooler's DISCARD ALL does

    with capture_logs() as logs:
        owners.tick(owner)
    other.close()
    assert (outcomes(world), session.closed) == ([None], True)
    assert [entry["event"] for entry in logs] == ["ownership_lost"]

    owners.tick(owner)
    owner.close()
    assert outcomes(world) == ["confirmed"]
