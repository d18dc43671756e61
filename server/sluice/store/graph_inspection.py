"""Says what is wrong with an ONNX file before anybody loads it: what it reaches for outside of its directory, operators
that nobody here knows, and sizes that cannot be.

The file is read as protobuf would read it, a field at a time, and weights are stepped over. What two readers could
understand differently is refused. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from sluice.encryption.container import Header
from sluice.encryption.keys import NO_KEYS, Keys
from sluice.errors import ModelError, system_reason
from sluice.store import encrypted
from sluice.store.window import Window

LARGEST = (1 << 31) - 1  # of a protobuf message
_MOST_FIELDS = 20_000_000
_DEEPEST = 32  # graphs within graphs; protobuf itself allows 33
_WIDEST = 1 << 16  # bytes of a name or a path that is looked at
_DOMAINS = {
    "", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training", "ai.onnx.training", "com.microsoft",
    "com.microsoft.dml", "com.microsoft.experimental", "com.microsoft.nchwc", "com.ms.internal.nhwc",
    "org.pytorch.aten",
}  # fmt: skip
_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2, 27: 6, 28: 6,
}  # fmt: skip
_FIXED = (1, 11, 14, 15)  # datatypes whose elements take their whole size wherever they stand
_STRING = 8
_ABSENT = {"", "0"}

_Span = tuple[int, int]  # where a message lies


class _Damaged(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Inspected:
    """What was found out on the way, and a worker has to know."""

    externals: tuple[str, ...] = ()  # the files of external data, as the graph calls them
    secret: bytes = field(default=b"", repr=False)  # of an encrypted version


def inspect(path: Path, directory: Path, shown: str, keys: Keys = NO_KEYS) -> Inspected:
    """ModelError if the file may not be loaded; `directory` is what it may not reach out of."""
    try:
        with encrypted.opened(path, directory, shown, keys) as found:
            window = found.window
            if not window.size:
                raise ModelError(f"{shown}: is empty")
            if window.size > LARGEST:
                why = f"has {window.size} bytes, and no ONNX file may have more than {LARGEST}"
                raise ModelError(f"{shown}: {why}; keep its weights in files of their own")
            if window.at(4, 4) == b"ORTM":
                raise ModelError(f"{shown}: is in the ORT format, which cannot be inspected; bring the ONNX file")
            inspection = _Inspection(window, path.parent, directory, shown, found.header)
            inspection.model()
            externals = inspection.externals
            if found.secret and sum(map(len, externals)) > _WIDEST:
                why = f"its weights lie in {len(externals)} files, too many of an encrypted model; save them in one"
                raise ModelError(f"{shown}: {why}")
            return Inspected(externals, found.secret)
    except OSError as error:
        raise ModelError(f"{shown}: cannot be read: {system_reason(error)}") from error
    except _Damaged as error:
        raise ModelError(f"{shown}: is not an ONNX model, or is damaged") from error


class _Inspection:
    """One walk through one file."""

    def __init__(self, window: Window, base: Path, directory: Path, shown: str, header: Header | None) -> None:
        self._window = window
        self._header = header  # of a graph that is encrypted
        self._base = base  # what the paths of external data are relative to
        self._version = directory
        self._directory = directory.resolve()
        self._shown = shown
        self._fields_seen = 0
        self._used: dict[tuple[str, str], str] = {}  # a node for each operator of a foreign domain
        self._sizes: dict[str, int] = {}  # of files with external data

    @property
    def externals(self) -> tuple[str, ...]:
        return tuple(self._sizes)

    def model(self) -> None:
        whole = (0, self._window.size)
        graphs, ir_version = 0, 0
        functions: set[tuple[str, str]] = set()
        for number, value in self._fields(whole):
            if number == 1 and isinstance(value, int):
                ir_version = value
            elif number == 7 and isinstance(value, tuple):
                graphs += 1
                self._graph(value, 0)
            elif number == 20 and isinstance(value, tuple):
                for inner, graph in self._fields(value):
                    if inner in (1, 2) and isinstance(graph, tuple):
                        self._graph(graph, 1)
            elif number == 25 and isinstance(value, tuple):
                functions.add(self._function(value))
        if graphs != 1 or not ir_version:
            raise _Damaged
        for (domain, operator), node in self._used.items():
            if (domain, operator) not in functions:
                known = "no library of custom operators is loaded here"
                raise self._wrong(f"node {node!r}", f"its operator {operator!r} is of the domain {domain!r}: {known}")

    def _function(self, span: _Span) -> tuple[str, str]:
        name, domain = "", ""
        for number, value in self._fields(span):
            if not isinstance(value, tuple):
                continue
            if number == 1:
                name = self._text(value)
            elif number == 10:
                domain = self._text(value)
            elif number == 7:
                self._node(value, 1)
            elif number == 11:
                self._attribute(value, 1, "")
        return domain, name

    def _graph(self, span: _Span, depth: int) -> None:
        if depth > _DEEPEST:
            raise self._wrong("graph", f"more than {_DEEPEST} graphs lie within each other")
        for number, value in self._fields(span):
            if not isinstance(value, tuple):
                continue
            if number == 1:
                self._node(value, depth)
            elif number == 5:
                self._tensor(value)
            elif number == 15:
                self._sparse(value)

    def _node(self, span: _Span, depth: int) -> None:
        name, operator, domain = "", "", ""
        attributes: list[_Span] = []
        for number, value in self._fields(span):
            if not isinstance(value, tuple):
                continue
            if number == 3:
                name = self._text(value)
            elif number == 4:
                operator = self._text(value)
            elif number == 7:
                domain = self._text(value)
            elif number == 5:
                attributes.append(value)
        if domain not in _DOMAINS:
            self._used.setdefault((domain, operator), name or operator)
        for attribute in attributes:
            self._attribute(attribute, depth, name or operator)

    def _attribute(self, span: _Span, depth: int, node: str) -> None:
        alone: set[int] = set()
        for number, value in self._fields(span):
            if not isinstance(value, tuple) or number not in (5, 6, 10, 11, 22, 23):
                continue
            if number in (5, 6, 22):  # a second one would be merged into the first
                if number in alone:
                    raise self._wrong(f"node {node!r}", "an attribute has two values")
                alone.add(number)
            if number in (5, 10):
                self._tensor(value, f"of node {node!r}")
            elif number in (6, 11):
                self._graph(value, depth + 1)
            else:
                self._sparse(value)

    def _sparse(self, span: _Span) -> None:
        dims, bits, alone = [], 8, set()
        name = "sparse tensor"
        for number, value in self._fields(span):
            if number == 3:
                dims += self._numbers(value)
            elif number in (1, 2) and isinstance(value, tuple):
                if number in alone:
                    raise self._wrong("sparse tensor", "has two values")
                alone.add(number)
                said, datatype = self._tensor(value)
                if number == 1:
                    bits, name = _BITS.get(datatype, 8), f"sparse tensor {said!r}"
        if self._elements(dims, name) * bits // 8 > LARGEST:
            raise self._wrong(name, f"would have more than {LARGEST} bytes when it is unpacked, by its dims")

    def _tensor(self, span: _Span, otherwise: str = "without a name") -> tuple[str, int]:
        """Its name and datatype."""
        name, datatype, external = "", 0, False
        dims: list[int] = []
        entries: list[_Span] = []
        raw: int | None = None
        for number, value in self._fields(span):
            if number == 1:
                dims += self._numbers(value)
            elif isinstance(value, int):
                if number == 2:
                    datatype = value & 0xFFFFFFFF
                elif number == 14:  # one that protobuf does not know does not undo what was said before
                    external = external or value & 0xFFFFFFFF == 1
            elif number == 8:
                name = self._text(value)
            elif number == 9:
                raw = value[1] - value[0]
            elif number == 13:
                entries.append(value)
        field = f"tensor {name!r}" if name else f"tensor {otherwise}"
        elements = self._elements(dims, field)
        if external:
            self._external(entries, elements * _BITS.get(datatype, 2) // 8, field)
            return name, datatype
        if raw is not None:
            needed, there = elements * _BITS.get(datatype, 2) // 8, raw
        else:
            each = _BITS.get(datatype, 2)
            each = 16 if datatype == _STRING else each if datatype in _FIXED else min(each, 8)
            needed, there = elements * each // 8, span[1] - span[0]
        if needed > there:
            why = f"by its dims {dims[:8]} it has at least {needed} bytes, and there are {there}"
            raise self._wrong(field, why)
        return name, datatype

    def _elements(self, dims: list[int], field: str) -> int:
        if any(dim >= 1 << 63 for dim in dims):
            raise self._wrong(field, "one of its dims is negative")
        if 0 in dims:
            return 0
        elements = 1
        for dim in dims:
            elements *= dim
            if elements >= 1 << 63:
                raise self._wrong(field, f"its dims {dims[:8]} are absurd")
        return elements

    def _external(self, entries: list[_Span], needed: int, field: str) -> None:
        said: dict[str, str] = {}
        for entry in entries:
            key, text = "", ""
            for number, value in self._fields(entry):
                if number == 1 and isinstance(value, tuple):
                    key = self._text(value)
                elif number == 2 and isinstance(value, tuple):
                    text = self._text(value)
            if key in said:
                raise self._wrong(field, f"its external_data says {key!r} twice")
            said[key] = text
        location = said.get("location", "")
        size = self._sizes.get(location)
        if size is None:
            size = self._sizes[location] = self._external_size(location, field)
        offset = self._number(said.get("offset", ""), "offset", field)
        length = self._number(said.get("length", ""), "length", field) or max(0, size - offset)
        if offset + length > size:
            why = f"{offset} + {length} bytes are beyond the end of {location}, which has {size}"
            raise self._wrong(field, f"external_data: offset and length: {why}")
        if needed > length:
            why = f"by its dims it has {needed} bytes, and there are {length} in {location}"
            raise self._wrong(field, f"external_data: length: {why}")

    def _number(self, text: str, key: str, field: str) -> int:
        if text in _ABSENT:
            return 0
        if not re.fullmatch(r"[0-9]{1,19}", text, re.ASCII):
            raise self._wrong(field, f"external_data: {key}: {text[:40]!r} is not a number of bytes")
        return int(text)

    def _external_size(self, location: str, field: str) -> int:
        """The size of a file that external data may lie in."""

        def wrong(why: str) -> ModelError:
            return self._wrong(field, f"external_data: location: {location[:200]!r} {why}")

        path = PurePosixPath(location)
        if not location:
            raise wrong("names no file")
        if "_ORT_MEM_ADDR_" in location:
            raise wrong("is an address in memory")
        if path.is_absolute() or PureWindowsPath(location).drive or location.startswith("\\"):
            raise wrong("is an absolute path")
        if ".." in path.parts or ".." in PureWindowsPath(location).parts:
            raise wrong("leads out of the model's directory")
        try:
            real = (self._base / path).resolve(strict=True)
            if not real.is_relative_to(self._directory):
                raise wrong("is a link that leads out of the version's directory; put the file itself there")
            seen = real.stat()
        except FileNotFoundError as error:
            raise wrong("is not there") from error
        except RuntimeError as error:  # links in a circle, before Python 3.13
            raise wrong("is a link that leads in a circle") from error
        except (OSError, ValueError) as error:
            raise wrong(f"cannot be read: {system_reason(error) if isinstance(error, OSError) else error}") from error
        if not stat.S_ISREG(seen.st_mode):
            raise wrong("is not a file")
        return self._plain_size(self._base / path, seen.st_size, wrong)

    def _plain_size(self, path: Path, size: int, wrong: Callable[[str], ModelError]) -> int:
        """What it holds without its encryption, which is that of the graph."""
        version = self._version
        shown = f"{version.parent.name}/{version.name}/{path.relative_to(version).as_posix()}"
        header = encrypted.header_of(path, version, shown)
        if header is None and self._header is None:
            return size
        if header is None:
            raise wrong("is not encrypted, and the graph is")
        if self._header is None:
            raise wrong("is encrypted, and the graph is not")
        if (header.key_id, header.version_salt) != (self._header.key_id, self._header.version_salt):
            raise wrong("was encrypted with another version's graph")
        return header.size

    def _wrong(self, field: str, why: str) -> ModelError:
        return ModelError(f"{self._shown}: {field}: {why}")

    def _text(self, span: _Span) -> str:
        length = span[1] - span[0]
        if length > _WIDEST:
            raise _Damaged
        return self._window.at(span[0], length).decode("utf-8", "replace")

    def _numbers(self, value: int | _Span) -> list[int]:
        """One number, or a packed field of them."""
        if isinstance(value, int):
            return [value]
        found, at = [], value[0]
        if value[1] - at > _WIDEST:
            raise _Damaged
        while at < value[1]:
            number, at = self._varint(at, value[1])
            found.append(number)
        return found

    def _fields(self, span: _Span) -> Iterator[tuple[int, int | _Span]]:
        """Each field's number with its value: a number, or where its bytes lie."""
        at, end = span
        while at < end:
            self._fields_seen += 1
            if self._fields_seen > _MOST_FIELDS:
                raise self._wrong("graph", f"has more than {_MOST_FIELDS} fields")
            tag, at = self._varint(at, end)
            kind = tag & 7
            if tag >> 32 or not tag >> 3:
                raise _Damaged
            if kind == 0:
                number, at = self._varint(at, end)
                yield tag >> 3, number
                continue
            if kind == 2:
                size, at = self._varint(at, end)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise _Damaged
            if size > end - at:
                raise _Damaged
            if kind == 2:
                yield tag >> 3, (at, at + size)
            at += size

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        window = self._window
        place = at - window.base
        if place < 0 or place + 10 > len(window.buffer):
            window.move(at)
            place = 0
        buffer = window.buffer
        try:
            byte = buffer[place]
            if byte < 0x80 and at < end:
                return byte, at + 1
            value, shift = 0, 0
            while at < end and shift < 70:
                byte = buffer[place]
                value |= (byte & 0x7F) << shift
                at, place, shift = at + 1, place + 1, shift + 7
                if byte < 0x80:
                    return value & 0xFFFFFFFFFFFFFFFF, at
        except IndexError as error:  # it was cut short meanwhile
            raise _Damaged from error
        raise _Damaged
