"""How the demo shows its progress on a terminal: a live table, one row a message.

The only module that needs rich, a development dependency: a gateway in production draws no tables.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cht_rapidpro.domain.statuses import State
from demo.sighting import Sighting, counts, short_number

_COLOURS: Final[dict[str, str]] = {
    State.SCHEDULED: "blue",
    State.PENDING: "yellow",
    State.FORWARDED_TO_GATEWAY: "magenta",
    State.RECEIVED_BY_GATEWAY: "cyan",
    State.FORWARDED_BY_GATEWAY: "cyan",
    State.SENT: "bright_green",
    State.DELIVERED: "green",
    State.FAILED: "red",
}
_STATUS_COLOURS: Final = {"queued": "yellow", "wired": "cyan", "sent": "bright_green", "delivered": "green"}
_COLUMNS: Final = ("", "message", "number", "state", "gateway_ref", "RapidPro")


class LiveTable:
    """Redrawn by `show` alone; what it showed last stays on the screen."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, sightings: Sequence[Sighting], requests: int, troubles: Sequence[str]) -> None:
        lines = [Text(counts(sightings, requests)), *(_one_line(trouble) for trouble in troubles)]
        self._live.update(Group(_table(sightings), *lines), refresh=True)

    def say(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style), soft_wrap=True)


def _one_line(trouble: str) -> Text:
    return Text(trouble, "red", no_wrap=True, overflow="ellipsis")


def _table(sightings: Sequence[Sighting]) -> Table:
    table = Table(*_COLUMNS, box=box.SIMPLE_HEAD)
    for sighting in sightings:
        table.add_row(
            Text("✓", "green") if sighting.is_right else Text("·"),
            sighting.sms.what,
            short_number(sighting),
            Text(sighting.state, _COLOURS.get(sighting.state, "dim")),
            sighting.gateway_ref,
            Text(sighting.status, _STATUS_COLOURS.get(sighting.status, "")),
        )
    return table
