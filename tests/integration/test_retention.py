"""The nightly job: what is old and settled is forgotten, and all else stays."""

import asyncio
from datetime import timedelta
from uuid import UUID

import msgspec
import psycopg
import pytest
from sqlalchemy import make_url

from ops.maintenance import audit, retention
from ops.maintenance.retention import Forgotten
from shared.domain import commands, ids
from shared.domain.commands import (
    AddRegistration,
    ChangeStatus,
    Command,
    DeleteRegistration,
    Erase,
    HealCounter,
    Register,
    Status,
)
from shared.postgres import ledger
from shared.postgres.bounded import BoundedSession
from shared.postgres.ledger import Acceptance, NewCommand
from shared.settings import Settings
from tests.databases import as_worker, run, session_of, settle_all
from worker.owner import apply as apply_batch

OLD = timedelta(days=31)
YOUNG = timedelta(days=29)
_KEY, _OTHER_KEY = b"a key of these tests", b"another key of them"


@pytest.fixture
def event_id(database: str) -> UUID:
    """An event with one spot and no waitlist."""
    id_ = ids.new_id()
    run(
        database,
        "INSERT INTO event (id, slug, title, capacity, waitlist_enabled) VALUES (:id, 'e', 'E', 1, false)",
        id=id_,
    )
    return id_


def accept(database: str, event_id: UUID, command: Command, age: timedelta, **more: bytes) -> UUID:
    """Write a command into the ledger as it was accepted so long ago."""
    new = NewCommand(
        event_id=event_id,
        id=ids.new_id(),
        kind=commands.KINDS[type(command)],
        payload=msgspec.json.encode(command),
        actor="public",
        **more,  # type: ignore[arg-type]
    )
    asyncio.run(_accept(database, new, ()))
    run(database, "UPDATE command SET accepted_at = now() - :age WHERE id = :id", age=age, id=new.id)
    return new.id


async def _accept(database: str, new: NewCommand, keys: tuple[bytes, ...]) -> Acceptance:
    plain = make_url(database).set(drivername="postgresql").render_as_string(hide_password=False)
    async with await BoundedSession.connect(plain, autocommit=True) as session:
        await ledger.prepare(session)
        (acceptance,) = await ledger.accept(session, [new], keys or (b"",))
        return acceptance


def payloads(database: str) -> dict[UUID, object]:
    return {row.id: row.payload for row in run(database, "SELECT id, payload FROM command ORDER BY seq")}


def test_old_payloads_and_refusals_are_forgotten(database: str, event_id: UUID) -> None:
    held = accept(database, event_id, Register(name="Ada"), OLD)
    refused = accept(database, event_id, Register(name="Too late"), OLD)
    young = accept(database, event_id, Register(name="Later"), YOUNG)
    healed = accept(database, event_id, HealCounter(reason="A look"), OLD)
    settle_all(database, event_id, 10)
    waits = accept(database, event_id, Register(name="Pending"), OLD)

    assert retention.tidy(database, 30) == Forgotten(payloads=2, commands=1)

    left = payloads(database)
    assert refused not in left
    assert (left[held], left[healed]) == ({}, {})
    assert {id_ for id_, payload in left.items() if payload} == {young, waits}
    told = {row.command_id for row in run(database, "SELECT command_id FROM outcome")}
    assert told == {held, young, healed}
    assert [row.name for row in run(database, "SELECT name FROM registration")] == ["Ada"]
    assert retention.tidy(database, 30) == Forgotten()


