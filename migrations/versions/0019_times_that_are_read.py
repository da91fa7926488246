"""Times of events that Python reads: in the years 1 to 9999, which 'infinity' is not.

One such time, set by hand, kept all events from being listed, and its event's commands from being decided.
A time that stands for "no bound" becomes null, any other one the first or the last that is read.

The view of the ledger finds each outcome by key (decision 0014).

Revision: 0019, after 0018.
"""

from alembic import op

revision = "0019"
down_revision = "0018"

_TIMES = "opens_at, closes_at, promote_until, cancel_until, created_at, updated_at"
_FIRST, _LAST, _END = "'0001-01-01 00:00:00+00'", "'9999-12-31 00:00:00+00'", "'10000-01-01 00:00:00+00'"
_ARE_READ = f"least({_TIMES}) >= {_FIRST} AND greatest({_TIMES}) < {_END}"
_MEND = f"""
    UPDATE event
    SET opens_at = CASE WHEN opens_at >= {_FIRST} THEN least(opens_at, {_LAST}) END,
        closes_at = CASE WHEN closes_at < {_END} THEN greatest(closes_at, {_FIRST}) END,
        promote_until = CASE WHEN promote_until < {_END} THEN greatest(promote_until, {_FIRST}) END,
        cancel_until = CASE WHEN cancel_until < {_END} THEN greatest(cancel_until, {_FIRST}) END,
        created_at = greatest(least(created_at, {_LAST}), {_FIRST}),
        updated_at = greatest(least(updated_at, {_LAST}), {_FIRST})
    WHERE NOT ({_ARE_READ})
"""
_LEDGER_BY_KEY = """
    CREATE OR REPLACE VIEW ledger AS
    SELECT command.*, outcome.body AS outcome, outcome.settled_at
    FROM command LEFT JOIN LATERAL (
        SELECT body, settled_at FROM outcome
        WHERE event_id = command.event_id AND command_id = command.id OFFSET 0
    ) AS outcome ON true
"""
_LEDGER_OF_0006 = """
    CREATE OR REPLACE VIEW ledger AS
    SELECT command.*, outcome.body AS outcome, outcome.settled_at
    FROM command LEFT JOIN outcome ON outcome.event_id = command.event_id AND outcome.command_id = command.id
"""


def upgrade() -> None:
    op.execute(_MEND)
    op.create_check_constraint("event_times_readable", "event", _ARE_READ)
    op.execute(_LEDGER_BY_KEY)


def downgrade() -> None:
    op.execute(_LEDGER_OF_0006)
    op.drop_constraint("event_times_readable", "event")
