"""CHT's normalisation of phone numbers, of senders and of recipients.

CHT uses google-libphonenumber 3.2.44 (JavaScript), this module the Python port of the same library. Invariant: both
give the same text for the same settings and value; where they differ, JavaScript's behaviour is written out below,
marked "quirk". Without this a site that moves over would get other numbers, and CHT finds the contact of a message by
comparing texts. Only the numbering plans are those of the installed data.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Final

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumber, PhoneNumberFormat

# The four sets of digits that the JavaScript library knows; the Python one takes every set in Unicode.
_DIGITS: Final = "0-9\uff10-\uff19\u0660-\u0669\u06f0-\u06f9"
_CANDIDATE: Final = re.compile(rf"[+\uff0b{_DIGITS}].*[{_DIGITS}#]", re.DOTALL)
# Characters that only Python treats as digits, or, ignoring case, as ASCII letters (I, s and k).
_ONLY_PYTHON: Final = re.compile(rf"[^\D{_DIGITS}]|[\u0130\u0131\u017f\u212a]")
_ASCII_LETTER: Final = re.compile("[A-Za-z]")
_CALLING_CODE: Final = re.compile("[1-9][0-9]{0,2}")
_NO_CALLING_CODE: Final = 0
_MAX_UTF16_UNITS: Final = 250
_REMEMBERED: Final = 1024


@dataclass(frozen=True, slots=True)
class Numbering:
    """What CHT's app settings say about numbers. `validation`: `phone_validation`, of any JSON type."""

    region: str | None
    validation: object

    def normalize(self, phone: object) -> str | None:
        """E.164, or the national form of a short number ("999"); None where CHT leaves the value as it is.

        Never raises.
        """
        # Letters could be a vanity number, an extension or a `tel:` URI for the library: CHT refuses all of them.
        if not isinstance(phone, str) or len(phone) > _MAX_UTF16_UNITS or _ASCII_LETTER.search(phone):
            return None
        mode = _mode(self.validation)
        return None if mode is None else _normalize(phone, self.region, mode)


def read_numbering(settings: Mapping[str, object]) -> Numbering:
    """Of CHT's app settings: `default_country_code` and `phone_validation`, each of any JSON type."""
    return Numbering(default_region(settings.get("default_country_code")), settings.get("phone_validation"))


def normalize(phone: object, settings: Mapping[str, object]) -> str | None:
    """As `Numbering.normalize`, for a single number."""
    return read_numbering(settings).normalize(phone)


def default_region(default_country_code: object) -> str | None:
    """The region (ISO 3166 alpha-2) that a number without a calling code belongs to; None: such numbers fail."""
    region = phonenumbers.region_code_for_country_code(_calling_code(default_country_code))
    return region if region in phonenumbers.SUPPORTED_REGIONS else None


def _calling_code(setting: object) -> int:
    """The calling code that JavaScript finds when it looks the setting up as the key of an object.

    Quirk: the key is the setting's text, compared as it is. So `[254]` and `["254"]` are the key "254", while
    "0254", "+254", "254 ", `true` and 254.5 are keys that the object does not have.
    """
    while isinstance(setting, list) and len(setting) == 1:
        setting = setting[0]
    match setting:
        case bool():
            return _NO_CALLING_CODE
        case int():
            return setting
        case float() if setting.is_integer():
            return int(setting)
        case str() if _CALLING_CODE.fullmatch(setting):
            return int(setting)
        case _:
            return _NO_CALLING_CODE


def _parse(phone: str, region: str | None) -> PhoneNumber | None:
    # Quirk: without a region the very first character has to be an ASCII plus; a blank before it is too much.
    if region is None and not phone.startswith("+"):
        return None
    candidate = _candidate(phone)
    if candidate is None:
        return None
    try:
        number = phonenumbers.parse(candidate, region)
    except NumberParseException:
        return None
    number.national_number = _through_double(number.national_number or 0)
    return number


def _candidate(phone: str) -> str | None:
    """The part of the text that JavaScript goes on with: from the first plus or digit to the last digit or #.

    Quirk: Devanagari digits are no digits to it. Around the number they are cut off, like any letter (the
    Python library cuts differently); inside they spoil it. The limit counts UTF-16 units, before the cut.
    """
    if len(phone.encode("utf-16-le", "surrogatepass")) > 2 * _MAX_UTF16_UNITS:
        return None
    found = _CANDIDATE.search(phone)
    return None if found is None or _ONLY_PYTHON.search(found[0]) else found[0]


def _through_double(national_number: int) -> int:
    """Quirk: JavaScript keeps an IEEE double, and prints only the digits that tell it from its neighbours."""
    return int(Decimal(repr(float(national_number))))


def _mode(phone_validation: object) -> str | None:
    """None: no number is accepted. Quirk: CHT calls toLowerCase() of every truthy value, but only a text has it."""
    mode = "" if phone_validation in (None, False, 0) else phone_validation
    return mode.lower() if isinstance(mode, str) else None


@lru_cache(maxsize=_REMEMBERED)
def _normalize(phone: str, region: str | None, mode: str) -> str | None:
    """Sending a message takes its number several times."""
    number = _parse(phone, region)
    return _format(number, phone) if number is not None and _accepts(mode, number) else None


def _accepts(mode: str, number: PhoneNumber) -> bool:
    match mode:
        case "none":
            return True
        case "partial":
            return phonenumbers.is_possible_number(number)
        case _:
            return phonenumbers.is_valid_number(number)


def _format(number: PhoneNumber, phone: str) -> str:
    if not number.national_number:
        return phone  # quirk: nothing but zeros comes back as typed; Python puts the calling code before it
    short = phonenumbers.is_valid_short_number(number)
    return phonenumbers.format_number(number, PhoneNumberFormat.NATIONAL if short else PhoneNumberFormat.E164)