def test_more_than_a_batch_is_forgotten_at_once(
    database: str, event_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_ROWS_AT_ONCE", 3)
    for number in range(10):
        accept(database, event_id, Register(name=f"Number {number}"), OLD)
    run(database, "UPDATE command SET accepted_at = '2026-01-01'")  # all at the same moment
    settle_all(database, event_id, 10)

    assert retention.tidy(database, 30) == Forgotten(payloads=1, commands=9)


def test_a_locked_command_is_left_for_the_next_night(database: str, event_id: UUID) -> None:
    held = accept(database, event_id, Register(name="Ada"), OLD)
    cancel = ChangeStatus(registration_id=ids.registration_id(held), status=Status.CANCELLED)
    accept(database, event_id, cancel, OLD)
    settle_all(database, event_id, 10)
    plain = make_url(database).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as holder:
        holder.execute("SELECT FROM command WHERE id = %s FOR UPDATE", [held])
        assert retention.tidy(database, 30) == Forgotten(payloads=1)

    assert retention.tidy(database, 30) == Forgotten(payloads=1)


ENDS = {
    "closed": "closes_at = now() - interval '{days} days'",
    "promoting": "closes_at = '2026-01-01', promote_until = now() - interval '{days} days'",
    "cancelling": "closes_at = '2026-01-01', cancel_until = now() - interval '{days} days'",
    "archived": "archived = true, updated_at = now() - interval '{days} days'",
    "deleted": "deleted = true, updated_at = now() - interval '{days} days'",
}


def delete_two(database: str, event_id: UUID) -> tuple[UUID, UUID, UUID]:
    """Have three register and two of them deleted, long ago; return the receipts, that of the third last."""
    run(database, "UPDATE event SET capacity = 9")
    first = accept(database, event_id, Register(name="Ada"), OLD, idempotency_key=_KEY, fingerprint=_KEY)
    added = accept(database, event_id, AddRegistration(name="Ben"), OLD)
    third = accept(database, event_id, Register(name="Cid"), OLD)
    settle_all(database, event_id, 10)
    for receipt in (first, added):
        deletion = DeleteRegistration(registration_id=ids.registration_id(receipt))
        accept(database, event_id, deletion, OLD)
    settle_all(database, event_id, 10)
    return first, added, third


@pytest.mark.parametrize("end", ENDS)
def test_a_deleted_registrations_commands_go(database: str, event_id: UUID, end: str) -> None:
    *_, third = delete_two(database, event_id)
    entries = run(database, "SELECT * FROM audit_entry ORDER BY number")
    run(database, f"UPDATE event SET {ENDS[end].format(days=29)}")
    assert retention.tidy(database, 30) == Forgotten(payloads=5)
    assert len(payloads(database)) == 5, "the event has ended lately"

    run(database, f"UPDATE event SET {ENDS[end].format(days=31)}")
    assert retention.tidy(database, 30) == Forgotten(deletions=2)

    assert payloads(database) == {third: {}}
    assert run(database, "SELECT FROM idempotency_key") == [], "it would name a command that is not there"
    assert [row.command_id for row in run(database, "SELECT command_id FROM outcome")] == [third]
    assert run(database, "SELECT * FROM audit_entry ORDER BY number") == entries
    assert audit.replay(database, "e").problems == []
    assert retention.tidy(database, 30) == Forgotten()


def test_young_deletions_and_endless_events_stay(
    database: str, event_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_ROWS_AT_ONCE", 1)
    first, added, third = delete_two(database, event_id)
    young = accept(database, event_id, DeleteRegistration(registration_id=ids.registration_id(third)), YOUNG)
    settle_all(database, event_id, 10)
    assert retention.tidy(database, 30).deletions == 0, "the event has no end"

    run(database, f"UPDATE event SET {ENDS['closed'].format(days=31)}")
    assert retention.tidy(database, 30).deletions == 2

    assert payloads(database).keys() == {third, young}
    assert not {first, added} & {row.command_id for row in run(database, "SELECT command_id FROM outcome")}


def test_an_unsettled_follow_up_stays_pending(database: str, event_id: UUID) -> None:
    run(
        database,
        """
        WITH made AS (
            INSERT INTO command (event_id, id, kind, payload, actor, accepted_at)
            VALUES (:event_id, :id, 'promote_waitlist', '{}', 'system', '2026-01-01')
            RETURNING event_id, seq, id
        ), failed AS (
            INSERT INTO outcome (event_id, command_id, body, settled_at)
            SELECT event_id, id, '{"outcome": "failed"}', now() FROM made
        )
        UPDATE event SET follow_up_id = :id WHERE id = :event_id
        """,
        event_id=event_id,
        id=ids.new_id(),
    )

    assert retention.tidy(database, 30) == Forgotten()
    assert len(run(database, "SELECT FROM outcome")) == 1, "without it the event would wait for it for ever"


def test_an_erasure_leaves_a_pending_command_whole(database: str, event_id: UUID) -> None:
    """An owner decides the erasure first; the command that it names is accepted, and comes after it."""
    later = NewCommand(
        event_id=event_id,
        id=ids.new_id(),
        kind="register",
        payload=msgspec.json.encode(Register(name="Ada")),
        actor="public",
        idempotency_key=_KEY,
        fingerprint=_KEY,
    )
    accept(database, event_id, Erase(command_ids=(later.id,)), YOUNG)
    asyncio.run(_accept(database, later, ()))

    with as_worker(database) as owner:
        assert len(apply_batch(session_of(owner), [event_id], 1).settled) == 1
        before = payloads(database)[later.id], len(run(database, "SELECT key FROM idempotency_key"))
    settle_all(database, event_id, 1)

    assert before == ({"name": "Ada", "spotsCount": 1, "email": None}, 1)
    assert [row.name for row in run(database, "SELECT name FROM registration")] == ["Ada"]


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        ((b"",), (b"",), True),
        ((b"",), (_KEY,), True),
        ((_KEY,), (_KEY,), True),
        ((_KEY,), (b"", _KEY), True),
        ((_KEY,), (_OTHER_KEY, _KEY), True),
        ((_KEY,), (_OTHER_KEY,), False),
    ],
)
def test_a_request_is_known_under_either_key(
    database: str, event_id: UUID, before: tuple[bytes, ...], now: tuple[bytes, ...], *, same: bool
) -> None:
    first, again, other = (
        NewCommand(
            event_id=event_id,
            id=ids.new_id(),
            kind="register",
            payload=b"{}",
            actor="public",
            idempotency_key=b"k" * 32,
            fingerprint=content,
        )
        for content in (b"a" * 32, b"a" * 32, b"b" * 32)
    )
    asyncio.run(_accept(database, first, before))

    assert asyncio.run(_accept(database, again, now)) == Acceptance(
        command_id=first.id, replayed=True, same_request=same
    )
    assert not asyncio.run(_accept(database, other, now)).same_request
    (row,) = run(database, "SELECT fingerprint FROM idempotency_key")
    assert (bytes(row.fingerprint) == first.fingerprint) is (before == (b"",))
    assert len(row.fingerprint) == (33 if before[0] else 32)


def test_a_process_has_the_keys_of_its_settings(settings: Settings) -> None:
    def keys(**given: str) -> tuple[bytes, ...]:
        return Settings(**{**settings.model_dump(), **given}).secret_keys

    first, second = _KEY.decode(), _OTHER_KEY.decode()
    assert keys() == (b"",)
    assert keys(secret_key=first) == (_KEY,)
    assert keys(second_secret_key=second) == (b"", _OTHER_KEY)
    assert keys(secret_key=first, second_secret_key=second) == (_KEY, _OTHER_KEY)
