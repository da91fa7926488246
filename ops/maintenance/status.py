"""The status of a running service: its workers, their events, pending commands and drift."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

import psycopg
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from ops.maintenance import delays, table_locks, verification
from ops.maintenance.delays import Delay
from ops.maintenance.table_locks import TableLock
from ops.maintenance.verification import VerifiedEvent
from shared.domain import ids
from shared.errors import ExpectedError
from shared.postgres import backlog, connections, durability, ledger, locks, snapshots
from shared.postgres.durability import Durability
from shared.postgres.snapshots import Snapshot

# Idle events have an owner too, but of very many events a reader wants the active ones.
_NAMED_EVENTS_MAX = 100
_LATELY_CHANGED = text("SELECT id, slug FROM event ORDER BY updated_at DESC, slug LIMIT :limit")
_WAIT = text(f"SET LOCAL lock_timeout = '{table_locks.WAIT_SECONDS_MAX}s'")
_ENDING_DAYS = 14
_ENDING_KEYS = text("""
    SELECT key.name, organiser.name AS organiser, key.prefix, key.expires_at
    FROM api_key AS key LEFT JOIN organiser ON organiser.id = key.organiser_id
    WHERE key.revoked_at IS NULL AND key.expires_at BETWEEN now() AND now() + make_interval(days => :days)
      AND NOT EXISTS (SELECT FROM api_key AS next
                      WHERE next.name = key.name AND next.organiser_id IS NOT DISTINCT FROM key.organiser_id
                        AND next.revoked_at IS NULL AND next.expires_at > key.expires_at)
    ORDER BY key.expires_at, key.prefix
""")
_FAILED = text("""
    SELECT count(*), max(outcome.settled_at) AS latest_at,
           (array_agg(event.slug ORDER BY outcome.settled_at DESC))[1] AS event,
           (array_agg(outcome.body ->> 'incidentId' ORDER BY outcome.settled_at DESC))[1] AS incident_id
    FROM outcome JOIN event ON event.id = outcome.event_id
    WHERE outcome.body ->> 'outcome' = 'failed'
