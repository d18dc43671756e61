"""Writes a BERT-like encoder as ONNX, in the forms that onnxruntime computes fastest.

The law of this file: standard operators only, and a row's result depends on nothing but its own unmasked tokens.

Measured with MiniLM on onnxruntime 1.31, one CPU thread: onnxruntime's own fused attention is 1 % faster than what it
makes of these standard operators, not worth a file that nothing else can read. Its fused residual + layer norm is 9 %
slower than the two apart, so residuals are added by `Sum`, which it does not fuse. Bias + gelu and the scaling of
scores are fused.
"""

from __future__ import annotations

import numpy as np

from sluice.convert import disentangled, relative
from sluice.convert.architecture import POSITIONS, TYPES, WORDS, Architecture
from sluice.convert.disentangled import Disentangled, add_distances
from sluice.convert.graph import FLOAT, INT64, Graph
from sluice.convert.layers import activate, linear
from sluice.convert.weights import Weights

# Added to the score of a masked token. Finite, so that a row of masked tokens only is no NaN; far enough below any
# score that its share underflows to exactly 0; and within the range of 16-bit floats.
MASKED = -10000.0


class Encoder:
    """Adds one encoder's nodes to a graph; every method returns the name of the value it made."""

    def __init__(self, graph: Graph, architecture: Architecture, weights: Weights) -> None:
        self._graph = graph
        self._architecture = architecture
        self._weights = weights
        self._places = ""  # where each pair of tokens has its distance, for those that have tables of them

    def mask_bias(self, attention_mask: str) -> str:
        """[batch, sequence] of 1 and 0 → [batch, 1, 1, sequence], to be added to attention scores."""
        graph = self._graph
        spread = graph.node("Cast", graph.node("Unsqueeze", attention_mask, graph.constant([1, 2])), to=FLOAT)
        return graph.node("Mul", graph.node("Sub", graph.constant(1.0), spread), graph.constant(MASKED))

    def bias(self, ids: str, attention_mask: str) -> str:
        """What is added to attention scores: [batch, 1, 1, sequence], or [batch, heads, sequence, sequence]."""
        masked = self.mask_bias(attention_mask)
        if self._architecture.distances is not None:
            self._places = self._pairs(ids, self._architecture.distances)
        if not self._architecture.family.names.relative:
            return masked
        return self._graph.node("Add", masked, self._distance_bias(ids))

    def _distance_bias(self, ids: str) -> str:
        """[1, heads, sequence, sequence]: what the model learned for the distance between two tokens."""
        graph, weights, architecture = self._graph, self._weights, self._architecture
        name, heads, farthest = architecture.family.names.relative, architecture.heads, architecture.positions - 1
        buckets = relative.buckets(np.arange(-farthest, farthest + 1))
        learned = weights.take(name, (relative.BUCKETS, heads))
        table = graph.weight(name, learned[buckets].T[None])  # [1, heads, distances]
        return graph.node("Gather", table, self._distances(ids), axis=2)

    def _distances(self, ids: str) -> str:
        """[sequence, sequence]: how far the second token is behind the first, from 0 for the farthest before it."""
        graph = self._graph
        length = graph.node("Squeeze", graph.node("Shape", ids, start=1, end=2), graph.constant([0]))
        places = graph.node("Range", graph.constant(0), length, graph.constant(1))
        rows = graph.node("Unsqueeze", places, graph.constant([1]))
        return graph.node(
            "Add", graph.node("Sub", places, rows), graph.constant(self._architecture.positions - 1)
        )  # fmt: skip

    def _pairs(self, ids: str, said: Disentangled) -> str:
        """[batch, heads, sequence, sequence]: where in the tables of distances each pair of tokens is."""
        graph, farthest = self._graph, self._architecture.positions - 1
        places = disentangled.places(said, -np.arange(-farthest, farthest + 1))
        pairs = graph.node("Gather", graph.weight("distances", places), self._distances(ids))
        batch, length = (graph.node("Shape", ids, start=axis, end=axis + 1) for axis in (0, 1))
        heads = graph.constant([self._architecture.heads])
        return graph.node("Expand", pairs, graph.node("Concat", batch, heads, length, length, axis=0))

    def embed(self, ids: str, types: str | None) -> str:
        graph, weights, architecture = self._graph, self._weights, self._architecture
        size, projection = architecture.embedding, architecture.family.names.projection
        total = graph.node("Gather", graph.weight(WORDS, weights.take(WORDS, (architecture.vocabulary, size))), ids)
        if architecture.has_positions:
            positions = weights.take(POSITIONS, (architecture.positions, size))
            if architecture.token_types and types is None:
                positions = positions + weights.take(TYPES, (architecture.token_types, size))[0]  # all are of the first
        if types is not None:
            type_table = weights.take(TYPES, (architecture.token_types, size))
            total = graph.node("Add", total, graph.node("Gather", graph.weight(TYPES, type_table), types))
        if architecture.has_positions:
            total = graph.node("Sum", total, self._positions(ids, graph.weight(POSITIONS, positions)))
        total = self._norm("embeddings.LayerNorm", total, size)
        if not projection or f"{projection}.weight" not in weights:
            return total
        return self._linear(projection, total, size, architecture.hidden)

    def _positions(self, ids: str, table: str) -> str:
        graph = self._graph
        if not self._architecture.family.positions_skip_padding:
            length = graph.node("Shape", ids, start=1, end=2)
            return graph.node("Slice", table, graph.constant([0]), length, graph.constant([0]))
        pad = graph.constant(self._architecture.pad)
        present = graph.node("Cast", graph.node("Not", graph.node("Equal", ids, pad)), to=INT64)
        counted = graph.node("Mul", graph.node("CumSum", present, graph.constant(1)), present)
        return graph.node("Gather", table, graph.node("Add", counted, pad))

    def layer(self, number: int, states: str, mask_bias: str) -> str:
        names, hidden, wide = (
            self._architecture.family.names,
            self._architecture.hidden,
            self._architecture.intermediate,
        )
        prefix = self._architecture.layer_name(number)
        attended = self._attention(prefix, states, mask_bias)
        attended = self._linear(f"{prefix}.{names.attention_output}", attended, hidden, hidden)
        states = self._norm(f"{prefix}.{names.attention_norm}", self._graph.node("Sum", attended, states), hidden)
        expanded = self._linear(f"{prefix}.{names.expand}", states, hidden, wide)
        expanded = activate(self._graph, self._architecture.activation, expanded)
        contracted = self._linear(f"{prefix}.{names.contract}", expanded, wide, hidden)
        return self._norm(f"{prefix}.{names.output_norm}", self._graph.node("Sum", contracted, states), hidden)

    def _attention(self, prefix: str, states: str, mask_bias: str) -> str:
        graph, names = self._graph, self._architecture.family.names
        hidden, size = self._architecture.hidden, self._architecture.hidden // self._architecture.heads
        said = self._architecture.distances
        query = self._by_head(f"{prefix}.{names.query}", states, (0, 2, 1, 3))
        key = self._by_head(f"{prefix}.{names.key}", states, (0, 2, 3, 1))
        value = self._by_head(f"{prefix}.{names.value}", states, (0, 2, 1, 3))
        scores, parts = graph.node("MatMul", query, key), 1
        if said is not None:
            values = (scores, query, key, self._places)
            scores = add_distances(graph, self._weights, said, prefix, self._architecture.heads, values)
            parts = said.parts
        scores = graph.node("Div", scores, graph.constant(float(size * parts) ** 0.5))
        shares = graph.node("Softmax", graph.node("Add", scores, mask_bias), axis=-1)
        mixed = graph.node("Transpose", graph.node("MatMul", shares, value), perm=(0, 2, 1, 3))
        return graph.node("Reshape", mixed, graph.constant([0, 0, hidden]))

    def _by_head(self, name: str, states: str, order: tuple[int, ...]) -> str:
        hidden, heads = self._architecture.hidden, self._architecture.heads
        projected = self._linear(name, states, hidden, hidden)
        split = self._graph.node("Reshape", projected, self._graph.constant([0, 0, heads, hidden // heads]))
        return self._graph.node("Transpose", split, perm=order)

    def _linear(self, name: str, value: str, size: int, new_size: int) -> str:
        return linear(self._graph, self._weights, name, value, (size, new_size))

    def _norm(self, name: str, value: str, size: int) -> str:
        graph, weights = self._graph, self._weights
        scale = graph.weight(f"{name}.weight", weights.take(f"{name}.weight", (size,)))
        shift = graph.weight(f"{name}.bias", weights.take(f"{name}.bias", (size,)))
        return graph.node("LayerNormalization", value, scale, shift, axis=-1, epsilon=self._architecture.norm_epsilon)
