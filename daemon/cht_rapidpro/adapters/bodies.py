"""Bodies of answers, read only up to a limit.

A page of documents can be a hundred times as long as the one before. Without a limit one answer of CouchDB's would take
gigabytes of memory, and webhooks would wait for seconds while it is decoded.
"""

import aiohttp

from cht_rapidpro.errors import TransientError


class TooLargeError(TransientError):
    """One answer is longer than what is read at once: ask for less."""


async def read_bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body of an answer. Raises TooLargeError as soon as it is longer than `limit` bytes."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise TooLargeError(f"CouchDB's answer has more than {limit} bytes")
    return bytes(body)
