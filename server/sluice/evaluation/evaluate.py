"""Evaluates a version: its answers to ordinary input, near to another version's and right by labels, and its stability.

The story is in `evaluate`. What a server would not load is not evaluated either, and everything is computed in this
process, a sample at a time, as exactly as the model can.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sluice.errors import InvalidRequest, ModelFailed
from sluice.evaluation import accuracy, data
from sluice.evaluation.accuracy import Kind
from sluice.evaluation.data import COUNT, SYNTHETIC, EvaluationError, Row
from sluice.evaluation.runner import Allowed, Runner, opened, trusted
from sluice.evaluation.stability import FAILED, OK, Batching, Check, Stability, trouble
from sluice.store.reading import did_you_mean
from sluice.store.repository import VersionFiles

Array = np.ndarray[Any, Any]
Steps = Callable[[str, int, int], None]  # what is being done, how much of it is done, of how much

PREFIX = "evaluation."
PASSED = "passed"
_SHOWN = 3  # samples named that gave no numbers
_MOST_KEPT = 1 << 30  # bytes of answers to compare
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Asked:
    """What the evaluation shall be on, and what it requires."""

    data: Path | None = None  # None: made-up input
    samples: int = COUNT  # at most
    seed: int = 0
    output: str = ""  # measured; "" = the first that a request gets
    task: str = ""  # "" = as the manifest says, else as the output looks
    least_accuracy: float | None = None
    least: Mapping[str, float] = field(default_factory=dict)  # of any measure
    strict: bool = False  # what is noted fails the version as well
    rows: Sequence[Row] = ()  # of the data, where they are chosen already


@dataclass(frozen=True, slots=True)
class Report:
    """How a version fared."""

    model: str
    version: str
    digest: str  # "" = it is not sealed
    data: str
    samples: int
    output: str
    kind: str
    against: str  # "" = no other version
    measures: Mapping[str, float]
    checks: tuple[Check, ...]
    batching: Batching | None
    required: Mapping[str, float]

    @property
    def short(self) -> dict[str, str]:
        """The measures that are not what was required, and how."""
        return {
            name: f"{name} is {self.measures[name]:.{_DIGITS}g}, less than {least:g}"
            for name, least in self.required.items()
            if not self.measures[name] >= least  # also what is nan
        }

    @property
    def passed(self) -> bool:
        return not self.short and all(check.result != FAILED for check in self.checks)

    @property
    def verdict(self) -> str:
        return PASSED if self.passed else FAILED

    def metrics(self) -> dict[str, float | str]:
        """As they are written into a manifest."""
        found: dict[str, float | str] = {
            "digest": self.digest,
            "verdict": self.verdict,
            "samples": self.samples,
            "data": self.data,
            "finite": "yes" if self.checks[0].result == OK else "no",
        }
        if self.against:
            found["against"] = self.against
        if self.required:
            found["required"] = ", ".join(f"{name} >= {least:g}" for name, least in self.required.items())
        if self.batching is not None:
            found["batching"] = self.batching.padding.value
        found |= {name: rounded(value) for name, value in self.measures.items() if math.isfinite(value)}
        return {PREFIX + name: value for name, value in found.items() if value != ""}


def rounded(value: float) -> float:
    """To the digits that are written."""
    return round(value, _DIGITS)


def evaluate(files: VersionFiles, against: VersionFiles | None, asked: Asked, allowed: Allowed, steps: Steps) -> Report:
    """Compute everything that can be said of a version; nothing is written."""
    rows = asked.rows
    if asked.data is not None and not rows:
        rows = data.read(asked.data, asked.samples)
    _check_bounds(asked, against, rows)
    said = trusted(files, allowed)
    if against is not None:
        trusted(against, allowed)
    asked = replace(asked, task=asked.task or (said.task if said is not None else ""))
    with opened(files, allowed) as runner:
        rows = rows or data.made_up(files, runner.spec, asked.samples, asked.seed)
        subject = _Subject(files, runner, rows, asked)
        answers, ordinary = subject.answers("samples", steps, against is not None or subject.dataset.labelled)
        steps("stability", 0, 1)
        stability = Stability(runner, files, asked.strict)
        batching = stability.batching(subject.dataset) if answers else None
        checks = [ordinary, *(stability.checks(subject.dataset) if answers else [])]
        steps("stability", 1, 1)
    if batching is not None:
        checks.append(batching.check)
    kind, measures = Kind.OTHER, accuracy.Measures()
    if answers:
        kind = accuracy.kind_of(subject.output, answers, asked.task)
        measures |= accuracy.right(kind, subject.output, answers, subject.dataset)
        if against is not None:
            others = _of_the_other(against, rows, replace(asked, output=subject.output.name), allowed, steps)
            measures |= accuracy.near(kind, subject.output.name, others, answers)
    return Report(
        model=files.model,
        version=files.version,
        digest=said.digest() if said is not None else "",
        data=subject.dataset.name,
        samples=len(rows),
        output=subject.output.name,
        kind=kind.value,
        against=_place(against) if against is not None else "",
        measures=measures,
        checks=tuple(checks),
        batching=batching,
        required=_required(asked, kind, against is not None, measures) if answers else {},
    )


def _of_the_other(
    against: VersionFiles, rows: Sequence[Row], asked: Asked, allowed: Allowed, steps: Steps
) -> list[Array]:
    """The other version's answers to the same rows; it may call its output otherwise."""
    with opened(against, allowed) as runner:
        if asked.output not in runner.spec.output_by_name:
            asked = replace(asked, output="")
        answers, check = _Subject(against, runner, rows, asked).answers(_place(against), steps, keep=True)
    if not answers:
        raise EvaluationError(f"{_place(against)} cannot be compared with: {check.detail}")
    return answers


