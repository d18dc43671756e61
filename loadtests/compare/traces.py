"""What is sent and when: the same requests for every server, with as little chance in them as open-loop load allows.

A trace of a few seconds drawn freely differs from the next by several per cent in both its number of requests and their
mean length, which is more than what is to be told apart. The number is therefore fixed (arrivals are a Poisson process
given its count) and the lengths are the mix's quantiles, shuffled.
"""

from __future__ import annotations

import numpy as np

from sluice.bench.traffic import Mix, mix

MIXES = {"lognormal": "median 24, 95th percentile 124 tokens", "bimodal": "80 % U(16, 32) + 20 % U(384, 512) tokens"}
_DRAWN = 100_000


def representative(mixed: Mix, count: int, seed: int) -> list[int]:
    """This many lengths with the mix's distribution, in random order."""
    drawn = np.sort(mixed.lengths(_DRAWN, seed=1))
    places = ((np.arange(count) + 0.5) / count * _DRAWN).astype(int)
    chosen = drawn[places]
    np.random.default_rng((seed, 3)).shuffle(chosen)
    return [int(length) for length in chosen]


def trace(name: str, rate: float, seconds: float, seed: int) -> list[tuple[float, int]]:
    """When to send, in seconds from the start, and which length."""
    count = max(1, round(rate * seconds))
    times = np.sort(np.random.default_rng((seed, 2)).uniform(0, seconds, count))
    return list(zip(map(float, times), representative(mix(name), count, seed), strict=True))
