"""A tensor's elements between JSON and their wire form, strictly: nothing is rounded, wrapped or guessed.

JSON cannot carry FP16 and BF16 here, as in Triton. It knows no NaN and no infinity either: in answers they become null,
which JSON readers see as "no number"; who needs to tell them apart asks for binary data.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import struct
from typing import Any

import msgspec
import numpy as np

from sluice.errors import InvalidRequest
from sluice.frontends.http import schema
from sluice.request import Buffer, Tensor, decode_bytes, encode_bytes
from sluice.spec import BYTES, DATATYPES, NUMPY_TYPES

BINARY_ONLY = frozenset({"FP16", "BF16"})

# What JSON has to hold for a datatype, and struct's code for it, which refuses what is out of range.
_KINDS: dict[str, tuple[type, str]] = {
    "BOOL": (bool, "?"),
    "UINT8": (int, "B"),
    "UINT16": (int, "H"),
    "UINT32": (int, "I"),
    "UINT64": (int, "Q"),
    "INT8": (int, "b"),
    "INT16": (int, "h"),
    "INT32": (int, "i"),
    "INT64": (int, "q"),
    "FP32": (float, "f"),
    "FP64": (float, "d"),
    BYTES: (str, ""),
}
_OPENING = re.compile(rb"[ \t\r\n\[]*")


def from_json(data: msgspec.Raw, datatype: str, shape: tuple[int, ...], at: str) -> Buffer:
    """The wire form of a tensor's `data`, given flat or nested as its shape."""
    if datatype not in _KINDS:
        raise _no_kind(datatype, at)
    kind, code = _KINDS[datatype]
    at += ".data"
    count = math.prod(shape)
    depth = _depth(data, at)
    if depth > 1 and depth != len(shape) and not (count == 0 and depth < len(shape)):
        raise InvalidRequest(f"{at}: is nested {depth} deep, but the shape {list(shape)} has {len(shape)} dimensions")
    elements = schema.decode(_decoder(kind, depth), data, at)
    if depth > 1:
        elements, found = _flatten(elements, depth, at)
        if found != shape and (count or elements):
            raise InvalidRequest(f"{at}: has the shape {list(found)}, but the shape is {list(shape)}")
    elif len(elements) != count:
        raise InvalidRequest(f"{at}: has {len(elements)} elements, but the shape is {list(shape)}")
    if kind is str:
        return _encode_strings(elements, at)
    try:
        return struct.pack(f"<{count}{code}", *elements)
    except (struct.error, OverflowError):
        raise InvalidRequest(f"{at}: a value is out of range for {datatype}") from None


def to_json(tensor: Tensor) -> Any:
    """The elements, flat, as orjson takes them."""
    if tensor.datatype in BINARY_ONLY:
        raise InvalidRequest(f"output '{tensor.name}': {tensor.datatype} travels as binary data only; {_ASK_BINARY}")
    if tensor.datatype == BYTES:
        try:
            return [element.decode() for element in decode_bytes(tensor.data, tensor.name)]
        except UnicodeDecodeError:
            raise InvalidRequest(f"output '{tensor.name}': its bytes are not UTF-8; {_ASK_BINARY}") from None
    array = np.frombuffer(tensor.data, dtype=NUMPY_TYPES[tensor.datatype])
    # orjson reads elements at their own alignment.
    return array if array.flags.aligned else array.copy()


_ASK_BINARY = "ask for it with the output's parameter binary_data or the request's binary_data_output"


def _depth(data: msgspec.Raw, at: str) -> int:
    opening = _OPENING.match(data)
    depth = opening[0].count(b"[") if opening else 0
    if depth == 0:
        raise InvalidRequest(f"{at}: expected array")
    if depth > schema.MAX_DIMENSIONS:
        raise InvalidRequest(f"{at}: nested too deeply")
    return depth


@functools.cache
def _decoder(kind: type, depth: int) -> msgspec.json.Decoder[Any]:
    nested: Any = kind
    for _ in range(depth):
        nested = list[nested]
    return msgspec.json.Decoder(nested)


def _no_kind(datatype: str, at: str) -> InvalidRequest:
    if datatype in BINARY_ONLY:
        return InvalidRequest(f"{at}.datatype: {datatype} travels as binary data only (parameter binary_data_size)")
    return InvalidRequest(f"{at}.datatype: '{datatype}' is none of {', '.join(sorted(DATATYPES))}")


def _flatten(rows: list[Any], depth: int, at: str) -> tuple[list[Any], tuple[int, ...]]:
    """The elements and the shape in which they were nested; below an empty dimension all others are empty too."""
    shape = [len(rows)]
    for _ in range(depth - 1):
        lengths = {len(row) for row in rows}
        if len(lengths) > 1:
            raise InvalidRequest(f"{at}: its rows differ in length")
        shape.append(lengths.pop() if lengths else 0)
        rows = list(itertools.chain.from_iterable(rows))
    return rows, tuple(shape)


def _encode_strings(elements: list[str], at: str) -> bytes:
    try:
        return encode_bytes([element.encode() for element in elements])
    except UnicodeEncodeError:
        raise InvalidRequest(f"{at}: a string has a lone surrogate, which UTF-8 cannot carry") from None
