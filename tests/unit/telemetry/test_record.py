"""What a record makes of requests and batches, read from the statistics and the exposition."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from sluice import errors
from sluice.request import InferRequest, Tensor, Timeline
from sluice.spec import Padding
from sluice.telemetry.metrics import SECONDS, TRITON_REASONS, Histogram, Metrics
from sluice.telemetry.record import BatchFigures, Record, VersionRecord
from sluice.telemetry.switches import Switches

BATCH = BatchFigures(
    rows=4, tokens=60, padded_tokens=80, assemble_seconds=0.001, compute_seconds=0.02, respond_seconds=0.002
)


def finished(**changes: float) -> Timeline:
    stages = {
        "received": 10.0,
        "queued": 10.001,
        "assembled": 10.011,
        "started": 10.012,
        "computed": 10.032,
        "answered": 10.034,
        "compute_seconds": 0.019,
    }
    return Timeline(**{**stages, **changes})


def request(timeline: Timeline | None = None, model: str = "m", version: str = "") -> InferRequest:
    return InferRequest(model=model, version=version, inputs=(), id="r1", timeline=timeline or finished())


class Scrape:
    """One exposition, by sample."""

    def __init__(self, metrics: Metrics) -> None:
        self.families = list(parse(generate_latest(metrics.registry).decode()))
        self.values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.values.get((name, frozenset(labels.items())))

    def total(self, name: str) -> float:
        return sum(value for (sample, _), value in self.values.items() if sample == name)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def version(metrics: Metrics) -> VersionRecord:
    return Record(metrics).version("m", "1")


def test_a_successful_request_is_counted_and_timed(metrics: Metrics, version: VersionRecord) -> None:
    version.answered(request(), 3, None)

    statistics = version.statistics
    assert (statistics.success.count, statistics.fail.count, statistics.inference_count) == (1, 0, 3)
    assert statistics.success.ns == pytest.approx(34e6, rel=1e-6)
    assert statistics.queue.ns == pytest.approx(10e6, rel=1e-6)
    assert statistics.compute_input.ns == pytest.approx(1e6, rel=1e-6)
    assert statistics.compute_infer.ns == pytest.approx(19e6, rel=1e-6)
    assert statistics.compute_output.ns == pytest.approx(2e6, rel=1e-6)

    scrape = Scrape(metrics)
    assert scrape("sluice_requests_total", model="m", version="1") == 1
    assert scrape("sluice_request_seconds_sum", model="m", version="1") == pytest.approx(0.034)
    expected = {"queue": 0.01, "assemble": 0.001, "compute": 0.019, "respond": 0.002}
    for phase, seconds in expected.items():
        assert scrape("sluice_phase_seconds_count", model="m", version="1", phase=phase) == 1
        assert scrape("sluice_phase_seconds_sum", model="m", version="1", phase=phase) == pytest.approx(seconds)
    assert scrape("nv_inference_request_success", model="m", version="1") == 1
    assert scrape("nv_inference_count", model="m", version="1") == 3
    assert scrape("nv_inference_request_duration_us", model="m", version="1") == pytest.approx(34000, abs=1)
    assert scrape("nv_inference_queue_duration_us", model="m", version="1") == pytest.approx(10000, abs=1)


def test_compute_time_falls_back_to_the_stamps(version: VersionRecord) -> None:
    version.answered(request(finished(compute_seconds=0.0)), 1, None)

    assert version.statistics.compute_infer.ns == pytest.approx(20e6, rel=1e-6)


def test_a_failure_is_counted_by_reason_and_keeps_the_success_figures_clean(
    metrics: Metrics, version: VersionRecord
) -> None:
    version.answered(request(), 1, errors.ModelFailed("boom"))

    assert (version.statistics.success.count, version.statistics.fail.count) == (0, 1)
    assert version.statistics.inference_count == 0
    assert version.statistics.queue.count == 0
    scrape = Scrape(metrics)
    assert scrape("sluice_requests_total", model="m", version="1") == 1
    assert scrape("sluice_request_failures_total", model="m", version="1", reason="model_failed") == 1
    assert scrape("nv_inference_request_failure", model="m", version="1", reason="BACKEND") == 1


def test_a_request_that_died_waiting_shows_its_wait(metrics: Metrics, version: VersionRecord) -> None:
    waiting = Timeline(received=10.0, queued=10.5, answered=12.5)

    version.answered(request(waiting), 1, errors.QueueTimeout("late"))

    scrape = Scrape(metrics)
    assert scrape("sluice_phase_seconds_sum", model="m", version="1", phase="queue") == pytest.approx(2.0)
    assert scrape("sluice_phase_seconds_count", model="m", version="1", phase="compute") == 0


def test_a_request_that_reached_no_stage_is_stamped_and_timed(version: VersionRecord) -> None:
    refused = request(Timeline())

    version.answered(refused, 0, errors.InvalidRequest("bad"))

    assert refused.timeline.answered >= refused.timeline.received
    assert version.statistics.fail.count == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.QueueFull("x"), "REJECTED"),
        (errors.QueueTimeout("x"), "REJECTED"),
        (errors.Stopping("x"), "REJECTED"),
        (errors.ShortOfMemory("x"), "REJECTED"),
        (errors.CircuitOpen("x"), "REJECTED"),
        (errors.Quarantined("x"), "REJECTED"),
        (errors.Cancelled("x"), "CANCELED"),
        (errors.DeadlineExceeded("x"), "CANCELED"),
        (errors.ModelFailed("x"), "BACKEND"),
        (errors.OutOfDeviceMemory("x"), "BACKEND"),
        (errors.WorkerLost("x"), "BACKEND"),
        (errors.Hung("x"), "BACKEND"),
        (errors.DeviceFault("x"), "BACKEND"),
        (errors.InvalidRequest("x"), "OTHER"),
        (errors.InternalError("x"), "OTHER"),
    ],
)
def test_triton_reasons(metrics: Metrics, version: VersionRecord, error: errors.SluiceError, reason: str) -> None:
    version.answered(request(), 1, error)

    scrape = Scrape(metrics)
    counts = {
        name: scrape("nv_inference_request_failure", model="m", version="1", reason=name)
        for name in ("REJECTED", "CANCELED", "BACKEND", "OTHER")
    }
    assert counts == {**dict.fromkeys(counts, 0), reason: 1}


def test_every_mapped_reason_is_one_of_ours() -> None:
    ours = {
        error.reason
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.SluiceError)
    }
    assert set(TRITON_REASONS) <= ours


def test_batches(metrics: Metrics, version: VersionRecord) -> None:
    version.batch(BATCH)
    version.batch(BATCH)
    version.batch(BatchFigures(1, 20, 20, 0.001, 0.01, 0.001))

    statistics = version.statistics
    assert statistics.execution_count == 3
    assert statistics.last_inference_ms > 0
    assert {size: sized.compute_infer.count for size, sized in statistics.batches.items()} == {4: 2, 1: 1}
    assert statistics.batches[4].batch_size == 4
    assert statistics.batches[4].compute_infer.ns == pytest.approx(40e6)
    scrape = Scrape(metrics)
    labels = {"model": "m", "version": "1"}
    assert scrape("nv_inference_exec_count", **labels) == 3
    assert scrape("sluice_tokens_total", **labels) == 140
    assert scrape("sluice_padding_tokens_total", **labels) == 40
    assert scrape("sluice_batch_rows_sum", **labels) == 9
    assert scrape("sluice_batch_tokens_sum", **labels) == 180
    assert scrape("sluice_batch_padding_share_sum", **labels) == pytest.approx(0.5)
    assert scrape("sluice_batch_padding_share_bucket", le="0.0", **labels) == 1


def test_a_batch_without_tokens_has_no_padding_share(metrics: Metrics, version: VersionRecord) -> None:
    version.batch(BatchFigures(2, 0, 0, 0.0, 0.0, 0.0))

    assert Scrape(metrics)("sluice_batch_padding_share_count", model="m", version="1") == 0


def test_gauges_are_read_when_scraped(metrics: Metrics, version: VersionRecord) -> None:
    queue = [1, 2, 3]
    states = {"ready": 2}
    record = Record(metrics)
    version.watch(lambda: len(queue), lambda: 0.4, 0.25)
    record.worker_states(lambda: states)
    record.worker_restarted("died")
    version.set_padding(Padding.EQUAL)

    scrape = Scrape(metrics)
    assert scrape("sluice_queue_length", model="m", version="1") == 3
    assert scrape("nv_inference_pending_request_count", model="m", version="1") == 3
    assert scrape("sluice_predicted_utilisation", model="m", version="1") == 0.4
    assert scrape("sluice_target_latency_seconds", model="m", version="1") == 0.25
    assert scrape("sluice_workers", state="ready") == 2
    assert scrape("sluice_worker_restarts_total", cause="died") == 1
    assert scrape("sluice_model_padding", model="m", version="1", mode="equal") == 1

    queue.clear()
    states["dead"] = 1
    scrape = Scrape(metrics)
    assert scrape("sluice_queue_length", model="m", version="1") == 0
    assert scrape("sluice_workers", state="dead") == 1


def test_a_refused_request_is_counted_under_known_names_only(metrics: Metrics, version: VersionRecord) -> None:
    record = Record(metrics)

    record.refused(request(model="m", version="1"), errors.NotReady("x"))
    record.refused(request(model="m", version="9"), errors.UnknownModel("x"))
    for number in range(100):
        record.refused(request(model=f"made-up-{number}", version=str(number)), errors.UnknownModel("x"))

    scrape = Scrape(metrics)
    assert scrape("sluice_request_failures_total", model="m", version="1", reason="not_ready") == 1
    assert scrape("sluice_request_failures_total", model="m", version="", reason="unknown_model") == 1
    assert scrape("sluice_request_failures_total", model="", version="", reason="unknown_model") == 100
    assert scrape.total("sluice_requests_total") == scrape.total("sluice_request_failures_total") == 102


def test_closing_removes_the_versions_label_sets(metrics: Metrics, version: VersionRecord) -> None:
    record = Record(metrics)
    other = record.version("m", "2")
    version.answered(request(), 1, None)
    version.batch(BATCH)
    record.refused(request(version="9"), errors.UnknownModel("x"))

    version.close()
    version.close()
    left = Scrape(metrics)
    assert left("sluice_queue_length", model="m", version="2") == 0
    assert not [labels for _, labels in left.values if ("version", "1") in labels]
    assert left("sluice_request_failures_total", model="m", version="", reason="unknown_model") == 1

    other.close()
    assert not [labels for _, labels in Scrape(metrics).values if ("model", "m") in labels]


def test_a_reloaded_version_takes_the_place_of_the_old_one(metrics: Metrics, version: VersionRecord) -> None:
    version.answered(request(), 1, None)
    reloaded = Record(metrics).version("m", "1")

    version.close()

    assert Scrape(metrics)("sluice_requests_total", model="m", version="1") == 0
    reloaded.answered(request(), 1, None)
    assert Scrape(metrics)("sluice_requests_total", model="m", version="1") == 1


def test_every_metric_has_help_and_parses_in_both_formats(metrics: Metrics, version: VersionRecord) -> None:
    version.answered(request(), 1, None)
    version.answered(request(), 1, errors.QueueFull("x"))
    version.batch(BATCH)
    version.set_padding(Padding.ANY)

    families = Scrape(metrics).families
    assert all(family.documentation for family in families)
    names = {family.name for family in families}
    assert {"sluice_build_info", "process_cpu_seconds", "python_info"} <= names
    openmetrics = list(parse_openmetrics(generate_openmetrics(metrics.registry).decode()))  # type: ignore[no-untyped-call]
    assert all(family.documentation for family in openmetrics)
    assert {family.name for family in openmetrics} == names


def test_label_values_are_escaped(metrics: Metrics) -> None:
    Record(metrics).version('a"b\\c\nd', "1").answered(request(), 1, None)

    assert Scrape(metrics)("sluice_requests_total", model='a"b\\c\nd', version="1") == 1


@given(st.lists(st.floats(min_value=0, max_value=100)))
def test_histogram_counts_every_value_once(values: list[float]) -> None:
    histogram = Histogram(SECONDS)
    for value in values:
        histogram.observe(value)

    buckets = dict(histogram.buckets())
    assert buckets["+Inf"] == len(values)
    assert histogram.total == pytest.approx(sum(values))
    for bound in SECONDS:
        assert buckets[str(float(bound))] == sum(value <= bound for value in values)


def test_one_debug_line_per_request(version: VersionRecord, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "sluice.request")

    version.answered(request(), 2, None)
    version.answered(request(), 2, errors.QueueFull("the queue is full"))

    answered, failed = (vars(entry) for entry in caplog.records)
    wanted = {"id": "r1", "model": "m", "version": "1", "rows": 2, "outcome": "ok", "total_ms": 34.0}
    assert {key: answered[key] for key in wanted} == wanted
    assert (answered["queue_ms"], answered["compute_ms"]) == (10.0, 19.0)
    assert failed["outcome"] == "queue_full"
    assert "the queue is full" in failed["message"]


def test_no_line_when_debug_is_off(version: VersionRecord, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sluice.request")

    version.answered(request(), 2, None)

    assert not caplog.records


def test_traced_requests_are_logged_at_their_rate(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sluice.trace")
    switches = Switches()
    version = Record(metrics, switches).version("m", "1")
    version.answered(request(), 1, None)
    assert not caplog.records

    switches.update_trace({"trace_level": ["TIMESTAMPS", "TENSORS"], "trace_rate": ["2"], "trace_count": ["3"]})
    tensor = Tensor("ids", "INT64", (1, 1), bytes(8))
    for _ in range(10):
        version.answered(InferRequest("m", "", (tensor,), id="r2", timeline=finished()), 1, None)

    assert len(caplog.records) == 3
    fields = vars(caplog.records[0])
    assert fields["id"] == "r2"
    assert fields["received_ns"] == 10_000_000_000
    assert fields["computed_ns"] == pytest.approx(10_032_000_000)
    assert fields["inputs"] == ["ids INT64 [1, 1]"]


def test_a_versions_circuit_and_who_stands_in_for_it(metrics: Metrics, version: VersionRecord) -> None:
    labels = {"model": "m", "version": "1"}
    assert Scrape(metrics)("sluice_breaker_state", **labels) == 0

    states = [2]
    version.watch_breaker(lambda: states[0])
    version.breaker_opened()
    Record(metrics).stood_in("m", "1", "n/3")
    Record(metrics).stood_in("m", "1", "n/3")

    scrape = Scrape(metrics)
    assert scrape("sluice_breaker_state", **labels) == 2
    assert scrape("sluice_breaker_opened_total", **labels) == 1
    assert scrape("sluice_fallback_requests_total", fallback="n/3", **labels) == 2
    states[0] = 1
    assert Scrape(metrics)("sluice_breaker_state", **labels) == 1
