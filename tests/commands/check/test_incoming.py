"""The check of the way in: what the flow sends, and whether archived messages could come back."""

import pytest

from cht_rapidpro.adapters.couchdb.inspection import Inspection
from cht_rapidpro.commands.check.finding import Mark
from cht_rapidpro.commands.check.incoming import check_archive, check_miswired
from tests.support.stub_server import Reply, by_name, couchdb_at, scripted


@pytest.mark.parametrize(("status", "marks"), [(200, [Mark.GOOD]), (401, [Mark.BAD]), (403, [Mark.BAD]), (404, [])])
async def test_an_archive_has_to_be_readable_where_there_is_one(status: int, marks: list[Mark]) -> None:
    archive = by_name({"GET medic-archive": Reply({"error": "said", "reason": "by CouchDB"}, status)})
    async with scripted(archive) as server, Inspection(couchdb_at(server)) as couchdb:
        found = [each async for each in check_archive(couchdb, "medic")]
    assert [each.mark for each in found] == marks
    assert all("medic-archive" in each.remedy for each in found if each.mark is Mark.BAD)


def test_check_reports_the_wrong_fields_that_the_daemon_has_seen() -> None:
    told = [{"field": "from", "sends": "@urns.tel, which RapidPro has not evaluated", "times": 3, "seconds_ago": 9}]
    [found] = check_miswired(told)
    assert (found.mark, found.about) == (Mark.BAD, "incoming.flow")
    assert "a wrong `from`: @urns.tel, which RapidPro has not evaluated (3 times since" in found.says
    assert list(check_miswired(None)) == list(check_miswired([])) == []
