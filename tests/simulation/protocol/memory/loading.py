"""The statements that lock events and load their rosters."""

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID

import msgspec

from tests.simulation.protocol.memory.database import Transaction
from tests.simulation.protocol.memory.rows import EVENTS, Event, Parameters, Read, Registration, waiting


async def lock_events(tx: Transaction, p: Parameters, pause_seconds: float | None = None) -> Read:
    """`lock_events.sql`: the ledger as of the statement's beginning, the event's row as of its lock.

    Other transactions may commit in between; how long that takes is drawn, or `pause_seconds`.
    """
    turns = []
    for event_id in p["event_ids"]:
        pending = sorted(tx.rows("pending", event_id).items())
        taken = [(seq, id_) for seq, id_ in pending if seq >= p["first_seq"] and id_ not in p["left_out"]]
        turns += [(turn, seq, event_id, id_) for turn, (seq, id_) in enumerate(taken[: p["share"]])]
    of_event: dict[UUID, list[tuple[int, UUID]]] = {}
    for _, seq, event_id, id_ in sorted(turns)[: p["commands_max"]]:
        of_event.setdefault(event_id, []).append((seq, id_))
    seen = {
        event_id: (dict(tx.rows("entry", event_id)), dict(tx.rows("outcome", event_id)))
        for event_id in of_event
    }
    if of_event:
        await (tx.database.moment() if pause_seconds is None else asyncio.sleep(pause_seconds))
    tx.lock_seconds_max = p["lock_ms"] / 1_000
    found = []
    for event_id, pending in of_event.items():
        if not tx.try_lock(*EVENTS, event_id):
            continue  # SKIP LOCKED
        event: Event = tx.get(*EVENTS, event_id)
        entries, outcomes = seen[event_id]
        last = entries.get(event.audit_seq)
        commands = [tx.get("command", event_id, id_) for _, id_ in sorted(pending)]
        follow_up = event.follow_up_id if event.follow_up_id not in outcomes else None
        locked = {
            "id": event_id,
            "auditSeq": event.audit_seq,
            "lastHash": None if last is None else last["hash"].hex(),
            "now": tx.now,
            "spotsReserved": event.spots_reserved,
            "waitlistLength": event.waitlist_length,
            "followUp": follow_up,
            "settings": event.settings,
            "pending": [
                (c.id, c.seq, c.version, c.kind, c.payload, c.actor, str(c.accepted_at)) for c in commands
            ],
        }
        found.append((msgspec.json.encode(locked).decode(),))
    return found


async def first_pending(tx: Transaction, p: Parameters) -> Read:
    pending = sorted(tx.rows("pending", p["event_id"]).items())
    return [(id_, seq) for seq, id_ in pending if id_ not in p["left_out"]][:1]


async def find_registrations(tx: Transaction, p: Parameters) -> Read:
    found = []
    for id_ in p["ids"]:
        row = tx.get("registration", p["event_id"], id_)
        if row is not None:
            command = tx.get("command", p["event_id"], row.command_id)
            first = row.original_seq or (command.seq if command else row.seq)
            found.append(_shown(row, first))
    return found


def _shown(row: Registration, original_seq: int | None) -> dict[str, Any]:
    shown = {**msgspec.structs.asdict(row), "original_seq": original_seq}
    del shown["email_key"]
    return shown


async def find_holders(tx: Transaction, p: Parameters) -> Read:
    return [
        (event_id, key, row.email, row.id)
        for event_id, key in zip(p["event_ids"], p["email_keys"], strict=True)
        for row in tx.rows("registration", event_id).values()
        if row.email_key == key and row.status != "CANCELLED"
    ]


async def read_waitlist(tx: Transaction, p: Parameters) -> Read:
    leaving = dict(zip(p["leaving_sizes"], p["leaving_parties"], strict=True))
    left: Counter[int] = Counter()
    found = []
    for row in waiting(tx, p["event_id"]):
        left[row.spots_count] += 1
        parties_max = p["freed"] // row.spots_count + leaving.get(row.spots_count, 0) + 2
        if row.spots_count <= p["capacity"] and left[row.spots_count] <= parties_max:
            found.append(_shown(row, None))
    return found


async def count_oversized(tx: Transaction, p: Parameters) -> Read:
    found = []
    for event_id, capacity, parties_max in zip(
        p["event_ids"], p["capacities"], p["parties_max"], strict=True
    ):
        sizes = sorted((row.spots_count for row in waiting(tx, event_id)), reverse=True)
        large = Counter([size for size in sizes if size > capacity][:parties_max])
        found += [(event_id, size, parties) for size, parties in large.items()]
    return found
