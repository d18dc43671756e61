"""What answers are worth: right by the labels somebody gave, and near to those of another version.

What can be measured follows from what the output is:

| the output is     | by labels                                        | against another version |
|-------------------|--------------------------------------------------|-------------------------|
| an embedding      | spearman of pairs; accuracy, f1 by the neighbour | cosine, neighbours      |
| classes           | accuracy, f1                                     | cosine, agreement       |
| a score           | spearman                                         | cosine of all, order    |
| a value           | accuracy, f1                                     | agreement               |
| classes of tokens |                                                  | cosine, agreement       |
| something else    |                                                  | cosine                  |
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np

from sluice.evaluation import measures
from sluice.evaluation.data import Dataset, EvaluationError, Label
from sluice.spec import BYTES, ModelSpec, TensorSpec
from sluice.store.reading import did_you_mean

Array = np.ndarray[Any, Any]
Measures = dict[str, float]

_FLOATS = ("FP16", "BF16", "FP32", "FP64")
_SCORES = ("logit", "score", "prob", "label", "class", "softmax")  # in the names of classifiers' outputs
_SHOWN = 5  # classes named in an error


class Kind(StrEnum):
    EMBEDDING = "embedding"
    CLASSES = "classes"
    SCORE = "score"
    VALUE = "value"
    TOKENS = "classes of tokens"
    OTHER = "other"


# The measure that `--min-accuracy` means, by labels and against another version.
BY_LABELS = {
    Kind.EMBEDDING: ("spearman", "accuracy"),
    Kind.CLASSES: ("accuracy",),
    Kind.SCORE: ("spearman",),
    Kind.VALUE: ("accuracy",),
}
AGAINST = {
    Kind.EMBEDDING: "cosine_mean",
    Kind.CLASSES: "agreement",
    Kind.SCORE: "order",
    Kind.VALUE: "agreement",
    Kind.TOKENS: "agreement",
    Kind.OTHER: "cosine_mean",
}


def main_output(spec: ModelSpec, wanted: str = "") -> TensorSpec:
    """The output that is measured: the one asked for, else the first that a request gets and that has fractions."""
    if wanted:
        if wanted not in spec.output_by_name:
            raise EvaluationError(f"output '{wanted}': {did_you_mean(wanted, spec.output_by_name)}")
        return spec.output_by_name[wanted]
    usual = [output for output in spec.outputs if output.default]
    return next((output for output in usual if output.datatype in _FLOATS), usual[0])


def kind_of(output: TensorSpec, answers: Sequence[Array], task: str) -> Kind:
    """What the output is, as the manifest's task says, else as it looks."""
    if output.datatype not in _FLOATS:
        return Kind.VALUE
    sizes = {answer.size for answer in answers}
    scored = task in ("classification", "token-classification", "rerank") or looks_scored(output)
    scored = scored and task != "embedding"
    one = output.sequence_axis is None and len(sizes) == 1 and all(np.squeeze(each).ndim < 2 for each in answers)
    if not one or task == "token-classification":
        return Kind.TOKENS if scored else Kind.OTHER
    if task == "embedding":
        return Kind.EMBEDDING
    if sizes == {1}:
        return Kind.SCORE
    return Kind.CLASSES if scored else Kind.EMBEDDING


def looks_scored(output: TensorSpec) -> bool:
    """Whether it gives scores of classes."""
    return bool(output.labels) or _named_as_scores(output.name)


def _named_as_scores(name: str) -> bool:
    return any(word in name.lower() for word in _SCORES)


# Against another version.


def near(kind: Kind, name: str, first: Sequence[Array], second: Sequence[Array]) -> Measures:
    """How near the second's answers are to the first's."""
    for before, after in zip(first, second, strict=True):
        if before.shape != after.shape:
            shapes = f"{list(before.shape)} in one version and {list(after.shape)} in the other"
            raise EvaluationError(f"output '{name}' cannot be compared: it has the shape {shapes}")
    if kind is Kind.VALUE:
        return {"agreement": measures.agreement(_flat(first), _flat(second))}
    if kind is Kind.SCORE:
        before, after = _flat(first), _flat(second)
        together = measures.cosine(before[None], after[None])
        return {"cosine_mean": float(together[0]), "order": measures.spearman(before.tolist(), after.tolist())}
    similar = np.concatenate(
        [measures.cosine(one.reshape(1, -1), other.reshape(1, -1)) for one, other in zip(first, second, strict=True)]
    )
    found = {"cosine_mean": float(similar.mean()), "cosine_min": float(similar.min())}
    if kind is Kind.EMBEDDING:
        found["neighbours"] = measures.neighbours(measures.rows(first), measures.rows(second))
    elif kind in (Kind.CLASSES, Kind.TOKENS):
        found["agreement"] = measures.agreement(_chosen(kind, first), _chosen(kind, second))
    return found


