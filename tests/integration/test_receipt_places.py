"""The places in receipts: before how many of its own event's commands, and registrations, one stands."""

import asyncio
import math
from collections.abc import Callable
from uuid import UUID

import pytest
from sqlalchemy import Connection, text

from api.queries import receipts as receipts_module
from api.queries.reader import Reader
from api.queries.receipts import Receipts
from shared.domain import ids
from shared.postgres import connections
from shared.settings import Settings

_EVENT = text("INSERT INTO event (id, slug, title, capacity) VALUES (:id, :slug, 'An event', 0)")
_ACCEPT = text("""
    WITH accepted AS (
        INSERT INTO command (event_id, id, kind, payload, actor)
        VALUES (:event_id, :id, 'register', '{}', 'public') RETURNING event_id, seq, id
    ) INSERT INTO pending_command (event_id, seq, command_id) SELECT * FROM accepted
""")
_SETTLE = text("""
    WITH settled AS (DELETE FROM pending_command WHERE command_id = :id RETURNING event_id, seq),
    made AS (
        INSERT INTO registration (event_id, id, seq, command_id, name, spots_count, status)
        SELECT event_id, :registration_id, seq, :id, 'User', 1, 'WAITLIST' FROM settled
    )
    INSERT INTO outcome (event_id, command_id, settled_at, body)
    SELECT event_id, :id, now(), json_build_object(
        'outcome', 'waitlisted', 'registrationId', :registration_id, 'spotsCount', 1, 'position', 1
    ) FROM settled
""")
_LEAVE = text("""
    WITH changed AS (UPDATE event SET audit_seq = audit_seq + 1 WHERE id = :event_id)
    UPDATE registration SET status = 'CANCELLED' WHERE event_id = :event_id AND command_id = :id
""")


async def _confirmed(*_: object) -> None:
    """Without a standby each row is confirmed."""


def places(
    settings: Settings, asked: list[tuple[UUID, UUID]], change: Callable[[], None] | None = None
) -> list[tuple[int | None, int | None]]:
    """Return the place in the backlog and the position on the waitlist, all from one read.

    With a change they are those after it, of a process that has told those before it.
    """

    async def read() -> list[tuple[int | None, int | None]]:
        engine = connections.async_engine(settings)
        receipts = Receipts(Reader(engine), _confirmed)
        found = await asyncio.gather(*(receipts.find(*one, math.inf) for one in asked))
        if change is not None:
            change()
            found = await asyncio.gather(*(receipts.find(*one, math.inf) for one in asked))
        await engine.dispose()
        told = [one.receipt for one in found if one.receipt is not None]
        return [(one.ahead, one.registration.waitlist_position if one.registration else None) for one in told]

    return asyncio.run(read())


def test_each_event_has_lines_of_its_own(settings: Settings, connection: Connection) -> None:
    events = [ids.new_id() for _ in range(3)]
    asked: list[tuple[UUID, UUID]] = []
    with connection.begin():
        for event_id in events:
            connection.execute(_EVENT, {"id": event_id, "slug": f"event-{event_id}"})
        for event_id in events * 4:
            asked.append((event_id, ids.new_id()))
            connection.execute(_ACCEPT, {"event_id": event_id, "id": asked[-1][1]})
        for _, id_ in asked[:6]:
            connection.execute(_SETTLE, {"id": id_, "registration_id": ids.registration_id(id_)})

    assert places(settings, asked) == [
        *[(None, 1)] * 3,
        *[(None, 2)] * 3,
        *[(0, None)] * 3,
        *[(1, None)] * 3,
    ]


def test_a_line_that_moved_is_counted_again(
    settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts_module, "_COUNTING_SHARE", math.inf)  # a line may be counted at any time
    event_id, made = ids.new_id(), [ids.new_id() for _ in range(4)]

    def settle(id_: UUID) -> None:
        connection.execute(_SETTLE, {"id": id_, "registration_id": ids.registration_id(id_)})

    def change() -> None:
        connection.execute(_LEAVE, {"event_id": event_id, "id": made[0]})
        settle(made[2])

    connection.execute(_EVENT, {"id": event_id, "slug": "drop"})
    for id_ in made:
        connection.execute(_ACCEPT, {"event_id": event_id, "id": id_})
    for id_ in made[:2]:
        settle(id_)
    asked = [(event_id, made[1]), (event_id, made[3])]

    assert places(settings, asked) == [(None, 2), (1, None)]
    assert places(settings, asked, change) == [(None, 1), (0, None)]
