"""The small pieces that encoders and heads are made of."""

from __future__ import annotations

from sluice.convert.graph import Graph
from sluice.convert.weights import Weights


def linear(graph: Graph, weights: Weights, name: str, value: str, sizes: tuple[int, int]) -> str:
    """Multiply the last axis from sizes[0] to sizes[1] and add the bias."""
    matrix = graph.weight(f"{name}.weight", weights.take(f"{name}.weight", (sizes[1], sizes[0])).T)
    bias = graph.weight(f"{name}.bias", weights.take(f"{name}.bias", (sizes[1],)))
    return graph.node("Add", graph.node("MatMul", value, matrix), bias)


def activate(graph: Graph, kind: str, value: str) -> str:
    match kind:
        case "gelu":
            return graph.node("Gelu", value)
        case "gelu_tanh":
            return graph.node("Gelu", value, approximate="tanh")
        case "relu":
            return graph.node("Relu", value)
        case "silu":
            return graph.node("Mul", value, graph.node("Sigmoid", value))
        case "tanh":
            return graph.node("Tanh", value)
        case "sigmoid":
            return graph.node("Sigmoid", value)
        case "identity":
            return value
        case _:
            raise AssertionError(f"no such activation: {kind}")


def first_token(graph: Graph, states: str) -> str:
    """[batch, sequence, hidden] → [batch, hidden]"""
    return graph.node("Squeeze", graph.node("Gather", states, graph.constant([0]), axis=1), graph.constant([1]))
