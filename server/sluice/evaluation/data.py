"""What a version is evaluated on: the rows of a JSON-lines file, or rows made up, turned into its model's inputs.

A row is a text, a pair of texts, or inputs by name, with a label if somebody knows one:

    "a text"
    {"text": "a text", "label": "sport"}
    {"text": "a text", "pair": "another", "label": 0.8}
    {"inputs": {"pixels": [[0.1, 0.2]]}, "label": 3}

Made-up rows come from a seed and are the same on every run: texts of the tokenizer's own words for a model that has
one, else tensors drawn by datatype.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sluice.errors import SluiceError
from sluice.evaluation import texts
from sluice.spec import BYTES, NUMPY_TYPES, ModelSpec, TensorSpec
from sluice.store.reading import did_you_mean
from sluice.store.repository import VersionFiles

SYNTHETIC = "synthetic"
COUNT = 500  # samples when nobody says how many

Array = np.ndarray[Any, Any]
Label = str | int | float

_KEYS = ("text", "pair", "inputs", "label")
_MOST_LINE = 16 << 20  # bytes; a file that is no JSON lines may be one endless line
# Lengths of real short texts, in tokens; bench/traffic.py sends the same.
_MEDIAN, _P95, _P95_DEVIATIONS = 24, 124, 1.6449
_LARGEST_INTEGER = 9  # small enough to be a valid index of any vocabulary


class EvaluationError(SluiceError):
    """The data cannot be read, or is not what the model takes."""

    reason = "evaluation"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a file, or one made up."""

    text: str | None = None  # None: it has `inputs`
    pair: str | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)  # nested lists, or arrays, by name; BF16 as numbers
    label: Label | None = None
    place: str = ""  # for errors: "texts.jsonl, line 3"


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run takes: every input, with one row along the batch axis where the model has one."""

    inputs: Mapping[str, Array]
    length: int = 1  # along the sequence axis
    place: str = ""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Samples, and what is known of the rows that they come from."""

    name: str  # "synthetic", or the file's name
    samples: tuple[Sample, ...]
    labels: tuple[Label | None, ...]  # one for each row
    apart: bool = False  # a row is two samples, one after the other: the texts of a pair are embedded each for itself

    @property
    def labelled(self) -> bool:
        return any(label is not None for label in self.labels)


