"""Corrections: a registration's original place, archived and deleted events, and slugs that were released.

All columns are nullable or have a constant default, so no row is rewritten, and a version that does not know
them goes on.

Revision: 0011, after 0010.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column(
        "registration",
        sa.Column(
            "original_seq",
            sa.BigInteger,
            comment="the place that it had first; null: that of its command, or as it is",
        ),
    )
    for name, comment in (
        ("archived", "closed, and in no list"),
        ("deleted", "closed for good and hidden; its rows stay"),
    ):
        op.add_column(
            "event", sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false(), comment=comment)
        )
    op.add_column(
        "event",
        sa.Column(
            "former_slugs", sa.ARRAY(sa.Text), comment="the slugs that it gave up lately, for other events"
        ),
    )
    op.add_column("event", sa.Column("slug_released_at", sa.DateTime(timezone=True)))
    op.create_index(
        "event_slug_released_idx",
        "event",
        ["slug_released_at"],
        postgresql_where=sa.text("slug_released_at IS NOT NULL"),
    )
    op.alter_column(
        "registration",
        "command_id",
        comment="the command whose id is its receipt; null for an adopted registration without one",
    )


def downgrade() -> None:
    op.alter_column(
        "registration",
        "command_id",
        comment="the command that made it; null for an adopted registration",
    )
    op.drop_index("event_slug_released_idx", "event")
    for name in ("slug_released_at", "former_slugs", "deleted", "archived"):
        op.drop_column("event", name)
    op.drop_column("registration", "original_seq")
