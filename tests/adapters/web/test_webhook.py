"""The webhook's server: CHT's words for every mistake, no 5xx for anything that a caller sends, no wait without end."""

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from structlog.testing import capture_logs

from cht_rapidpro.adapters.web.webhook import PATHS, Webhook
from cht_rapidpro.config.schema import Incoming
from cht_rapidpro.config.secret_store import Keyring, Refused, Secrets
from cht_rapidpro.config.secrets import Secret
from cht_rapidpro.domain.incoming import AlreadyStored, InboundMessage, Saved, Spooled, Stored
from cht_rapidpro.domain.miswiring import Miswiring
from cht_rapidpro.errors import TransientError
from tests.support.fault_proxy import until
from tests.support.virtual_time import jump
from tests.support.webhook import KEY, PATH, Flow, listening_socket, open_flow, section, url_of

NOW: Final = 1795334400000
GOOD: Final = {"id": "a", "from": "+254712345678", "content": "hello"}
FORM: Final = "application/x-www-form-urlencoded"


class Store:
    """In the place of the incoming job: keeps what it is given, and answers as it is told."""

    def __init__(self) -> None:
        self.arrivals: list[InboundMessage] = []
        self.answer: Stored | TransientError = Saved()

    async def __call__(self, arrival: InboundMessage) -> Stored:
        self.arrivals.append(arrival)
        if isinstance(self.answer, TransientError):
            raise self.answer
        return self.answer


@asynccontextmanager
async def listening(
    store: Callable[[InboundMessage], Awaitable[Stored]],
    config: Incoming | None = None,
    keyring: Keyring | None = None,
    notice: Callable[[Miswiring], None] = lambda _: None,
) -> AsyncIterator[Flow]:
    listener = listening_socket()
    own = config or section()
    async with (
        Webhook(own, keyring or Keyring(Secrets(incoming_keys=own.keys)), store, lambda: NOW, [listener], notice),
        open_flow(url_of(listener)) as flow,
    ):
        yield flow


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.mark.parametrize("path", PATHS)
async def test_a_message_is_stored_with_the_time_of_its_arrival(store: Store, path: str) -> None:
    async with listening(store) as flow:
        answer = await flow.request(path=path, json=GOOD)
    assert (answer.status, answer.body) == (200, {"saved": 1})
    assert store.arrivals == [InboundMessage("a", "+254712345678", "hello", NOW)]


@pytest.mark.parametrize(
    ("kind", "body", "arrival"),
    [
        (
            "application/json",
            b'{"id": 41, "from": 254712345678, "content": "\\ud83d\\ude00"}',
            (41, 254712345678, "😀"),
        ),
        ("application/json; charset=utf-8", '{"id":"a","from":"b","content":"é"}'.encode(), ("a", "b", "é")),
        ("application/json", b'{"id":"a","from":"b","content":"\\ud83d"}', ("a", "b", "\ufffd")),
        ("application/json", b'\xef\xbb\xbf{"id":"a","from":"b","content":"c"}', ("a", "b", "c")),
        ("application/json", b'{"id":"a","from":"b","content":"h\xe9 \xff\xc3"}', ("a", "b", "h\ufffd \ufffd\ufffd")),
        ("application/json", b'{"id":"a","from":"b","content":12.5}', ("a", "b", 12.5)),
        (FORM, b"id=a&from=b&content=%FF\xff", ("a", "b", "\ufffd\ufffd")),
        (FORM, b"id=41&from=%2B254712345678&content=h%C3%A9+%F0%9F%98%80&more=", ("41", "+254712345678", "hé 😀")),
        (None, b'{"id":"a","from":"b","content":"c"}', ("a", "b", "c")),
    ],
)
async def test_ways_to_write_a_message(
    store: Store, kind: str | None, body: bytes, arrival: tuple[Any, Any, str]
) -> None:
    async with listening(store) as flow:
        answer = await flow.request(
            data=body, headers={"Content-Type": kind} if kind else {}, skip_auto_headers=["Content-Type"]
        )
    assert answer.saved == 1
    assert store.arrivals == [InboundMessage(*arrival, at=NOW)]


