"""Fingerprints are keyed digests; and the index of the payloads that are kept, by the age of their commands.

`schema.upgrade` builds the index beside the service. Rows leave it as `tidy` empties their payloads.

Revision: 0016, after 0013.
"""

from alembic import op

revision = "0016"
down_revision = "0015"

_FINGERPRINT = "COMMENT ON COLUMN idempotency_key.fingerprint IS '{}'"


def upgrade() -> None:
    op.execute(_FINGERPRINT.format("keyed digest of what was asked under that key"))


def downgrade() -> None:
    op.execute("DROP INDEX IF EXISTS command_payload_idx, command_deletion_idx")
    op.execute(_FINGERPRINT.format("SHA-256 of what was asked under that key"))
