"""What a workspace holds, as tests see it.

Entities, not values: messages and broadcasts change their status in place, and a test may keep one and watch
it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import getrandbits
from typing import Literal
from uuid import UUID

ContactStatus = Literal["active", "blocked", "stopped"]


@dataclass(slots=True, eq=False)
class Contact:
    """`urns` are normalised, the preferred one first."""

    uuid: str
    urns: tuple[str, ...]
    name: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    status: ContactStatus = "active"


@dataclass(slots=True, eq=False)
class Broadcast:
    """`urns` normalised, `text` as stored: trimmed, not evaluated."""

    id: int
    uuid: str
    urns: tuple[str, ...]
    text: str
    created_on: datetime
    status: str = "completed"


@dataclass(slots=True, eq=False)
class Message:
    """`text` is what the phone shows, `broadcast` an id, `flow` the name of the flow that handled it."""

    id: int
    uuid: str
    broadcast: int | None
    contact: Contact
    urn: str
    text: str
    direction: Literal["in", "out"]
    status: str
    created_on: datetime
    modified_on: datetime
    sent_on: datetime | None = None
    flow: str | None = None


@dataclass(slots=True, eq=False)
class Run:
    """`inputs`: the messages that it took, oldest first; `exited_on` None: it waits for another one."""

    id: int
    uuid: str
    flow: str
    contact: Contact
    created_on: datetime
    modified_on: datetime
    exited_on: datetime | None = None
    inputs: list[Message] = field(default_factory=list)


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def uuid7(seconds: float) -> str:
    """A time-ordered UUID, as current RapidPro versions make them."""
    stamp = int(seconds * 1000) << 80
    return str(UUID(int=stamp | 7 << 76 | getrandbits(12) << 64 | 2 << 62 | getrandbits(62)))
