"""Looks at a file here and there through one buffer, so that a file of any size costs the same memory.

It is not memory-mapped: a mapped file that is cut short while it is looked at kills the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable

_WIDTH = 1 << 17


class Window:
    """A file by its descriptor, what `read` gives of it as os.pread would, or bytes that are there already."""

    def __init__(self, descriptor: int) -> None:
        self.size = os.fstat(descriptor).st_size
        self._read: Callable[[int, int], bytes] | None = lambda length, at: os.pread(descriptor, length, at)
        self.buffer = b""  # what lies at `base`, for those who look at single bytes
        self.base = 0

    @classmethod
    def through(cls, read: Callable[[int, int], bytes], size: int) -> Window:
        window = cls.over(b"")
        window.size, window._read = size, read
        return window

    @classmethod
    def over(cls, data: bytes) -> Window:
        window = cls.__new__(cls)
        window.size, window._read, window.buffer, window.base = len(data), None, data, 0
        return window

    def move(self, position: int) -> None:
        """Have `buffer` begin at this position."""
        if self._read is not None:
            self.buffer, self.base = self._read(_WIDTH, position), position

    def at(self, position: int, length: int) -> bytes:
        """What lies there; less at the end. `length` is at most 128 KiB."""
        start = position - self.base
        if start < 0 or start + length > len(self.buffer):
            self.move(min(position, self.size))
            start = position - self.base
        return self.buffer[start : start + length] if start >= 0 else b""

    def find(self, sought: bytes, position: int) -> int:
        """Where a byte is next; -1 if nowhere."""
        while position < self.size:
            chunk = self.at(position, min(_WIDTH, self.size - position))
            if not chunk:
                break
            found = chunk.find(sought)
            if found >= 0:
                return position + found
            position += len(chunk)
        return -1
