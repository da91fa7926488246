"""Sessions of the API: no server keeps a wait without end, and no exchange in time is cut off."""

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
import pytest

from shared import urls
from shared.postgres import bounded, durability
from shared.postgres.bounded import BoundedSession
from shared.postgres.durability import NotConfirmed
from shared.settings import Settings

SECONDS_MAX = 1.5
LONGER = b"SELECT pg_sleep(5)"
SHORTER = b"SELECT pg_sleep(0.5)"
_END = b"SELECT pg_terminate_backend(%s, 10000)"
_WRITE = b"SELECT pg_current_xact_id()::text::bigint"
_CUT_OFF = b"DO $$ BEGIN RAISE WARNING 'cut off' USING ERRCODE = '01000'; END $$"

pytestmark = pytest.mark.usefixtures("connection")


async def connect(settings: Settings) -> BoundedSession:
    arguments = urls.libpq_arguments(settings.database_url)
    session: BoundedSession = await bounded.connector(SECONDS_MAX)(**arguments, autocommit=True)
    return session


def use(settings: Settings, work: Callable[[BoundedSession], Awaitable[object]]) -> object:
    """Return what comes of this work with a session that waits for `SECONDS_MAX`."""

    async def run() -> object:
        async with await connect(settings) as session:
            return await work(session)

    return asyncio.run(run())


async def is_cut_off(session: BoundedSession, statement: bytes = LONGER) -> bool:
    try:
        await session.execute(statement)
    except psycopg.OperationalError:
        return True
    return False


def test_a_late_exchange_is_cut_off(settings: Settings) -> None:
    async def work(session: BoundedSession) -> tuple[bool, bool]:
        return await is_cut_off(session), session.has_ended()

    assert use(settings, work) == (True, True)


@pytest.mark.parametrize("before", ["idle", "busy"])
def test_only_the_late_exchange_is_cut_off(settings: Settings, before: str) -> None:
    """The time of an exchange begins with it, whatever the session did, or did not do, before."""

    async def work(session: BoundedSession) -> list[bool]:
        await session.execute(SHORTER)
        if before == "idle":
            await asyncio.sleep(2 * SECONDS_MAX)
        short = [await is_cut_off(session, SHORTER) for _ in range(4)]
        return [*short, await is_cut_off(session)]

    assert use(settings, work) == [False, False, False, False, True]


@pytest.mark.parametrize("reasons", [[True, True], [True, False], [False], [OSError()], [psycopg.Error()]])
def test_a_reason_is_asked_for_each_time(settings: Settings, reasons: list[bool | Exception]) -> None:
    asked: list[int] = []

    async def excused(pid: int) -> bool:
        asked.append(pid)
        reason = reasons[len(asked) - 1] if len(asked) <= len(reasons) else True
        if isinstance(reason, Exception):
            raise reason
        return reason

    async def work(session: BoundedSession) -> tuple[bool, set[int]]:
        session.excused, pid = excused, session.info.backend_pid
        return await is_cut_off(session), {*asked} - {pid}

    assert use(settings, work) == (reasons[-1] is not True, set())
    assert len(asked) >= len(reasons)


def test_a_slow_judgement_ends_no_later_exchange(settings: Settings) -> None:
    async def late(_: int) -> bool:
        await asyncio.sleep(1.2)
        return False

    async def work(session: BoundedSession) -> list[bool]:
        session.excused = late
        first = await is_cut_off(session, b"SELECT pg_sleep(2)")
        return [first, *[await is_cut_off(session, SHORTER) for _ in range(4)]]

    assert use(settings, work) == [False] * 5


def test_a_cancelled_wait_ends_the_session(settings: Settings) -> None:
    async def work(session: BoundedSession) -> bool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await session.execute(SHORTER)
        return session.closed

    assert use(settings, work)


@pytest.mark.parametrize("ends", [False, True])
def test_an_idle_session_that_ended_is_known(settings: Settings, *, ends: bool) -> None:
    async def work(session: BoundedSession) -> bool:
        if ends:
            async with await connect(settings) as other:
                await other.execute(_END, [session.info.backend_pid])
        return session.has_ended()

    assert use(settings, work) is ends


def test_a_write_that_was_cut_off_confirms_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirm = durability.CONFIRM

    async def work(session: BoundedSession) -> list[bool]:
        async def confirms(statement: bytes) -> bool:
            monkeypatch.setattr(durability, "CONFIRM", statement)
            session.confirmed_below = 0
            try:
                await session.confirm()
            except NotConfirmed:
                assert not session.confirmed_below
                return False
            return session.confirmed_below > 0

        await session.execute(b"""
            CREATE FUNCTION pg_temp.cut_off() RETURNS bigint LANGUAGE plpgsql AS $$
            BEGIN RAISE WARNING 'cut off' USING ERRCODE = '01000'; RETURN 7; END $$
        """)
        await session.execute(_CUT_OFF)  # an earlier one
        return [await confirms(each) for each in (confirm, b"SELECT pg_temp.cut_off()", confirm)]

    assert use(settings, work) == [True, False, True]


def test_an_open_transaction_is_not_confirmed(settings: Settings) -> None:
    async def work(session: BoundedSession) -> list[bool]:
        async with await connect(settings) as writer, await connect(settings) as later, writer.transaction():
            row = await (await writer.execute(_WRITE)).fetchone()
            assert row is not None
            await later.execute(_WRITE)
            await session.confirm()
            confirmed = [durability.is_below(row[0] % 2**32, session.confirmed_below)]
        await session.confirm()
        return [*confirmed, durability.is_below(row[0] % 2**32, session.confirmed_below)]

    assert use(settings, work) == [False, True]


def test_a_pooled_session_prepares_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def prepared() -> list[int | None]:
        found = []
        for statement in (bounded.SERVER_PROCESS, b"SELECT 0"):  # a pooler's client has another number
            monkeypatch.setattr(bounded, "SERVER_PROCESS", statement)
            async with await connect(settings) as session:
                assert session.autocommit
                found.append(session.prepare_threshold)
        return found

    direct, pooled = asyncio.run(prepared())
    assert (direct is not None, pooled) == (True, None)
