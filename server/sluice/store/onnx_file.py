"""Reads what an ONNX file tells about itself: its inputs and outputs, opsets, producer and number of parameters.

The file is walked through as it lies on disk, a field at a time, and weights are stepped over: it costs no memory and
needs no package. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, overload

from sluice.errors import ModelError
from sluice.spec import BYTES, Port
from sluice.store.window import Window

OTHER = "OTHER"  # a datatype that no request can carry, or no tensor at all

_DATATYPES = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: BYTES,
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    16: "BF16",
}
_TOO_MANY = 1 << 63
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5
_DEFAULT_DOMAIN = "ai.onnx"


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What the file says."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opsets: dict[str, int]
    ir_version: int
    producer: str
    parameters: int  # elements of the graph's constants


class _Damaged(Exception):
    pass


class _Data(Protocol):
    """Bytes, wherever they lie."""

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> bytes: ...


class _Seen:
    """What a window shows."""

    def __init__(self, window: Window) -> None:
        self._window = window

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> bytes: ...
    def __getitem__(self, place: int | slice) -> int | bytes:
        if isinstance(place, int):
            return self._window.at(place, 1)[0]
        return self._window.at(place.start, place.stop - place.start)


@dataclass(frozen=True, slots=True)
class _Span:
    """A message's place in the file."""

    data: _Data
    start: int
    end: int

    def fields(self) -> Iterator[tuple[int, int | _Span]]:
        """Each field's number with its value: a number, or where its bytes lie."""
        at = self.start
        while at < self.end:
            tag, at = self._varint(at)
            kind = tag & 7
            if kind == _VARINT:
                value, at = self._varint(at)
                yield tag >> 3, value
                continue
            if kind == _LENGTH:
                size, at = self._varint(at)
            elif kind in (_EIGHT, _FOUR):
                size = 8 if kind == _EIGHT else 4
            else:
                raise _Damaged
            if size > self.end - at:
                raise _Damaged
            yield tag >> 3, _Span(self.data, at, at + size)
            at += size

    def _varint(self, at: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= self.end:
                raise _Damaged
            byte = self.data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise _Damaged

    def varints(self) -> Iterator[int]:
        """The numbers of a packed field."""
        at = self.start
        while at < self.end:
            value, at = self._varint(at)
            yield value

    def spans(self, number: int) -> Iterator[_Span]:
        return (value for found, value in self.fields() if found == number and isinstance(value, _Span))

    def text(self) -> str:
        return self.data[self.start : self.end].decode("utf-8", "replace")


def read(path: Path) -> OnnxFile:
    """What the file tells; ModelError if it is no ONNX model."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise ModelError(f"{path.name}: is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _model(_Span(data, 0, len(data)))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.name}: cannot be read: {error}") from error
    except _Damaged as error:
        raise ModelError(f"{path.name}: is not an ONNX model, or is damaged") from error


def read_through(window: Window, name: str) -> OnnxFile:
    """The same of a file that is looked at through a window."""
    try:
        return _model(_Span(_Seen(window), 0, window.size))
    except _Damaged as error:
        raise ModelError(f"{name}: is not an ONNX model, or is damaged") from error


def _model(model: _Span) -> OnnxFile:
    ir_version, producer, graph = 0, ["", ""], None
    opsets: dict[str, int] = {}
    for number, value in model.fields():
        if number == 1 and isinstance(value, int):
            ir_version = value
        elif number in (2, 3) and isinstance(value, _Span):
            producer[number - 2] = value.text()
        elif number == 7 and isinstance(value, _Span):
            graph = value
        elif number == 8 and isinstance(value, _Span):
            domain, version = _opset(value)
            opsets[domain or _DEFAULT_DOMAIN] = version
    if graph is None or not ir_version:
        raise _Damaged
    inputs, outputs, parameters = _graph(graph)
    return OnnxFile(
        inputs, outputs, dict(sorted(opsets.items())), ir_version, " ".join(filter(None, producer)), parameters
    )


def _opset(span: _Span) -> tuple[str, int]:
    domain, version = "", 0
    for number, value in span.fields():
        if number == 1 and isinstance(value, _Span):
            domain = value.text()
        elif number == 2 and isinstance(value, int):
            version = value
    return domain, version


def _graph(graph: _Span) -> tuple[tuple[Port, ...], tuple[Port, ...], int]:
    inputs, outputs, constants, parameters = [], [], set(), 0
    for number, value in graph.fields():
        if not isinstance(value, _Span):
            continue
        if number == 5:
            name, size = _tensor(value)
            constants.add(name)
            parameters += size
        elif number == 11:
            inputs.append(_port(value))
        elif number == 12:
            outputs.append(_port(value))
    # Old files list the constants among the inputs.
    return tuple(port for port in inputs if port.name not in constants), tuple(outputs), parameters


def _tensor(tensor: _Span) -> tuple[str, int]:
    """Its name, and of how many elements it is."""
    name = ""
    dims: list[int] = []
    for number, value in tensor.fields():
        if number == 1:
            dims += [value] if isinstance(value, int) else list(value.varints())
        elif number == 8 and isinstance(value, _Span):
            name = value.text()
    elements = 1
    for dim in dims:
        elements *= dim
        if elements >= _TOO_MANY:
            raise _Damaged
    return name, elements


def _port(info: _Span) -> Port:
    name = next((span.text() for span in info.spans(1)), "")
    for kind in info.spans(2):
        for tensor in kind.spans(1):
            return _tensor_port(name, tensor)
    return Port(name, OTHER, ())


def _tensor_port(name: str, tensor: _Span) -> Port:
    datatype, dims = OTHER, []
    for number, value in tensor.fields():
        if number == 1 and isinstance(value, int):
            datatype = _DATATYPES.get(value, OTHER)
        elif number == 2 and isinstance(value, _Span):
            dims = [_dim(span) for span in value.spans(1)]
    return Port(name, datatype, tuple(dims))


def _dim(dim: _Span) -> int | str:
    for number, value in dim.fields():
        if number == 1 and isinstance(value, int):
            return value if value < _TOO_MANY else "?"  # a negative number stands for any size
        if number == 2 and isinstance(value, _Span):
            return value.text() or "?"
    return "?"
