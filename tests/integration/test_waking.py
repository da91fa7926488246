"""Wake messages on real servers: one for all events of an owner, through Celery to the worker."""

import asyncio
import base64
import json
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import psycopg
import pytest
import redis
from kombu import Consumer as KombuConsumer
from kombu import Message
from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.pool import NullPool
from structlog.testing import capture_logs

from api.commands.waker import BucketOwners, Waker
from ops.embedded import Servers
from shared.domain import ids
from shared.domain.outcomes import Confirmed, SettledCommand
from shared.messaging import queues, results
from shared.messaging.queues import CelerySender, RedisSender, WakeSender
from shared.messaging.results import Publisher
from shared.postgres import connections, locks
from shared.settings import Settings
from tests.simulation.histories import SETTINGS
from tests.simulation.in_postgres import InPostgres
from tests.stage import SlowTicks
from worker import celery_hooks

NOW = 5.0
OUTCOME = Confirmed(registration_id=UUID(int=9), spots_count=1)
_JOIN = text(f"SELECT pg_advisory_lock_shared({locks.WORKER}, :number)")
_OWN = text(f"SELECT pg_advisory_lock({locks.BUCKET}, :bucket)")
_NOWHERE = {"database_url": "postgresql+psycopg://127.0.0.1:9/nothing"}
ONE, OTHER = 1, 2
"""Workers."""


def own(connection: Connection, number: int, events: Sequence[UUID]) -> None:
    """Own these events, as the worker of this number does."""
    connection.execute(_JOIN, {"number": number})
    for event_id in events:
        connection.execute(_OWN, {"bucket": ids.bucket(event_id)})


def events_in_buckets(count: int) -> list[UUID]:
    """Return events of as many buckets."""
    found = {ids.bucket(event_id): event_id for event_id in (ids.new_id() for _ in range(20 * count))}
    return list(found.values())[:count]


def event_queues(events: Sequence[UUID]) -> list[tuple[str, list[UUID]]]:
    """Return a message for each event, to the event's queue."""
    return [(queues.EVENT_QUEUE % event_id, [event_id]) for event_id in events]


async def unsent(_: str, __: Sequence[UUID]) -> None:
    raise AssertionError


def addressed(
    settings: Settings, asked: Sequence[tuple[float, Sequence[UUID]]]
) -> list[list[tuple[str, list[UUID]]]]:
    """Return the messages that wake these events, asked for one after the other at these seconds."""

    async def ask() -> list[list[tuple[str, list[UUID]]]]:
        engine = connections.async_engine(settings)
        seconds = [NOW]
        owners = BucketOwners(engine)
        await owners.read()
        await engine.dispose()
        waker = Waker(unsent, owners, lambda: seconds[0])
        messages = []
        for seconds[0], events in asked:
            messages.append(waker.messages(events))
        return messages

    return asyncio.run(ask())


def test_first_messages_go_to_the_owners(settings: Settings) -> None:
    events = events_in_buckets(9)
    engine = create_engine(settings.database_url, poolclass=NullPool)
    with engine.connect() as one, engine.connect() as other:
        own(one, ONE, events[:5])
        own(other, OTHER, events[5:8])
        (messages,) = addressed(settings, [(NOW, events)])

    assert messages == [
        (queues.OWNER_QUEUE % ONE, events[:5]),
        (queues.OWNER_QUEUE % OTHER, events[5:8]),
        *event_queues(events[8:]),
    ]


def test_an_event_woken_lately_has_its_own_queue(settings: Settings) -> None:
    first, second, third = events_in_buckets(3)
    later = NOW + queues.ADDRESSED_SECONDS
    with create_engine(settings.database_url, poolclass=NullPool).connect() as owner:
        own(owner, ONE, [first, second, third])
        messages = addressed(
            settings,
            [
                (NOW, [first]),
                (NOW + 1, [first]),
                (NOW + 2, [second, first]),
                (later, [third]),
                (later + 2, [second]),
            ],
        )

    queue, own_queue = queues.EVENT_QUEUE % first, queues.OWNER_QUEUE % ONE
    assert messages == [
        [(own_queue, [first])],
        [(queue, [first])],
        [(queue, [second, first])],
        [(own_queue, [third])],
        [(own_queue, [second])],
    ]


