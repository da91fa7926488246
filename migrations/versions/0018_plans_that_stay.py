"""Plans that do not depend on when a table was analysed (decision 0014).

A table that had one row then seems to have one row for each event. So an index by which all rows of an event
are read seems as good as one by which a single row is found. And a table that was empty then seems to stay
so, which is why a command's idempotency key is found by an index that begins with the command.

Revision: 0018, after 0017.
"""

from alembic import op

revision = "0018"
down_revision = "0017"

_TABLES = ("command", "pending_command", "outcome", "idempotency_key", "registration", "audit_entry")
_EVENTS = 200
"""PostgreSQL's guess about a table without statistics. It counts from the next ANALYZE on."""


def upgrade() -> None:
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} ALTER COLUMN event_id SET (n_distinct = {_EVENTS})")
    _make_unique(["command_id", "event_id"])


def downgrade() -> None:
    _make_unique(["event_id", "command_id"])
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} ALTER COLUMN event_id RESET (n_distinct)")


def _make_unique(columns: list[str]) -> None:
    op.drop_constraint("idempotency_key_command_key", "idempotency_key")
    op.create_unique_constraint("idempotency_key_command_key", "idempotency_key", columns)
