"""Every metric of the server, declared here and computed at scrape time from plain numbers.

Nothing of prometheus_client is touched on a request's way: its histograms lock on every observation (0.73 µs against
0.15 µs for a bisect into a list of counts), and a version's label sets vanish with its `VersionMeters` instead of
having to be removed one by one. Triton's names lack the `_total` that prometheus_client gives to every counter, so they
are exposed as untyped, which `rate()` and `increase()` treat alike.
"""

import platform
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector

from sluice import __version__
from sluice.spec import Padding
from sluice.telemetry.statistics import ModelStatistics

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75)

# Triton's label for each reason of ours; every other reason is OTHER.
TRITON_REASONS = {
    "overloaded": "REJECTED",
    "queue_full": "REJECTED",
    "queue_timeout": "REJECTED",
    "not_ready": "REJECTED",
    "stopping": "REJECTED",
    "short_of_memory": "REJECTED",
    "circuit_open": "REJECTED",
    "quarantined": "REJECTED",
    "cancelled": "CANCELED",
    "deadline": "CANCELED",
    "model_failed": "BACKEND",
    "device_memory": "BACKEND",
    "worker_lost": "BACKEND",
    "hung": "BACKEND",
    "device_fault": "BACKEND",
}


class Histogram:
    """Counts per bucket and a sum; written by the event loop alone, so it needs no lock."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts under each bound, as the exposition wants them."""
        return list(zip(_bound_labels(self.bounds), accumulate(self.counts), strict=True))


