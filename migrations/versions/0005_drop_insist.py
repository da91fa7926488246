"""Drop the function `insist`: the writer compares row counts itself, before it commits.

Revision: 0005, after 0004.
"""

from alembic import op

revision = "0005"
down_revision = "0004"

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
    op.execute("DROP FUNCTION insist")


def downgrade() -> None:
    op.execute(_INSIST)
