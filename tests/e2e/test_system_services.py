"""The same service on the machine's own PostgreSQL, Redis and RabbitMQ: an additional lane.

It runs where the variables below name servers on which databases and queues may be made and removed:

    ADMITONE_TEST_DATABASE_URL   postgresql://postgres@127.0.0.1:5432/postgres
    ADMITONE_TEST_REDIS_URL      redis://127.0.0.1:6379/15, a database that is empty
    ADMITONE_TEST_AMQP_URL       amqp://guest:guest@127.0.0.1:5672//
"""

import asyncio
import os
import secrets
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import UUID

import psycopg
import pytest
import redis
from amqp.exceptions import AccessRefused
from kombu import Connection, Consumer, Exchange, Queue, pools
from psycopg import sql
from sqlalchemy import make_url

from ops.embedded import Servers
from ops.maintenance import audit, schema
from ops.rehearsal.temporary_stack import free_port
from shared.domain import ids
from shared.messaging import queues
from shared.postgres import connections
from shared.settings import Settings
from tests.chaos import rabbitmq as rabbitmq_host
from tests.chaos.relays import Relays
from tests.integration import test_plans
from tests.stage import WORKER_BYTES_MAX, Json, SlowTicks, Stage, peak_bytes
from worker.celery_hooks import EventQueues, EventQueuesStep, message_handler

PATIENCE = 60
PATIENT = {"prefer": "wait=20"}
"""A busy machine may need longer than clients wait by default, and less than a slow tick."""

_DECLARE = "\0\x32\0\x0a\0\0"
"""How a declaration of a queue begins in AMQP."""


def server(name: str) -> str:
    url = os.environ.get(name)
    if not url:
        pytest.skip(f"{name} names no server: this lane was not run")
    return url


@pytest.fixture
def system_database() -> Iterator[str]:
    """The URL of a migrated database on the machine's PostgreSQL, removed at the end."""
    url = make_url(server("ADMITONE_TEST_DATABASE_URL"))
    name = f"admitone_test_{secrets.token_hex(6)}"
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            made = url.set(drivername="postgresql+psycopg", database=name)
            made_url = made.render_as_string(hide_password=False)
            schema.upgrade(made_url)
            yield made_url
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def system_redis() -> Iterator[str]:
    """The URL of an empty database of the machine's Redis, emptied at the end."""
    url = server("ADMITONE_TEST_REDIS_URL")
    client = redis.Redis.from_url(url)
    assert client.dbsize() == 0, f"{url} holds something: name an empty database"
    try:
        yield url
    finally:
        client.flushdb()
        client.close()


def drop(stage: Stage) -> Json:
    """A small drop, a killed worker, a promotion; and everything must agree in the end."""
    event = stage.create_event(capacity=20)
    answers = stage.register_at_once(event, [{"name": f"User {n}"} for n in range(60)], **PATIENT)
    stage.kill_worker(0)
    answers += stage.register_at_once(event, [{"name": f"Late {n}"} for n in range(20)], **PATIENT)
    assert Counter(a.json()["status"] for a in answers) == {"CONFIRMED": 20, "WAITLIST": 60}
    confirmed = next(a.json() for a in answers if a.json()["status"] == "CONFIRMED")
    with stage.client() as client:
        cancelled = client.delete(f"/api/p/{event['slug']}/receipts/{confirmed['receiptId']}")
    assert cancelled.json()["status"] == "CANCELLED"
    counter = {"spotsReserved": 20, "actualConfirmed": 20, "drift": 0}
    assert stage.get(f"/api/events/{event['id']}/counter") == counter
    replayed = audit.replay(stage.database_url, event["slug"])
    assert (replayed.problems, replayed.entries) == ([], 82)
    return event


def test_a_drop_on_the_systems_postgresql_and_redis(
    system_database: str, system_redis: str, tmp_path: Path
) -> None:
    servers = Servers(database_url=system_database, broker_url=system_redis, result_url=system_redis)

    with Stage(servers, system_database, tmp_path, workers=2) as stage:
        drop(stage)


