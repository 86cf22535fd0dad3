"""The app settings while the daemon runs: swapped whole, kept while they are invalid, and who may send."""

from collections.abc import Sequence
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from demo.database import Database, Doc
from demo.medic import data_record, message, task
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.support.daemon import configure, reaches, running, states
from tests.support.fault_proxy import Gate, until


def named(logs: Sequence[Any], event: str) -> list[Any]:
    return [entry for entry in logs if entry["event"] == event]


async def _choose(medic: Database, **sms: object) -> None:
    await medic.edit("settings", lambda doc: {**doc, "settings": {**doc["settings"], "sms": sms}})


async def _send(medic: Database, text: str) -> None:
    record = data_record(task(message(text)))
    await medic.put(record)
    await reaches(medic, record["_id"], "received-by-gateway")


# -- two gateways -----------------------------------------------------------------------------------------------------

# What `_design/medic` says about its CHT, as the releases of these lines do.
_AUTHOR: Final = {"namespace": "medic", "application": "medic", "author": "grunt on ci", "time": "2020-11-18T09:12:00Z"}
_DEPLOYED: Final = {"user": "horticulturalist cli", "timestamp": "2020-11-20T09:12:00Z"}
OLD: Final[dict[str, Doc]] = {
    "3.10": {
        "version": "3.10.2",
        "build_info": {**_AUTHOR, "version": "3.10.2"},
        "deploy_info": {**_DEPLOYED, "build": "medic:medic:3.10.2"},
    },
    "3.10, before build_info": {"deploy_info": {**_DEPLOYED, "build": "medic:medic:3.10.0"}},
    "2.18": {"version": "2.18.0"},
    "none": {},
}
NEW: Final[dict[str, Doc]] = {
    "3.11": {
        "version": "3.11.0",
        "build_info": {**_AUTHOR, "version": "3.11.0"},
        "deploy_info": {**_DEPLOYED, "build": "medic:medic:3.11.0"},
    },
    "3.17": {"build_info": {**_AUTHOR, "version": "3.17.1"}},
    "4.x": {
        "build_info": {**_AUTHOR, "version": "4.2.4", "base_version": "4.2.4", "build": "medic:medic:4.2.4"},
        "deploy_info": {**_DEPLOYED, "build": "medic:medic:4.2.4"},
    },
    "4.x of a branch": {"build_info": {**_AUTHOR, "version": "8213-fix-gateway.5163", "base_version": "4.1.0"}},
    "5.x": {
        "build_info": {**_AUTHOR, "version": "5.2.0", "base_version": "5.2.0", "schema_version": 2},
        "deploy_info": {**_DEPLOYED, "version": "5.2.0"},
    },
}


async def _make_it(medic: Database, says: Doc) -> None:
    """Lets `_design/medic` be of that CHT."""
    await medic.edit(
        "_design/medic", lambda doc: {"_id": doc["_id"], "_rev": doc["_rev"], "views": doc["views"], **says}
    )


