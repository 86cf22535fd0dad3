"""Nothing that identifies a person leaves through the log, and what operators grep for does."""

import asyncio
import errno
import io
import itertools
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, TextIO

import phonenumbers
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from phonenumbers import PhoneNumberFormat, PhoneNumberType

from cht_rapidpro.telemetry.logs import configure, masked, masked_id, set_level

UUID = "12345678-1234-4234-8234-123456789012"
NUMBER = "+254712345678"


@contextmanager
def logging_to(stream: TextIO, level: str = "info", layout: Literal["auto", "json"] = "json") -> Iterator[None]:
    """Logs go to `stream` inside; pytest's own handlers and structlog's defaults are back afterwards."""
    root = logging.getLogger()
    handlers, root.handlers, threshold = root.handlers, [], root.level
    try:
        configure(level, layout, stream)
        yield
    finally:
        root.handlers = handlers
        root.setLevel(threshold)
        logging.captureWarnings(capture=False)
        logging.getLogger("aiohttp.access").disabled = False
        structlog.reset_defaults()


def written(write: Callable[[Any], object], level: str = "info") -> list[dict[str, Any]]:
    """The lines that `write` logs, given a logger; decoding them shows that each is one JSON object."""
    stream = io.StringIO()
    with logging_to(stream, level):
        write(structlog.get_logger())
    return [json.loads(line) for line in stream.getvalue().split("\n")[:-1]]


@pytest.mark.parametrize(
    "text",
    [
        "+254712345678",
        "tel:+254712345678",
        "254712345678",
        "0712345678",
        "+254 712-345 678",
        "tel%3A%2B254712345678",
        "(0712) 345 678",
        "+254 (0) 712 345 678",
        "0712/345678",
        "07.12.34.56.78",
        "+254.712345678",
        "0712%20345%20678",
        "0712+345+678",
        "+254\u00a0712\u2011345\u202f678",
        "\u202a+254712345678\u202c",
        repr("+254\u00a0712\u00a0345\u00a0678"),
        json.dumps("+254\u2011712\u00a0345678"),
        "९८४१२३४६७८",
        "2024-05-01T10:20:30Z 0712345678",
        "1254712345678254712345678",
        "712 34 5678",  # seven digits are the shortest national number
        "+7123 45678",
        "tel:7123-45678",
        "71.23.45.678",
        "2024-05-01 712345678",
    ],
)
def test_a_number_keeps_its_last_three_digits(text: str) -> None:
    assert "…" in masked(f"to {text} failed")
    for hidden in ("712", "345", "345678", "९८४"):
        assert hidden not in masked(text)
    assert masked(text).rstrip("\"'\u202c").endswith(("678", "६७८"))


