"""The same service on the machine's own PostgreSQL, Redis and RabbitMQ: an additional lane.

It runs where the variables below name servers on which databases and queues may be made and removed:

    ADMITONE_TEST_DATABASE_URL   postgresql://postgres@127.0.0.1:5432/postgres
    ADMITONE_TEST_REDIS_URL      redis://127.0.0.1:6379/15, a database that is empty
    ADMITONE_TEST_AMQP_URL       amqp://guest:guest@127.0.0.1:5672//
"""

import os
import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from kombu import Connection, Queue
from psycopg import sql
from sqlalchemy import make_url

from ops.embedded import Servers
from ops.maintenance import audit, schema
from tests.stage import Json, SlowTicks, Stage


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
    answers = stage.register_at_once(event, [{"name": f"User {n}"} for n in range(60)])
    stage.kill_worker(0)
    answers += stage.register_at_once(event, [{"name": f"Late {n}"} for n in range(20)])
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


@pytest.fixture
def system_broker() -> Iterator[tuple[str, list[Json]]]:
    """The URL of the machine's RabbitMQ, and a list for events whose queues are removed at the end."""
    url, events = server("ADMITONE_TEST_AMQP_URL"), list[Json]()
    try:
        yield url, events
    finally:
        with Connection(url) as connection:
            for event in events:
                Queue(f"event.{event['id']}")(connection.default_channel).delete()


def test_a_drop_with_rabbitmq_as_the_broker(
    system_database: str, system_redis: str, system_broker: tuple[str, list[Json]], tmp_path: Path
) -> None:
    broker, events = system_broker
    servers = Servers(database_url=system_database, broker_url=broker, result_url=system_redis)
    with Stage(servers, system_database, tmp_path, workers=2) as stage:
        events.append(drop(stage))
        assert "RESOURCE_LOCKED" not in stage.log(), "the workers' names are their own"


def test_rabbitmq_brings_a_new_event_to_its_owner(
    system_database: str, system_redis: str, system_broker: tuple[str, list[Json]], tmp_path: Path
) -> None:
    broker, events = system_broker
    servers = Servers(database_url=system_database, broker_url=broker, result_url=system_redis)
    with SlowTicks(servers, system_database, tmp_path, workers=2) as stage, stage.client() as client:
        for _ in range(3):
            events.append(stage.create_event())
            path = f"/api/p/{events[-1]['slug']}/register"
            answers = [client.post(path, json={"name": "User"}) for _ in range(3)]

            assert [answer.status_code for answer in answers] == [201] * 3, stage.log()
