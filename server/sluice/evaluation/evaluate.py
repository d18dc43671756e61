"""Evaluates a version: its answers to ordinary input, near to another version's and right by labels, and its stability.

The story is in `evaluate`. What a server would not load is not evaluated either, and everything is computed in this
process, a sample at a time, as exactly as the model can.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sluice.errors import InvalidRequest, ModelFailed
from sluice.evaluation import accuracy, data
from sluice.evaluation.accuracy import Kind
from sluice.evaluation.data import SYNTHETIC, Dataset, EvaluationError, Row
from sluice.evaluation.runner import Allowed, Runner, opened, trusted
from sluice.evaluation.stability import FAILED, OK, Batching, Check, Stability, trouble
from sluice.spec import ModelSpec, TensorSpec
from sluice.store.reading import did_you_mean
from sluice.store.repository import VersionFiles

Array = np.ndarray[Any, Any]
Steps = Callable[[str, int, int], None]  # what is being done, how much of it is done, of how much

PREFIX = "evaluation."
PASSED = "passed"
_SHOWN = 3  # samples named that gave no numbers
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Asked:
    """What the evaluation shall be on, and what it requires."""

    data: Path | None = None  # None: made-up input
    samples: int = data.COUNT  # at most
    seed: int = 0
    output: str = ""  # measured; "" = the first that a request gets
    task: str = ""  # "" = as the manifest says, else as the output looks
    least_accuracy: float | None = None
    least: Mapping[str, float] = field(default_factory=dict)  # of any measure
    strict: bool = False  # what is noted fails the version as well


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


def evaluate(
    files: VersionFiles, against: VersionFiles | None, asked: Asked, allowed: Allowed, steps: Steps
) -> Report:
    """Compute everything that can be said of a version; nothing is written."""
    rows = data.read(asked.data, asked.samples) if asked.data is not None else []
    _check_bounds(asked, against, rows)
    said = trusted(files, allowed)
    if against is not None:
        trusted(against, allowed)
    with opened(files, allowed) as runner:
        output = accuracy.main_output(runner.spec, asked.output)
        rows = rows or data.made_up(files, runner.spec, asked.samples, asked.seed)
        task = asked.task or (said.task if said is not None else "")
        dataset = _dataset(files, runner.spec, rows, asked, task)
        answers, ordinary = _answers(runner, dataset, output, steps)
        kind = accuracy.kind_of(output, answers, task) if answers else Kind.OTHER
        measures = accuracy.right(kind, output, answers, dataset) if answers else {}
        steps("stability", 0, 1)
        stability = Stability(runner, files, asked.strict)
        batching = stability.batching(dataset) if answers else None
        checks = [ordinary, *(stability.checks(dataset) if answers else [])]
        steps("stability", 1, 1)
    if batching is not None:
        checks.append(batching.check)
    if against is not None and answers:
        measures |= _near(against, rows, asked, task, allowed, _Own(kind, output, answers), steps)
    return Report(
        model=files.model,
        version=files.version,
        digest=said.digest() if said is not None else "",
        data=dataset.name,
        samples=len(rows),
        output=output.name,
        kind=kind.value,
        against=f"{against.model}/{against.version}" if against is not None else "",
        measures=measures,
        checks=tuple(checks),
        batching=batching,
        required=_required(asked, kind, against is not None, measures) if answers else {},
    )


def _dataset(files: VersionFiles, spec: ModelSpec, rows: Sequence[Row], asked: Asked, task: str) -> Dataset:
    name = asked.data.name if asked.data is not None else SYNTHETIC
    output = accuracy.main_output(spec, asked.output)
    scored = task in ("classification", "token-classification", "rerank")
    apart = task == "embedding" or not (scored or accuracy.looks_scored(output))
    return data.dataset(files, spec, rows, name, apart=apart)


def _answers(runner: Runner, dataset: Dataset, output: TensorSpec, steps: Steps) -> tuple[list[Array], Check]:
    """What the model answers, and whether that is numbers; no answers if it fails at one."""
    answers: list[Array] = []
    troubles: list[str] = []
    names = dict.fromkeys((*runner.names(every=True), output.name))
    for number, sample in enumerate(dataset.samples):
        steps("samples", number, len(dataset.samples))
        try:
            outputs = runner.alone(sample, [*names])
        except InvalidRequest as error:
            if dataset.name == SYNTHETIC:
                why = "the model refuses made-up input; give it data of its own with --data"
                raise EvaluationError(f"{why}: {error.message}") from error
            return [], Check("ordinary input", FAILED, error.message)
        except ModelFailed as error:
            return [], Check("ordinary input", FAILED, error.message)
        if found := trouble(outputs):
            troubles.append(f"{found} ({sample.place})")
        answers.append(outputs[output.name])
    steps("samples", len(dataset.samples), len(dataset.samples))
    if not troubles:
        return answers, Check("ordinary input", OK, f"{len(answers)} samples: all finite")
    shown = "; ".join(troubles[:_SHOWN]) + ("; …" if len(troubles) > _SHOWN else "")
    return answers, Check("ordinary input", FAILED, f"{len(troubles)} of {len(answers)} samples: {shown}")


@dataclass(frozen=True, slots=True)
class _Own:
    """What the version itself answered."""

    kind: Kind
    output: TensorSpec
    answers: Sequence[Array]


def _near(
    against: VersionFiles,
    rows: Sequence[Row],
    asked: Asked,
    task: str,
    allowed: Allowed,
    own: _Own,
    steps: Steps,
) -> dict[str, float]:
    """The other version's answers to the same rows, and how near they are."""
    place = f"{against.model}/{against.version}"
    with opened(against, allowed) as runner:
        wanted = own.output.name if own.output.name in runner.spec.output_by_name else ""
        output = accuracy.main_output(runner.spec, wanted)
        dataset = _dataset(against, runner.spec, rows, asked, task)
        answers = []
        for number, sample in enumerate(dataset.samples):
            steps(place, number, len(dataset.samples))
            answers.append(runner.alone(sample, [output.name])[output.name])
        steps(place, len(dataset.samples), len(dataset.samples))
    return accuracy.near(own.kind, own.output.name, answers, own.answers)


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
