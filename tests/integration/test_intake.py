"""The intake on a real ledger: a command that cannot be accepted fails alone."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest
from sqlalchemy import Connection, make_url, text

from api.commands.intake import CommandRejected, Intake, IntakeFull, LedgerUnavailable
from shared.domain import ids
from shared.postgres.ledger import Acceptance, NewCommand
from shared.settings import Settings

EVENT = ids.new_id()
_CUT_OFF = text("""
    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE application_name = 'admitone-api' AND datname = current_database()
""")


def asked(
    payload: bytes = b'{"name":"User"}', key: bytes | None = None, body: bytes | None = None
) -> NewCommand:
    return NewCommand(
        event_id=EVENT,
        id=ids.new_id(),
        kind="register",
        payload=payload,
        actor="public",
        idempotency_key=key,
        fingerprint=body,
    )


def use(settings: Settings, work: Callable[[Intake], Awaitable[object]]) -> object:
    """Give a running intake some work."""

    async def run() -> object:
        intake = Intake(settings)
        try:
            return await work(intake)
        finally:
            await intake.close()

    return asyncio.run(run())


def in_ledger(connection: Connection) -> set[UUID]:
    with connection.begin():
        return set(connection.execute(text("SELECT id FROM command")).scalars())


def test_a_bad_row_does_not_sink_its_batch(settings: Settings, connection: Connection) -> None:
    rows = [asked(), asked(), asked(b'{"name":"\\u0000"}'), asked(), asked()]

    async def accept(intake: Intake) -> list[Acceptance | BaseException]:
        return await asyncio.gather(*(intake.accept(row) for row in rows), return_exceptions=True)

    answers = use(settings, accept)

    assert isinstance(answers, list)
    assert [type(answer) for answer in answers] == [
        Acceptance,
        Acceptance,
        CommandRejected,
        Acceptance,
        Acceptance,
    ]
    assert in_ledger(connection) == {row.id for row in rows} - {rows[2].id}


def test_over_the_limit_nothing_is_accepted(settings: Settings, connection: Connection) -> None:
    small = settings.model_copy(update={"intake_waiting_max": 3, "intake_batch_max": 3})
    rows = [asked() for _ in range(5)]

    async def accept(intake: Intake) -> list[Acceptance | BaseException]:
        return await asyncio.gather(*(intake.accept(row) for row in rows), return_exceptions=True)

    answers = use(small, accept)

    assert isinstance(answers, list)
    assert [type(answer) for answer in answers] == [Acceptance] * 3 + [IntakeFull] * 2
    assert in_ledger(connection) == {row.id for row in rows[:3]}


def test_a_missing_database_is_reported(settings: Settings) -> None:
    nowhere = settings.model_copy(
        update={
            "database_url": "postgresql+psycopg://nobody@127.0.0.1:9/nothing",
            "ledger_patience_seconds": 0.2,
        }
    )

    with pytest.raises(LedgerUnavailable):
        use(nowhere, lambda intake: intake.accept(asked()))


def test_a_broken_connection_costs_no_command(settings: Settings, connection: Connection) -> None:
    rows = [asked() for _ in range(4)]

    async def accept(intake: Intake) -> list[Acceptance]:
        first = await intake.accept(rows[0])
        with connection.begin():
            connection.execute(_CUT_OFF)
        return [first, *await asyncio.gather(*(intake.accept(row) for row in rows[1:]))]

    assert use(settings, accept) == [Acceptance(command_id=row.id) for row in rows]
    assert in_ledger(connection) == {row.id for row in rows}


def test_a_url_may_set_connection_options(settings: Settings, connection: Connection) -> None:
    url = make_url(settings.database_url)
    named = url.update_query_dict(
        {"connect_timeout": "1", "application_name": "theirs", "options": "-c x.y=1"}
    )
    row = asked()

    answer = use(
        settings.model_copy(update={"database_url": named.render_as_string(hide_password=False)}),
        lambda intake: intake.accept(row),
    )

    assert answer == Acceptance(command_id=row.id)
    assert in_ledger(connection) == {row.id}


def test_repeated_commands_are_told_from_new_ones(settings: Settings, connection: Connection) -> None:
    before, again, reused, alone, keyed = (
        asked(key=key, body=body)
        for key, body in ((b"k", b"a"), (b"k", b"a"), (b"k", b"b"), (None, None), (b"l", b"a"))
    )

    async def accept(intake: Intake) -> list[Acceptance]:
        first = await intake.accept(before)
        return [first, *await asyncio.gather(*(intake.accept(row) for row in (again, reused, alone, keyed)))]

    assert use(settings, accept) == [
        Acceptance(command_id=before.id),
        Acceptance(command_id=before.id, replayed=True),
        Acceptance(command_id=before.id, replayed=True, same_request=False),
        Acceptance(command_id=alone.id),
        Acceptance(command_id=keyed.id),
    ]
    assert in_ledger(connection) == {before.id, alone.id, keyed.id}
