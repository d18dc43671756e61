"""What a model takes and gives: datatypes, tensors' shapes and axes, and how its batches may be padded."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

# The Open Inference Protocol's datatypes. BF16 travels as its 16 raw bits: numpy has no such type and needs none here.
NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
BYTES = "BYTES"
DATATYPES = frozenset({*NUMPY_TYPES, BYTES})


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output as the model file declares it; a dimension is a size, a symbolic name, or None."""

    name: str
    datatype: str
    dims: tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """What a backend found in the model file."""

    platform: str  # as clients see it, such as "onnxruntime_onnx"
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a served version."""

    name: str
    datatype: str
    shape: tuple[int, ...]  # with the batch axis; -1 = any size
    batch_axis: int | None = None
    sequence_axis: int | None = None
    pad: float = 0  # inputs: what the sequence axis is padded with
    fill: float | None = None  # inputs: value of every element when the client leaves the input out; None = required
    default: bool = True  # outputs: returned when the client asks for nothing in particular
    labels: tuple[str, ...] = ()  # outputs: names for classification
    foreseen: bool = True  # outputs: rows and length tell the shape, so that it can be written in place


class Padding(StrEnum):
    """How entries of one version may share a batch; decided by the probe at warm-up."""

    ANY = "any"  # different lengths, padded to the longest
    EQUAL = "equal"  # equal lengths only
    NEVER = "never"  # one request at a time


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One version's signature, as requests are checked, batched and sliced against it."""

    name: str
    version: str
    platform: str
    backend: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_rows: int  # 0: the model has no batch axis
    padding: Padding = Padding.ANY
    input_by_name: dict[str, TensorSpec] = field(init=False, repr=False, compare=False)
    output_by_name: dict[str, TensorSpec] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_by_name", {spec.name: spec for spec in self.inputs})
        object.__setattr__(self, "output_by_name", {spec.name: spec for spec in self.outputs})

    @property
    def batched(self) -> bool:
        return self.max_batch_rows > 0

    @property
    def has_sequence(self) -> bool:
        return any(spec.sequence_axis is not None for spec in self.inputs)
