"""The page and its parts at one moment: all that is loaded when the page is opened for the first time."""

from collections.abc import Mapping
from typing import Any

from cht_rapidpro.domain.history import History
from cht_rapidpro.page.document import document
from cht_rapidpro.page.html import Html
from cht_rapidpro.page.parts import SHOWN, Parts, parts
from cht_rapidpro.page.view import View


class Drawing:
    """`snapshot`: the answer of /status; `wall_clock` in ms since the epoch, `now` of the history."""

    def __init__(self, snapshot: Mapping[str, Any], history: History, wall_clock: int, now: float) -> None:
        self._history = history
        self._view = View(wall_clock, snapshot, history.minutes(now), history.recent(SHOWN))
        self.parts: Parts = parts(self._view)

    def document(self, query: str) -> Html:
        """The whole page, with the events that have this id."""
        found = self._history.find(query)[:SHOWN] if query else []
        return document(self._view, self.parts, query, found)
