"""Reads from the database on a free connection, and again on a new one if that connection is dead."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_REPEATED_SECONDS_MAX = 1.0

Value = TypeVar("Value")
Query: TypeAlias = Callable[[AsyncConnection], Awaitable[Value]]


class Reader:
    """Runs queries that change nothing."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def read(self, query: Query[Value], *, snapshot: bool = False) -> Value:
        """Return the value of `query`; with `snapshot`, all its statements see one snapshot.

        A dead connection, as all are after the database restarted, is replaced and the query repeated
        once: a second read does no harm. A read that took long is not repeated: the server hangs.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            return await self._read(query, snapshot=snapshot)
        except DBAPIError as error:
            if not error.connection_invalidated or clock() - began > _REPEATED_SECONDS_MAX:
                raise
            return await self._read(query, snapshot=snapshot)

    async def _read(self, query: Query[Value], *, snapshot: bool) -> Value:
        async with self._engine.connect() as connection:
            if snapshot:
                await connection.execution_options(isolation_level="REPEATABLE READ")
            return await query(connection)
