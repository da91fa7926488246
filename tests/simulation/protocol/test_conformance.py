"""The servers in memory do what PostgreSQL and Redis do: the same scripts on both, the same observations."""
# ruff: noqa: ANN401 - the values are of many kinds

import random
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Connection

from shared.domain import ids, rules
from shared.domain.outcomes import Confirmed, SettledCommand
from shared.messaging import queues, results
from shared.messaging.results import Publisher
from shared.postgres import arrays, ledger
from shared.settings import Settings
from tests.simulation import worlds
from tests.simulation.model import Json
from tests.simulation.protocol import stands
from tests.simulation.protocol.memory import loading, statements
from tests.simulation.protocol.stands import (
    InMemory,
    OnServers,
    Stand,
    accept,
    accepting,
    apply,
    command,
    working,
)
from worker import batch, load, save
from worker.ownership import Ownership


def error_of(stand: Stand, session: Any) -> str:
    """Return the name of the error with which a session refuses to commit."""
    with pytest.raises(psycopg.Error) as raised:
        stand.call(session.execute, "COMMIT")
    return raised.type.__name__


Script = Callable[[Stand], list[Any]]
SILENCE_SECONDS_MAX = 2.0
NEVER_STORED = [ids.new_id() for _ in range(3)]
"""Commands of which no test before has left outcomes in the server that the tests share."""


def one_key_is_one_command(stand: Stand) -> list[Any]:
    event_id, a, worker = stand.event(1), accepting(stand), working(stand)
    told = accept(
        stand, a, command(event_id, 1, key="k"), command(event_id, 2), command(event_id, 3, key="k")
    )
    told += accept(stand, a, command(event_id, 1, key="k"))
    told += accept(stand, a, command(event_id, 4, key="k", body="another"))
    applied = apply(stand, worker, [event_id])
    told += accept(stand, a, command(event_id, 5, key="k"))
    return [told, applied, stands.seen(stand, event_id)]


def a_refused_command_releases_its_key(stand: Stand) -> list[Any]:
    event_id, a, worker = stand.event(1, capacity=1, waitlistEnabled=False), accepting(stand), working(stand)
    told = accept(stand, a, command(event_id, 1), command(event_id, 2, key="k"))
    applied = apply(stand, worker, [event_id])
    told += accept(stand, a, command(event_id, 2, key="k"))  # the request itself, sent again
    told += accept(stand, a, command(event_id, 3, key="k", body="another"))
    return [told, applied, stands.seen(stand, event_id)]


def _behind_an_open_acceptance(stand: Stand, second: int, end: str) -> list[Any]:
    event_id, a, b = stand.event(1), accepting(stand), accepting(stand)
    stand.wait(a.execute("BEGIN"))
    told = accept(stand, a, command(event_id, 1, key="k"))
    started = stand.start(ledger.accept, b, [command(event_id, second, key="k")])
    stand.a_while()
    waits = not started.done()
    stand.wait(a.execute(end))
    return [told, waits, stands.told(started.result()), stands.seen(stand, event_id)]


def a_key_waits_for_its_first_command(stand: Stand) -> list[Any]:
    return _behind_an_open_acceptance(stand, 2, "COMMIT")


def a_key_is_free_after_a_rollback(stand: Stand) -> list[Any]:
    return _behind_an_open_acceptance(stand, 2, "ROLLBACK")


def a_command_that_is_sent_twice_at_once_is_one(stand: Stand) -> list[Any]:
    return _behind_an_open_acceptance(stand, 1, "COMMIT")


def a_key_names_its_command_until_its_release(stand: Stand) -> list[Any]:
    event_id, a, worker = stand.event(1, capacity=1, waitlistEnabled=False), accepting(stand), working(stand)
    accept(stand, a, command(event_id, 1), command(event_id, 2, key="k"))
    started: list[Any] = []

    def meanwhile() -> None:
        stand.pause()
        started.append(stand.start(ledger.accept, a, [command(event_id, 3, key="k")]))
        stand.pause()
        started.append(started[0].done())

    stand.call(batch.apply, worker, [event_id], 10, load.Scope(), meanwhile)
    return [started[1], stands.told(started[0].result()), stands.seen(stand, event_id)]


