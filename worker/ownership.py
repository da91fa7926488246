"""The events that this process owns: those of the buckets that its database session has locked.

Invariants:

1. A process owns an event while its database session holds the advisory lock of the event's bucket.
2. The same session commits the event's transactions, and is never replaced: a worker that loses the lock has
   lost its session, and cannot commit (decision 0010).
3. Every live worker holds a shared advisory lock that carries its number, so the list of live workers is
   PostgreSQL's own list of locks. There are no heartbeats: the server releases a dead session's locks.
4. Workers agree on the owner of each bucket by rendezvous hashing over that list: when one joins or leaves,
   only its own share of the buckets moves.
5. The number of locks depends on nothing that grows: not on the events, not on the commands (decision 0035).
"""

import hashlib
import struct
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from uuid import UUID

import psycopg
import structlog
from psycopg.rows import TupleRow

from shared.domain import commands, ids
from shared.postgres import arrays, durability, ledger, locks, statements

log = structlog.get_logger(__name__)

FIND_PENDING_EVENTS = statements.load(Path(__file__).parent / "sql" / "find_pending_events.sql")

_JOIN = f"""
    SELECT pg_advisory_lock_shared({locks.KNOWS}, %(version)s::integer),
           pg_advisory_lock_shared({locks.WORKER}, %(number)s::integer)
"""
_LOCK = f"""
    SELECT bucket FROM unnest(%(buckets)s::integer[]) AS wanted (bucket)
    WHERE pg_try_advisory_lock({locks.BUCKET}, bucket)
"""
_UNLOCK = (
    f"SELECT pg_advisory_unlock({locks.BUCKET}, bucket) FROM unnest(%(buckets)s::integer[]) AS given (bucket)"
)

# A session in the middle of a statement whose process neither reads nor writes: PostgreSQL's own time-outs do
# not end it, because they count while a session is idle, or are checked only between two writes.
_END_SECONDS_MAX = 1
_LIVE_WORKERS = f"""
    WITH held AS MATERIALIZED ({locks.HELD}),
    silent AS MATERIALIZED (
        SELECT pid FROM pg_stat_get_activity(NULL)
        WHERE wait_event_type = 'Client' AND pid <> pg_backend_pid()
          AND state_change < clock_timestamp() - make_interval(secs => %(silence_seconds_max)s)
    )
    SELECT held.number, held.pid,
           silent.pid IS NOT NULL AND pg_terminate_backend(silent.pid, {_END_SECONDS_MAX * 1000}) AS ended
    FROM held LEFT JOIN silent ON silent.pid = held.pid
    WHERE held.lock_class = {locks.WORKER}
"""

_BEFORE_ALL = UUID(int=0)
"""An id before those of all events."""


class SessionLost(Exception):  # noqa: N818 - reads as the sentence "raise SessionLost"
    """The session does not hold the lock that names its worker, so it owns nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BucketsMoved:
    """How many buckets a rebalance gained and lost."""

    gained: int
    lost: int


@dataclass(kw_only=True, slots=True)
class Ownership:
    """The events that one database session owns: those in its `buckets` (see `ids.bucket`).

    `cut_off` gets a notice for a commit of the session that is not confirmed (see `durability`).
    """

    session: "psycopg.Connection[TupleRow]"
    number: int
    silence_seconds_max: float
    buckets: set[int] = field(default_factory=set)
    cut_off: list[psycopg.errors.Diagnostic] = field(init=False)
    _workers: frozenset[int] = frozenset()
    _share: frozenset[int] = frozenset()
    _looked_up_to: UUID = _BEFORE_ALL

    def __post_init__(self) -> None:
        """Watch the session's commits."""
        self.cut_off = durability.watch_commits(self.session)

    def join(self) -> None:
        """Become one of the live workers, and announce the version of the commands' format that it knows."""
        self.session.execute(_JOIN, {"number": self.number, "version": commands.VERSION})

    def rebalance(self) -> BucketsMoved:
        """Unlock the buckets of other workers' shares, and lock the free buckets of this worker's share.

        Ends the session of a worker that has not spoken to PostgreSQL for `silence_seconds_max`. Raises
        `SessionLost` if this session is not the one that joined.
        """
        with suppress(psycopg.errors.LockNotAvailable):  # the next tick notes it: events need their owners
            ledger.advance_mark(self.session)
        workers = self._live_workers()
        if workers != self._workers:
            self._workers, self._share = workers, share(self.number, workers)
        lost = self.buckets - self._share
        if lost:
            self.session.execute(_UNLOCK, {"buckets": arrays.numbers(lost)})
        gained = self._lock(self._share - self.buckets)
        self.buckets = self.buckets - lost | gained
        return BucketsMoved(gained=len(gained), lost=len(lost))

    @property
    def has_its_share(self) -> bool:
        """Return False while other workers still have buckets of this worker's share."""
        return self.buckets == self._share

    def events_pending(self) -> list[UUID]:
        """Return owned events that have pending commands.

        One call looks at a bounded number of events, and the next call goes on behind them.
        """
        found = self.session.execute(FIND_PENDING_EVENTS, {"after": self._looked_up_to}).fetchall()
        last, more = found[-1] if found else (_BEFORE_ALL, False)
        self._looked_up_to = last if more else _BEFORE_ALL
        return list(dict.fromkeys(event_id for event_id, _ in found if ids.bucket(event_id) in self.buckets))

    def _live_workers(self) -> frozenset[int]:
        backend_pid = self.session.info.backend_pid
        live = set()
        joined = False
        parameters = {"silence_seconds_max": self.silence_seconds_max}
        for number, pid, ended in self.session.execute(_LIVE_WORKERS, parameters):
            if ended:
                log.warning("silent_worker_ended", backend_pid=pid)
            else:
                live.add(number)
                joined |= (number, pid) == (self.number, backend_pid)
        if not joined:
            raise SessionLost(
                f"the session {backend_pid} does not hold the lock of worker {self.number}: "
                "workers need a session of their own, without a pooler in transaction mode"
            )
        return frozenset(live)

    def _lock(self, buckets: Collection[int]) -> set[int]:
        parameters = {"buckets": arrays.numbers(buckets)}
        return {bucket for (bucket,) in self.session.execute(_LOCK, parameters)} if buckets else set()


def share(number: int, workers: Iterable[int]) -> frozenset[int]:
    """Return the buckets for which this worker has the highest weight (Thaler and Ravishankar, 1998)."""
    mine = _weights(number)
    others = [_weights(other) for other in workers if other != number]
    highest = map(max, zip(*others, strict=True)) if others else [-1] * ids.BUCKETS
    return frozenset(
        bucket for bucket, (own, other) in enumerate(zip(mine, highest, strict=True)) if own > other
    )


@lru_cache(maxsize=1_000)
def _weights(number: int) -> tuple[int, ...]:
    """Return the worker's weight for each bucket: numbers that look random, the same in every process."""
    digest = hashlib.shake_128(number.to_bytes(4, "big")).digest(8 * ids.BUCKETS)
    return struct.unpack(f">{ids.BUCKETS}Q", digest)
