"""The demo's verdict in words: a line for each message, what was expected of it and, if it differs, what was found."""

from collections.abc import Iterator, Sequence

from demo.conversation import Conversation
from demo.progress import Display
from demo.rapidpro import RapidPro
from demo.sighting import Sighting


def report(
    display: Display, conversation: Conversation, sightings: Sequence[Sighting], rapidpro: RapidPro, seconds: float
) -> bool:
    """Prints the lines; whether every message is where it must be, and RapidPro has no broadcast beyond those."""
    display.say("")
    for is_right, text in conversation.verdicts():
        _say(display, is_right, text)
    for sighting in sightings:
        _say(display, sighting.is_right, " · ".join(_words(sighting)))
    to_send = sum(sighting.sms.fate.is_sent for sighting in sightings)
    made = len(rapidpro.broadcasts)
    posts = sum(call.target == "POST broadcasts" for call in rapidpro.calls)
    totals = f"{to_send} messages to send: {made} broadcasts in {posts} requests to RapidPro"
    _say(
        display, made == to_send, f"{totals}, their states in {len(rapidpro.calls) - posts} more, {seconds:.1f} seconds"
    )
    return made == to_send and conversation.is_right and all(sighting.is_right for sighting in sightings)


def report_exit(display: Display, code: int, tail: Sequence[str]) -> bool:
    """Whether the daemon obeyed SIGTERM; `tail`: the end of its log, printed if it did not."""
    _say(display, code == 0, f"the daemon ended by SIGTERM: exit code {code}")
    if code:
        display.say("\n".join(tail))
    return code == 0


def _say(display: Display, is_right: bool, text: str) -> None:
    display.say(f"{'✓' if is_right else '✗'} {text}", "green" if is_right else "red")


def _words(sighting: Sighting) -> Iterator[str]:
    sms = sighting.sms
    yield f"{sms.what:<24} {sms.fate}"
    if not sighting.is_right:
        yield f"found: {', '.join(sighting.problems())}"
        return
    for broadcast, shown in zip(sighting.broadcasts, sighting.phone, strict=True):
        if sms.urn:
            yield f"written {sms.to}, broadcast to {shown.urn}"
        if broadcast.text != sms.text:
            yield f"broadcast as {broadcast.text!r}, the phone shows {shown.text!r}"
