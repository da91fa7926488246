"""Protection of events from anonymous clients, in a table of its own: no decision depends on it.

Revision: 0017, after 0016.
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.create_table(
        "event_protection",
        sa.Column("event_id", sa.Uuid, nullable=False),
        sa.Column(
            "spots_per_address", sa.Integer, comment="the spots that one address may ask for; null: no bound"
        ),
        sa.Column(
            "challenge", sa.Boolean, nullable=False, comment="registering needs a solved proof of work"
        ),
        sa.Column("changed_by", sa.Text, nullable=False, comment="the actor of the latest change"),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name="event_protection_pkey"),
        sa.CheckConstraint("spots_per_address > 0", name="event_protection_spots_positive"),
    )
    op.create_index("event_protection_changed_idx", "event_protection", ["changed_at"])


def downgrade() -> None:
    op.drop_table("event_protection")
