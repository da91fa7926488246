"""Events and registrations, as a system has them that counts rows to know what is left.

Revision: 0001, the first.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "event",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("slug", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("capacity", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.UniqueConstraint("slug", name="event_slug_key"),
        sa.CheckConstraint("capacity >= 0", name="event_capacity_not_negative"),
    )
    op.create_table(
        "registration",
        sa.Column("event_id", sa.Uuid, nullable=False),
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("spots_count", sa.Integer, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("event_id", "id", name="registration_pkey"),
        sa.ForeignKeyConstraint(["event_id"], ["event.id"], name="registration_event_fkey"),
        sa.CheckConstraint("spots_count > 0", name="registration_spots_count_positive"),
        sa.CheckConstraint(
            "status IN ('CONFIRMED', 'WAITLIST', 'CANCELLED')", name="registration_status_known"
        ),
    )


def downgrade() -> None:
    op.drop_table("registration")
    op.drop_table("event")
