"""An encrypted version's files as a backend takes them: in memory that has no name, and gone after loading."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from sluice.backends.base import Array, Source
from sluice.encryption.container import Reader, read_header
from sluice.encryption.keys import keep_out_of_dumps
from sluice.errors import ModelError, system_reason


@dataclass(frozen=True, slots=True)
class Decrypted:
    """Good as long as it is held."""

    graph: str  # a path that only this process has
    externals: dict[str, Array]  # files of weights, by how the graph calls them


@contextmanager
def decrypted(source: Source) -> Iterator[Decrypted]:
    """The graph is in an anonymous file, since onnxruntime copies bytes, and its Python class keeps them for ever:
    MiniLM, of 86 MiB, then takes 227 MiB and 319 at most, and by way of a file 116, 198 and the file while it loads."""
    keep_out_of_dumps()
    with ExitStack() as stack:
        descriptor = os.memfd_create("sluice-model", os.MFD_CLOEXEC)
        stack.callback(os.close, descriptor)
        with _opened(source, source.path) as reader:
            for frame in reader.frames():
                _write_all(descriptor, frame)
        externals = {place: _in_memory(source, place) for place in source.externals}
        yield Decrypted(f"/proc/self/fd/{descriptor}", externals)


@contextmanager
def _opened(source: Source, path: Path) -> Iterator[Reader]:
    shown = path.relative_to(source.directory).as_posix()
    try:
        with path.open("rb") as file:
            header = read_header(file.fileno(), shown, shown)
            if header is None:  # it was when the server looked at it
                raise ModelError(f"{shown}: is not encrypted any more")
            yield Reader(file.fileno(), header, source.secret, shown)
    except OSError as error:
        raise ModelError(f"{shown}: cannot be read: {system_reason(error)}") from error


def _in_memory(source: Source, place: str) -> Array:
    with _opened(source, source.path.parent / PurePosixPath(place)) as reader:
        # Pages of its own, so that they all go back to the system afterwards.
        memory = mmap.mmap(-1, max(1, reader.size))
        at = 0
        for frame in reader.frames():
            memory[at : at + len(frame)] = frame
            at += len(frame)
        return np.frombuffer(memory, np.uint8, reader.size)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
