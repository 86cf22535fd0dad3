"""What an error on the way to CouchDB means, translated once.

aiocouch's errors derive from KeyError, OSError and ValueError, aiohttp has its own, a proxy may answer with anything.
A caller sees TransientError (try again) and TroubleError (a human must act), and no text that could quote a document.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import aiocouch
import aiohttp
import msgspec

from cht_rapidpro.config import Couchdb
from cht_rapidpro.errors import DeniedError, GatewayError, TransientError, TroubleError
from cht_rapidpro.health import Health

# aiocouch's errors have no root of their own (some are KeyErrors), and it takes any JSON for CouchDB's: that of a proxy
# surfaces as one of the last three. msgspec's and json's errors are ValueErrors.
_FOREIGN: Final = (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)

_WORD: Final = re.compile("[a-z_]+")


class _Refusal(msgspec.Struct):
    """The body of an error of CouchDB's own."""

    error: str
    reason: str | None


class UnreadableError(TransientError):
    """An answer holds JSON that Python's decoder does not take."""


@contextmanager
def translated(health: Health, config: Couchdb) -> Iterator[None]:
    """Raises what goes wrong inside as a GatewayError, and tells `health` of it."""
    try:
        yield
    except GatewayError as error:
        health.fails(error)
        raise
    except _FOREIGN as error:
        meaning = _translate(error, config)
        health.fails(meaning)
        raise meaning from error


def raise_for_status(response: aiohttp.ClientResponse, config: Couchdb) -> None:
    """Raises what an HTTP status of 400 or above means."""
    if response.status >= 400:
        raise _by_status(response.status, config)


def word_of(answer: bytes) -> str | None:
    """CouchDB's own word for an error, such as `bad_request`; None for the body of a proxy or a firewall.

    Only an answer with such a word says something about a document. The reason is left out: it may quote the document.
    """
    try:
        word = msgspec.json.decode(answer, type=_Refusal).error
    except (ValueError, RecursionError):  # also text that is no UTF-8
        return None
    return word if _WORD.fullmatch(word) else None


def denied(config: Couchdb) -> DeniedError:
    """CouchDB does not take this user with this password."""
    where = f"CouchDB at {config.url}, database {config.database!r}: HTTP 401"
    return DeniedError(f"{where}, check [couchdb] user and password", about="401")


def _by_status(status: int, config: Couchdb) -> GatewayError:
    if status == 401:
        return denied(config)
    where = f"CouchDB at {config.url}, database {config.database!r}: HTTP {status}"
    remedy = {
        403: f"the user {config.user!r} has no access, or is locked for minutes after wrong passwords",
        404: "the database or a view of CHT's is missing: check [couchdb] database",
    }.get(status)
    return TroubleError(f"{where}, {remedy}", about=str(status)) if remedy else TransientError(where)


def _translate(error: BaseException, config: Couchdb) -> GatewayError:
    if isinstance(error, aiocouch.UnauthorizedError):
        return _by_status(401, config)
    if isinstance(error, aiocouch.ForbiddenError):
        return _by_status(403, config)
    if isinstance(error, aiocouch.NotFoundError):
        return _by_status(404, config)
    if isinstance(error, aiohttp.ClientResponseError):
        return _by_status(error.status, config)
    name = type(error).__name__
    if type(error) in (ValueError, RecursionError):  # Python's own limits of digits and depth
        return UnreadableError(f"CouchDB at {config.url}: a document is too deep or has too long a number: {name}")
    return TransientError(f"CouchDB at {config.url}, database {config.database!r}: {name}{_detail(error)}")


def _detail(error: BaseException) -> str:
    """The text of errors that cannot quote a document: those of the network, and msgspec's, which names types."""
    return f": {error}" if isinstance(error, OSError | msgspec.ValidationError) and str(error) else ""
