"""Whether a version's answers are numbers, whatever it is given, and the same alone, in a batch and the next time.

A check that a server's clients rely on fails the version: ordinary, empty and longest inputs and strange texts give
finite numbers. The others are noted: a picture of nothing but zeros may be a division by zero to an honest model, and
what a batch changes the server finds out and avoids by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sluice.errors import InvalidRequest, ModelFailed, SluiceError
from sluice.evaluation import data, measures, texts
from sluice.evaluation.data import Dataset, EvaluationError, Row, Sample
from sluice.evaluation.runner import Outputs, Runner
from sluice.spec import BYTES, ModelSpec, Padding
from sluice.store.repository import VersionFiles

OK, FAILED, NOTED = "ok", "failed", "noted"

# Unusual, but any client may send them.
_STRANGE = (
    "\u0000\u0007\u001b\ufffd",
    "🧑🏽‍🚀🏳️‍🌈" * 40,
    "ﷺ गणेश 漢字 עברית ไทย " * 20,
    "a" * 2000,
    " \t\n\r\u00a0\u200b",
    "[MASK] <mask> [PAD] <pad> </s>",
)
_LARGE = 1000.0  # times ordinary
_SPREAD = 250  # tokens of the vocabulary
_IN_BATCH = 8  # samples compared alone and in one batch
_SEED = 4


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, and how it went."""

    name: str
    result: str  # OK, FAILED; NOTED: not as one would wish, and nothing that fails a version
    detail: str


@dataclass(frozen=True, slots=True)
class Batching:
    """How requests may share a batch, and what that changes."""

    padding: Padding
    difference: float  # relative to the largest value, in a batch of that kind
    check: Check


def trouble(outputs: Outputs) -> str:
    """What of these outputs is no number; empty if all is."""
    for name, array in outputs.items():
        found = measures.scan(array)
        if not found.finite:
            return f"output '{name}' has {found}"
    return ""


