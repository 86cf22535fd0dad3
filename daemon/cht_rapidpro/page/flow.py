"""The path of a message as a picture: boxes in a row for wide screens, in a column for phones.

Both are in the page, and the style sheet shows one of them, because a picture that is scaled down to a phone is
unreadable. A box without figures is left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from cht_rapidpro.domain.span import span
from cht_rapidpro.page.html import Html, join, tag
from cht_rapidpro.page.view import Tone, View

_WIDTH: Final = 120  # of a box in the row, and the distance to the next
_HEIGHT: Final = 78
_STEP: Final = 148
_ROW: Final = 112
_TALL_WIDTH: Final = 320
_TALL_HEIGHT: Final = 54
_TALL_STEP: Final = 74

ARRIVED: Final = (("incoming", "stored"), ("incoming", "spooled"))


@dataclass(frozen=True, slots=True)
class Box:
    label: str
    value: str
    note: str = ""
    tone: Tone | None = None  # of a dependency

    def __str__(self) -> str:
        return " ".join(filter(None, (self.label, self.value, f"({self.note})" if self.note else "")))


def flow(view: View) -> Html:
    out, incoming = list(_outgoing(view)), list(_incoming(view))
    spoken = "Outgoing: " + ", then ".join(map(str, out)) + "."
    if incoming:
        spoken += " Incoming: " + ", then ".join(map(str, incoming)) + "."
    return join(
        tag("p", spoken, class_="aside"),
        _wide(out, incoming),
        _tall(out, "flow-tall"),
        _tall(incoming, "flow-tall") if incoming else "",
    )


def _outgoing(view: View) -> Iterator[Box]:
    totals = view.totals()
    oldest, ambiguous = view.figure("queue_oldest_seconds"), view.figure("ambiguous_messages")
    sent = totals["outgoing", "sent"] + totals["outgoing", "adopted"]
    yield _dependency(view, "couchdb", "CouchDB")
    waiting, age = view.figure("queue_messages"), f"oldest {span(oldest)}" if oldest is not None else ""
    yield Box("waiting", _amount(waiting), age if waiting else "")
    yield Box("claimed", _amount(view.figure("claimed_tasks")), f"{_amount(ambiguous)} ambiguous" if ambiguous else "")
    yield _dependency(view, "rapidpro", "RapidPro")
    yield Box("sent / refused", f"{_amount(sent)} / {_amount(totals['outgoing', 'refused'])}", "last hour")
    if view.has("outstanding_messages"):
        delivered, failed = totals["outgoing", "delivered"], totals["outgoing", "failed"]
        yield Box("on their way", _amount(view.figure("outstanding_messages")), "asked about")
        yield Box("delivered / failed", f"{_amount(delivered)} / {_amount(failed)}", "last hour")


def _incoming(view: View) -> Iterator[Box]:
    if view.has("incoming_messages"):
        totals = view.totals()
        spooled = view.labelled("spooled_messages")
        rejected = spooled.get("rejected")
        yield _dependency(view, "rapidpro", "RapidPro")
        waiting = view.figure("incoming_messages")
        note = f"last hour; {_amount(waiting)} waiting" if waiting else "last hour"
        yield Box("received", _amount(sum(totals[arrived] for arrived in ARRIVED)), note)
        yield Box("spooled", _amount(spooled.get("waiting")), f"{_amount(rejected)} rejected" if rejected else "")
        yield _dependency(view, "couchdb", "CouchDB")


def _dependency(view: View, name: str, label: str) -> Box:
    """Returns the worst of the dependencies whose name begins so: RapidPro has one for each throttle scope."""
    conditions = {each["condition"] for each in view.status["dependencies"] if each["name"].split()[0] == name}
    if "refused" in conditions:
        return Box(label, "refuses access", tone=Tone.BAD)
    if "lost" in conditions:
        return Box(label, "no answer", tone=Tone.WARN)
    if "works" not in conditions:
        return Box(label, "unknown")
    return Box(label, "works", tone=Tone.OK)


def _amount(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value < 100_000 else f"{value / 1000:,.0f}k"


def _wide(out: Sequence[Box], incoming: Sequence[Box]) -> Html:
    """Draws outgoing messages to the right and incoming ones below, to the left, so that CouchDB is at the left of
    both.
    """
    columns = max(len(out), len(incoming))
    shapes = [_row(out, 1, to_right=True)]
    if incoming:
        shapes.append(_row(list(reversed(incoming)), 1 + _ROW, to_right=False))
    width, height = columns * _STEP - (_STEP - _WIDTH) + 2, (_ROW if incoming else 0) + _HEIGHT + 2
    return tag("svg", *shapes, viewBox=f"0 0 {width} {height}", class_="flow-wide", aria_hidden="true")


def _row(boxes: Sequence[Box], y: int, *, to_right: bool) -> Html:
    shapes = []
    for place, box in enumerate(boxes):
        x = 1 + place * _STEP
        centre = x + _WIDTH // 2
        shapes += [
            tag("rect", x=x, y=y, width=_WIDTH, height=_HEIGHT, rx=8, class_=_class(box)),
            tag("text", box.label, x=centre, y=y + 21, class_="label middle"),
            tag("text", box.value, x=centre, y=y + 47, class_=_value_class(box, "middle")),
            tag("text", box.note, x=centre, y=y + 67, class_="note middle") if box.note else "",
        ]
        if place + 1 < len(boxes):
            shapes.append(_arrow(x + _WIDTH + 4, x + _STEP - 4, y + _HEIGHT // 2, to_right=to_right))
    return join(*shapes)


def _arrow(left: int, right: int, y: int, *, to_right: bool) -> Html:
    tip, back = (right, right - 6) if to_right else (left, left + 6)
    return tag("path", d=f"M{left} {y}H{right}M{back} {y - 5}L{tip} {y}L{back} {y + 5}", class_="arrow")


def _tall(boxes: Sequence[Box], name: str) -> Html:
    shapes = []
    for place, box in enumerate(boxes):
        y = 1 + place * _TALL_STEP
        middle = y + _TALL_HEIGHT // 2
        shapes += [
            tag("rect", x=1, y=y, width=_TALL_WIDTH - 2, height=_TALL_HEIGHT, rx=8, class_=_class(box)),
            tag("text", box.label, x=14, y=middle - 3 if box.note else middle + 5, class_="label"),
            tag("text", box.note, x=14, y=middle + 15, class_="note") if box.note else "",
            tag("text", box.value, x=_TALL_WIDTH - 14, y=middle + 7, class_=_value_class(box, "end")),
        ]
        if place + 1 < len(boxes):
            top, x, bottom = y + _TALL_HEIGHT + 3, _TALL_WIDTH // 2, y + _TALL_STEP - 3
            path = f"M{x} {top}V{bottom}M{x - 5} {bottom - 6}L{x} {bottom}L{x + 5} {bottom - 6}"
            shapes.append(tag("path", d=path, class_="arrow"))
    height = (len(boxes) - 1) * _TALL_STEP + _TALL_HEIGHT + 2
    return tag("svg", *shapes, viewBox=f"0 0 {_TALL_WIDTH} {height}", class_=name, aria_hidden="true")


def _class(box: Box) -> str:
    return f"box {box.tone}" if box.tone else "box"


def _value_class(box: Box, anchor: str) -> str:
    return f"word {box.tone} {anchor}" if box.tone else f"value {anchor}"
