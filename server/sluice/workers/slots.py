"""A slot: memory shared by the server and one worker, holding the inputs and outputs of one batch.

It is an anonymous memory file (memfd), inherited by the worker and never named in any directory: whoever dies, however
suddenly, the kernel frees it with the last of the two. Pages take memory only once touched, so a slot may be large.
A slot's size only grows; the side that finds its mapping too small maps anew, and views of the old mapping stay valid.
Its memory does not stay with a rare giant: pages beyond what batches need lately go back, and every mapping stays as
large as it was, so the other side need not know.
"""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np

from sluice.backends.high_water import HighWater
from sluice.request import Tensor
from sluice.spec import BYTES, NUMPY_TYPES
from sluice.workers.wire import Place

_PAGE = mmap.PAGESIZE
ALIGNMENT = 64  # a cache line, and enough for any vector instruction


def aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _whole_pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


class Slot:
    """One side's view of the memory behind `descriptor`."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size = 0
        self.memory = memoryview(b"")
        self._high_water = HighWater()

    @classmethod
    def create(cls, name: str) -> Slot:
        return cls(os.memfd_create(name, os.MFD_CLOEXEC))

    def grow(self, size: int) -> None:
        """The owner's side: make room for a new batch of `size` bytes; of the old one, nothing is needed beyond."""
        if size > self.size:
            rounded = max(2 * self.size, _whole_pages(size))
            os.ftruncate(self.descriptor, rounded)
            self.attach(rounded)
        needed = self._high_water.use(size)
        if needed is not None and (kept := _whole_pages(needed)) < self.size:
            self._give_back(kept)

    def trim(self) -> None:
        """The owner's side, while no batch is in it: give all its memory back."""
        if self.size:
            self._give_back(0)

    def _give_back(self, kept: int) -> None:
        mapping = self.memory.obj
        assert isinstance(mapping, mmap.mmap)
        mapping.madvise(mmap.MADV_REMOVE, kept, self.size - kept)

    def attach(self, size: int) -> None:
        """Either side: see at least `size` bytes of a file that has them."""
        if size > self.size:
            self.memory = memoryview(mmap.mmap(self.descriptor, size))
            self.size = size

    def close(self) -> None:
        self.memory = memoryview(b"")
        self.size = 0
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def array_at(memory: memoryview, place: Place) -> np.ndarray[Any, Any]:
    """A tensor in a slot: a view of its memory, or, for BYTES, its decoded elements."""
    if place.datatype == BYTES:
        data = memory[place.offset : place.offset + place.size]
        return Tensor(place.name, BYTES, place.shape, data).array()
    return np.ndarray(place.shape, NUMPY_TYPES[place.datatype], memory, place.offset)
