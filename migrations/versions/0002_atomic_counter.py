"""The atomic counter: `spots_reserved`, backfilled from the confirmed registrations.

An event that was oversold before the counter came keeps its confirmed registrations: the excess is
written down as `overbooked_spots`, which lets the constraint hold without raising the capacity.

Revision: 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_BACKFILL = """
UPDATE event
SET spots_reserved = confirmed.spots,
    overbooked_spots = GREATEST(confirmed.spots - capacity, 0)
FROM (SELECT e.id, COALESCE(SUM(r.spots_count), 0) AS spots
      FROM event e LEFT JOIN registration r ON r.event_id = e.id AND r.status = 'CONFIRMED'
      GROUP BY e.id) AS confirmed
WHERE confirmed.id = event.id
"""


def upgrade() -> None:
    # No registration may be written between the sum and the commit, or the counter would start wrong.
    # The stronger lock is taken at once: a later upgrade would deadlock with a concurrent registration.
    op.execute("LOCK TABLE event IN ACCESS EXCLUSIVE MODE")
    op.execute("LOCK TABLE registration IN SHARE ROW EXCLUSIVE MODE")
    op.add_column(
        "event",
        sa.Column(
            "spots_reserved",
            sa.Integer,
            nullable=False,
            server_default=sa.text("0"),
            comment="atomic counter for confirmed spots, prevents race conditions",
        ),
    )
    op.add_column(
        "event",
        sa.Column(
            "overbooked_spots",
            sa.Integer,
            nullable=False,
            server_default=sa.text("0"),
            comment="spots confirmed beyond capacity when that was found; shrinks, and lets nobody in",
        ),
    )
    op.execute(_BACKFILL)
    op.create_check_constraint("event_spots_reserved_not_negative", "event", "spots_reserved >= 0")
    op.create_check_constraint("event_overbooked_spots_not_negative", "event", "overbooked_spots >= 0")
    op.create_check_constraint("event_not_oversold", "event", "spots_reserved <= capacity + overbooked_spots")


def downgrade() -> None:
    op.drop_constraint("event_not_oversold", "event")
    op.drop_constraint("event_overbooked_spots_not_negative", "event")
    op.drop_constraint("event_spots_reserved_not_negative", "event")
    op.drop_column("event", "overbooked_spots")
    op.drop_column("event", "spots_reserved")
