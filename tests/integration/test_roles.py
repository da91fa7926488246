"""The database roles of a running service: enough for its work, and not for rewriting the trail."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import ProgrammingError

from ops.maintenance import retention
from shared.domain import commands, ids
from shared.domain.commands import Erase, Register
from shared.postgres import ledger
from shared.postgres.ledger import NewCommand
from tests.databases import as_worker, session_of
from tests.stage import CHECKOUT
from worker import isolation

ROLES = Path(CHECKOUT / "docs/sql/roles.sql").read_text(encoding="utf-8")


@pytest.fixture
def granted(database: str) -> str:
    """The URL of a database on which the roles have been made, twice."""
    plain = make_url(database).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        for _ in range(2):
            connection.execute(ROLES.encode())
    return database


def as_role(database: str, role: str) -> Connection:
    return as_worker(database, options=f"-c role={role}")


def accept_as_api(database: str, **asked: Any) -> NewCommand:
    """Create an event and a command with the API's role."""
    command = Register(name="User", email="user@example.org")
    given = {
        "event_id": ids.new_id(),
        "kind": commands.KINDS[type(command)],
        "payload": msgspec.json.encode(command),
    }
    one = NewCommand(id=ids.new_id(), actor="public", **{**given, **asked})

    async def accept() -> None:
        plain = make_url(database).set(drivername="postgresql").render_as_string(hide_password=False)
        session = await psycopg.AsyncConnection.connect(plain, options="-c role=admitone_api")
        async with session:
            statement = b"""
                INSERT INTO event (id, slug, title, capacity) VALUES (%s, %s, 'A drop', 5)
                ON CONFLICT DO NOTHING
            """
            await session.execute(statement, [one.event_id, str(one.event_id)])
            await ledger.prepare(session)
            assert await ledger.accept(session, [one]) == [ledger.Acceptance(command_id=one.id)]

    asyncio.run(accept())
    return one


def test_api_and_worker_can_do_their_work(granted: str) -> None:
    asked = accept_as_api(granted)

    with as_role(granted, "admitone_worker") as worker:
        (settled,) = isolation.apply(session_of(worker), [asked.event_id], 10).settled

        erased = msgspec.json.encode(
            Erase(registration_ids=(ids.registration_id(asked.id),), command_ids=(asked.id,))
        )
        accept_as_api(granted, event_id=asked.event_id, kind="erase", payload=erased)
        isolation.apply(session_of(worker), [asked.event_id], 10)
        told = worker.execute(
            text("SELECT payload::text, name FROM command JOIN registration ON command_id = command.id")
        )
        assert told.all() == [('{"erased": true}', "")]

    assert settled.command_id == asked.id


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("admitone_worker", "UPDATE audit_entry SET actor = 'nobody'"),
        ("admitone_worker", "DELETE FROM audit_entry"),
        ("admitone_worker", "TRUNCATE audit_entry"),
        ("admitone_worker", "DELETE FROM command"),
        ("admitone_worker", "UPDATE command SET kind = 'heal_counter'"),
        ("admitone_worker", "UPDATE outcome SET body = '{}'"),
        ("admitone_api", "UPDATE event SET spots_reserved = 0"),
        ("admitone_api", "UPDATE registration SET status = 'CONFIRMED'"),
        ("admitone_api", "INSERT INTO audit_entry SELECT * FROM audit_entry"),
        ("admitone", "UPDATE audit_entry SET actor = 'nobody'"),
        ("admitone", "DELETE FROM audit_entry"),
        ("admitone", "TRUNCATE audit_entry"),
    ],
)
def test_no_role_can_rewrite_the_past(granted: str, role: str, statement: str) -> None:
    asked = accept_as_api(granted)
    with as_role(granted, "admitone_worker") as worker:
        isolation.apply(session_of(worker), [asked.event_id], 10)

    with as_role(granted, role) as connection, pytest.raises(ProgrammingError) as refused:
        connection.execute(text(statement))

    assert isinstance(refused.value.orig, psycopg.errors.InsufficientPrivilege)


def test_old_keys_are_forgotten_and_young_ones_kept(granted: str, connection: Connection) -> None:
    old, young = (accept_as_api(granted, idempotency_key=key, fingerprint=key) for key in (b"old", b"young"))
    for asked in (old, young):
        isolation.apply(session_of(connection), [asked.event_id], 10)
    with connection.begin():
        statement = text(
            "UPDATE idempotency_key SET created_at = created_at - interval '31 days' WHERE command_id = :id"
        )
        connection.execute(statement, {"id": old.id})

    assert [retention.tidy(granted, 30).keys, retention.tidy(granted, 30).keys] == [1, 0]

    with connection.begin():
        kept = connection.execute(text("SELECT command_id FROM idempotency_key")).scalars()
        assert list(kept) == [young.id]
