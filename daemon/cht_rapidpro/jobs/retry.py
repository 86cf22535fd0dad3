"""Repeating what may be repeated: one policy for every idempotent call to CouchDB.

Quick and jittered while CouchDB is away, slow after what only a human can mend. After a refused password the question
comes every second, because the adapter (login.py) answers it by itself until there is a newer one.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import tenacity

from cht_rapidpro.errors import DeniedError, TransientError, TroubleError

T = TypeVar("T")

_TROUBLE_PAUSE: Final = 60.0
_DENIED_PAUSE: Final = 1.0
_quick: Final = tenacity.wait_random_exponential(multiplier=0.25, max=15)


def pause(attempt: tenacity.RetryCallState) -> float:
    """Seconds until the next try."""
    error = attempt.outcome.exception() if attempt.outcome else None
    if isinstance(error, DeniedError):
        return _DENIED_PAUSE
    return _TROUBLE_PAUSE if isinstance(error, TroubleError) else _quick(attempt)


async def until_it_works(call: Callable[..., Awaitable[T]], *args: object) -> T:
    """The result of `call(*args)`, repeated for ever while it raises TransientError or TroubleError.

    The adapter's `health` tells of it, so nothing is logged here.
    """
    again = tenacity.retry_if_exception_type((TransientError, TroubleError))
    return await tenacity.AsyncRetrying(retry=again, wait=pause)(call, *args)
