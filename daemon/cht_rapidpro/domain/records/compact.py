"""Compact TextForms: `CODE value value "value of several words"`, the values in the order of the fields."""

import re
from typing import Final

from cht_rapidpro.domain.records.answers import Answers
from cht_rapidpro.domain.records.characters import NOT_LT_CLASS, WS
from cht_rapidpro.domain.records.form import Form

_WORD: Final = f'[^"{WS}]+'
_TOKEN: Final = re.compile(f'"[^"]+"|{_WORD}')
_WIDE_TOKEN: Final = re.compile(f'"{NOT_LT_CLASS}+"|{_WORD}')


def parse_compact(form: Form, body: str) -> Answers:
    """The tokens as the values of the fields; surplus ones are dropped without an error.

    Quirks: a quotation mark without its partner is dropped, and `a"b"c` is three tokens. CHT crashes where the body
    holds nothing but quotation marks; here nothing is answered then.
    """
    tokens = _TOKEN.findall(body)
    if len(tokens) > len(form.fields):  # perhaps quotes inside quotes
        tokens = _WIDE_TOKEN.findall(body)
    if form.fields and form.fields[-1].type == "string":  # the last field takes the rest of the text
        place = len(form.fields) - 1
        tokens[place:] = [" ".join(tokens[place:])] if tokens[place:] else []
    keys = [field.key for field in form.fields]
    return Answers({key: _unquote(token) for key, token in zip(keys, tokens, strict=False)})


def _unquote(token: str) -> str:
    return token[1:-1] if len(token) > 1 and token[0] == token[-1] == '"' else token
