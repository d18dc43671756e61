"""Health is computed when asked; whoever watches is woken by every change."""

import asyncio

import pytest

from sluice.errors import UnknownModel
from sluice.health import Condition, Health, Part


class Parts:
    def __init__(self) -> None:
        self.able = True
        self.versions = {("m", ""): True, ("m", "1"): True}

    def capable(self) -> bool:
        return self.able

    def lacking(self) -> list[str]:
        return [] if self.able else ["model n: no worker holds it"]

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


async def test_a_look_wakes_watchers_only_when_it_sees_a_change() -> None:
    vital = [Part("scheduler", "queues", Condition.OK)]
    health = Health(Parts(), vital=(lambda: vital,))
    health.mark_started()
    health.look()
    for condition in (Condition.FAILED, Condition.OK):
        watcher = asyncio.create_task(health.changed())
        await asyncio.sleep(0)
        health.look()
        await asyncio.sleep(0)
        assert not watcher.done()
        vital[0] = Part("scheduler", "queues", condition)
        health.look()
        await watcher


def test_a_failed_vital_part_makes_it_unready_and_no_other_does() -> None:
    vital = [Part("memory", "server", Condition.OK)]
    others = [Part("worker", "cpu:0", Condition.FAILED, "it died")]
    health = Health(Parts(), vital=(lambda: vital,), others=(lambda: others,))
    health.mark_started()
    assert health.ready()
    vital[0] = Part("memory", "server", Condition.DEGRADED, "81 %")
    assert health.ready()
    vital[0] = Part("memory", "server", Condition.FAILED, "97 %")
    assert not health.ready()
    assert health.report().reasons == ["memory server: 97 %"]


def test_the_report_tells_why_it_is_not_ready() -> None:
    parts = Parts()
    shown = [Part("model", "m/1", Condition.OK), Part("model", "n/1", Condition.FAILED, "no worker holds it")]
    health = Health(parts, others=(lambda: shown,))
    assert health.report().reasons == ["the models of the start are still being loaded"]
    health.mark_started()
    report = health.report()
    assert (report.ready, report.reasons, report.parts) == (True, [], shown)
    assert report.uptime >= 0
    parts.able = False
    assert health.report().reasons == ["model n: no worker holds it"]
    health.mark_stopping()
    assert health.report().reasons == ["the server is stopping"]