def test_new_owners_are_noticed(settings: Settings) -> None:
    events = events_in_buckets(2)

    async def ask() -> None:
        engine = connections.async_engine(settings)
        owners = BucketOwners(engine)
        waker = Waker(unsent, owners, lambda: NOW)
        owners.task.ensure_running()
        assert waker.messages(events) == event_queues(events)
        with create_engine(settings.database_url, poolclass=NullPool).connect() as owner:
            own(owner, ONE, events)
            async with asyncio.timeout(20):
                while waker.messages(events) == event_queues(events):  # noqa: ASYNC110 - nothing else tells
                    await asyncio.sleep(0.01)
        await owners.task.cancel()
        await engine.dispose()

    asyncio.run(ask())


def test_a_bounded_number_of_events_is_remembered(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "CONSUMED_EVENTS_MAX", 2)
    events = events_in_buckets(3)
    later = NOW + queues.ADDRESSED_SECONDS + 1
    with create_engine(settings.database_url, poolclass=NullPool).connect() as owner:
        own(owner, ONE, events)
        asked = [(NOW, [event_id]) for event_id in (*events, *events)] + [(later, events[2:])] * 2
        messages = addressed(settings, asked)

    own_queue = [[(queues.OWNER_QUEUE % ONE, [event_id])] for event_id in events]
    assert messages == [
        *own_queue,
        *[[message] for message in event_queues(events[:2])],
        own_queue[2],
        own_queue[2],
        event_queues(events[2:]),
    ]


def test_without_a_database_every_event_wakes_alone(settings: Settings) -> None:
    events = events_in_buckets(6)
    with capture_logs() as logs:
        (messages,) = addressed(settings.model_copy(update=_NOWHERE), [(NOW, events)])

    assert messages == event_queues(events)
    assert [entry["event"] for entry in logs] == ["owners_not_readable"]


def arguments(client: "redis.Redis", queue: str) -> list[object]:
    """Take out of a queue the arguments of all its messages, oldest first."""
    messages = []
    while isinstance(message := client.rpop(queue), bytes):
        messages.append(json.loads(base64.b64decode(json.loads(message)["body"]))[0])
    return messages


def through_celery(settings: Settings) -> WakeSender:
    return CelerySender(queues.celery_app(settings))


def straight_to_redis(settings: Settings) -> WakeSender:
    sender = queues.connect_sender(queues.celery_app(settings), settings)
    assert isinstance(sender, RedisSender)
    return sender


SENDERS = pytest.mark.parametrize("connect", [through_celery, straight_to_redis])
Connect = Callable[[Settings], WakeSender]


