"""Waiting for what must be asked for over a socket: seldom enough that the asking does not slow the answer down.

Dozens of daemons and a database share the machine with the test; `tests.support.fault_proxy.until`, which looks a
hundred times a second, is for what costs nothing to look at.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import aiohttp

from demo.database import DatabaseError
from tests.support.fault_proxy import until

T = TypeVar("T")

FAILED: Final = (aiohttp.ClientError, OSError, TimeoutError, DatabaseError)
_PAUSE: Final = 0.1


async def eventually(condition: Callable[[], Awaitable[bool]], deadline: float, every: float) -> None:
    """Returns when the condition holds, looking `every` so many seconds; TimeoutError when it never does."""

    async def look() -> bool:
        found = await condition()
        if not found:
            await asyncio.sleep(every)
        return found

    await until(look, deadline)


async def until_answered(call: Callable[..., Awaitable[T]], *args: object) -> T:
    """What the call returns, as often as it takes while CouchDB is away."""
    while True:
        try:
            return await call(*args)
        except FAILED as error:
            if not is_away(error):
                raise
            await asyncio.sleep(_PAUSE)


def is_away(error: Exception) -> bool:
    """Whether it may have been stored or not: the connection broke, or CouchDB answers that it has trouble."""
    status = status_of(error)
    return status is None or status >= 500


def status_of(error: Exception) -> int | None:
    return error.status if isinstance(error, DatabaseError) else None
