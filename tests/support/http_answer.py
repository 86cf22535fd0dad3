"""The same HTTP answer to every request of an aiohttp client, without a socket.

For tests whose whole subject is one answer. aioresponses replaces the session below the adapter, so what belongs to the
connection stays with `stub_server`: the bytes of a request, time, redirects, resets, half a body, and the middleware
that signs requests to CouchDB.
"""

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from aioresponses import aioresponses

from tests.support.stub_server import Reply

BASE: Final = "http://server.test"


@dataclass
class Asked:
    """The requests that were answered."""

    _answers: aioresponses

    @property
    def names(self) -> list[str]:
        """Method and last part of the path of each request, as `POST _bulk_docs`, grouped by address."""
        requests = self._answers.requests or {}
        return [f"{method} {url.name}" for (method, url), calls in requests.items() for _ in calls]

    @property
    def documents(self) -> list[Any]:
        """The JSON of each request that has a body."""
        calls = [call.kwargs.get("data") for calls in (self._answers.requests or {}).values() for call in calls]
        return [json.loads(data.getvalue() if isinstance(data, io.BytesIO) else data) for data in calls if data]


@contextmanager
def answering(reply: Reply) -> Iterator[Asked]:
    """Answers everything with `reply`."""
    with aioresponses() as answers:
        for method in ("GET", "POST"):
            answers.add(
                re.compile(""),
                method,
                status=reply.status,
                body=reply.encoded,
                content_type=reply.content_type,
                headers=dict(reply.headers),
                repeat=True,
            )
        yield Asked(answers)
