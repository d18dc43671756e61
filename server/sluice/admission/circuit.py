"""A live version's circuit: what becomes of its requests opens it, and probes of its own close it again.

Requests that fail only raise a doubt: a client that sends nothing else must not take the version from all others. A
probe decides. While the circuit is open no client's request reaches the version, so a task that lives from the doubt
to the closing computes something tiny on a worker that holds it. The end of the pause wakes the task; it ends when the
circuit is closed or the version is gone.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from sluice.admission.breaker import Breaker, Phase, Rule
from sluice.errors import CircuitOpen, InternalError, InvalidRequest, ModelFailed, SluiceError, WorkerLost
from sluice.scheduler.entry import Work
from sluice.scheduler.loop import Lane
from sluice.spec import ModelSpec

log = logging.getLogger("sluice.circuit")

# What speaks against a version; everything else is the client's fault, or a matter of how much there is to do.
_FAILURES = (ModelFailed, WorkerLost, InternalError)
# A worker that has no time for something tiny in this many seconds is no proof that the version is well.
_PROBE_PATIENCE = 30.0
_RULE = Rule(doubt=True)
# As metrics show it: the higher the worse.
_NUMBERS = {Phase.CLOSED: 0, Phase.IN_DOUBT: 0, Phase.HALF_OPEN: 1, Phase.OPEN: 2}


class Prober(Protocol):
    """A worker as a probe sees it."""

    def holds(self, key: str) -> bool:
        """Whether it could compute the version now."""

    async def trial(self, key: str, spec: ModelSpec, works: Sequence[Work]) -> object:
        """Compute works outside of any queue, as one batch; raises what went wrong."""


class Circuit:
    """Counts the outcomes of one version's requests, and refuses them while it is open."""

    def __init__(
        self,
        lane: Lane,
        workers: Sequence[Prober],
        tiny: Work | None,  # what computed well at warm-up; None: nothing made up did, so only requests can tell
        refuse: Callable[[SluiceError], None],  # answers everything that waits
        changed: Callable[[], None],
        rule: Rule = _RULE,
    ) -> None:
        self._lane = lane
        self._workers = workers
        self._tiny = tiny
        self._refuse = refuse
        self._changed = changed
        self._rule = rule
        self._breaker = Breaker(rule if tiny is not None else replace(rule, doubt=False))
        self._turns = itertools.count()
        self._healing: asyncio.Task[None] | None = None
        self._stopped = False
        lane.record.watch_breaker(lambda: _NUMBERS[self._breaker.phase])

    @property
    def phase(self) -> Phase:
        return self._breaker.phase

    @property
    def closed(self) -> bool:
        return self._breaker.allows(time.monotonic())

    @property
    def reason(self) -> str:
        """Why it is open; empty while it is closed."""
        return "" if self.closed else self._breaker.reason

    def check(self) -> None:
        """Raises CircuitOpen at once where computing would most likely fail."""
        if not self.closed:
            raise self._open_error()

    def count(self, error: SluiceError | None) -> None:
        """What became of a request; None: it was answered well."""
        if error is None:
            self._breaker.succeeded(time.monotonic())
        elif isinstance(error, _FAILURES) and not self._stopped:
            before = self._breaker.phase
            self._breaker.failed(time.monotonic(), error.message, grave=isinstance(error, WorkerLost))
            if self._breaker.phase is not before:
                if not self.closed:
                    self._opened()
                self._healing = asyncio.get_running_loop().create_task(self._heal())

    def stop(self) -> None:
        """The version goes: nothing is counted or probed any more."""
        self._stopped = True
        if self._healing is not None:
            self._healing.cancel()

    def _opened(self) -> None:
        spec = self._lane.spec
        log.error("the circuit of model '%s' version %s is open: %s", spec.name, spec.version, self.reason)
        self._lane.record.breaker_opened()
        # What waits would fail as well, one after the other; a fallback can still answer it.
        self._refuse(self._open_error())
        self._changed()

    def _open_error(self) -> CircuitOpen:
        spec, now = self._lane.spec, time.monotonic()
        text = f"'{spec.name}' version {spec.version} failed too often to be tried now: {self.reason}"
        return CircuitOpen(text, retry_after=self._breaker.retry_after(now))

    async def _heal(self) -> None:
        """Until it is closed for good: wait for the end of the pause, if there is one, then probe."""
        breaker = self._breaker
        while breaker.phase is not Phase.CLOSED:
            await asyncio.sleep(breaker.retry_after(time.monotonic()))
            if not breaker.may_probe(time.monotonic()):
                continue
            holders = [worker for worker in self._workers if worker.holds(self._lane.key)]
            if not holders:  # they are on their way back, which says nothing about the version
                await asyncio.sleep(self._rule.pause)
                continue
            doubt, why = self.closed, breaker.reason
            breaker.probing(time.monotonic())
            if not doubt:
                self._changed()
            trouble = await self._probe(holders[next(self._turns) % len(holders)])
            said = f"the last probe failed: {trouble}"
            breaker.probed(time.monotonic(), ok=not trouble, reason=f"{why}; {said}" if doubt else said)
            spec = self._lane.spec
            if doubt and not self.closed:
                self._opened()
            elif doubt:
                log.warning("model '%s' version %s computes well, but %s", spec.name, spec.version, why)
            elif self.closed:
                log.info("the circuit of model '%s' version %s is closed again", spec.name, spec.version)
            self._changed()

    async def _probe(self, worker: Prober) -> str:
        """Compute something tiny; what went wrong, or nothing."""
        if self._tiny is None:
            return ""
        try:
            async with asyncio.timeout(_PROBE_PATIENCE):
                await worker.trial(self._lane.key, self._lane.spec, [self._tiny])
        except InvalidRequest:
            return ""  # the model looked at it and said no, so it computes
        except SluiceError as error:
            return error.message
        except TimeoutError:
            return f"no worker had time for it within {_PROBE_PATIENCE:g} s"
        except Exception as error:
            log.exception("a probe of '%s' failed in an unforeseen way", self._lane.key)
            return f"internal error: {error!r:.200}"
        return ""
