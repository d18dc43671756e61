"""What a real worker teaches at warm-up: whether padding is safe, and which output axes carry batch and sequence."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import graphs
import numpy as np
import pytest
from onnx import helper

from sluice.config.settings import Workers
from sluice.scheduler.loop import Scheduler
from sluice.spec import ModelSpec, Padding
from sluice.store.axes import build_spec
from sluice.store.repository import find
from sluice.telemetry.metrics import Metrics
from sluice.telemetry.record import Record
from sluice.workers import assembly, warming, wire
from sluice.workers.devices import Device
from sluice.workers.lives import Surroundings
from sluice.workers.probe import Finding, probe, work
from sluice.workers.worker import Worker

Build = Callable[[Path], Path]


@dataclass
class Bench:
    """One worker, and models loaded on it by name."""

    worker: Worker
    repository: Path

    async def spec(self, build: Build) -> ModelSpec:
        """Load what `build` makes; its spec as the graph tells it."""
        path = build(self.repository)
        name = path.parent.parent.name
        files = find(self.repository, name).versions[0]
        load = wire.Load(name, "onnxruntime", str(path), str(path.parent), {}, "cpu", 1, None, (), ())
        return build_spec(files, await self.worker.load(load), 64)

    async def find(self, build: Build, asked: Padding | None = None) -> Finding:
        spec = await self.spec(build)
        return await probe(self.worker, spec.name, spec, 1e-3, asked)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    scheduler = Scheduler()
    worker = Worker(Device("cpu", 0, 1), Surroundings(Workers(), scheduler, Record(Metrics())))
    await worker.start()
    yield Bench(worker, tmp_path)
    await worker.close()


def nameless(repository: Path) -> Path:
    """input_ids [batch, sequence] -> the ids as they are, their sum, and each twice, all without dimensions."""
    ids = graphs.value("input_ids", "INT64", ["batch", "sequence"])
    constants = {"one": np.array([1], np.int64), "two": np.array([2], np.int64)}
    nodes = [
        helper.make_node("Identity", ["input_ids"], ["tokens"]),
        helper.make_node("ReduceSum", ["input_ids", "one"], ["sum"], keepdims=0),
        helper.make_node("Unsqueeze", ["input_ids", "one"], ["wide"]),
        helper.make_node("Concat", ["wide", "wide"], ["pair"], axis=1),
    ]
    outputs = [graphs.value(*one) for one in (
        ("tokens", "INT64", [None, None]), ("sum", "INT64", [None]), ("pair", "INT64", [None, 2, None])
    )]  # fmt: skip
    return graphs.save(repository / "nameless" / "1" / "model.onnx", nodes, [ids], outputs, constants)


def fixed(repository: Path) -> Path:
    return graphs.identity(repository, "fixed", shape=(4, 3))


def one_sequence(repository: Path) -> Path:
    """input_ids [1, sequence]: a batch of exactly one, as some exporters leave it."""
    return graphs.save(
        repository / "one" / "1" / "model.onnx",
        [helper.make_node("Identity", ["input_ids"], ["tokens"])],
        [graphs.value("input_ids", "INT64", [1, "sequence"])],
        [graphs.value("tokens", "INT64", [1, None])],
    )


async def test_a_masked_model_may_be_padded(bench: Bench) -> None:
    found = await bench.find(graphs.tagger)
    assert (found.spec.padding, found.reason) == (Padding.ANY, "")


async def test_a_model_that_sees_its_padding_is_batched_by_equal_length(bench: Bench) -> None:
    found = await bench.find(graphs.unmasked_mean)
    assert found.spec.padding is Padding.EQUAL
    assert "'mean' differs" in found.reason


async def test_a_model_whose_rows_mingle_is_not_batched(bench: Bench) -> None:
    found = await bench.find(graphs.scaled_by_batch)
    assert found.spec.padding is Padding.NEVER
    assert "'y' differs" in found.reason


@pytest.mark.parametrize("asked", list(Padding))
async def test_the_operator_has_the_last_word(bench: Bench, asked: Padding) -> None:
    found = await bench.find(graphs.unmasked_mean, asked)
    assert (found.spec.padding, found.reason) == (asked, "")


async def test_axes_are_learned_where_the_graph_has_no_names(bench: Bench) -> None:
    found = await bench.find(nameless)
    axes = {output.name: (output.batch_axis, output.sequence_axis) for output in found.spec.outputs}
    assert axes == {"tokens": (0, 1), "sum": (0, None), "pair": (0, 2)}
    assert found.spec.padding is Padding.ANY


async def test_a_fixed_batch_is_served_as_it_is(bench: Bench) -> None:
    found = await bench.find(fixed)
    assert found.spec.max_batch_rows == 0
    assert found.spec.padding is Padding.NEVER
    assert [(output.batch_axis, output.sequence_axis) for output in found.spec.outputs] == [(None, None)]


async def test_a_sequence_without_a_batch_is_still_learned(bench: Bench) -> None:
    found = await bench.find(one_sequence)
    assert found.spec.max_batch_rows == 0
    assert found.spec.padding is Padding.NEVER
    assert found.spec.outputs[0].sequence_axis == 1


async def test_a_model_that_refuses_made_up_input_is_batched_with_care(bench: Bench) -> None:
    spec = await bench.spec(lambda repository: graphs.lookup(repository, rows=1))
    ids = replace(spec.inputs[0], datatype="FP32")  # what a worker would be sent for a wrong guess
    found = await probe(bench.worker, spec.name, replace(spec, inputs=(ids, *spec.inputs[1:])), 1e-3, None)
    assert found.spec.padding is Padding.EQUAL
    assert "refuses made-up input" in found.reason


async def test_small_vocabularies_are_probed_with_zeros(bench: Bench) -> None:
    found = await bench.find(lambda repository: graphs.lookup(repository, rows=1))
    assert (found.spec.padding, found.reason) == (Padding.ANY, "")


async def test_warm_up_runs_at_the_shapes_that_will_be_used(bench: Bench) -> None:
    from sluice.scheduler.policy import Bounds
    from sluice.store.settings import ModelSettings

    found = await bench.find(graphs.tagger)
    limits = Bounds(rows=64, tokens=256, size=1 << 20)
    made = warming.works(found.spec, ModelSettings("tagger", max_length=100), limits, bench.repository)
    assert {(one.rows, one.length) for one in made} == {(1, 8), (32, 8), (1, 32), (8, 32)}
    for one in made:
        outputs = await bench.worker.trial("tagger", found.spec, [one])
        assert outputs["tokens"].shape == (one.rows, one.length)


def stale(name: str, *declared: int | str) -> Build:
    """input_ids [batch, sequence] -> themselves with two more columns, or whatever the file says it is."""

    def build(repository: Path) -> Path:
        return graphs.save(
            repository / name / "1" / "model.onnx",
            # A shape that comes out of a computation keeps the checker from noticing what the file claims.
            [
                helper.make_node("Concat", ["none", "more"], ["pads"], axis=0),
                helper.make_node("Pad", ["input_ids", "pads"], ["out"]),
            ],
            [graphs.value("input_ids", "INT64", ["batch", "sequence"])],
            [graphs.value("out", "INT64", list(declared))],
            {"none": np.zeros(3, np.int64), "more": np.array([2], np.int64)},
        )

    return build


@pytest.mark.parametrize(
    "declared", [("batch", "sequence"), ("batch", "longer"), ("batch", 10), ("batch", "sequence", "more")]
)
async def test_an_output_is_what_it_is_and_not_what_the_file_says(
    bench: Bench, declared: tuple[int | str, ...]
) -> None:
    found = await bench.find(stale("stale", *declared))
    (output,) = found.spec.outputs
    assert (output.batch_axis, output.sequence_axis, output.shape) == (0, None, (-1, -1))
    assert found.spec.padding is Padding.EQUAL


async def test_sizes_left_over_from_an_example_are_not_believed(bench: Bench) -> None:
    """The output is said to be of length 10 but follows the input: the axis is learned, and nothing is placed there."""

    def build(repository: Path) -> Path:
        return graphs.save(
            repository / "example" / "1" / "model.onnx",
            [
                helper.make_node("Shape", ["input_ids"], ["shape"]),
                helper.make_node("Expand", ["one", "shape"], ["out"]),
            ],
            [graphs.value("input_ids", "INT64", ["batch", "sequence"])],
            [graphs.value("out", "INT64", ["batch", 10])],
            {"one": np.ones((1, 1), np.int64)},
        )

    found = await bench.find(build)
    (output,) = found.spec.outputs
    assert (output.batch_axis, output.sequence_axis, output.foreseen) == (0, 1, False)
    assert found.spec.padding is Padding.ANY
    assert assembly.plan(found.spec, [work(found.spec, 2, 7)]).outputs == (wire.Wanted("out", None),)