def a_retry_that_waits_binds_no_released_key(stand: Stand) -> list[Any]:
    """The retry reads the ledger before the first attempt commits, and comes to its key after the release."""
    event_id = stand.event(1, capacity=1, waitlistEnabled=False)
    first, retry, other, worker = accepting(stand), accepting(stand), accepting(stand), working(stand)
    accept(stand, first, command(event_id, 1))
    stand.wait(other.execute("BEGIN"))
    accept(stand, other, command(event_id, 2, key="a"))
    stand.wait(first.execute("BEGIN"))
    accept(stand, first, command(event_id, 3, key="b"))
    again = [command(event_id, 4, key="a"), command(event_id, 3, key="b")]
    started = stand.start(ledger.accept, retry, again)
    stand.a_while()
    stand.wait(first.execute("COMMIT"))
    refused = apply(stand, worker, [event_id])
    stand.wait(other.execute("COMMIT"))
    told = stands.told(started.result())
    told += accept(stand, retry, command(event_id, 5, key="b"))
    return [refused, told, stands.seen(stand, event_id)]


def an_open_acceptance_is_not_seen(stand: Stand) -> list[Any]:
    event_id, a, b, worker = stand.event(1), accepting(stand), accepting(stand), working(stand)
    stand.wait(a.execute("BEGIN"))
    accept(stand, a, command(event_id, 1))
    accept(stand, b, command(event_id, 2))
    applied = apply(stand, worker, [event_id])
    stand.wait(a.execute("COMMIT"))
    return [applied, apply(stand, worker, [event_id]), stands.seen(stand, event_id)]


def a_locked_event_is_skipped(stand: Stand) -> list[Any]:
    event_id, other_id = stand.event(1), stand.event(2)
    a, worker, other = accepting(stand), working(stand), working(stand)
    accept(stand, a, command(event_id, 1), command(other_id, 2))
    stand.call(worker.execute, "BEGIN")
    locked = stand.call(load.lock_events, worker, [event_id], 10, load.Scope())
    skipped = apply(stand, other, [event_id, other_id])
    stand.call(worker.execute, "ROLLBACK")
    return [len(locked), skipped, apply(stand, other, [event_id])]


def a_session_that_ends_loses_its_transaction(stand: Stand) -> list[Any]:
    event_id, a, worker, other = stand.event(1), accepting(stand), working(stand), working(stand)
    accept(stand, a, command(event_id, 1))
    stand.call(worker.execute, "BEGIN")
    stand.call(load.lock_events, worker, [event_id], 10, load.Scope())
    stand.end(worker.info.backend_pid)
    return [
        error_of(stand, worker),
        worker.closed,
        apply(stand, other, [event_id]),
        stands.seen(stand, event_id),
    ]


def a_locked_registration_is_not_waited_for(stand: Stand) -> list[Any]:
    event_id, a, worker, other = stand.event(1), accepting(stand), working(stand), working(stand)
    accept(stand, a, command(event_id, 1))
    apply(stand, worker, [event_id])
    registration_id = ids.registration_id(worlds.command_id(1))
    stand.call(other.execute, "BEGIN")
    row: dict[str, Any] = {
        "event_ids": arrays.uuids([event_id]),
        "ids": arrays.uuids([registration_id]),
        "statuses": arrays.texts(["CONFIRMED"]),
        "seqs": arrays.numbers([10**9]),
        "original_seqs": arrays.numbers([None]),
    }
    stand.call(other.execute, save.UPDATE_REGISTRATIONS, row)
    payload = {"registrationId": str(registration_id), "status": "CANCELLED"}
    accept(stand, a, command(event_id, 2, "change_status", payload))
    refused = apply(stand, worker, [event_id])
    stand.call(other.execute, "ROLLBACK")
    return [refused, apply(stand, worker, [event_id]), stands.seen(stand, event_id)]


def a_bucket_has_one_owner(stand: Stand) -> list[Any]:
    first, second = (_joined(stand, number) for number in (1, 2))
    seen: list[Any] = [len(first.buckets | second.buckets)]
    for worker in (first, second, first, second):
        moved = stand.call(worker.rebalance)
        both = first.buckets & second.buckets
        seen += [moved.gained, moved.lost, sorted(both), worker.has_its_share]
    stand.end(first.session.info.backend_pid)
    moved = stand.call(second.rebalance)
    with pytest.raises(psycopg.OperationalError):
        stand.call(first.rebalance)
    return [*seen, moved.gained, second.has_its_share]


def _joined(stand: Stand, number: int) -> Ownership:
    made = Ownership(
        session=working(stand), number=number, silence_seconds_max=stand.settings.owner_silence_seconds_max
    )
    stand.call(made.join)
    return made


def a_silent_session_is_ended(stand: Stand) -> list[Any]:
    event_id, a = stand.event(1), accepting(stand)
    accept(stand, a, command(event_id, 1))
    silent = working(stand)
    stand.call(silent.execute, "BEGIN")
    stand.call(load.lock_events, silent, [event_id], 10, load.Scope())
    for _ in range(8):
        stand.a_while()
    applied = apply(stand, working(stand), [event_id])
    return [applied, error_of(stand, silent), silent.closed]


