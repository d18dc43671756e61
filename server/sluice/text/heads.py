"""What a model's numbers mean: embeddings, classes, scores, spans and sparse vectors; pure, one text at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Activation = Literal["softmax", "sigmoid", "none"]
Aggregation = Literal["none", "simple", "first", "average", "max"]
PoolingMode = Literal["mean", "cls", "max", "last"]

# What a unit vector is divided by at least, so that zeros stay zeros; sentence-transformers uses the same.
_LEAST_NORM = 1e-12


class Class(NamedTuple):
    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a text and what it is."""

    label: str
    score: float
    word: str
    start: int  # characters of the text
    end: int
    index: int | None = None  # the token's, where tokens are not joined


def pool(states: Array, mode: PoolingMode) -> Array:
    """One vector of a text's token states [tokens, size]; none of the tokens is padding."""
    match mode:
        case "cls":
            return np.asarray(states[0], np.float32)
        case "last":
            return np.asarray(states[-1], np.float32)
        case "max":
            return np.asarray(states.max(axis=0), np.float32)
        case "mean":
            return np.asarray(states.mean(axis=0, dtype=np.float32))


def normalised(vector: Array) -> Array:
    """Of length one, along the last axis. Squares of 16 bits end at 65504, and leave no such vector."""
    whole = vector.astype(np.float32) if vector.dtype == np.float16 else vector
    norm = np.linalg.norm(whole, axis=-1, keepdims=True)
    return np.asarray(whole / np.maximum(norm, _LEAST_NORM))


def shortened(vector: Array, dimensions: int | None, normalise: bool) -> Array:
    """The first dimensions, as of a Matryoshka embedding; what was cut is made a unit vector again if wished."""
    cut = vector if dimensions is None else vector[..., :dimensions]
    return normalised(cut) if normalise else cut


def mean_of_windows(vectors: Sequence[Array], weights: Sequence[int]) -> Array:
    """One vector of a long text from those of its windows, each counted by its tokens."""
    return np.average(np.stack(vectors).astype(np.float32, copy=False), axis=0, weights=weights).astype(np.float32)


def activated(logits: Array, activation: Activation) -> Array:
    """Scores of logits, in 64 bits: they are few, and users compare them."""
    values = np.asarray(logits, np.float64)
    match activation:
        case "softmax":
            powers = np.exp(values - values.max(axis=-1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
        case "sigmoid":
            return np.asarray(np.where(values >= 0, 1, np.exp(np.minimum(values, 0))) / (1 + np.exp(-np.abs(values))))
        case "none":
            return values


def classes(logits: Array, labels: Sequence[str], activation: Activation) -> list[Class]:
    """Every class with its score, the best first."""
    scores = activated(logits, activation)
    names = labels or _numbered(len(scores))
    return [Class(names[index], float(scores[index])) for index in np.argsort(-scores, kind="stable")]


def _numbered(count: int) -> list[str]:
    """What transformers calls classes that have no names."""
    return [f"LABEL_{number}" for number in range(count)]


def relevance(logits: Array, activation: Activation) -> float:
    """How well two texts go together: the only score of a cross-encoder, or that of the last of its classes."""
    scores = activated(logits, activation)
    return float(scores[-1])


def sparse(logits: Array) -> tuple[Array, Array]:
    """SPLADE: for each token of the vocabulary the largest log(1 + max(0, logit)) over the text; those above 0."""
    weights = np.log1p(np.maximum(logits.max(axis=0), 0), dtype=np.float32)
    found = np.flatnonzero(weights)
    return found, weights[found]


# Spans of token classification, joined as users of transformers' pipelines know it.


@dataclass(slots=True)
class _Piece:
    """A token, or a word of several."""

    scores: Array
    word: str
    start: int
    end: int
    index: int
    continues: bool  # the word that the token before began

    @property
    def best(self) -> int:
        return int(self.scores.argmax())


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text's tokens, as far as spans need them."""

    text: str
    ids: Sequence[int]
    offsets: Sequence[tuple[int, int]]
    special: Sequence[bool]


@dataclass(frozen=True, slots=True)
class Pieces:
    """How a tokenizer's tokens make words."""

    name: Callable[[int], str]
    joined: Callable[[Sequence[str]], str]
    marks_rest: bool  # tokens that go on with a word say so, as "##ing"
    unknown: int | None  # the token for what it does not know


def spans(
    logits: Array,
    tokens: Tokens,
    labels: Sequence[str],
    aggregation: Aggregation,
    how: Pieces,
    ignored: Sequence[str] = ("O",),
) -> list[Span]:
    """Parts of the text that are of a class, in their order."""
    joined = how.joined
    labels = labels or _numbered(logits.shape[-1])
    pieces = _pieces(activated(logits, "softmax"), tokens, how)
    if aggregation == "none":
        found = [
            Span(labels[one.best], float(one.scores[one.best]), one.word, one.start, one.end, one.index)
            for one in pieces
        ]
        return [one for one in found if one.label not in ignored]
    if aggregation != "simple":
        pieces = [_word(group, aggregation, joined) for group in _words(pieces)]
    groups = _groups(pieces, labels)
    return [span for span in (_span(group, labels, joined) for group in groups) if span.label not in ignored]


def _pieces(scores: Array, tokens: Tokens, how: Pieces) -> list[_Piece]:
    pieces: list[_Piece] = []
    for index, (row, number, (start, end), special) in enumerate(
        zip(scores, tokens.ids, tokens.offsets, tokens.special, strict=True)
    ):
        if special:
            continue
        word, there = how.name(number), tokens.text[start:end]
        if number == how.unknown:
            word, continues = there, False
        elif how.marks_rest:
            continues = len(word) != len(there)  # "##ing" is longer than what it stands for
        else:
            continues = start > 0 and " " not in tokens.text[start - 1 : start + 1]
        pieces.append(_Piece(row, word, start, end, index, continues))
    return pieces


def _words(pieces: list[_Piece]) -> list[list[_Piece]]:
    words: list[list[_Piece]] = []
    for piece in pieces:
        if piece.continues and words:
            words[-1].append(piece)
        else:
            words.append([piece])
    return words


def _word(group: list[_Piece], aggregation: Aggregation, joined: Callable[[Sequence[str]], str]) -> _Piece:
    match aggregation:
        case "first":
            scores = group[0].scores
        case "max":
            scores = max((one.scores for one in group), key=lambda row: float(row.max()))
        case _:
            scores = np.mean([one.scores for one in group], axis=0)
    word = joined([one.word for one in group])
    return _Piece(scores, word, group[0].start, group[-1].end, group[0].index, False)


def _groups(pieces: list[_Piece], labels: Sequence[str]) -> list[list[_Piece]]:
    groups: list[list[_Piece]] = []
    last = ""
    for piece in pieces:
        begins, tag = _tag(labels[piece.best])
        if groups and tag == last and not begins:
            groups[-1].append(piece)
        else:
            groups.append([piece])
        last = tag
    return groups


def _tag(label: str) -> tuple[bool, str]:
    """Whether it begins a span, and of what: "B-PER", "I-PER" or just "PER"."""
    if label.startswith(("B-", "I-")):
        return label.startswith("B-"), label[2:]
    return False, label


def _span(group: list[_Piece], labels: Sequence[str], joined: Callable[[Sequence[str]], str]) -> Span:
    _, tag = _tag(labels[group[0].best])
    score = float(np.mean([one.scores[one.best] for one in group]))
    return Span(tag, score, joined([one.word for one in group]), group[0].start, group[-1].end)
