"""The simulated API v2 answers as the real one was observed to, oddities included."""

import io
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from demo.rapidpro import RapidPro

from . import client

ANN, BEN, CAT = "tel:+254712345678", "tel:+254712345679", "tel:+254712345680"
NOON = 1_800_000_000.0  # 2027-01-15T08:00:00Z


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def rapidpro(clock: Clock) -> AsyncIterator[RapidPro]:
    async with RapidPro(token="secret", clock=clock, page_size=2) as simulator:
        yield simulator


@pytest.fixture
async def api(rapidpro: RapidPro) -> AsyncIterator[aiohttp.ClientSession]:
    async with client(rapidpro) as session:
        yield session


async def post(api: aiohttp.ClientSession, body: object, status: int = 201) -> Any:
    async with api.post("broadcasts.json", json=body) as response:
        assert response.status == status
        return await response.json()


async def get(api: aiohttp.ClientSession, path: str, status: int = 200) -> Any:
    async with api.get(path) as response:
        assert response.status == status
        return await response.json()


async def ids(api: aiohttp.ClientSession, path: str) -> list[int]:
    return [row["id"] for row in (await get(api, path))["results"]]


async def test_a_broadcast_becomes_a_message(rapidpro: RapidPro, api: aiohttp.ClientSession) -> None:
    posted = await post(api, {"urns": ["tel:0712345678"], "text": "  Habari "})
    assert UUID(posted.pop("uuid")).version == 7
    assert posted == {
        "status": "pending",
        "progress": {"total": -1, "started": 0},
        "urns": [ANN],
        "contacts": [],
        "groups": [],
        "text": {"eng": "Habari"},
        "attachments": {"eng": []},
        "quick_replies": {"eng": []},
        "base_language": "eng",
        "created_on": "2027-01-15T08:00:00Z",
        "id": 1,
    }
    [row] = (await get(api, "messages.json?broadcast=1"))["results"]
    assert (row["urn"], row["text"], row["status"], row["broadcast"]) == (ANN, "Habari", "queued", 1)
    assert (row["direction"], row["sent_on"]) == ("out", None)
    assert [(message.id, message.broadcast) for message in rapidpro.messages] == [(row["id"], 1)]
    again = await post(api, {"urns": ["tel:0712345678"], "text": "Habari"})
    assert again["id"] == 2  # no idempotency of any kind
    assert await ids(api, "broadcasts.json") == [2, 1]
    assert await ids(api, "broadcasts.json?id=1") == [1]


@pytest.mark.parametrize("urn", ["tel:0712345678", "tel:254712345678", "tel:+254 712-345 678", "tel:712345678", ANN])
async def test_urns_are_stored_as_the_country_writes_them(api: aiohttp.ClientSession, urn: str) -> None:
    posted = await post(api, {"urns": [urn, urn], "text": "x"})
    assert posted["urns"] == [ANN, ANN]  # not deduplicated
    assert len(await ids(api, f"messages.json?broadcast={posted['id']}")) == 1


def bad_urn(urn: str) -> list[str]:
    return [f"Invalid URN: {urn}. Ensure phone numbers contain country codes."]


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (
            {"urns": [ANN] * 101, "text": "x"},
            {"urns": ["Ensure this field has no more than 100 elements."]},
        ),
        (
            {
                "urns": ["tel:phone1", ANN, "tel:20880", "tel:00254712345678", "TEL:+254712345678"],
                "text": "x",
            },
            {
                "urns": {
                    "0": bad_urn("tel:phone1"),
                    "2": bad_urn("tel:20880"),
                    "3": bad_urn("tel:00254712345678"),
                    "4": bad_urn("TEL:+254712345678"),
                }
            },
        ),
        ({"urns": [ANN]}, {"non_field_errors": ["Must provide either text or attachments."]}),
        ({"urns": [ANN], "text": " \n"}, {"text": {"eng": ["This field may not be blank."]}}),
        ({"urns": [ANN], "text": None}, {"text": ["This field may not be null."]}),
        (
            {"urns": [ANN], "text": "é" * 4097},
            {"text": {"eng": ["Ensure this field has no more than 4096 characters."]}},
        ),
        ({"urns": [ANN], "text": "a\0b"}, {"text": {"eng": ["Null characters are not allowed."]}}),
        (
            {"urns": [ANN], "text": "\ud83d"},
            {"text": {"eng": ["Surrogate characters are not allowed: U+D83D."]}},
        ),
        ({"text": "x"}, {"non_field_errors": ["Must provide either urns, contacts or groups."]}),
    ],
)
async def test_a_refused_broadcast_creates_nothing(
    rapidpro: RapidPro, api: aiohttp.ClientSession, body: object, answer: object
) -> None:
    assert await post(api, body, status=400) == answer
    assert rapidpro.broadcasts == []
    assert [(call.status, call.broadcast) for call in rapidpro.calls] == [(400, None)]


