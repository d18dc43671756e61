"""Runs one version's model in this process: a sample alone, or several in a batch, padded where lengths differ.

Where an output's rows and tokens are is seen by trying, as the server's own probe does: exporters leave the sizes of
their example in a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sluice.backends.base import Backend, Source, create
from sluice.encryption.keys import NO_KEYS, Keys
from sluice.errors import ModelFailed, SluiceError
from sluice.evaluation.data import Sample, from_bfloat16
from sluice.spec import BYTES, ModelSpec, Padding, Signature, TensorSpec
from sluice.store import inspection, manifest, python_policy
from sluice.store.axes import build_spec, signature_from_settings
from sluice.store.repository import VersionFiles

BATCH_TOKENS = 1024  # padded, as the server's batches on a CPU
_MOST_ROWS = 64

Array = np.ndarray[Any, Any]
Outputs = dict[str, Array]  # by name; BF16 as float32, BYTES as objects
Progress = Callable[[int, int], None]  # how many are done, of how many


@dataclass(frozen=True, slots=True)
class Allowed:
    """Whose code and pickles may be loaded, and what decrypts, as the server's settings of the same names say."""

    python_directories: Sequence[Path] = ()
    pickle_directories: Sequence[Path] = ()
    keys: Keys = NO_KEYS


def trusted(files: VersionFiles, allowed: Allowed) -> manifest.Manifest | None:
    """The manifest, if it has one; ModelError if its files are not those of it, or have in them what nobody should
    load. Nobody asks who signed it: an evaluation comes before the signature."""
    said = manifest.read(files.directory)
    if said is not None:
        manifest.verify(files.directory, said)
    inspection.inspect(files, list(allowed.pickle_directories), allowed.keys)
    return said


@contextmanager
def opened(
    files: VersionFiles, allowed: Allowed = Allowed(), threads: int = 0, device: str = "cpu"
) -> Iterator[Runner]:
    """The version's model, loaded until the end of the block. 0 threads: as many as there are cores."""
    signature: Signature | None = None
    if files.backend == "python":
        python_policy.check_allowed(files.path, allowed.python_directories)
        signature = signature_from_settings(files.settings)
    inspected = inspection.inspect(files, list(allowed.pickle_directories), allowed.keys)
    backend = create(files.backend)
    try:
        found = backend.load(
            Source(
                path=files.path.absolute(),
                directory=files.directory.absolute(),
                parameters=dict(files.settings.parameters),
                device=device,
                threads=threads,
                signature=signature,
                secret=inspected.secret,
                externals=inspected.externals,
            )
        )
        yield Runner(backend, build_spec(files, found, _MOST_ROWS))
    finally:
        backend.close()


