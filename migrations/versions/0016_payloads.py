"""The index of the payloads that are kept, by the age of their commands, for `tidy`.

It is built beside the service. Rows leave the index as their payloads are emptied.

Revision: 0016, after 0008.
"""

from alembic import op

revision = "0016"
down_revision = "0008"
branch_labels = None
depends_on = None

_FINGERPRINT = "COMMENT ON COLUMN idempotency_key.fingerprint IS '{}'"


def upgrade() -> None:
    op.execute(_FINGERPRINT.format("keyed digest of what was asked under that key"))
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS command_payload_idx")  # of an upgrade that was cut off
        op.execute("""
            CREATE INDEX CONCURRENTLY command_payload_idx ON command (accepted_at)
            WHERE payload <> '{}'::jsonb
        """)


def downgrade() -> None:
    op.drop_index("command_payload_idx", "command")
    op.execute(_FINGERPRINT.format("SHA-256 of what was asked under that key"))
