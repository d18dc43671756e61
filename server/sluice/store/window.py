"""Looks at a file here and there through one buffer, so that a file of any size costs the same memory.

It is not memory-mapped: a mapped file that is cut short while it is looked at kills the process.
"""

from __future__ import annotations

import os

_WIDTH = 1 << 17


class Window:
    """A file by its descriptor, or bytes that are there already."""

    def __init__(self, descriptor: int) -> None:
        self.size = os.fstat(descriptor).st_size
        self._descriptor = descriptor
        self.buffer = b""  # what lies at `base`, for those who look at single bytes
        self.base = 0

    @classmethod
    def over(cls, data: bytes) -> Window:
        window = cls.__new__(cls)
        window.size, window._descriptor, window.buffer, window.base = len(data), -1, data, 0
        return window

    def move(self, position: int) -> None:
        """Have `buffer` begin at this position."""
        if self._descriptor >= 0:
            self.buffer, self.base = os.pread(self._descriptor, _WIDTH, position), position

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
