"""A small CouchDB client for the demo and the tests: it writes as CHT and other programs do.

It shares no code with the gateway's own adapter on purpose: what the gateway wrote is read back by other
means, and a mistake in the adapter cannot hide itself.
"""

import json
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import aiohttp
from yarl import URL

from cht_rapidpro.errors import GatewayError
from demo.couchdb import CouchDBServer

Doc = dict[str, Any]

_TIMEOUT: Final = aiohttp.ClientTimeout(total=90)  # longer than any feed stays open
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409


class DatabaseError(GatewayError):
    """CouchDB's answer was an error: `status` of HTTP, `reason` in CouchDB's words."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"CouchDB answered {status}: {reason}")
        self.status = status
        self.reason = reason


class Database:
    """One database of a server, as its administrator. To be entered; the database need not exist yet."""

    def __init__(self, server: CouchDBServer, name: str) -> None:
        self.name = name
        self.url = f"{server.url}/{name}"
        self._authorization = aiohttp.encode_basic_auth(server.user, server.password)

    async def __aenter__(self) -> Self:
        headers = {"Authorization": self._authorization}
        self._session = aiohttp.ClientSession(headers=headers, timeout=_TIMEOUT)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def request(self, method: str, path: str = "", *, body: object = None, **params: str | int) -> Any:
        """The JSON answer to a request on `path` below the database ("": itself). Raises DatabaseError."""
        url = URL(f"{self.url}/{path}" if path else self.url, encoded=True).with_query(params)
        async with self._session.request(method, url, json=body) as response:
            answer = await response.json()
            if not response.ok:
                raise DatabaseError(response.status, f"{answer.get('error')}: {answer.get('reason')}")
            return answer

    async def create(self) -> None:
        await self.request("PUT")

    async def destroy(self) -> None:
        await self.request("DELETE")

    async def put(self, doc: Doc) -> str:
        """The new revision of the document, written under its `_id`. A conflict is a DatabaseError 409."""
        answer = await self.request("PUT", _path(doc["_id"]), body=doc)
        return str(answer["rev"])

    async def get(self, doc_id: str) -> Doc:
        doc: Doc = await self.request("GET", _path(doc_id))
        return doc

    async def delete(self, doc_id: str) -> None:
        """Removes the latest revision, by a DELETE of the id."""
        doc = await self.get(doc_id)
        await self.request("DELETE", _path(doc_id), rev=doc["_rev"])

    async def bulk(self, docs: Iterable[Doc]) -> list[Doc]:
        """`_bulk_docs`: one row a document, in their order, `{id, rev}` or `{id, error, reason}`."""
        rows: list[Doc] = await self.request("POST", "_bulk_docs", body={"docs": list(docs)})
        return rows

    async def view(self, ddoc: str, view: str, **params: object) -> list[Doc]:
        """The rows of a view; the parameters are plain values (`startkey=["pending", 0]`, `reduce=False`)."""
        encoded = {name: json.dumps(value) for name, value in params.items()}
        answer = await self.request("GET", f"_design/{ddoc}/_view/{view}", **encoded)
        return list(answer["rows"])

    async def changes(self, *, selector: Doc | None = None, **params: str | int) -> Doc:
        """One answer of the feed; the selector, if any, is evaluated in the server."""
        if selector is None:
            answer: Doc = await self.request("GET", "_changes", **params)
        else:
            body = {"selector": selector}
            answer = await self.request("POST", "_changes", body=body, filter="_selector", **params)
        return answer

    async def edit(self, doc_id: str, change: Callable[[Doc], Doc]) -> Doc:
        """Writes `change(doc)`, again from the latest revision after a conflict; returns what is written."""
        while True:
            doc = change(await self.get(doc_id))
            try:
                return {**doc, "_rev": await self.put(doc)}
            except DatabaseError as error:
                if error.status != _CONFLICT:
                    raise


def _path(doc_id: str) -> str:
    """The id as one segment of a URL; the slash after `_design` and `_local` is the only one that stays."""
    prefix, slash, name = doc_id.partition("/")
    if prefix in {"_design", "_local"}:
        return f"{prefix}{slash}{quote(name, safe='')}"
    return quote(doc_id, safe="")


async def delete_database(server: CouchDBServer, name: str) -> None:
    """Deletes the database; one that does not exist is fine."""
    async with Database(server, name) as database:
        try:
            await database.destroy()
        except DatabaseError as error:
            if error.status != _NOT_FOUND:
                raise