class Stability:
    """Looks at one version in one way after the other."""

    def __init__(self, runner: Runner, files: VersionFiles, strict: bool = False) -> None:
        self._runner = runner
        self._files = files
        self._spec: ModelSpec = runner.spec
        self._names = runner.names(every=True)
        self._strict = strict
        self._tokens = texts.takes_tokens(runner.spec) and texts.has_tokenizer(files.directory)
        asked = [tensor for tensor in runner.spec.inputs if tensor.fill is None]
        self._strings = not self._tokens and len(asked) == 1 and asked[0].datatype == BYTES

    def checks(self, dataset: Dataset) -> list[Check]:
        """All but what ordinary input gives, and what a batch changes."""
        looks: list[Callable[[], Check | None]] = [self.empty, self.longest, self.strange, self.vocabulary]
        looks += [self.zeros, self.large]
        looks += [lambda: self.masked(dataset.samples[0]), lambda: self.again(dataset.samples[0])]
        return [check for look in looks if (check := look()) is not None]

    # Inputs that fail a version.

    def empty(self) -> Check | None:
        if self._tokens or self._strings:
            return self._required("empty text", [Row("", place="an empty text")])
        if self._spec.has_sequence:
            return self._required("shortest input", [self._made_up(1)])
        return None

    def longest(self) -> Check | None:
        said = self._files.settings.max_length
        name = "longest input"
        if self._tokens:
            tokenizer = texts.Tokenizer(self._files, self._spec)
            words = tokenizer.words()
            row = Row(" ".join(words[number % len(words)] for number in range(tokenizer.longest)), place="a long text")
            length = tokenizer.longest
        elif self._spec.has_sequence:
            length = said or texts.LONGEST
            row = self._made_up(length)
        else:
            return None
        check = self._required(name, [row], f"of length {length}")
        if check.result == FAILED and not said:
            return replace(check, result=self._wish, detail=f"{check.detail}; say its max_length in model.toml")
        return check

    def strange(self) -> Check | None:
        if not self._tokens and not self._strings:
            return None
        rows = [Row(text, place=f"the text {text[:8]!r}…") for text in _STRANGE]
        return self._required("strange texts", rows, f"{len(rows)} texts")

    def vocabulary(self) -> Check | None:
        """Tokens that few texts have: a table that is shorter than the vocabulary ends before the last."""
        if not self._tokens:
            return None
        inputs, count = texts.Tokenizer(self._files, self._spec).spread(_SPREAD)
        sample = Sample(inputs, count)
        return self._judge("all over the vocabulary", FAILED, [sample], f"{count} tokens")

    # Inputs that are noted.

    def zeros(self) -> Check | None:
        if self._tokens or self._strings:
            return None
        row = self._made_up(texts.LONGEST // 16)
        zeros = {name: np.zeros_like(array) for name, array in row.inputs.items() if array.dtype.kind in "biuf"}
        return self._wished("nothing but zeros", Row(inputs={**row.inputs, **zeros}, place="zeros")) if zeros else None

    def large(self) -> Check | None:
        row = self._made_up(texts.LONGEST // 16)
        large = {name: array * _LARGE for name, array in row.inputs.items() if array.dtype.kind == "f"}
        if not large:
            return None
        return self._wished(
            "large values", Row(inputs={**row.inputs, **large}, place=f"values {_LARGE:g} times ordinary")
        )

    def masked(self, sample: Sample) -> Check | None:
        """A row of which nothing is to be looked at."""
        masks = [tensor.name for tensor in self._spec.inputs if texts.is_mask(tensor)]
        if not masks:
            return None
        zeros = {name: np.zeros_like(sample.inputs[name]) for name in masks}
        return self._judge("all masked out", self._wish, [Sample({**sample.inputs, **zeros}, sample.length)])

    def again(self, sample: Sample) -> Check | None:
        """The same input once more."""
        try:
            first, second = (self._runner.alone(sample, self._names) for _ in range(2))
        except SluiceError:
            return None  # as ordinary input shows
        difference, name = _largest(first, second)
        if difference <= self._files.settings.tolerance:
            return Check("the same again", OK, "the same answer")
        return Check("the same again", self._wish, f"output '{name}' differs by {difference:.2g} for the same input")

    @property
    def _wish(self) -> str:
        """What comes of a check that is noted."""
        return FAILED if self._strict else NOTED

    def _made_up(self, length: int) -> Row:
        length = min(length, self._files.settings.max_length or length)
        inputs = data.tensors(self._spec, length, np.random.default_rng(_SEED))
        return Row(inputs=inputs, place=f"made-up input of length {length}")

    def _required(self, name: str, rows: Sequence[Row], what: str = "") -> Check:
        return self._of_rows(name, FAILED, rows, what)

    def _wished(self, name: str, row: Row) -> Check:
        return self._of_rows(name, self._wish, [row], "")

    def _of_rows(self, name: str, otherwise: str, rows: Sequence[Row], what: str) -> Check:
        samples: list[Sample] = []
        refused = ""
        for row in rows:
            try:
                samples += data.dataset(self._files, self._spec, [row], name).samples
            except EvaluationError as error:  # such as a text without tokens, which nobody can ask for
                refused = error.message
        return self._judge(name, otherwise, samples, what) if samples else Check(name, NOTED, refused)

    def _judge(self, name: str, otherwise: str, samples: Sequence[Sample], what: str = "") -> Check:
        for sample in samples:
            try:
                found = trouble(self._runner.alone(sample, self._names))
            except InvalidRequest as error:
                # Made-up values may be such as the model says itself that it does not take.
                refused = otherwise if self._tokens or self._strings else NOTED
                return Check(name, refused, f"refused: {error.message}")
            except ModelFailed as error:
                return Check(name, otherwise, error.message)
            if found:
                return Check(name, otherwise, f"{sample.place}: {found}" if sample.place else found)
        return Check(name, OK, f"{what}: all finite" if what else "all finite")

    # In a batch.

    def batching(self, dataset: Dataset) -> Batching | None:
        """What a batch changes: padded first, and if that is too much, of equal lengths. None: it takes no batches."""
        if not self._runner.batches:
            return None
        samples = self._for_a_batch(dataset)
        if len(samples) < 2:
            return None
        equal = ("of equal lengths", Padding.EQUAL, _equal(self._spec, samples))
        kinds = [("of any lengths", Padding.ANY, samples), equal]
        if not self._spec.has_sequence:
            kinds = [("of any rows", Padding.ANY, samples)]
        tolerance = self._files.settings.tolerance
        for kind, padding, chosen in kinds:
            difference, told = self._changed(chosen)
            if difference <= tolerance:
                result = OK if padding is Padding.ANY else NOTED
                return Batching(padding, difference, Check("in a batch", result, f"batches {kind}: {told}"))
        why = f"one request at a time: {told} (tolerance {tolerance:g})"
        return Batching(Padding.NEVER, difference, Check("in a batch", NOTED, why))

    def _for_a_batch(self, dataset: Dataset) -> list[Sample]:
        """Some of different lengths that may share a batch, short ones first, without giants."""
        shapes = self._runner.shapes(dataset.samples[0])
        alike = [sample for sample in dataset.samples if self._runner.shapes(sample) == shapes]
        ordered = sorted(alike, key=lambda sample: sample.length)[: len(alike) * 3 // 4 + 1]
        count = min(_IN_BATCH, len(ordered))
        return [ordered[index * len(ordered) // count] for index in range(count)]

    def _changed(self, samples: Sequence[Sample]) -> tuple[float, str]:
        try:
            alone = self._runner.each(samples, self._names)
            together = self._runner.together(samples, self._names)
        except (InvalidRequest, ModelFailed) as error:
            return float("inf"), error.message
        difference, name = max((_largest(*pair) for pair in zip(alone, together, strict=True)), default=(0.0, ""))
        changed = f"output '{name}' differs by {difference:.2g} beside others"
        return difference, changed if difference else "the same answers beside others"


def _largest(expected: Outputs, found: Outputs) -> tuple[float, str]:
    """The largest difference among the outputs, and which it is."""
    return max((measures.difference(expected[name], found[name]), name) for name in expected)


def _equal(spec: ModelSpec, samples: Sequence[Sample]) -> list[Sample]:
    """The samples, cut to the length of the shortest."""
    length = min(sample.length for sample in samples)
    cut = []
    for sample in samples:
        inputs = dict(sample.inputs)
        for tensor in spec.inputs:
            if tensor.sequence_axis is not None:
                array = inputs[tensor.name]
                index = [slice(None)] * array.ndim
                index[tensor.sequence_axis] = slice(0, length)
                inputs[tensor.name] = array[tuple(index)]
        cut.append(Sample(inputs, length, sample.place))
    return cut
