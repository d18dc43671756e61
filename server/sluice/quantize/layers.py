"""Finds what can be made smaller in an ONNX graph: products with constant matrices, and tables of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from sluice.errors import ModelError

# Less costs next to nothing, and each of its numbers matters: a last layer of few classes, a table of two types.
SMALLEST, NARROWEST = 1024, 16

Kind = Literal["product", "table"]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Layer:
    """One place of the graph that can be computed, or kept, with fewer bits."""

    name: str
    kind: Kind
    node: int  # its number in the graph
    weight: str
    rows: int  # of the weight: what a product sums over, or the entries of a table
    columns: int
    value: str  # what is multiplied, or which rows are taken
    bias: str  # added right behind a product; "" = nothing is
    output: str  # of the product and its bias
    adds: int  # the number of the node that adds the bias; -1 = none does

    @property
    def size(self) -> int:
        return self.rows * self.columns


def find(model: ModelProto) -> tuple[Layer, ...]:
    """In the order of the graph; ModelError if there is nothing."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(output.name for output in graph.output)
    readers = {name: number for number, node in enumerate(graph.node) for name in node.input}
    found: list[Layer] = []
    for number, node in enumerate(graph.node):
        layer = _layer(graph, number, node, weights)
        if layer is not None:
            found.append(_with_bias(graph, layer, weights, uses, readers))
    if not found:
        raise ModelError(
            "the model has nothing to quantize: no product of 32-bit floats with a constant matrix of at least "
            f"{SMALLEST} numbers"
        )
    return tuple(found)


def weight_of(model: ModelProto, layer: Layer, tensors: Mapping[str, TensorProto]) -> Array:
    """Its matrix, laid out as rows × columns whatever the file does."""
    array = numpy_helper.to_array(tensors[layer.weight])
    return np.ascontiguousarray(array.T if is_turned(model.graph.node[layer.node]) else array)


def is_turned(node: NodeProto) -> bool:
    """Whether the file has its matrix as columns × rows."""
    return node.op_type == "Gemm" and bool(_attribute(node, "transB"))


def _layer(graph: GraphProto, number: int, node: NodeProto, weights: Mapping[str, TensorProto]) -> Layer | None:
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Gather" and node.input[0] in weights and not _attribute(node, "axis"):
        weight, value, kind = node.input[0], node.input[1], "table"
    elif node.op_type in ("MatMul", "Gemm") and node.input[1] in weights and node.input[0] not in weights:
        weight, value, kind = node.input[1], node.input[0], "product"
    else:
        return None
    dims = list(weights[weight].dims)
    if len(dims) != 2 or dims[0] * dims[1] < SMALLEST or min(dims) < NARROWEST:
        return None
    bias = ""
    if node.op_type == "Gemm":
        plain = _attribute(node, "alpha", 1.0) == 1.0 and not _attribute(node, "transA")
        bias = node.input[2] if len(node.input) > 2 else ""
        known = not bias or (
            bias in weights and list(weights[bias].dims) == [dims[0 if _attribute(node, "transB") else 1]]
        )
        if not plain or not known or (bias and _attribute(node, "beta", 1.0) != 1.0):
            return None
        if _attribute(node, "transB"):
            dims.reverse()
    return Layer(
        name=weight if sum(weight in other.input for other in graph.node) == 1 else f"{weight}#{number}",
        kind="table" if kind == "table" else "product",
        node=number,
        weight=weight,
        rows=dims[0],
        columns=dims[1],
        value=value,
        bias=bias,
        output=node.output[0],
        adds=-1,
    )


def _with_bias(
    graph: GraphProto,
    layer: Layer,
    weights: Mapping[str, TensorProto],
    uses: Mapping[str, int],
    readers: Mapping[str, int],
) -> Layer:
    """With the constant vector that the next node adds, if nobody else wants the sum without it."""
    if layer.kind == "table" or layer.bias or uses[layer.output] != 1 or layer.output not in readers:
        return layer
    number = readers[layer.output]
    node = graph.node[number]
    if node.op_type != "Add":
        return layer
    bias = node.input[0] if node.input[1] == layer.output else node.input[1]
    if bias not in weights or list(weights[bias].dims) != [layer.columns]:
        return layer
    return Layer(
        layer.name, layer.kind, layer.node, layer.weight, layer.rows, layer.columns, layer.value, bias,
        node.output[0], number,
    )  # fmt: skip


def _attribute(node: NodeProto, name: str, otherwise: Any = 0) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return attribute.f if attribute.type == attribute.FLOAT else attribute.i
    return otherwise
