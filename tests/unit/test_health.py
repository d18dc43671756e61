"""Health is computed when asked; whoever watches is woken by every change."""

import asyncio

import pytest

from sluice.errors import UnknownModel
from sluice.health import Health


class Parts:
    def __init__(self) -> None:
        self.able = True
        self.versions = {("m", ""): True, ("m", "1"): True}

    def capable(self) -> bool:
        return self.able

    def version_ready(self, name: str, version: str) -> bool:
        if (name, version) not in self.versions:
            raise UnknownModel(name)
        return self.versions[name, version]


def test_ready_needs_the_start_to_be_over_and_able_parts() -> None:
    parts = Parts()
    health = Health(parts)
    assert (health.live(), health.started(), health.ready()) == (True, False, False)
    health.mark_started()
    assert (health.live(), health.started(), health.ready()) == (True, True, True)
    parts.able = False
    assert not health.ready()
    parts.able = True
    assert health.ready()
    health.mark_stopping()
    assert (health.live(), health.started(), health.ready(), health.stopping()) == (True, True, False, True)


def test_a_model_is_as_ready_as_its_version() -> None:
    parts = Parts()
    health = Health(parts)
    assert health.model_ready("m")
    parts.versions["m", "1"] = False
    assert not health.model_ready("m", "1")
    with pytest.raises(UnknownModel):
        health.model_ready("m", "2")
    health.mark_stopping()
    assert not health.model_ready("m")


async def test_every_watcher_is_woken_once() -> None:
    health = Health(Parts())
    watchers = [asyncio.create_task(health.changed()) for _ in range(3)]
    gone = asyncio.create_task(health.changed())
    await asyncio.sleep(0)
    assert not any(watcher.done() for watcher in watchers)
    gone.cancel()
    health.mark_started()
    await asyncio.gather(*watchers)
    again = asyncio.create_task(health.changed())
    await asyncio.sleep(0)
    assert not again.done()
    health.notify()
    await again
