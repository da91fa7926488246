"""Ends of promotion and of the holders' own cancelling: two times of an event, null for no end.

Both columns are null by default, so no row is rewritten, and a version that does not know them goes on.

Revision: 0010, after 0008.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0008"


def upgrade() -> None:
    op.add_column(
        "event",
        sa.Column(
            "promote_until",
            sa.DateTime(timezone=True),
            comment="commands accepted from then on promote no registration",
        ),
    )
    op.add_column(
        "event",
        sa.Column("cancel_until", sa.DateTime(timezone=True), comment="holders cannot cancel from then on"),
    )


def downgrade() -> None:
    op.drop_column("event", "cancel_until")
    op.drop_column("event", "promote_until")