@pytest.mark.parametrize("says", OLD.values(), ids=OLD)
async def test_before_cht_had_a_gateway_the_documented_value_means_us(
    says: Doc, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    await _make_it(medic, says)
    await _choose(medic, outgoing_service="rapidpro")
    async with running(configure(gate, medic, rapidpro, TOKEN)):
        await _send(medic, "hello")


@pytest.mark.parametrize("says", NEW.values(), ids=NEW)
async def test_a_cht_with_a_gateway_of_its_own_is_left_alone_until_it_chooses_cht_rapidpro(
    says: Doc, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    await _make_it(medic, says)
    await _choose(medic, outgoing_service="rapidpro")
    record = data_record(task(message("hello")))
    await medic.put(record)
    with capture_logs() as logs:
        async with running(configure(gate, medic, rapidpro, TOKEN)):
            await until(lambda: bool(named(logs, "sending.conflicted")))
            assert states(await medic.get(record["_id"])) == ["pending"]
            await _choose(medic, outgoing_service="cht-rapidpro")
            await reaches(medic, record["_id"], "received-by-gateway", hurry=1)
    (conflict,) = named(logs, "sending.conflicted")
    assert conflict["log_level"] == "error"
    assert "set sms.outgoing_service to 'cht-rapidpro'" in conflict["why"]
    assert "[cht] builtin_gateway_is_off = true" in conflict["why"]
    assert len(named(logs, "sending.enabled")) == 1


async def test_an_upgrade_of_cht_while_running_stops_the_sending(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    await _make_it(medic, OLD["3.10"])
    await _choose(medic, outgoing_service="rapidpro")
    with capture_logs() as logs:
        async with running(configure(gate, medic, rapidpro, TOKEN)):
            await _send(medic, "before")
            await _make_it(medic, NEW["4.x"])
            await until(lambda: bool(named(logs, "sending.conflicted")))
            record = data_record(task(message("after")))
            await medic.put(record)
            await _choose(medic, outgoing_service="medic-gateway")
            await until(lambda: bool(named(logs, "sending.disabled")))
            assert states(await medic.get(record["_id"])) == ["pending"]
    assert [broadcast.text for broadcast in rapidpro.broadcasts] == ["before"]


async def test_without_any_design_document_of_cht_s_it_is_told_what_is_missing(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    await medic.delete("_design/medic")
    with capture_logs() as logs:
        async with running(configure(gate, medic, rapidpro, TOKEN)):
            await until(lambda: bool(named(logs, "dependency.refused")))
            await _send(medic, "what the feed tells of still goes out")
    assert "a view of CHT's is missing" in named(logs, "dependency.refused")[0]["error"]


# -- an invalid document ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [{}, {"settings": []}, {"settings": "sms"}])
async def test_while_the_document_is_invalid_the_last_good_one_stays(
    broken: Doc, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    good = await medic.get("settings")
    with capture_logs() as logs:
        async with running(configure(gate, medic, rapidpro, TOKEN)):
            await _send(medic, "before")
            for _ in range(2):
                await medic.edit("settings", lambda doc: {"_id": doc["_id"], "_rev": doc["_rev"], **broken})
                await until(lambda: bool(named(logs, "settings.invalid")))
            await _send(medic, "meanwhile")
            await medic.edit("settings", lambda doc: {**good, "_rev": doc["_rev"]})
            await _send(medic, "after")
            await medic.delete("settings")
            await until(lambda: len(named(logs, "settings.invalid")) == 2)
            await _send(medic, "deleted")
    first, second = named(logs, "settings.invalid")
    assert first["log_level"] == second["log_level"] == "error"
    assert "no object under the key `settings`: the last good settings stay in force" in first["problem"]
    assert "the document `settings` does not exist: the last good settings stay in force" in second["problem"]


# -- RapidPro's address -----------------------------------------------------------------------------------------------


async def test_the_address_of_the_app_settings_is_used_where_the_configuration_has_none(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    await _choose(medic, outgoing_service="cht-rapidpro", rapidpro={"url": "http://10.0.0.1"})
    with capture_logs() as logs:
        async with running(configure(gate, medic, "", TOKEN)):
            await until(lambda: bool(named(logs, "settings.invalid")))
            await _choose(medic, outgoing_service="cht-rapidpro", rapidpro={"url": rapidpro.url + "/"})
            await _send(medic, "hello")
    (told,) = named(logs, "settings.invalid")
    assert told["problem"].startswith("sms.rapidpro.url in the app settings: found")
    assert "nothing is sent" in told["problem"]
    assert not named(logs, "rapidpro.host_changed")


async def test_a_change_of_the_host_while_running_is_an_error_that_says_what_it_means(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    async with RapidPro(TOKEN) as other:
        await _choose(medic, outgoing_service="cht-rapidpro", rapidpro={"url": rapidpro.url})
        with capture_logs() as logs:
            async with running(configure(gate, medic, "", TOKEN)):
                await _send(medic, "to the first")
                await _choose(medic, outgoing_service="cht-rapidpro", rapidpro={"url": other.url})
                await until(lambda: bool(named(logs, "rapidpro.host_changed")))
                await _send(medic, "to the second")
    assert [broadcast.text for broadcast in other.broadcasts] == ["to the second"]
    (told,) = named(logs, "rapidpro.host_changed")
    assert (told["log_level"], told["before"], told["now"]) == (
        "error",
        rapidpro.url.removeprefix("http://"),
        other.url.removeprefix("http://"),
    )
    for meaning in ("the token goes to the new host", "will not be found", "[rapidpro] url"):
        assert meaning in told["means"]


async def test_a_pinned_address_is_not_moved_by_the_app_settings(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    async with RapidPro(TOKEN) as other:
        with capture_logs() as logs:
            async with running(configure(gate, medic, rapidpro, TOKEN)):
                await _choose(medic, outgoing_service="cht-rapidpro", rapidpro={"url": other.url})
                await _send(medic, "hello")
                await _choose(medic, outgoing_service="none", rapidpro={"url": other.url})
                await until(lambda: bool(named(logs, "sending.disabled")))
        assert not other.calls
    assert not named(logs, "rapidpro.host_changed")
