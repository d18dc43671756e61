"""Makes a smaller and faster version of a model and proves how near it stays: the engine of `sluice quantize`.

1. The parent is read and its layers are found. 2. Data: every second sample is for calibrating and choosing, the others
for the proof. 3. The search. 4. The proof, on samples that nothing was chosen by; where it fails, the next slower choice
is proven. 5. A new version, sealed, or nothing at all.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sluice import __version__
from sluice.backends.base import Source, create
from sluice.errors import ModelError
from sluice.evaluation import data as evaluation_data
from sluice.evaluation.data import Dataset, Sample
from sluice.quantize import layers as finding
from sluice.quantize import machine, targets, trial
from sluice.quantize import source as reading
from sluice.quantize.layers import Layer
from sluice.quantize.nearness import Bounds
from sluice.quantize.report import Proof, Report
from sluice.quantize.rewrite import Rewriter
from sluice.quantize.search import Found, Point, Search
from sluice.quantize.source import PICTURE, RECORD, Origin
from sluice.quantize.study import ROWS, TOKENS, Bench, Parent
from sluice.spec import Signature
from sluice.store import card, manifest, placing
from sluice.store.axes import build_spec
from sluice.store.manifest import Manifest
from sluice.store.repository import VersionFiles

Progress = Callable[[str, int, int], None]
LENGTHS = (16, 32, 64, 128, 256)  # tokens, at which speed is told
_LEAST = 16  # samples: fewer prove nothing
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


def quantize(wish: Wish, progress: Progress) -> Report:
    """What was found; a report without a version says in `missed` why there is none."""
    menu = targets.menu(wish.target, machine.this())
    if wish.number is not None and (taken := wish.models / wish.files.model / wish.number).exists():
        raise ModelError(f"{taken}: it exists and is another version; choose another number")
    origin = reading.read(wish.files)
    layers = finding.find(origin.model)
    with tempfile.TemporaryDirectory(prefix="sluice-quantize-") as name, _opened(origin) as parent:
        dataset = _dataset(wish, parent)
        seen, held = dataset.samples[::2], dataset.samples[1::2]
        work = _Work(wish, origin, layers, parent, Path(name), progress)
        return work.run(dataset, seen, held)


@contextmanager
def _opened(origin: Origin) -> Iterator[Parent]:
    backend = create("onnxruntime")
    try:
        files = origin.files
        signature: Signature = backend.load(
            Source(files.path.absolute(), files.directory.absolute(), {}, "cpu", 1, None)
        )
        yield Parent(backend, build_spec(files, signature, _MOST_ROWS), origin.model)
    finally:
        backend.close()


def _dataset(wish: Wish, parent: Parent) -> Dataset:
    if wish.data is None:
        return evaluation_data.synthetic(wish.files, parent.spec, wish.samples, wish.seed)
    rows = evaluation_data.read(wish.data, wish.samples)
    if len(rows) < _LEAST:
        raise ModelError(f"{wish.data.name}: has {len(rows)} rows, and at least {_LEAST} are needed to prove anything")
    return evaluation_data.dataset(wish.files, parent.spec, rows, wish.data.name)


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

    def run(self, dataset: Dataset, seen: Sequence[Sample], held: Sequence[Sample]) -> Report:
        menu = targets.menu(self._wish.target, self._machine)
        rewriter = Rewriter(self._origin.model, self._layers, self._ranges(seen) if menu.calibrated else {})
        bench = Bench(self._parent, rewriter, seen, self._folder)
        found = Search(self._layers, menu, bench, self._wish.bounds, self._progress).run()
        report = Report(
            self._origin.name, self._wish.target, self._wish.bounds, dataset.name, found, None, None,
            self._origin.size, self._machine,
        )  # fmt: skip
        report = self._proven(report, Bench(self._parent, rewriter, held, self._folder), held)
        if report.missed or not self._wish.publish:
            return report
        return self._published(report, rewriter)

    def _ranges(self, samples: Sequence[Sample]) -> trial.Ranges:
        values = sorted({layer.value for layer in self._layers if layer.kind == "product"})
        total = len(samples)
        return trial.ranges(
            self._origin.model, values, samples, self._folder / "calibration",
            lambda done: self._progress("calibrate", done, total),
        )  # fmt: skip

    def _proven(self, report: Report, bench: Bench, held: Sequence[Sample]) -> Report:
        """With the best choice that keeps the bounds on the other samples as well."""
        candidates = _candidates(report.found, self._wish.bounds)
        if not candidates:
            return replace(report, missed=tuple(_nearest_miss(report)))
        missed: list[str] = []
        for number, point in enumerate(candidates):
            self._progress("proof", number, len(candidates))
            proof = self._proof(point, bench, held)
            wrong = self._wish.bounds.missed(proof.nearness)
            if not wrong:
                self._progress("proof", len(candidates), len(candidates))
                return replace(report, chosen=point, proof=proof)
            missed = missed or [f"{point.name}: {why}, on samples that it was not chosen by" for why in wrong]
            report = report if report.proof else replace(report, chosen=point, proof=proof)
        return replace(report, missed=tuple(missed))

    def _proof(self, point: Point, bench: Bench, held: Sequence[Sample]) -> Proof:
        parent, spec = self._parent.backend, self._parent.spec
        nearness = bench.nearness(point.choice)
        work = trial.batches(spec, held, TOKENS, ROWS)
        with bench.candidate(point.choice) as backend:
            speed = trial.speeds(parent, [backend], spec, work, _PROVEN_ROUNDS)[0]
            by_length = {}
            for length in self._lengths():
                random = np.random.default_rng(length)
                one = trial.batch(spec, [Sample(evaluation_data.tensors(spec, length, random), length)])
                by_length[length] = trial.speeds(parent, [backend], spec, [one] * 4, _PROVEN_ROUNDS)[0]
            differences = [trial.in_company(each, spec, held) for each in (backend, parent)]
        return Proof(nearness, len(held), speed, by_length, *differences, {})

    def _lengths(self) -> Sequence[int]:
        if not self._parent.spec.has_sequence:
            return (1,)
        most = self._wish.files.settings.max_length or LENGTHS[-1]
        return [length for length in LENGTHS if length <= most] or [most]

    def _published(self, report: Report, rewriter: Rewriter) -> Report:
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
                "parents": (
                    manifest.Parent("quantized from", parents.name, parents.version, parents.digest()),
                ),
            }
            digest = manifest.examine(staging, **said).digest()
            sealed = manifest.seal(staging, **said, metrics={**report.metrics(), "evaluation.digest": digest})
            card.write(staging, sealed)
            return sealed

        placed = placing.place(self._wish.models, files.model, self._wish.number, make)
        return replace(
            report, version=f"{files.model}/{placed.directory.name}", directory=str(placed.directory)
        )


def _candidates(found: Found, bounds: Bounds) -> list[Point]:
    """What was chosen, and then whatever is nearer than it, the fastest first."""
    if found.chosen is None:
        return []
    others = [
        point
        for point in found.points
        if point.eligible
        and not bounds.missed(point.nearness)
        and point.nearness.cosine_mean > found.chosen.nearness.cosine_mean
    ]
    return [found.chosen, *sorted(others, key=lambda point: -point.speed)]


def _nearest_miss(report: Report) -> list[str]:
    eligible = [point for point in report.found.points if point.eligible]
    if not eligible:
        return ["there was nothing to try"]
    best = max(eligible, key=lambda point: point.nearness.cosine_mean)
    return [f"{best.name}, the nearest of {len(eligible)} tried: {why}" for why in report.bounds.missed(best.nearness)]

