"""The troubles of pending commands, for operators, and an index that finds failed commands.

Revision: 0008, after 0007.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "trouble",
        sa.Column("event_id", sa.Uuid, nullable=False),
        sa.Column("command_id", sa.Uuid, comment="null when the whole event is in trouble"),
        sa.Column("error", sa.Text, nullable=False, comment="the last error, without its details"),
        sa.Column("tries", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("tried_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.UniqueConstraint(
            "event_id", "command_id", name="trouble_command_key", postgresql_nulls_not_distinct=True
        ),
    )
    op.create_index(
        "outcome_failed_idx",
        "outcome",
        ["event_id", "settled_at"],
        postgresql_where=sa.text("body ->> 'outcome' = 'failed'"),
    )


def downgrade() -> None:
    op.drop_index("outcome_failed_idx", "outcome")
    op.drop_table("trouble")
