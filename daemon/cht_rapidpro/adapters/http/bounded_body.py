"""Reads bodies of answers up to a limit.

A page of documents can be a hundred times as long as the page before. Without a limit one answer of CouchDB could take
gigabytes of memory, and webhooks would wait for seconds while it is decoded.
"""

import aiohttp

from cht_rapidpro.errors import TransientError


class TooLargeError(TransientError):
    """An answer is longer than the limit: ask for less."""


async def read_bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Reads the body of an answer. Raises TooLargeError as soon as it is longer than `limit` bytes."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise TooLargeError(f"CouchDB's answer has more than {limit} bytes")
    return bytes(body)
