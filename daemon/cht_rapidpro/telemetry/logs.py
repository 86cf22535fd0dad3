"""Log lines: one JSON object each, with every phone number cut to its last three digits.

Invariant: every log line, this project's or a library's, is masked: event, data and traceback. Callers never pass
message texts to a logger; but numbers also occur in document ids, URNs, URLs and the texts of foreign errors, where a
caller cannot find them all. Without the mask the journal, which is copied to log servers and mailed to supporters,
would contain patients' numbers and CHT's login tokens.
"""

import io
import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor

from cht_rapidpro.telemetry.log_stream import ForgivingStream

# Separators that people and programs put between the digits of one number: blanks of all kinds but a line break,
# dashes, dots, brackets, slashes, invisible marks, and any of these as a URL or a repr escapes it.
_SEPARATOR: Final = (
    r"(?:[^\S\r\n]|[-+./()\u00ad\u2010-\u2015\u2212\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]"
    r"|%[0-9A-Fa-f]{2}|\\+x[0-9A-Fa-f]{2}|\\+u[0-9A-Fa-f]{4})"
)
# No upper limit: a longer run may be a number with other digits attached.
_MORE: Final = rf"(?:{_SEPARATOR}{{0,4}}\d)"
# A number after a mark (`+`, `tel:`) may have any length, such as a short code; its last three digits are shown.
_MARKED: Final = rf"(?:\+|%2[Bb]|[Tt][Ee][Ll](?::|%3[Aa]))[^\S\r\n]{{0,2}}\d{_MORE}{{3,}}"
# The shortest national numbers have seven digits (Togo, Niger and Mali have eight).
_UNMARKED: Final = rf"\+?\d{_MORE}{{6,}}"
_MARKED_NUMBER: Final = re.compile(_MARKED)
_NUMBER: Final = re.compile(f"{_MARKED}|{_UNMARKED}")
_SEPARATORS: Final = re.compile(_SEPARATOR)

_OCTET: Final = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
# Values that match the pattern above but must stay searchable.
_KEPT: Final = re.compile(
    r"((?<![0-9A-Za-z])(?:"
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"  # a UUID
    r"|(?:\d{1,6}-)?(?=\d*[a-f])[0-9a-f]{32}"  # a document id or a revision of CouchDB
    r"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:?\d\d)?"  # a time
    r"|(?<!\d[-+./() ])(?<![.+])(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:[0-2]\d|3[01])(?![-+./() ]{0,4}\d)"  # a date
    rf"|(?<![.+])(?=[\d.]*\d{{3}})(?:{_OCTET}\.){{3}}{_OCTET}(?!\.?\d)"  # an IPv4 address, unlike 70.12.34.56
    r"|(?<!\d[^\w])(?<![.+])\d{1,2}\.\d{7,}(?![-+./() ]{0,4}\d)"  # a float
    r")(?![0-9A-Za-z]))",
    re.IGNORECASE | re.ASCII,
)
_LOGIN: Final = re.compile(r"(token(?::|%3A)login(?::|%3A))[^\s\"'<>/?&,)\]}]+", re.IGNORECASE)

# As sd-daemon(3) defines them: `journalctl -p err` shows the lines that need an operator.
_PRIORITIES: Final = {"critical": "<2>", "error": "<3>", "warning": "<4>"}

_encode: Final = json.JSONEncoder(ensure_ascii=False).encode  # searchable: "…678", not "\\u2026678"
_BLANK: Final = re.compile(r"\s")
_DIGIT: Final = re.compile(r"\d")  # most event names have none, which is told in a tenth of the time
# An id without any of the marks that the mask looks for in ids: `+`, `%2B`, `tel:`, `token:login:`.
_UNMARKED_ID: Final = re.compile(r"[0-9A-Za-z_.-]*")

_ID_KEYS: Final = frozenset({"doc", "message", "task", "gateway_ref", "instance", "broadcast", "timestamp"})
_LEVELS: Final = logging.getLevelNamesMapping()
_SHORT: Final = 10**6  # an int of fewer than seven digits is no phone number


def configure(level: str, layout: Literal["auto", "console", "json"] = "auto", stream: TextIO = sys.stdout) -> None:
    """Makes all loggers, structlog's and the standard library's, write to `stream`.

    `level` is "debug", "info", "warning" or "error"; `layout` is `[log] format`: one JSON object a line, or
    colours for people, or "auto", which is colours on a terminal only. A structlog logger keeps the set-up
    with which it wrote its first line.
    """
    if isinstance(stream, io.TextIOWrapper):  # a lone surrogate must not make a log line raise
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    forgiving = ForgivingStream(stream)
    processors = [*_PROCESSORS, _renderer(layout, stream)]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", forgiving)),
        cache_logger_on_first_use=True,
    )
    _configure_stdlib(processors, forgiving)
    set_level(level)


