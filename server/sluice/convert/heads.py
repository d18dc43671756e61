"""Writes what follows an encoder: pooling to one embedding, or classification."""

from __future__ import annotations

from sluice.convert.architecture import Architecture
from sluice.convert.graph import BOOL, FLOAT, Graph
from sluice.convert.layers import activate, first_token, linear
from sluice.convert.source import Dense, Normalize, Pooling, Step
from sluice.convert.weights import Weights
from sluice.errors import ModelError

LOWEST = -3.4028234663852886e38  # of 32-bit floats


def add_step(graph: Graph, step: Step, value: str, size: int, mask: str) -> tuple[str, int]:
    """One of sentence-transformers' modules; returns the value it made and the value's new size."""
    match step:
        case Pooling():
            pooled = [_pool(graph, mode, value, mask) for mode in step.modes]
            joined = graph.node("Concat", *pooled, axis=-1) if len(pooled) > 1 else pooled[0]
            return joined, size * len(pooled)
        case Dense():
            return _dense(graph, step, value, size), step.new_size
        case Normalize():
            length = graph.node("ReduceL2", value, graph.constant([-1]), keepdims=1)
            return graph.node("Div", value, graph.node("Max", length, graph.constant(1e-12))), size


def _pool(graph: Graph, mode: str, states: str, attention_mask: str) -> str:
    """[batch, sequence, hidden] → [batch, hidden]; a row without tokens gives zeros, or its first state."""
    mask = graph.node("Cast", attention_mask, to=FLOAT)
    if mode == "cls":
        # The first token that is not masked: clients may pad on the left.
        first = graph.node("ArgMax", mask, axis=1, keepdims=1)
        return graph.node("GatherND", states, first, batch_dims=1)
    column = graph.node("Unsqueeze", mask, graph.constant([2]))
    if mode == "max":
        kept = graph.node("Where", graph.node("Cast", column, to=BOOL), states, graph.constant(LOWEST))
        highest = graph.node("ReduceMax", kept, graph.constant([1]), keepdims=0)
        return graph.node("Mul", highest, graph.node("ReduceMax", column, graph.constant([1]), keepdims=0))
    row = graph.node("Unsqueeze", mask, graph.constant([1]))
    total = graph.node("Squeeze", graph.node("MatMul", row, states), graph.constant([1]))
    count = graph.node("Max", graph.node("ReduceSum", mask, graph.constant([1]), keepdims=1), graph.constant(1e-9))
    return graph.node("Div", total, count if mode == "mean" else graph.node("Sqrt", count))


def _dense(graph: Graph, step: Dense, value: str, size: int) -> str:
    where = f"{step.file.parent.name}/config.json"
    if step.size != size:
        raise ModelError(f"{where}: in_features = {step.size}, but what comes before gives {size}")
    with Weights([step.file]) as weights:
        matrix = weights.take("linear.weight", (step.new_size, step.size)).T
        value = graph.node("MatMul", value, graph.weight(f"{step.file.parent.name}.weight", matrix))
        if step.bias:
            bias = graph.weight(f"{step.file.parent.name}.bias", weights.take("linear.bias", (step.new_size,)))
            value = graph.node("Add", value, bias)
    return activate(graph, step.activation, value)


def add_sequence_classifier(graph: Graph, architecture: Architecture, weights: Weights, states: str) -> tuple[str, int]:
    """Logits of the whole sequence, and how many there are."""
    head = architecture.family.head
    first = _dense_of_first(graph, architecture, weights, (head.dense, states))
    return _classify(graph, architecture, weights, (head.last, activate(graph, head.activation, first)))


def has_pooler(architecture: Architecture, weights: Weights) -> bool:
    name = architecture.family.pooler
    return bool(name) and f"{name}.weight" in weights


def add_pooler(graph: Graph, architecture: Architecture, weights: Weights, states: str) -> str:
    """[batch, hidden], of the first token, as the library that these models come from calls it."""
    first = _dense_of_first(graph, architecture, weights, (architecture.family.pooler, states))
    return activate(graph, "tanh", first)


def _dense_of_first(graph: Graph, architecture: Architecture, weights: Weights, layer: tuple[str, str]) -> str:
    name, states = layer
    return linear(graph, weights, name, first_token(graph, states), (architecture.hidden, architecture.hidden))


def add_token_classifier(graph: Graph, architecture: Architecture, weights: Weights, states: str) -> tuple[str, int]:
    """Logits of every token, and how many there are."""
    return _classify(graph, architecture, weights, ("classifier", states))


def _classify(graph: Graph, architecture: Architecture, weights: Weights, last: tuple[str, str]) -> tuple[str, int]:
    name, value = last
    labels = weights.shape(f"{name}.weight")[0]
    return linear(graph, weights, name, value, (architecture.hidden, labels)), labels
