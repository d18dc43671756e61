"""How near a candidate's answers are to its parent's, and what is asked of them; nothing but arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sluice.evaluation import accuracy
from sluice.evaluation.accuracy import Kind
from sluice.spec import TensorSpec

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Nearness:
    """What was measured, by name, as `sluice evaluate --against` measures it. What has no meaning is not there."""

    measures: Mapping[str, float]
    main: str  # the measure that the bound is for
    finite: bool = True  # whether all is numbers that the parent gives as numbers
    difference: float = 0.0  # the largest, relative, that company in a batch makes to an answer
    others: Mapping[str, Nearness] = field(default_factory=dict)  # by name, the outputs that a request gets as well

    def of(self, name: str) -> float:
        return self.measures.get(name, math.nan)

    @property
    def loss(self) -> float:
        """What candidates and layers are compared by: how far the answers turned, else how many are others; of the
        output that lost most."""
        own = 1 - self.measures.get("cosine_mean", self.of(self.main))
        return max([own, *(other.loss for other in self.others.values())])


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a version has to reach to be published; 0 = anything will do."""

    accuracy: float  # of the main measure
    neighbours: float = 0.0
    difference: float = math.inf  # the largest that company may make

    def stricter(self) -> Bounds:
        """What a second choice has to reach: a quarter of what may be lost less, for who tries twice is lucky twice as
        often."""
        return replace(self, accuracy=_nearer(self.accuracy), neighbours=_nearer(self.neighbours))

    def missed(self, found: Nearness) -> list[str]:
        """What is below its bound, in words; nothing = all is well."""
        wrong = [] if found.finite else ["its answers have NaN or infinite values where the parent's have none"]
        bounds = [(found.main, self.accuracy), ("neighbours", self.neighbours)]
        wrong += [_short(found, name, bound) for name, bound in bounds if bound and not found.of(name) >= bound]
        for output, other in found.others.items():
            bounds = [(other.main, self.accuracy), ("neighbours", self.neighbours)]
            wrong += [
                f"output '{output}': {_short(other, name, bound)}"
                for name, bound in bounds
                if bound and name in other.measures and not other.of(name) >= bound
            ]
        if found.difference > self.difference:
            why = f"answers in a batch differ by {found.difference:.2g} from those alone"
            wrong.append(f"{why}, and at most {self.difference:.2g} is padded")
        return wrong


def _nearer(bound: float) -> float:
    return bound + (1 - bound) / 4 if bound else 0.0


def _short(found: Nearness, name: str, bound: float) -> str:
    return f"{name} {found.of(name):.5f} is below {bound:g}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answers to one sample."""

    outputs: Mapping[str, Array]  # those that a request gets
    broken: frozenset[str]  # the names of all outputs that are not finite


@dataclass(frozen=True, slots=True)
class Judge:
    """Compares answers, by each output that a request gets; the first is the main one, which is told of in full."""

    outputs: tuple[tuple[TensorSpec, Kind], ...]

    @property
    def output(self) -> TensorSpec:
        return self.outputs[0][0]

    @property
    def kind(self) -> Kind:
        return self.outputs[0][1]

    def near(self, parent: Sequence[Answer], found: Sequence[Answer]) -> Nearness:
        finite = all(after.broken <= before.broken for before, after in zip(parent, found, strict=True))
        nearness = {}
        for output, kind in self.outputs:
            pair = tuple([answer.outputs[output.name] for answer in answers] for answers in (parent, found))
            nearness[output.name] = _near(output, kind, pair[0], pair[1], output.name != self.output.name)
        main = nearness.pop(self.output.name)
        return Nearness(main.measures, main.main, finite, others=nearness)


def _near(output: TensorSpec, kind: Kind, parent: Sequence[Array], found: Sequence[Array], beside: bool) -> Nearness:
    near, main = accuracy.near(kind, output.name, parent, found), accuracy.AGAINST[kind]
    same = all(np.array_equal(before, after) for before, after in zip(parent, found, strict=True))
    if beside and same and math.isnan(near[main]):
        near = {main: 1.0}  # such as the order of what is always the same
    return Nearness(near, main)