@pytest.mark.parametrize(
    ("request_", "status", "error"),
    [
        ({"headers": {"Authorization": "Token wrong"}, "json": GOOD}, 403, "Incorrect token"),
        ({"headers": {"Authorization": f"Token {KEY} "}, "json": {**GOOD, "id": ""}}, 400, "Message was not saved"),
        ({"headers": {"Authorization": f"token {KEY}"}, "json": GOOD}, 403, "Missing authorization token"),
        ({"headers": {"Authorization": f"Bearer {KEY}"}, "json": GOOD}, 403, "Missing authorization token"),
        ({"headers": {"Authorization": "Token "}, "json": GOOD}, 403, "Missing authorization token"),
        ({"headers": {"Authorization": ""}, "json": GOOD}, 403, "Missing authorization token"),
        ({"headers": {"Authorization": "Token é\u0080"}, "json": GOOD}, 403, "Incorrect token"),
        ({"json": {**GOOD, "id": ""}}, 400, "Message was not saved"),
        ({"json": {**GOOD, "from": None}}, 400, "Message was not saved"),
        ({"json": {"id": 1, "from": 1}}, 400, "Message was not saved"),
        ({"json": [GOOD]}, 400, "Message was not saved"),
        ({"data": b"id=41", "headers": {"Content-Type": FORM}}, 400, "Message was not saved"),
        ({"data": b"", "headers": {"Content-Type": "application/json"}}, 400, "The body is not application/json"),
        ({"data": b'{"id":', "headers": {"Content-Type": "application/json"}}, 400, "The body is not application/json"),
        ({"data": b"\xff", "headers": {"Content-Type": "application/json"}}, 400, "The body is not application/json"),
        (
            {"data": b"[" * 60000, "headers": {"Content-Type": "application/json"}},
            400,
            "The body is not application/json",
        ),
        (
            {"data": b"9" * 60000, "headers": {"Content-Type": "application/json"}},
            400,
            "The body is not application/json",
        ),
        ({"data": b"id=%FF\xff", "headers": {"Content-Type": FORM}}, 400, "Message was not saved"),
        ({"json": {**GOOD, "content": 0}}, 400, "Message was not saved"),
        ({"headers": {"Authorization": f"Token{KEY}"}, "json": GOOD}, 403, "Missing authorization token"),
        ({"data": b"a=1&" * 200, "headers": {"Content-Type": FORM}}, 400, f"The body is not {FORM}"),
        (
            {"data": b"no gzip", "headers": {"Content-Encoding": "gzip", "Content-Type": FORM}},
            400,
            "The body cannot be read",
        ),
        ({"data": b"hello", "headers": {"Content-Type": "text/plain"}}, 415, "Unsupported Media Type"),
        ({"json": {**GOOD, "content": "x" * 65536}}, 413, "Request Entity Too Large"),
        (
            {"data": gzip.compress(b" " * 10**7), "headers": {"Content-Encoding": "gzip", "Content-Type": FORM}},
            413,
            "Request Entity Too Large",
        ),
        ({"method": "GET"}, 405, "Method Not Allowed"),
        ({"method": "PUT", "json": GOOD}, 405, "Method Not Allowed"),
        ({"path": "/api/v2/sms/rapidpro/outgoing", "json": GOOD}, 404, "Not Found"),
        ({"path": f"{PATH}/", "json": GOOD}, 404, "Not Found"),
    ],
)
async def test_a_refused_webhook_gets_chts_error_body(
    store: Store, request_: dict[str, Any], status: int, error: str
) -> None:
    async with listening(store) as flow:
        answer = await flow.request(**request_)
    assert (answer.status, answer.body) == (status, {"code": status, "error": error})
    assert store.arrivals == []


async def test_without_a_key_all_are_refused_and_one_warning_says_so(store: Store) -> None:
    with capture_logs() as logs:
        async with listening(store, section(key=Secret(""))) as flow:
            answers = [await flow.post("a") for _ in range(3)]
    assert {(answer.status, answer.body["error"]) for answer in answers} == {(403, "No incoming key configured")}
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("incoming.listening", "info"),
        ("incoming.no_keys", "warning"),
        ("incoming.refused", "warning"),
    ]


async def test_refusals_are_told_once_a_minute_and_counted(store: Store) -> None:
    wrong = {"Authorization": "Token wrong"}
    with capture_logs() as logs:
        async with listening(store) as flow:
            for _ in range(3):
                await flow.request(headers=wrong, json=GOOD)
            jump(61)
            await flow.request(headers=wrong, json=GOOD)
    assert [entry["times"] for entry in logs if entry["event"] == "incoming.refused"] == [1, 3]


@pytest.mark.parametrize("space", [" ", "   ", "\t", " \t "])
async def test_any_white_space_may_stand_after_token(store: Store, space: str) -> None:
    async with listening(store) as flow:
        reader, writer = await raw(flow.url)
        body = json.dumps(GOOD)
        writer.write(
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Token{space}{KEY}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
        )
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
    assert len(store.arrivals) == 1