async def test_4096_trimmed_characters_are_accepted(api: aiohttp.ClientSession) -> None:
    assert (await post(api, {"urns": [ANN], "text": " " + "é" * 4096}))["text"]["eng"] == "é" * 4096


async def test_bodies_that_are_no_json(api: aiohttp.ClientSession) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"urns": ["tel:+254712345678"], "text": "x"}'

    async with api.post("broadcasts.json", data=b"{urns}") as response:
        assert (response.status, (await response.json())["detail"][:18]) == (400, "JSON parse error -")
    async with api.post("broadcasts.json", data=pieces()) as response:  # chunked: read as empty
        assert response.status == 400
        assert (await response.json())["non_field_errors"] == ["Must provide either text or attachments."]
    async with api.post("broadcasts.json", data=io.BytesIO(b" " * (3 * 1024 * 1024 + 1))) as response:
        assert (response.status, response.content_type) == (500, "text/html")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({}, "Authentication credentials were not provided."),
        ({"Authorization": "Basic c2VjcmV0"}, "Authentication credentials were not provided."),
        ({"Authorization": "Token"}, "Invalid token header. No credentials provided."),
        ({"Authorization": "Token a b"}, "Invalid token header. Token string should not contain spaces."),
        ({"Authorization": "Token wrong"}, "Invalid token"),
        ({"Authorization": "Token viewer"}, "You do not have permission to perform this action."),
    ],
)
async def test_every_failure_of_a_token_is_403(rapidpro: RapidPro, header: dict[str, str], reason: str) -> None:
    rapidpro.powerless_tokens = {"viewer"}
    url = f"{rapidpro.url}/api/v2/workspace.json"
    async with aiohttp.ClientSession() as session, session.get(url, headers=header) as response:
        assert (response.status, await response.json()) == (403, {"detail": reason})


async def test_tokens_can_be_rotated(rapidpro: RapidPro, api: aiohttp.ClientSession) -> None:
    assert (await get(api, "workspace.json"))["country"] == "KE"
    rapidpro.tokens = {"newer"}
    assert await get(api, "workspace.json", status=403) == {"detail": "Invalid token"}


@pytest.mark.parametrize(
    ("method", "path", "status", "content_type"),
    [
        ("HEAD", "messages.json", 405, "application/json"),
        ("OPTIONS", "broadcasts.json", 405, "application/json"),
        ("POST", "workspace.json", 405, "application/json"),
        ("POST", "broadcasts", 200, "text/html"),
        ("GET", "messages", 200, "text/html"),
        ("GET", "nothing.json", 404, "text/html"),
        ("GET", "messages.json?broadcast=word", 500, "text/html"),
    ],
)
async def test_where_the_api_is_not(
    rapidpro: RapidPro, api: aiohttp.ClientSession, method: str, path: str, status: int, content_type: str
) -> None:
    async with api.request(method, path, json={"urns": [ANN], "text": "x"}) as response:
        assert (response.status, response.content_type) == (status, content_type)
    assert rapidpro.broadcasts == []


async def test_pages_stand_still_while_rows_arrive(rapidpro: RapidPro, api: aiohttp.ClientSession) -> None:
    for number in range(5):
        await post(api, {"urns": [ANN], "text": str(number)})  # all of one instant
    proxied = {"Host": "rapidpro.example", "X-Forwarded-Proto": "https"}
    async with api.get("broadcasts.json?after=2020-01-01T00:00:00Z&x=1&x=2", headers=proxied) as response:
        first = await response.json()
    assert [row["id"] for row in first["results"]] == [5, 4]
    start, _, query = first["next"].partition("?")
    assert start == "https://rapidpro.example/api/v2/broadcasts.json"
    assert "x=2" in query
    await post(api, {"urns": [ANN], "text": "meanwhile"})
    second = await get(api, f"broadcasts.json?{query}")
    assert [row["id"] for row in second["results"]] == [3, 2]
    last = await get(api, f"broadcasts.json?{second['next'].partition('?')[2]}")
    assert ([row["id"] for row in last["results"]], last["next"]) == ([1], None)
    for cursor in ("word", "MjAyNy0wMS0xNQ=="):
        path = f"broadcasts.json?cursor={cursor}"
        assert await get(api, path, status=404) == {"detail": "Invalid cursor"}


