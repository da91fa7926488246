"""The events that this process owns.

Invariants:

1. A process owns an event while its database session holds the event's advisory lock.
2. The same session commits the event's transactions: a worker that loses the lock has lost its session, and
   cannot commit (decision 0010).
3. Every live worker holds a shared advisory lock that carries its number, so the list of live workers is
   PostgreSQL's own list of locks. There are no heartbeats: the server releases a dead session's locks.
4. Workers agree on the owner of each event by rendezvous hashing over that list: when one joins or
   leaves, only its own share of the events moves.
"""

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from uuid import UUID

import psycopg
from psycopg.rows import TupleRow
from sqlalchemy import Connection, text

from shared.postgres import backlog, ledger, locks

_WORKER_NUMBER_BITS = 31

_JOIN = text("SELECT pg_advisory_lock_shared(CAST(:lock_class AS integer), CAST(:number AS integer))")

# An event counts as open a minute before and after its window, so that its queue is consumed when the first
# command arrives and until the last answer has left. Of very many events these are the last changed ones: the
# first command of any other event waits for a tick.
_OPEN_EVENTS = text("""
    SELECT id FROM event
    WHERE (opens_at IS NULL OR opens_at < now() + interval '1 minute')
      AND (closes_at IS NULL OR closes_at > now() - interval '1 minute')
    ORDER BY updated_at DESC LIMIT :limit
""")

_LOCK = text("""
    SELECT lock FROM unnest(CAST(:locks AS bigint[])) AS wanted (lock) WHERE pg_try_advisory_lock(lock)
""")

_UNLOCK = text("SELECT pg_advisory_unlock(lock) FROM unnest(CAST(:locks AS bigint[])) AS given (lock)")


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnershipChange:
    """The events that a rebalance gained and lost, and the owned events that have pending commands."""

    gained: Collection[UUID]
    lost: Collection[UUID]
    pending: Collection[UUID]


@dataclass(kw_only=True, slots=True)
class Ownership:
    """The events that one database session owns; `session` is its psycopg connection."""

    connection: Connection
    session: "psycopg.Connection[TupleRow]"
    events_max: int
    number: int = field(default_factory=lambda: secrets.randbits(_WORKER_NUMBER_BITS))
    events: set[UUID] = field(default_factory=set)
    _workers: frozenset[int] = frozenset()
    _winners: dict[UUID, int] = field(default_factory=dict)

    def join(self) -> None:
        """Become one of the live workers."""
        with self.connection.begin():
            self.connection.execute(_JOIN, {"lock_class": locks.WORKER, "number": self.number})

    def rebalance(self) -> OwnershipChange:
        """Unlock the events of other workers' shares, and lock the free events of this worker's share."""
        with self.connection.begin():
            ledger.advance_mark(self.connection)
            pending = backlog.events_pending(self.connection)
            self._note_workers(locks.worker_numbers(self.connection))
            limit = {"limit": self.events_max * len(self._workers)}
            active = pending | set(self.connection.execute(_OPEN_EVENTS, limit).scalars())
            share = {event_id for event_id in active if self._winner(event_id) == self.number}
            lost = self.events - share
            self._unlock(lost)
            gained = self._lock(share - self.events)
        self.events = self.events - lost | gained
        return OwnershipChange(gained=gained, lost=lost, pending=pending & self.events)

    def _note_workers(self, workers: frozenset[int]) -> None:
        assert self.number in workers, "the session no longer holds its own lock"
        if workers != self._workers:
            self._workers = workers
            self._winners.clear()

    def _winner(self, event_id: UUID) -> int:
        winner = self._winners.get(event_id)
        if winner is None:
            winner = self._winners[event_id] = rendezvous(event_id, self._workers)
        return winner

    def _lock(self, events: Collection[UUID]) -> set[UUID]:
        if not events:
            return set()
        wanted = {locks.event_key(event_id): event_id for event_id in events}
        return {wanted[lock] for lock in self.connection.execute(_LOCK, {"locks": list(wanted)}).scalars()}

    def _unlock(self, events: Collection[UUID]) -> None:
        if events:
            self.connection.execute(_UNLOCK, {"locks": [locks.event_key(event_id) for event_id in events]})


def rendezvous(event_id: UUID, workers: Collection[int]) -> int:
    """Return the worker with the highest hash for this event (Thaler and Ravishankar, 1998)."""
    return max(
        workers,
        key=lambda number: hashlib.blake2b(
            event_id.bytes + number.to_bytes(4, "big"), digest_size=8
        ).digest(),
    )
