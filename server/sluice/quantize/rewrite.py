"""Makes the graph in which chosen layers are computed with fewer bits.

The law of this file: each layer is replaced by nodes that onnxruntime's CPU provider computes in whole bytes, whose
results are 32-bit floats again, so that whatever lies between two layers stays as exact as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sluice.quantize import numbers, scaling
from sluice.quantize.layers import Layer, is_turned, weight_of
from sluice.quantize.methods import Method
from sluice.quantize.scaling import Scaling, Seen

Array = np.ndarray[Any, Any]
MICROSOFT = "com.microsoft"
_UNSIGNED_MIDDLE = 128
_SMALLEST_ROW = 1e-30  # the magnitude of a row of zeros, by which it is divided


Ranges = Mapping[str, Seen]  # by value
Choice = Mapping[str, Method]  # by layer; those not named stay as they are


class Rewriter:
    """Makes any number of graphs of one."""

    def __init__(self, model: ModelProto, layers: tuple[Layer, ...], ranges: Ranges) -> None:
        self._model = model
        self._layers = layers
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._prepared = _Prepared(ranges, self._matrices)

    def _matrices(self, value: str) -> list[Array]:
        """Of all products that take the value."""
        chosen = [layer for layer in self._layers if layer.kind == "product" and layer.value == value]
        return [weight_of(self._model, layer, self._tensors) for layer in chosen]

    def apply(self, choice: Choice, producer: str = "", producer_version: str = "") -> ModelProto:
        draft = _Draft()
        replaced: dict[int, list[NodeProto]] = {}
        for layer in self._layers:
            if layer.name in choice:
                method = choice[layer.name]
                matrix = weight_of(self._model, layer, self._tensors)
                nodes = _Layering(draft, layer, method, self._prepared, matrix, self._model)
                replaced[layer.node] = nodes.made()
                if layer.adds >= 0 and method.way != "stored":
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


class _Prepared:
    """What is found out once for all graphs."""

    def __init__(self, ranges: Ranges, matrices: Callable[[str], list[Array]]) -> None:
        self.ranges = ranges
        self.matrices = matrices
        self._found: dict[tuple[object, ...], Any] = {}

    def once(self, key: tuple[object, ...], find: Callable[[], Any]) -> Any:
        if key not in self._found:
            self._found[key] = find()
        return self._found[key]


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

    def __init__(
        self, draft: _Draft, layer: Layer, method: Method, prepared: _Prepared, matrix: Array, model: ModelProto
    ) -> None:  # fmt: skip
        self._draft = draft
        self._layer = layer
        self._method = method
        self._prepared = prepared
        self._matrix = matrix
        self._model = model
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
        layer, draft = self._layer, self._draft
        chosen = self._scaling()

        def rounded() -> tuple[str, ...]:
            value = layer.value
            if chosen.factors is not None:
                factors = draft.constant(f"{layer.name}/factors", (1 / chosen.factors).astype(np.float32))
                value = self._node("Mul", [value, factors])
            largest = self._node("Max", [self._largest(self._node("Abs", [value])), draft.scalar(_SMALLEST_ROW)])
            unit = self._node("Div", [value, largest])
            scale, zero = draft.scalar(chosen.step), draft.scalar(chosen.zero, np.uint8)
            return self._node("QuantizeLinear", [unit, scale, zero]), scale, zero, largest

        *value, largest = self._once(("rows", layer.value, self._method), rounded)
        matrix = self._matrix if chosen.factors is None else self._matrix * chosen.factors[:, None]
        total = self._multiply(value, matrix, with_bias=False)
        product = self._node("Mul", [total, largest], "" if layer.bias else layer.output)
        if layer.bias:
            self._node("Add", [product, layer.bias], layer.output)

    def _scaling(self) -> Scaling:
        value, method = self._layer.value, self._method
        if not method.calibrated:
            return Scaling(None, _UNSIGNED_MIDDLE)
        found: Scaling = self._prepared.once(
            ("rows", value, method),
            lambda: scaling.by_rows(
                self._prepared.ranges[value], self._prepared.matrices(value), method.bits, method.unsigned
            ),
        )
        return found

    def _static(self) -> None:
        value = self._layer.value
        step, zero = self._prepared.once(
            ("static", value), lambda: scaling.of_all(self._prepared.ranges[value], self._prepared.matrices(value))
        )

        def rounded() -> tuple[str, ...]:
            scale, middle = self._draft.scalar(step), self._draft.scalar(zero, np.uint8)
            return self._node("QuantizeLinear", [value, scale, middle]), scale, middle

        self._multiply(self._once(("static", value), rounded), self._matrix, with_bias=True)

    def _dynamic(self) -> None:
        def rounded() -> tuple[str, ...]:
            names = tuple(f"{value}/dynamic/{part}" for part in ("values", "scale", "zero"))
            self._nodes.append(helper.make_node("DynamicQuantizeLinear", [value], list(names), name=names[0]))
            return names

        value = self._layer.value
        self._multiply(self._once(("dynamic", value), rounded), self._matrix, with_bias=True)

    def _blocks(self) -> None:
        layer, method = self._layer, self._method
        blocks: numbers.Blocks = self._prepared.once(
            ("blocks", layer.name, method), lambda: numbers.by_blocks(self._matrix, method.bits, method.block)
        )
        inputs = [
            layer.value,
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
        old = self._model.graph.node[layer.node]
        matrix = self._matrix.T if is_turned(old) else self._matrix
        tensor = numbers.halved(f"{layer.weight}/half", matrix, self._method.name)
        self._draft.tensors.setdefault(tensor.name, tensor)
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

    def _multiply(self, rounded: Sequence[str], matrix: Array, *, with_bias: bool) -> str:
        """The product of bytes, as floats; `rounded` are the value's bytes, their scale and what stands for zero."""
        value, scale, zero = rounded
        layer, method = self._layer, self._method
        columns: numbers.Columns = self._prepared.once(
            ("columns", layer.name, method),
            lambda: numbers.by_columns_unsigned(matrix) if method.unsigned else numbers.by_columns(matrix, method.bits),
        )
        inputs = [
            value,
            self._draft.constant(f"{layer.name}/bytes", columns.values),
            scale,
            self._draft.constant(f"{layer.name}/scales", columns.scales),
            zero,
        ]
        zeros = "" if columns.zeros is None else self._draft.constant(f"{layer.name}/zeros", columns.zeros)
        inputs += [zeros, layer.bias] if with_bias and layer.bias else [zeros] if zeros else []
        return self._node("MatMulIntegerToFloat", inputs, layer.output if with_bias else "", MICROSOFT)

    def _largest(self, value: str) -> str:
        """Along the last axis, which is an input of the operator since opset 18."""
        opset = next((each.version for each in self._model.opset_import if each.domain in ("", "ai.onnx")), 1)
        if opset < 18:
            return self._node("ReduceMax", [value], keepdims=1, axes=[-1])
        axes = self._draft.constant("quantized/last", np.array([-1], np.int64))
        return self._node("ReduceMax", [value, axes], keepdims=1)

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
