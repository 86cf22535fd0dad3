"""`cht-rapidpro spool …`: shows an operator the messages that wait, and retries or drops them.

The commands work on the file itself, also while the daemon runs. `list` masks numbers and shows only the length of
texts, because other people may see the screen; `show` prints one message completely.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from cht_rapidpro.adapters.spool.file import Row, SpoolFile
from cht_rapidpro.domain.incoming import doc_id
from cht_rapidpro.domain.task import timestamp
from cht_rapidpro.errors import PermanentError
from cht_rapidpro.telemetry.logs import masked

_PAGE: Final = 500
_ALL: Final = "all"


def run(action: str, path: Path, numbers: Sequence[str], *, is_sure: bool) -> int:
    """Returns the exit code: 1 if a named message does not exist or was kept. Raises OperatorActionRequiredError,
    PermanentError.

    `is_sure`: a message that still waits is dropped without a question, although it would be stored later.
    """
    if not path.exists():
        raise PermanentError(
            f"there is no spool at {path}: nothing was ever spooled, or the service has another state directory"
            " (STATE_DIRECTORY)"
        )
    file = SpoolFile(path)
    try:
        if action == "list":
            return _list(file)
        chosen = _chosen(file, action, numbers)
        return max([_act(file, action, number, is_sure=is_sure) for number in chosen], default=0)
    finally:
        file.close()


def _list(file: SpoolFile) -> int:
    counts = file.counts()
    print(f"{counts.waiting} waiting, {counts.rejected} rejected")
    for row in _rows(file):
        state = f"rejected: {masked(row.rejected)}" if row.rejected else "waiting"
        sender, length = masked(str(row.arrival.sender)), len(str(row.arrival.content))
        print(f"{row.number:>8}  {timestamp(row.arrival.at)}  {sender:>10}  {length:>4} characters  {state}")
    return 0


def _rows(file: SpoolFile) -> Iterator[Row]:
    last = 0
    while rows := file.all_after(last, _PAGE):
        yield from rows
        last = rows[-1].number


def _chosen(file: SpoolFile, action: str, numbers: Sequence[str]) -> list[int]:
    """Returns the numbers; `retry all` means every rejected message. There is no `drop all`."""
    if action == "retry" and list(numbers) == [_ALL]:
        return [row.number for row in _rows(file) if row.rejected]
    bad = next((text for text in numbers if not (text.isascii() and text.isdigit() and len(text) < 19)), None)
    if bad is not None:
        raise PermanentError(f"{bad!r} is not the number of a message: see `cht-rapidpro spool list`")
    return [int(text) for text in numbers]


def _act(file: SpoolFile, action: str, number: int, *, is_sure: bool) -> int:
    row = file.find(number)
    if row is None:
        print(f"{number}: there is no such message")
        return 1
    match action:
        case "show":
            print(json.dumps(_whole(row), indent=2, ensure_ascii=False))
        case "retry":
            done = file.retry(number)
            print(f"{number}: {'waits again' if done else 'waits already'}")
        case _ if not (row.rejected or is_sure or _confirmed(number)):
            print(f"{number}: kept: it waits for CouchDB and will be stored; --yes drops it anyway")
            return 1
        case _:
            file.drop(number)
            print(f"{number}: dropped")
    return 0


def _confirmed(number: int) -> bool:
    """Asks a person at a terminal; a script uses --yes."""
    if not sys.stdin.isatty():
        return False
    return input(f"{number} waits for CouchDB and would be stored. Delete it for good? [y/N]  ") in ("y", "Y")


def _whole(row: Row) -> dict[str, object]:
    state = {"state": "rejected", "reason": row.rejected} if row.rejected else {"state": "waiting"}
    arrival = asdict(row.arrival) | {"at": timestamp(row.arrival.at)}
    return {"number": row.number, **state, **arrival, "doc": doc_id(row.arrival.id, row.arrival.at)}
