"""The spool for the event loop: only one worker thread uses the file.

A durable write blocks for as long as the disk needs, and a connection of SQLite belongs to one thread. The file is
opened when it is first needed and again after every error, so that a disk that was full or read-only is used again as
soon as it works; until then every call raises OperatorActionRequiredError, and there is one ERROR.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from cht_rapidpro.adapters.spool.file import Counts, Row, SpoolFile
from cht_rapidpro.domain.incoming import InboundMessage
from cht_rapidpro.errors import OperatorActionRequiredError
from cht_rapidpro.telemetry.dependency_health import Health

P = ParamSpec("P")
T = TypeVar("T")


class Spool:
    """To be entered; at the end it waits for the last write and closes the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: SpoolFile | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool")
        self.health = Health("spool")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    async def put(self, arrivals: Sequence[InboundMessage], rejected: str | None = None) -> None:
        """Stores the messages; they are on disk when it returns. `rejected`: why CouchDB refuses them, if known."""
        await self._do(SpoolFile.put, arrivals, rejected)

    async def oldest(self, limit: int) -> list[Row]:
        """Returns the oldest waiting messages, in their order of arrival."""
        return await self._do(SpoolFile.oldest, limit)

    async def under(self, ids: Collection[str]) -> list[InboundMessage]:
        """Returns the messages with one of these ids, in any state."""
        return await self._do(SpoolFile.under, ids)

    async def settle(self, done: Sequence[int], rejected: Mapping[int, str]) -> None:
        """Deletes the messages that CouchDB has stored, and marks those that it refuses as rejected."""
        await self._do(SpoolFile.settle, done, rejected)

    async def counts(self) -> Counts:
        return await self._do(SpoolFile.counts)

    async def clean(self) -> None:
        """Called after the last row: removes deleted texts from the write-ahead log."""
        await self._do(SpoolFile.clean)

    async def checkpoint(self) -> int | None:
        """Returns the position of the backfill, in ms since the epoch."""
        return await self._do(SpoolFile.checkpoint)

    async def keep_last_look(self, ms: int) -> None:
        await self._do(SpoolFile.keep_last_look, ms)

    async def _do(self, method: Callable[Concatenate[SpoolFile, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        def work() -> T:
            if self._file is None:
                self._file = SpoolFile(self._path)
            try:
                return method(self._file, *args, **kwargs)
            except OperatorActionRequiredError:
                self._close()
                raise

        try:
            result = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except OperatorActionRequiredError as error:
            self.health.fails(error)
            raise
        self.health.works()
        return result

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
