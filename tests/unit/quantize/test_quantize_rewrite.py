"""Layers with fewer bits, run by onnxruntime as a server would."""

from collections.abc import Callable
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from onnx import helper

from sluice.errors import ModelError
from sluice.evaluation.data import Sample
from sluice.quantize import layers, machine, targets, trial
from sluice.quantize.methods import Method
from sluice.quantize.rewrite import Rewriter
from sluice.quantize.scaling import Array

WIDE, NARROW = 96, 48
ROWS, CALIBRATED = Method("rows", "rows"), Method("rows", "rows", calibrated=True)
SEVEN, UNSIGNED = Method("rows", "rows", bits=7), Method("rows", "rows", unsigned=True, calibrated=True)
STATIC, BATCH = Method("static", "static"), Method("batch", "dynamic")
BLOCKS, FOUR = Method("blocks", "blocks", block=32), Method("four", "blocks", 4, block=16)
FP16, BF16, ENTRIES = Method("fp16", "stored", 16), Method("bf16", "stored", 16), Method("entries", "entries")

Run = Callable[[onnx.ModelProto, Array], Array]


@pytest.fixture
def model(tmp_path: Path) -> onnx.ModelProto:
    """ids -> rows of a table -> two products of one value, one of them a Gemm of a turned matrix -> their sum -> y."""
    random = np.random.default_rng(5)

    def drawn(*shape: int) -> Array:
        values: Array = random.standard_normal(shape).astype(np.float32)
        return values

    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["taken"]),
        helper.make_node("Relu", ["taken"], ["x"]),
        helper.make_node("MatMul", ["x", "first"], ["product"]),
        helper.make_node("Add", ["bias", "product"], ["one"]),
        helper.make_node("Gemm", ["x", "second", "bias"], ["other"], transB=1),
        helper.make_node("Sum", ["one", "other"], ["both"]),
        helper.make_node("MatMul", ["both", "last"], ["y"]),
    ]
    weights = {
        "table": drawn(64, WIDE) * np.where(np.arange(WIDE) % 17, 1, 20).astype(np.float32),
        "first": drawn(WIDE, NARROW),
        "second": drawn(NARROW, WIDE),
        "bias": drawn(NARROW),
        "last": drawn(NARROW, NARROW),
    }
    path = graphs.save(
        tmp_path / "m" / "1" / "model.onnx",
        nodes,
        [graphs.value("ids", "INT64", ["batch"])],
        [graphs.value("y", "FP32", ["batch", NARROW])],
        weights,
    )
    return onnx.load(str(path))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def running(model: onnx.ModelProto, ids: Array) -> Array:
        trial.write(model, tmp_path / "run")
        with trial.loaded(tmp_path / "run" / "model.onnx") as loaded:
            return np.array(loaded.backend.run({"ids": ids}, {"y": None})["y"])

    return running


def rewriter(model: onnx.ModelProto, folder: Path) -> Rewriter:
    found = layers.find(model)
    samples = [Sample({"ids": np.arange(start, start + 8)}) for start in range(0, 56, 4)]
    seen = trial.ranges(model, ["x", "both"], samples, folder / "calibration", lambda done: None)
    return Rewriter(model, found, seen)


def cosine(first: Array, second: Array) -> float:
    both = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    return float(both.min())


def test_finds_products_and_tables_with_their_biases(model: onnx.ModelProto) -> None:
    found = {layer.name: (layer.kind, layer.rows, layer.columns, layer.bias) for layer in layers.find(model)}
    assert found == {
        "table": ("table", 64, WIDE, ""),
        "first": ("product", WIDE, NARROW, "bias"),
        "second": ("product", WIDE, NARROW, "bias"),
        "last": ("product", NARROW, NARROW, ""),
    }


@pytest.mark.parametrize(
    ("method", "least"),
    [
        (ROWS, 0.9995),
        (CALIBRATED, 0.9997),
        (SEVEN, 0.999),
        (UNSIGNED, 0.9995),
        (STATIC, 0.997),
        (BATCH, 0.997),
        (BLOCKS, 0.9995),
        (FOUR, 0.98),
        (FP16, 0.999999),
        (BF16, 0.9999),
    ],
)
def test_products_stay_near(model: onnx.ModelProto, run: Run, tmp_path: Path, method: Method, least: float) -> None:
    ids = np.arange(64)
    made = rewriter(model, tmp_path).apply(dict.fromkeys(("first", "second", "last"), method))
    onnx.checker.check_model(made)
    assert not {"first", "second", "last"} & {tensor.name for tensor in made.graph.initializer}
    found = cosine(run(model, ids), run(made, ids))
    assert least <= found < 1


