"""Draws rows to compare a converted estimator with the original on: near the values at which its answers change."""

from __future__ import annotations

from typing import Any

import numpy as np

ROWS = 256

Array = np.ndarray[Any, Any]


def drawn(model: Any, features: int, missing: bool = False) -> Array:
    """[rows, features] around the thresholds of the graph's trees and the offsets of its scalers."""
    random = np.random.default_rng(11)
    rows = random.standard_normal((ROWS, features)) * 10.0 ** random.integers(-1, 3, (ROWS, 1))
    for node in model.graph.node:
        said = {each.name: each for each in node.attribute}
        if node.op_type.startswith("TreeEnsemble"):
            _around_thresholds(rows, said, random)
        elif node.op_type == "Scaler":
            offsets, scales = (np.array(said[name].floats, np.float64) for name in ("offset", "scale"))
            if offsets.size == scales.size == features and (scales != 0).all():
                rows = offsets + random.standard_normal((ROWS, features)) / scales
    if missing:
        rows[random.random(rows.shape) < 0.05] = np.nan
    return rows.astype(np.float32)


def _around_thresholds(rows: Array, said: dict[str, Any], random: np.random.Generator) -> None:
    """Of each feature that splits, values between neighbouring thresholds, and beyond the first and last."""
    if "nodes_featureids" not in said:
        return
    features = np.array(said["nodes_featureids"].ints)
    values = np.array(said["nodes_values"].floats, np.float64)
    leaf = np.array([mode == b"LEAF" for mode in said["nodes_modes"].strings])
    for feature in np.unique(features[~leaf]):
        cuts = np.unique(
            values[~leaf & (features == feature) & (np.abs(values) < 1e30)]
        )  # without those that are no cut
        if feature >= rows.shape[1] or not cuts.size:
            continue
        width = max(float(np.ptp(cuts)), 1.0)
        edges = np.concatenate([[cuts[0] - width], cuts, [cuts[-1] + width]])
        at = random.integers(0, len(edges) - 1, len(rows))
        share = random.uniform(0.25, 0.75, len(rows))
        rows[:, feature] = edges[at] + share * (edges[at + 1] - edges[at])
