"""Imported models compute what the libraries they come from compute."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from sluice.convert.demo import demo_source
from sluice.convert.importer import import_directory
from sluice.errors import ConfigError

GOLDEN = Path(__file__).parents[2] / "models" / "golden"
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/config.json"))

Arrays = dict[str, np.ndarray[Any, Any]]


def read_expected(case: str) -> tuple[Arrays, Arrays]:
    with np.load(GOLDEN / case / "expected.npz") as stored:
        parts: tuple[Arrays, Arrays] = ({}, {})
        for name in stored:
            kind, _, tensor = name.partition(".")
            parts[kind == "output"][tensor] = stored[name]
    return parts


def start(model: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model / "model.onnx"), options, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, inputs: Arrays) -> Arrays:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def assert_close(actual: Any, expected: Any, mask: Any, tolerance: float) -> None:
    assert actual.shape == expected.shape
    if actual.ndim == 3:
        actual, expected = actual[mask == 1], expected[mask == 1]  # what stands in padding is nobody's
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_the_original_library(case: str, tmp_path: Path) -> None:
    inputs, expected = read_expected(case)
    session = start(import_directory(GOLDEN / case, tmp_path, case))
    assert {port.name for port in session.get_inputs()} == set(inputs)
    outputs = run(session, inputs)
    assert set(outputs) == set(expected)
    for name, tensor in expected.items():
        assert_close(outputs[name], tensor, inputs["attention_mask"], 2e-5)


@pytest.mark.parametrize("case", CASES)
def test_rows_do_not_depend_on_padding(case: str, tmp_path: Path) -> None:
    inputs, _ = read_expected(case)
    session = start(import_directory(GOLDEN / case, tmp_path, case))
    together = run(session, inputs)
    for row, length in enumerate(inputs["attention_mask"].sum(axis=1)):
        alone = run(session, {name: tensor[row : row + 1, :length] for name, tensor in inputs.items()})
        for name, tensor in alone.items():
            same = together[name][row : row + 1]
            same = same[:, :length] if tensor.ndim == 3 else same
            np.testing.assert_allclose(same, tensor, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("case", CASES)
def test_rows_without_tokens_are_finite(case: str, tmp_path: Path) -> None:
    inputs, _ = read_expected(case)
    session = start(import_directory(GOLDEN / case, tmp_path, case))
    inputs["attention_mask"][1] = 0
    assert all(np.isfinite(tensor).all() for tensor in run(session, inputs).values())


@pytest.mark.parametrize("case", CASES)
def test_files_use_standard_operators_and_named_dimensions(case: str, tmp_path: Path) -> None:
    path = import_directory(GOLDEN / case, tmp_path, case) / "model.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} == {""}
    assert [opset.domain for opset in model.opset_import] == [""]
    for value in model.graph.input:
        assert [dim.dim_param for dim in value.type.tensor_type.shape.dim] == ["batch", "sequence"]
        assert value.type.tensor_type.elem_type == onnx.TensorProto.INT64
    for value in model.graph.output:
        dims = value.type.tensor_type.shape.dim
        assert [dim.dim_param for dim in dims[:-1]] == ["batch", "sequence"][: len(dims) - 1]
        assert dims[-1].dim_value > 0


def test_left_padding_gives_the_same_pooled_embedding_for_learned_first_token(tmp_path: Path) -> None:
    inputs, _ = read_expected("roberta-cls-mean")
    session = start(import_directory(GOLDEN / "roberta-cls-mean", tmp_path, "roberta"))
    ids = inputs["input_ids"][1:2, :7]
    left = np.concatenate([np.ones((1, 5), np.int64), ids], axis=1)
    mask = (np.arange(12) >= 5).astype(np.int64)[None]
    alone = run(session, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    padded = run(session, {"input_ids": left, "attention_mask": mask})
    np.testing.assert_allclose(padded["embedding"], alone["embedding"], rtol=2e-6, atol=2e-6)


def test_onnxruntime_fuses_what_pays_and_not_what_costs(tmp_path: Path) -> None:
    path = import_directory(GOLDEN / "roberta-cls-mean", tmp_path, "roberta") / "model.onnx"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns that the optimised file is for this machine
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert operators.count("BiasGelu") == 2
    assert operators.count("FusedMatMul") == 2  # scores with their scale
    assert operators.count("LayerNormalization") == 5
    assert "SkipLayerNormalization" not in operators


def test_the_real_model_gives_known_embeddings(tmp_path: Path) -> None:
    try:
        source = demo_source()
    except ConfigError as error:
        pytest.skip(error.message)
    inputs, expected = read_expected("minilm")
    actual = run(start(import_directory(source, tmp_path, "minilm")), inputs)["embedding"]
    assert np.abs(actual - expected["embedding"]).max() < 1e-4
    assert (actual * expected["embedding"]).sum(axis=1).min() > 0.99999
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 1.0, atol=1e-6)
