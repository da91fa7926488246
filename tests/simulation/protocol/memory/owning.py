"""The advisory locks by which workers own events, and the events that have pending commands."""

from shared.postgres import locks
from tests.simulation.protocol.memory.database import Transaction
from tests.simulation.protocol.memory.rows import OwnerRow, Parameters, Read


async def join(tx: Transaction, p: Parameters) -> Read:
    tx.database.advisory[tx.backend, locks.KNOWS, p["version"]] += 1
    tx.database.advisory[tx.backend, locks.WORKER, p["number"]] += 1
    return [(None, None)]


async def lock_buckets(tx: Transaction, p: Parameters) -> Read:
    """`pg_try_advisory_lock` for each bucket."""
    held = {number: b for b, kind, number in tx.database.advisory if kind == locks.BUCKET}
    gained = [(bucket,) for bucket in p["buckets"] if held.get(bucket, tx.backend) is tx.backend]
    for (bucket,) in gained:
        tx.database.advisory[tx.backend, locks.BUCKET, bucket] += 1
    return gained


async def unlock_buckets(tx: Transaction, p: Parameters) -> Read:
    for bucket in p["buckets"]:
        lock = tx.backend, locks.BUCKET, bucket
        tx.database.advisory[lock] -= 1
        if tx.database.advisory[lock] <= 0:
            del tx.database.advisory[lock]
    return [(bucket,) for bucket in p["buckets"]]


async def live_workers(tx: Transaction, _: Parameters) -> Read:
    """Sessions that are silent for too long are ended by their time-outs, before this statement sees them."""
    held = tx.database.advisory
    return [(number, backend.pid, False) for backend, kind, number in held if kind == locks.WORKER]


async def owners(tx: Transaction, _: Parameters) -> Read:
    held = list(tx.database.advisory)
    return [
        OwnerRow(number, [bucket for b, k, bucket in held if b is backend and k == locks.BUCKET])
        for backend, kind, number in held
        if kind == locks.WORKER
    ]


async def find_pending_events(tx: Transaction, p: Parameters) -> Read:
    """`find_pending_events.sql`, which reads so few events in one call."""
    pending = [
        event_id for (table, event_id), rows in tx.database.tables.items() if table == "pending" and rows
    ]
    return [(event_id, False) for event_id in sorted(pending) if event_id > p["after"]]
