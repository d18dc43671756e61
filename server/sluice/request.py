"""A request and its answer, as every part of the server sees them: protocol-free, and never copied on the way."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sluice.errors import InvalidRequest
from sluice.spec import BYTES, NUMPY_TYPES

Buffer = bytes | bytearray | memoryview
Parameter = bool | int | float | str

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named tensor whose `data` is its wire form: row-major little-endian elements, or length-prefixed BYTES."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Buffer

    def array(self) -> np.ndarray[Any, Any]:
        """The elements without copying (BYTES: an object array of bytes, which has to be decoded)."""
        if self.datatype == BYTES:
            elements = np.empty(math.prod(self.shape), dtype=object)
            elements[:] = decode_bytes(self.data, self.name)
            return elements.reshape(self.shape)
        return np.frombuffer(self.data, dtype=NUMPY_TYPES[self.datatype]).reshape(self.shape)


def encode_bytes(elements: Iterable[bytes]) -> bytes:
    """BYTES elements in wire form: u32 little-endian length, then the bytes, for each."""
    parts: list[bytes] = []
    for element in elements:
        parts.append(_LENGTH.pack(len(element)))
        parts.append(element)
    return b"".join(parts)


def decode_bytes(data: Buffer, name: str) -> list[bytes]:
    """The elements of a BYTES tensor's wire form; a length that lies is the sender's error."""
    elements: list[bytes] = []
    view, at, end = memoryview(data), 0, len(data)
    while at < end:
        if at + 4 > end:
            raise InvalidRequest(f"'{name}': BYTES data ends in the middle of an element's length")
        (size,) = _LENGTH.unpack_from(view, at)
        at += 4
        if at + size > end:
            raise InvalidRequest(f"'{name}': a BYTES element claims {size} bytes but only {end - at} are left")
        elements.append(bytes(view[at : at + size]))
        at += size
    return elements


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output the client asked for; `classification` > 0 asks for that many best classes instead of the values."""

    name: str
    classification: int = 0


@dataclass(slots=True)
class Timeline:
    """Monotonic seconds at which a request reached each stage; 0.0 = not reached."""

    received: float = field(default_factory=time.monotonic)
    queued: float = 0.0
    assembled: float = 0.0  # taken from the queue; its batch is being written into a slot
    started: float = 0.0  # the slot is full and the worker was rung
    computed: float = 0.0  # the worker rang back
    answered: float = 0.0
    compute_seconds: float = 0.0  # inside the backend, as the worker measured it


@dataclass(slots=True)
class InferRequest:
    """What a client asked. `parameters` are as sent; `admission/validation.py` gives the reserved ones a meaning."""

    model: str
    version: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[RequestedOutput, ...] = ()  # empty: the version's default outputs
    id: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    tenant: str = ""  # on whose behalf; under overload each tenant gets its share
    deadline: float | None = None  # monotonic seconds: the client's own, from gRPC or the HTTP header
    timeline: Timeline = field(default_factory=Timeline)


@dataclass(frozen=True, slots=True)
class InferResponse:
    """What the client gets; outputs stand in the order asked for."""

    model: str
    version: str
    id: str
    outputs: tuple[Tensor, ...]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
