"""The app settings as they are read once: one reading for all texts, a new one for new settings, nothing of texts."""

import tracemalloc

from cht_rapidpro.domain.records import Rules, Sms, build_record
from cht_rapidpro.domain.settings import AppSettings
from tests.domain.records.reports import NOW, SENDER, TEXTS, app_settings, field


def fields(settings: AppSettings) -> object:
    return build_record(settings.rules, Sms(SENDER, "T x 5", "17"), NOW)["fields"]


def test_a_snapshot_is_read_once_and_each_has_its_own() -> None:
    """Else every message would cost a reading, or a form that was changed would be filled as it was before."""
    before = AppSettings(app_settings({"a": field("string")}), "5.2.0", TEXTS)
    after = AppSettings(app_settings({"b": field("string")}), "5.2.0", TEXTS)
    assert before.rules is before.rules
    assert before.rules.find_form("T") is before.rules.find_form("T")
    assert (fields(before), fields(after), fields(before)) == ({"a": "x 5"}, {"b": "x 5"}, {"a": "x 5"})


def test_a_snapshot_equals_one_whose_rules_were_not_read_yet() -> None:
    """A reload that finds the same settings changes nothing, whatever has come in between."""
    one, other = (AppSettings(app_settings({"a": field()}), "5.2.0", TEXTS) for _ in range(2))
    fields(one)
    assert one == other


def test_unknown_words_are_not_remembered() -> None:
    """Invariant 6: the first word of any SMS is looked up as a form."""
    rules = Rules(app_settings({"a": field()}), TEXTS)
    rules.find_form("T")
    tracemalloc.start()
    try:
        for number in range(20_000):
            assert rules.find_form(f"WORD{number}") is None
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 20_000
