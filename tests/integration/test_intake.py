"""The intake on a real ledger: a command that cannot be accepted fails alone."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
from sqlalchemy import Connection, make_url, text

from api.commands.intake import AcceptanceUnknown, CommandRejected, Intake, IntakeFull, LedgerUnavailable
from shared import metrics
from shared.domain import ids
from shared.domain.outcomes import Failed, Refused
from shared.postgres import ledger
from shared.postgres.bounded import BoundedSession
from shared.postgres.ledger import Acceptance, NewCommand, NumberingBehind
from shared.settings import Settings
from tests.databases import session_of
from worker.owner import apply as apply_batch

EVENT = ids.new_id()
_CLOSED = text("""
    INSERT INTO event (id, slug, title, capacity, closes_at)
    VALUES (:id, 'closed', 'A drop', 5, now() - interval '1 hour')
""")
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


def test_repeated_commands_are_told_from_new_ones(
    settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    monkeypatch.setattr(metrics, "accepted", SimpleNamespace(inc=counted.append))
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
    assert sum(counted) == 3


def test_a_sequence_behind_its_table_accepts_nothing(settings: Settings, connection: Connection) -> None:
    rows = [asked() for _ in range(4)]

    async def accept(intake: Intake) -> list[Acceptance | BaseException]:
        first = [await intake.accept(row) for row in rows[:2]]
        with connection.begin():
            connection.execute(text("SELECT setval('command_seq_seq', 2)"))  # the second has the number 3
        refused = await asyncio.gather(intake.accept(rows[2]), return_exceptions=True)
        with connection.begin():
            ledger.heal_numbering(connection)
        return [*first, *refused, await intake.accept(rows[3])]

    answers = use(settings, accept)

    assert isinstance(answers, list)
    assert [type(answer) for answer in answers] == [Acceptance, Acceptance, NumberingBehind, Acceptance]
    assert in_ledger(connection) == {rows[0].id, rows[1].id, rows[3].id}
    with connection.begin():
        seqs = list(connection.execute(text("SELECT seq FROM command ORDER BY accepted_at")).scalars())
    assert seqs == sorted(set(seqs))


def test_a_new_session_compares_the_sequence_with_the_mark(
    settings: Settings, connection: Connection
) -> None:
    row = asked()
    use(settings, lambda intake: intake.accept(row))
    with connection.begin():
        ledger.advance_mark(session_of(connection))
        assert not ledger.numbering_is_behind(connection)
        connection.execute(text("SELECT setval('command_seq_seq', 1)"))  # the mark is 2
        assert ledger.numbering_is_behind(connection)

    with pytest.raises(NumberingBehind):
        use(settings, lambda intake: intake.accept(asked()))

    assert in_ledger(connection) == {row.id}


def test_a_lost_answer_is_unknown_with_the_numbering_behind(
    settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, accept = asked(), ledger.accept

    async def accept_without_answer(session: BoundedSession, *arguments: Any) -> None:
        await accept(session, *arguments)
        await session.close()
        with connection.begin():
            ledger.advance_mark(session_of(connection))
            connection.execute(text("SELECT setval('command_seq_seq', 1, false)"))
        raise psycopg.OperationalError("the connection was lost")

    monkeypatch.setattr(ledger, "accept", accept_without_answer)
    with pytest.raises(AcceptanceUnknown):
        use(settings, lambda intake: intake.accept(row))

    assert in_ledger(connection) == {row.id}


@pytest.mark.parametrize("by", ["network", "server"])
def test_a_lost_answer_stays_unknown_after_a_refusal(
    settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    row, accept = asked(), ledger.accept

    async def refused(session: BoundedSession, *_: Any) -> None:
        await session.execute(b"SELECT FROM a_table_that_is_not_there")

    async def accept_without_answer(session: BoundedSession, *arguments: Any) -> None:
        monkeypatch.setattr(ledger, "accept", refused)
        await accept(session, *arguments)
        if by == "server":
            await session.execute(b"SELECT pg_terminate_backend(pg_backend_pid())")
        await session.close()
        raise psycopg.OperationalError("the connection was lost")

    monkeypatch.setattr(ledger, "accept", accept_without_answer)
    with pytest.raises(AcceptanceUnknown):
        use(settings, lambda intake: intake.accept(row))

    assert in_ledger(connection) == {row.id}


@pytest.mark.parametrize(
    ("state", "answer"),
    [
        ("40P01", Acceptance),
        ("25006", Acceptance),  # a new session may write
        ("42P01", LedgerUnavailable),
        ("57014", LedgerUnavailable),
    ],
)
def test_an_error_that_passes_costs_no_command(
    settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch, state: str, answer: type
) -> None:
    row, accept = asked(), ledger.accept

    async def refused(session: BoundedSession, *_: Any) -> None:
        monkeypatch.setattr(ledger, "accept", accept)
        await session.execute(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}'; END $$".encode())

    async def answered(intake: Intake) -> type:
        (given,) = await asyncio.gather(intake.accept(row), return_exceptions=True)
        return type(given)

    monkeypatch.setattr(ledger, "accept", refused)
    assert use(settings, answered) is answer
    assert in_ledger(connection) == ({row.id} if answer is Acceptance else set())


def test_keys_in_opposite_order_do_not_wait_for_each_other(
    settings: Settings, connection: Connection
) -> None:
    """Two processes write the same keys at once, in opposite order; numbers go by the order of arrival."""
    keys = [b"%03d" % number for number in range(200)]
    arrivals = [[asked(key=key, body=b"a") for key in order] for order in (keys, keys[::-1])]

    async def write(rows: list[NewCommand]) -> list[Acceptance]:
        async with await ledger.open_session(settings) as session:
            return await ledger.accept(session, rows)

    async def both() -> list[list[Acceptance]]:
        return await asyncio.gather(*map(write, arrivals))

    for _ in range(10):
        accepted = asyncio.run(both())
        winners = {acceptance.command_id for acceptances in accepted for acceptance in acceptances}
        assert len(winners) == len(keys)
        with connection.begin():
            numbered = list(connection.execute(text("SELECT id FROM command ORDER BY seq")).scalars())
            connection.execute(text("TRUNCATE command, pending_command, idempotency_key"))
        for rows in arrivals:
            arrived = [row.id for row in rows if row.id in winners]
            assert [id_ for id_ in numbered if id_ in set(arrived)] == arrived


@pytest.mark.parametrize(("kind", "outcome"), [("register", Refused), ("teleport", Failed)])
def test_a_released_key_is_accepted_anew(
    settings: Settings, connection: Connection, kind: str, outcome: type
) -> None:
    closed = msgspec.structs.replace(asked(key=b"k", body=b"a"), kind=kind)
    with connection.begin():
        connection.execute(_CLOSED, {"id": closed.event_id})
    use(settings, lambda intake: intake.accept(closed))
    (settled,) = apply_batch(session_of(connection), [closed.event_id], 10).settled
    assert isinstance(settled.outcome, outcome)

    again = asked(key=b"k", body=b"b")

    assert use(settings, lambda intake: intake.accept(again)) == Acceptance(command_id=again.id)


def test_an_answer_that_was_lost_binds_no_released_key(settings: Settings, connection: Connection) -> None:
    closed, again = asked(key=b"k", body=b"a"), asked(key=b"k", body=b"a")
    with connection.begin():
        connection.execute(_CLOSED, {"id": closed.event_id})
    use(settings, lambda intake: intake.accept(closed))
    apply_batch(session_of(connection), [closed.event_id], 10)

    repeated = use(settings, lambda intake: intake.accept(closed))  # as after a lost connection

    assert repeated == Acceptance(command_id=closed.id)
    assert use(settings, lambda intake: intake.accept(again)) == Acceptance(command_id=again.id)


def test_a_key_that_is_released_meanwhile_is_written(
    settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the INSERT that met a key and the look for the key, the owner refuses all and releases both."""
    closed, again = asked(key=b"k", body=b"a"), asked(key=b"k", body=b"a")
    beside = asked(key=b"l", body=b"a")
    with connection.begin():
        connection.execute(_CLOSED, {"id": closed.event_id})
    use(settings, lambda intake: intake.accept(closed))
    find = ledger._find  # noqa: SLF001 - the moment between the two statements

    async def find_late(*arguments: Any) -> list[Acceptance] | None:
        monkeypatch.setattr(ledger, "_find", find)
        apply_batch(session_of(connection), [closed.event_id], 10)
        return await find(*arguments)

    async def both(intake: Intake) -> list[Acceptance]:
        return list(await asyncio.gather(intake.accept(beside), intake.accept(again)))

    monkeypatch.setattr(ledger, "_find", find_late)
    accepted = use(settings, both)

    assert accepted == [Acceptance(command_id=beside.id), Acceptance(command_id=again.id)]
    with connection.begin():
        keys = connection.execute(text("SELECT key, command_id FROM idempotency_key")).all()
    assert keys == [(b"k", again.id)], "the key of a refused command stays released"


