"""Maps the service's statements of the write path to what they do in memory.

So the service runs unchanged above the tables in memory. Arrays are Python lists here. `test_conformance`
compares what the statements do with PostgreSQL.
"""
# ruff: noqa: SLF001 - the service's statements are private to its modules

from typing import Any

from api.commands import early_answers, pending_count
from api.queries import receipts
from shared.postgres import backlog, durability, ledger, locks
from tests.simulation.protocol.memory import accepting, answering, loading, owning, saving
from tests.simulation.protocol.memory.database import Execute, Transaction
from tests.simulation.protocol.memory.rows import Parameters, Read
from worker import load, load_registrations, ownership, save


async def nothing(_: Transaction, __: Parameters) -> Read:
    return 0


KNOWN: dict[Any, Execute] = {
    ledger._ACCEPT: accepting.accept,
    ledger._FIND: accepting.find_commands,
    ledger._DRAW: accepting.draw,
    ledger._LAST_NUMBER: accepting.last_number,
    ledger._ADVANCE_MARK: nothing,
    ledger._OUTCOMES: answering.outcomes_of,
    durability.CONFIRM: accepting.confirm,
    ownership._JOIN: owning.join,
    ownership._LOCK: owning.lock_buckets,
    ownership._UNLOCK: owning.unlock_buckets,
    ownership._LIVE_WORKERS: owning.live_workers,
    ownership.FIND_PENDING_EVENTS: owning.find_pending_events,
    locks._OWNERS: owning.owners,
    load.LOCK_EVENTS: loading.lock_events,
    load.FIRST_PENDING: loading.first_pending,
    load_registrations.FIND_REGISTRATIONS: loading.find_registrations,
    load.FIND_HOLDERS: loading.find_holders,
    load_registrations.READ_WAITLIST: loading.read_waitlist,
    load_registrations.COUNT_OVERSIZED: loading.count_oversized,
    save.SAVE_BATCH: saving.save_batch,
    save.SAVE_SETTINGS: saving.save_settings,
    save.SAVE_FOLLOW_UP: saving.save_follow_up,
    save.UPDATE_REGISTRATIONS: saving.update_registrations,
    save.DELETE_REGISTRATIONS: saving.delete_registrations,
    save.NOTE_TROUBLE: saving.note_trouble,
    save.FORGET_TROUBLE: saving.forget_trouble,
    save.FORGET_SETTLED: nothing,
    early_answers._READ_EVENTS: answering.read_refusing_events,
    pending_count._COUNT: answering.count_pending,
    receipts._RECEIPTS: answering.unknown,
    backlog._LINE: answering.line,
}
