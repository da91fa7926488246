"""A function by which a statement refuses to have done anything else than it should have done.

Whoever writes can so send a whole transaction at once, its commit included: where one statement did too
much or too little, none of it is committed.

Revision: 0004, after 0003.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

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
