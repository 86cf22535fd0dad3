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
from typing import Any

from demo.database import Doc
from demo.rapidpro import Broadcast
from tests.faults.injector import Done, Post
from tests.faults.writer import Model


async def collect(
    folder: Path,
    models: Mapping[str, Model],
    leaves: Mapping[str, Sequence[Doc]],
    broadcasts: Sequence[Broadcast],
    posts: Sequence[Post],
    faults: Sequence[Done],
) -> None:
    """Writes the files into `folder`; times are seconds since the epoch, of a clock that is right."""
    found = {
        "models": {doc_id: asdict(model) for doc_id, model in models.items()},
        "documents": leaves,
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
