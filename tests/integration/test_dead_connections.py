"""A connection of the pool that died while it was idle is replaced, and costs one read."""

import asyncio

import pytest
from sqlalchemy import QueuePool

from api.services import Services
from shared.domain import ids
from shared.settings import Settings


@pytest.mark.usefixtures("connection")
def test_a_dead_connection_is_replaced(settings: Settings) -> None:
    async def run() -> None:
        services = Services(settings)
        try:
            async with services.engine.connect() as connection:
                died = (await connection.get_raw_connection()).driver_connection
                assert died is not None
            died.pgconn.finish()  # as `BoundedSession` does when a read is cancelled

            assert await services.pace.retry_seconds(ids.new_id(), 1) == 1
            async with services.engine.connect() as connection:
                assert (await connection.get_raw_connection()).driver_connection is not died
            pool = services.engine.pool
            assert isinstance(pool, QueuePool)
            assert pool.checkedout() == 0
        finally:
            await services.close()

    asyncio.run(run())
