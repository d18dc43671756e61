"""Answers what a search asks of a choice, by making its model and running it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from onnx import ModelProto

from sluice.backends.base import Backend
from sluice.evaluation.data import Sample
from sluice.quantize import trial
from sluice.quantize.nearness import Answer, Judge, Nearness
from sluice.quantize.rewrite import Rewriter
from sluice.quantize.search import Choice, Measured
from sluice.spec import ModelSpec

# As a server on a CPU batches: more gains nothing there.
TOKENS, ROWS = 256, 32
_QUICK = 48  # samples by which layers are sorted
_TIMED = 96  # samples on which candidates are timed
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Parent:
    """The version that candidates are measured against, loaded."""

    backend: Backend
    spec: ModelSpec
    model: ModelProto
    judge: Judge


class Bench:
    """A place where models are written and run; it has one candidate at a time."""

    def __init__(self, parent: Parent, rewriter: Rewriter, samples: Sequence[Sample], folder: Path) -> None:
        self._parent = parent
        self._rewriter = rewriter
        self._samples = samples
        self._answers = self._of(parent.backend, samples)
        self._work = trial.batches(parent.spec, samples[:_TIMED], TOKENS, ROWS)
        self._folder = folder / "candidate"

    def measure(self, choice: Choice) -> Measured:
        with self.candidate(choice) as backend:
            speed = trial.speeds(self._parent.backend, [backend], self._parent.spec, self._work, _ROUNDS)[0]
            size = trial.size(self._folder / trial.MODEL)
            return Measured(self.nearness(backend), speed, size)

    def nearness(self, backend: Backend) -> Nearness:
        found = self._of(backend, self._samples)
        difference = trial.in_company(backend, self._parent.spec, self._samples)
        return replace(self._parent.judge.near(self._answers, found), difference=difference)

    def loss(self, choice: Choice) -> float:
        count = min(_QUICK, len(self._samples))
        with self.candidate(choice) as backend:
            found = self._of(backend, self._samples[:count])
        return self._parent.judge.near(self._answers[:count], found).loss

    def _of(self, backend: Backend, samples: Sequence[Sample]) -> list[Answer]:
        return trial.answers(backend, self._parent.spec, samples)

    @contextmanager
    def candidate(self, choice: Choice) -> Iterator[Backend]:
        shutil.rmtree(self._folder, ignore_errors=True)
        trial.write(self._rewriter.apply(choice), self._folder)
        with trial.loaded(self._folder / trial.MODEL) as candidate:
            yield candidate.backend
