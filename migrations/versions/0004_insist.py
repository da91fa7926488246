"""A function by which a statement fails if it did not change the expected number of rows.

With it a session can send a whole transaction at once, its commit included: if one statement changed too many
or too few rows, the transaction is rolled back.

Revision: 0004, after 0003.
"""

from alembic import op

revision = "0004"
down_revision = "0003"

_INSIST = """
CREATE FUNCTION insist(actual bigint, expected bigint, otherwise text) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    IF actual IS DISTINCT FROM expected THEN
        RAISE EXCEPTION '% rows instead of %', actual, expected USING ERRCODE = otherwise;
    END IF;
    RETURN actual;
END $$
"""


def upgrade() -> None:
    op.execute(_INSIST)


def downgrade() -> None:
    op.execute("DROP FUNCTION insist")
