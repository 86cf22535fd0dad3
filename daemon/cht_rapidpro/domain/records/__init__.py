"""Incoming SMS as CHT records, by the form definitions of CHT's app settings (docs/sms-records.md).

`build_record` is the entry; webhook, spool and backfill call it. A text passes `form_code` (which form), `parsing`
(which format: `labelled`, `compact`, `muvuku`, `j1`), `field_types` (from answers to values), `assembly` and
`validation`, and becomes a `record`. Surprising behaviour is CHT's own, and is marked "quirk" where it is implemented:
a site that moves over must get the same records.
"""

from cht_rapidpro.domain.records.javascript import ABSENT
from cht_rapidpro.domain.records.record import build_record
from cht_rapidpro.domain.records.sms import Sms, refusal
from cht_rapidpro.domain.records.translation import Translations
from cht_rapidpro.domain.records.translation_tables import read_translations

__all__ = ["ABSENT", "Sms", "Translations", "build_record", "read_translations", "refusal"]