PLANNED_OTHERWISE = {
    "find_registrations": 100,
    "read_waitlist": 300,
    "availability": 3_000,
    "early_answers": 3_000,
    "registration": 3_000,
}
"""Statements that PostgreSQL 15 plans in another way than 18, and the rows that each may read."""


def test_the_systems_postgresql_finds_rows_by_key(system_database: str) -> None:
    """A plan that was made for one row is kept for 20,000, as `test_plans` has it for all statements."""
    settings = Settings(
        database_url=system_database, broker_url="redis://127.0.0.1:9/0", result_url="redis://127.0.0.1:9/0"
    )
    loop = asyncio.new_event_loop()
    worker = connections.worker_session(settings)
    reading = loop.run_until_complete(test_plans.reading_session(settings, for_admins=False))

    def in_worker(statement: str) -> list[Any]:
        cursor = worker.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []

    def in_pool(statement: str) -> list[Any]:
        cursor = loop.run_until_complete(reading.execute(statement.encode()))
        return loop.run_until_complete(cursor.fetchall()) if cursor.description else []

    def fill(events: str, rows: str) -> None:
        in_worker(test_plans.FILL_EVENTS.format(events=events))
        for statement in test_plans.FILL:
            in_worker(statement.format(rows=rows))

    def explained() -> dict[str, float]:
        return {name: test_plans.explain(executes[name], name).rows for name in PLANNED_OTHERWISE}

    executes = {name: in_pool if name in test_plans.OF_THE_API else in_worker for name in PLANNED_OTHERWISE}
    with worker:
        in_worker(test_plans.KEY_FUNCTION)
        fill("0, 0", "2, 2")
        in_worker("ANALYZE")
        for name in PLANNED_OTHERWISE:
            test_plans.prepare(executes[name], name, test_plans.statements()[name])
        explained()
        fill("1, 999", f"{test_plans.OLD - 5_000}, {test_plans.OLD + 15_000}")
        read = explained()
    loop.run_until_complete(reading.close())
    loop.close()

    assert {name: rows for name, rows in read.items() if rows > PLANNED_OTHERWISE[name]} == {}


@pytest.fixture
def rabbitmq() -> Iterator[tuple[str, Connection, list[str]]]:
    """RabbitMQ's URL, a connection, and the names of queues that are removed at the end."""
    url = server("ADMITONE_TEST_AMQP_URL")
    names: list[str] = []
    with Connection(url) as connection:
        try:
            yield url, connection, names
        finally:
            for name in names:
                Queue(name)(connection.default_channel).delete()


def test_rabbitmq_bounds_what_waits(
    system_database: str,
    system_redis: str,
    tmp_path: Path,
    rabbitmq: tuple[str, Connection, list[str]],
) -> None:
    url, connection, names = rabbitmq
    servers = Servers(database_url=system_database, broker_url=url, result_url=system_redis)
    with Stage(servers, system_database, tmp_path, workers=1) as stage:
        event = stage.create_event(capacity=100)
        names.append(f"event.{event['id']}")
        with stage.client() as client:
            path = f"/api/p/{event['slug']}/register"
            assert client.post(path, json={"name": "User"}, headers=PATIENT).status_code == 201
            stage.kill_worker(0)
            wait_until(lambda: counts(connection, names[-1])[1] == 0, stage)
            app = queues.celery_app(settings_of(stage))
            for _ in range(3 * queues.MESSAGES_MAX):
                queues.wake(app, names[-1], [UUID(event["id"])])
            waiting, _ = counts(connection, names[-1])

    assert waiting == queues.MESSAGES_MAX


def wait_until(condition: Callable[[], bool], stage: Stage) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, stage.log()[-5_000:]
        time.sleep(0.05)


def counts(connection: Connection, name: str) -> tuple[int, int]:
    """Return how many messages and how many consumers a queue has."""
    channel: Any = connection.default_channel
    _, messages, consumers = channel.queue_declare(name, passive=True)
    return messages, consumers


def settings_of(stage: Stage) -> Settings:
    return Settings(
        database_url=stage.database_url,
        broker_url=stage.servers.broker_url,
        result_url=stage.servers.result_url,
    )