def read(path: Path, limit: int | None = None) -> list[Row]:
    """The rows of a file; of more than `limit` those at even distances."""
    rows: list[Row] = []
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(_MOST_LINE + 1):
                number += 1
                place = f"{path.name}, line {number}"
                if len(line) > _MOST_LINE:
                    raise EvaluationError(f"{place}: is longer than {_MOST_LINE} bytes; one JSON value a line is read")
                if line.strip():
                    rows.append(_row(line, place))
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {error.strerror}") from error
    if not rows:
        raise EvaluationError(f"{path.name}: is empty; it should have a text or an object in each line")
    if limit is None or len(rows) <= limit:
        return rows
    return [rows[index * len(rows) // limit] for index in range(limit)]


def dataset(files: VersionFiles, spec: ModelSpec, rows: Sequence[Row], name: str, *, apart: bool = False) -> Dataset:
    """The rows as inputs of this model. `apart`: the texts of a pair go in each for itself, as for an embedding."""
    encoder = _Encoder(files, spec)
    apart = apart and any(row.pair is not None for row in rows)
    samples: list[Sample] = []
    for row in rows:
        if not apart:
            samples.append(encoder.sample(row))
            continue
        if row.text is None or row.pair is None:
            raise EvaluationError(f"{row.place}: has no pair, and others have; give every row one, or none")
        samples += (encoder.sample(Row(text, place=row.place)) for text in (row.text, row.pair))
    return Dataset(name, tuple(samples), tuple(row.label for row in rows), apart)


def synthetic(files: VersionFiles, spec: ModelSpec, count: int = COUNT, seed: int = 0) -> Dataset:
    """Samples of made-up rows."""
    return dataset(files, spec, made_up(files, spec, count, seed), SYNTHETIC)


def made_up(files: VersionFiles, spec: ModelSpec, count: int = COUNT, seed: int = 0) -> list[Row]:
    """Texts with lognormal lengths where a tokenizer makes the model's inputs, else tensors drawn by datatype."""
    if texts.takes_tokens(spec) and texts.has_tokenizer(files.directory):
        tokenizer = texts.Tokenizer(files, spec)
        drawn = texts.made_up(tokenizer, lengths(count, seed, tokenizer.longest), seed)
        return [Row(text, place=f"made-up text {number}") for number, text in enumerate(drawn, 1)]
    random = np.random.default_rng((seed, 2))
    longest = files.settings.max_length or texts.LONGEST
    sizes = lengths(count, seed, longest) if spec.has_sequence else [1] * count
    return [
        Row(inputs=tensors(spec, length, random), place=f"made-up input {number}")
        for number, length in enumerate(sizes, 1)
    ]


def lengths(count: int, seed: int, longest: int) -> list[int]:
    """Lognormal, as those of real short texts."""
    spread = math.log(_P95 / _MEDIAN) / _P95_DEVIATIONS
    drawn = np.random.default_rng((seed, 1)).lognormal(math.log(_MEDIAN), spread, count)
    return [int(length) for length in np.clip(drawn, min(3, longest), longest)]


def tensors(spec: ModelSpec, length: int, random: np.random.Generator) -> dict[str, Array]:
    """Every input that has to be sent, made up."""
    asked = [tensor for tensor in spec.inputs if tensor.fill is None]
    return {tensor.name: _drawn(tensor, shape_of(tensor, length), random) for tensor in asked}


def filled(tensor: TensorSpec, shape: tuple[int, ...]) -> Array:
    """What stands for an input that a client leaves out."""
    return np.full(shape, tensor.fill, NUMPY_TYPES[tensor.datatype])


def shape_of(tensor: TensorSpec, length: int) -> tuple[int, ...]:
    sizes = {tensor.batch_axis: 1, tensor.sequence_axis: length}
    return tuple(sizes.get(axis, 1 if size < 0 else size) for axis, size in enumerate(tensor.shape))


def _drawn(tensor: TensorSpec, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    if tensor.datatype == BYTES:
        return np.full(shape, "0", dtype=object)
    dtype = NUMPY_TYPES[tensor.datatype]
    if dtype.kind == "f" or tensor.datatype == "BF16":
        return random.standard_normal(shape).astype(np.float32)
    if dtype.kind == "b":
        return random.integers(0, 1, shape, endpoint=True)
    most = 255 if tensor.datatype == "UINT8" else _LARGEST_INTEGER  # bytes are pictures, other integers are indices
    return random.integers(0, most, shape, endpoint=True)


def to_bfloat16(array: Array) -> Array:
    """Its upper 16 bits, as BF16 travels."""
    return (np.asarray(array, np.float32, order="C").view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def from_bfloat16(array: Array) -> Array:
    return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)


# From rows to inputs.


class _Encoder:
    """Makes samples of rows; the tokenizer is read when the first text comes."""

    def __init__(self, files: VersionFiles, spec: ModelSpec) -> None:
        self._files = files
        self._spec = spec
        self._tokenizer: texts.Tokenizer | None = None

    def sample(self, row: Row) -> Sample:
        try:
            if row.text is None:
                return self._given(row)
            if texts.takes_tokens(self._spec):
                if self._tokenizer is None:
                    self._tokenizer = texts.Tokenizer(self._files, self._spec)
                inputs, length = self._tokenizer.inputs(row.text, row.pair)
                return Sample(inputs, length, row.place)
            return self._as_string(row)
        except ValueError as error:
            raise EvaluationError(f"{row.place}: {error}" if row.place else str(error)) from error

    def _given(self, row: Row) -> Sample:
        unknown = next((name for name in row.inputs if name not in self._spec.input_by_name), None)
        if unknown is not None:
            raise ValueError(f"inputs: {unknown}: {did_you_mean(unknown, self._spec.input_by_name)}")
        inputs: dict[str, Array] = {}
        length = 1
        for tensor in self._spec.inputs:
            if tensor.name in row.inputs:
                array = _array(tensor, row.inputs[tensor.name])
                inputs[tensor.name] = array
                length = array.shape[tensor.sequence_axis] if tensor.sequence_axis is not None else length
        for tensor in self._spec.inputs:
            if tensor.name not in inputs:
                if tensor.fill is None:
                    raise ValueError(f"inputs: '{tensor.name}' is missing")
                inputs[tensor.name] = filled(tensor, shape_of(tensor, length))
        return Sample(inputs, length, row.place)

    def _as_string(self, row: Row) -> Sample:
        """A model that takes strings itself is given the text."""
        asked = [tensor for tensor in self._spec.inputs if tensor.fill is None]
        if len(asked) != 1 or asked[0].datatype != BYTES or row.pair is not None:
            what = "a text" if row.pair is None else "a pair of texts"
            names = ", ".join(tensor.name for tensor in self._spec.inputs)
            raise ValueError(f'the model takes no {what[2:]}; give its inputs, as {{"inputs": {{…}}}}: {names}')
        (tensor,) = asked
        inputs = {
            other.name: filled(other, shape_of(other, 1)) for other in self._spec.inputs if other.fill is not None
        }
        assert row.text is not None
        return Sample(
            inputs | {tensor.name: np.full(shape_of(tensor, 1), row.text.encode(), dtype=object)}, 1, row.place
        )


def _array(tensor: TensorSpec, value: Any) -> Array:
    """A nested list as the input, with one row along the batch axis, which may be left out."""
    where = f"inputs: '{tensor.name}'"
    try:
        if tensor.datatype == BYTES:
            array = np.array(value, dtype=object)
            array = np.array([_encoded(each) for each in array.reshape(-1)], dtype=object).reshape(array.shape)
        else:
            array = _numbers(tensor, value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{where}: is no array of {tensor.datatype}: {error}") from error
    if tensor.batch_axis is not None and array.ndim == len(tensor.shape) - 1:
        array = np.expand_dims(array, tensor.batch_axis)
    fits = array.ndim == len(tensor.shape) or not tensor.shape
    fits = fits and all(size in (-1, found) for size, found in zip(tensor.shape, array.shape, strict=False))
    if tensor.batch_axis is not None and fits and array.shape[tensor.batch_axis] != 1:
        raise ValueError(f"{where}: has {array.shape[tensor.batch_axis]} rows; give each a line of its own")
    if not fits or array.size == 0:
        asked = [1 if axis == tensor.batch_axis else size for axis, size in enumerate(tensor.shape)]
        raise ValueError(f"{where}: has the shape {list(array.shape)}, not {asked} (-1 = any size)")
    return array


def _numbers(tensor: TensorSpec, value: Any) -> Array:
    dtype = NUMPY_TYPES[tensor.datatype]
    given = np.asarray(value)
    if given.dtype.kind not in "biuf":
        raise ValueError("it has something else than numbers, or rows of different lengths")
    if tensor.datatype == "BF16":
        return to_bfloat16(given.astype(np.float32))
    if dtype.kind in "iub":
        with np.errstate(invalid="ignore"):
            whole = given.astype(dtype)
        if not np.array_equal(whole, given):
            raise ValueError("a value does not fit")
        return whole
    with np.errstate(over="ignore"):
        return given.astype(dtype)


def _encoded(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value.encode()


def _row(line: bytes, place: str) -> Row:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{place}: is not JSON: {error}") from error
    if isinstance(value, str):
        return Row(value, place=place)
    if not isinstance(value, dict):
        raise EvaluationError(f"{place}: must be a text or an object, not {json.dumps(value)[:80]}")
    unknown = next((key for key in value if key not in _KEYS), None)
    if unknown is not None:
        raise EvaluationError(f"{place}: {unknown}: {did_you_mean(unknown, _KEYS)}")
    for key in ("text", "pair"):
        if key in value and not isinstance(value[key], str):
            raise EvaluationError(f"{place}: {key}: must be a text, not {json.dumps(value[key])[:80]}")
    if ("text" in value) == ("inputs" in value):
        raise EvaluationError(f"{place}: must have either text or inputs")
    if "pair" in value and "text" not in value:
        raise EvaluationError(f"{place}: pair: goes with text")
    inputs = value.get("inputs", {})
    if not isinstance(inputs, dict):
        raise EvaluationError(f"{place}: inputs: must be an object of nested lists by name")
    return Row(value.get("text"), value.get("pair"), inputs, _label(value.get("label"), place), place)


def _label(value: Any, place: str) -> Label | None:
    if value is None:
        return None
    good = isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool))
    if not good or (isinstance(value, float) and not math.isfinite(value)):
        raise EvaluationError(f"{place}: label: must be a class's name or a number, not {json.dumps(value)[:80]}")
    label: Label = value
    return label
