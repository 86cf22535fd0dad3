"""Reads single values of a configuration: durations, sizes, limits, moments, files.

Invariant: a refused value raises a ConfigError that says what was found and what is allowed.
"""

import json
import math
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final

from cht_rapidpro.domain.task import parse_timestamp
from cht_rapidpro.errors import ConfigError

_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)", re.ASCII)
# Decimal, because 700 × 0.001 would be a little more than "0.7s", and limits are compared.
_UNIT_SECONDS: Final = {
    unit: Decimal(n) for unit, n in (("ms", "0.001"), ("s", 1), ("m", 60), ("h", 3600), ("d", 86400))
}
_LONGEST: Final = 3650 * 86400.0  # a longer duration could exceed the range of datetime when added to a time


def kind_of(value: object) -> str:
    """Names the TOML type of a value that must not be shown itself."""
    names = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", dict: "a table"}
    return names.get(type(value), "a list" if isinstance(value, list) else "a date or time")


def shown(value: object) -> str:
    """Shows `value` in an error message: as in TOML if it is short, otherwise only its type."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | int | float) else ""
    return text if 0 < len(text) <= 80 else kind_of(value)


@dataclass(frozen=True)
class Duration:
    """How a duration is read: "30s" to seconds, no fewer than `least`; with `off`, "off" to None."""

    least: float
    off: bool = False

    def __call__(self, raw: object) -> float | None:
        if self.off and raw == "off":
            return None
        found = _DURATION.fullmatch(raw) if isinstance(raw, str) else None
        seconds = float(Decimal(found[1]) * _UNIT_SECONDS[found[2]]) if found else math.nan
        if not self.least <= seconds <= _LONGEST:  # false for NaN, too
            raise ConfigError(f"found {shown(raw)}; allowed: {self._allowed()}")
        return seconds

    def _allowed(self) -> str:
        also = ', or "off"' if self.off else ""
        return f'a number and its unit (ms, s, m, h, d) such as "90s", from "{self.least:g}s" to "3650d"{also}'


_SIZE: Final = re.compile(r"(\d{1,9})(B|KiB|MiB)", re.ASCII)
_UNIT_BYTES: Final = {"B": 1, "KiB": 1024, "MiB": 1024 * 1024}


@dataclass(frozen=True)
class Size:
    """How a size is read: "64KiB" to bytes, between `least` and `most`."""

    least: int
    most: int

    def __call__(self, raw: object) -> int:
        found = _SIZE.fullmatch(raw) if isinstance(raw, str) else None
        size = int(found[1]) * _UNIT_BYTES[found[2]] if found else -1
        if not self.least <= size <= self.most:
            allowed = f'a number and its unit (B, KiB, MiB) such as "64KiB", from "{self.least}B" to "{self.most}B"'
            raise ConfigError(f"found {shown(raw)}; allowed: {allowed}")
        return size


def requests_per_hour(raw: object) -> object:
    """A limit, or a table of limits, with "unlimited" as None; what else it may hold is checked by its type.

    0 is refused: it reads as "send nothing", and an operator in a hurry would start a campaign at full speed.
    """
    if isinstance(raw, dict):
        return {key: requests_per_hour(value) for key, value in raw.items()}
    if type(raw) is int and raw == 0:
        raise ConfigError(
            'found 0; allowed: a whole number from 1 on, or "unlimited" for no limit of our own;'
            " `cht-rapidpro pause` stops sending"
        )
    return None if raw == "unlimited" else raw


def moment(raw: object) -> int | None:
    """Reads a moment in ISO-8601 (without offset: UTC) as ms since the epoch, an empty text as None."""
    if raw == "":
        return None
    try:
        return parse_timestamp(str(raw))
    except (ValueError, OverflowError) as error:
        raise ConfigError(f'found {shown(raw)}; allowed: a moment such as "2026-11-22T08:00:00Z", or ""') from error


@contextmanager
def at(place: str) -> Iterator[None]:
    """Adds `place` to the message of a ConfigError that is raised inside the block."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error


def read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # editors on Windows put a byte order mark first
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {path}: byte {error.start} is not UTF-8") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {_reason(error)}") from error


def check_ca_file(path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:
        found = f"cannot read {path}: {_reason(error)}"
        raise ConfigError(f"{found}; allowed: a file of PEM certificates") from error


def _reason(error: OSError | ValueError) -> str:
    """Describes an error without the path, which the message names already; a ValueError means a NUL in the path."""
    return str(getattr(error, "strerror", None) or error)
