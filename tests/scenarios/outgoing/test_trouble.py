"""What happens to messages while something is wrong: none fails for our trouble, and all go out later."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from cht_rapidpro.domain.claim import Instance
from demo.database import Database, Doc
from demo.medic import data_record, message, task
from demo.rapidpro import Answer, Fault, HalfBody, Hang, RapidPro, Reset
from demo.rapidpro.faults import Trouble
from tests.conftest import TOKEN
from tests.support.daemon import configure, reaches, running, states
from tests.support.fault_proxy import Gate, until
from tests.support.virtual_time import jump, wall_clock

HTML = "text/html"
OUR_TROUBLE: dict[str, tuple[Answer, str]] = {
    "bad token": (Answer(403, '{"detail":"Invalid token"}'), "check the token"),
    "moved": (Answer(301, "", headers={"Location": "https://example.org/"}), "check [rapidpro] url"),
    "wrong path": (Answer(404, "<html>nothing here</html>", HTML), "check [rapidpro] url"),
    "a proxy's page": (Answer(400, "<html>bad request</html>", HTML), "look at the workspace"),
    "suspended": (Answer(400, '{"non_field_errors":["Sorry, your workspace is suspended."]}'), "your workspace is"),
    "body too large for a proxy": (Answer(413, "<html></html>", HTML), "check [rapidpro] url"),
}


def named(logs: Sequence[Any], event: str) -> list[Any]:
    return [entry for entry in logs if entry["event"] == event]


@pytest.mark.parametrize(("answer", "remedy"), OUR_TROUBLE.values(), ids=OUR_TROUBLE)
async def test_trouble_of_the_whole_workspace_pauses_sending_and_is_logged_once(
    answer: Answer, remedy: str, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """Invariant 4: the messages are given back, nothing fails, and they go out when the trouble is over."""
    records = [data_record(task(message(f"hello {number}"))) for number in range(3)]
    await medic.bulk(records)
    rapidpro.fail(Fault("any", answer, times=None))
    with capture_logs() as logs:
        async with running(configure(gate, medic, rapidpro, TOKEN)):
            await until(lambda: bool(named(logs, "task.released")))
            for record in records:
                doc = await reaches(medic, record["_id"], "pending")
                assert [entry["state"] for entry in doc["tasks"][0]["state_history"]] == ["pending"]
            before = len(rapidpro.calls)
            jump(61)
            await until(lambda: len(rapidpro.calls) > before)
            rapidpro.clear_faults()
            for record in records:
                await reaches(medic, record["_id"], "received-by-gateway", hurry=1)
    assert len(rapidpro.broadcasts) == 3
    (told,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert told["event"] == "dependency.refused"
    assert remedy in told["error"]
    assert rapidpro.url in told["error"]


async def test_a_trial_during_an_outage_is_a_question_that_changes_no_document(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    rapidpro.tokens.clear()
    record = data_record(task(message("hello")))
    await medic.put(record)
    async with running(configure(gate, medic, rapidpro, TOKEN)):
        await until(lambda: len(rapidpro.calls) == 1)
        doc = await reaches(medic, record["_id"], "pending")
        await until(lambda: _hurry() and len(rapidpro.calls) == 5)
        assert [call.target for call in rapidpro.calls] == ["POST broadcasts", *["GET workspace"] * 4]
        assert (await medic.get(record["_id"]))["_rev"] == doc["_rev"]
        rapidpro.tokens.add(TOKEN)
        await reaches(medic, record["_id"], "received-by-gateway", hurry=1)


async def test_rapidpro_away_is_waited_out(gate: Gate, medic: Database) -> None:
    async with RapidPro(TOKEN) as gone:
        url, port = gone.url, int(gone.url.rpartition(":")[2])
    record = data_record(task(message("hello")))
    await medic.put(record)
    with capture_logs() as logs:
        async with running(configure(gate, medic, url, TOKEN)):
            await until(lambda: bool(named(logs, "dependency.lost")))
            await until(lambda: _hurry() and bool(named(logs, "task.released")))
            async with RapidPro(TOKEN, port=port) as back:
                await reaches(medic, record["_id"], "received-by-gateway", hurry=1)
                assert len(back.broadcasts) == 1
    assert [entry["event"] for entry in logs if entry["event"].startswith("dependency")] == [
        "dependency.lost",
        "dependency.recovered",
    ]


def _hurry() -> bool:
    jump(0.5)
    return True


async def test_a_429_closes_the_scope_and_the_claims_are_given_back(gate: Gate, medic: Database) -> None:
    async with RapidPro(TOKEN, requests_per_hour=2, clock=lambda: wall_clock() / 1000) as rapidpro:
        records = await _of_all_ages(medic, 5)
        with capture_logs() as logs:
            async with running(configure(gate, medic, rapidpro, TOKEN, requests_per_hour=None, max_concurrency=1)):
                for hour in (1, 2):
                    await until(lambda hour=hour: len(named(logs, "task.released")) == hour)  # type: ignore[misc]
                    assert len(named(logs, "rapidpro.throttled")) == hour, "it asks no more until RapidPro said so"
                    jump(3600)
                for record in records:
                    await reaches(medic, record["_id"], "received-by-gateway")
    assert [broadcast.text for broadcast in rapidpro.broadcasts] == ["4", "3", "2", "1", "0"]


async def test_a_429_without_a_time_is_waited_out_ever_longer(gate: Gate, medic: Database) -> None:
    start = wall_clock() / 1000  # for this RapidPro an hour is six seconds
    clock = lambda: start + 600 * (wall_clock() / 1000 - start)  # noqa: E731
    async with RapidPro(TOKEN, requests_per_hour=2, clock=clock) as rapidpro:
        rapidpro.throttle.retry_after = False
        records = await _of_all_ages(medic, 5)
        async with running(configure(gate, medic, rapidpro, TOKEN, requests_per_hour=None, max_concurrency=1)):
            for record in records:
                await reaches(medic, record["_id"], "received-by-gateway", hurry=0.1)
    assert [broadcast.text for broadcast in rapidpro.broadcasts] == ["4", "3", "2", "1", "0"]


async def _of_all_ages(medic: Database, count: int) -> list[Doc]:
    """Records whose texts are the ages of their messages in seconds, the youngest first."""
    now = wall_clock()
    records = [data_record(task(message(str(age)), due=now - age * 1000)) for age in range(count)]
    await medic.bulk(records)
    return records


async def test_our_own_budget_keeps_us_from_ever_seeing_a_429(gate: Gate, medic: Database) -> None:
    """A burst goes out at once while there is room; then the oldest due goes first, and nobody waits claimed."""
    async with RapidPro(TOKEN, requests_per_hour=5, clock=lambda: wall_clock() / 1000) as rapidpro:
        records = await _of_all_ages(medic, 8)
        async with running(configure(gate, medic, rapidpro, TOKEN, requests_per_hour=5)):
            for record in records[3:]:
                await reaches(medic, record["_id"], "received-by-gateway")
            assert [states(await medic.get(record["_id"])) for record in records[:3]] == [["pending"]] * 3
            assert sorted(int(broadcast.text) for broadcast in rapidpro.broadcasts) == [3, 4, 5, 6, 7]
            jump(3601)
            for record in records[:3]:
                await reaches(medic, record["_id"], "received-by-gateway")
        assert {call.status for call in rapidpro.calls} == {201}


async def test_a_message_that_a_firewall_refuses_does_not_stop_the_others(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    bad = data_record(task(message("' OR 1=1 --"), due=1))
    rapidpro.fail(Fault("POST broadcasts", Answer(403, "<html>blocked</html>", HTML), times=None, contains="OR 1=1"))
    await medic.put(bad)
    with capture_logs() as logs:
        async with running(configure(gate, medic, rapidpro, TOKEN)):
            await until(lambda: bool(named(logs, "task.released")))
            goods = [data_record(task(message(f"good {number}"))) for number in range(5)]
            await medic.bulk(goods)
            for good in goods:
                await reaches(medic, good["_id"], "received-by-gateway", hurry=1)
            assert states(await medic.get(bad["_id"])) == ["pending"]
            rapidpro.clear_faults()
            await reaches(medic, bad["_id"], "received-by-gateway", hurry=5)
    assert len(rapidpro.broadcasts) == 6


AMBIGUOUS: dict[str, Trouble] = {
    "500": Answer(500, "<html>Server Error</html>", HTML),
    "408": Answer(408, "", HTML),
    "502": Answer(502, "<html>Bad Gateway</html>", HTML),
    "reset": Reset(),
    "half a body": HalfBody(),
    "silence": Hang(300),
}


@pytest.mark.parametrize("trouble", AMBIGUOUS.values(), ids=AMBIGUOUS)
async def test_a_message_in_doubt_stays_claimed_and_waits(
    trouble: Trouble, gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    """It may have been sent: no second broadcast before `settle_time`. The others go on."""
    ambiguous, other = data_record(task(message("ambiguous"))), data_record(task(message("other")))
    rapidpro.fail(Fault("POST broadcasts", trouble, contains="ambiguous"))
    config = configure(gate, medic, rapidpro, TOKEN, timeout=0.5, settle_time=120.0)
    with capture_logs() as logs:
        async with running(config):
            await medic.bulk([ambiguous, other])
            await until(lambda: bool(named(logs, "broadcast.ambiguous")))
            await reaches(medic, other["_id"], "received-by-gateway")
            jump(100)
            await until(lambda: gate.requests.count("GET messages_by_state") >= 2)  # a sweep has seen it, too
            assert states(await medic.get(ambiguous["_id"])) == ["forwarded-to-gateway"]
            assert not named(logs, "broadcast.resent")
            jump(21)
            await reaches(medic, ambiguous["_id"], "received-by-gateway")
    assert len(named(logs, "broadcast.resent")) == 1


async def test_rapidpro_answering_500_to_everything_leaves_few_messages_in_doubt(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    rapidpro.fail(Fault("any", Answer(500, "", HTML), times=None))
    await medic.bulk([data_record(task(message(f"hello {number}"))) for number in range(100)])
    with capture_logs() as logs:
        async with running(configure(gate, medic, rapidpro, TOKEN, max_concurrency=4)):
            await until(lambda: _hurry() and len(named(logs, "task.released")) >= 1)
            assert len(named(logs, "broadcast.ambiguous")) <= 20
    assert len(rapidpro.broadcasts) == 0


async def test_a_claim_of_an_earlier_process_is_not_sent_again_at_once(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    me = Instance("0123456789abcdef" * 2, "test")
    record = data_record(_claimed_by(me, "sent perhaps"))
    await medic.put(record)
    with capture_logs() as logs:
        async with running(configure(gate, medic, rapidpro, TOKEN, settle_time=120.0), me):
            await until(lambda: bool(named(logs, "task.claimed")))
            jump(119)
            other = data_record(task(message("other")))
            await medic.put(other)
            await reaches(medic, other["_id"], "received-by-gateway")
            assert [broadcast.text for broadcast in rapidpro.broadcasts] == ["other"]
            await reaches(medic, record["_id"], "received-by-gateway", hurry=1)
    assert len(rapidpro.broadcasts) == 2


def _claimed_by(owner: Instance, text: str) -> Doc:
    claimed: Doc = task(message(text), state="forwarded-to-gateway", state_details=owner.details)
    claimed["state_history"][0]["state_details"] = owner.details
    return claimed


async def test_another_daemons_claim_is_left_alone_until_its_time_is_over(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    other = Instance("f" * 32, "other")
    theirs = data_record(_claimed_by(other, "theirs"))
    await medic.put(theirs)
    config = configure(gate, medic, rapidpro, TOKEN, claim_timeout=600.0)
    with capture_logs() as logs:
        async with running(config):
            await until(lambda: bool(named(logs, "claim.missed")))
            jump(590)
            mine = data_record(task(message("mine")))
            await medic.put(mine)
            await reaches(medic, mine["_id"], "received-by-gateway")
            assert not [entry for entry in named(logs, "task.claimed") if entry["doc"] == theirs["_id"]]
            await reaches(medic, theirs["_id"], "received-by-gateway", hurry=5)
    assert [broadcast.text for broadcast in rapidpro.broadcasts] == ["mine", "theirs"]


async def test_a_document_that_takes_no_claim_is_skipped_with_one_error(
    gate: Gate, medic: Database, rapidpro: RapidPro, refuse_documents: Callable[[str], Any]
) -> None:
    bad, good = data_record(task(message("never"))), data_record(task(message("sent")))
    await medic.bulk([bad, good])
    await refuse_documents(bad["_id"])
    with capture_logs() as logs:
        async with running(configure(gate, medic, rapidpro, TOKEN)):
            await reaches(medic, good["_id"], "received-by-gateway")
            await until(lambda: bool(named(logs, "claim.rejected")))
            sweeps = gate.requests.count("GET messages_by_state")
            jump(61)
            await until(lambda: gate.requests.count("GET messages_by_state") > sweeps)
    assert [broadcast.text for broadcast in rapidpro.broadcasts] == ["sent"]
    assert len(named(logs, "claim.rejected")) == 1


@pytest.fixture
def refuse_documents(medic: Database) -> Callable[[str], Any]:
    """Lets CouchDB's own validation refuse every further revision of a document."""

    async def refuse(doc_id: str) -> None:
        source = f"function (doc) {{ if (doc._id === '{doc_id}') throw({{forbidden: 'not this one'}}); }}"
        await medic.put({"_id": "_design/strict", "validate_doc_update": source})

    return refuse
