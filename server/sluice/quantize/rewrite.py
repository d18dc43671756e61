"""Makes the graph in which chosen layers are computed with fewer bits.

The law of this file: each layer is replaced by nodes that onnxruntime's CPU provider computes in whole bytes, whose
results are 32-bit floats again, so that whatever lies between two layers stays as exact as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sluice.quantize import numbers
from sluice.quantize.layers import Layer, weight_of
from sluice.quantize.methods import Method

Array = np.ndarray[Any, Any]
MICROSOFT = "com.microsoft"
_UNSIGNED_MIDDLE = 128
_SMALLEST_ROW = 1e-30  # the magnitude of a row of zeros, by which it is divided


@dataclass(frozen=True, slots=True)
class Range:
    """What a value was seen to be, over all calibration samples."""

    low: float
    high: float
    channels: Array  # the largest magnitude of each position of its last axis


Ranges = Mapping[str, Range]  # by value
Choice = Mapping[str, Method]  # by layer; those not named stay as they are


class Rewriter:
    """Makes any number of graphs of one."""

    def __init__(self, model: ModelProto, layers: tuple[Layer, ...], ranges: Ranges) -> None:
        self._model = model
        self._layers = layers
        self._ranges = ranges
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def apply(self, choice: Choice, producer: str = "", producer_version: str = "") -> ModelProto:
        draft = _Draft()
        replaced: dict[int, list[NodeProto]] = {}
        for layer in self._layers:
            if layer.name in choice:
                method = choice[layer.name]
                nodes = _Layering(draft, layer, method, self._ranges, weight_of(self._model, layer, self._tensors))
                replaced[layer.node] = nodes.made()
                if layer.adds >= 0:
                    replaced[layer.adds] = []
        return self._assemble(draft, replaced, producer, producer_version)

    def _assemble(
        self, draft: _Draft, replaced: Mapping[int, list[NodeProto]], producer: str, producer_version: str
    ) -> ModelProto:  # fmt: skip
        old = self._model.graph
        model = ModelProto()
        model.CopyFrom(_without_graph(self._model))
        if producer:
            model.producer_name, model.producer_version = producer, producer_version
        graph = model.graph
        graph.name, graph.doc_string = old.name, old.doc_string
        graph.input.extend(old.input)
        graph.output.extend(old.output)
        for number, node in enumerate(old.node):
            graph.node.extend(replaced.get(number, [node]))
        used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        used |= {name for node in graph.node for name in _captured(node)}
        graph.initializer.extend(tensor for tensor in old.initializer if tensor.name in used)
        graph.initializer.extend(draft.tensors.values())
        if any(node.domain == MICROSOFT for node in graph.node) and all(
            opset.domain != MICROSOFT for opset in model.opset_import
        ):
            model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
        return model


class _Draft:
    """What is new in a graph: its constants, and values that several layers share."""

    def __init__(self) -> None:
        self.tensors: dict[str, TensorProto] = {}
        self.shared: dict[tuple[object, ...], tuple[str, ...]] = {}

    def constant(self, name: str, array: Array) -> str:
        if name not in self.tensors:
            self.tensors[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def scalar(self, value: float, kind: type[np.generic] = np.float32) -> str:
        array = np.array(value, kind)
        return self.constant(f"quantized/{array.dtype}/{array.item()!r}", array)


class _Layering:
    """The nodes that stand for one layer."""

    def __init__(self, draft: _Draft, layer: Layer, method: Method, ranges: Ranges, matrix: Array) -> None:
        self._draft = draft
        self._layer = layer
        self._method = method
        self._ranges = ranges
        self._matrix = matrix
        self._nodes: list[NodeProto] = []

    def made(self) -> list[NodeProto]:
        ways: Mapping[str, Callable[[], None]] = {
            "rows": self._rows,
            "static": self._static,
            "dynamic": self._dynamic,
            "blocks": self._blocks,
            "stored": self._stored,
            "entries": self._entries,
        }
        ways[self._method.way]()
        return self._nodes

    def _rows(self) -> None:
        """Each row divided by its largest magnitude is within one fixed range, and its sums are multiplied again."""

        def scaled() -> tuple[str, ...]:
            magnitude = self._node("ReduceMax", [self._node("Abs", [value]), self._axes()], keepdims=1)
            magnitude = self._node("Max", [magnitude, self._draft.scalar(_SMALLEST_ROW)])
            unit = self._node("Div", [value, magnitude])
            scale, zero = self._draft.scalar(1 / 127), self._draft.scalar(_UNSIGNED_MIDDLE, np.uint8)
            return self._node("QuantizeLinear", [unit, scale, zero]), scale, zero, magnitude

        value, matrix = self._smoothed()
        rounded, scale, zero, magnitude = self._once(("rows", value), scaled)
        total = self._multiply(rounded, scale, zero, matrix, with_bias=False)
        result = self._layer.output if not self._layer.bias else ""
        product = self._node("Mul", [total, magnitude], output=result)
        if self._layer.bias:
            self._node("Add", [product, self._layer.bias], output=self._layer.output)

    def _static(self) -> None:
        def rounded() -> tuple[str, ...]:
            seen = self._ranges[self._layer.value]
            low, high = min(seen.low, 0.0), max(seen.high, 0.0)
            if self._method.smooth:
                smooth = self._smoothing()
                high = float((seen.channels / smooth).max())
                low = -high if seen.low < 0 else 0.0
            step = max((high - low) / 255, 1e-12)
            scale = self._draft.scalar(float(np.float32(step)))
            zero = self._draft.scalar(float(np.clip(np.rint(-low / step), 0, 255)), np.uint8)
            return self._node("QuantizeLinear", [value, scale, zero]), scale, zero

        value, matrix = self._smoothed()
        product = self._once(("static", value), rounded)
        self._multiply(*product, matrix, with_bias=True, output=self._layer.output)

    def _dynamic(self) -> None:
        def rounded() -> tuple[str, ...]:
            names = tuple(f"{value}/dynamic/{part}" for part in ("values", "scale", "zero"))
            self._nodes.append(helper.make_node("DynamicQuantizeLinear", [value], list(names), name=names[0]))
            return names

        value, matrix = self._smoothed()
        product = self._once(("dynamic", value), rounded)
        self._multiply(*product, matrix, with_bias=True, output=self._layer.output)

    def _blocks(self) -> None:
        layer, method = self._layer, self._method
        value, matrix = self._smoothed()
        blocks = numbers.by_blocks(matrix, method.bits, method.block)
        inputs = [
            value,
            self._draft.constant(f"{layer.name}/blocks", blocks.values),
            self._draft.constant(f"{layer.name}/scales", blocks.scales.reshape(-1)),
        ]
        if layer.bias:
            inputs += ["", "", layer.bias]
        sizes = {"K": layer.rows, "N": layer.columns, "bits": method.bits, "block_size": method.block}
        self._node("MatMulNBits", inputs, layer.output, MICROSOFT, accuracy_level=4, **sizes)

    def _stored(self) -> None:
        """The layer computes what it did; only its constant is written in half as many bits."""
        layer = self._layer
        tensor = numbers.halved(f"{layer.weight}/half", self._original, self._method.name)
        self._draft.tensors.setdefault(tensor.name, tensor)
        old = self._node_before
        if layer.kind == "table":  # only the rows that are taken are widened
            taken = self._node("Gather", [tensor.name, layer.value])
            self._node("Cast", [taken], layer.output, to=TensorProto.FLOAT)
            return
        wide = self._node("Cast", [tensor.name], to=TensorProto.FLOAT)
        again = NodeProto()
        again.CopyFrom(old)
        again.input[1] = wide
        self._nodes.append(again)

    def _entries(self) -> None:
        layer = self._layer
        table = numbers.by_rows(self._matrix)
        values = self._draft.constant(f"{layer.weight}/entries", table.values)
        scales = self._draft.constant(f"{layer.weight}/scales", table.scales)
        taken = self._node("Cast", [self._node("Gather", [values, layer.value])], to=TensorProto.FLOAT)
        self._node("Mul", [taken, self._node("Gather", [scales, layer.value])], output=layer.output)

    def _smoothed(self) -> tuple[str, Array]:
        """The value and the matrix, with outliers of the one moved into the other."""
        if not self._method.smooth:
            return self._layer.value, self._matrix
        smooth = self._smoothing()

        def divided() -> tuple[str, ...]:
            factors = self._draft.constant(f"{self._layer.name}/smooth", (1 / smooth).astype(np.float32))
            return (self._node("Mul", [self._layer.value, factors]),)

        (value,) = self._once(("smooth", self._layer.value, smooth.tobytes()), divided)
        return value, self._matrix * smooth[:, None]

    def _smoothing(self) -> Array:
        seen = np.maximum(self._ranges[self._layer.value].channels, 1e-5)
        weights = np.maximum(np.abs(self._matrix).max(axis=1), 1e-5)
        smooth = seen**self._method.smooth / weights ** (1 - self._method.smooth)
        return np.maximum(smooth / np.exp(np.log(smooth).mean()), 1e-3).astype(np.float32)

    def _multiply(
        self, value: str, scale: str, zero: str, matrix: Array, *, with_bias: bool, output: str = ""
    ) -> str:  # fmt: skip
        layer, method = self._layer, self._method
        columns = numbers.by_columns_unsigned(matrix) if method.unsigned else numbers.by_columns(matrix, method.bits)
        inputs = [
            value,
            self._draft.constant(f"{layer.name}/bytes", columns.values),
            scale,
            self._draft.constant(f"{layer.name}/scales", columns.scales),
            zero,
        ]
        zeros = "" if columns.zeros is None else self._draft.constant(f"{layer.name}/zeros", columns.zeros)
        inputs += [zeros, layer.bias] if with_bias and layer.bias else [zeros] if zeros else []
        return self._node("MatMulIntegerToFloat", inputs, output, MICROSOFT)

    def _axes(self) -> str:
        return self._draft.constant("quantized/last", np.array([-1], np.int64))

    def _once(self, key: tuple[object, ...], make: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
        """Layers of the same input share what is made of it; the first of them makes it."""
        if key not in self._draft.shared:
            self._draft.shared[key] = make()
        return self._draft.shared[key]

    def _node(
        self, operator: str, inputs: list[str], output: str = "", domain: str = "", **attributes: Any
    ) -> str:  # fmt: skip
        name = output or f"{self._layer.name}/{operator}/{len(self._nodes)}"
        made = helper.make_node(operator, inputs, [name], name=f"quantized/{name}", domain=domain, **attributes)
        self._nodes.append(made)
        return name


def _without_graph(model: ModelProto) -> ModelProto:
    copy = ModelProto(
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        doc_string=model.doc_string,
    )
    copy.opset_import.extend(model.opset_import)
    copy.metadata_props.extend(model.metadata_props)
    copy.functions.extend(model.functions)
    return copy


def _captured(node: NodeProto) -> set[str]:
    """What the graphs within a node use of the one around it."""
    found: set[str] = set()
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                found |= set(inner.input) | _captured(inner)
            found |= {output.name for output in graph.output}
    return found