def set_level(level: str) -> None:
    """Sets the least severe level that is written."""
    threshold = _LEVELS[level.upper()]
    _drop_below.threshold = threshold
    # Never a library's debug lines: they may hold anything, such as a request's body.
    logging.getLogger().setLevel(max(threshold, logging.INFO))


def _configure_stdlib(processors: list[Processor], stream: ForgivingStream) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *processors],
        )
    )
    logging.basicConfig(handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("aiohttp.access").disabled = True  # one line a request; this project's own events say more


def _renderer(layout: str, stream: TextIO) -> Processor:
    render = _layout(layout, stream)
    if not _is_journal(stream):
        return render

    def with_priority(logger: object, method: str, line: EventDict) -> str:
        priority = _PRIORITIES.get(line["level"], "")
        return priority + str(render(logger, method, line))

    return with_priority


def _is_journal(stream: TextIO) -> bool:
    """Whether systemd's journal reads the stream (systemd.exec(5), JOURNAL_STREAM: device and inode of it)."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # not a file, or a closed one
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _layout(layout: str, stream: TextIO) -> Processor:
    if layout == "json" or (layout == "auto" and not stream.isatty()):
        return _as_json
    # Plain tracebacks: the pretty ones show local variables, and with them message texts.
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback, sort_keys=False
    )


def _as_json(_logger: object, _method: str, line: EventDict) -> str:
    """After the mask there is nothing in it but JSON; one encoder for all lines takes half the time."""
    return _encode(line)


def masked(text: str) -> str:
    """The text without what identifies a person: "+254 712 345 678" is "…678", `token:login:` ids end there.

    A number is seven digits or more in any usual spelling, also `0712/345678` and a URL's `%2B254…`, and of any length
    after `+` and `tel:`. UUIDs, CouchDB's ids and revisions, times, IPv4 addresses and floats stay as they are.
    """
    if "login" in text:
        text = _LOGIN.sub(r"\1…", text)
    if not _DIGIT.search(text) or not _NUMBER.search(text):
        return text
    parts = _KEPT.split(text)  # every second one is kept
    parts[::2] = [_NUMBER.sub(_last_three, part) for part in parts[::2]]
    return "".join(parts)


def _last_three(number: re.Match[str]) -> str:
    return masked_number(number[0])


def masked_number(number: str) -> str:
    """Masks a text that is known to be a number, however short: its last three digits stay."""
    return "…" + _SEPARATORS.sub("", number)[-3:]


def masked_id(text: str) -> str:
    """Masks in an id only numbers that are marked as such: bare digits may be RapidPro's id, and must stay
    searchable.
    """
    if _UNMARKED_ID.fullmatch(text):
        return text
    return _MARKED_NUMBER.sub(_last_three, _LOGIN.sub(r"\1…", text))


def _mask(key: str, value: object) -> object:
    """Returns `value` as the log may show it under `key`: str, int, float, bool, None, and lists and dicts of these."""
    match value:
        case str():
            return masked_id(value) if key in _ID_KEYS and not _BLANK.search(value) else masked(value)
        case int():
            return value if -_SHORT < value < _SHORT or key in _ID_KEYS else masked(str(value))
        case None | float():
            return value
        case Mapping():
            return {masked(str(name)): _mask(str(name), item) for name, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_mask(key, item) for item in value]
        case _:
            return masked(repr(value))


def _mask_line(_logger: object, _method: str, line: EventDict) -> EventDict:
    """Masks a line, and orders it for a reader: `timestamp`, `level`, `event`, then the data."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = {"timestamp": now, "level": line.pop("level"), "event": _mask("event", line.pop("event"))}
    return head | {key: _mask(key, value) for key, value in line.items()}


class _DropBelow:
    """Drops lines below a level that can be changed: a logger keeps the wrapper class of its first line."""

    threshold = logging.INFO

    def __call__(self, _logger: object, _method: str, line: EventDict) -> EventDict:
        if _LEVELS[line["level"].upper()] < self.threshold:
            raise structlog.DropEvent
        return line


_drop_below: Final = _DropBelow()

# Tracebacks become text before the mask, which is the last step before the renderer.
_PROCESSORS: Final[list[Processor]] = [
    structlog.processors.add_log_level,
    _drop_below,
    structlog.processors.format_exc_info,
    _mask_line,
]
