"""Incoming SMS as CHT records: what a text and the form definitions of CHT's app settings make of each other.

`build_record` is the whole of it; the webhook, the spool and the backfill call it with what they hold, and with the
`Rules` that are made of the settings once. A text passes
`form_code` (which form), `parsing` (which format: `labelled`, `compact`, `muvuku`, `j1`), `field_types` (from answers
to values), `assembly` and `validation`, and becomes a `record`. What is odd here is odd in CHT, and is called a quirk
where it is implemented: a site that moves over must get the same records.
"""

from cht_rapidpro.domain.records.javascript import ABSENT
from cht_rapidpro.domain.records.record import build_record
from cht_rapidpro.domain.records.rules import Rules
from cht_rapidpro.domain.records.sms import Sms, refusal
from cht_rapidpro.domain.records.translation import Translations
from cht_rapidpro.domain.records.translation_tables import read_translations

__all__ = ["ABSENT", "Rules", "Sms", "Translations", "build_record", "read_translations", "refusal"]
