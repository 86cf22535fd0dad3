"""Ends asyncio tasks, in one way for all of them.

Invariant: a cancelled task ends. A lost cancel would make a stop or a crash wait for ever.
"""

import asyncio
from typing import Any, Final

_AGAIN: Final = 1.0  # seconds


async def end(*running: asyncio.Task[Any]) -> None:
    """Cancels the tasks and returns when all have ended; their exceptions stay in them.

    aiohttp 3.14 swallows a cancel that coincides with a time-out of its own (112 of 440 trials), and a job that repeats
    failed calls then goes on. So the cancel is repeated. If the caller itself is cancelled meanwhile, the tasks are
    still ended, and CancelledError is raised afterwards.
    """
    cancelled: asyncio.CancelledError | None = None
    while left := [task for task in running if not task.done()]:
        for task in left:
            task.cancel()
        try:
            await asyncio.wait(left, timeout=_AGAIN)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def raise_cancelled(error: BaseException) -> None:
    """Raises CancelledError if the running task was cancelled and a library raised this error instead."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError from error
