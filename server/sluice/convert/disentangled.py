"""DeBERTa's attention: a score has a part for what two tokens are, and parts for how far apart they are.

What the distances' embeddings become in a layer depends on its weights alone, so it is computed here, once, and the
graph holds the results: a table for each direction, of which every pair of tokens takes one column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sluice.convert.graph import Graph
from sluice.convert.weights import Weights
from sluice.errors import ModelError

EMBEDDINGS = "encoder.rel_embeddings.weight"
NORM = "encoder.LayerNorm"
CONTENT_TO_POSITION, POSITION_TO_CONTENT = "c2p", "p2c"

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Disentangled:
    """What config.json says of it."""

    span: int  # how many distances there are in each direction
    buckets: int  # 0: every distance is its own
    farthest: int
    kinds: tuple[str, ...]
    shares_projections: bool  # tokens' and distances' are the same
    normed: bool
    norm_epsilon: float

    @property
    def parts(self) -> int:
        """How many parts a score has."""
        return 1 + len(self.kinds)


def read(config: Mapping[str, Any], positions: int, norm_epsilon: float) -> Disentangled | None:
    """None: it is not used, although the family knows it."""
    if config.get("conv_kernel_size", 0):
        raise ModelError(f"config.json: conv_kernel_size = {config['conv_kernel_size']!r} cannot be imported")
    if not config.get("relative_attention", False):
        return None
    farthest = config.get("max_relative_positions", -1)
    buckets = config.get("position_buckets", -1)
    if not isinstance(farthest, int) or not isinstance(buckets, int):
        raise ModelError("config.json: max_relative_positions and position_buckets must be whole numbers")
    farthest = farthest if farthest > 0 else positions
    said = config.get("pos_att_type") or ()
    kinds = tuple(said.split("|") if isinstance(said, str) else map(str, said))
    unknown = next((kind for kind in kinds if kind not in (CONTENT_TO_POSITION, POSITION_TO_CONTENT)), None)
    if unknown is not None:
        raise ModelError(f"config.json: pos_att_type = {unknown!r} cannot be imported; these can: c2p, p2c")
    return Disentangled(
        span=buckets if buckets > 0 else farthest,
        buckets=max(buckets, 0),
        farthest=farthest,
        kinds=kinds,
        shares_projections=bool(config.get("share_att_key", False)),
        normed="layer_norm" in str(config.get("norm_rel_ebd", "none")).lower(),
        norm_epsilon=norm_epsilon,
    )


def places(said: Disentangled, distances: Array) -> Array:
    """Where in the tables each distance is, in 32 bits, as it was trained."""
    half = said.buckets // 2
    if half:
        near = np.abs(distances) < half
        size = np.where(near, half - 1, np.abs(distances)).astype(np.float32)
        steps = np.log(size / np.float32(half)) / np.log(np.float32((said.farthest - 1) / half))
        far = np.ceil(steps * np.float32(half - 1)) + half
        distances = np.where(size <= half, distances, far * np.sign(distances)).astype(np.int64)
    found: Array = np.clip(distances + said.span, 0, 2 * said.span - 1)
    return found


def add_distances(
    graph: Graph, weights: Weights, said: Disentangled, layer: str, heads: int, values: tuple[str, str, str, str]
) -> str:
    """The scores with the parts for distances; `values` are scores, queries, turned keys, and each pair's place."""
    scores, query, key, index = values
    for kind, name, tokens in (
        (CONTENT_TO_POSITION, "key_proj", query),
        (POSITION_TO_CONTENT, "query_proj", key),
    ):
        if kind not in said.kinds:
            continue
        table = _table(weights, said, layer, name, heads)  # [heads, places, size]
        if kind == CONTENT_TO_POSITION:
            fixed = graph.weight(f"{layer}.{kind}", table.transpose(0, 2, 1)[None])
            part = graph.node("GatherElements", graph.node("MatMul", tokens, fixed), index, axis=3)
        else:
            fixed = graph.weight(f"{layer}.{kind}", table[None])
            part = graph.node("GatherElements", graph.node("MatMul", fixed, tokens), index, axis=2)
        scores = graph.node("Add", scores, part)
    return scores


def _table(weights: Weights, said: Disentangled, layer: str, name: str, heads: int) -> Array:
    """The embeddings of all distances, as this layer projects them."""
    prefix = "" if said.shares_projections else "pos_"
    stored = weights.shape(EMBEDDINGS)
    hidden = stored[-1]
    learned = weights.take(EMBEDDINGS, stored)[: 2 * said.span].astype(np.float64)
    if len(learned) < 2 * said.span:
        raise ModelError(f"{EMBEDDINGS} has {len(learned)} distances, and config.json speaks of {2 * said.span}")
    if said.normed:
        centred = learned - learned.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + said.norm_epsilon)
        learned = centred / spread * weights.take(f"{NORM}.weight", (hidden,)) + weights.take(f"{NORM}.bias", (hidden,))
    full = f"{layer}.attention.self.{prefix}{name}"
    projected = learned @ weights.take(f"{full}.weight", (hidden, hidden)).T
    if f"{full}.bias" in weights:
        projected = projected + weights.take(f"{full}.bias", (hidden,))
    shaped: Array = projected.reshape(len(learned), heads, hidden // heads).transpose(1, 0, 2)
    return shaped.astype(np.float32)
