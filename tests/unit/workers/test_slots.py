"""Slots grow, keep old views valid, are seen by both sides, and leave nothing in any directory."""

import os
from pathlib import Path

import numpy as np

from sluice.request import encode_bytes
from sluice.spec import BYTES
from sluice.workers.slots import ALIGNMENT, Slot, aligned, array_at
from sluice.workers.wire import Place


def open_memory(name: str) -> int:
    """How many of this process's descriptors and mappings are of the memory file `name`."""
    descriptors = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    mappings = Path("/proc/self/maps").read_text().splitlines()
    return sum(f"memfd:{name} " in text for text in (*descriptors, *mappings))


def test_offsets_are_aligned() -> None:
    assert [aligned(offset) for offset in (0, 1, ALIGNMENT, ALIGNMENT + 1)] == [0, ALIGNMENT, ALIGNMENT, 2 * ALIGNMENT]


def test_growing_keeps_the_content_and_the_views() -> None:
    slot = Slot.create("test-grow")
    slot.grow(10)
    first = slot.size
    view = slot.memory
    view[:5] = b"hello"
    slot.grow(first)
    assert slot.size == first
    slot.grow(first + 1)
    assert slot.size >= 2 * first
    assert bytes(slot.memory[:5]) == b"hello"
    view[:5] = b"there"  # the old mapping is of the same memory
    assert bytes(slot.memory[:5]) == b"there"
    view.release()
    slot.close()


def test_both_sides_see_the_same_memory() -> None:
    owner = Slot.create("test-sides")
    owner.grow(100)
    other = Slot(os.dup(owner.descriptor))
    other.attach(owner.size)
    owner.memory[:3] = b"abc"
    assert bytes(other.memory[:3]) == b"abc"
    owner.grow(10 * owner.size)
    owner.memory[-3:] = b"end"
    other.attach(owner.size)
    assert bytes(other.memory[-3:]) == b"end"
    other.close()
    owner.close()


def test_nothing_is_left_anywhere() -> None:
    slot = Slot.create("test-left")
    slot.grow(1 << 20)
    slot.memory[:] = b"x" * len(slot.memory)
    slot.grow(1 << 22)
    assert "/dev/shm/" not in Path("/proc/self/maps").read_text()
    assert open_memory("test-left") > 0
    slot.close()
    slot.close()
    assert open_memory("test-left") == 0


def test_arrays_lie_in_the_memory() -> None:
    slot = Slot.create("test-arrays")
    slot.grow(1024)
    array = array_at(slot.memory, Place("x", "FP32", (2, 3), 64, 24))
    array[...] = 1.5
    assert bytes(slot.memory[64:88]) == np.full(6, 1.5, "<f4").tobytes()
    encoded = encode_bytes([b"a", b""])
    slot.memory[128 : 128 + len(encoded)] = encoded
    assert array_at(slot.memory, Place("t", BYTES, (2,), 128, len(encoded))).tolist() == [b"a", b""]
    del array
    slot.close()
