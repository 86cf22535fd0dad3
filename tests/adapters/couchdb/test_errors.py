"""The errors of CouchDB's adapter: what each answer means, with its remedy and without secrets."""

import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from cht_rapidpro.adapters.couchdb.changes import ChangesFeed
from cht_rapidpro.adapters.couchdb.client import Conflict, Couch, Rejected, Rev, Seq, WriteResult, Written
from cht_rapidpro.config.schema import Couchdb
from cht_rapidpro.config.secrets import Secret
from cht_rapidpro.domain.task import Doc, DocId
from cht_rapidpro.errors import GatewayError, OperatorActionRequiredError, TransientError
from tests.support.http_answer import BASE, answering
from tests.support.stub_server import HALF_A_BODY, HTML, PASSWORD, RESET, Raw, Reply, always, couchdb_at, scripted

CONFIG: Final = Couchdb(url=BASE, user="gateway", password=Secret(PASSWORD))


async def _messages(couch: Couch) -> list[object]:
    return [row async for page in couch.messages_in("pending-or-forwarded", 1) for row in page]


CALLS: Final[dict[str, Callable[[Couch], Awaitable[object]]]] = {
    "update_seq": lambda couch: couch.update_seq(),
    "messages_in": lambda couch: _messages(couch),
    "read": lambda couch: couch.read([DocId("report")]),
    "write": lambda couch: couch.write([{"_id": "report"}]),
    "changes": lambda couch: ChangesFeed(couch).wait(Seq("1-x")),
}
SAID: Final = {"error": "said", "reason": "by CouchDB"}
FAULTS: Final[dict[str, tuple[Reply, type[GatewayError], str]]] = {
    "401": (Reply(SAID, 401), OperatorActionRequiredError, "HTTP 401, check [couchdb] user and password"),
    "403": (Reply(SAID, 403), OperatorActionRequiredError, "HTTP 403, the user 'gateway' has no access, or is locked"),
    "404": (Reply(SAID, 404), OperatorActionRequiredError, "HTTP 404, the database or a view of CHT's is missing"),
    "404 HTML": (Reply(b"<html></html>", 404, content_type="text/html"), OperatorActionRequiredError, "HTTP 404"),
    "429": (Reply(SAID, 429), TransientError, "HTTP 429"),
    "500": (Reply(SAID, 500), TransientError, "HTTP 500"),
    "503 HTML": (Reply(b"<html></html>", 503, content_type="text/html"), TransientError, "HTTP 503"),
    "a proxy's page": (HTML, TransientError, ""),
    "text that claims to be JSON": (Reply(b"<html>"), TransientError, ""),
    "JSON of something else": (Reply({"hello": "world"}), TransientError, ""),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(("reply", "kind", "remedy"), FAULTS.values(), ids=FAULTS)
async def test_an_error_is_logged_once_with_its_remedy_and_without_secrets(
    call: Callable[[Couch], Awaitable[object]], reply: Reply, kind: type[GatewayError], remedy: str
) -> None:
    with capture_logs() as logs, answering(reply):
        async with Couch(CONFIG) as couch:
            errors = [await _raises(kind, call(couch)) for _ in range(2)]
    assert remedy in str(errors[0])
    assert f"CouchDB at {BASE}, database 'medic'" in str(errors[0])
    event = "dependency.refused" if kind is OperatorActionRequiredError else "dependency.lost"
    assert [entry["event"] for entry in logs if entry["event"].startswith("dependency")] == [event]
    told = "".join(traceback.format_exception(errors[0]))
    assert PASSWORD not in f"{told} {logs} {errors!r} {couch.config!r}"


async def _raises(kind: type[GatewayError], call: Awaitable[object]) -> GatewayError:
    with pytest.raises(kind) as caught:
        await call
    return caught.value


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("fault", [HALF_A_BODY, RESET], ids=["half a body", "reset"])
async def test_a_broken_connection_is_transient_and_logged_once(
    call: Callable[[Couch], Awaitable[object]], fault: Raw
) -> None:
    with capture_logs() as logs:
        async with scripted(always(fault)) as server, Couch(couchdb_at(server)) as couch:
            errors = [await _raises(TransientError, call(couch)) for _ in range(2)]
    assert f"CouchDB at {server.url}, database 'medic'" in str(errors[0])
    assert [entry["event"] for entry in logs if entry["event"].startswith("dependency")] == ["dependency.lost"]
    assert PASSWORD not in f"{traceback.format_exception(errors[0])} {logs} {errors!r}"


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_refused_connection_is_transient(call: Callable[[Couch], Awaitable[object]]) -> None:
    async with scripted(always(RESET)) as gone:
        config = couchdb_at(gone)
    async with Couch(config) as couch:
        error = await _raises(TransientError, call(couch))
    assert config.url in str(error)


PROXIES: Final[dict[str, Reply]] = {
    "HTML": Reply(b"<html>Bad Request</html>", content_type="text/html"),
    "HTML that claims to be JSON": Reply(b"<html>Bad Request</html>"),
    "nothing": Reply(b""),
    "JSON without a word": Reply({"message": "no Route matched"}),
    "JSON with a sentence": Reply({"error": "Request Entity Too Large", "reason": "nginx"}),
    "JSON without a reason": Reply({"error": "invalid"}),
    "JSON with an object": Reply({"error": {"code": 400}, "reason": None}),
    "a list": Reply([{"error": "bad_request", "reason": "x"}]),
    "no UTF-8": Reply(b'{"error":"bad_request","reason":"\xff"}'),
    "too deep": Reply(b"[" * 100_000),
}


@pytest.mark.parametrize("status", [400, 413])
@pytest.mark.parametrize("page", PROXIES.values(), ids=PROXIES)
async def test_a_proxys_page_rejects_no_document(page: Reply, status: int) -> None:
    """Not even the one that stands alone; and CouchDB counts as away, so that the documents are tried again."""
    with answering(replace(page, status=status)) as asked:
        async with Couch(CONFIG) as couch:
            error = await _raises(TransientError, couch.write(_numbered(4)))
            assert couch.health.error is error
    assert f"HTTP {status} of something in front of it" in str(error)
    assert [len(body["docs"]) for body in asked.documents] == [4, 2, 1]


def _numbered(count: int) -> list[Doc]:
    return [{"_id": str(number)} for number in range(count)]


SIZE: Final = len('{"_id":"0"}')
# A row of _bulk_docs, and what it means for its document.
WRITES: Final[dict[str, tuple[dict[str, Any], WriteResult]]] = {
    "stored": ({"ok": True, "rev": "1-x"}, Written(Rev("1-x"), SIZE)),
    "accepted by too few nodes": ({"ok": True, "rev": "1-x", "accepted": True}, Written(Rev("1-x"), SIZE, False)),
    "an error beside a revision": ({"rev": "1-x", "error": "conflict"}, Conflict()),
    "conflict": ({"error": "conflict", "reason": "Document update conflict."}, Conflict()),
    **{
        word: ({"error": word, "reason": "no"}, Rejected(f"CouchDB answers {word}: no"))
        for word in ("forbidden", "unauthorized", "document_too_large", "doc_validation", "bad_request")
    },
    "a node at fault": ({"error": "internal_server_error"}, Conflict("CouchDB answers internal_server_error")),
    "neither revision nor error": ({}, Conflict("CouchDB answers None")),
}


@pytest.mark.parametrize(("row", "result"), WRITES.values(), ids=WRITES)
async def test_each_row_of_a_bulk_write_has_one_meaning(row: dict[str, Any], result: WriteResult) -> None:
    with answering(Reply([{"id": "0", **row}], 201)):
        async with Couch(CONFIG) as couch:
            assert await couch.write(_numbered(1)) == [result]


async def test_the_results_of_a_bulk_write_are_in_the_order_of_the_documents() -> None:
    with answering(Reply([{"id": str(number), **row} for number, (row, _) in enumerate(WRITES.values())], 201)):
        async with Couch(CONFIG) as couch:
            results = await couch.write([{"_id": str(number % 10)} for number in range(len(WRITES))])
    assert results == [result for _, result in WRITES.values()]


async def test_a_202_is_a_write_without_quorum() -> None:
    with answering(Reply([{"ok": True, "id": "0", "rev": "1-x"}], 202)):
        async with Couch(CONFIG) as couch:
            assert await couch.write(_numbered(1)) == [Written(Rev("1-x"), SIZE, has_quorum=False)]


@pytest.mark.parametrize("rows", [0, 2])
async def test_a_bulk_answer_of_another_length_leaves_the_outcome_open(rows: int) -> None:
    with answering(Reply([{"ok": True, "id": "0", "rev": "1-x"}] * rows, 201)):
        async with Couch(CONFIG) as couch:
            error = await _raises(TransientError, couch.write(_numbered(1)))
    assert f"{rows} rows to 1 documents" in str(error)
