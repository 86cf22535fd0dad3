"""Every answer of RapidPro answers one question, "may the broadcast exist?", and a text reaches the phone unchanged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.outgoing import (
    TEXT_LIMIT,
    Ambiguous,
    Answer,
    Broadcast,
    BroadcastId,
    Created,
    NotSent,
    Refused,
    RetrySmaller,
    SmsIdentity,
    Throttled,
    Trouble,
    Urn,
    escape,
    join,
    prepare,
    read_answer,
    settled,
    share,
    with_lengths,
)
from cht_rapidpro.domain.statuses import State
from cht_rapidpro.domain.task import Change, Message, MessageId
from demo.rapidpro.expressions import Value, evaluate

TOO_MANY = "Ensure this field has no more than 100 elements."
BAD_URN = "Invalid URN: tel:phone1. Ensure phone numbers contain country codes."
NO_TEXT = "Must provide either text or attachments."
NO_RECIPIENT = "Must provide either urns, contacts or groups."
NO_MORE = "Ensure this field has no more than {} characters."
TOO_LONG = "Ensure this field has no more than 4096 characters."
SUSPENDED = "Sorry, your workspace is currently suspended. To re-enable sending messages, please contact support."
NO_JSON = "JSON parse error - Expecting value: line 1 column 1 (char 0)"

BROADCAST = {
    "uuid": "01a2",
    "status": "pending",
    "progress": {"total": -1, "started": 0},
    "urns": ["tel:+254712345678"],
    "text": {"eng": "…"},
    "created_on": "2026-11-22T07:37:45.550141Z",
    "id": 1,
}
NO_ID = "a success without a broadcast id"


def created(number: str, status: str) -> Created:
    return Created(BroadcastId(number), status)


@pytest.mark.parametrize(
    ("status", "body", "answer"),
    [
        # it exists
        (201, BROADCAST, created("1", "pending")),
        (200, {"id": 2**70, "status": "queued"}, created(str(2**70), "queued")),
        (201, {"id": 0}, created("0", "")),
        # it may exist
        (201, None, Ambiguous(NO_ID)),
        (201, {"uuid": "01a2"}, Ambiguous(NO_ID)),
        (201, {"id": True}, Ambiguous(NO_ID)),
        (201, {"id": "1"}, Ambiguous(NO_ID)),
        (200, [BROADCAST], Ambiguous(NO_ID)),
        *((status, None, Ambiguous(f"HTTP {status}")) for status in (408, 500, 502, 503, 504)),
        (500, {"urns": ["…"]}, Ambiguous("HTTP 500")),
        # RapidPro will never take this message
        (400, {"urns": [TOO_MANY]}, Refused(TOO_MANY)),
        (400, {"urns": {"0": [BAD_URN], "1": [BAD_URN]}}, Refused(BAD_URN, {0: BAD_URN, 1: BAD_URN})),
        (400, {"urns": {"7": [BAD_URN], "x": ["…"]}}, Refused(f"{BAD_URN} …", {7: BAD_URN})),
        (400, {"non_field_errors": [NO_TEXT]}, Refused(NO_TEXT, is_about_text=True)),
        *(
            (400, {"text": said}, Refused(reason, is_about_text=True))
            for reason in (
                "This field may not be blank.",
                TOO_LONG,
                "Null characters are not allowed.",
                "Surrogate characters are not allowed: U+D83D.",
            )
            for said in ({"eng": [reason]}, [reason])
        ),
        (400, {"text": ["Not null."]}, Refused("Not null.", is_about_text=True)),
        (
            400,
            {"text": {"eng": [TOO_LONG]}, "urns": {"0": [BAD_URN]}},
            Refused(f"{BAD_URN} {TOO_LONG}", {0: BAD_URN}, is_about_text=True),
        ),
        # our trouble
        (400, {"non_field_errors": [SUSPENDED]}, Trouble(f"HTTP 400: {SUSPENDED}")),
        (400, {"non_field_errors": [NO_RECIPIENT]}, Trouble(f"HTTP 400: {NO_RECIPIENT}")),
        (400, {"detail": NO_JSON}, Trouble(f"HTTP 400: {NO_JSON}")),
        (400, {"urns": []}, Trouble("HTTP 400")),
        (400, {}, Trouble("HTTP 400")),
        *(
            (403, {"detail": reason}, Trouble(f"HTTP 403: {reason}"))
            for reason in (
                "Authentication credentials were not provided.",
                "Invalid token header. No credentials provided.",
                "Invalid token",
                "You do not have permission to perform this action.",
            )
        ),
        (403, {"text": ["Invalid token"]}, Trouble("HTTP 403")),
        *(
            (status, None, Trouble(f"HTTP {status} that is not RapidPro's JSON"))
            for status in (301, 302, 307, 400, 401, 403, 404, 405, 413)
        ),
    ],
)
def test_each_status_and_body_has_one_meaning(status: int, body: object, answer: Answer) -> None:
    assert read_answer(status, body) == answer


@pytest.mark.parametrize("retry_after", [None, 0.0, 3598.0])
def test_a_429_closes_the_scope(retry_after: float | None) -> None:
    body = {"detail": "Request was throttled. Expected available in 3598 seconds."}
    assert read_answer(429, body, retry_after) == Throttled(retry_after)


def test_the_text_of_a_foreign_answer_is_quoted_briefly() -> None:
    assert read_answer(404, {"detail": "x" * 5000}) == Trouble("HTTP 404: " + "x" * 200)


def test_a_reason_is_ours_to_quote_only_as_text() -> None:
    assert read_answer(400, {"urns": {"0": [1, None, {"inner": BAD_URN}]}}) == Refused(BAD_URN, {0: BAD_URN})


@pytest.mark.parametrize(
    ("answer", "shares"),
    [
        *(
            (one, [one] * 4)
            for one in (created("1", ""), NotSent("away"), Throttled(7.0), Trouble("403"), Ambiguous("500"))
        ),
        (Refused("both", {1: "one", 3: "three"}), [RetrySmaller(4), Refused("one"), RetrySmaller(4), Refused("three")]),
        (Refused(TOO_LONG, is_about_text=True), [Refused(TOO_LONG, is_about_text=True)] * 4),
        (Refused("both", {1: "one"}, is_about_text=True), [Refused("both", {1: "one"}, is_about_text=True)] * 4),
        (Refused(TOO_MANY), [RetrySmaller(2)] * 4),
        (Refused("elsewhere", {9: "nine"}), [RetrySmaller(2)] * 4),
    ],
)
def test_an_answer_to_a_group_has_one_meaning_for_each_message(
    answer: Answer, shares: list[Answer | RetrySmaller]
) -> None:
    assert share(answer, 4) == shares


@pytest.mark.parametrize("refused", [Refused(TOO_MANY), Refused("bad", {0: "bad"}), Refused("elsewhere", {9: "nine"})])
def test_a_message_that_is_refused_alone_fails(refused: Refused) -> None:
    assert share(refused, 1) == [refused]


CONTEXT: dict[str, Value] = {
    "contact": {"__default__": "Ann", "name": "Ann"},
    "fields": {"age": "9"},
    "globals": {"cht_api_key": "secret"},
    "urns": {"tel": "+254712345678"},
}
words = st.sampled_from(["@", "@@", "@(", ")", '"', ".", "contact", "Fields", "globals.cht_api_key", "1+2", " ", "é"])
texts = st.lists(words, max_size=12).map("".join) | st.text()


@pytest.mark.parametrize("text", ["@globals.cht_api_key", "info@contact.org", "@@", "@(1+2)"])
def test_unescaped_texts_would_not_arrive(text: str) -> None:
    assert evaluate(text, CONTEXT) != text


@given(text=texts)
def test_the_phone_shows_what_cht_wrote(text: str) -> None:
    assert evaluate(escape(text), CONTEXT) == text


KENYA = {"default_country_code": "254", "phone_validation": "full"}


def message(text: str, to: str = "0712 345 678") -> Message:
    return Message(MessageId("m-1"), to, text)


@pytest.mark.parametrize(
    ("sent", "settings", "pair"),
    [
        (message("a @ b"), KENYA, SmsIdentity(Urn("tel:+254712345678"), "a @@ b")),
        (message(" text "), KENYA, SmsIdentity(Urn("tel:+254712345678"), "text")),
        (message("text", "20880"), KENYA, SmsIdentity(Urn("tel:20880"), "text")),
        (message("text", "phone1"), KENYA, SmsIdentity(Urn("tel:phone1"), "text")),
        (message("text", "+254712345678"), {}, SmsIdentity(Urn("tel:+254712345678"), "text")),
    ],
)
def test_a_message_as_rapidpro_takes_it(sent: Message, settings: dict[str, object], pair: SmsIdentity) -> None:
    assert prepare(sent, settings) == pair


def test_a_broadcast_of_several() -> None:
    broadcast = join([SmsIdentity(Urn("tel:1"), "text"), SmsIdentity(Urn("tel:2"), "text")])
    assert broadcast == Broadcast((Urn("tel:1"), Urn("tel:2")), "text")
    assert broadcast.body() == {"urns": ("tel:1", "tel:2"), "text": "text"}


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("x" * TEXT_LIMIT, True),
        ("\U0001f642" * TEXT_LIMIT, True),
        (" \n" + "x" * TEXT_LIMIT + " ", True),
        ("x" * TEXT_LIMIT + "y", False),
        ("@" * (TEXT_LIMIT // 2), True),
        ("@" * (TEXT_LIMIT // 2) + "x", False),
    ],
)
def test_the_limit_counts_what_rapidpro_stores(text: str, fits: bool) -> None:
    prepared = prepare(message(text), KENYA)
    told = f"Text too long: 4097 characters{' (each @ counts as two)' * ('@' in text)}, RapidPro takes 4096"
    assert isinstance(prepared, SmsIdentity) if fits else prepared == Refused(told, is_about_text=True)


@pytest.mark.parametrize(
    ("said", "text", "reason", "limit"),
    [
        ({"text": [NO_MORE.format(640)]}, "x" * 700, "Text too long: 700 characters, RapidPro takes 640", 640),
        (
            {"text": {"eng": [NO_MORE.format(160)]}},
            "a@@b" * 50,
            "Text too long: 200 characters (each @ counts as two), RapidPro takes 160",
            160,
        ),
        ({"text": ["This field may not be blank."]}, "", "This field may not be blank.", None),
        ({"urns": [TOO_MANY]}, "x", TOO_MANY, None),
        ({"urns": [NO_MORE.format(255)]}, "x", NO_MORE.format(255), None),
    ],
)
def test_a_refusal_for_its_length_says_both_figures(said: object, text: str, reason: str, limit: int | None) -> None:
    answer = with_lengths(read_answer(400, said), text)
    assert isinstance(answer, Refused)
    assert (answer.reason, answer.text_limit) == (reason, limit)


@pytest.mark.parametrize("answer", [NotSent("why"), Throttled(None), Trouble("why"), Ambiguous("why")])
def test_the_text_of_a_failure_is_no_name_of_a_class(answer: Answer) -> None:
    assert str(answer) in ("why", "RapidPro's request limit is reached")


@pytest.mark.parametrize(
    ("results", "change"),
    [
        ([created("1", "pending")], Change(State.RECEIVED_BY_GATEWAY, "Queued", "1")),
        ([created("1", "")], Change(State.RECEIVED_BY_GATEWAY, "Queued", "1")),
        ([created("1", "failed")], Change(State.FAILED, "Failed", "1")),
        ([Refused(BAD_URN)], Change(State.FAILED, BAD_URN)),
        ([created("1", "sent"), created("2", "queued")], Change(State.RECEIVED_BY_GATEWAY, "Queued", "1")),
        ([created("1", "queued"), created("2", "failed")], Change(State.FAILED, "Failed", "1")),
        ([Refused(BAD_URN), created("2", "queued")], Change(State.FAILED, BAD_URN, "2")),
        ([created("1", "queued"), Refused(TOO_LONG), Refused(BAD_URN)], Change(State.FAILED, TOO_LONG, "1")),
    ],
)
def test_a_task_is_settled_once_for_all_its_messages(results: list[Created | Refused], change: Change) -> None:
    assert settled(results) == change
