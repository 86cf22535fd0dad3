"""The file in which incoming messages wait while CouchDB cannot take them.

SQLite with a write-ahead log and `synchronous=FULL`: when `put` has returned, the batch is on the disk, and a kill at
any point leaves the whole batch or nothing of it. The texts are about people's health: only the owner can read the
file, and deleted rows are overwritten. The daemon's worker thread (spool.py) and the `spool` commands each open the
file themselves.
"""

import json
import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cht_rapidpro.domain.incoming import Id, InboundMessage
from cht_rapidpro.errors import OperatorActionRequiredError

_BUSY_MS: Final = 3000  # wait for the lock that a command may hold for a moment
_LAST_LOOK: Final = "last_look"
_VERSION: Final = 1
# AUTOINCREMENT: a number is never used again, so that a command cannot find another message under it.
_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS message (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL, sender TEXT NOT NULL, content TEXT NOT NULL,
  at INTEGER NOT NULL,
  rejected TEXT
);
CREATE INDEX IF NOT EXISTS waiting ON message (number) WHERE rejected IS NULL;
CREATE TABLE IF NOT EXISTS mark (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
COMMIT;
"""
_COLUMNS: Final = "number, id, sender, content, at, rejected"


@dataclass(frozen=True, slots=True)
class Row:
    """A message in the spool; `rejected`: why CouchDB refuses it, "" while it waits."""

    number: int
    arrival: InboundMessage
    rejected: str


@dataclass(frozen=True, slots=True)
class Counts:
    waiting: int
    rejected: int


class SpoolFile:
    """The open file. Every method blocks and may raise OperatorActionRequiredError; after that the file has to be
    opened again.
    """

    def __init__(self, path: Path) -> None:
        """Creates the file if it does not exist."""
        self.path = path
        with self._edge():
            _make_private(path)
            self._connection = sqlite3.connect(path, timeout=_BUSY_MS / 1000, isolation_level=None)
        try:
            with self._edge():
                self._prepare()
        except OperatorActionRequiredError:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
            self._connection.execute(f"PRAGMA {pragma}").fetchall()
        [[version]] = self._connection.execute("PRAGMA user_version")
        if version > _VERSION:
            raise OperatorActionRequiredError(
                f"the spool {self.path} is of a newer version of cht-rapidpro", about="spool"
            )
        if version < _VERSION:
            self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        self._connection.close()

    def put(self, arrivals: Sequence[InboundMessage], rejected: str | None = None) -> None:
        """Adds the messages in their order, all of them or none. `rejected`: why CouchDB has refused them already."""
        rows = [
            (json.dumps(each.id), json.dumps(each.sender), _kept(each.content), each.at, rejected) for each in arrivals
        ]
        with self._transaction():
            self._connection.executemany(
                "INSERT INTO message (id, sender, content, at, rejected) VALUES (?, ?, ?, ?, ?)", rows
            )

    def oldest(self, limit: int) -> list[Row]:
        """Returns the oldest waiting messages, in their order of arrival."""
        return self._select("WHERE rejected IS NULL ORDER BY number LIMIT ?", limit)

    def all_after(self, number: int, limit: int) -> list[Row]:
        """Returns messages in any state, in their order, beginning after `number`."""
        return self._select("WHERE number > ? ORDER BY number LIMIT ?", number, limit)

    def under(self, ids: Collection[str]) -> list[InboundMessage]:
        """Returns the messages with one of these ids, in any state; at most 32,766 ids, SQLite's limit."""
        marks = ", ".join("?" * len(ids))
        return [row.arrival for row in self._select(f"WHERE id IN ({marks})", *map(json.dumps, ids))]

    def find(self, number: int) -> Row | None:
        return next(iter(self._select("WHERE number = ?", number)), None)

    def _select(self, where: str, *values: int | str) -> list[Row]:
        with self._edge():
            found = self._connection.execute(f"SELECT {_COLUMNS} FROM message {where}", values)  # noqa: S608 - our own words
            return [_row(*columns) for columns in found]

    def settle(self, done: Sequence[int], rejected: Mapping[int, str]) -> None:
        """Deletes the messages that CouchDB has stored, and marks those that it refuses with the reason."""
        with self._transaction():
            self._connection.executemany("DELETE FROM message WHERE number = ?", [(number,) for number in done])
            self._connection.executemany(
                "UPDATE message SET rejected = ? WHERE number = ?", [(why, number) for number, why in rejected.items()]
            )

    def retry(self, number: int) -> bool:
        """Lets a rejected message wait again; False if there is none."""
        return self._change("UPDATE message SET rejected = NULL WHERE number = ? AND rejected IS NOT NULL", number)

    def drop(self, number: int) -> bool:
        """Deletes a message for good; False if there is none."""
        return self._change("DELETE FROM message WHERE number = ?", number)

    def _change(self, statement: str, number: int) -> bool:
        with self._transaction():
            return self._connection.execute(statement, (number,)).rowcount > 0

    def counts(self) -> Counts:
        with self._edge():
            [[rows, rejected]] = self._connection.execute("SELECT count(*), count(rejected) FROM message")
            return Counts(rows - rejected, rejected)

    def clean(self) -> None:
        """Empties the write-ahead log, where deleted texts would stay readable for a while."""
        with self._edge():
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def checkpoint(self) -> int | None:
        with self._edge():
            found = self._connection.execute("SELECT value FROM mark WHERE name = ?", (_LAST_LOOK,)).fetchone()
            return None if found is None else int(found[0])

    def keep_last_look(self, ms: int) -> None:
        with self._transaction():
            self._connection.execute("INSERT OR REPLACE INTO mark VALUES (?, ?)", (_LAST_LOOK, ms))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._edge():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # after some errors SQLite has rolled back already
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _edge(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError) as error:
            why = f"the spool {self.path} does not work: {error}"
            raise OperatorActionRequiredError(
                f"{why}; check the disk and the folder's rights", about="spool"
            ) from error


def _make_private(path: Path) -> None:
    """SQLite gives its own files beside this one the same rights."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)


def _kept(content: Id) -> str | bytes:
    """Stores a text as it is, and a number as JSON in a BLOB, which SQLite does not convert."""
    return content if isinstance(content, str) else json.dumps(content).encode()


def _row(number: int, given: str, sender: str, content: str | bytes, at: int, rejected: str | None) -> Row:
    read = content if isinstance(content, str) else json.loads(content)
    return Row(number, InboundMessage(json.loads(given), json.loads(sender), read, at), rejected or "")
