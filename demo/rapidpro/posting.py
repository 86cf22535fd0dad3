"""POST broadcasts.json: what RapidPro accepts, and in which words it refuses.

The gateway tells "this message was refused" from "our trouble" by the shape of a 400 alone, so the bodies are
RapidPro's own, key for key. Nothing is created unless everything is valid, and the same POST twice makes two
broadcasts.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from .answers import RefusedError, as_json, detail
from .urns import InvalidUrnError, normalise
from .workspace import Workspace

MAX_BODY = 3 * 1024 * 1024
MAX_URNS = 100
MAX_TEXT = 4096  # code points, after trimming
SUSPENDED = "Sorry, your workspace is currently suspended. To re-enable sending messages, please contact support."
NO_TEXT = "Must provide either text or attachments."
NO_RECIPIENT = "Must provide either urns, contacts or groups."

_SURROGATE = re.compile("[\ud800-\udfff]")
Errors = dict[str, object]


def read(body: bytes, workspace: Workspace) -> tuple[list[str], str]:
    """The normalised URNs and the trimmed text. Raises RefusedError."""
    posted = _parse(body)
    if workspace.suspended:
        raise _refused({"non_field_errors": [SUSPENDED]})
    errors: Errors = {}
    urns = _urns(posted.get("urns", []), workspace.country, errors)
    text = _text(posted["text"], errors) if "text" in posted else ""
    if errors:
        raise _refused(errors)
    if not (text and urns):
        raise _refused({"non_field_errors": [NO_RECIPIENT if text else NO_TEXT]})
    return urns, text


def _parse(body: bytes) -> Mapping[str, Any]:
    try:
        posted = json.loads(body.decode()) if body else {}
    except ValueError as error:  # also bytes that are not UTF-8
        raise RefusedError(detail(400, f"JSON parse error - {error}")) from error
    if not isinstance(posted, dict):
        raise _refused({"non_field_errors": ["Request body should be a single JSON object"]})
    return posted


def _urns(posted: Any, country: str, errors: Errors) -> list[str]:
    if not isinstance(posted, list):
        errors["urns"] = [f'Expected a list of items but got type "{type(posted).__name__}".']
        return []
    if len(posted) > MAX_URNS:
        errors["urns"] = [f"Ensure this field has no more than {MAX_URNS} elements."]
        return []
    urns, bad = [], {}
    for index, urn in enumerate(posted):
        try:
            urns.append(normalise(str(urn), country))
        except InvalidUrnError:
            bad[str(index)] = [f"Invalid URN: {urn}. Ensure phone numbers contain country codes."]
    if bad:
        errors["urns"] = bad
    return urns


def _text(posted: Any, errors: Errors) -> str:
    if not isinstance(posted, str):
        reason = "This field may not be null." if posted is None else "Value must be a string or dict of strings."
        errors["text"] = [reason]
        return ""
    text = posted.strip()
    if reasons := _text_reasons(text):
        errors["text"] = {"eng": reasons}
    return text


def _text_reasons(text: str) -> list[str]:
    reasons = []
    if not text:
        reasons.append("This field may not be blank.")
    if len(text) > MAX_TEXT:
        reasons.append(f"Ensure this field has no more than {MAX_TEXT} characters.")
    if "\0" in text:
        reasons.append("Null characters are not allowed.")
    if surrogate := _SURROGATE.search(text):
        reasons.append(f"Surrogate characters are not allowed: U+{ord(surrogate[0]):X}.")
    return reasons


def _refused(errors: Errors) -> RefusedError:
    return RefusedError(as_json(400, errors))
