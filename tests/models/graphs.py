"""Small ONNX models whose answers can be checked by hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DATATYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def save(
    path: Path, nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto],
    constants: Mapping[str, np.ndarray[Any, Any]] | None = None,
) -> Path:  # fmt: skip
    """Write a checked model file, making its directories."""
    initializers = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


def value(name: str, datatype: str, shape: list[int | str | None]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, DATATYPES[datatype], shape)


def identity(
    repository: Path,
    name: str = "identity",
    datatypes: tuple[str, ...] = ("FP32",),
    shape: tuple[int | str, ...] = ("batch", "n"),
) -> Path:  # fmt: skip
    """Each INPUT<i> comes back as OUTPUT<i>."""
    nodes, inputs, outputs = [], [], []
    for index, datatype in enumerate(datatypes):
        nodes.append(helper.make_node("Identity", [f"INPUT{index}"], [f"OUTPUT{index}"]))
        inputs.append(value(f"INPUT{index}", datatype, list(shape)))
        outputs.append(value(f"OUTPUT{index}", datatype, list(shape)))
    return save(repository / name / "1" / "model.onnx", nodes, inputs, outputs)


def tagger(repository: Path, name: str = "tagger", version: str = "1", factor: int = 2) -> Path:
    """input_ids [batch, sequence] -> tokens = ids × factor [batch, sequence], total = their masked sum [batch, 1].

    A length-aware model without weights: every answer tells which row it belongs to."""
    nodes = [
        helper.make_node("Mul", ["input_ids", "factor"], ["tokens"]),
        helper.make_node("Mul", ["tokens", "attention_mask"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "axis"], ["total"], keepdims=1),
    ]
    ids = [value(one, "INT64", ["batch", "sequence"]) for one in ("input_ids", "attention_mask")]
    outputs = [value("tokens", "INT64", ["batch", "sequence"]), value("total", "INT64", ["batch", 1])]
    constants: dict[str, np.ndarray[Any, Any]] = {"factor": np.array(factor, np.int64), "axis": np.array([1], np.int64)}
    return save(repository / name / version / "model.onnx", nodes, ids, outputs, constants)


def unmasked_mean(repository: Path, name: str = "unmasked") -> Path:
    """input_ids [batch, sequence] -> mean over the sequence, padding included: padding changes its answers."""
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["mean"], axes=[1], keepdims=1),
    ]
    return save(
        repository / name / "1" / "model.onnx",
        nodes,
        [value("input_ids", "INT64", ["batch", "sequence"])],
        [value("mean", "FP32", ["batch", 1])],
    )


def scaled_by_batch(repository: Path, name: str = "mingled") -> Path:
    """x [batch, 4] -> x ÷ the largest of the whole batch: rows of one batch change each other."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Div", ["x", "largest"], ["y"]),
    ]
    return save(
        repository / name / "1" / "model.onnx",
        nodes,
        [value("x", "FP32", ["batch", 4])],
        [value("y", "FP32", ["batch", 4])],
    )


def lookup(repository: Path, name: str = "lookup", rows: int = 100) -> Path:
    """input_ids [batch, sequence] -> the mean of table rows [batch, 8]; ids beyond `rows` are refused by the model."""
    table: np.ndarray[Any, Any] = np.random.default_rng(0).standard_normal((rows, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"], axis=0),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("Mul", ["vectors", "wide"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["embedding"], keepdims=0),
    ]
    ids = [value(one, "INT64", ["batch", "sequence"]) for one in ("input_ids", "attention_mask")]
    constants = {"table": table, "last": np.array([2], np.int64), "one": np.array([1], np.int64)}
    return save(
        repository / name / "1" / "model.onnx", nodes, ids, [value("embedding", "FP32", ["batch", 8])], constants
    )


def weights_apart(path: Path, location: str = "weights.bin", least: int = 1024) -> Path:
    """Move a model's weights, of so many bytes at least, into a file of their own."""
    model = onnx.load(path)
    path.unlink()
    (path.parent / location).parent.mkdir(exist_ok=True)
    onnx.save(
        model,
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=location,
        size_threshold=least,
        convert_attribute=False,
    )
    return path


PYTHON_MODEL = '''
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Model:
    """Echoes; certain values make it slow, raise or die, and a file can hold it up."""

    def load(self, directory, parameters):
        self.gate = Path(parameters["gate"]) if "gate" in parameters else None

    def run(self, inputs):
        x = inputs["x"]
        if (x == 666).any():
            raise RuntimeError("the number of the beast")
        if (x == 999).any():
            os._exit(9)
        if self.gate is not None and self.gate.exists():
            self.gate.with_suffix(".held").touch()  # whoever shut the gate can see that a batch stands before it
            while self.gate.exists():
                time.sleep(0.002)
        return {"y": x}
'''


def python_echo(repository: Path, name: str = "echo", gate: Path | None = None, more: str = "") -> Path:
    """x [batch, n] INT64 -> y. 666 raises, 999 kills the worker; while the file `gate` exists it does not return, and
    the file beside it with the suffix .held says that it was reached."""
    parameters = f'[parameters]\ngate = "{gate}"\n' if gate else ""
    if gate and "target_latency" not in more:  # held up for seconds, it must not come to refuse what is too much then
        more += "\ntarget_latency = 60"
    return python_model(repository, name, PYTHON_MODEL, more, parameters)


def python_model(
    repository: Path, name: str, source: str, more: str = "", parameters: str = "", version: str = "1"
) -> Path:
    """x [batch, n] INT64 -> y of the same shape, by this code."""
    directory = repository / name
    (directory / version).mkdir(parents=True, exist_ok=True)
    (directory / version / "model.py").write_text(source)
    (directory / "model.toml").write_text(
        f"""{more}
[[input]]
name = "x"
datatype = "INT64"
shape = [-1, -1]
batch_axis = 0
[[output]]
name = "y"
datatype = "INT64"
shape = [-1, -1]
batch_axis = 0
{parameters}"""
    )
    return directory