@pytest.mark.parametrize(
    ("query", "texts"),
    [
        ("after=2027-01-15T08:00:01Z", "cb"),
        ("after=2027-01-15T11:00:01%2B03:00", "cb"),
        ("after=2027-01-15T08:00:01+00:00", ""),
        ("before=2027-01-15T08:00:01Z", "ba"),
        ("after=2027-01-15T08:00:01Z&before=2027-01-15T08:00:01Z", "b"),
        ("after=2027-01-15T08:00:03Z&before=2027-01-15T08:00:00Z", ""),
        ("after=soon", ""),
        ("broadcast=2", "b"),
        ("broadcast=99", ""),
        ("broadcast=", "cb"),
        ("broadcast=1&broadcast=3", "c"),
        ("broadcast=1&folder=", "a"),
        ("folder=failed", ""),
        ("folder=outbox&before=2027-01-15T08:00:00Z", "a"),
        ("folder=archived", ""),
        ("folder=nonsense", ""),
        ("label=x", ""),
    ],
)
async def test_filters_of_messages(api: aiohttp.ClientSession, clock: Clock, query: str, texts: str) -> None:
    for text in "abc":
        await post(api, {"urns": [ANN], "text": text})
        clock.now += 1
    found = (await get(api, f"messages.json?{query}"))["results"]
    assert "".join(row["text"] for row in found) == texts


async def test_filters_that_exclude_each_other(api: aiohttp.ClientSession) -> None:
    reason = "You may only specify one of the contact, folder, label, broadcast parameters"
    assert await get(api, "messages.json?broadcast=1&folder=sent", 400) == {"detail": reason}
    reason = "You may only specify one of the flow, contact parameters"
    assert await get(api, "runs.json?flow=a&contact=b", 400) == {"detail": reason}


async def test_statuses_move_by_hand_in_any_direction(
    rapidpro: RapidPro, api: aiohttp.ClientSession, clock: Clock
) -> None:
    first, second = [(await post(api, {"urns": [ANN], "text": text}))["id"] for text in "ab"]
    older, newer = (message.id for message in rapidpro.messages)
    rapidpro.move(second, "sent")
    clock.now += 60
    rapidpro.move(first, "delivered")
    assert await ids(api, "messages.json?folder=sent") == [older, newer]  # by sent_on
    [row] = (await get(api, f"messages.json?id={older}"))["results"]
    assert (row["sent_on"], row["modified_on"]) == ("2027-01-15T08:01:00Z", "2027-01-15T08:01:00Z")
    rapidpro.move(rapidpro.messages[0], "errored")
    assert await ids(api, "messages.json?folder=sent") == [newer]
    assert await ids(api, "messages.json?folder=outbox") == [older]


async def test_statuses_move_by_the_clock(rapidpro: RapidPro, api: aiohttp.ClientSession, clock: Clock) -> None:
    rapidpro.progress = [(0.25, "wired"), (1.0, "delivered"), (2.0, "sent")]
    await post(api, {"urns": [ANN], "text": "x"})
    seen = []
    for seconds in (0.0, 0.25, 0.5, 0.5, 1.0):
        clock.now += seconds
        [row] = (await get(api, "messages.json?broadcast=1"))["results"]
        seen.append((row["status"], row["modified_on"][17:]))
    assert seen == [
        ("queued", "00Z"),
        ("wired", "00.250000Z"),
        ("wired", "00.250000Z"),
        ("delivered", "01Z"),
        ("sent", "02Z"),
    ]