@pytest.mark.parametrize(
    "text",
    [
        "broadcast.created",
        UUID,
        f"retry 3 {UUID} 5 times",
        f"rapidpro-sms:{UUID.upper()}",
        "967005905402464191813913870b2840",
        "12-967005905402464191813913870b2840",
        "2024-05-01T10:20:30.123456Z",
        "2024-05-01 10:20:30.123+03:00",
        "since 2024-05-01",
        "123456 rows",
        "HTTP 403 from 192.168.0.1:8086",
        "Connect call failed ('192.168.100.200', 5984)",
        "took 12.345678901 s",
        "12345 of 67890",
        'File "/usr/lib/x.py", line 12345, in run\n    12345\n67890',
        "[10, 20, 30, 40, 50, 60]",
    ],
)
def test_a_text_that_is_no_phone_number_stays(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("token:login:1f3a9c", "token:login:…"),
        ("GET /medic/token:login:1f3a9c?rev=1-a", "GET /medic/token:login:…?rev=1-a"),
        ("/medic/token%3Alogin%3A1f3a9c/x", "/medic/token%3Alogin%3A…/x"),
        ("['token:login:1f3a9c', 'b']", "['token:login:…', 'b']"),
        ("the token of the login", "the token of the login"),
    ],
)
def test_login_tokens_are_cut(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert written(lambda log: log.info("doc.skipped", doc=text))[0]["doc"] == shown


_FORMATS: Final = ("E164", "INTERNATIONAL", "NATIONAL", "RFC3966")
_SHOWN: Final = 3  # digits that a mask leaves


@pytest.mark.parametrize("around", ["{}", "to {}, failed", "tel:{}", "http://x/api?urn=tel:{}&a=1", '["{}"]', "{}\n"])
def test_no_number_of_any_plan_passes(around: str) -> None:
    """Mobile and fixed ones of each country, as written there and everywhere, from seven digits on."""
    kinds = (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE)
    examples = itertools.product(sorted(phonenumbers.SUPPORTED_REGIONS), kinds)
    numbers = [phonenumbers.example_number_for_type(region, kind) for region, kind in examples]
    for number in filter(None, numbers):
        for layout in _FORMATS:
            spelled = phonenumbers.format_number(number, getattr(PhoneNumberFormat, layout))
            digits = re.sub(r"\D", "", spelled)
            is_marked = spelled.startswith(("+", "tel:")) or "tel:" in around
            if is_marked or len(digits) >= 7:
                left = re.sub(r"\D", "", masked(around.format(spelled)).replace("=1", ""))
                assert len(left) <= _SHOWN, (spelled, masked(around.format(spelled)))


@pytest.mark.parametrize(
    "text", ["+1234", "+12345", "tel:1234", "tel:+12345", "tel%3A%2B12345", "TEL:12345", "+ 12 345"]
)
def test_a_text_marked_as_a_phone_number_is_masked_at_any_length(text: str) -> None:
    assert re.sub(r"\D", "", masked(f"to {text} failed").replace("%3A", "").replace("%2B", "")) == text[-3:].strip()


def grouped(digits: str, size: int, separator: str) -> str:
    return separator.join(digits[i : i + size] for i in range(0, len(digits), size))


SPELLINGS = st.one_of(
    st.tuples(st.sampled_from(["", "+", "tel:", "tel:+", "tel%3A%2B", "00"]), st.just(20), st.just("")),
    st.tuples(
        st.sampled_from(["", "+", "tel:+"]),
        st.integers(1, 8),
        st.sampled_from([" ", "-", "/", " - ", ") ", "\u00a0", "\u2011", "%20", "%C2%A0", "\\xa0"]),
    ),
    st.tuples(st.sampled_from(["", "+"]), st.just(2), st.just(".")),
)
AROUND = st.text(st.characters(exclude_categories=["N"]), max_size=10)


@given(st.text("0123456789", min_size=7, max_size=15), SPELLINGS, AROUND, AROUND)
def test_no_spelling_of_a_number_gets_through(
    digits: str, spelling: tuple[str, int, str], before: str, after: str
) -> None:
    prefix, size, separator = spelling
    text = before + prefix + grouped(digits, size, separator) + after

    def write(log: Any) -> None:
        try:
            raise ValueError(text)
        except ValueError:
            log.exception(text, urn=text, rows=[{"to": (text,)}], seen={text: 1}, error=ValueError(text))

    [line] = written(write)
    marks = "3" if "%" in prefix else ""
    [key] = line["seen"]
    for value in (line["event"], line["urn"], line["rows"][0]["to"][0], key):
        assert "".join(filter(str.isdecimal, value)) == marks + digits[-3:]
    for value in (line["error"], line["exception"]):
        assert "…" + digits[-3:] in value


def test_a_line_begins_with_time_level_and_event_and_keeps_ids_whole() -> None:
    ids = {
        "doc": UUID,
        "message": "254712345678",
        "task": "0:123456789",
        "gateway_ref": 12345678901,
        "broadcast": "12345678901",
        "instance": "gateway-1234567890",
    }
    [line] = written(lambda log: log.bind(doc=UUID).info("broadcast.created", took=0.12345678901, n=99, **ids))
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert len(line["timestamp"]) == len("2024-05-01T10:20:30.123Z")
    assert line["timestamp"].endswith("Z")
    assert {key: line[key] for key in ids} == ids
    assert (line["level"], line["took"], line["n"]) == ("info", 0.12345678901, 99)


def test_an_id_key_is_no_way_around_the_mask() -> None:
    [line] = written(lambda log: log.info("x", doc=f"a:{NUMBER}", message="at 0712345678", task=["tel:0712345678"]))
    assert (line["doc"], line["message"], line["task"]) == ("a:…678", "at …678", ["…678"])


@given(st.lists(st.sampled_from(["+", "%2B", "tel:", "TEL%3a", "token:login:", "071", "2345678", "-", ".", "a"])))
def test_the_quick_way_past_the_mask_decides_as_the_long_one(pieces: list[str]) -> None:
    """Texts without a mark, or without a digit, are nearly all there are; a comma more takes them the long way."""
    text = "".join(pieces)
    assert masked_id(f"{text},") == f"{masked_id(text)},"
    assert masked(f"{text},1") == f"{masked(text)},1"


def test_numbers_that_are_no_text_are_masked_too() -> None:
    values: dict[str, Any] = {"n": 254712345678, "mali": 76451234, "small": 123456, "sure": True, "none": None}
    [line] = written(lambda log: log.info("x", raw=b"0712345678", **values))
    assert (line["n"], line["small"], line["sure"], line["none"]) == ("…678", 123456, True, None)
    assert (line["mali"], line["raw"]) == ("…234", "b'…678'")


def test_a_traceback_shows_no_number_and_no_locals() -> None:
    def fail(number: str) -> None:
        text = "Dear Amina"
        raise RuntimeError(f"no route to {number}, {len(text)} characters")

    def write(log: Any) -> None:
        try:
            fail(NUMBER)
        except RuntimeError:
            log.exception("broadcast.failed")
            logging.getLogger("aiohttp.server").exception("Error handling request from %s", NUMBER)

    for line in written(write):
        assert line["level"] == "error"
        assert "no route to …678, 10 characters" in line["exception"]
        assert f"line {fail.__code__.co_firstlineno + 2}, in fail" in line["exception"]
        assert "712345" not in json.dumps(line)


def test_the_standard_library_speaks_through_the_same_mask() -> None:
    def write(_log: Any) -> None:
        logging.getLogger("asyncio").debug("a debug line")
        logging.getLogger("aiohttp.access").info("GET /")
        logging.getLogger("aiohttp.client").warning("slow: %s", NUMBER)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(f"old {NUMBER}", stacklevel=1)

    slow, old = written(write, "debug")
    assert (slow["level"], slow["logger"], slow["event"]) == ("warning", "aiohttp.client", "slow: …678")
    assert old["logger"] == "py.warnings"
    assert "old …678" in old["event"]


async def test_an_error_that_asyncio_logs_is_masked() -> None:
    stream = io.StringIO()
    with logging_to(stream):
        context = {"message": f"lost {NUMBER}", "exception": ValueError(NUMBER)}
        asyncio.get_running_loop().call_exception_handler(context)
    line = json.loads(stream.getvalue())
    assert line["event"] == "lost …678"
    assert line["exception"].endswith("ValueError: …678")


@pytest.mark.parametrize(("level", "seen"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_is_the_least_severe_that_is_written(level: str, seen: int) -> None:
    def write(log: Any) -> None:
        for say in (log.debug, log.info, log.warning, log.error):
            say("x")

    assert len(written(write, level)) == seen


@pytest.mark.parametrize(
    ("before", "after", "seen"), [("error", "debug", 3), ("debug", "error", 1), ("info", "info", 2)]
)
def test_the_level_can_be_changed_also_for_loggers_that_were_used(before: str, after: str, seen: int) -> None:
    def write(log: Any) -> None:
        log.error("a.first")
        set_level(after)
        log.debug("a.second")
        log.info("a.third")
        logging.getLogger("a.library").debug("never")

    assert len(written(write, before)) == seen


@pytest.mark.parametrize("is_journal", [True, False])
def test_the_journal_is_told_how_serious_a_line_is(
    tmp_path: Path, is_journal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "log").open("w") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + (not is_journal)}")
        with logging_to(stream):
            log = structlog.get_logger()
            for say in (log.info, log.warning, log.error, log.critical):
                say("x")
            logging.getLogger("a.library").error("of a library")
    lines = (tmp_path / "log").read_text().splitlines()
    expected = ["", "<4>", "<3>", "<2>", "<3>"] if is_journal else [""] * 5
    assert [line.partition("{")[0] for line in lines] == expected
    assert all(json.loads("{" + line.partition("{")[2]) for line in lines)


def test_auto_is_for_people_on_a_terminal_and_for_machines_elsewhere() -> None:
    assert written(lambda log: log.info("feed.reconnected"))[0]["event"] == "feed.reconnected"
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen, os.fdopen(theirs, "w") as terminal:
        with logging_to(terminal, layout="auto"):
            try:
                raise ValueError(NUMBER)
            except ValueError:
                structlog.get_logger().exception("feed.lost", urn=NUMBER)
        shown = screen.read(65536).decode()
    assert "\x1b[" in shown
    assert "feed.lost" in shown
    assert "ValueError: …678" in shown
    assert "712345" not in shown


def test_a_lone_surrogate_and_a_plain_ascii_stream_do_not_stop_a_line() -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as stream, logging_to(stream):
        structlog.get_logger().info("x", name="Zoë \ud83d 😀")
        stream.flush()
        assert json.loads(raw.getvalue())["name"] == "Zoë \ud83d 😀"


class Disk(io.StringIO):
    """A file on a disk that may be full."""

    is_full = False

    def flush(self) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().flush()


async def test_a_full_disk_under_the_log_ends_nothing_and_lost_lines_are_counted() -> None:
    with Disk() as disk, logging_to(disk):
        disk.is_full = True
        for _ in range(3):
            structlog.get_logger().info("a.first")
        disk.is_full = False
        structlog.get_logger().info("a.second")
        await asyncio.sleep(0)
        lines = [json.loads(line) for line in disk.getvalue().splitlines()]
    assert (lines[-1]["event"], lines[-1]["lines"]) == ("log.lines_lost", 3)


def test_a_full_device_under_the_log_ends_nothing() -> None:
    with Path("/dev/full").open("w") as full:
        with logging_to(full):
            for _ in range(300):
                structlog.get_logger().info("a.first", text="x" * 1000)
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # so that closing it can write what is left