@pytest.mark.parametrize("path", PATHS)
async def test_a_path_is_matched_without_regard_to_case(store: Store, path: str) -> None:
    async with listening(store) as flow:
        assert (await flow.request(path=path.upper(), json=GOOD)).saved == 1
        assert (await flow.request(path=path.title(), json=GOOD)).saved == 1
        assert (await flow.request("GET", path.upper())).status == 405


BAD_BODIES: Final[list[tuple[dict[str, Any], str]]] = [
    ({"json": {**GOOD, "from": None}}, "field=from"),
    ({"json": {**GOOD, "id": {"a": "secret words"}}}, "field=id"),
    ({"json": {**GOOD, "content": ["secret words"]}}, "field=content"),
    ({"data": b"secret words", "headers": {"Content-Type": "text/plain"}}, "content_type=text/plain"),
    ({"data": b"x", "headers": {"Content-Type": "secret words"}}, "content_type="),
]


async def test_a_refusal_names_the_field_or_the_content_type_and_no_text(store: Store) -> None:
    with capture_logs() as logs:
        async with listening(store) as flow:
            for request, _ in BAD_BODIES:
                assert (await flow.request(**request)).status in (400, 415)
    told = [entry for entry in logs if entry["event"] == "incoming.refused"]
    assert [entry["field"] for entry in told if "field" in entry] == ["from", "id", "content"], "each once a minute"
    assert "text/plain" in [entry.get("content_type") for entry in told]
    assert "secret" not in str(logs)


MISWIRED: Final[list[tuple[dict[str, Any], str, str]]] = [
    ({"id": "@run.uuid"}, "id", "@run.uuid, which RapidPro has not evaluated"),
    ({"from": "@urns.tel"}, "from", "@urns.tel, which RapidPro has not evaluated"),
    ({"from": " @(replace(urns.tel, 'secret'))"}, "from", "@(…), which RapidPro has not evaluated"),
    ({"from": None}, "from", "null"),
    ({"from": "null"}, "from", 'the text "null"'),
    ({"id": " \t"}, "id", "a blank text"),
    ({"from": ""}, "from", "an empty text"),
    ({"id": 0}, "id", "0"),
    ({"id": ["secret"]}, "id", "neither text nor number"),
]


@pytest.mark.parametrize(("body", "field", "sends"), MISWIRED)
async def test_the_wrong_value_of_a_miswired_flow_is_named(
    store: Store, body: dict[str, Any], field: str, sends: str
) -> None:
    """Stored or refused as CHT does it: a text that is not empty is stored."""
    seen: list[Miswiring] = []
    value = body[field]
    async with listening(store, notice=seen.append) as flow:
        answer = await flow.request(json={**GOOD, **body})
        assert answer.status == (200 if isinstance(value, str) and value else 400)
        await flow.request(json=GOOD)
        await flow.request(json={**GOOD, **body}, headers={"Authorization": "Token wrong"})
    assert seen == [Miswiring(field, sends)]


async def test_several_keys_are_valid_at_once(store: Store) -> None:
    async with listening(store, section(key=Secret("new\nold"))) as flow:
        for key, status in (("new", 200), ("old", 200), ("ne", 403), ("new old", 403)):
            answer = await flow.request(headers={"Authorization": f"Token {key}"}, json=GOOD)
            assert answer.status == status


async def test_a_key_that_was_rotated_a_moment_ago_is_looked_for(store: Store) -> None:
    """And without one, or with the right one, nobody is asked."""
    keyring = Keyring(Secrets(incoming_keys=(Secret("old"),)))
    asked = []

    async def renew(refused: Refused) -> None:
        assert refused == "incoming_keys"
        asked.append(1)
        keyring.replace(Secrets(incoming_keys=(Secret("new"),)))

    keyring.refill_from(renew)
    async with listening(store, keyring=keyring) as flow:
        for key, status, times in (("old", 200, 0), ("", 403, 0), ("new", 200, 1), ("old", 403, 2)):
            assert (await flow.request(headers={"Authorization": f"Token {key}"}, json=GOOD)).status == status
            assert len(asked) == times


async def test_a_repeated_webhook_is_answered_with_0_saved_and_a_spooled_one_with_1(store: Store) -> None:
    async with listening(store) as flow:
        store.answer = AlreadyStored()
        assert (await flow.post("a")).body == {"saved": 0}
        store.answer = Spooled()
        assert (await flow.post("b")).body == {"saved": 1}