def owned_events_with_pending_commands_are_found(stand: Stand) -> list[Any]:
    event_ids, a, owner = [stand.event(number) for number in (1, 2, 3)], accepting(stand), _joined(stand, 1)
    stand.call(owner.rebalance)
    found = [stand.call(owner.events_pending)]
    accept(stand, a, command(event_ids[2], 1), command(event_ids[0], 2), command(event_ids[0], 3))
    found.append(stand.call(owner.events_pending))
    apply(stand, owner.session, [event_ids[0]])
    return [*found, stand.call(owner.events_pending)]


def outcomes_are_stored_and_announced(stand: Stand) -> list[Any]:
    event_id, ids_ = UUID(int=1), NEVER_STORED
    settled = [
        SettledCommand(
            event_id=event_id,
            command_id=id_,
            seq=place,
            outcome=Confirmed(registration_id=ids.registration_id(id_), spots_count=1 + place),
        )
        for place, id_ in enumerate(ids_[:2])
    ]
    url = stand.settings.result_url
    writer = Publisher(url, 60, lambda: 0.0)
    stand.on_close.callback(writer.close)
    client = results.connect_async(url)
    stand.on_close.callback(lambda: stand.wait(client.aclose()))
    keys = list(reversed(ids_))

    async def heard(count: int) -> list[Any]:
        announcements = results.announcements(url)
        found = [await anext(announcements) for _ in range(count)]
        await announcements.aclose()  # type: ignore[attr-defined]  # it is a generator
        return found

    before = stand.wait(results.read(client, keys))
    stand.call(writer.write, settled[:1])
    listening = stand.start(heard, 2)
    stand.a_while()
    stand.call(writer.write, settled)
    return [before, listening.result(), stand.wait(results.read(client, keys))]


def messages_are_bounded_and_read_once(stand: Stand) -> list[Any]:
    sender = queues.connect_sender(queues.celery_app(stand.settings), stand.settings)
    queue, event_ids = queues.OWNER_QUEUE % 4711, [UUID(int=number) for number in range(1, 4)]
    for number in range(queues.MESSAGES_MAX + 3):
        stand.wait(sender.send(queue, [UUID(int=number)]))
    stand.wait(sender.send(queue, event_ids))
    stand.a_while()
    first = stand.messages(queue)
    stand.on_close.callback(lambda: stand.wait(sender.close()))
    return [len(first), first[0], first[-1], stand.messages(queue)]


SCRIPTS: list[Script] = [
    outcomes_are_stored_and_announced,
    messages_are_bounded_and_read_once,
    one_key_is_one_command,
    a_refused_command_releases_its_key,
    a_key_waits_for_its_first_command,
    a_key_is_free_after_a_rollback,
    a_command_that_is_sent_twice_at_once_is_one,
    a_key_names_its_command_until_its_release,
    a_retry_that_waits_binds_no_released_key,
    an_open_acceptance_is_not_seen,
    a_locked_event_is_skipped,
    a_session_that_ends_loses_its_transaction,
    a_locked_registration_is_not_waited_for,
    owned_events_with_pending_commands_are_found,
]


def observed(stand: InMemory | OnServers, script: Script) -> list[Any]:
    try:
        return script(stand)
    finally:
        stand.close()


def both(script: Script, settings: Settings, connection: Connection) -> tuple[list[Any], list[Any]]:
    return observed(InMemory(settings), script), observed(OnServers(settings, connection), script)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_the_servers_in_memory_do_what_real_ones_do(
    script: Script, settings: Settings, connection: Connection
) -> None:
    in_memory, on_servers = both(script, settings, connection)

    assert in_memory == on_servers


def test_a_retry_that_waits_binds_no_released_key(settings: Settings, connection: Connection) -> None:
    _, told, _ = observed(OnServers(settings, connection), a_retry_that_waits_binds_no_released_key)

    assert told[-1] == (worlds.command_id(5), False, True), "the key is free for another command"


def test_a_silent_session_is_ended_as_in_postgresql(settings: Settings, connection: Connection) -> None:
    impatient = settings.model_copy(update={"owner_silence_seconds_max": SILENCE_SECONDS_MAX})
    in_memory, on_servers = both(a_silent_session_is_ended, impatient, connection)

    assert in_memory == on_servers


def test_buckets_change_hands_as_in_postgresql(settings: Settings, connection: Connection) -> None:
    with patch("tests.simulation.protocol.processes.BUCKETS", 512):
        in_memory, on_servers = both(a_bucket_has_one_owner, settings, connection)

    assert in_memory == on_servers


