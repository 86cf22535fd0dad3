"""URNs (`tel:+254712345678`), written as the workspace's country writes them.

RapidPro normalises before it stores, so the `urns` of an answer are not the ones that were posted; a gateway
that compares the two textually finds nothing. Which numbers pass was observed in a Kenyan workspace.
"""

import re

import phonenumbers

SCHEMES = frozenset({"tel", "whatsapp", "telegram", "facebook", "viber", "ext"})


class InvalidUrnError(ValueError):
    """RapidPro would answer 400 for this URN."""


def normalise(urn: str, country: str) -> str:
    """The stored form of `urn`; `country` is ISO 3166 alpha-2. Raises InvalidUrnError."""
    scheme, _, path = urn.strip().partition(":")
    if scheme not in SCHEMES or not path:
        raise InvalidUrnError(urn)
    return f"tel:{_phone(path, country)}" if scheme == "tel" else f"{scheme}:{path}"


def _phone(path: str, country: str) -> str:
    digits = re.sub(r"[^0-9a-z+]", "", path.lower())
    if len(digits) >= 11 and digits[0] not in "+0":
        digits = f"+{digits}"  # long enough to begin with a country code
    try:
        number = phonenumbers.parse(digits, country)
    except phonenumbers.NumberParseException as error:
        raise InvalidUrnError(path) from error
    if not phonenumbers.is_possible_number(number):
        raise InvalidUrnError(path)
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
