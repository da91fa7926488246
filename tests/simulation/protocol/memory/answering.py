"""The statements that answer requests: outcomes, the bounds of the pending commands, early refusals."""

from collections import Counter

import msgspec

from api.queries.rosters import EventAsRead
from shared.domain import rules
from tests.simulation.protocol.memory.database import Transaction
from tests.simulation.protocol.memory.rows import (
    EVENTS,
    CountRow,
    Event,
    OutcomeRow,
    Parameters,
    Read,
    RefusingEventRow,
    waiting,
)


async def outcomes_of(tx: Transaction, p: Parameters) -> Read:
    asked = zip(p["event_ids"], p["ids"], strict=True)
    found = [(id_, tx.get("outcome", event_id, id_)) for event_id, id_ in asked]
    return [OutcomeRow(id_, outcome, None) for id_, outcome in found if outcome is not None]


async def count_pending(tx: Transaction, _: Parameters) -> Read:
    tables = tx.database.tables.items()
    return [
        CountRow(event_id, len(rows)) for (table, event_id), rows in tables if table == "pending" and rows
    ]


def as_read(tx: Transaction, event: Event) -> EventAsRead:
    """`rosters.COLUMN`."""
    settings, free = event.settings, event.settings.capacity - event.spots_reserved
    line = waiting(tx, event.id)
    large = sum(row.spots_count > settings.capacity > 0 for row in line)
    limit = settings.waitlist_limit
    asked_max = 0 if limit is None else max(event.waitlist_length - limit + 1, 0)
    heads: Counter[int] = Counter()
    waiters = []
    for row in line if free > 0 else ():
        heads[row.spots_count] += 1
        parties_max = min(free, rules.PROMOTED_SPOTS_MAX) // row.spots_count + 2
        if row.spots_count <= settings.capacity and heads[row.spots_count] <= parties_max:
            waiters.append((row.seq, row.id, row.spots_count))
    follow_up = event.follow_up_id
    settled = follow_up is None or tx.get("outcome", event.id, follow_up) is not None
    return EventAsRead(
        now=tx.now,
        spots_reserved=event.spots_reserved,
        waitlist_length=event.waitlist_length,
        oversized=min(large, asked_max),
        waiters=waiters,
        follow_up=None if settled else follow_up,
        settings=settings,
    )


async def read_refusing_events(tx: Transaction, p: Parameters) -> Read:
    events: list[Event] = [tx.get(*EVENTS, id_) for id_ in p["event_ids"]]
    return [
        RefusingEventRow(event.id, msgspec.json.encode(as_read(tx, event)).decode())
        for event in events
        if all(
            tx.get("command", event.id, id_).kind == "register"
            for id_ in tx.rows("pending", event.id).values()
        )
    ]


async def unknown(_: Transaction, __: Parameters) -> Read:
    """Find nothing: positions and the pace are of no importance to the protocol."""
    return []


async def line(tx: Transaction, p: Parameters) -> Read:
    seqs = list(tx.rows("pending", p["event_id"]))
    return [(len(seqs), sum(seq <= p["mark"] for seq in seqs), max(seqs, default=0))]