async def test_recipients_are_contacts(rapidpro: RapidPro, api: aiohttp.ClientSession) -> None:
    rapidpro.add_contact(BEN, ANN, name="Ben")
    rapidpro.add_contact(CAT, status="blocked")
    posted = await post(api, {"urns": [ANN, BEN, CAT], "text": "x"})
    assert posted["urns"] == [ANN, BEN, CAT]
    assert [(message.urn, message.status) for message in rapidpro.messages] == [
        (BEN, "queued"),
        (CAT, "failed"),
    ]
    rapidpro.unresolvable = {ANN}
    lost = await post(api, {"urns": [ANN], "text": "x"})
    assert await ids(api, f"messages.json?broadcast={lost['id']}") == []
    [row] = (await get(api, f"broadcasts.json?id={lost['id']}"))["results"]
    assert row["status"] == "failed"
    rapidpro.move(lost["id"], "interrupted")
    assert rapidpro.broadcasts[-1].status == "interrupted"


async def test_the_loop_guard(rapidpro: RapidPro, api: aiohttp.ClientSession, clock: Clock) -> None:
    for _ in range(21):
        await post(api, {"urns": [ANN], "text": "x"})
    await post(api, {"urns": [ANN], "text": "y"})
    clock.now += 301
    await post(api, {"urns": [ANN], "text": "x"})
    assert [message.status for message in rapidpro.messages[19:]] == ["queued", "failed", "queued", "queued"]


async def test_incoming_messages_and_their_runs(rapidpro: RapidPro, api: aiohttp.ClientSession, clock: Clock) -> None:
    handled = rapidpro.receive(ANN, "1!YYY!1", flow="CHT")
    left = rapidpro.receive(BEN, "hello")
    assert await ids(api, "messages.json?folder=inbox") == [left.id]
    [row] = (await get(api, "messages.json?folder=flows"))["results"]
    assert (row["id"], row["urn"], row["text"]) == (handled.id, ANN, "1!YYY!1")
    assert (row["direction"], row["status"], row["broadcast"]) == ("in", "handled", None)
    [run] = (await get(api, f"runs.json?flow={row['flow']['uuid']}&paths=false"))["results"]
    assert (run["contact"]["urn"], run["values"]["response"]["input"]) == (ANN, "1!YYY!1")
    assert (run["flow"], run["path"], run["exit_type"]) == (row["flow"], None, "completed")
    assert await ids(api, "runs.json?after=2027-01-15T08:00:01Z") == []
    assert await ids(api, f"runs.json?contact={run['contact']['uuid']}") == [1]
    assert await ids(api, f"messages.json?contact={run['contact']['uuid']}") == [handled.id]


async def test_a_run_that_waits_takes_the_contacts_next_message(
    rapidpro: RapidPro, api: aiohttp.ClientSession, clock: Clock
) -> None:
    first = rapidpro.receive(ANN, "one", flow="CHT", waits=True)
    clock.now += 60
    other = rapidpro.receive(BEN, "hello", flow="CHT")
    [waiting] = (await get(api, f"runs.json?contact={first.contact.uuid}"))["results"]
    assert (waiting["responded"], waiting["exited_on"], waiting["exit_type"]) == (True, None, None)
    clock.now += 60
    rapidpro.receive(ANN, "two", flow="CHT")
    newest, older = (await get(api, "runs.json"))["results"]
    assert [newest["contact"]["uuid"], older["contact"]["uuid"]] == [first.contact.uuid, other.contact.uuid]
    assert newest["uuid"] == waiting["uuid"], "one run with two inputs"
    assert (newest["created_on"], newest["exited_on"]) == (waiting["created_on"], newest["modified_on"])
    assert await ids(api, f"runs.json?after={newest['modified_on']}") == [newest["id"]]
    assert await ids(api, f"messages.json?folder=flows&before={newest['created_on']}") == [first.id]


async def test_a_message_may_be_handled_long_after_it_came(
    rapidpro: RapidPro, api: aiohttp.ClientSession, clock: Clock
) -> None:
    message = rapidpro.receive(ANN, "late")
    clock.now += 3600
    run = rapidpro.handle(message, "CHT")
    assert (message.flow, run.created_on - message.created_on) == ("CHT", timedelta(hours=1))
    assert await ids(api, "messages.json?folder=flows") == [message.id]


async def test_a_run_started_by_hand_has_no_input_yet(rapidpro: RapidPro, api: aiohttp.ClientSession) -> None:
    rapidpro.start_run(rapidpro.add_contact(ANN), "CHT")
    [run] = (await get(api, "runs.json"))["results"]
    assert (run["responded"], run["values"]) == (False, {})


