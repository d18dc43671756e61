"""Warms a version up, and finds what its batches cost: known from an earlier life, if still true, or else measured."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from sluice.errors import InvalidRequest, ModelFailed
from sluice.scheduler.cost import Cost
from sluice.scheduler.entry import Work
from sluice.scheduler.policy import Bounds
from sluice.spec import ModelSpec
from sluice.store import learned
from sluice.store.repository import VersionFiles
from sluice.workers import devices, profiling
from sluice.workers.worker import Worker

log = logging.getLogger("sluice.catalog")

# The target when nobody sets one: so many times what the longest request takes alone, and at least what a person
# notices.
TARGET_MULTIPLE = 10
LEAST_TARGET = 0.1


def circumstances(files: VersionFiles, worker: Worker) -> learned.Circumstances:
    """What a learned cost depends on beside the traffic."""
    device = worker.device
    try:
        size = files.path.stat().st_size
    except OSError:
        size = 0
    return {
        "device": device.model,
        "threads": device.threads,
        "runtime": devices.runtime(files.backend, device.kind),
        "file": files.path.name,
        "size": size,
    }


@dataclass(frozen=True, slots=True)
class Asked:
    """A version whose cost is wanted, and the worker to measure it on."""

    worker: Worker
    key: str
    spec: ModelSpec
    bounds: Bounds
    longest: int


async def known(asked: Asked, memory: Path, under: learned.Circumstances) -> Cost | None:
    """What was learned in an earlier life, under the same circumstances, and is still true."""
    spec = asked.spec
    state = await asyncio.to_thread(learned.read, memory, under)
    if state is None:
        return None
    try:
        cost = Cost.restore(state)
    except ValueError as error:
        log.warning("%s cannot be used (%s); learning anew", memory, error)
        return None
    if await profiling.credible(cost, asked.worker, asked.key, spec, asked.longest):
        log.info("what batches of '%s' version %s cost is known from before", spec.name, spec.version)
        return cost
    log.info("%s no longer tells the truth; learning anew", memory)
    return None


async def borrowed(asked: Asked, like: Cost) -> Cost | None:
    """What is known of another version, if a few runs say that it is true of this one as well: for when there is no
    time to measure."""
    try:
        cost = Cost.restore(like.state())
    except ValueError:  # nothing was ever measured of it
        return None
    if not await profiling.credible(cost, asked.worker, asked.key, asked.spec, asked.longest):
        return None
    log.info("what batches of '%s' version %s cost is as before", asked.spec.name, asked.spec.version)
    return cost


async def measured(asked: Asked) -> Cost:
    return await profiling.profile(asked.worker, asked.key, asked.spec, asked.bounds, asked.longest)


def usual_target(cost: Cost, spec: ModelSpec, longest: int) -> float:
    """Two digits, so that it is the same at most starts and easy to say."""
    alone = cost.seconds(1, longest if spec.has_sequence else 1)
    return max(LEAST_TARGET, float(f"{TARGET_MULTIPLE * alone:.2g}"))


@dataclass(slots=True)
class Warmed:
    """How a version's warm-up went on one worker."""

    trouble: str = ""  # the first failure that is the model's own, not that of input made up here
    passed: Work | None = None  # the first that was computed well, which is the smallest


async def warm(worker: Worker, key: str, spec: ModelSpec, works: list[Work]) -> Warmed:
    """Run them all."""
    warmed = Warmed()
    for work in works:
        try:
            await worker.trial(key, spec, [work])
        except InvalidRequest as error:
            log.info("model '%s' version %s refuses made-up input: %s", spec.name, spec.version, error.message)
        except ModelFailed as error:
            warmed.trouble = warmed.trouble or f"a warm-up run failed: {error.message}"
        else:
            warmed.passed = warmed.passed or work
    return warmed
