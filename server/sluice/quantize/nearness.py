"""How near a candidate's answers are to its parent's, and what is asked of them; nothing but arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sluice.evaluation import accuracy, measures
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

    def of(self, name: str) -> float:
        return self.measures.get(name, math.nan)

    @property
    def loss(self) -> float:
        """What candidates and layers are compared by: how far the answers turned, else how many are others."""
        return 1 - self.measures.get("cosine_mean", self.of(self.main))


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a version has to reach to be published; 0 = anything will do."""

    accuracy: float  # of the main measure
    neighbours: float = 0.0
    difference: float = math.inf  # the largest that company may make

    def missed(self, found: Nearness) -> list[str]:
        """What is below its bound, in words; nothing = all is well."""
        wrong = [] if found.finite else ["its answers have NaN or infinite values where the parent's have none"]
        for name, bound in ((found.main, self.accuracy), ("neighbours", self.neighbours)):
            if bound and not found.of(name) >= bound:
                wrong.append(f"{name} {found.of(name):.5f} is below {bound:g}")
        if found.difference > self.difference:
            why = f"answers in a batch differ by {found.difference:.2g} from those alone"
            wrong.append(f"{why}, and at most {self.difference:.2g} is padded")
        return wrong


@dataclass(frozen=True, slots=True)
class Judge:
    """Compares answers of one output of a model."""

    output: TensorSpec
    kind: Kind

    def near(self, parent: Sequence[Array], found: Sequence[Array]) -> Nearness:
        finite = all(
            measures.scan(after).finite or not measures.scan(before).finite
            for before, after in zip(parent, found, strict=True)
        )
        near = accuracy.near(self.kind, self.output.name, parent, found)
        return Nearness(near, accuracy.AGAINST[self.kind], finite)