async def test_suspended_workspaces_can_only_read(rapidpro: RapidPro, api: aiohttp.ClientSession) -> None:
    rapidpro.suspended = True
    body = await post(api, {"urns": [ANN], "text": "x"}, status=400)
    assert body["non_field_errors"][0].startswith("Sorry, your workspace is currently suspended.")
    assert await ids(api, "broadcasts.json") == []


async def test_anonymous_workspaces_hide_urns(rapidpro: RapidPro, api: aiohttp.ClientSession) -> None:
    rapidpro.anonymous = True
    rapidpro.receive(BEN, "hello", flow="CHT")
    assert (await post(api, {"urns": [ANN], "text": "x"}))["urns"] is None
    assert (await get(api, "broadcasts.json"))["results"][0]["urns"] is None
    assert {row["urn"] for row in (await get(api, "messages.json"))["results"]} == {None}
    assert (await get(api, "runs.json"))["results"][0]["contact"]["urn"] is None


async def test_the_rate_limit_slides(rapidpro: RapidPro, api: aiohttp.ClientSession, clock: Clock) -> None:
    rapidpro.throttle.requests_per_hour = 2
    await post(api, {}, status=400)  # counts
    clock.now += 10
    rapidpro.tokens, tokens = {"other"}, rapidpro.tokens
    await get(api, "workspace.json", status=403)  # does not
    rapidpro.tokens = tokens
    await get(api, "workspace.json")
    for _ in range(2):  # nor does a 429
        async with api.get("broadcasts.json") as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "3590")
            reason = "Request was throttled. Expected available in 3590 seconds."
            assert await response.json() == {"detail": reason}
    await get(api, "messages.json")  # another scope
    clock.now += 3590
    await get(api, "broadcasts.json")  # one slot, and only one, is free
    rapidpro.throttle.retry_after = False
    async with api.get("broadcasts.json") as response:
        assert (response.status, "Retry-After" in response.headers) == (429, False)
    rapidpro.throttle.one_scope = True
    await get(api, "messages.json", status=429)
    assert [call.scope for call in rapidpro.calls if call.status == 200] == ["v2", "v2.messages", "v2"]
    assert [call.scope for call in rapidpro.calls if call.status == 403] == [None]


async def test_the_date_header_is_the_simulators_clock(api: aiohttp.ClientSession, clock: Clock) -> None:
    async with api.get("nowhere.json") as response:
        assert response.headers["Date"] == "Fri, 15 Jan 2027 08:00:00 GMT"


EXPRESSIONS: list[tuple[str, str]] = [
    ("info@contact.org!", "info!"),
    ("key @globals.cht_api_key", "key s3cret"),
    ("Hi @contact.name, @CONTACT.First_Name, @contact", "Hi Ann Bee, Ann, Ann Bee"),
    ("@fields.age and @contact.fields.age.", "30 and 30."),
    ("@fields", "{age: 30}"),
    ("@urns.tel", ANN),
    ("@(1+2)", "3"),
    ("@((1 + 2) * -4 / 8)", "-1.5"),
    ('@("a)" & contact.name & 1.50)', "a)Ann Bee1.5"),
    ("[@(foo)] [@(1/0)] [@(upper(1))] [@(1 2)] [@((1)] [@]", "[] [] [] [] [@((1)] [@]"),
    ("@(" + "(" * 2000 + ")" * 2000 + ")", ""),
    ("a@@b @@contact @@@@", "a@b @contact @@"),
    ("user@example.org a @ b @now @", "user@example.org a @ b @now @"),
]


@pytest.mark.parametrize(("text", "shown"), EXPRESSIONS)
async def test_texts_are_templates(rapidpro: RapidPro, api: aiohttp.ClientSession, text: str, shown: str) -> None:
    rapidpro.add_contact(ANN, name="Ann Bee", fields={"age": "30"})
    rapidpro.globals = {"cht_api_key": "s3cret"}
    for posted, expected in ((text, shown), (text.replace("@", "@@"), text)):
        broadcast = await post(api, {"urns": [ANN], "text": posted})
        assert broadcast["text"]["eng"] == posted
        [row] = (await get(api, f"messages.json?broadcast={broadcast['id']}"))["results"]
        assert row["text"] == expected