@cache
def _bound_labels(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return (*(str(float(bound)) for bound in bounds), "+Inf")


def _seconds() -> Histogram:
    return Histogram(SECONDS)


@dataclass(slots=True, eq=False)
class VersionMeters:
    """The numbers of one live version, which its `VersionRecord` writes and the collector reads."""

    statistics: ModelStatistics
    failures: Counter[str] = field(default_factory=Counter)  # by our reason
    reused: Counter[str] = field(default_factory=Counter)  # hit, miss, shared
    tokens: int = 0
    padding_tokens: int = 0
    batch_rows: Histogram = field(default_factory=lambda: Histogram(ROWS))
    batch_tokens: Histogram = field(default_factory=lambda: Histogram(TOKENS))
    padding_share: Histogram = field(default_factory=lambda: Histogram(SHARES))
    request: Histogram = field(default_factory=_seconds)
    queue: Histogram = field(default_factory=_seconds)
    assemble: Histogram = field(default_factory=_seconds)
    compute: Histogram = field(default_factory=_seconds)
    respond: Histogram = field(default_factory=_seconds)
    queue_length: Callable[[], int] = int  # int() is 0: nothing queues until someone says what to read
    utilisation: Callable[[], float] = float
    target: float = 0.0
    load_seconds: float = 0.0
    size: int = 0
    held: int = 0
    padding: Padding | None = None
    breaker_state: Callable[[], int] = int  # closed until someone says what to read
    breaker_openings: int = 0

    @property
    def labels(self) -> tuple[str, str]:
        return (self.statistics.name, self.statistics.version)


class _Number(NamedTuple):
    """A metric with one value per version."""

    name: str
    documentation: str
    read: Callable[[VersionMeters], float]


class _Distribution(NamedTuple):
    """A metric with one histogram per version."""

    name: str
    documentation: str
    read: Callable[[VersionMeters], Histogram]


VERSION = ("model", "version")

COUNTERS = (
    _Number("sluice_tokens", "Tokens computed, without padding.", lambda m: m.tokens),
    _Number("sluice_padding_tokens", "Padding computed beside the tokens.", lambda m: m.padding_tokens),
    _Number("sluice_response_cache_hits", "Answers that were kept from before.", lambda m: m.reused["hit"]),
    _Number(
        "sluice_response_cache_shared", "Answers that another request was waiting for.", lambda m: m.reused["shared"]
    ),
    _Number("sluice_response_cache_misses", "Answers that were computed, to be kept.", lambda m: m.reused["miss"]),
    _Number(
        "sluice_breaker_opened", "Times that a version's circuit opened, since it failed.", lambda m: m.breaker_openings
    ),
)
GAUGES = (
    _Number("sluice_queue_length", "Requests waiting for a batch.", lambda m: m.queue_length()),
    _Number(
        "nv_inference_pending_request_count",
        "Requests waiting for a batch (Triton's name).",
        lambda m: m.queue_length(),
    ),
    _Number(
        "sluice_predicted_utilisation",
        "Share of its workers' time that the version's traffic asks for, by the learned cost; above 1 is too much.",
        lambda m: m.utilisation(),
    ),
    _Number("sluice_target_latency_seconds", "Seconds in which requests shall be answered.", lambda m: m.target),
    _Number(
        "sluice_model_load_seconds", "Seconds that a live version took from load to warm.", lambda m: m.load_seconds
    ),
    _Number("sluice_model_bytes", "Bytes of a live version's files.", lambda m: m.size),
    _Number(
        "sluice_breaker_state",
        "A version's circuit: 0 closed, 1 half-open, 2 open, which answers its requests at once.",
        lambda m: m.breaker_state(),
    ),
)
HISTOGRAMS = (
    _Distribution("sluice_request_seconds", "Seconds from a request's arrival to its answer.", lambda m: m.request),
    _Distribution("sluice_batch_rows", "Rows of each executed batch.", lambda m: m.batch_rows),
    _Distribution("sluice_batch_tokens", "Tokens of each executed batch, with padding.", lambda m: m.batch_tokens),
    _Distribution("sluice_batch_padding_share", "Padding's share of each batch's tokens.", lambda m: m.padding_share),
)
PHASES: tuple[tuple[str, Callable[[VersionMeters], Histogram]], ...] = (
    ("queue", lambda m: m.queue),
    ("assemble", lambda m: m.assemble),
    ("compute", lambda m: m.compute),
    ("respond", lambda m: m.respond),
)
TRITON = (
    _Number("nv_inference_request_success", "Requests answered (Triton's name).", lambda m: m.statistics.success.count),
    _Number("nv_inference_count", "Rows answered (Triton's name).", lambda m: m.statistics.inference_count),
    _Number("nv_inference_exec_count", "Batches executed (Triton's name).", lambda m: m.statistics.execution_count),
    _Number(
        "nv_inference_request_duration_us",
        "Microseconds answered requests took in all (Triton's name).",
        lambda m: m.statistics.success.ns // 1000,
    ),
    _Number(
        "nv_inference_queue_duration_us",
        "Microseconds answered requests waited in all (Triton's name).",
        lambda m: m.statistics.queue.ns // 1000,
    ),
    _Number(
        "nv_inference_compute_input_duration_us",
        "Microseconds spent writing inputs in all (Triton's name).",
        lambda m: m.statistics.compute_input.ns // 1000,
    ),
    _Number(
        "nv_inference_compute_infer_duration_us",
        "Microseconds spent computing in all (Triton's name).",
        lambda m: m.statistics.compute_infer.ns // 1000,
    ),
    _Number(
        "nv_inference_compute_output_duration_us",
        "Microseconds spent reading outputs in all (Triton's name).",
        lambda m: m.statistics.compute_output.ns // 1000,
    ),
)


# Why a worker's process was replaced.
CAUSES = ("died", "hung", "device", "recycled", "memory")


class Metrics(Collector):
    """What the metrics port shows: a registry of its own and the numbers it is computed from."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self.worker_states: Callable[[], dict[str, int]] = dict  # dict() is empty: no workers known yet
        self.worker_restarts: Counter[str] = Counter()  # by cause
        self.in_use: Callable[[], Iterable[tuple[str, str, str]]] = tuple  # (model, version, alias)
        self.cache_hits: Callable[[], Mapping[tuple[str, bool], int]] = dict  # by (what, whether it was known)
        self._failed_loads: Counter[str] = Counter()  # by model: as many as the repository has
        self._versions: dict[tuple[str, str], VersionMeters] = {}
        self._refused: Counter[tuple[str, str, str]] = Counter()  # (model, version, reason)
        self._stood_in: Counter[tuple[str, str, str]] = Counter()  # (model, version, fallback): as many as configured
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def add(self, meters: VersionMeters) -> None:
        """Show a version; one of the same name and number takes the place of the one shown before."""
        self._versions[meters.labels] = meters

    def remove(self, meters: VersionMeters) -> None:
        """Stop showing a version, and its model's refusals when it was the model's last."""
        if self._versions.get(meters.labels) is not meters:
            return
        del self._versions[meters.labels]
        gone = meters.statistics.name
        if not self._knows(gone):
            for key in [key for key in self._refused if key[0] == gone]:
                del self._refused[key]

    def refuse(self, model: str, version: str, reason: str) -> None:
        """Count a request that reached no version; names that are not served must not become labels."""
        model = model if self._knows(model) else ""
        version = version if (model, version) in self._versions else ""
        self._refused[model, version, reason] += 1

    def stood_in(self, model: str, version: str, fallback: str) -> None:
        """Count a request that another version answers instead of the one asked for."""
        self._stood_in[model, version, fallback] += 1

    def load_failed(self, model: str) -> None:
        """Count a version that could not be brought up."""
        self._failed_loads[model] += 1

    def _knows(self, model: str) -> bool:
        return any(name == model for name, _ in self._versions)

    def describe(self) -> Iterator[Metric]:
        """The families' names, which keep two collectors from claiming the same one."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        versions = tuple(self._versions.values())
        yield from self._server()
        yield from self._loads(versions)
        yield from self._requests(versions)
        yield from _numbers(versions)
        yield from _distributions(versions)
        yield _paddings(versions)
        yield _triton_failures(versions)

    def _server(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("sluice_build_info", "What is running; always 1.", labels=("version", "python"))
        build.add_metric((__version__, platform.python_version()), 1)
        yield build
        workers = GaugeMetricFamily("sluice_workers", "Worker processes by state.", labels=("state",))
        for state, count in sorted(self.worker_states().items()):
            workers.add_metric((state,), count)
        yield workers
        restarts = CounterMetricFamily(
            "sluice_worker_restarts", "Worker processes that another took the place of.", labels=("cause",)
        )
        for cause in CAUSES:
            restarts.add_metric((cause,), self.worker_restarts[cause])
        yield restarts

    def _loads(self, versions: tuple[VersionMeters, ...]) -> Iterator[Metric]:
        failures = CounterMetricFamily(
            "sluice_model_load_failures", "Versions that could not be brought up.", labels=("model",)
        )
        for model, count in self._failed_loads.items():
            failures.add_metric((model,), count)
        yield failures
        held = GaugeMetricFamily(
            "sluice_model_memory_bytes",
            "Bytes by which a worker grew that loaded and warmed a live version, if nothing else was loaded meanwhile.",
            labels=VERSION,
        )
        for meters in versions:
            if meters.held:
                held.add_metric(meters.labels, meters.held)
        yield held
        in_use = GaugeMetricFamily(
            "sluice_version_in_use",
            "The version that an alias stands for, or without one that answers requests that name none; always 1.",
            labels=(*VERSION, "alias"),
        )
        for labels in self.in_use():
            in_use.add_metric(labels, 1)
        yield in_use
        lookups = CounterMetricFamily(
            "sluice_model_cache_lookups",
            "Files' sha256, and versions' costs, that were known from before when they were wanted, or not.",
            labels=("cache", "outcome"),
        )
        for (kind, known), count in self.cache_hits().items():
            lookups.add_metric((kind, "hit" if known else "miss"), count)
        yield lookups

    def _requests(self, versions: tuple[VersionMeters, ...]) -> Iterator[Metric]:
        answered: Counter[tuple[str, str]] = Counter()
        failed: Counter[tuple[str, str, str]] = Counter(self._refused)
        for meters in versions:
            statistics = meters.statistics
            answered[meters.labels] += statistics.success.count
            for reason, count in meters.failures.items():
                failed[*meters.labels, reason] += count
        for (model, version, _), count in failed.items():
            answered[model, version] += count
        requests = CounterMetricFamily(
            "sluice_requests", "Requests answered, well or not; model is empty where it is unknown.", labels=VERSION
        )
        for labels, count in answered.items():
            requests.add_metric(labels, count)
        yield requests
        failures = CounterMetricFamily(
            "sluice_request_failures", "Requests answered with an error.", labels=(*VERSION, "reason")
        )
        for key, count in failed.items():
            failures.add_metric(key, count)
        yield failures
        stood_in = CounterMetricFamily(
            "sluice_fallback_requests",
            "Requests that a model's fallback was given, counted for the version asked for.",
            labels=(*VERSION, "fallback"),
        )
        for key, count in self._stood_in.items():
            stood_in.add_metric(key, count)
        yield stood_in


def _numbers(versions: Iterable[VersionMeters]) -> Iterator[Metric]:
    tables: tuple[
        tuple[type[CounterMetricFamily | GaugeMetricFamily | UnknownMetricFamily], tuple[_Number, ...]], ...
    ] = ((CounterMetricFamily, COUNTERS), (GaugeMetricFamily, GAUGES), (UnknownMetricFamily, TRITON))
    for kind, numbers in tables:
        for number in numbers:
            family = kind(number.name, number.documentation, labels=VERSION)
            for meters in versions:
                family.add_metric(meters.labels, number.read(meters))
            yield family


def _distributions(versions: Iterable[VersionMeters]) -> Iterator[Metric]:
    for distribution in HISTOGRAMS:
        family = HistogramMetricFamily(distribution.name, distribution.documentation, labels=VERSION)
        for meters in versions:
            histogram = distribution.read(meters)
            family.add_metric(meters.labels, histogram.buckets(), histogram.total)
        yield family
    family = HistogramMetricFamily(
        "sluice_phase_seconds", "Seconds requests spent in each phase.", labels=(*VERSION, "phase")
    )
    for meters in versions:
        for phase, read in PHASES:
            histogram = read(meters)
            family.add_metric((*meters.labels, phase), histogram.buckets(), histogram.total)
    yield family


def _paddings(versions: Iterable[VersionMeters]) -> Metric:
    family = GaugeMetricFamily(
        "sluice_model_padding",
        "How a version's requests may share a batch, as probed at warm-up; always 1.",
        labels=(*VERSION, "mode"),
    )
    for meters in versions:
        if meters.padding is not None:
            family.add_metric((*meters.labels, meters.padding.value), 1)
    return family


def _triton_failures(versions: Iterable[VersionMeters]) -> Metric:
    family = UnknownMetricFamily(
        "nv_inference_request_failure", "Requests answered with an error (Triton's name).", labels=(*VERSION, "reason")
    )
    for meters in versions:
        counts = dict.fromkeys(("REJECTED", "CANCELED", "BACKEND", "OTHER"), 0)
        for reason, count in meters.failures.items():
            counts[TRITON_REASONS.get(reason, "OTHER")] += count
        for reason, count in counts.items():
            family.add_metric((*meters.labels, reason), count)
    return family
