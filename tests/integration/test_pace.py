"""The pace of an event's decisions, by which `Retry-After` tells clients when to ask again."""

import asyncio

from sqlalchemy import Connection, text

from api.commands.retry_after import Pace
from shared.domain import ids
from shared.postgres import connections
from shared.settings import Settings

EVENT = ids.new_id()
NEXT_LOOK_SECONDS = 1.1
LONGEST = 30
_ACCEPT = text("""
    INSERT INTO pending_command (event_id, seq, command_id)
    SELECT :event_id, seq, gen_random_uuid() FROM generate_series(CAST(:first AS bigint), :last) AS seq
""")
_SETTLE = text("DELETE FROM pending_command WHERE event_id = :event_id AND seq <= :last")


def test_the_pace_is_that_of_the_line(settings: Settings, connection: Connection) -> None:
    def change(statement: object, **parameters: int) -> None:
        with connection.begin():
            connection.execute(statement, {"event_id": EVENT, **parameters})  # type: ignore[call-overload]

    async def run() -> None:
        engine = connections.async_engine(settings)
        pace = Pace(engine)
        try:
            change(_ACCEPT, first=1, last=3_000)
            assert await pace.retry_seconds(EVENT, 3_000) in {2, 3, 4}, "a thousand a second is assumed"
            await asyncio.sleep(NEXT_LOOK_SECONDS)
            assert await pace.retry_seconds(EVENT, 3_000) == LONGEST, "none is settled"
            change(_SETTLE, last=2_000)
            change(_ACCEPT, first=3_001, last=6_000)
            await asyncio.sleep(NEXT_LOOK_SECONDS)
            assert await pace.retry_seconds(EVENT, 4_000) < LONGEST, "newcomers do not count"
            change(_SETTLE, last=6_000)
            await asyncio.sleep(NEXT_LOOK_SECONDS)
            assert await pace.retry_seconds(EVENT, 100) == 1, "all are settled"
        finally:
            await engine.dispose()

    asyncio.run(run())
