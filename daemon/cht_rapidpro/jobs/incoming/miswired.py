"""Mistakes in the flow that calls the webhook, found in its messages: for the log, the page and `check`.

Each mistake is one WARNING an hour, and is forgotten a day after it was last seen.
"""

import time
from dataclasses import dataclass
from typing import Any, Final

import structlog

from cht_rapidpro.domain.miswiring import Miswiring

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_TELL_AGAIN: Final = 3600.0
_KEEP: Final = 86_400.0


@dataclass(slots=True)
class _Seen:
    times: int
    last: float
    reported: float


class MiswiredFlow:
    """The mistakes are a closed set, except for the names of expressions; at most `_MOST` are kept."""

    _MOST: Final = 20

    def __init__(self) -> None:
        self._seen: dict[Miswiring, _Seen] = {}

    def notice(self, found: Miswiring) -> None:
        now = time.monotonic()
        seen = self._seen.get(found)
        if seen is None:
            if len(self._seen) >= self._MOST:
                return
            seen = self._seen[found] = _Seen(0, now, now - _TELL_AGAIN)
        seen.times, seen.last = seen.times + 1, now
        if now - seen.reported >= _TELL_AGAIN:
            seen.reported = now
            log.warning("incoming.miswired", field=found.field, sends=found.sends, times=seen.times)

    def snapshot(self) -> list[dict[str, Any]]:
        """As JSON types, the latest first."""
        now = time.monotonic()
        self._seen = {each: seen for each, seen in self._seen.items() if now - seen.last < _KEEP}
        latest = sorted(self._seen.items(), key=lambda item: -item[1].last)
        return [
            {"field": each.field, "sends": each.sends, "times": seen.times, "seconds_ago": round(now - seen.last)}
            for each, seen in latest
        ]
