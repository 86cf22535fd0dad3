"""What a run leaves behind where it found something, so that each finding can be traced to its cause.

`documents.json` has every document as it is stored, with all leaves of those that have branches; CouchDB keeps the
revisions before them until it is compacted, and the folder of the stand-in stays. `posts.json` has every request to
RapidPro that was a POST, in the order in which they came, with the daemon that made it and what came of it.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from cht_rapidpro.demo.database import Database, Doc
from cht_rapidpro.demo.rapidpro import Broadcast
from tests.faults.injector import Done, Post
from tests.faults.writer import Model

_AT_ONCE: Final = 200  # documents a request


async def collect(
    folder: Path,
    medic: Database,
    models: Mapping[str, Model],
    broadcasts: Sequence[Broadcast],
    posts: Sequence[Post],
    faults: Sequence[Done],
) -> None:
    """Writes the files into `folder`; times are seconds since the epoch, of a clock that is right."""
    found = {
        "models": {doc_id: asdict(model) for doc_id, model in models.items()},
        "documents": await _leaves(medic, list(models)),
        "broadcasts": [
            {"id": each.id, "created_on": each.created_on.timestamp(), "urns": each.urns, "text": each.text}
            for each in broadcasts
        ],
        "posts": [asdict(post) for post in posts],
        "faults": [asdict(fault) for fault in faults],
    }
    await asyncio.to_thread(_write, folder, found)


def _write(folder: Path, found: Mapping[str, Any]) -> None:
    for name, content in found.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False))


async def _leaves(medic: Database, ids: Sequence[str]) -> dict[str, list[Doc]]:
    """Every leaf of each document, the winning one first."""
    found: dict[str, list[Doc]] = {}
    for start in range(0, len(ids), _AT_ONCE):
        body = {"keys": ids[start : start + _AT_ONCE]}
        answer = await medic.request("POST", "_all_docs", body=body, include_docs="true", conflicts="true")
        for row in answer["rows"]:
            if (doc := row.get("doc")) is None:
                continue
            losing = [await medic.request("GET", doc["_id"], rev=rev) for rev in doc.get("_conflicts", ())]
            found[doc["_id"]] = [doc, *losing]
    return found