""")


class TableLocked(ExpectedError):  # noqa: N818 - reads as the sentence "raise TableLocked"
    """Another session has locked a table for so long that the status cannot be read."""

    exit_status = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerStatus:
    """A live worker; `tick_age_seconds` is the time since its last statement, None if it may not be known.

    `buckets` is how many of the `ids.BUCKETS` buckets of events the worker owns. `events` are those of its
    events that have pending commands, or are among the `_NAMED_EVENTS_MAX` events that changed last.
    """

    host: str
    pid: int
    tick_age_seconds: float | None
    buckets: int
    events: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class BacklogStatus:
    """An event with pending commands."""

    event: str
    pending: int
    oldest_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedStatus:
    """The commands that failed for good, and the latest of them."""

    count: int
    latest_at: str | None
    event: str | None
    incident_id: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class EndingKey:
    """A valid API key that ends soon, and has no successor of the same name that lasts longer."""

    name: str
    organiser: str | None
    prefix: str
    expires_at: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """The status of the service, from one snapshot."""

    workers: list[WorkerStatus]
    numbering_is_behind: bool
    backlog: list[BacklogStatus]
    delayed: list[Delay]
    locked_tables: list[TableLock]
    old_snapshots: list[Snapshot]
    failed: FailedStatus
    drift: list[VerifiedEvent]
    ending_keys: list[EndingKey]
    durability: Durability


def read(database_url: str) -> Status:
    """Return the status.

    Raises `TableLocked`, and SQLAlchemy's `OperationalError` if the database cannot be reached.
    """
    engine = connections.operator_engine(database_url)
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        locked = table_locks.read(connection)
        connection.execute(_WAIT)
        try:
            return _read(connection, locked)
        except OperationalError as error:
            if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                raise
            holders = "; ".join(lock.sentence for lock in locked if not lock.of_rows)
            raise TableLocked(f"the status cannot be read: {holders or error.orig}") from error


def _read(connection: Connection, locked: Sequence[TableLock]) -> Status:
    failed = connection.execute(_FAILED).mappings().one()
    changed = connection.execute(_LATELY_CHANGED, {"limit": _NAMED_EVENTS_MAX})
    pending = backlog.by_event(connection)
    slugs = {row.id: row.slug for row in (*changed, *pending)}
    workers = locks.workers(connection)
    return Status(
        workers=[_worker(worker, slugs) for worker in workers],
        numbering_is_behind=ledger.numbering_is_behind(connection),
        backlog=[
            BacklogStatus(event=row.slug, pending=row.pending, oldest_seconds=round(row.oldest_seconds, 3))
            for row in pending
        ],
        delayed=delays.read(
            connection,
            pending,
            lambda id_: any(worker.owns(id_) for worker in workers),
            locked,
            workers=len(workers),
        ),
        locked_tables=[lock for lock in locked if not lock.of_rows],
        old_snapshots=[found for found in snapshots.read(connection) if found.is_old],
        failed=FailedStatus(
            **{**failed, "latest_at": failed["latest_at"] and failed["latest_at"].isoformat()}
        ),
        drift=[event for event in verification.verify(connection) if not event.in_sync],
        ending_keys=[
            EndingKey(**{**row, "expires_at": row["expires_at"].isoformat()})
            for row in connection.execute(_ENDING_KEYS, {"days": _ENDING_DAYS}).mappings()
        ],
        durability=durability.read(connection),
    )


def as_json(status: Status) -> dict[str, object]:
    """Return the status as plain values."""
    return {
        **asdict(status),
        "drift": [verification.plain(event) for event in status.drift],
        "durability": {**asdict(status.durability), "warnings": status.durability.warnings},
    }


def show(status: Status) -> None:
    """Print the status for people."""
    console = Console()
    names = (Column(name, overflow="fold") for name in ("worker", "owns", "among them", "last tick"))
    workers = Table(*names, title="Workers", title_justify="left")
    for worker in status.workers:
        workers.add_row(
            f"{worker.host}/{worker.pid}",
            f"{worker.buckets}/{ids.BUCKETS} of the events",
            ", ".join(worker.events) or "-",
            "not told to this role" if (age := worker.tick_age_seconds) is None else f"{age:.1f} s ago",
        )
    console.print(workers if status.workers else "[bold red]No worker is running: nothing is decided.")
    if status.numbering_is_behind:
        console.print(
            "[bold red]The ledger's numbering is behind its commands, so nothing is accepted: "
            "run ./admitone verify --heal."
        )
    event = Column("event", overflow="fold")
    table = Table(event, "pending", "oldest", title="Pending commands", title_justify="left")
    for waiting in status.backlog:
        table.add_row(waiting.event, str(waiting.pending), f"{waiting.oldest_seconds:.1f} s")
    console.print(table if status.backlog else "Nothing is pending.")
    for delay in status.delayed:
        console.print(
            f"[bold red]{delay.event} waits for {delay.oldest_seconds:.0f} s: {escape(delay.reason)}"
        )
    for lock in status.locked_tables:
        console.print(f"[bold red]{escape(lock.sentence)}: commands that write there wait.")
    for snapshot in status.old_snapshots:
        console.print(f"[bold red]{escape(_sentence(snapshot))}")
    if status.failed.count:
        console.print(
            f"[bold red]Failed commands: {status.failed.count}, the latest at {status.failed.latest_at}, "
            f"event {status.failed.event}, incident {status.failed.incident_id}"
        )
    if status.drift:
        verification.show(status.drift)
    else:
        console.print("Every counter equals its rows.")
    for key in status.ending_keys:
        of = "the service" if key.organiser is None else escape(key.organiser)
        console.print(f"[bold red]The API key {key.name} of {of} ({key.prefix}) ends at {key.expires_at}.")
    _show_durability(console, status.durability)


def _show_durability(console: Console, found: Durability) -> None:
    for warning in found.warnings:
        console.print(f"[bold red]{warning}.")
    if found.synchronous_standby:
        console.print(f"Commits wait for a synchronous standby; {found.sessions_waiting} wait now.")


def _sentence(snapshot: Snapshot) -> str:
    state = "state not told" if snapshot.state is None else snapshot.state
    keeper = f"process {snapshot.pid} ({snapshot.name}, {state})" if snapshot.pid else snapshot.name
    age = "" if snapshot.seconds is None else f"{snapshot.seconds:.0f} s, "
    return (
        f"Old snapshot of {keeper}, {age}{snapshot.transactions} transactions: PostgreSQL removes no row "
        "that was deleted since, so a backlog is decided more and more slowly."
    )


def _worker(worker: locks.Worker, slugs: dict[UUID, str]) -> WorkerStatus:
    return WorkerStatus(
        host=worker.host,
        pid=worker.pid,
        tick_age_seconds=None if worker.silent_seconds is None else round(worker.silent_seconds, 3),
        buckets=len(worker.buckets),
        events=sorted(slug for id_, slug in slugs.items() if worker.owns(id_)),
    )
