"""Fair shares of what is scarce: max-min by demand and weight."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping
from typing import TypeVar

K = TypeVar("K", bound=Hashable)

LEAST_WEIGHT = 1e-9  # nobody is left out altogether


def fair_shares(demands: Mapping[K, float], room: float, weights: Mapping[K, float]) -> dict[K, float]:
    """Who asks for less than its weighted share gets all it asks for; what that leaves is shared among the others."""
    shares: dict[K, float] = {}
    room = max(0.0, room)
    weight = {key: max(weights.get(key, 1.0), LEAST_WEIGHT) for key in demands}
    order = sorted(demands, key=lambda key: demands[key] / weight[key])
    left = list(itertools.accumulate(weight[key] for key in reversed(order)))
    for key in order:
        shares[key] = min(demands[key], room * (weight[key] / left.pop()))
        room -= shares[key]
    return shares
