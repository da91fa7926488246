"""The database roles of a running service: enough for its work, and not for rewriting the trail."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import ProgrammingError

from ops.embedded import Servers
from ops.maintenance import audit, erasure, healing, retention, status, verification, worker_health
from ops.maintenance.erasure import Report, Subject
from ops.maintenance.retention import Forgotten
from shared import processes
from shared.domain import commands, ids
from shared.domain.access import Principal, Scope
from shared.domain.commands import Erase, Register
from shared.postgres import connections, keys, ledger
from shared.postgres.bounded import BoundedSession
from shared.postgres.ledger import NewCommand
from shared.settings import Settings
from tests.databases import as_worker, session_of
from tests.integration.test_service_readiness import FINE, read
from tests.stage import CHECKOUT
from worker.owner import apply as apply_batch
from worker.ownership import Ownership

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
        session = await BoundedSession.connect(plain, options="-c role=admitone_api")
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
        (settled,) = apply_batch(session_of(worker), [asked.event_id], 10).settled

        erased = msgspec.json.encode(
            Erase(registration_ids=(ids.registration_id(asked.id),), command_ids=(asked.id,))
        )
        accept_as_api(granted, event_id=asked.event_id, kind="erase", payload=erased)
        apply_batch(session_of(worker), [asked.event_id], 10)
        told = worker.execute(
            text("SELECT payload::text, name FROM command JOIN registration ON command_id = command.id")
        )
        assert told.all() == [('{"erased": true}', "")]

    assert settled.command_id == asked.id


def test_the_api_can_make_and_revoke_keys(granted: str) -> None:
    holder = Principal(name="box office", organiser_id=None, scopes=frozenset(Scope))
    with as_role(granted, "admitone_api") as api, api.begin():
        _, stored = keys.create(api, holder, organiser_name="Theatre", days=1, created_by="admin")
        revoked = keys.revoke(api, stored["prefix"])

    assert revoked is not None
    assert revoked["revoked_at"] is not None


@pytest.fixture
def settings_of(granted: str, servers: Servers) -> Callable[[str], Settings]:
    """A function that returns the settings of a part that logs in with a role."""
    plain = make_url(granted).set(drivername="postgresql")
    with psycopg.connect(plain.render_as_string(hide_password=False), autocommit=True) as connection:
        for role in ("admitone_api", "admitone_worker", "admitone_tidy"):
            connection.execute(f"ALTER ROLE {role} LOGIN".encode())

    def settings(role: str) -> Settings:
        return Settings(
            database_url=plain.set(username=role).render_as_string(hide_password=False),
            broker_url=servers.broker_url,
            result_url=servers.result_url,
        )

    return settings


@pytest.mark.parametrize("role", ["admitone_api", "admitone_worker"])
def test_each_role_can_look_at_the_service(settings_of: Callable[[str], Settings], role: str) -> None:
    """Readiness, `status`, `verify`, `audit` and `worker-health`, beside a worker of its own role."""
    asked = accept_as_api(settings_of("admitone_api").database_url)
    settings = settings_of(role)
    with connections.worker_session(settings_of("admitone_worker")) as worker:
        ownership = Ownership(session=worker, number=processes.own_number(), silence_seconds_max=10)
        ownership.join()
        ownership.rebalance()

        accepts = role == "admitone_api"
        database = "ok" if accepts else "permission denied for table idempotency_key"
        assert read(settings).checks == {**FINE, "worker": "ok", "database": database}
        now = status.read(settings.database_url)
        assert ([found.pid for found in now.workers], len(now.backlog)) == ([os.getpid()], 1)
        assert verification.run(settings, [str(asked.event_id)]).in_sync
        assert audit.check(settings.database_url)[0].problems == []
        assert audit.replay(settings.database_url, str(asked.event_id)).problems == []
        assert worker_health.worker_is_alive(settings)


@pytest.mark.parametrize(
    ("right", "table"),
    [("INSERT", "command"), ("SELECT", "idempotency_key"), ("INSERT", "pending_command")],
)
def test_readiness_names_a_right_to_accept(
    settings_of: Callable[[str], Settings], connection: Connection, right: str, table: str
) -> None:
    with connection.begin():
        connection.execute(text(f"REVOKE {right} ON {table} FROM admitone_api"))

    found = read(settings_of("admitone_api"))

    assert (found.ready, found.checks["database"]) == (False, f"permission denied for table {table}")


def test_the_api_role_can_heal_a_counter(
    settings_of: Callable[[str], Settings], connection: Connection
) -> None:
    settings = settings_of("admitone_api")
    asked = accept_as_api(settings.database_url)
    with connection.begin():
        connection.execute(text("UPDATE event SET spots_reserved = 1"))

    with (
        ThreadPoolExecutor() as pool,
        connections.worker_session(settings_of("admitone_worker")) as worker,
    ):
        Ownership(session=worker, number=processes.own_number(), silence_seconds_max=10).join()
        healed = pool.submit(healing.run, settings, [])
        while not healed.done():
            apply_batch(worker, [asked.event_id], 10)

    assert healed.result().in_sync


def test_its_role_can_tidy(settings_of: Callable[[str], Settings], connection: Connection) -> None:
    asked = accept_as_api(settings_of("admitone_api").database_url, idempotency_key=b"k", fingerprint=b"f")
    apply_batch(session_of(connection), [asked.event_id], 10)

    forgotten = retention.tidy(settings_of("admitone_tidy").database_url, 0)

    assert forgotten == Forgotten(keys=1, payloads=1)


def test_the_api_role_can_erase(settings_of: Callable[[str], Settings]) -> None:
    settings = settings_of("admitone_api")
    asked = accept_as_api(settings.database_url)
    with (
        ThreadPoolExecutor() as pool,
        connections.worker_session(settings_of("admitone_worker")) as worker,
    ):
        Ownership(session=worker, number=processes.own_number(), silence_seconds_max=10).join()
        apply_batch(worker, [asked.event_id], 10)
        subject = Subject(event_id=asked.event_id)
        erasing = pool.submit(erasure.erase, settings, [subject], None, dry_run=False)
        while not erasing.done():
            apply_batch(worker, [asked.event_id], 10)

    assert erasing.result() == Report(events=1, registrations=1, commands=1, samples_stay=True)


@pytest.mark.parametrize(
    "command", ["verify --heal", "erase --address user@example.org", "erase --address other@example.org"]
)
def test_a_role_without_a_right_is_told(
    settings_of: Callable[[str], Settings], connection: Connection, command: str
) -> None:
    asked, settings = accept_as_api(settings_of("admitone_api").database_url), settings_of("admitone_worker")
    with connections.worker_session(settings) as worker:
        Ownership(session=worker, number=processes.own_number(), silence_seconds_max=10).join()
        apply_batch(worker, [asked.event_id], 10)
        with connection.begin():
            connection.execute(text("UPDATE event SET spots_reserved = 0"))
        done = subprocess.run(
            [sys.executable, "-P", "-m", "ops.cli", *command.split()],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(CHECKOUT),
                "ADMITONE_DATABASE_URL": settings.database_url,
                "ADMITONE_BROKER_URL": settings.broker_url,
                "ADMITONE_RESULT_URL": settings.result_url,
                "ADMITONE_SECRET_KEY": "a secret of digests",
            },
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
        )

    (line,) = done.stderr.splitlines()
    assert line.startswith("admitone: the database: permission denied for ")
    assert line.endswith('; docs/operating.md has the roles of each command, under "Roles"')


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
        ("admitone_api", "UPDATE api_key SET scopes = '{operate}'"),
        ("admitone_api", "UPDATE event SET organiser_id = NULL"),
        ("admitone_worker", "UPDATE api_key SET revoked_at = NULL"),
        ("admitone_api", "INSERT INTO audit_entry SELECT * FROM audit_entry"),
        ("admitone", "UPDATE audit_entry SET actor = 'nobody'"),
        ("admitone", "DELETE FROM audit_entry"),
        ("admitone", "TRUNCATE audit_entry"),
    ],
)
def test_no_role_can_rewrite_the_past(granted: str, role: str, statement: str) -> None:
    asked = accept_as_api(granted)
    with as_role(granted, "admitone_worker") as worker:
        apply_batch(session_of(worker), [asked.event_id], 10)

    with as_role(granted, role) as connection, pytest.raises(ProgrammingError) as refused:
        connection.execute(text(statement))

    assert isinstance(refused.value.orig, psycopg.errors.InsufficientPrivilege)


def test_old_keys_are_forgotten_and_young_ones_kept(granted: str, connection: Connection) -> None:
    old, young = (accept_as_api(granted, idempotency_key=key, fingerprint=key) for key in (b"old", b"young"))
    for asked in (old, young):
        apply_batch(session_of(connection), [asked.event_id], 10)
    with connection.begin():
        statement = text(
            "UPDATE idempotency_key SET created_at = created_at - interval '31 days' WHERE command_id = :id"
        )
        connection.execute(statement, {"id": old.id})

    assert [retention.tidy(granted, 30).keys, retention.tidy(granted, 30).keys] == [1, 0]

    with connection.begin():
        kept = connection.execute(text("SELECT command_id FROM idempotency_key")).scalars()
        assert list(kept) == [young.id]