class Runner:
    """A loaded model. `names` are the outputs wanted; None = those that a request gets that asks for none."""

    def __init__(self, backend: Backend, spec: ModelSpec) -> None:
        self._backend = backend
        self.spec = spec
        self._axes: dict[str, tuple[int | None, int | None]] = {}  # of each output that was learned: rows and tokens
        self._lengths_told = False  # whether what was learned tells the axis of the tokens

    @property
    def batches(self) -> bool:
        """Whether several samples may be computed at a time at all."""
        return self.spec.batched and self.spec.padding is not Padding.NEVER

    def names(self, every: bool = False) -> tuple[str, ...]:
        return tuple(output.name for output in self.spec.outputs if every or output.default)

    def alone(self, sample: Sample, names: Sequence[str] | None = None) -> Outputs:
        return self._run(sample.inputs, names or self.names(), sample.place)

    def each(
        self, samples: Sequence[Sample], names: Sequence[str] | None = None, progress: Progress | None = None
    ) -> list[Outputs]:  # fmt: skip
        """One by one, as exactly as the model can."""
        answers = []
        for number, sample in enumerate(samples, 1):
            answers.append(self.alone(sample, names))
            if progress is not None:
                progress(number, len(samples))
        return answers

    def together(self, samples: Sequence[Sample], names: Sequence[str] | None = None) -> list[Outputs]:
        """One batch, padded to its longest, if the model takes any; what each sample gets of it. ModelFailed if rows
        cannot be told apart."""
        if len(samples) == 1 or not self.batches:
            return self.each(samples, names)
        names = names or self.names()
        self._learn(samples, names)
        length = max(sample.length for sample in samples)
        outputs = self._run(self._batch(samples, length), names, f"a batch of {len(samples)}")
        return [self._cut(outputs, row, len(samples), sample.length, length) for row, sample in enumerate(samples)]

    def batched(
        self,
        samples: Sequence[Sample],
        names: Sequence[str] | None = None,
        tokens: int = BATCH_TOKENS,
        *,
        padded: bool = False,
    ) -> list[Outputs]:
        """In batches of neighbours by length, of at most so many padded tokens; unless `padded`, of equal lengths."""
        answers: dict[int, Outputs] = {}
        for chosen in self.plan(samples, tokens, padded=padded):
            answers |= zip(chosen, self.together([samples[index] for index in chosen], names), strict=True)
        return [answers[index] for index in range(len(samples))]

    def plan(self, samples: Sequence[Sample], tokens: int = BATCH_TOKENS, *, padded: bool = False) -> list[list[int]]:
        """Which samples go into one batch, by their places in the list."""
        ordered = sorted(range(len(samples)), key=lambda index: (self.shapes(samples[index]), samples[index].length))
        batches: list[list[int]] = []
        for index in ordered:
            last = batches[-1] if batches else []
            fits = (
                self.batches
                and bool(last)
                and self.shapes(samples[last[0]]) == self.shapes(samples[index])
                and len(last) < min(_MOST_ROWS, self.spec.max_batch_rows)
                and (len(last) + 1) * samples[index].length <= tokens
                and (padded or samples[last[0]].length == samples[index].length)
            )
            if fits:
                last.append(index)
            else:
                batches.append([index])
        return batches

    def shapes(self, sample: Sample) -> tuple[tuple[int, ...], ...]:
        """What the samples of a batch must have in common: all sizes but rows and lengths."""
        return tuple(
            tuple(
                size
                for axis, size in enumerate(sample.inputs[tensor.name].shape)
                if axis not in (tensor.batch_axis, tensor.sequence_axis)
            )
            for tensor in self.spec.inputs
        )

    def _batch(self, samples: Sequence[Sample], length: int) -> dict[str, Array]:
        batch: dict[str, Array] = {}
        for tensor in self.spec.inputs:
            rows = [padded(tensor, sample.inputs[tensor.name], length) for sample in samples]
            batch[tensor.name] = np.concatenate(rows, tensor.batch_axis) if tensor.batch_axis is not None else rows[0]
        return batch

    def _run(self, inputs: Mapping[str, Array], names: Sequence[str], place: str) -> Outputs:
        ready = {name: np.asarray(array, order="C") for name, array in inputs.items()}
        try:
            outputs = self._backend.run(ready, dict.fromkeys(names))
        except SluiceError as error:
            raise type(error)(f"{place}: {error.message}" if place else error.message) from error
        return {name: self._readable(name, outputs[name]) for name in names}

    def _readable(self, name: str, array: Array) -> Array:
        if self.spec.output_by_name[name].datatype == "BF16":
            return from_bfloat16(array)
        return np.array(array)  # a copy: a backend may use its memory again

    # Which axes of the outputs carry rows and tokens.

    def _learn(self, samples: Sequence[Sample], names: Sequence[str]) -> None:
        ordered = sorted(samples, key=lambda sample: sample.length)
        short, long = ordered[0], ordered[-1]
        known = all(name in self._axes for name in names)
        if known and (self._lengths_told or short.length == long.length):
            return
        rows = 3 if (short.length, long.length) != (1, 3) else 2
        one = self._run(short.inputs, names, short.place)
        several = self._run(self._batch([short] * (rows - 1) + [long], long.length), names, f"a batch of {rows}")
        unequal = short.length != long.length
        for name in names:
            spec = self.spec.output_by_name[name]
            seen = one[name].shape, several[name].shape
            row_axis = _following(spec.batch_axis, seen, (1, rows))
            token_axis = _following(spec.sequence_axis, seen, (short.length, long.length)) if unequal else None
            self._axes[name] = row_axis, token_axis
        self._lengths_told = unequal

    def _cut(self, outputs: Outputs, row: int, rows: int, length: int, longest: int) -> Outputs:
        cut: Outputs = {}
        for name, array in outputs.items():
            row_axis, token_axis = self._axes[name]
            if row_axis is None and self.spec.output_by_name[name].batch_axis is not None:
                raise ModelFailed(f"output '{name}' of shape {list(array.shape)} has no axis for the rows of a batch")
            index = [slice(None)] * array.ndim
            if row_axis is not None and array.shape[row_axis] == rows:
                index[row_axis] = slice(row, row + 1)
            if token_axis is not None and array.shape[token_axis] == longest:
                index[token_axis] = slice(0, length)
            cut[name] = array[tuple(index)]
        return cut


def padded(tensor: TensorSpec, array: Array, length: int) -> Array:
    """The input with its sequence axis filled up, as the server does it."""
    axis = tensor.sequence_axis
    if axis is None or array.shape[axis] == length:
        return array
    shape = list(array.shape)
    shape[axis] = length - array.shape[axis]
    rest: Array = np.full(shape, b"" if tensor.datatype == BYTES else tensor.pad, array.dtype)
    return np.concatenate([array, rest], axis)


def _following(declared: int | None, seen: tuple[tuple[int, ...], ...], sizes: tuple[int, int]) -> int | None:
    """The axis whose size followed `sizes`, the declared one if it did."""
    if len({len(shape) for shape in seen}) > 1:
        return None
    found = [axis for axis, pair in enumerate(zip(*seen, strict=True)) if pair == sizes]
    return declared if declared in found else next(iter(found), None)
