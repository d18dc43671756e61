"""A version's file as it is without its encryption, if it has any, and what can be told of it without the key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from sluice.encryption.container import Header, Reader, read_header
from sluice.encryption.keys import Keys
from sluice.errors import ModelError, system_reason
from sluice.store import onnx_file
from sluice.store.onnx_file import OnnxFile
from sluice.store.window import Window

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Opened:
    """As long as it is open."""

    window: Window
    file: BinaryIO
    reader: Reader | None = None
    header: Header | None = None
    secret: bytes = field(default=b"", repr=False)  # what a worker needs to read the version

    def pieces(self) -> Iterator[bytes]:
        """All of it, in order."""
        if self.reader is not None:
            yield from self.reader.frames()
            return
        self.file.seek(0)
        while piece := self.file.read(_CHUNK):
            yield piece

    def part(self, offset: int, length: int) -> bytes:
        """What lies there."""
        if self.reader is not None:
            return self.reader.at(length, offset)
        self.file.seek(offset)
        return self.file.read(length)


@contextmanager
def opened(path: Path, directory: Path, shown: str, keys: Keys) -> Iterator[Opened]:
    """ModelError if it is encrypted and cannot be read; OSError if the system refuses."""
    with path.open("rb") as file:
        header = read_header(file.fileno(), path.relative_to(directory).as_posix(), shown)
        if header is None:
            yield Opened(Window(file.fileno()), file)
            return
        secret = keys.find(header.key_id, shown).derive(header.version_salt)
        reader = Reader(file.fileno(), header, secret, shown)
        yield Opened(Window.through(reader.at, reader.size), file, reader, header, secret)


def header_of(path: Path, directory: Path, shown: str) -> Header | None:
    """What stands before what is encrypted; None if nothing is."""
    try:
        with path.open("rb") as file:
            return read_header(file.fileno(), path.relative_to(directory).as_posix(), shown)
    except OSError as error:
        raise ModelError(f"{shown}: cannot be read: {system_reason(error)}") from error


def told(path: Path, directory: Path, keys: Keys) -> tuple[OnnxFile | None, Header | None]:
    """What an ONNX file tells of itself, unless it is encrypted with a key that is not there, and its header if it is
    encrypted."""
    header = header_of(path, directory, path.name)
    if header is None:
        return onnx_file.read(path), None
    if keys.get(header.key_id) is None:
        return None, header
    with opened(path, directory, path.name, keys) as found:
        return onnx_file.read_through(found.window, path.name), header
