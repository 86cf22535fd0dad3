"""The last hour as small charts: lines over sixty minutes, distinguished by their dashes and not by colour alone.

The important numbers are beside them as text, because a screen reader cannot read a chart.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cht_rapidpro.domain.history import MINUTES
from cht_rapidpro.domain.span import span
from cht_rapidpro.page.flow import ARRIVED
from cht_rapidpro.page.html import Html, join, tag
from cht_rapidpro.page.view import View

_WIDTH: Final = 320
_TOP: Final = 18
_BOTTOM: Final = 102
_HEIGHT: Final = 120
_OUT: Final = (("outgoing", "sent"), ("outgoing", "adopted"))
_SCOPES: Final = {"v2": "general", "v2.messages": "messages", "v2.runs": "runs"}

Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Line:
    """`now`: its last value in words."""

    label: str
    now: str
    values: Values


def charts(view: View) -> Html:
    return join(_messages(view), _waits(view), _budget(view))


def _messages(view: View) -> Html:
    out = [sum(minute.counts[key] for key in _OUT) for minute in view.minutes]
    lines = [Line("out", f"{sum(out):,}", out)]
    if view.has("incoming_messages"):
        incoming = [sum(minute.counts[key] for key in ARRIVED) for minute in view.minutes]
        lines.append(Line("in", f"{sum(incoming):,}", incoming))
    return _chart("Messages a minute", "in the last hour", lines, lambda value: f"{value:,.0f}")


def _waits(view: View) -> Html:
    lines = []
    for label, share in (("p50", 0.5), ("p99", 0.99)):
        values = [minute.waits.quantile(share) for minute in view.minutes]
        known = [value for value in values if value is not None]
        lines.append(Line(label, _duration(known[-1]) if known else "–", values))
    return _chart("From due to sent", "last minute with messages", lines, _duration)


def _budget(view: View) -> Html:
    left = view.labelled("budget_left_requests")
    lines = [
        Line(
            _SCOPES.get(scope, scope),
            "no limit" if now is None else f"{now:,.0f}",
            [minute.least.get(scope) for minute in view.minutes],
        )
        for scope, now in left.items()
    ]
    return _chart("Requests left at RapidPro", "at present", lines, lambda value: f"{value:,.0f}")


def _duration(seconds: float) -> str:
    return span(seconds) if seconds >= 10 else f"{seconds:.2g} s"


def _chart(title: str, of: str, lines: Sequence[Line], spell: Callable[[float], str]) -> Html:
    known = [value for line in lines for value in line.values if value is not None]
    top = _ceiling(max(known, default=0))
    drawing = [tag("path", d=f"M0 {_BOTTOM}H{_WIDTH}M0 {_TOP}H{_WIDTH}", class_="grid")]
    drawing += [tag("path", d=_path(line.values, top), class_=f"line s{n}") for n, line in enumerate(lines, 1)]
    drawing += [
        tag("text", spell(top), x=0, y=_TOP - 5, class_="note"),
        tag("text", "an hour ago", x=0, y=_HEIGHT - 3, class_="note"),
        tag("text", "now", x=_WIDTH, y=_HEIGHT - 3, class_="note end"),
    ]
    return tag(
        "figure",
        tag("figcaption", tag("h3", title), tag("p", of, class_="note"), tag("p", *_legend(lines), class_="legend")),
        tag("svg", *drawing, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", class_="chart", aria_hidden="true")
        if known
        else tag("p", "Nothing yet.", class_="empty"),
    )


def _legend(lines: Sequence[Line]) -> list[Html]:
    return [
        tag(
            "span",
            tag(
                "svg",
                tag("path", d="M0 5H22", class_=f"line s{n}"),
                viewBox="0 0 22 10",
                class_="key",
                aria_hidden="true",
            ),
            f" {line.label} ",
            tag("b", line.now),
        )
        for n, line in enumerate(lines, 1)
    ]


def _path(values: Values, top: float) -> str:
    """Draws a step for each minute, and a gap where the value is unknown."""
    written = []
    before: float | None = None
    for place, value in enumerate(values):
        if value is not None:
            y = _BOTTOM - (_BOTTOM - _TOP) * value / top
            start = f"M{_x(place)} {y:.1f}" if before is None else f"V{y:.1f}" if value != before else ""
            written.append(f"{start}H{_x(place + 1)}")
        before = value
    return "".join(written)


def _x(minute: int) -> str:
    return f"{minute * _WIDTH / MINUTES:.0f}"


def _ceiling(value: float) -> float:
    """Returns the next number of the form 1, 2 or 5 and zeros, so that the scale rarely changes."""
    if value <= 1:
        return 1
    size = 10 ** math.floor(math.log10(value))
    return next(float(step * size) for step in (1, 2, 5, 10) if step * size >= value)
