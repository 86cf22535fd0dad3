"""Translates the errors of requests to CouchDB, once.

aiocouch's errors derive from KeyError, OSError and ValueError, aiohttp has its own, and a proxy may answer with
anything. A caller sees TransientError (try again) and OperatorActionRequiredError (an operator must act), and no text
that could quote a document.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import aiocouch
import aiohttp
import msgspec

from cht_rapidpro.adapters.http.bounded_body import TooLargeError
from cht_rapidpro.adapters.http.error_words import in_words
from cht_rapidpro.concurrency.cancellation import raise_cancelled
from cht_rapidpro.config.schema import Couchdb
from cht_rapidpro.errors import DeniedError, GatewayError, OperatorActionRequiredError, TransientError
from cht_rapidpro.telemetry.dependency_health import Health

# aiocouch's errors have no root of their own (some are KeyErrors), and it takes any JSON for CouchDB's: that of a proxy
# surfaces as one of the last three. msgspec's and json's errors are ValueErrors.
_FOREIGN: Final = (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)

_UNDECODABLE: Final = (msgspec.DecodeError, json.JSONDecodeError, UnicodeDecodeError, RecursionError)

_AWAY: Final = frozenset({429, 502, 503, 504})
_WORD: Final = re.compile("[a-z_]+")


class _Refusal(msgspec.Struct):
    """The body of an error of CouchDB's own."""

    error: str
    reason: str | None


class AwayError(TransientError):
    """CouchDB, or a proxy in front of it, serves nothing at present: the failure is not about the requested
    documents.
    """


class UnreadableError(TransientError):
    """An answer cannot be decoded: it holds half an emoji, a number of 5,000 digits, or a thousand levels."""


@contextmanager
def translated(health: Health, config: Couchdb, kind: str = "") -> Iterator[None]:
    """Raises an error inside the block as a GatewayError, and reports it to `health` as a call of this kind.

    A server that takes no connection is away for every kind of call.
    """
    try:
        yield
    except TooLargeError:
        raise  # not a failure: the caller has to request less
    except GatewayError as error:
        health.fails(error, kind)
        raise
    except _FOREIGN as error:
        raise_cancelled(error)
        meaning = _translate(error, config)
        health.fails(meaning, "" if isinstance(error, aiohttp.ClientConnectorError) else kind)
        raise meaning from error


def raise_for_status(response: aiohttp.ClientResponse, config: Couchdb) -> None:
    """Raises the error for an HTTP status of 400 or above; TransientError for the page of a proxy with any other
    status.
    """
    if response.status >= 400:
        raise _by_status(response.status, config)
    if response.content_type == "text/html":
        raise TransientError(f"{_where(config)}: HTTP {response.status} with a page of something in front of it")


def word_of(answer: bytes) -> str | None:
    """Returns CouchDB's own word for an error, such as `bad_request`; None for the body of a proxy or a firewall.

    Only an answer with such a word says something about a document. The reason is left out: it may quote the document.
    """
    try:
        word = msgspec.json.decode(answer, type=_Refusal).error
    except (ValueError, RecursionError):  # also text that is no UTF-8
        return None
    return word if _WORD.fullmatch(word) else None


def denied(config: Couchdb) -> DeniedError:
    """Makes the error for a user and password that CouchDB refuses."""
    where = f"CouchDB at {config.url}, database {config.database!r}: HTTP 401"
    return DeniedError(f"{where}, check [couchdb] user and password", about="401")


def _by_status(status: int, config: Couchdb) -> GatewayError:
    if status == 401:
        return denied(config)
    where = f"{_where(config)}: HTTP {status}"
    remedy = {
        403: f"the user {config.user!r} has no access, or is locked for minutes after wrong passwords",
        404: "the database or a view of CHT's is missing: check [couchdb] database",
    }.get(status)
    if remedy:
        return OperatorActionRequiredError(f"{where}, {remedy}", about=str(status))
    return AwayError(where) if status in _AWAY else TransientError(where)


def _translate(error: BaseException, config: Couchdb) -> GatewayError:
    if isinstance(error, aiocouch.UnauthorizedError):
        return _by_status(401, config)
    if isinstance(error, aiocouch.ForbiddenError):
        return _by_status(403, config)
    if isinstance(error, aiocouch.NotFoundError):
        return _by_status(404, config)
    if isinstance(error, aiohttp.ClientResponseError):
        return _by_status(error.status, config)
    if isinstance(error, _UNDECODABLE) or type(error) is ValueError:  # Python's own limit of digits
        return UnreadableError(f"{_where(config)}: its answer cannot be decoded{_detail(error)}")
    kind = AwayError if isinstance(error, aiohttp.ClientConnectorError) else TransientError
    said = in_words(error) if isinstance(error, aiohttp.ClientError | OSError) else "its answer is not CouchDB's"
    return kind(f"{_where(config)}: {said}")


def _where(config: Couchdb) -> str:
    return f"CouchDB at {config.url}, database {config.database!r}"


def _detail(error: BaseException) -> str:
    """Returns an error's text if it cannot quote a document: msgspec's text about types."""
    return f": {error}" if isinstance(error, msgspec.ValidationError) else ""