@pytest.mark.parametrize("method", [ENTRIES, FP16, BF16])
def test_tables_stay_near(model: onnx.ModelProto, run: Run, tmp_path: Path, method: Method) -> None:
    made = rewriter(model, tmp_path).apply({"table": method})
    assert "table" not in {tensor.name for tensor in made.graph.initializer}
    assert 0.998 < cosine(run(model, np.arange(64)), run(made, np.arange(64))) < 1


@pytest.mark.parametrize(
    ("method", "alike"), [(ROWS, True), (CALIBRATED, True), (BLOCKS, True), (FOUR, True), (BATCH, False)]
)
def test_company_changes_nothing_but_where_the_batch_has_one_scale(
    model: onnx.ModelProto, run: Run, tmp_path: Path, method: Method, alike: bool
) -> None:
    made = rewriter(model, tmp_path).apply(dict.fromkeys(("first", "second", "last"), method))
    together = run(made, np.arange(24))
    alone = np.concatenate([run(made, np.array([number])) for number in range(24)])
    assert bool(np.abs(together - alone).max() < 1e-4 * np.abs(alone).max()) is alike


def test_a_layer_that_is_not_named_stays_as_it_is(model: onnx.ModelProto, tmp_path: Path) -> None:
    made = rewriter(model, tmp_path).apply({"first": ROWS})
    kept = {tensor.name: tensor for tensor in made.graph.initializer}
    assert {"second", "last", "table", "bias"} <= kept.keys()
    assert [node.op_type for node in made.graph.node].count("Gemm") == 1


def test_layers_of_one_input_share_its_bytes(model: onnx.ModelProto, tmp_path: Path) -> None:
    made = rewriter(model, tmp_path).apply({"first": CALIBRATED, "second": CALIBRATED})
    assert [node.op_type for node in made.graph.node].count("QuantizeLinear") == 1


def test_rows_of_zeros_and_of_no_numbers_stay_what_they_are(model: onnx.ModelProto, run: Run, tmp_path: Path) -> None:
    """NaN must not become a number on the way through bytes: somebody would believe it."""
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "table")
    values = np.array(onnx.numpy_helper.to_array(table))
    values[3], values[4, 0] = 0, np.nan
    made = rewriter(model, tmp_path).apply(dict.fromkeys(("first", "second", "last"), ROWS))
    for each in (model, made):
        for tensor in each.graph.initializer:
            if tensor.name == "table":
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, "table"))
    found = run(made, np.array([3, 4, 5]))
    assert np.isfinite(found[[0, 2]]).all()
    assert np.isnan(found[1]).all()
    assert cosine(run(model, np.array([3, 5])), found[[0, 2]]) > 0.999


def test_what_is_small_is_left_alone(tmp_path: Path) -> None:
    weights: dict[str, Array] = {"w": np.ones((64, 4), np.float32)}
    path = graphs.save(
        tmp_path / "m" / "1" / "model.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [graphs.value("x", "FP32", ["batch", 64])],
        [graphs.value("y", "FP32", ["batch", 4])],
        weights,
    )
    with pytest.raises(ModelError, match="nothing to quantize"):
        layers.find(onnx.load(str(path)))


@pytest.mark.parametrize(
    ("flags", "bytes_are", "bits"),
    [("sse2 avx2", "saturating", 7), ("avx2 avx512_vnni", "exact", 8), ("avx2 avx_vnni", "exact", 8)],
)
def test_weights_have_seven_bits_where_sums_of_bytes_would_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, bytes_are: str, bits: int
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    information = tmp_path / "cpuinfo"
    information.write_text(f"processor\t: 0\nmodel name\t: Some Processor\nflags\t\t: {flags}\n")
    found = machine.this(information)
    assert (found.name, found.bytes) == ("Some Processor", bytes_are)
    assert {method.bits for method in targets.menu("int8", found).methods if method.way == "rows"} == {bits}
