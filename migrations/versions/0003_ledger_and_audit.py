"""The ledger, the audit trail, holders, the waitlist's order and the settings of an event.

Older registrations get their places in the order of their creation; the ledger's numbering starts after
them, so that their waiting registrations stay ahead of new ones.

Revision: 0003, after 0002.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby, islice
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"

_PLACES = """
UPDATE registration
SET seq = placed.seq
FROM (SELECT event_id, id, row_number() OVER (ORDER BY created_at, id) AS seq FROM registration) AS placed
WHERE placed.event_id = registration.event_id AND placed.id = registration.id
"""
_WAITLIST_LENGTHS = """
UPDATE event
SET waitlist_length = waiting.length
FROM (SELECT event_id, count(*) AS length FROM registration WHERE status = 'WAITLIST' GROUP BY event_id)
     AS waiting
WHERE waiting.event_id = event.id
"""
_NUMBER_AFTER_THEM = """
SELECT setval(pg_get_serial_sequence('command', 'seq'), max(seq))
FROM registration HAVING max(seq) IS NOT NULL
"""
# The ledger and the audit trail only grow at their end, and pending commands settle at once: dead
# index entries of the pending must go early, or every look for pending commands wades through them.
_VACUUM_EARLY = """
ALTER TABLE command SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000)
"""

_REGISTRATIONS_IN_ORDER = sa.text(
    "SELECT event_id, id, status, spots_count FROM registration ORDER BY event_id, seq"
)
_COUNT_ENTRIES = """
UPDATE event
SET audit_seq = trail.entries
FROM (SELECT event_id, max(number) AS entries FROM audit_entry GROUP BY event_id) AS trail
WHERE trail.event_id = event.id
"""
_REFUSE_REWRITING = """
CREATE FUNCTION refuse_rewriting_the_audit_trail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is append-only' USING ERRCODE = 'insufficient_privilege';
END $$
"""
_KIND = _ACTOR = "migration"
_COPY_ENTRIES = """
COPY audit_entry (event_id, number, kind, actor, registration_id, to_status, spots_delta, spots_reserved, at,
                  hash) FROM STDIN
