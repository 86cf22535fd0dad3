"""The event loop's clock, and waiting with a limit."""

import asyncio
import math


def loop_time() -> float:
    """The loop's steady clock in seconds, on which every age and pause is measured."""
    return asyncio.get_running_loop().time()


async def wait_for_event(event: asyncio.Event, seconds: float = math.inf) -> bool:
    """Waits for the event, at most so many seconds; returns whether it is set."""
    try:
        async with asyncio.timeout(None if seconds == math.inf else seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
