"""The idempotency keys that the ledger knows, as a request and as earlier versions spell them."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.postgres.ledger import NewCommand

# Among the indexes only the primary key has this order: plans do not depend on statistics (decision 0014).
IS_USED = """EXISTS (
    SELECT FROM unnest(CAST(:keys AS bytea[])) AS asked (key)
    WHERE asked.key = (SELECT key FROM idempotency_key
                       WHERE event_id = :event_id AND key >= asked.key ORDER BY key LIMIT 1)
)"""
"""The condition that the ledger has a command of the event under one of the keys."""
_IS_USED = text(f"SELECT {IS_USED}")


def of(new: NewCommand) -> list[bytes]:
    """Return the keys under which the ledger may have an earlier command of the same request."""
    return [key for key in (new.idempotency_key, new.former_key) if key is not None]


async def is_used(connection: AsyncConnection, new: NewCommand) -> bool:
    """Return True if the ledger has a command of the event under a key of this one."""
    asked = {"event_id": new.event_id, "keys": of(new)}
    return bool((await connection.execute(_IS_USED, asked)).scalar_one())
