"""What a model's outputs say about each text: an embedding, classes, a score, spans or a sparse vector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sluice.errors import InvalidRequest
from sluice.text import heads
from sluice.text.heads import Activation, Aggregation, Array, Class, Span
from sluice.text.inputs import TextResponse
from sluice.text.tokenizing import Encoded


def embeddings(
    response: TextResponse, normalise: bool | None = None, dimensions: int | None = None
) -> list[np.ndarray[Any, np.dtype[np.float32]]]:  # fmt: skip
    """A vector for each text. A long text's is the mean of those of its windows."""
    profile = response.text.profile
    wanted = profile.normalise if normalise is None else normalise
    if len(response.parts) == len(response.texts) and not profile.pooling:  # all at once, which is much cheaper
        whole = np.concatenate([outputs[0].array() for outputs in response.parts])
        _check_dimensions(response, dimensions, whole.shape[-1])
        return list(heads.shortened(whole, dimensions, wanted).astype(np.float32, copy=False))
    vectors = []
    for encoded, outputs in _texts(response):
        own = [heads.pool(one, profile.pooling) if profile.pooling else one for one in outputs]
        vector = own[0] if len(own) == 1 else heads.mean_of_windows(own, [len(each) for each in _windows(encoded)])
        _check_dimensions(response, dimensions, vector.shape[-1])
        vectors.append(heads.shortened(vector, dimensions, wanted).astype(np.float32))
    return vectors


def states(response: TextResponse) -> list[Array]:
    """The vectors of each text's tokens."""
    return [np.concatenate(outputs).astype(np.float32) for _, outputs in _texts(response)]


def classes(response: TextResponse, activation: Activation | None = None) -> list[list[Class]]:
    """Every class with its score, the best first, for each text."""
    profile = response.text.profile
    return [
        heads.classes(np.mean(outputs, axis=0), profile.labels, activation or profile.activation)
        for _, outputs in _texts(response)
    ]


def scores(response: TextResponse, activation: Activation | None = None) -> list[float]:
    """How well the two texts of each pair go together; of a long one, its best window."""
    wanted = activation or response.text.profile.activation
    return [max(heads.relevance(one, wanted) for one in outputs) for _, outputs in _texts(response)]


def spans(response: TextResponse, texts: Sequence[str], aggregation: Aggregation = "simple") -> list[list[Span]]:
    """The named parts of each text."""
    tokenizer, labels = response.text.tokenizer, response.text.profile.labels
    found = []
    for text, (encoded, outputs) in zip(texts, _texts(response), strict=True):
        tokens = heads.Tokens(text, encoded.ids.tolist(), encoded.offsets, encoded.special)
        found.append(heads.spans(outputs[0], tokens, labels, aggregation, tokenizer.pieces))
    return found


def sparse(response: TextResponse) -> list[tuple[Array, Array]]:
    """Tokens and their weights, for each text."""
    return [heads.sparse(np.concatenate(outputs)) for _, outputs in _texts(response)]


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