@SENDERS
def test_one_message_wakes_an_owner_for_all(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    monkeypatch.setattr("api.commands.waker._OUTCOME_SECONDS_MAX", 0.001)
    alone, *events = events_in_buckets(6)

    async def wake() -> None:
        async_engine = connections.async_engine(settings)
        sender = connect(settings)
        owners = BucketOwners(async_engine)
        await owners.read()
        waker = Waker(sender.send, owners, time.monotonic)
        waker.wake(alone, ids.new_id())
        await asyncio.sleep(0)
        for event_id in events:
            waker.wake(event_id, ids.new_id())
        await waker.close()
        await sender.close()
        await async_engine.dispose()

    number = int(ids.new_id().int % 2**31)  # the queue outlives the test
    with create_engine(settings.database_url, poolclass=NullPool).connect() as owner:
        own(owner, number, events)
        asyncio.run(wake())

    with results.connect(settings.broker_url) as client:
        assert arguments(client, queues.EVENT_QUEUE % alone) == [[[str(alone)]]]
        assert arguments(client, queues.OWNER_QUEUE % number) == [[[str(event_id) for event_id in events]]]


def test_another_broker_gets_messages_through_celery(settings: Settings) -> None:
    amqp = settings.model_copy(update={"broker_url": "amqp://127.0.0.1:9//"})
    sender = queues.connect_sender(queues.celery_app(amqp), amqp)

    assert isinstance(sender, CelerySender)
    asyncio.run(sender.close())


@pytest.mark.parametrize("events", [1, 3])
def test_redis_gets_the_message_celery_sends(settings: Settings, events: int) -> None:
    app, event_ids = queues.celery_app(settings), [ids.new_id() for _ in range(events)]

    async def send() -> None:
        sender = straight_to_redis(settings)
        await sender.send(queue, event_ids)
        await sender.close()

    queue = queues.EVENT_QUEUE % event_ids[0]
    queues.wake(app, queue, event_ids)
    asyncio.run(send())
    with results.connect(settings.broker_url) as client:
        messages = client.lrange(queue, 0, -1)
        client.delete(queue)

    ours, theirs = messages
    assert comparable(ours) == comparable(theirs)


def comparable(message: bytes) -> dict[str, Any]:
    """Return a message with its body read, each id's type in its place, and without its sender's name."""
    read = json.loads(message)
    for name in ("reply_to", "argsrepr"):
        read["properties"].pop(name, None)
    read["body"] = json.loads(base64.b64decode(read["body"]))
    for part, names in (("headers", ("id", "root_id")), ("properties", ("correlation_id", "delivery_tag"))):
        for name in names:
            read[part][name] = type(read[part][name])
    return cast("dict[str, Any]", read)


@SENDERS
def test_a_message_is_read_as_it_was_sent(settings: Settings, connect: Connect) -> None:
    app, event_ids = queues.celery_app(settings), [ids.new_id() for _ in range(2)]
    woken: list[Collection[UUID]] = []

    receive = celery_hooks.message_handler(woken.append)
    queue = queues.event_queue(event_ids[0])

    async def send() -> None:
        sender = connect(settings)
        await sender.send(queue.name, event_ids)
        await sender.close()

    asyncio.run(send())
    app.send_task(queues.APPLY_COMMANDS, args=["no event"], queue=queue, declare=[])  # type: ignore[arg-type]

    def take(message: Message) -> None:
        receive(message)

    with app.connection_for_read() as broker, broker.channel() as channel, capture_logs() as logs:
        consumer = KombuConsumer(channel, [queue], on_message=take, accept=["json"])
        with consumer:
            for _ in range(2):
                broker.drain_events(timeout=10)

    assert woken == [event_ids]
    assert [entry["event"] for entry in logs] == ["wake_not_understood"]


def test_a_message_that_comes_too_late_is_dropped(settings: Settings) -> None:
    app = queues.celery_app(settings)
    released, other = (queues.event_queue(ids.new_id()) for _ in range(2))
    server = results.connect(settings.broker_url)
    taken: list[Message] = []
    with app.connection_for_read() as broker, broker.channel() as channel, server:
        celery_hooks.drop_garbage(channel)  # what the worker does with each new channel
        with KombuConsumer(channel, [released, other], on_message=taken.append, accept=["json"]) as consumer:
            with pytest.raises(TimeoutError):
                broker.drain_events(timeout=0.1)  # the wait for messages goes on
            consumer.cancel_by_queue(released.name)
            for queue in (released, other):
                queues.wake(app, queue.name, [ids.new_id()])
            broker.drain_events(timeout=10)  # the late one
            broker.drain_events(timeout=10)
        left = server.exists(released.name)

    assert [message.delivery_info["routing_key"] for message in taken] == [other.name]
    assert not left


def test_a_message_wakes_the_owner(
    servers: Servers, database: str, connection: Connection, tmp_path: Path
) -> None:
    InPostgres(connection, SETTINGS)  # there before the workers look for the first time
    with SlowTicks(servers, database, tmp_path) as stage, stage.client() as client:
        path = f"/api/p/{SETTINGS['slug']}/register"
        answers = [client.post(path, json={"name": "User"}) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [201] * 3, stage.log()


def test_a_new_event_is_heard_at_once(servers: Servers, database: str, tmp_path: Path) -> None:
    with SlowTicks(servers, database, tmp_path, workers=2) as stage, stage.client() as client:
        for _ in range(3):
            event = stage.create_event()
            path = f"/api/p/{event['slug']}/register"
            answers = [client.post(path, json={"name": "User"}) for _ in range(3)]

            assert [answer.status_code for answer in answers] == [201] * 3, stage.log()


def test_a_new_event_is_heard_beside_a_busy_owner(servers: Servers, database: str, tmp_path: Path) -> None:
    url = make_url(database).set(drivername="postgresql").render_as_string(hide_password=False)
    seconds = []
    with (
        SlowTicks(servers, database, tmp_path, workers=1) as stage,
        stage.client() as client,
        psycopg.connect(url) as holder,
    ):
        for _ in range(3):
            asked = []
            busy, new = stage.create_event(), stage.create_event()
            holder.execute("LOCK TABLE registration IN EXCLUSIVE MODE")
            for event in (busy, new):
                path = f"/api/p/{event['slug']}/register"
                asked.append(client.post(path, json={"name": "First"}, headers={"prefer": "respond-async"}))
                time.sleep(0.07)  # below the time after which a batch gives up to wait for a lock
            holder.rollback()
            for answer in asked:
                client.get(answer.headers["location"], params={"wait": 20})
            began = time.monotonic()
            client.post(f"/api/p/{new['slug']}/register", json={"name": "Next"})
            seconds.append(time.monotonic() - began)

    assert min(seconds) < 0.5, (seconds, stage.log())


class _OthersVariables(SlowTicks):
    """Such a service in an environment with variables of other programs that use Celery."""

    def environment(self) -> dict[str, str]:
        names = ("BROKER_URL", "CELERY_BROKER_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND")
        return {**super().environment(), **dict.fromkeys(names, "redis://127.0.0.1:9/0"), "APP": "theirs"}


def test_variables_of_others_lead_no_message_astray(
    servers: Servers, database: str, connection: Connection, tmp_path: Path
) -> None:
    InPostgres(connection, SETTINGS)
    with _OthersVariables(servers, database, tmp_path) as stage, stage.client() as client:
        path = f"/api/p/{SETTINGS['slug']}/register"
        answers = [client.post(path, json={"name": "User"}) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [201] * 3, stage.log()


def test_messages_that_nobody_reads_stay_few(settings: Settings) -> None:
    event_id = ids.new_id()

    async def send() -> None:
        sender = straight_to_redis(settings)
        for _ in range(3 * queues.MESSAGES_MAX):
            await sender.send(queues.EVENT_QUEUE % event_id, [event_id])
        await sender.close()

    with results.connect(settings.broker_url) as client:
        name = queues.event_queue(event_id).name
        client.lpush(name, b"of an earlier version, for ever")
        asyncio.run(send())
        length, seconds_left = client.llen(name), client.ttl(name)
        client.delete(name)

    assert length == queues.MESSAGES_MAX
    assert 0 < seconds_left <= queues.MESSAGE_SECONDS_MAX


def test_a_probe_leaves_nothing_behind(settings: Settings) -> None:
    async def probe() -> None:
        sender = straight_to_redis(settings)
        client = results.connect_async(settings.result_url)
        for _ in range(3):
            await sender.probe()
            await results.probe(client)
        await asyncio.sleep(0.01)  # results are kept a millisecond
        await client.aclose()
        await sender.close()

    with results.connect(settings.broker_url) as client:
        before = set(client.scan_iter())
        asyncio.run(probe())
        assert set(client.scan_iter()) <= before


def test_installations_hear_only_themselves(settings: Settings) -> None:
    """Redis has one set of channels for all its databases."""
    other_url = make_url(settings.result_url).update_query_dict({"virtual_host": "7"})
    heard: list[list[UUID]] = []

    async def listen() -> None:
        async for event_ids in results.announcements(settings.result_url):
            heard.append(event_ids)  # noqa: PERF401 - read while it grows

    async def run() -> None:
        listening = asyncio.create_task(listen())
        while not heard:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.005)
        for url in (other_url.render_as_string(hide_password=False), settings.result_url):
            writer = Publisher(url, keep_seconds=1, clock=lambda: 0.0)
            writer.write(
                [SettledCommand(event_id=ids.new_id(), command_id=ids.new_id(), seq=1, outcome=OUTCOME)]
            )
            writer.close()
        while len(heard) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        listening.cancel()

    asyncio.run(asyncio.wait_for(run(), 20))

    assert len(heard) == 2, "the first says that the listening begins"


@pytest.mark.parametrize("url", ["redis://h/7", "redis://h?db=7", "redis+socket:///x.sock?virtual_host=7"])
def test_the_channel_names_the_database(url: str) -> None:
    with results.connect(url) as client:
        assert results.channel(client) == "admitone.settled.7"
