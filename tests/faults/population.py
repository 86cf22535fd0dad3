"""The messages of a run: texts and numbers that are all different, or that repeat as reminders do.

A broadcast is recognised by its URN and its text, as RapidPro stores them. The pair of a message is computed here anew
and not by the daemon's own rules, so that a mistake in those cannot hide itself.
"""

import itertools
from collections.abc import Iterator
from typing import Final

from demo.database import Doc
from demo.medic import message

SmsIdentity = tuple[str, str]  # (URN, text)

_PEOPLE: Final = 500
_IN_A_ROW: Final = 4  # equal messages that are on their way together
_ROUND: Final = 40  # different ones until they come again


def unique() -> Iterator[Doc]:
    """Texts that are all different; some that RapidPro would evaluate or trim, to few people."""
    for number in itertools.count():
        yield message(f"{('Reminder', 'Mail @contact', ' Padded')[number % 3]} {number} ", _phone(number % _PEOPLE))


def repeated() -> Iterator[Doc]:
    """Each pair eight times, always four in a row: RapidPro's loop guard refuses the 21st within five minutes."""
    for number in itertools.count():
        round_number, place = divmod(number // _IN_A_ROW, _ROUND)
        yield message(f"Visit {round_number // 2}", _phone(place))


def _phone(number: int) -> str:
    """A number of Kenya, as CHT may hold it: international, or national with blanks."""
    return f"+254712{number:06}" if number % 2 else f"0712 {number:06}"


def pair(sent: Doc) -> SmsIdentity:
    """How RapidPro knows the message."""
    national = sent["to"].replace(" ", "")[-9:]
    return f"tel:+254{national}", sent["message"].strip().replace("@", "@@")