def _place(files: VersionFiles) -> str:
    return f"{files.model}/{files.version}"


class _Subject:
    """A loaded version, the rows as its inputs, and the output that is measured."""

    def __init__(self, files: VersionFiles, runner: Runner, rows: Sequence[Row], asked: Asked) -> None:
        self._runner = runner
        self.output = accuracy.main_output(runner.spec, asked.output)
        name = asked.data.name if asked.data is not None else SYNTHETIC
        scored = asked.task in ("classification", "token-classification", "rerank")
        apart = asked.task == "embedding" or not (scored or accuracy.looks_scored(self.output))
        self.dataset = data.dataset(files, runner.spec, rows, name, apart=apart)

    def answers(self, step: str, steps: Steps, keep: bool) -> tuple[list[Array], Check]:
        """What the model answers, and whether that is numbers; no answers if it fails at one. Unless told to `keep`
        them, to be compared with something, only their shapes are."""
        samples = self.dataset.samples
        answers: list[Array] = []
        troubles: list[str] = []
        size = 0
        names = self._runner.names(every=True)
        for number, sample in enumerate(samples):
            steps(step, number, len(samples))
            try:
                outputs = self._runner.alone(sample, names)
            except InvalidRequest as error:
                if self.dataset.name == SYNTHETIC:
                    why = "the model refuses made-up input; give it data of its own with --data"
                    raise EvaluationError(f"{why}: {error.message}") from error
                return [], Check("ordinary input", FAILED, error.message)
            except ModelFailed as error:
                return [], Check("ordinary input", FAILED, error.message)
            if found := trouble(outputs):
                troubles.append(f"{found} ({sample.place})")
            answer = outputs[self.output.name]
            answers.append(answer if keep else np.broadcast_to(answer.dtype.type(), answer.shape))
            size += answer.nbytes if keep else 0
            if size > _MOST_KEPT:
                why = f"{len(answers)} samples give more than {_MOST_KEPT >> 20} MiB to compare"
                raise EvaluationError(f"output '{self.output.name}': {why}; say fewer --samples, or another --output")
        steps(step, len(samples), len(samples))
        return answers, _ordinary(len(answers), troubles)


def _ordinary(count: int, troubles: Sequence[str]) -> Check:
    if not troubles:
        return Check("ordinary input", OK, f"{count} samples: all finite")
    shown = "; ".join(troubles[:_SHOWN]) + ("; …" if len(troubles) > _SHOWN else "")
    return Check("ordinary input", FAILED, f"{len(troubles)} of {count} samples: {shown}")


def _check_bounds(asked: Asked, against: VersionFiles | None, rows: Sequence[Row]) -> None:
    """Before anything is computed: a bound needs something to be held against."""
    labelled = any(row.label is not None for row in rows)
    if (asked.least_accuracy is not None or asked.least) and against is None and not labelled:
        raise EvaluationError(
            "nothing tells how accurate it is: name another version with --against, or give --data with labels"
        )


def _required(asked: Asked, kind: Kind, compared: bool, measures: Mapping[str, float]) -> dict[str, float]:
    """The bounds by the names of measures."""
    bounds = dict(asked.least)
    if asked.least_accuracy is not None:
        names = (accuracy.AGAINST[kind],) if compared else accuracy.BY_LABELS.get(kind, ())
        bounds |= {name: asked.least_accuracy for name in names if name in measures}
    unknown = next((name for name in bounds if name not in measures), None)
    if unknown is not None:
        raise EvaluationError(f"--min {unknown}: was not measured; {did_you_mean(unknown, measures)}")
    return bounds
