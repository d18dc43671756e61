"""Counts, times and logs each request and batch once, when it is over.

The cost of `VersionRecord.answered` is paid by every request: it only adds to plain numbers.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from sluice.errors import SluiceError
from sluice.request import InferRequest, Timeline
from sluice.spec import Padding
from sluice.telemetry.metrics import Metrics, VersionMeters
from sluice.telemetry.statistics import BatchStatistics, ModelStatistics
from sluice.telemetry.switches import Switches

REQUEST_LOG = logging.getLogger("sluice.request")
TRACE_LOG = logging.getLogger("sluice.trace")

_STAGES = ("received", "queued", "assembled", "started", "computed", "answered")


@dataclass(frozen=True, slots=True)
class BatchFigures:
    """What one executed batch held and what its parts took."""

    rows: int
    tokens: int  # those of its requests
    padded_tokens: int  # with padding
    assemble_seconds: float
    compute_seconds: float
    respond_seconds: float


class _Phases(NamedTuple):
    """Seconds a request spent in each phase; None = it never got there."""

    queue: float | None
    assemble: float | None
    compute: float | None
    respond: float | None


def _phases(timeline: Timeline) -> _Phases:
    queued, assembled, started = timeline.queued, timeline.assembled, timeline.started
    computed, answered = timeline.computed, timeline.answered
    queue = assemble = compute = respond = None
    if queued:
        # A request that died waiting waited until its answer: the longest waits are these.
        queue = (assembled or answered) - queued
        if assembled and started:
            assemble = started - assembled
            if computed:
                compute = timeline.compute_seconds or computed - started
                respond = answered - computed
    return _Phases(queue, assemble, compute, respond)


class VersionRecord:
    """The record of one live version."""

    def __init__(self, name: str, version: str, metrics: Metrics, switches: Switches | None) -> None:
        self.statistics = ModelStatistics(name, version)
        self._meters = VersionMeters(self.statistics)
        self._metrics = metrics
        self._switches = switches
        self.closed = False
        metrics.add(self._meters)

    def answered(self, request: InferRequest, rows: int, error: SluiceError | None) -> None:
        """Record a request's end, whichever it was; once per request."""
        timeline = request.timeline
        if not timeline.answered:
            timeline.answered = time.monotonic()
        total = timeline.answered - timeline.received
        phases = _phases(timeline)
        self._observe(phases, total)
        if error is None:
            self._succeeded(phases, rows, total)
        else:
            self.statistics.fail.add(total)
            self._meters.failures[error.reason] += 1
        if REQUEST_LOG.isEnabledFor(logging.DEBUG):
            figures = {"rows": rows, **_milliseconds(queue=phases.queue, compute=phases.compute, total=total)}
            _log_request(request, self.statistics.version, error, figures)
        if self._switches is not None and self._switches.tracing:
            self._trace(request, self._switches)

    def batch(self, batch: BatchFigures) -> None:
        """Record an executed batch; once per batch."""
        statistics, meters = self.statistics, self._meters
        statistics.last_inference_ms = time.time_ns() // 1_000_000
        statistics.execution_count += 1
        sized = statistics.batches.get(batch.rows)
        if sized is None:
            sized = statistics.batches[batch.rows] = BatchStatistics(batch.rows)
        sized.compute_input.add(batch.assemble_seconds)
        sized.compute_infer.add(batch.compute_seconds)
        sized.compute_output.add(batch.respond_seconds)
        padding = batch.padded_tokens - batch.tokens
        meters.tokens += batch.tokens
        meters.padding_tokens += padding
        meters.batch_rows.observe(batch.rows)
        meters.batch_tokens.observe(batch.padded_tokens)
        if batch.padded_tokens:
            meters.padding_share.observe(padding / batch.padded_tokens)

    def watch(self, length: Callable[[], int], utilisation: Callable[[], float], target: float) -> None:
        """Say what to read the queue's length and the predicted utilisation from at scrape time, and the target."""
        self._meters.queue_length = length
        self._meters.utilisation = utilisation
        self._meters.target = target

    def loaded(self, seconds: float, size: int, held: int) -> None:
        """Show what loading it took, the bytes of its files, and those that a worker holds for it; 0 = not known."""
        self._meters.load_seconds = seconds
        self._meters.size = size
        self._meters.held = held

    def set_padding(self, padding: Padding) -> None:
        """Show what the probe at warm-up found."""
        self._meters.padding = padding

    def watch_breaker(self, state: Callable[[], int]) -> None:
        """Say what to read the circuit's state from at scrape time."""
        self._meters.breaker_state = state

    def breaker_opened(self) -> None:
        self._meters.breaker_openings += 1

    def reused(self, how: str, seconds: float) -> None:
        """Record where the answer to an entry came from, and what it took since its request arrived."""
        self._meters.reused[how] += 1
        duration = self.statistics.cache_miss if how == "miss" else self.statistics.cache_hit
        duration.add(seconds)

    def close(self) -> None:
        """The version is gone: stop showing it."""
        self.closed = True
        self._metrics.remove(self._meters)

    def _observe(self, phases: _Phases, total: float) -> None:
        meters = self._meters
        meters.request.observe(total)
        queue, assemble, compute, respond = phases
        if queue is not None:
            meters.queue.observe(queue)
        if assemble is not None:
            meters.assemble.observe(assemble)
        if compute is not None:
            meters.compute.observe(compute)
        if respond is not None:
            meters.respond.observe(respond)

    def _succeeded(self, phases: _Phases, rows: int, total: float) -> None:
        statistics = self.statistics
        statistics.inference_count += rows
        statistics.success.add(total)
        queue, assemble, compute, respond = phases
        if queue is not None:
            statistics.queue.add(queue)
        if assemble is not None:
            statistics.compute_input.add(assemble)
        if compute is not None:
            statistics.compute_infer.add(compute)
        if respond is not None:
            statistics.compute_output.add(respond)

    def _trace(self, request: InferRequest, switches: Switches) -> None:
        levels = switches.sample(self.statistics.name)
        if not levels:
            return
        fields: dict[str, Any] = {"id": request.id, "model": request.model, "version": self.statistics.version}
        if "TIMESTAMPS" in levels:
            for stage in _STAGES:
                if seconds := getattr(request.timeline, stage):
                    fields[f"{stage}_ns"] = int(seconds * 1e9)
            fields["compute_ns"] = int(request.timeline.compute_seconds * 1e9)
        if "TENSORS" in levels:
            fields["inputs"] = [f"{tensor.name} {tensor.datatype} {list(tensor.shape)}" for tensor in request.inputs]
        TRACE_LOG.info("trace", extra=fields)


