"""A table of adopted events: where each came from, and whether it was adopted to its end.

Revision: 0013, after 0008.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

# An earlier adoption marked an unfinished event by these two settings, which stay as they are.
_ADOPTED_BEFORE = """
    INSERT INTO adoption (event_id, begun_at, finished_at)
    SELECT event.id, entry.at,
           CASE WHEN NOT (paused AND closes_at IS NOT DISTINCT FROM '1970-01-01 00:00:00.000001+00')
                THEN entry.at END
    FROM event JOIN audit_entry AS entry ON entry.event_id = event.id AND entry.number = 1
    WHERE entry.kind = 'adopt'
"""


def upgrade() -> None:
    op.create_table(
        "adoption",
        sa.Column("event_id", sa.Uuid, nullable=False),
        sa.Column("source_id", sa.Text, comment="the event's id in the source; null if adopted before 0013"),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column(
            "finished_at",
            sa.DateTime(timezone=True),
            comment="null while registrations may be missing; the event is closed and paused until then",
        ),
        sa.PrimaryKeyConstraint("event_id", name="adoption_pkey"),
    )
    op.execute(_ADOPTED_BEFORE)


def downgrade() -> None:
    op.drop_table("adoption")
