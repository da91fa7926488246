"""Ends tasks that run for as long as the process does."""

import asyncio

_AGAIN_SECONDS = 0.1


async def end(task: "asyncio.Task[None] | None") -> None:
    """Cancel a task and return when it is done; again, where a library has swallowed the cancellation."""
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_AGAIN_SECONDS)