_SLOW_SECONDS = 1.0
_SLOW = load.LOCK_EVENTS.replace(
    b"(SELECT * FROM event WHERE id = pending.event_id FOR UPDATE SKIP LOCKED)",
    b"(SELECT event.* FROM event, pg_sleep(%.1f) WHERE id = pending.event_id"
    b" FOR UPDATE OF event SKIP LOCKED)" % _SLOW_SECONDS,
)


@pytest.mark.parametrize("refused", [False, True])
def test_a_stale_read_is_noticed_as_in_postgresql(
    refused: bool,  # noqa: FBT001
    settings: Settings,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The audit trail gives a stale read away, or the outcomes that are there already if nothing changed."""
    monkeypatch.setitem(statements.KNOWN, _SLOW, partial(loading.lock_events, pause_seconds=_SLOW_SECONDS))

    def script(stand: Stand) -> list[Any]:
        event_id, a = stand.event(1, paused=refused), accepting(stand)
        worker, other = working(stand), working(stand)
        accept(stand, a, command(event_id, 1))
        apply(stand, worker, [event_id])
        accept(stand, a, command(event_id, 2), command(event_id, 3))
        with patch.object(load, "LOCK_EVENTS", _SLOW):
            slow = stand.start(batch.apply, worker, [event_id], 1)
            stand.a_while()
        first = apply(stand, other, [event_id], 1)
        return [
            first,
            stands.settled(slow),
            apply(stand, worker, [event_id]),
            stands.seen(stand, event_id),
        ]

    assert load.LOCK_EVENTS != _SLOW
    in_memory, on_servers = both(script, settings, connection)

    assert in_memory == on_servers
    assert in_memory[1][0] == "Overtaken"


@pytest.mark.parametrize("seed", range(20))
def test_a_random_history_is_the_same_in_postgresql(
    seed: int, settings: Settings, connection: Connection
) -> None:
    def script(stand: Stand) -> list[Any]:
        return a_random_history(stand, random.Random(seed))  # noqa: S311 - reproducible, not secret

    with patch.object(rules, "PROMOTED_SPOTS_MAX", 2):
        in_memory, on_servers = both(script, settings, connection)

    assert in_memory == on_servers


def a_random_history(stand: Stand, dice: random.Random) -> list[Any]:
    events = [
        stand.event(
            number,
            capacity=dice.randint(1, 5),
            waitlistEnabled=dice.random() < 0.8,
            waitlistLimit=dice.choice([None, 2]),
            promotionPolicy=dice.choice(["strict_fifo", "skip_unfit"]),
        )
        for number in (1, 2)
    ]
    sessions, worker = [accepting(stand), accepting(stand)], working(stand)
    seen: list[Any] = []
    number = 0
    for _ in range(12):
        new = []
        for _ in range(dice.randint(1, 4)):
            number += 1
            kind, payload = _asked(dice, number)
            key = dice.choice([None, "k", "l", f"key {number}"])
            former_key = dice.choice([None, "k", "l"]) if key is not None else None
            asked = command(dice.choice(events), number, kind, payload, key, former_key=former_key)
            new.append(asked)
        seen.append(accept(stand, dice.choice(sessions), *new))
        if dice.random() < 0.3:
            seen.append(accept(stand, dice.choice(sessions), *new))
        if dice.random() < 0.7:
            seen.append(apply(stand, worker, events, dice.randint(1, 6)))
    seen += [apply(stand, worker, events) for _ in range(20)]
    return [*seen, *(stands.seen(stand, event_id) for event_id in events)]


def _asked(dice: random.Random, number: int) -> tuple[str, Json]:
    named = str(ids.registration_id(worlds.command_id(dice.randint(1, number))))
    email = dice.choice([None, None, "ada@example.org"])
    kinds: list[tuple[str, Json]] = [
        *[("register", {"name": f"guest {number}", "spotsCount": dice.randint(1, 3), "email": email})] * 5,
        ("change_status", {"registrationId": named, "status": "CANCELLED"}),
        ("change_status", {"registrationId": named, "status": "CONFIRMED"}),
        ("change_status", {"registrationId": named, "status": "WAITLIST"}),
        ("delete_registration", {"registrationId": named}),
        ("change_event", {"capacity": dice.randint(1, 8)}),
        ("change_event", {"capacity": 0, "allowOverbooked": True}),
        ("change_event", {"waitlistEnabled": dice.random() < 0.5}),
    ]
    return dice.choice(kinds)
