"""What a model's outputs say about each text: an embedding, classes, a score, spans or a sparse vector.

Each is made when it is asked for: those of a request of many texts together take longer than others should wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sluice.errors import InvalidRequest
from sluice.text import heads
from sluice.text.heads import Activation, Aggregation, Array, Class, Span
from sluice.text.inputs import TextResponse
from sluice.text.tokens import Encoded

# Embeddings made in one go, which is much cheaper than one at a time: 64 of 384 numbers take a tenth of a millisecond.
_NUMBERS_AT_ONCE = 32 << 10


def embeddings(
    response: TextResponse, normalise: bool | None = None, dimensions: int | None = None
) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:  # fmt: skip
    """A vector for each text. A long text's is the mean of those of its windows."""
    profile = response.text.profile
    wanted = profile.normalise if normalise is None else normalise
    if len(response.parts) == len(response.texts) and not profile.pooling:
        size = response.parts[0][0].shape[-1]
        _check_dimensions(response, dimensions, size)
        step = max(1, _NUMBERS_AT_ONCE // max(1, size))
        for at in range(0, len(response.parts), step):
            some = np.concatenate([outputs[0].array() for outputs in response.parts[at : at + step]])
            yield from heads.shortened(some, dimensions, wanted).astype(np.float32, copy=False)
        return
    for encoded, outputs in _texts(response):
        own = [heads.pool(one, profile.pooling) if profile.pooling else one for one in outputs]
        vector = own[0] if len(own) == 1 else heads.mean_of_windows(own, [len(each) for each in _windows(encoded)])
        _check_dimensions(response, dimensions, vector.shape[-1])
        yield heads.shortened(vector, dimensions, wanted).astype(np.float32)


def states(response: TextResponse) -> Iterator[Array]:
    """The vectors of each text's tokens."""
    return (np.concatenate(outputs).astype(np.float32) for _, outputs in _texts(response))


def classes(response: TextResponse, activation: Activation | None = None) -> Iterator[list[Class]]:
    """Every class with its score, the best first, for each text."""
    profile = response.text.profile
    return (
        heads.classes(
            np.mean(np.stack(outputs).astype(np.float64), axis=0), profile.labels, activation or profile.activation
        )
        for _, outputs in _texts(response)
    )


def scores(response: TextResponse, activation: Activation | None = None) -> Iterator[float]:
    """How well the two texts of each pair go together; of a long one, its best window."""
    wanted = activation or response.text.profile.activation
    return (max(heads.relevance(one, wanted) for one in outputs) for _, outputs in _texts(response))


def spans(response: TextResponse, texts: Sequence[str], aggregation: Aggregation = "simple") -> Iterator[list[Span]]:
    """The named parts of each text."""
    tokenizer, labels = response.text.tokenizer, response.text.profile.labels
    for text, (encoded, outputs) in zip(texts, _texts(response), strict=True):
        tokens = heads.Tokens(text, encoded.ids.tolist(), encoded.offsets, encoded.special)
        yield heads.spans(outputs[0], tokens, labels, aggregation, tokenizer.pieces)


def sparse(response: TextResponse) -> Iterator[tuple[Array, Array]]:
    """Tokens and their weights, for each text."""
    return (heads.sparse(np.concatenate(outputs)) for _, outputs in _texts(response))


def _check_dimensions(response: TextResponse, asked: int | None, there: int) -> None:
    if asked is not None and asked > there:
        raise InvalidRequest(f"dimensions: is {asked}, but '{response.model}' gives {there}")


def _texts(response: TextResponse) -> Iterator[tuple[Encoded, list[Array]]]:
    """Each text with the answer to each of its windows."""
    parts = iter(response.parts)
    for encoded in response.encoded:
        yield encoded, [next(parts)[0].array()[0] for _ in _windows(encoded)]


def _windows(encoded: Encoded) -> tuple[Encoded, ...]:
    return (encoded, *encoded.windows)
