"""Moves tensors of graphs within a graph, the branches of an If or the body of a Loop, from files of external data into
it: onnxruntime does not look for those in files in memory, as it does for tensors of the graph itself.

The graph is rewritten field by field, and whatever is not such a tensor stays as it is, byte for byte. It was inspected
before, so that it is sound. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

Read = Callable[[str, int, int | None], bytes]
"""What a file of external data, by its location, holds from an offset on: so many bytes, or all."""

# The fields of each message that may lead to a tensor, and the messages that they are.
_LEADS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_APART = {("model", 20), ("model", 25), ("attribute", 6), ("attribute", 11)}  # below these is another graph
_RAW, _EXTERNAL_DATA, _LOCATION = 9, 13, 14
_EXTERNAL = 1
_VARINT, _EIGHT, _LENGTH = 0, 1, 2


@dataclass(frozen=True, slots=True)
class _Field:
    number: int
    kind: int
    whole: memoryview  # with its tag
    content: memoryview  # empty for a number
    value: int = 0


def inlined(graph: bytes, read: Read) -> bytes:
    """The same model; the very same bytes if there was nothing to move."""
    changed = _message(memoryview(graph), "model", read, False)
    return graph if changed is None else changed


def _message(data: memoryview, kind: str, read: Read, apart: bool) -> bytes | None:
    """It anew; None if nothing in it changes. `apart`: it is in another graph than the first."""
    if kind == "tensor":
        return _tensor(data, read) if apart else None
    parts: list[bytes | memoryview] = []
    changed = False
    for field in _fields(data):
        inner = _LEADS[kind].get(field.number)
        new = None
        if inner and field.kind == _LENGTH:
            new = _message(field.content, inner, read, apart or (kind, field.number) in _APART)
        parts.append(field.whole if new is None else _encoded(field.number, new))
        changed = changed or new is not None
    return b"".join(parts) if changed else None


def _tensor(data: memoryview, read: Read) -> bytes | None:
    fields = list(_fields(data))
    if not any(field.number == _LOCATION and field.value == _EXTERNAL for field in fields):
        return None
    said = dict(_entry(field.content) for field in fields if field.number == _EXTERNAL_DATA)
    raw = read(said["location"], int(said.get("offset") or 0), int(said.get("length") or 0) or None)
    kept = [field.whole for field in fields if field.number not in (_RAW, _EXTERNAL_DATA, _LOCATION)]
    return b"".join([*kept, _encoded(_RAW, raw)])


def _entry(data: memoryview) -> tuple[str, str]:
    texts = {field.number: bytes(field.content).decode() for field in _fields(data)}
    return texts.get(1, ""), texts.get(2, "")


def _fields(data: memoryview) -> Iterator[_Field]:
    at = 0
    while at < len(data):
        start = at
        tag, at = _varint(data, at)
        number, kind, value, content = tag >> 3, tag & 7, 0, at
        if kind == _VARINT:
            value, at = _varint(data, at)
            content = at
        elif kind == _LENGTH:
            length, content = _varint(data, at)
            at = content + length
        else:
            at += 8 if kind == _EIGHT else 4
        yield _Field(number, kind, data[start:at], data[content:at], value)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _encoded(number: int, content: bytes) -> bytes:
    return _number(number << 3 | _LENGTH) + _number(len(content)) + content


def _number(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