@pytest.mark.parametrize("released", [True, False], ids=["then-released", "then-kept"])
def test_a_key_that_is_being_released_holds_up_nothing(
    settings: Settings, connection: Connection, *, released: bool
) -> None:
    """A worker hangs in the transaction that refuses the key's command; meanwhile the key is sent again."""
    first, again = asked(key=b"k", body=b"a"), asked(key=b"k", body=b"a")
    beside = asked()
    use(settings, lambda intake: intake.accept(first))

    async def both(intake: Intake) -> list[Acceptance]:
        by = asyncio.get_running_loop().time() + 3
        return list(await asyncio.gather(intake.accept(again, by), intake.accept(beside, by)))

    connection.execute(text("BEGIN"))
    connection.execute(text("DELETE FROM idempotency_key"))
    accepted = use(settings, both)
    connection.execute(text("COMMIT" if released else "ROLLBACK"))

    assert accepted == [
        Acceptance(command_id=first.id, replayed=True),
        Acceptance(command_id=beside.id),
    ]
    later = asked(key=b"k", body=b"a")
    kept = Acceptance(command_id=first.id, replayed=True)
    answer = use(settings, lambda intake: intake.accept(later))
    assert answer == (Acceptance(command_id=later.id) if released else kept)


def test_a_failed_look_for_earlier_commands_is_unknown(
    settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    again, new = asked(key=b"k", body=b"b"), asked()

    async def accept(intake: Intake) -> list[Acceptance | BaseException]:
        await intake.accept(asked(key=b"k", body=b"b"))
        monkeypatch.setattr(ledger, "_FIND", b"SELECT FROM nothing")
        return await asyncio.gather(*map(intake.accept, (again, new)), return_exceptions=True)

    answers = use(settings.model_copy(update={"ledger_patience_seconds": 0.2}), accept)

    assert isinstance(answers, list)
    assert [type(answer) for answer in answers] == [AcceptanceUnknown] * 2
    assert new.id in in_ledger(connection)


def test_each_repeated_command_gets_its_own_answer(settings: Settings, connection: Connection) -> None:
    rows = [asked(key=b"%d" % number, body=b"b") for number in range(5)]
    again = [msgspec.structs.replace(row, id=ids.new_id()) for row in rows]

    async def accept(intake: Intake) -> list[Acceptance]:
        first = await asyncio.gather(*map(intake.accept, rows[1:]))
        return [*first, *await asyncio.gather(*map(intake.accept, again))]

    accepted = use(settings, accept)

    assert accepted == [
        *(Acceptance(command_id=row.id) for row in (*rows[1:], again[0])),
        *(Acceptance(command_id=row.id, replayed=True) for row in rows[1:]),
    ]
    assert in_ledger(connection) == {row.id for row in (*rows[1:], again[0])}