def test_a_queue_of_an_earlier_version_is_consumed(
    system_database: str,
    system_redis: str,
    tmp_path: Path,
    rabbitmq: tuple[str, Connection, list[str]],
) -> None:
    url, connection, names = rabbitmq
    servers = Servers(database_url=system_database, broker_url=url, result_url=system_redis)
    with Stage(servers, system_database, tmp_path, workers=1) as stage:
        stage.kill_worker(0)
        events = [stage.create_event(capacity=100) for _ in range(3)]
        names += [f"event.{event['id']}" for event in events]
        for name in names[:2]:
            Queue(name, Exchange(""), routing_key=name)(connection.default_channel).queue_declare()
        stage.start_worker()
        with stage.client() as client:
            for event in events:
                path = f"/api/p/{event['slug']}/register"
                answer = client.post(path, json={"name": "User"}, headers=PATIENT)
                assert answer.status_code == 201
        wait_until(lambda: all(counts(connection, name)[1] == 1 for name in names), stage)
        assert "queue_without_bounds" in stage.log()  # once: a lasting trouble is logged once a minute
        assert "broker_away" not in stage.log()


def test_garbage_in_rabbitmq_costs_no_worker(
    system_database: str,
    system_redis: str,
    tmp_path: Path,
    rabbitmq: tuple[str, Connection, list[str]],
) -> None:
    url, connection, names = rabbitmq
    servers = Servers(database_url=system_database, broker_url=url, result_url=system_redis)
    plain = {"content_type": "application/json", "content_encoding": "utf-8"}
    headers = {"task": "apply_commands", "id": "1"}
    task = {**plain, "headers": headers}
    zeros = zlib.compress(bytes(300_000_000))
    garbage: list[tuple[bytes, Json]] = [
        (b"\x00\xff", {"content_type": "application/data", "content_encoding": "binary"}),
        (b"\xff\xfe", task),
        (b"[]", task),
        (b"[]", plain),
        (b"[]", {**task, "content_type": "application/x-python-serialize"}),
        (b"[]", {**task, "content_encoding": "no-such-encoding"}),
        (b"[]", {**plain, "headers": {"task": "format_the_disk", "id": "1"}}),
        (b"[" * 200_000, task),
        (b"A" * 20_000_000, task),
        (zeros, {**plain, "headers": {**headers, "compression": "zlib"}}),
        (zeros, {**task, "content_type": "application/data", "content_encoding": "zlib"}),
        (b"[" + b"[]," * 5_000_000 + b"[]]", task),
        (b"a-" + b"b" * 1_000_000, {**task, "content_encoding": "punycode"}),
    ]
    with SlowTicks(servers, system_database, tmp_path) as stage, stage.client() as client:
        event = stage.create_event(capacity=100)
        names.append(f"event.{event['id']}")
        path = f"/api/p/{event['slug']}/register"
        assert client.post(path, json={"name": "User"}, headers=PATIENT).status_code == 201
        for body, properties in garbage:
            connection.Producer().publish(body, routing_key=names[-1], **properties)
        wait_until(lambda: counts(connection, names[-1])[0] == 0, stage)
        assert client.post(path, json={"name": "User"}, headers=PATIENT).status_code == 201
        assert [worker.poll() for worker in stage.workers] == [None]
        assert peak_bytes(stage.workers[0]) < WORKER_BYTES_MAX
        assert "wake_not_understood" in stage.log()
        assert "broker_away" not in stage.log()
        assert len(stage.log()) < 100_000


@pytest.mark.parametrize("right", ["configure", "write", "read"])
def test_a_probe_notices_each_missing_right(right: str) -> None:
    if not rabbitmq_host.is_usable():
        pytest.skip("rabbitmqctl is not there, or may not be used: this lane was not run")
    url = server("ADMITONE_TEST_AMQP_URL")
    with rabbitmq_host.RabbitMQ(url) as host, Connection(host.url(host.address)) as connection:
        settings = Settings(
            database_url="postgresql://127.0.0.1/none",
            broker_url=connection.as_uri(include_password=True),
            result_url="redis://127.0.0.1/15",
        )

        async def probe(times: int) -> None:
            pools.reset()  # RabbitMQ remembers what an open channel may do
            sender = queues.connect_sender(queues.celery_app(settings), settings)
            for _ in range(times):
                await sender.probe()
            await sender.close()

        asyncio.run(probe(2))
        assert host.queues() == []
        host.allow(**{right: ""})
        with pytest.raises(AccessRefused, match="ACCESS_REFUSED"):
            asyncio.run(probe(1))
        host.allow()
        asyncio.run(probe(1))
        assert host.queues() == []


