"""Add the id of an event's follow-up: the command that promotes where an earlier command stopped.

Revision: 0007, after 0006.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column(
        "event",
        sa.Column(
            "follow_up_id",
            sa.Uuid,
            comment="its newest follow-up; promotion waits for it while it is pending",
        ),
    )


def downgrade() -> None:
    op.drop_column("event", "follow_up_id")
