"""The API's background tasks."""

import asyncio
from contextlib import suppress

from api.tasks import SingleTask

NEVER_SECONDS = 3_600
ENDED_SECONDS_MAX = 20


def test_cancelling_goes_on_until_the_end() -> None:
    async def stubborn() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(NEVER_SECONDS)
        await asyncio.sleep(NEVER_SECONDS)

    async def run() -> None:
        task = SingleTask(stubborn)
        task.ensure_running()
        await asyncio.sleep(0)
        await asyncio.wait_for(task.cancel(), ENDED_SECONDS_MAX)

    asyncio.run(run())


def test_a_task_runs_once_at_a_time() -> None:
    runs: list[int] = []

    async def run() -> None:
        release = asyncio.Event()

        async def work() -> None:
            runs.append(len(runs))
            await release.wait()

        task = SingleTask(work)
        for _ in range(3):
            task.ensure_running()
            await asyncio.sleep(0)
        assert runs == [0]
        release.set()
        await task.finish()
        task.ensure_running()
        await task.finish()

    asyncio.run(run())

    assert runs == [0, 1]
