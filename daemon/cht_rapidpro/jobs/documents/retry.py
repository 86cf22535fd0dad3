"""Repeats idempotent calls to CouchDB, with one policy.

Pauses are short and jittered while CouchDB is away, and long after trouble that needs an operator. After a refused
password there is a try every second, because the adapter (login.py) refuses it locally until there is a newer password.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import tenacity

from cht_rapidpro.errors import DeniedError, OperatorActionRequiredError, TransientError

T = TypeVar("T")

_TROUBLE_PAUSE: Final = 60.0
_DENIED_PAUSE: Final = 1.0
_quick: Final = tenacity.wait_random_exponential(multiplier=0.25, max=15)


def pause(attempt: tenacity.RetryCallState) -> float:
    """Seconds until the next try."""
    error = attempt.outcome.exception() if attempt.outcome else None
    if isinstance(error, DeniedError):
        return _DENIED_PAUSE
    return _TROUBLE_PAUSE if isinstance(error, OperatorActionRequiredError) else _quick(attempt)


async def until_it_works(call: Callable[..., Awaitable[T]], *args: object) -> T:
    """The result of `call(*args)`, repeated for ever while it raises TransientError or OperatorActionRequiredError.

    The adapter's `health` logs the failure, so nothing is logged here.
    """
    again = tenacity.retry_if_exception_type((TransientError, OperatorActionRequiredError))
    return await tenacity.AsyncRetrying(retry=again, wait=pause)(call, *args)
