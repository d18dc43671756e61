"""Cuts files where their content says so: equal stretches give equal pieces, wherever in a file they lie.

A cut comes where a hash of the last 32 bytes is small, every 64 KiB on average, so that bytes put in or taken out move
no cut but those around them. The hash is a gear hash: one random number per byte, each shifted by its distance. It is
computed for many positions at once, by doubling the window.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

SMALLEST, LARGEST = 1 << 14, 1 << 18
_AVERAGE = 1 << 16
_WINDOW = 32
_SEGMENT = 1 << 20  # bytes looked at in one go
_GEAR = np.array([int.from_bytes(hashlib.sha256(bytes([byte])).digest()[:4], "big") for byte in range(256)], np.uint32)


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """The rest of the file, in pieces of at most 256 KiB, and at least 16 KiB but for the last."""
    held = bytearray()  # since the last cut
    window = b""
    while segment := file.read(_SEGMENT):
        places = np.flatnonzero(_hashes(window + segment)[len(window) :] < (1 << 32) // _AVERAGE) + 1
        window = (window + segment)[1 - _WINDOW :]
        before = len(held)
        held += segment
        start = 0
        for place in (places + before).tolist():
            while place - start > LARGEST:
                yield bytes(held[start : start + LARGEST])
                start += LARGEST
            if place - start >= SMALLEST:
                yield bytes(held[start:place])
                start = place
        while len(held) - start > LARGEST:
            yield bytes(held[start : start + LARGEST])
            start += LARGEST
        del held[:start]
    if held:
        yield bytes(held)


def _hashes(data: bytes) -> NDArray[np.uint32]:
    """For each position the hash of the window that ends there."""
    hashes: NDArray[np.uint32] = _GEAR[np.frombuffer(data, np.uint8)]
    reach = 1
    while reach < _WINDOW:
        hashes[reach:] += hashes[:-reach] << np.uint32(reach)
        reach *= 2
    return hashes
