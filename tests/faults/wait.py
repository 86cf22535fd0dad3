"""Waiting for what must be asked for over a socket: seldom enough that the asking does not slow the answer down.

Dozens of daemons and a database share the machine with the test; `tests.gate.until`, which looks a hundred times a
second, is for what costs nothing to look at.
"""

import asyncio
from collections.abc import Awaitable, Callable

from tests.gate import until


async def eventually(condition: Callable[[], Awaitable[bool]], deadline: float, every: float) -> None:
    """Returns when the condition holds, looking `every` so many seconds; TimeoutError when it never does."""

    async def look() -> bool:
        found = await condition()
        if not found:
            await asyncio.sleep(every)
        return found

    await until(look, deadline)
