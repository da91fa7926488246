"""Organisers, which own events, and their API keys.

An event without an organiser is the service's own: all events are before this step, and so are those that a
version without organisers creates beside this one.

Revision: 0015, after 0013.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0015"
down_revision = "0013"


def upgrade() -> None:
    op.create_table(
        "organiser",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("id", name="organiser_pkey"),
        sa.UniqueConstraint("name", name="organiser_name_key"),
    )
    op.create_table(
        "api_key",
        sa.Column("prefix", sa.Text, nullable=False, comment="the part of the key that may be shown"),
        sa.Column("digest", sa.LargeBinary, nullable=False, comment="SHA-256 of the key"),
        sa.Column("name", sa.Text, nullable=False, comment="the actor in the audit trail"),
        sa.Column("organiser_id", sa.Uuid, comment="null for a key of the service, for all events"),
        sa.Column("scopes", ARRAY(sa.Text), nullable=False),
        sa.Column("created_by", sa.Text, nullable=False, comment="the actor that made the key"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("prefix", name="api_key_pkey"),
        sa.UniqueConstraint("digest", name="api_key_digest_key"),
        sa.ForeignKeyConstraint(["organiser_id"], ["organiser.id"], name="api_key_organiser_fkey"),
    )
    # Null for every row, so nothing is rewritten; the index has no row yet. Both take one look at the table.
    op.add_column(
        "event", sa.Column("organiser_id", sa.Uuid, comment="its owner; null for the service's own")
    )
    op.create_foreign_key("event_organiser_fkey", "event", "organiser", ["organiser_id"], ["id"])
    op.create_index(
        "event_organiser_idx",
        "event",
        ["organiser_id", "created_at", "id"],
        postgresql_where=sa.text("organiser_id IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("event_organiser_idx", "event")
    op.drop_column("event", "organiser_id")
    op.drop_table("api_key")
    op.drop_table("organiser")