async def test_a_webhook_that_cannot_be_stored_gets_503_with_retry_after(store: Store) -> None:
    store.answer = TransientError("the disk is full", retry_after=4.2)
    async with listening(store) as flow:
        answer = await flow.post("a")
    assert (answer.status, answer.body) == (503, {"code": 503, "error": "Message was not saved"})
    assert answer.headers["Retry-After"] == "5"


async def test_a_tried_flow_is_answered_and_not_stored(store: Store) -> None:
    tried = {"X-Mailroom-Mode": "simulation"}
    async with listening(store) as flow:
        assert (await flow.request(json=GOOD, headers=tried)).body == {"saved": 1}
        assert (await flow.request(json={}, headers=tried)).status == 400
        assert (await flow.request(json=GOOD, headers={**tried, "Authorization": "Token x"})).status == 403
        assert store.arrivals == []
        assert (await flow.request(json=GOOD, headers={"X-Mailroom-Mode": "normal"})).saved == 1
        assert len(store.arrivals) == 1
    async with listening(store, section(accept_simulated=True)) as flow:
        await flow.request(json=GOOD, headers=tried)
    assert len(store.arrivals) == 2


async def test_a_stop_answers_what_has_come_and_takes_nothing_new() -> None:
    held = asyncio.Event()
    arrived = asyncio.Event()

    async def store(arrival: InboundMessage) -> Stored:
        arrived.set()
        await held.wait()
        return Saved()

    listener = listening_socket()
    own = section()
    async with open_flow(url_of(listener)) as flow:
        async with Webhook(own, Keyring(Secrets(incoming_keys=own.keys)), store, lambda: NOW, [listener]):
            posting = asyncio.create_task(flow.post("a"))
            await arrived.wait()
            asyncio.get_running_loop().call_later(0.1, held.set)
        assert (await posting).saved == 1
        with pytest.raises(aiohttp.ClientError):
            await flow.post("b")


async def test_a_stop_also_answers_who_has_connected_just_before_it(store: Store) -> None:
    listener = listening_socket()
    async with Webhook(section(), Keyring(Secrets(incoming_keys=section().keys)), store, lambda: NOW, [listener]):
        reader, writer = await raw(url_of(listener))
        body = json.dumps(GOOD)

        def send() -> None:
            writer.write(f"{HEAD.replace('500', str(len(body)))}\r\n{body}".encode())

        asyncio.get_running_loop().call_later(0.05, send)
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_before_the_keys_are_known_no_key_is_refused(store: Store) -> None:
    """With the vault, and CouchDB away since the start: the flow's failure branch has to run, and may try again."""
    keyring = Keyring(Secrets(), is_filled=False)
    async with listening(store, keyring=keyring) as flow:
        answer = await flow.request(json=GOOD)
        assert (answer.status, answer.body["error"]) == (503, "Message was not saved")
        keyring.replace(Secrets(incoming_keys=(Secret(KEY),)))
        assert (await flow.request(json=GOOD)).status == 200
        keyring.replace(Secrets())
        answer = await flow.request(json=GOOD)
        assert (answer.status, answer.body["error"]) == (403, "No incoming key configured")
    assert len(store.arrivals) == 1


async def test_a_port_that_is_taken_is_named() -> None:
    taken = listening_socket()
    with taken:
        config = replace(section(), listen=url_of(taken).removeprefix("http://"))
        with capture_logs() as logs:
            async with Webhook(config, Keyring(Secrets()), Store(), lambda: NOW) as webhook:
                assert webhook.addresses == []
                assert re.match(r"\[incoming\] listen: cannot listen at 127\.0\.0\.1:\d+: \w", webhook.problem)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("incoming.unavailable", "error")]


async def test_a_port_that_is_taken_is_tried_until_it_is_free(store: Store) -> None:
    taken = listening_socket()
    url = url_of(taken)
    config = replace(section(), listen=url.removeprefix("http://"))
    with capture_logs() as logs:
        async with Webhook(config, Keyring(Secrets(incoming_keys=config.keys)), store, lambda: NOW) as webhook:
            running = asyncio.create_task(webhook.run())
            for _ in range(3):
                jump(5)
                await asyncio.sleep(0.02)
            assert webhook.problem
            taken.close()
            jump(5)
            await until(lambda: not webhook.problem)
            async with open_flow(url) as flow:
                assert (await flow.post("a")).saved == 1
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
    assert [entry["event"] for entry in logs] == ["incoming.unavailable", "incoming.listening"]


