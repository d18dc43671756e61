"""Makes a smaller and faster version of a model and proves how near it stays: the engine of `sluice quantize`.

1. The parent is read and its layers are found. 2. Data: one half is for calibrating and choosing, the other for the
proof. 3. The search. 4. The proof, on samples that nothing was chosen by; where it fails, one other choice, nearer and
slower, is proven on samples of its own. 5. A new version, sealed and evaluated, or nothing at all.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sluice import __version__
from sluice.backends.base import Backend
from sluice.errors import ModelError
from sluice.evaluation import accuracy, record
from sluice.evaluation import data as evaluation_data
from sluice.evaluation import evaluate as evaluation
from sluice.evaluation.data import Dataset, Row, Sample
from sluice.evaluation.runner import Allowed
from sluice.evaluation.stability import FAILED
from sluice.quantize import division, machine, source, targets, trial
from sluice.quantize import layers as finding
from sluice.quantize.layers import Layer
from sluice.quantize.methods import Menu
from sluice.quantize.nearness import Bounds, Judge, Nearness
from sluice.quantize.report import Attempt, Proof, Report
from sluice.quantize.rewrite import Ranges, Rewriter
from sluice.quantize.search import Found, Point, Search
from sluice.quantize.source import PICTURE, RECORD, Origin
from sluice.quantize.study import ROWS, TOKENS, Bench, Parent
from sluice.spec import ModelSpec
from sluice.store import manifest, placing
from sluice.store.axes import build_spec
from sluice.store.manifest import Manifest
from sluice.store.repository import VersionFiles

Progress = Callable[[str, int, int], None]
LENGTHS = (16, 32, 64, 128, 256)  # tokens, at which speed is told
_CALIBRATING = 200  # samples: more tell nothing new of what a layer takes
_LOOKED_AT = 16  # answers, which tell what an output is
_MOST_ROWS = 64
_PROVEN_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Wish:
    models: Path
    files: VersionFiles  # the parent
    target: str
    bounds: Bounds
    data: Path | None = None  # None: made-up samples
    samples: int = 600
    seed: int = 0
    number: str | None = None  # the version's; None = the next that is free
    publish: bool = True


@dataclass(frozen=True, slots=True)
class Held:
    """Held back for one attempt at the proof."""

    rows: Sequence[Row]
    data: Dataset


def quantize(wish: Wish, progress: Progress) -> Report:
    """What was found; a report without a version says in `missed` why there is none."""
    menu = targets.menu(wish.target, machine.this())
    if wish.number is not None and not placing.NUMBER.fullmatch(wish.number):
        raise ModelError(f"{wish.number!r} is no version directory's name, which is a whole number from 1")
    if wish.number is not None and (taken := wish.models / wish.files.model / wish.number).exists():
        raise ModelError(f"{taken}: it exists and is another version; choose another number")
    origin = source.read(wish.files)
    layers = finding.find(origin.model)
    with tempfile.TemporaryDirectory(prefix="sluice-quantize-") as name, trial.loaded(wish.files.path) as loaded:
        spec = build_spec(wish.files, loaded.signature, _MOST_ROWS)
        judge, seen, held = _data(wish, origin, loaded.backend, spec)
        parent = Parent(loaded.backend, spec, origin.model, judge)
        # What a server pads: it would compute equal lengths only, or one at a time, beyond the model's tolerance.
        own = trial.in_company(loaded.backend, spec, held[0].data.samples)
        bounds = replace(wish.bounds, difference=max(wish.files.settings.tolerance, 2 * own))
        wish = replace(wish, bounds=bounds)
        return _Work(wish, origin, layers, parent, Path(name), progress).run(menu, seen, held)


def _data(wish: Wish, origin: Origin, backend: Backend, spec: ModelSpec) -> tuple[Judge, Dataset, list[Held]]:
    """How answers are judged, the samples to choose by and, for each attempt, those for the proof."""
    files, task, output = wish.files, origin.manifest.task, accuracy.main_output(spec)
    if wish.data is None:
        rows, name = evaluation_data.made_up(files, spec, wish.samples, wish.seed), evaluation_data.SYNTHETIC
    else:
        rows, name = evaluation_data.read(wish.data), wish.data.name
    divided = division.divide(rows, name, wish.samples, wish.seed)
    scored = task in ("classification", "token-classification", "rerank") or accuracy.looks_scored(output)
    apart = task == "embedding" or not scored
    seen, *held = (
        evaluation_data.dataset(files, spec, part, name, apart=apart) for part in (divided.seen, *divided.held)
    )
    first = trial.answers(backend, spec, seen.samples[:_LOOKED_AT])
    others = [other for other in spec.outputs if other.default and other.name != output.name]
    kinds = [
        (each, accuracy.kind_of(each, [answer.outputs[each.name] for answer in first], asked))
        for each, asked in ((output, task), *((other, "") for other in others))
    ]
    return Judge(tuple(kinds)), seen, [Held(*pair) for pair in zip(divided.held, held, strict=True)]


class _Work:
    """One run, with all that its steps share."""

    def __init__(
        self, wish: Wish, origin: Origin, layers: tuple[Layer, ...], parent: Parent, folder: Path, progress: Progress
    ) -> None:  # fmt: skip
        self._wish = wish
        self._origin = origin
        self._layers = layers
        self._parent = parent
        self._folder = folder
        self._progress = progress
        self._machine = machine.this()

    def run(self, menu: Menu, seen: Dataset, held: Sequence[Held]) -> Report:
        ranges = self._ranges(seen.samples[:_CALIBRATING]) if menu.calibrated else {}
        rewriter = Rewriter(self._origin.model, self._layers, ranges)
        bench = Bench(self._parent, rewriter, seen.samples, self._folder)
        found = Search(self._layers, menu, bench, self._wish.bounds, self._progress).run()
        report = Report(
            self._origin.name, self._wish.target, self._wish.bounds, seen.name, found, None, None,
            self._origin.size, self._machine,
        )  # fmt: skip
        report = self._proven(report, rewriter, held)
        if report.missed or not self._wish.publish:
            return report
        return self._published(report, rewriter, held[len(report.attempts) - 1].rows)

    def _ranges(self, samples: Sequence[Sample]) -> Ranges:
        values = sorted({layer.value for layer in self._layers if layer.kind == "product"})
        total = len(samples)
        return trial.ranges(
            self._origin.model, values, samples, self._folder / "calibration",
            lambda done: self._progress("calibrate", done, total),
        )  # fmt: skip

    def _proven(self, report: Report, rewriter: Rewriter, held: Sequence[Held]) -> Report:
        """With the best choice that keeps the bounds on other samples as well."""
        candidates = _candidates(report.found, self._wish.bounds)
        if not candidates:
            return replace(report, missed=tuple(_nearest_miss(report)))
        attempts: list[Attempt] = []
        for number, (point, part) in enumerate(zip(candidates, held, strict=False)):
            self._progress("proof", number, len(candidates))
            bounds = self._wish.bounds.stricter() if number else self._wish.bounds
            bench = Bench(self._parent, rewriter, part.data.samples, self._folder)
            with bench.candidate(point.choice) as backend:
                nearness = bench.nearness(backend)
                attempts.append(Attempt(point.name, len(part.data.samples), tuple(bounds.missed(nearness))))
                if not attempts[-1].missed:
                    proof = self._proof(backend, nearness, part.data)
                    self._progress("proof", len(candidates), len(candidates))
                    return replace(report, chosen=point, proof=proof, attempts=tuple(attempts))
        missed = [
            f"{each.name}: {why}, on samples that it was not chosen by" for each in attempts for why in each.missed
        ]
        return replace(report, missed=tuple(missed), attempts=tuple(attempts))

    def _proof(self, backend: Backend, nearness: Nearness, held: Dataset) -> Proof:
        parent, spec = self._parent.backend, self._parent.spec
        work = trial.batches(spec, held.samples, TOKENS, ROWS)
        speed = trial.speeds(parent, [backend], spec, work, _PROVEN_ROUNDS)[0]
        by_length = {}
        for length in self._lengths():
            random = np.random.default_rng(length)
            row = Row(inputs=evaluation_data.tensors(spec, length, random))
            one = trial.batches(spec, evaluation_data.dataset(self._wish.files, spec, [row], "").samples, 1, 1)
            by_length[length] = trial.speeds(parent, [backend], spec, one * 4, _PROVEN_ROUNDS)[0]
        right = self._right(backend, held)
        return Proof(nearness, len(held.samples), speed, by_length, right)

    def _right(self, backend: Backend, held: Dataset) -> accuracy.Measures:
        """By labels, if there are any."""
        judge = self._parent.judge
        if not held.labelled:
            return {}
        answers = trial.answers(backend, self._parent.spec, held.samples)
        return accuracy.right(judge.kind, judge.output, [each.outputs[judge.output.name] for each in answers], held)

    def _lengths(self) -> Sequence[int]:
        if not self._parent.spec.has_sequence:
            return (1,)
        most = self._wish.files.settings.max_length or LENGTHS[-1]
        return [length for length in LENGTHS if length <= most] or [most]

    def _published(self, report: Report, rewriter: Rewriter, rows: Sequence[Row]) -> Report:
        assert report.chosen is not None
        choice = report.chosen.choice
        files, parents = self._origin.files, self._origin.manifest

        def make(staging: Path, target: Path) -> Manifest:
            for name in self._origin.others:
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(files.directory / name, staging / name)
            model = rewriter.apply(choice, "sluice", __version__)
            place = staging / files.path.relative_to(files.directory)
            trial.write(model, place.parent, place.name)
            made = replace(report, version=f"{files.model}/{target.name}")
            (staging / RECORD).write_text(made.record(), "utf-8")
            (staging / PICTURE).write_text(made.picture(), "utf-8")
            said = {
                "name": files.model,
                "version": f"{target.name}.0.0",
                "task": parents.task,
                "tokenizer": parents.tokenizer,
                "source": parents.source,
                "licence": parents.licence,
                "parents": (manifest.Parent("quantized from", parents.name, parents.version, parents.digest()),),
            }
            manifest.seal(staging, **said, metrics=report.metrics())
            self._evaluate(replace(files, version=target.name, directory=staging, path=place), rows)
            return manifest.read(staging) or manifest.examine(staging, **said)

        try:
            placed = placing.place(self._wish.models, files.model, self._wish.number, make)
        except _Failed as failed:
            return replace(report, missed=failed.reasons)
        return replace(report, version=f"{files.model}/{placed.directory.name}", directory=str(placed.directory))

    def _evaluate(self, made: VersionFiles, rows: Sequence[Row]) -> None:
        """As `sluice evaluate --against` the parent does it, with its verdict in the manifest; _Failed by that."""
        bounds = self._wish.bounds
        asked = evaluation.Asked(
            data=self._wish.data,
            rows=rows,
            least_accuracy=bounds.accuracy or None,
            least={"neighbours": bounds.neighbours} if bounds.neighbours else {},
        )
        found = evaluation.evaluate(made, self._origin.files, asked, Allowed(), self._progress)
        wrong = [f"{check.name}: {check.detail}" for check in found.checks if check.result == FAILED]
        wrong += found.short.values()
        if wrong:
            raise _Failed(tuple(f"its evaluation fails: {why}" for why in wrong))
        record.write(made.directory, found)


class _Failed(Exception):
    """What was made is not as it should be."""

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


def _candidates(found: Found, bounds: Bounds) -> list[Point]:
    """What was chosen, and the fastest of those nearer than it that keep what is asked of a second choice."""
    if found.chosen is None:
        return []
    others = [
        point
        for point in found.points
        if point.eligible
        and not bounds.stricter().missed(point.nearness)
        and point.nearness.loss < found.chosen.nearness.loss
    ]
    return [found.chosen, *sorted(others, key=lambda point: -point.speed)][: division.ATTEMPTS]


def _nearest_miss(report: Report) -> list[str]:
    eligible = [point for point in report.found.points if point.eligible]
    if not eligible:
        return ["there was nothing to try"]
    best = min(eligible, key=lambda point: point.nearness.loss)
    return [f"{best.name}, the nearest of {len(eligible)} tried: {why}" for why in report.bounds.missed(best.nearness)]
