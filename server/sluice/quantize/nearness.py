"""How near a candidate's answers are to its parent's, and what is asked of them; nothing but arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sluice.evaluation import measures
from sluice.spec import ModelSpec

Array = np.ndarray[Any, Any]
Answers = Sequence[Mapping[str, Array]]  # by sample, by output


@dataclass(frozen=True, slots=True)
class Nearness:
    """nan where it says nothing: neighbours of what has no vector for each sample, agreement of what has no classes."""

    cosine_mean: float
    cosine_min: float
    neighbours: float
    agreement: float
    finite: bool


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a version has to reach to be published; 0 = anything will do."""

    accuracy: float
    neighbours: float = 0.0

    def missed(self, found: Nearness) -> list[str]:
        """What is below its bound, in words; nothing = all is well."""
        wrong = [] if found.finite else ["its answers contain NaN or infinite values where the parent's do not"]
        for name, value, bound in (
            ("cosine mean", found.cosine_mean, self.accuracy),
            ("agreement of classes", found.agreement, self.accuracy),
            ("nearest neighbours", found.neighbours, self.neighbours),
        ):
            if value < bound:
                wrong.append(f"{name} {value:.5f} is below {bound:g}")
        return wrong


def near(spec: ModelSpec, parent: Answers, found: Answers) -> Nearness:
    """Over the outputs that a request gets that asks for none: the least alike of a sample's outputs counts."""
    names = [output.name for output in spec.outputs if output.default and parent and parent[0][output.name].dtype.kind == "f"]
    cosines = [
        np.concatenate(
            [
                measures.cosine(before[name].reshape(1, -1), after[name].reshape(1, -1))
                for before, after in zip(parent, found, strict=True)
            ]
        )
        for name in names
    ]
    cosine = np.min(cosines, axis=0) if cosines else np.ones(1)
    return Nearness(
        cosine_mean=float(cosine.mean()),
        cosine_min=float(cosine.min()),
        neighbours=_neighbours(spec, names, parent, found),
        agreement=_agreement(spec, parent, found),
        finite=all(
            measures.scan(after[name]).finite or not measures.scan(before[name]).finite
            for before, after in zip(parent, found, strict=True)
            for name in names
        ),
    )


def _neighbours(spec: ModelSpec, names: Sequence[str], parent: Answers, found: Answers) -> float:
    """Of the first output that is one vector for each sample and has no classes."""
    for name in names:
        shapes = {answers[name].shape for answers in parent}
        if len(shapes) == 1 and not spec.output_by_name[name].labels and parent[0][name].size > 1:
            pair = [measures.rows([answers[name] for answers in each]) for each in (parent, found)]
            return measures.neighbours(*pair)
    return math.nan


def _agreement(spec: ModelSpec, parent: Answers, found: Answers) -> float:
    """Of every choice of a class, of sequences and of tokens alike."""
    labelled = [output.name for output in spec.outputs if output.labels]
    if not labelled:
        return math.nan
    pair = [
        np.concatenate([measures.classes(answers[name]).reshape(-1) for answers in each for name in labelled])
        for each in (parent, found)
    ]
    return measures.agreement(*pair)