@pytest.mark.parametrize("listen", ["no.such.host.invalid:8085", "192.0.2.1:8085"])
async def test_an_address_that_is_not_this_machines_is_one_error(store: Store, listen: str) -> None:
    with capture_logs() as logs:
        async with Webhook(replace(section(), listen=listen), Keyring(Secrets()), store, lambda: NOW) as webhook:
            assert listen in webhook.problem
    assert [entry["event"] for entry in logs] == ["incoming.unavailable"]


async def raw(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


HEAD: Final = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Token {KEY}\r\nContent-Length: 500\r\n"


async def test_headers_that_never_end_are_cut_off(store: Store) -> None:
    """A drop from time to time keeps nothing alive."""
    async with listening(store) as flow:
        reader, writer = await raw(flow.url)
        writer.write(HEAD.encode())
        for number in range(8):
            await writer.drain()
            await asyncio.sleep(0.01)
            jump(10)
            if not writer.is_closing():
                writer.write(f"X-{number}: slow\r\n".encode())
        assert await reader.read() == b""
        writer.close()


async def test_a_body_that_never_ends_is_408(store: Store) -> None:
    async with listening(store) as flow:
        reader, writer = await raw(flow.url)
        writer.write(f"{HEAD}Expect: 100-continue\r\n\r\n{{".encode())
        await reader.readuntil(b"100 Continue\r\n\r\n")  # the handler waits for the body from here on
        jump(11)
        answer = await reader.readuntil(b"}")
        assert answer.startswith(b"HTTP/1.1 408")
        writer.close()
        jump(2)  # for so long aiohttp would still take the rest of the body


async def test_an_unknown_expectation_is_417(store: Store) -> None:
    async with listening(store) as flow:
        reader, writer = await raw(flow.url)
        writer.write(f"{HEAD}Expect: nonsense\r\n\r\n".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 417")
        writer.close()
        jump(2)  # for so long aiohttp would still take the body


async def test_a_client_that_hangs_up_in_its_body_disturbs_no_other_request(store: Store) -> None:
    with capture_logs() as logs:
        async with listening(store) as flow:
            _, writer = await raw(flow.url)
            writer.write(f"{HEAD}\r\n{{".encode())
            await writer.drain()
            writer.transport.abort()
            assert (await flow.post("b")).saved == 1
    assert [entry["event"] for entry in logs] == ["incoming.listening"]


LINES = st.binary(max_size=40) | st.sampled_from(
    [
        b"Content-Length: 3",
        b"Content-Length: -1",
        b"Transfer-Encoding: chunked",
        b"Expect: 100-continue",
        b"Expect: nonsense",
        b"Upgrade: websocket\r\nConnection: upgrade",
        b"Content-Encoding: deflate",
        b"Content-Encoding: br",
        b"Content-Type: application/json",
        b"Content-Type: multipart/form-data; boundary=x",
        b"Content-Type: application/x-www-form-urlencoded; charset=utf-7",
        b"Content-Type: ;;;",
        f"Authorization: Token {KEY}".encode(),
    ]
)
BODIES = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters()),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "from", "content", "x"]), inner)
        ),
        max_leaves=6,
    ).map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {
            "id": st.text(st.characters(), min_size=1) | st.integers() | st.floats(),
            "from": st.text(st.characters(), min_size=1) | st.integers(),
            "content": st.text(st.characters(), min_size=1),
        }
    ).map(lambda value: json.dumps(value).encode()),
)
METHODS = st.sampled_from([b"POST", b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"CONNECT", b"M-SEARCH", b"x"])
TARGETS = st.sampled_from([*(path.encode() for path in PATHS), b"*", b"/", b"//x", b"http://h/x", b"/%ff%00?a=%"])


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINES, max_size=5), METHODS, TARGETS, BODIES, st.booleans())
def test_no_input_is_answered_with_5xx(
    lines: list[bytes], method: bytes, target: bytes, body: bytes, is_good: bool
) -> None:
    asyncio.run(_send(lines, b"POST" if is_good else method, PATHS[0].encode() if is_good else target, body, is_good))


async def _send(lines: list[bytes], method: bytes, target: bytes, body: bytes, is_good: bool) -> None:
    good = f"Authorization: Token {KEY}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n".encode()
    head = method + b" " + target + b" HTTP/1.1\r\nHost: x\r\n" + (good if is_good else b"")
    async with listening(Store()) as flow:
        reader, writer = await raw(flow.url)
        writer.write(head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
    assert not [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 5")], answer