"""
_ROWS_AT_ONCE = 10_000
_ROWS_TO_TELL = 1_000_000

_log = logging.getLogger("alembic.runtime.migration")


def upgrade() -> None:
    # Both tables change, so both are locked at once, in the order in which a registration takes them.
    op.execute("LOCK TABLE event, registration IN ACCESS EXCLUSIVE MODE")
    _extend_event()
    _extend_registration()
    _create_command()
    _create_audit_entry()
    _begin_audit_trails()
    _protect_audit_trail()
    op.execute(_NUMBER_AFTER_THEM)
    op.execute(_VACUUM_EARLY)


def _extend_event() -> None:
    for column in (
        sa.Column(
            "waitlist_length",
            sa.Integer,
            nullable=False,
            server_default=sa.text("0"),
            comment="registrations that wait; moves in the same statement as spots_reserved",
        ),
        sa.Column("waitlist_enabled", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("waitlist_limit", sa.Integer),
        sa.Column("promotion_policy", sa.Text, nullable=False, server_default=sa.text("'strict_fifo'")),
        sa.Column("auto_promote", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("max_spots_per_registration", sa.Integer, nullable=False, server_default=sa.text("10")),
        sa.Column("opens_at", sa.DateTime(timezone=True)),
        sa.Column("closes_at", sa.DateTime(timezone=True)),
        sa.Column("paused", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("audit_seq", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    ):
        op.add_column("event", column)
    op.execute(_WAITLIST_LENGTHS)
    for name, condition in (
        ("event_waitlist_length_not_negative", "waitlist_length >= 0"),
        ("event_waitlist_limit_not_negative", "waitlist_limit >= 0"),
        ("event_max_spots_positive", "max_spots_per_registration > 0"),
        ("event_promotion_policy_known", "promotion_policy IN ('strict_fifo', 'skip_unfit')"),
        ("event_closes_after_it_opens", "closes_at > opens_at"),
    ):
        op.create_check_constraint(name, "event", condition)


def _extend_registration() -> None:
    op.add_column(
        "registration",
        sa.Column("seq", sa.BigInteger, comment="its place: the ledger's seq that put it there"),
    )
    op.execute(_PLACES)
    op.alter_column("registration", "seq", nullable=False)
    for column in (
        sa.Column(
            "command_id", sa.Uuid, comment="the command that made it; null for an adopted registration"
        ),
        sa.Column("email", sa.Text),
        sa.Column("email_key", sa.Text, comment="the address in the form in which two spellings are equal"),
    ):
        op.add_column("registration", column)
    op.create_unique_constraint("registration_command_key", "registration", ["event_id", "command_id"])
    op.create_index("registration_place_key", "registration", ["event_id", "seq"], unique=True)
    op.create_index(
        "registration_holder_key",
        "registration",
        ["event_id", "email_key"],
        unique=True,
        postgresql_where=sa.text("status <> 'CANCELLED'"),
    )
    for name, columns in (
        ("registration_waitlist_idx", ["event_id", "seq"]),
        ("registration_waitlist_size_idx", ["event_id", "spots_count", "seq"]),
    ):
        op.create_index(name, "registration", columns, postgresql_where=sa.text("status = 'WAITLIST'"))


def _create_command() -> None:
    op.create_table(
        "command",
        sa.Column("event_id", sa.Uuid, nullable=False),
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("seq", sa.BigInteger, sa.Identity(always=True, cache=1), nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("payload", JSONB, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.LargeBinary, comment="SHA-256 of the client's key"),
        sa.Column("fingerprint", sa.LargeBinary, comment="SHA-256 of what was asked under that key"),
        sa.Column(
            "accepted_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("clock_timestamp()"),
        ),
        sa.Column("outcome", JSONB),
        sa.Column("settled_at", sa.DateTime(timezone=True)),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("event_id", "id", name="command_pkey"),
        sa.CheckConstraint("(outcome IS NULL) = (settled_at IS NULL)", name="command_settled_with_outcome"),
        sa.CheckConstraint(
            "(idempotency_key IS NULL) = (fingerprint IS NULL)", name="command_key_with_fingerprint"
        ),
    )
    op.create_index(
        "command_idempotency_key",
        "command",
        ["event_id", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_index(
        "command_pending_idx",
        "command",
        ["event_id", "seq"],
        postgresql_where=sa.text("settled_at IS NULL"),
    )
    op.create_index("command_settled_idx", "command", ["settled_at"], postgresql_using="brin")


def _create_audit_entry() -> None:
    op.create_table(
        "audit_entry",
        sa.Column("event_id", sa.Uuid, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("command_id", sa.Uuid, comment="null for a registration that was there before the trail"),
        sa.Column("kind", sa.Text, nullable=False, comment="the command's kind, or promotion"),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("registration_id", sa.Uuid),
        sa.Column("from_status", sa.Text),
        sa.Column("to_status", sa.Text),
        sa.Column("before_after", JSONB, comment="[before, after] of every setting that changed"),
        sa.Column("spots_delta", sa.Integer, nullable=False),
        sa.Column("spots_reserved", sa.Integer, nullable=False, comment="the counter after this entry"),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "hash", sa.LargeBinary, nullable=False, comment="SHA-256 over the entry before and this one"
        ),
        sa.PrimaryKeyConstraint("event_id", "number", name="audit_entry_pkey"),
    )


def _protect_audit_trail() -> None:
    op.execute(_REFUSE_REWRITING)
    op.execute(
        "CREATE TRIGGER audit_entry_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entry "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_rewriting_the_audit_trail()"
    )


def _begin_audit_trails() -> None:
    """Give every registration that is there an entry, so that replaying a trail gives the tables.

    The entries are copied in chunks, so that memory holds one chunk however many registrations there are.
    """
    connection = op.get_bind()
    now = connection.execute(sa.text("SELECT now()")).scalar_one()
    rows = connection.execute(_REGISTRATIONS_IN_ORDER, execution_options={"yield_per": _ROWS_AT_ONCE})
    entries = _entries(rows, now)
    written = 0
    driver = connection.connection.driver_connection
    assert driver is not None, "the migrations run on a connection"
    while chunk := list(islice(entries, _ROWS_AT_ONCE)):
        with driver.cursor() as cursor, cursor.copy(_COPY_ENTRIES) as copy:
            for entry in chunk:
                copy.write_row(entry)
        if (written + len(chunk)) // _ROWS_TO_TELL > written // _ROWS_TO_TELL:
            _log.info("%s entries of the audit trail are written", f"{written + len(chunk):,}")
        written += len(chunk)
    op.execute(_COUNT_ENTRIES)


def _entries(rows: Iterable[Any], now: datetime) -> Iterator[tuple[object, ...]]:
    at = f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    for event_id, registrations in groupby(rows, key=lambda row: row.event_id):
        reserved, digest = 0, bytes(32)
        for number, row in enumerate(registrations, start=1):
            spots = row.spots_count if row.status == "CONFIRMED" else 0
            reserved += spots
            registration = [str(row.id), None, row.status, None]
            facts = [str(event_id), number, None, _KIND, _ACTOR, None, *registration, spots, reserved, at]
            digest = hashlib.sha256(digest + json.dumps(facts, separators=(",", ":")).encode()).digest()
            yield event_id, number, _KIND, _ACTOR, row.id, row.status, spots, reserved, now, digest


def downgrade() -> None:
    op.drop_table("audit_entry")
    op.execute("DROP FUNCTION refuse_rewriting_the_audit_trail")
    op.drop_table("command")
    for name in ("waitlist_size_idx", "waitlist_idx", "holder_key", "place_key"):
        op.drop_index(f"registration_{name}", "registration")
    op.drop_constraint("registration_command_key", "registration")
    for column in ("email_key", "email", "command_id", "seq"):
        op.drop_column("registration", column)
    for column in (
        "audit_seq",
        "paused",
        "closes_at",
        "opens_at",
        "max_spots_per_registration",
        "auto_promote",
        "promotion_policy",
        "waitlist_limit",
        "waitlist_enabled",
        "waitlist_length",
    ):
        op.drop_column("event", column)
