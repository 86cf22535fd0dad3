"""One line of the simulator's call log.

Tests prove with it what reached RapidPro, also when the answer never came back. A call is logged when its
body has been read, and completed when it is answered: `status` None means that nothing was answered (yet, or
ever).
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class Call:
    """`time` is seconds of the simulator's clock; `broadcast` the id of the one that this call created."""

    method: str
    path: str
    query: Mapping[str, str]
    time: float
    status: int | None = None
    scope: str | None = None
    broadcast: int | None = None
    faulty: bool = False

    @property
    def target(self) -> str:
        """What the call is about, such as `POST broadcasts`."""
        return f"{self.method} {self.path.rpartition('/')[2].removesuffix('.json')}"
