"""Rings: one for all events of an owner, none for what is answered already."""

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

import pytest
import redis
from api.rings import rings
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from api.commands.owner_cache import Owners
from api.commands.waker import Bell
from shared.domain import ids
from shared.messaging import queues, results
from shared.postgres import connections, locks
from shared.settings import Settings

_OWN = text("SELECT pg_advisory_lock(:key)")


def own(connection: Connection, events: Sequence[UUID]) -> None:
    """Own these events, as a worker does."""
    for event_id in events:
        connection.execute(_OWN, {"key": locks.event_key(event_id)})


def groups_of(settings: Settings, events: Sequence[UUID]) -> list[list[UUID]]:
    """Return in which groups the API would ring for these events."""

    async def ask() -> list[list[UUID]]:
        engine = connections.async_engine(settings)
        try:
            return await Owners(engine).together(events)
        finally:
            await engine.dispose()

    return asyncio.run(ask())


def test_events_of_one_owner_ring_together_and_unowned_ones_alone(settings: Settings) -> None:
    events = [ids.new_id() for _ in range(9)]
    engine = create_engine(settings.database_url, poolclass=NullPool)
    with engine.connect() as one, engine.connect() as other:
        own(one, events[:5])
        own(other, events[5:8])
        groups = groups_of(settings, events)

    assert groups == [events[:5], events[5:8], events[8:]]


def test_an_event_alone_rings_without_a_look_at_the_database(settings: Settings) -> None:
    events = [ids.new_id()]
    nowhere = settings.model_copy(update={"database_url": "postgresql+psycopg://127.0.0.1:9/nothing"})
    assert groups_of(nowhere, events) == [[event_id] for event_id in events]


def test_a_database_that_is_not_there_costs_no_ring(settings: Settings) -> None:
    events = [ids.new_id() for _ in range(6)]
    nowhere = settings.model_copy(update={"database_url": "postgresql+psycopg://127.0.0.1:9/nothing"})
    assert groups_of(nowhere, events) == [[event_id] for event_id in events]


async def _after(settings: Settings, *steps: tuple[str, UUID, UUID]) -> None:
    """Let a bell ring for commands, and hear of outcomes, in this order."""
    engine = connections.async_engine(settings)
    ringing = Bell(rings(queues.celery_app(settings), settings), Owners(engine))
    try:
        for what, event_id, command_id in steps:
            (ringing.ring if what == "ring" else ringing.heard)(event_id, [command_id])
            await asyncio.sleep(0)
    finally:
        await ringing.close()
        await engine.dispose()


def rung(client: "redis.Redis", event_id: UUID) -> list[object]:
    """Take out of an event's queue the arguments of all its messages, oldest first."""
    messages = []
    while isinstance(message := client.rpop(f"event.{event_id}"), bytes):
        messages.append(json.loads(base64.b64decode(json.loads(message)["body"]))[0])
    return messages


def test_a_ring_is_in_redis_as_celery_and_kombu_would_put_it_there(settings: Settings) -> None:
    app, event_id, others = queues.celery_app(settings), ids.new_id(), [ids.new_id()]
    command_ids = [ids.new_id(), ids.new_id()]
    queues.ring(app, event_id, command_ids, others)
    client = results.connect(settings.broker_url)
    theirs = client.lindex(queues.event_queue_name(event_id), 0)
    client.delete(queues.event_queue_name(event_id))
    client.close()

    ours = queues.redis_message(app, event_id, command_ids, others)

    assert isinstance(theirs, bytes)
    assert comparable(ours) == comparable(theirs)


def comparable(message: bytes) -> dict[str, Any]:
    """Return a message with its body read, each id's type in its place, and nothing about results."""
    read = json.loads(message)
    for name in ("reply_to", "argsrepr"):
        read["properties"].pop(name, None)
    read["body"] = json.loads(base64.b64decode(read["body"]))
    for part, names in (("headers", ("id", "root_id")), ("properties", ("correlation_id", "delivery_tag"))):
        for name in names:
            read[part][name] = type(read[part][name])
    return cast("dict[str, Any]", read)


def test_what_is_answered_before_its_turn_needs_no_ring(settings: Settings) -> None:
    event_id, first, second, third = (ids.new_id() for _ in range(4))
    steps = [("ring", first), ("ring", second), ("ring", third), ("heard", second), ("heard", first)]
    asyncio.run(_after(settings, *((what, event_id, command_id) for what, command_id in steps)))

    client = results.connect(settings.broker_url)
    messages = rung(client, event_id)
    client.close()

    assert messages == [[str(event_id), [str(first)]], [str(event_id), [str(third)]]]


def test_one_message_wakes_an_owner_for_all_its_events(settings: Settings) -> None:
    events = [ids.new_id() for _ in range(6)]
    commands = {event_id: ids.new_id() for event_id in events}
    engine = create_engine(settings.database_url, poolclass=NullPool)
    with engine.connect() as owner:
        own(owner, events)
        # The first rings alone; the others gather behind it.
        asyncio.run(_after(settings, *(("ring", event_id, commands[event_id]) for event_id in events)))

    client = results.connect(settings.broker_url)
    messages = {event_id: rung(client, event_id) for event_id in events}
    client.close()

    first, second, *others = events
    assert messages[first] == [[str(first), [str(commands[first])]]]
    assert messages[second] == [[str(second), [str(commands[second])], [str(id_) for id_ in others]]]
    assert [messages[event_id] for event_id in others] == [[]] * 4


def test_only_an_outcome_of_what_was_rung_for_lets_the_next_ring_go(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bell, "_HEARING_SECONDS_MAX", 60)
    event_id, first, second, earlier = (ids.new_id() for _ in range(4))
    client = results.connect(settings.broker_url)

    async def ring_twice() -> tuple[list[object], list[object]]:
        engine = connections.async_engine(settings)
        ringing = Bell(rings(queues.celery_app(settings), settings), Owners(engine))
        ringing.ring(event_id, [first])
        await asyncio.sleep(0)
        ringing.ring(event_id, [second])
        await asyncio.sleep(0.2)
        ringing.heard(event_id, [earlier])
        await asyncio.sleep(0.2)
        before = rung(client, event_id)
        ringing.heard(event_id, [first])
        queue = f"event.{event_id}"
        await asyncio.to_thread(client.brpoplpush, queue, queue, 10)  # waits until it is there
        ringing.heard(event_id, [second])
        await ringing.close()
        await engine.dispose()
        return before, rung(client, event_id)

    before, after = asyncio.run(ring_twice())
    client.close()

    assert before == [[str(event_id), [str(first)]]]
    assert after == [[str(event_id), [str(second)]]]