def _flat(answers: Sequence[Array]) -> Array:
    return np.concatenate([answer.reshape(-1) for answer in answers])


def _chosen(kind: Kind, answers: Sequence[Array]) -> Array:
    """The class of each answer, or of each of its tokens."""
    tables = answers if kind is Kind.TOKENS else [answer.reshape(1, -1) for answer in answers]
    return np.concatenate([measures.classes(table).reshape(-1) for table in tables])


# By labels.


def right(kind: Kind, output: TensorSpec, answers: Sequence[Array], dataset: Dataset) -> Measures:
    """How right the answers are; nothing without labels."""
    if not dataset.labelled:
        return {}
    chosen = [row for row, label in enumerate(dataset.labels) if label is not None]
    labels: list[Label] = [label for label in dataset.labels if label is not None]
    if dataset.apart:
        if kind is not Kind.EMBEDDING:
            raise EvaluationError(f"output '{output.name}' is no embedding, so that pairs' labels say nothing of it")
        first, second = (measures.rows([answers[2 * row + side] for row in chosen]) for side in (0, 1))
        return {"spearman": measures.spearman(measures.cosine(first, second).tolist(), _numbers(labels, "a pair"))}
    found = [answers[row] for row in chosen]
    if kind is Kind.SCORE:
        return {"spearman": measures.spearman(_flat(found).tolist(), _numbers(labels, "a score"))}
    if kind is Kind.CLASSES:
        return _right(_chosen(kind, found).tolist(), _class_numbers(labels, output, found[0].size))
    if kind is Kind.VALUE and all(answer.size == 1 for answer in found):
        return _right([_value(answer, output) for answer in found], [_as_value(label, output) for label in labels])
    if kind is Kind.EMBEDDING and len(found) > 2:
        return _right([labels[other] for other in measures.nearest(measures.rows(found))], labels)
    raise EvaluationError(f"labels say nothing of output '{output.name}', which is {kind}; leave them out")


def _right(chosen: Sequence[object], labels: Sequence[object]) -> Measures:
    return {"accuracy": measures.accuracy(chosen, labels), "f1": measures.macro_f1(chosen, labels)}


def _numbers(labels: Sequence[Label], what: str) -> list[float]:
    for label in labels:
        if isinstance(label, str):
            raise EvaluationError(f"label '{label}': {what} is labelled with a number")
    return [float(label) for label in labels]


def _class_numbers(labels: Sequence[Label], output: TensorSpec, count: int) -> list[int]:
    """The labels as numbers of classes."""
    names = {name: number for number, name in enumerate(output.labels)} if len(output.labels) == count else {}
    found = []
    for label in labels:
        if isinstance(label, str) and label in names:
            found.append(names[label])
        elif isinstance(label, str):
            shown = ", ".join([*names][:_SHOWN])
            known = f"its classes are {shown}{', …' if len(names) > _SHOWN else ''}" if names else (
                f"nothing names its classes: give their numbers, from 0 to {count - 1}, or `labels` in model.toml"
            )  # fmt: skip
            raise EvaluationError(f"label '{label}' is no class of output '{output.name}'; {known}")
        elif label == int(label) and 0 <= label < count:
            found.append(int(label))
        else:
            raise EvaluationError(f"label {label} is no class of output '{output.name}', which has {count}, from 0 on")
    return found


def _value(answer: Array, output: TensorSpec) -> object:
    value = answer.reshape(-1)[0]
    return value.decode("utf-8", "replace") if output.datatype == BYTES else int(value)


def _as_value(label: Label, output: TensorSpec) -> object:
    if output.datatype == BYTES:
        return str(label)
    if isinstance(label, str):
        names = {name: number for number, name in enumerate(output.labels)}
        if label not in names:
            raise EvaluationError(f"label '{label}': output '{output.name}' gives whole numbers; label with those")
        return names[label]
    return label