def test_a_broker_that_makes_no_queue_blocks_no_probe(tmp_path: Path) -> None:
    """It confirms the message, and is silent from the declaration on."""
    url = server("ADMITONE_TEST_AMQP_URL")
    with Connection(url) as connection:
        address = f"127.0.0.1:{free_port()}"
        broker = urlsplit(connection.as_uri(include_password=True))
        settings = Settings(
            database_url="postgresql://127.0.0.1/none",
            broker_url=broker._replace(netloc=f"{broker.username}:{broker.password}@{address}").geturl(),
            result_url="redis://127.0.0.1/15",
        )
        links = {"broker": (address, f"{broker.hostname}:{broker.port}")}

        async def probe_twice(relays: Relays) -> None:
            sender = queues.connect_sender(queues.celery_app(settings), settings)
            await sender.probe()
            relays.set_trap("broker", _DECLARE, "before", "hold")
            with pytest.raises(TimeoutError):
                await sender.probe()
            relays.change("broker", "cut")
            await sender.probe()
            await sender.close()

        with Relays(links, tmp_path / "relays.log") as relays:
            asyncio.run(probe_twice(relays))


def test_messages_come_while_queues_are_consumed(
    system_redis: str, rabbitmq: tuple[str, Connection, list[str]]
) -> None:
    """RabbitMQ delivers messages of one queue while a worker begins to consume the next."""
    url, connection, names = rabbitmq
    event_ids, woken = [ids.new_id() for _ in range(3)], list[UUID]()
    app = queues.celery_app(
        Settings(database_url="postgresql://127.0.0.1/none", broker_url=url, result_url=system_redis)
    )
    event_queues = EventQueues(time.monotonic)
    event_queues.consume(event_ids)
    for event_id in event_ids:
        queue = queues.event_queue(event_id)
        names.append(queue.name)
        queue(connection.default_channel).declare()
        for _ in range(20):
            queues.wake(app, queue.name, [event_id])
    with Connection(url) as own:
        consumer = SimpleNamespace(
            app=SimpleNamespace(event_queues=event_queues),
            connection=own,
            task_consumer=Consumer(own.channel(), queues=[], no_ack=True),
            create_task_handler=lambda: message_handler(woken.extend),
        )
        EventQueuesStep.start(cast("EventQueuesStep", None), consumer)
        while len(woken) < 60:
            own.drain_events(timeout=PATIENCE)

    assert Counter(woken) == dict.fromkeys(event_ids, 20)


def test_a_drop_with_rabbitmq_as_the_broker(
    system_database: str,
    system_redis: str,
    tmp_path: Path,
    rabbitmq: tuple[str, Connection, list[str]],
) -> None:
    broker, _, names = rabbitmq
    servers = Servers(database_url=system_database, broker_url=broker, result_url=system_redis)
    with Stage(servers, system_database, tmp_path, workers=2) as stage:
        names.append(f"event.{drop(stage)['id']}")
        assert "RESOURCE_LOCKED" not in stage.log(), "the workers' names are their own"
        assert stage.get("/readyz")["degraded"] == []


def test_rabbitmq_brings_a_new_event_to_its_owner(
    system_database: str,
    system_redis: str,
    tmp_path: Path,
    rabbitmq: tuple[str, Connection, list[str]],
) -> None:
    broker, _, names = rabbitmq
    servers = Servers(database_url=system_database, broker_url=broker, result_url=system_redis)
    with SlowTicks(servers, system_database, tmp_path, workers=2) as stage, stage.client() as client:
        for _ in range(3):
            event = stage.create_event()
            names.append(f"event.{event['id']}")
            path = f"/api/p/{event['slug']}/register"
            answers = [client.post(path, json={"name": "User"}, headers=PATIENT) for _ in range(3)]

            assert [answer.status_code for answer in answers] == [201] * 3, stage.log()
