"""We send only where the app settings choose us and no other gateway may be sending."""

from typing import Any

import pytest

from cht_rapidpro.domain.settings import AppSettings, choose, concerns_settings, read_settings
from cht_rapidpro.domain.task import Doc, DocId


def settings_doc(sms: object) -> Doc:
    return {"_id": "settings", "settings": {"sms": sms, "locale": "en"}}


def snapshot(sms: object, medic: Doc | None = None) -> AppSettings:
    read = read_settings(settings_doc(sms), medic, [])
    assert isinstance(read, AppSettings)
    return read


NO_SETTINGS: list[Doc] = [{}, {"settings": None}, {"settings": []}, {"settings": "sms"}, {"sms": {}}]
NO_SMS: list[object] = [None, [], "rapidpro", {}, True]
IS_OLD = [
    None,
    {},
    {"version": ""},
    *({"build_info": {"version": v}} for v in ("3.10.2", "3.10.2-beta.1", "2.18.0", "0.4.16")),
    {"deploy_info": {"build": "3.10.2"}},
    {"version": "3.10.2"},
    {"build_info": {"version": "3.10.2"}, "deploy_info": {"build": "4.2.0"}, "version": "5.2.0"},
]
IS_NEW = [
    *({"build_info": {"version": v}} for v in ("3.11.0", "3.11.0-beta.1", "3.11.12", "4.2.0", "5.2.0", "10.0.0")),
    *({"build_info": {"version": v}} for v in ("master", "4.x", "alpha", 5, {"major": 3})),
    {"deploy_info": {"build": "4.2.0"}},
    {"version": "5.2.0"},
    {"deploy_info": {"build": "master"}, "version": "3.10.2"},
    {"build_info": {"version": "4.2.0"}, "deploy_info": {"build": "3.10.2"}, "version": "3.10.2"},
    {"build_info": {"version": ""}, "deploy_info": {"build": "4.2.0"}, "version": "3.10.2"},
    {"build_info": "3.10.2", "deploy_info": [], "version": "4.2.0"},
    {"build_info": {"version": "1234-upgrade-to-2.0.1-of-x"}},
    {"build_info": {"version": "1" * 5000 + ".2.3"}},  # Python makes no number of so many digits
]


@pytest.mark.parametrize(("medic", "sends"), [*((m, True) for m in IS_OLD), *((m, False) for m in IS_NEW)])
def test_rapidpro_means_us_only_where_cht_has_no_gateway_of_its_own(medic: Doc | None, sends: bool) -> None:
    choice = choose(snapshot({"outgoing_service": "rapidpro"}, medic), "auto")
    assert (choice.sends, choice.conflict) == (sends, not sends)
    assert choose(snapshot({"outgoing_service": "rapidpro"}, medic), "rapidpro").sends is sends
    assert choose(snapshot({"outgoing_service": "rapidpro"}, medic), "rapidpro", builtin_gateway_is_off=True).sends
    assert choose(snapshot({"outgoing_service": "cht-rapidpro"}, medic), "auto").sends


def test_a_conflict_says_what_to_do() -> None:
    medic = {"build_info": {"version": "5.2.0"}}
    why = choose(snapshot({"outgoing_service": "rapidpro"}, medic), "auto").why
    for remedy in ("CHT 5.2.0", "sms.outgoing_service to 'cht-rapidpro'", "[cht] builtin_gateway_is_off = true"):
        assert remedy in why


@pytest.mark.parametrize(
    ("service", "configured", "sends"),
    [
        ("cht-rapidpro", "auto", True),
        *((service, "auto", False) for service in ("medic-gateway", "africas-talking", "nepal-doit-sms", "none", "")),
        ("CHT-RapidPro", "auto", False),
        ("rapidpro", "rapidpro", True),
        ("cht-rapidpro", "rapidpro", False),
        ("rapidpro", "cht-rapidpro", False),
        ("my-gateway", "my-gateway", True),
        ("auto", "auto", False),
    ],
)
def test_the_settings_choose_one_gateway(service: str, configured: str, sends: bool) -> None:
    choice = choose(snapshot({"outgoing_service": service}), configured)
    assert (choice.sends, choice.conflict) == (sends, False)
    assert repr(service) in choice.why


@pytest.mark.parametrize("configured", ["auto", "rapidpro"])
@pytest.mark.parametrize("is_off", [True, False])
def test_the_documented_value_beside_a_new_cht_needs_a_word_that_its_gateway_is_off(
    configured: str, is_off: bool
) -> None:
    settings = AppSettings({"sms": {"outgoing_service": "rapidpro"}}, cht_version="5.2.0")
    choice = choose(settings, configured, builtin_gateway_is_off=is_off)
    assert (choice.sends, choice.conflict) == (is_off, not is_off)
    assert is_off or "builtin_gateway_is_off = true" in choice.why


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (None, "the document `settings` does not exist"),
        *((doc, "the document `settings` has no object under the key `settings`") for doc in NO_SETTINGS),
    ],
)
def test_a_broken_settings_document_is_told_and_not_used(settings: Doc | None, complaint: str) -> None:
    assert read_settings(settings, None, []) == complaint


@pytest.mark.parametrize(
    ("sms", "service", "url"),
    [
        ({"outgoing_service": "medic-gateway", "rapidpro": {"url": "https://x"}}, "medic-gateway", "https://x"),
        ({"outgoing_service": 7, "rapidpro": {"url": 7}}, "", ""),
        ({"outgoing_service": ["rapidpro"], "rapidpro": "https://x"}, "", ""),
        ({"rapidpro": {}}, "", ""),
        *((sms, "", "") for sms in NO_SMS),
    ],
)
def test_a_field_of_the_wrong_kind_counts_as_absent(sms: Any, service: str, url: str) -> None:
    read = snapshot(sms)
    assert (read.outgoing_service, read.rapidpro_url) == (service, url)
    assert read.values["locale"] == "en"
    assert choose(read, "auto").sends is False


def test_a_change_of_the_translations_alone_makes_another_snapshot() -> None:
    def read(text: str) -> AppSettings | str:
        translations = {"_id": "messages-en", "type": "translations", "code": "en", "generic": {"sys.empty": text}}
        return read_settings(settings_doc({}), None, [translations])

    assert read("Nothing in it.") == read("Nothing in it.")
    assert read("Nothing in it.") != read("It is empty.")


@pytest.mark.parametrize(
    ("doc_id", "concerns"),
    [
        ("settings", True),
        ("_design/medic", True),
        ("messages-en", True),
        ("messages-pt_BR", True),
        ("messages", False),
        ("messages.en", False),
        ("_design/medic-sms", False),
        ("message-1", False),
    ],
)
def test_which_documents_the_snapshot_is_made_of(doc_id: str, concerns: bool) -> None:
    assert concerns_settings(DocId(doc_id)) == concerns
