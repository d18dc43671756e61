"""What numbers mean, where they are few bits or unnamed."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from sluice.text import heads
from sluice.text.heads import Pieces, PoolingMode, Tokens


@pytest.mark.parametrize("mode", get_args(PoolingMode))
def test_long_vectors_of_16_bits_are_made_unit_vectors(mode: PoolingMode) -> None:
    states = np.full((3, 384), 300, np.float16)
    pooled = heads.pool(states, mode)
    assert pooled.dtype == np.float32
    for vector in (heads.normalised(pooled), heads.normalised(states), heads.normalised(states[0])):
        np.testing.assert_allclose(np.linalg.norm(vector, axis=-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(heads.mean_of_windows([states[0], states[1]], [60_000, 60_000]), states[0])


def test_sparse_vectors_of_16_bits_are_as_exact_as_others() -> None:
    logits = np.array([[-1, 2, 1], [0, 3, 0.5]], np.float16)
    found, weights = heads.sparse(logits)
    assert found.tolist() == [1, 2]
    np.testing.assert_allclose(weights, np.log([4, 2]), rtol=1e-6)


@pytest.mark.parametrize("aggregation", ["none", "simple", "first"])
def test_spans_without_labels_are_numbered(aggregation: heads.Aggregation) -> None:
    how = Pieces(lambda number: f"word{number}", " ".join, False, None)
    tokens = Tokens("a b", [0, 1], [(0, 1), (2, 3)], [False, False])
    found = heads.spans(np.array([[5, 0], [0, 5]]), tokens, (), aggregation, how)
    assert [(one.label, one.start) for one in found] == [("LABEL_0", 0), ("LABEL_1", 2)]
