"""An SMS as it came in, before anything is made of it."""

from dataclasses import dataclass

from cht_rapidpro.domain.records.javascript import ABSENT


@dataclass(frozen=True, slots=True)
class Sms:
    """What arrived, as it arrived: any JSON values, `ABSENT` where a key was not given.

    RapidPro's webhook gives the first three; the others exist because CHT's own endpoint takes them.
    """

    sender: object  # `from`
    message: object
    gateway_ref: object = ABSENT
    sent_timestamp: object = ABSENT
    locale: object = ABSENT


def refusal(sms: Sms) -> str | None:
    """CHT's words for refusing it, or None where it takes it; empty values and null are taken."""
    if sms.sender is ABSENT:
        return "Missing required value: from"
    if sms.message is ABSENT:
        return "Missing required field: message"
    return None
