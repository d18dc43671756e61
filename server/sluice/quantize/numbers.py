"""Rounds matrices to few bits, and says what they are then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

Array = np.ndarray[Any, Any]

_TINY = 1e-12  # the scale of what is all zero
# Shares of a block's largest weight that its scale may be made for: cutting off an outlier can be worth it.
_CUTS = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.76)


@dataclass(frozen=True, slots=True)
class Columns:
    """A matrix with a scale for each column: values × scales, or (values - zeros) × scales."""

    values: Array
    scales: Array
    zeros: Array | None


def by_columns(matrix: Array, bits: int) -> Columns:
    """Symmetric, as signed bytes. `bits` is 8, or 7 where two products must fit into 16 bits together."""
    most = 2 ** (bits - 1) - 1
    scales = np.maximum(np.abs(matrix).max(axis=0), _TINY).astype(np.float32) / np.float32(most)
    values = np.clip(np.rint(matrix / scales), -most, most).astype(np.int8)
    return Columns(values, scales, None)


def by_columns_unsigned(matrix: Array) -> Columns:
    """As unsigned bytes, with the value that stands for zero in each column."""
    low, high = np.minimum(matrix.min(axis=0), 0), np.maximum(matrix.max(axis=0), 0)
    scales = np.maximum((high - low) / np.float32(255), _TINY).astype(np.float32)
    zeros = np.clip(np.rint(-low / scales), 0, 255)
    values = np.clip(np.rint(matrix / scales) + zeros, 0, 255).astype(np.uint8)
    return Columns(values, scales, zeros.astype(np.uint8))


def by_rows(table: Array) -> Columns:
    """A table's entries, each with its own scale."""
    turned = by_columns(np.ascontiguousarray(table.T), 8)
    return Columns(np.ascontiguousarray(turned.values.T), turned.scales[:, None], None)


@dataclass(frozen=True, slots=True)
class Blocks:
    """A matrix as onnxruntime's MatMulNBits takes it: columns first, in blocks along what is summed over."""

    values: Array  # uint8 [columns, blocks, bytes of a block]
    scales: Array  # [columns, blocks]


def by_blocks(matrix: Array, bits: int, size: int) -> Blocks:
    """Symmetric around the middle of the unsigned range, each block with the scale that loses least."""
    rows, columns = matrix.shape
    count = -(-rows // size)
    padded = np.zeros((columns, count * size), np.float32)
    padded[:, :rows] = matrix.T
    blocks = padded.reshape(columns, count, size)
    middle = 1 << (bits - 1)
    scales = block_scales(blocks, middle, _CUTS if bits < 8 else _CUTS[:1])
    rounded = np.clip(np.rint(blocks / scales[..., None]), -middle, middle - 1)
    values: Array = (rounded + middle).astype(np.uint8)
    if bits == 4:
        values = values[..., 0::2] | (values[..., 1::2] << 4)
    return Blocks(np.ascontiguousarray(values), scales)


def block_scales(blocks: Array, middle: int, cuts: tuple[float, ...]) -> Array:
    """The largest magnitude lies on the side that has one value more; of the cuts the one with the least error."""
    furthest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1)[..., None], axis=-1)[..., 0]
    full = (-furthest / np.float32(middle)).astype(np.float32)
    full = np.where(np.abs(full) < _TINY, np.float32(_TINY), full)
    if len(cuts) == 1:
        return full
    best, least = full, np.full(full.shape, np.inf, np.float32)
    for cut in cuts:
        scales = full * np.float32(cut)
        rounded = np.clip(np.rint(blocks / scales[..., None]), -middle, middle - 1) * scales[..., None]
        error = np.square(rounded - blocks).sum(axis=-1)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    return best


def halved(name: str, array: Array, kind: str) -> TensorProto:
    """As "fp16", where what is too large becomes the largest, or "bf16": the nearest, of two as near the even one."""
    if kind == "fp16":
        most = np.finfo(np.float16).max
        return numpy_helper.from_array(np.clip(array, -most, most).astype(np.float16), name)
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    values = rounded.astype("<u2").tobytes()
    return TensorProto(name=name, data_type=TensorProto.BFLOAT16, dims=array.shape, raw_data=values)
