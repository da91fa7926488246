"""A history that happens in the owner's own transactions, on real tables that plain SQL reads back."""

from collections.abc import Sequence
from uuid import UUID

import msgspec
from sqlalchemy import Connection, TextClause, text

from shared.domain import ids
from tests.databases import session_of
from tests.simulation import histories, worlds
from tests.simulation.model import TAKEN, Json, Told
from tests.simulation.snapshot import Entry, Row, Snapshot
from worker.owner import apply as apply_batch

_FREE_SLUGS = text(
    "UPDATE event SET slug = id::text, former_slugs = NULL, slug_released_at = NULL WHERE slug <> :taken"
)
_CREATE = text("""
    INSERT INTO event (id, slug, title, capacity, waitlist_enabled, waitlist_limit, promotion_policy,
                       auto_promote, max_spots_per_registration, opens_at, closes_at, promote_until,
                       cancel_until, paused, archived, deleted)
    VALUES (:id, :slug, :title, :capacity, :waitlist_enabled, :waitlist_limit, :promotion_policy,
            :auto_promote, :max_spots_per_registration, :opens_at, :closes_at, :promote_until,
            :cancel_until, :paused, :archived, :deleted),
           (gen_random_uuid(), :taken, :taken, 100, true, null, 'strict_fifo', true, 1, null, null, null,
            null, false, false, false)
    ON CONFLICT (slug) DO NOTHING
""")
_ACCEPT = text("""
    WITH accepted AS (
        INSERT INTO command (event_id, id, kind, payload, actor, accepted_at)
        VALUES (:event_id, :id, :kind, CAST(:payload AS jsonb), :actor, :accepted_at)
        RETURNING event_id, seq, id
    )
    INSERT INTO pending_command (event_id, seq, command_id) SELECT * FROM accepted
""")
_EVENT = text("SELECT * FROM event WHERE id = :event_id")
_ROWS = text("""
    SELECT id::text, seq, command_id::text, name, email, spots_count, status
    FROM registration WHERE event_id = :event_id ORDER BY id
""")
_ENTRIES = text("""
    SELECT event_id::text, number, command_id::text, kind, actor, reason, registration_id::text,
           from_status, to_status, before_after, spots_delta, spots_reserved, at, hash
    FROM audit_entry WHERE event_id = :event_id ORDER BY number
""")
_COMMANDS = text("""
    SELECT ledger.id::text, seq, kind, payload, actor, accepted_at, found.key AS idempotency_key, outcome
    FROM ledger LEFT JOIN idempotency_key AS found
         ON found.event_id = ledger.event_id AND found.command_id = ledger.id
    WHERE ledger.event_id = :event_id ORDER BY seq
""")


class InPostgres:
    """One event in a database, and the owner that applies its commands on this connection."""

    def __init__(self, connection: Connection, settings: Json, event_id: UUID | None = None) -> None:
        self.connection = connection
        self.event_id = event_id or ids.new_id()
        values = {worlds.column(name): value for name, value in settings.items()}
        with connection.begin():
            connection.execute(_FREE_SLUGS, {"taken": TAKEN})
            connection.execute(_CREATE, {**values, "id": self.event_id, "taken": TAKEN})

    def accept(self, asked: Sequence[Told]) -> None:
        with self.connection.begin():
            for told in asked:
                self.connection.execute(
                    _ACCEPT,
                    {
                        "event_id": self.event_id,
                        "id": UUID(told.id),
                        "kind": told.kind,
                        "payload": msgspec.json.encode(told.payload).decode(),
                        "actor": told.actor,
                        "accepted_at": told.accepted_at,
                    },
                )

    def apply(self, limit: int) -> int:
        """Let the owner take up to `limit` commands in one transaction."""
        return len(apply_batch(session_of(self.connection), [self.event_id], limit).settled)

    def snapshot(self) -> Snapshot:
        with self.connection.begin():
            (event,) = self._read(_EVENT)
            return Snapshot(
                settings={name: event[worlds.column(name)] for name in histories.SETTINGS},
                spots_reserved=event["spots_reserved"],
                waitlist_length=event["waitlist_length"],
                overbooked_spots=event["overbooked_spots"],
                audit_seq=event["audit_seq"],
                rows=tuple(Row(**row) for row in self._read(_ROWS)),
                entries=tuple(Entry(**entry) for entry in self._read(_ENTRIES)),
                commands=tuple(_from_ledger(command) for command in self._read(_COMMANDS)),
            )

    def _read(self, statement: TextClause) -> list[Json]:
        rows = self.connection.execute(statement, {"event_id": self.event_id}).mappings()
        return [dict(row) for row in rows]


def _from_ledger(command: Json) -> Told:
    outcome = command.pop("outcome")
    return Told(
        **command,
        registration_id=str(ids.registration_id(UUID(command["id"]))),
        follow_up_id=str(ids.follow_up_id(UUID(command["id"]))),
        outcome=None if outcome is None else worlds.as_read(outcome),
    )
