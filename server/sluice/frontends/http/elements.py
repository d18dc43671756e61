"""A tensor's elements between JSON and their wire form, strictly: nothing is rounded, wrapped or guessed.

JSON cannot carry FP16 and BF16 here, as in Triton. It knows no NaN and no infinity either: in answers they become null,
which JSON readers see as "no number"; who needs to tell them apart asks for binary data.
"""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import msgspec
import numpy as np

from sluice.errors import InvalidRequest
from sluice.frontends.http import schema
from sluice.request import Buffer, Tensor, decode_bytes, encode_bytes
from sluice.spec import BYTES, DATATYPES, NUMPY_TYPES

BINARY_ONLY = frozenset({"FP16", "BF16"})

_KINDS: dict[str, type] = {"b": bool, "i": int, "u": int, "f": float}
_OPENING = re.compile(rb"[ \t\r\n\[]*")


def from_json(data: msgspec.Raw, datatype: str, shape: tuple[int, ...], at: str) -> Buffer:
    """The wire form of a tensor's `data`, given flat or nested as its shape."""
    if datatype not in DATATYPES:
        raise InvalidRequest(f"{at}.datatype: '{datatype}' is none of {', '.join(sorted(DATATYPES))}")
    if datatype in BINARY_ONLY:
        raise InvalidRequest(f"{at}.datatype: {datatype} travels as binary data only (parameter binary_data_size)")
    at = f"{at}.data"
    count = math.prod(shape)
    depth = _depth(data, at)
    if depth > 1 and depth != len(shape) and not (count == 0 and depth < len(shape)):
        raise InvalidRequest(f"{at}: is nested {depth} deep, but the shape {list(shape)} has {len(shape)} dimensions")
    kind = str if datatype == BYTES else _KINDS[NUMPY_TYPES[datatype].kind]
    elements = schema.decode(_decoder(kind, depth), data, at)
    array = _array(elements, datatype, at)
    if array.shape != shape and (depth > 1 or array.size != count) and (count or array.size):
        found = f"has the shape {list(array.shape)}" if depth > 1 else f"has {array.size} elements"
        raise InvalidRequest(f"{at}: {found}, but the shape is {list(shape)}")
    if datatype == BYTES:
        return _encode_strings(array, at)
    return array.tobytes()


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


def _array(elements: list[Any], datatype: str, at: str) -> np.ndarray[Any, Any]:
    if datatype == BYTES:
        return np.array(elements, dtype=object)
    try:
        with np.errstate(over="ignore"):
            array = np.array(elements, dtype=NUMPY_TYPES[datatype])
    except OverflowError:
        raise InvalidRequest(f"{at}: a value is out of range for {datatype}") from None
    except ValueError:
        raise InvalidRequest(f"{at}: its rows differ in length") from None
    if datatype == "FP32" and not np.isfinite(array).all():
        raise InvalidRequest(f"{at}: a value is out of range for FP32")
    return array


def _encode_strings(array: np.ndarray[Any, Any], at: str) -> bytes:
    if any(not isinstance(element, str) for element in array.flat):
        raise InvalidRequest(f"{at}: its rows differ in length")
    try:
        return encode_bytes([element.encode() for element in array.flat])
    except UnicodeEncodeError:
        raise InvalidRequest(f"{at}: a string has a lone surrogate, which UTF-8 cannot carry") from None
