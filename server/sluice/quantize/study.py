"""Answers what a search asks of a choice, by making its model and running it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from sluice.backends.base import Backend
from sluice.evaluation.data import Sample
from sluice.evaluation.runner import Outputs
from sluice.quantize import trial
from sluice.quantize.nearness import Nearness, near
from sluice.quantize.rewrite import Rewriter
from sluice.quantize.search import Choice
from sluice.spec import ModelSpec

# As a server on a CPU batches: more gains nothing there.
TOKENS, ROWS = 256, 32
_QUICK = 64  # samples by which layers are sorted
_TIMED = 160  # samples on which candidates are timed
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Parent:
    """The version that candidates are measured against, loaded."""

    backend: Backend
    spec: ModelSpec
    model: ModelProto


class Bench:
    """A place where models are written and run; it has one candidate at a time."""

    def __init__(self, parent: Parent, rewriter: Rewriter, samples: Sequence[Sample], folder: Path) -> None:
        self._parent = parent
        self._rewriter = rewriter
        self._samples = samples
        self._answers: list[Outputs] = trial.answers(parent.backend, parent.spec, samples)
        self._work = trial.batches(parent.spec, samples[:_TIMED], TOKENS, ROWS)
        self._folder = folder / "candidate"
        self._sizes: dict[int, int] = {}

    def nearness(self, choice: Choice, quickly: bool = False) -> Nearness:
        count = min(_QUICK, len(self._samples)) if quickly else len(self._samples)
        with self.candidate(choice) as backend:
            found = trial.answers(backend, self._parent.spec, self._samples[:count])
        return near(self._parent.spec, self._answers[:count], found)

    def speed(self, choice: Choice) -> float:
        with self.candidate(choice) as backend:
            return trial.speeds(self._parent.backend, [backend], self._parent.spec, self._work, _ROUNDS)[0]

    def size(self, choice: Choice) -> int:
        return trial.write(self._rewriter.apply(choice), self._folder)

    @contextmanager
    def candidate(self, choice: Choice) -> Iterator[Backend]:
        shutil.rmtree(self._folder, ignore_errors=True)
        trial.write(self._rewriter.apply(choice), self._folder)
        with trial.loaded(self._folder / trial.MODEL) as backend:
            yield backend