class Record:
    """Where every version's record comes from, and where what has no version is counted."""

    def __init__(self, metrics: Metrics, switches: Switches | None = None) -> None:
        self._metrics = metrics
        self._switches = switches

    def version(self, name: str, version: str) -> VersionRecord:
        """A record for a version that goes live; close it when the version is gone."""
        return VersionRecord(name, version, self._metrics, self._switches)

    def refused(self, request: InferRequest, error: SluiceError) -> None:
        """Record a request that never reached a version."""
        self._metrics.refuse(request.model, request.version, error.reason)
        if REQUEST_LOG.isEnabledFor(logging.DEBUG):
            _log_request(request, request.version, error, {})

    def stood_in(self, model: str, version: str, fallback: str) -> None:
        """Record that another version answers instead of the one asked for."""
        self._metrics.stood_in(model, version, fallback)

    def worker_states(self, states: Callable[[], dict[str, int]]) -> None:
        """Say what to read the number of workers in each state from at scrape time."""
        self._metrics.worker_states = states

    def worker_restarted(self, cause: str) -> None:
        """A worker's process is replaced by another, for one of the causes in `metrics.CAUSES`."""
        self._metrics.worker_restarts[cause] += 1


def _milliseconds(**seconds: float | None) -> dict[str, float]:
    return {f"{name}_ms": round(value * 1e3, 3) for name, value in seconds.items() if value is not None}


def _log_request(request: InferRequest, version: str, error: SluiceError | None, figures: dict[str, Any]) -> None:
    outcome = "ok" if error is None else error.reason
    fields = {"id": request.id, "model": request.model, "version": version, "outcome": outcome, **figures}
    if error is None:
        REQUEST_LOG.debug("request answered", extra=fields)
    else:
        REQUEST_LOG.debug("request failed: %s", error.message, extra=fields)
