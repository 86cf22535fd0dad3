"""The daemon dies at every step of claim, send and settle; a restart, a second instance, or both, go on.

Every scenario has its own database, RapidPro and daemons, and all of them end alike: one broadcast for each message,
tasks that know it, and nothing else in the document changed; so for one message, and for a group that goes out in one
broadcast. Without this table a gap between two writes would be found by the first
power cut.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from demo.couchdb import CouchDBServer, CouchDBStandin
from demo.rapidpro import Fault, Hang
from tests.faults.documents import foreign
from tests.faults.scene import DEADLINE, TEXT, Instance, Scene, open_scene
from tests.faults.wait import eventually

CLAIM, SETTLE = 1, 2  # the writes of an undisturbed message
PEOPLE: Final = (1, 3)
AT_ONCE: Final = 9  # scenarios; each has up to two daemons of 50 MB


@dataclass(frozen=True)
class Step:
    """Where the process dies: what is prepared for it, and how it is seen that it is there."""

    prepare: Callable[[Scene], None]
    is_reached: Callable[[Scene], Awaitable[bool]]


STEPS: Final = {
    "before the claim is stored": Step(lambda at: at.hold(CLAIM), lambda at: at.has_come(CLAIM)),
    "claim stored, not answered": Step(lambda at: at.lose_answer(CLAIM), lambda at: at.is_in("forwarded-to-gateway")),
    "claimed, nothing created": Step(lambda at: at.rapidpro.fail(Fault("POST broadcasts", Hang())), Scene.is_asked),
    "created, not answered": Step(
        lambda at: at.rapidpro.fail(Fault("POST broadcasts", Hang(), after=True)), Scene.is_created
    ),
    "before the settle is stored": Step(lambda at: at.hold(SETTLE), lambda at: at.has_come(SETTLE)),
    "settle stored, not answered": Step(lambda at: at.lose_answer(SETTLE), Scene.is_settled),
}


@dataclass(frozen=True)
class Sequel:
    """Who goes on."""

    restarts: bool
    has_second: bool

    def running(self, scene: Scene) -> list[Instance]:
        return [*[scene.victim] * self.restarts, *[scene.second] * self.has_second]


SEQUELS: Final = {
    "restart": Sequel(restarts=True, has_second=False),
    "second instance": Sequel(restarts=False, has_second=True),
    "restart and second instance": Sequel(restarts=True, has_second=True),
}

EXPECTED: Final = {"sent": "once to each", "states": {"received-by-gateway"}, "refs": "right", "changed": False}


@pytest.fixture
async def durable(tmp_path: Path) -> AsyncIterator[CouchDBServer]:
    """A CouchDB that keeps what it acknowledged."""
    async with CouchDBStandin(data_dir=tmp_path / "couchdb") as standin:
        yield standin


async def test_one_broadcast_wherever_the_process_dies(durable: CouchDBServer, tmp_path: Path) -> None:
    """The whole matrix at once; what is told is where it went wrong, and how."""
    room = asyncio.Semaphore(AT_ONCE)

    async def end(step: Step, sequel: Sequel, people: int) -> dict[str, Any]:
        async with room, open_scene(durable, tmp_path, people) as scene:
            return await _play(step, sequel, scene)

    async with asyncio.TaskGroup() as group:
        ends = {
            f"{step}; {sequel}; {people} people": group.create_task(end(STEPS[step], SEQUELS[sequel], people))
            for step, sequel, people in itertools.product(STEPS, SEQUELS, PEOPLE)
        }
    wrong = [f"{name}: {task.result()}" for name, task in ends.items() if task.result() != EXPECTED]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(ends)} end otherwise than {EXPECTED}:", *wrong])


async def _play(step: Step, sequel: Sequel, scene: Scene) -> dict[str, Any]:
    await _die_at(step, sequel, scene)
    if sequel.restarts:
        await scene.victim.daemon.start()
    with suppress(TimeoutError):  # what the task is in then is told by the comparison
        await eventually(scene.is_settled, DEADLINE, every=0.2)
    for instance in sequel.running(scene):
        await instance.looks_again()
        await instance.daemon.stop()
    return await _outcome(scene)


async def _die_at(step: Step, sequel: Sequel, scene: Scene) -> None:
    dead = asyncio.Event()
    await scene.victim.start()
    if sequel.has_second:
        scene.second.hold_back(dead)
        await scene.second.start()
    step.prepare(scene)
    await scene.medic.put(scene.record)
    await eventually(lambda: step.is_reached(scene), DEADLINE, every=0.05)
    await scene.victim.daemon.kill()
    dead.set()


async def _outcome(scene: Scene) -> dict[str, Any]:
    """In words that are the same for every scenario that ends well."""
    doc = await scene.medic.get(scene.record["_id"])
    sent = sorted((urn, broadcast.text) for broadcast in scene.rapidpro.broadcasts for urn in broadcast.urns)
    urns = {str(broadcast.id): broadcast.urns for broadcast in scene.rapidpro.broadcasts}
    expected = [(_urn(task), TEXT) for task in doc["tasks"]]
    refs = {_urn(task): task.get("gateway_ref") for task in doc["tasks"]}
    return {
        "sent": "once to each" if sent == sorted(expected) else sent,
        "states": {task["state"] for task in doc["tasks"]},
        "refs": "right" if all(urn in urns.get(ref, ()) for urn, ref in refs.items()) else (refs, urns),
        "changed": foreign(doc) != foreign(scene.record),
    }


def _urn(task: dict[str, Any]) -> str:
    return f"tel:+254{task['messages'][0]['to'].removeprefix('0')}"
