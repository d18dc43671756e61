"""Collects the nodes and weights of one ONNX graph; knows the format, not the models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

# Opset 20 brought Gelu; onnxruntime reads it, and this IR, since 1.20, the oldest version the server accepts.
OPSET = 20
IR_VERSION = 10

FLOAT = int(TensorProto.FLOAT)
INT64 = int(TensorProto.INT64)
BOOL = int(TensorProto.BOOL)

Dims = Sequence[int | str]


class Graph:
    """Nodes in the order they are added; every method returns the name of what it added."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def input(self, name: str, dims: Dims) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, list(dims)))
        return name

    def output(self, name: str, value: str, dims: Dims) -> None:
        """Give a value a public name."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=f"output/{name}"))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims)))

    def weight(self, name: str, array: np.ndarray[Any, Any]) -> str:
        """Stored once, however often layers that are the same ask for it."""
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def constant(self, value: float | Sequence[int]) -> str:
        """A float scalar, or an int64 scalar or list; equal ones are stored once."""
        array = np.array(value, np.float32) if isinstance(value, float) else np.array(value, np.int64)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.weight(f"constant/{len(self._constants)}", array)
        return self._constants[key]

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operator}/{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def model(self, producer: str, producer_version: str) -> ModelProto:
        graph = helper.make_graph(self._nodes, "sluice", self._inputs, self._outputs, list(self._initializers.values()))
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name=producer,
            producer_version=producer_version,
        )
