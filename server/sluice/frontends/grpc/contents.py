"""Typed tensor contents (lists of numbers in the message) to the wire form that every other part works with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sluice.errors import InvalidRequest
from sluice.pb.inference_pb2 import InferTensorContents
from sluice.request import Buffer, encode_bytes
from sluice.spec import BYTES, NUMPY_TYPES

_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}

# Protobuf packs these exactly as tensors travel raw, so the serialized field is the tensor.
_PACKED_AS_RAW = {"BOOL", "FP32", "FP64"}

# Two bytes of message make an element; far beyond this the loop over them would hold up everybody else.
MAX_TYPED_STRINGS = 1 << 20


def wire_form(contents: InferTensorContents, datatype: str, name: str) -> Buffer:
    """The elements of a typed tensor as raw contents would carry them; `name` is for errors."""
    lists: Sequence[tuple[Any, Any]] = contents.ListFields()
    if not lists:
        return b""
    field = _FIELDS.get(datatype)
    if field is None:
        raise InvalidRequest(f"'{name}': {datatype} has no typed contents; send it in raw_input_contents")
    for descriptor, _ in lists:
        if descriptor.name != field:
            raise InvalidRequest(f"'{name}': {datatype} belongs in {field}, not in {descriptor.name}")
    elements = lists[0][1]
    if datatype == BYTES:
        if len(elements) > MAX_TYPED_STRINGS:
            raise InvalidRequest(
                f"'{name}': {len(elements)} elements are too many for bytes_contents "
                f"(at most {MAX_TYPED_STRINGS}); send them in raw_input_contents"
            )
        return encode_bytes(elements)
    if datatype in _PACKED_AS_RAW:
        return _packed(contents, len(elements) * NUMPY_TYPES[datatype].itemsize)
    try:
        return np.fromiter(elements, dtype=NUMPY_TYPES[datatype], count=len(elements)).tobytes()
    except OverflowError:
        raise InvalidRequest(f"'{name}': {field} holds a value that does not fit {datatype}") from None


def _packed(contents: InferTensorContents, size: int) -> Buffer:
    """The value of the message's only field, which stands behind a tag byte and a varint of its length."""
    serialized = contents.SerializeToString()
    at = 1
    while serialized[at] >= 0x80:
        at += 1
    return memoryview(serialized)[at + 1 : at + 1 + size]
