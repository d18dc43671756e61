"""How MPNet, like T5 before it, tells how far two tokens are apart: exactly when near, roughly when far."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

BUCKETS = 32
FARTHEST = 128  # from here on all distances are alike


def buckets(distances: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The bucket of each distance: of the token looked at from the token that looks. In 32 bits, as it was trained."""
    half = BUCKETS // 2
    exact = half // 2
    far = np.abs(distances)
    with np.errstate(divide="ignore"):
        ratio = np.log(far.astype(np.float32) / np.float32(exact)) / np.float32(math.log(FARTHEST / exact))
    steps = np.where(far < exact, 0, ratio * np.float32(half - exact)).astype(np.int64)
    rough = np.minimum(exact + steps, half - 1)
    return np.where(far < exact, far, rough).astype(np.int64) + np.where(distances > 0, half, 0)
