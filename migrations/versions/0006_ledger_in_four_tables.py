"""The ledger in four tables: commands, the pending ones, outcomes and idempotency keys.

A row of `command` and of `outcome` is written once and not changed, so settling a command leaves no dead
row of it behind; only the small table of pending commands has rows that come and go (decision 0032).
`ledger_mark` keeps how far the ledger's numbering had come, so that a sequence that fell behind is noticed.

The rows that are there are copied in bulk, under a lock: the API and the workers are stopped meanwhile.

Revision: 0006, after 0005.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"

_COPY = (
    """
    INSERT INTO pending_command (event_id, seq, command_id)
    SELECT event_id, seq, id FROM command WHERE settled_at IS NULL
    """,
    """
    INSERT INTO outcome (event_id, command_id, body, settled_at)
    SELECT event_id, id, outcome, settled_at FROM command WHERE settled_at IS NOT NULL ORDER BY settled_at
    """,
    """
    INSERT INTO idempotency_key (event_id, key, command_id, fingerprint, created_at)
    SELECT event_id, idempotency_key, id, fingerprint, accepted_at FROM command
    WHERE idempotency_key IS NOT NULL
    """,
    """
    INSERT INTO ledger_mark (seq)
    SELECT greatest(0, (SELECT max(seq) FROM command), (SELECT max(seq) FROM registration),
                    (SELECT last_value FROM command_seq_seq WHERE is_called))
    """,
)
_COPY_BACK = (
    """
    UPDATE command SET outcome = outcome.body, settled_at = outcome.settled_at, attempts = 1
    FROM outcome WHERE outcome.event_id = command.event_id AND outcome.command_id = command.id
    """,
    """
    UPDATE command SET idempotency_key = found.key, fingerprint = found.fingerprint
    FROM idempotency_key AS found WHERE found.event_id = command.event_id AND found.command_id = command.id
    """,
)
_VIEW = """
CREATE VIEW ledger AS
SELECT command.*, outcome.body AS outcome, outcome.settled_at
FROM command LEFT JOIN outcome ON outcome.event_id = command.event_id AND outcome.command_id = command.id
"""
# Rows come and go at the rate of the commands: their dead index entries must go early, or every look
# for pending commands wades through them.
_VACUUM_EARLY = """
ALTER TABLE pending_command SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000)
"""


def upgrade() -> None:
    op.execute("LOCK TABLE event, registration, command IN ACCESS EXCLUSIVE MODE")
    _create_tables()
    for statement in _COPY:
        op.execute(statement)
    for name in ("settled_idx", "pending_idx", "idempotency_key"):
        op.drop_index(f"command_{name}", "command")
    for name in ("settled_with_outcome", "key_with_fingerprint"):
        op.drop_constraint(f"command_{name}", "command")
    for column in ("attempts", "settled_at", "outcome", "fingerprint", "idempotency_key"):
        op.drop_column("command", column)
    op.add_column(
        "command",
        sa.Column(
            "version",
            sa.SmallInteger,
            nullable=False,
            server_default=sa.text("1"),
            comment="the version of the commands' format that a reader must know",
        ),
    )
    op.execute("ALTER TABLE command RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold)")
    op.execute(_VACUUM_EARLY)
    op.execute(_VIEW)


def _create_tables() -> None:
    op.create_table(
        "pending_command",
        sa.Column("event_id", sa.Uuid, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("command_id", sa.Uuid, nullable=False),
        sa.PrimaryKeyConstraint("event_id", "seq", name="pending_command_pkey"),
    )
    op.create_table(
        "outcome",
        sa.Column("event_id", sa.Uuid, nullable=False),
        sa.Column("command_id", sa.Uuid, nullable=False),
        sa.Column("body", JSONB, nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("event_id", "command_id", name="outcome_pkey"),
    )
    op.create_index("outcome_settled_idx", "outcome", ["settled_at"], postgresql_using="brin")
    op.create_table(
        "idempotency_key",
        sa.Column("event_id", sa.Uuid, nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False, comment="SHA-256 of the client's key"),
        sa.Column("command_id", sa.Uuid, nullable=False),
        sa.Column(
            "fingerprint",
            sa.LargeBinary,
            nullable=False,
            comment="SHA-256 of what was asked under that key",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("event_id", "key", name="idempotency_key_pkey"),
        sa.UniqueConstraint("event_id", "command_id", name="idempotency_key_command_key"),
    )
    op.create_index("idempotency_key_created_idx", "idempotency_key", ["created_at"], postgresql_using="brin")
    op.create_table(
        "ledger_mark",
        sa.Column("single", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("seq", sa.BigInteger, nullable=False, comment="the numbering had come at least this far"),
        sa.PrimaryKeyConstraint("single", name="ledger_mark_pkey"),
        sa.CheckConstraint("single", name="ledger_mark_single"),
    )


def downgrade() -> None:
    op.execute("LOCK TABLE event, registration, command IN ACCESS EXCLUSIVE MODE")
    op.execute("DROP VIEW ledger")
    op.drop_column("command", "version")
    for column in (
        sa.Column("idempotency_key", sa.LargeBinary, comment="SHA-256 of the client's key"),
        sa.Column("fingerprint", sa.LargeBinary, comment="SHA-256 of what was asked under that key"),
        sa.Column("outcome", JSONB),
        sa.Column("settled_at", sa.DateTime(timezone=True)),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
    ):
        op.add_column("command", column)
    for statement in _COPY_BACK:
        op.execute(statement)
    op.create_check_constraint(
        "command_settled_with_outcome", "command", "(outcome IS NULL) = (settled_at IS NULL)"
    )
    op.create_check_constraint(
        "command_key_with_fingerprint", "command", "(idempotency_key IS NULL) = (fingerprint IS NULL)"
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
    op.execute(
        "ALTER TABLE command SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000)"
    )
    for table in ("ledger_mark", "idempotency_key", "outcome", "pending_command"):
        op.drop_table(table)
