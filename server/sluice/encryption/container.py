"""The form of an encrypted file: a header, then frames of 64 KiB, each encrypted and authenticated with AES-256-GCM.

    header   magic 8 · format 1 · zero 1 · length of the name 2 · bytes in a frame 4 · bytes in all 8 ·
             id of the key 8 · salt of the version 32 · salt of the file 16 · name; numbers are big-endian
    frame    what it holds, encrypted, and a tag of 16 bytes; at least one, and only the last is shorter

    secret of a version = HKDF-SHA256(key, salt of the version, "sluice model version 1")
    key of a file       = HKDF-SHA256(secret of its version, salt of the file, "sluice model file 1" and the header)
    nonce of a frame    = zero 3 · its number from zero 8 · 1 for the last frame, else 0

So every bit of the header decides about the key, no nonce occurs twice under one, and a frame that is changed, moved,
missing or of another file does not pass; this is the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár
(2015). Frames are read in any order: looking at a header in the middle of a large file decrypts 64 KiB.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

from sluice.encryption.keys import ID_LENGTH, Key, derive
from sluice.errors import ModelError

MAGIC = b"\x89SLUICE\n"
FORMAT = 1
FRAME = 64 << 10
TAG = 16
CIPHER = "aes-256-gcm"
_HEAD = struct.Struct(f">8sBxHIQ{ID_LENGTH}s32s16s")
_NONCE = struct.Struct(">3xQB")
_SMALLEST, _LARGEST = 1 << 10, 16 << 20  # frames that are read
_LONGEST_NAME = 4096

Count = Callable[[int], None]
"""Is told how much was done."""


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the frames, for everybody to read."""

    name: str  # the file's, below its version's directory
    size: int  # of what was encrypted
    key_id: str
    version_salt: bytes
    file_salt: bytes
    frame: int = FRAME

    def encode(self) -> bytes:
        name = self.name.encode()
        key_id = bytes.fromhex(self.key_id)
        head = (MAGIC, FORMAT, len(name), self.frame, self.size, key_id, self.version_salt, self.file_salt)
        return _HEAD.pack(*head) + name

    @property
    def length(self) -> int:
        return _HEAD.size + len(self.name.encode())

    @property
    def frames(self) -> int:
        return max(1, -(-self.size // self.frame))

    @property
    def whole(self) -> int:
        """Bytes of the encrypted file."""
        return self.length + self.size + TAG * self.frames


def encrypted_size(name: str, size: int) -> int:
    """How large a file of this name and size becomes."""
    return Header(name, size, "", b"", b"").whole


def read_header(descriptor: int, name: str, shown: str) -> Header | None:
    """The header of an encrypted file, which lies where it was and is as long as it says; None for one that is not
    encrypted. `name` is where it lies below its version's directory, `shown` what errors call it."""
    head = os.pread(descriptor, _HEAD.size + _LONGEST_NAME, 0)
    if not head.startswith(MAGIC):
        return None
    if len(head) < _HEAD.size:
        raise ModelError(f"{shown}: is encrypted, and cut short: its header is not whole")
    _, version, name_length, frame, size, key_id, version_salt, file_salt = _HEAD.unpack_from(head)
    if version != FORMAT:
        raise ModelError(f"{shown}: is encrypted in format {version}, and this version of Sluice reads {FORMAT}")
    written = head[_HEAD.size : _HEAD.size + name_length].decode("utf-8", "replace")
    header = Header(written, size, key_id.hex(), version_salt, file_salt, frame)
    if header.encode() != head[: header.length] or not _SMALLEST <= frame <= _LARGEST or size >> 62:
        raise ModelError(f"{shown}: is encrypted, and its header is damaged")
    if written != name:
        raise ModelError(f"{shown}: was encrypted as {written!r}, and is itself only in that place")
    there = os.fstat(descriptor).st_size
    if there != header.whole:
        how = "cut short" if there < header.whole else "too long"
        raise ModelError(f"{shown}: is encrypted, and {how}: it has {there} bytes, and should have {header.whole}")
    return header


class Reader:
    """What an encrypted file holds, by position. Nothing that did not pass is ever given out."""

    def __init__(self, descriptor: int, header: Header, secret: bytes, shown: str) -> None:
        """`secret` is that of the file's version."""
        self.size = header.size
        self._descriptor = descriptor
        self._header = header
        self._shown = shown
        self._cipher = _cipher(_file_key(header, secret))
        self._frame = lru_cache(maxsize=4)(self._decrypt)  # those that a look here and there comes back to

    def at(self, length: int, position: int) -> bytes:
        """As os.pread: what lies there, less at the end."""
        end = min(position + length, self.size)
        if position < 0 or position >= end:
            return b""
        width = self._header.frame
        first, last = position // width, (end - 1) // width
        found = b"".join(self._frame(index) for index in range(first, last + 1))
        return found[position - first * width : end - first * width]

    def frames(self) -> Iterator[bytes]:
        """All of it, in order."""
        for index in range(self._header.frames):
            yield self._decrypt(index)

    def _decrypt(self, index: int) -> bytes:
        from cryptography.exceptions import InvalidTag

        header = self._header
        begin = index * header.frame
        length = min(header.frame, header.size - begin)
        data = os.pread(self._descriptor, length + TAG, header.length + index * (header.frame + TAG))
        try:
            if len(data) != length + TAG:
                raise InvalidTag
            plain: bytes = self._cipher.decrypt(_nonce(index, header.frames), data, None)
        except InvalidTag as error:
            which = f"frame {index + 1} of {header.frames}" if index else "its header or first frame"
            raise ModelError(f"{self._shown}: is damaged or was tampered with: {which} does not pass") from error
        return plain


def write(
    source: Iterator[bytes], size: int, target: BinaryIO, name: str, key: Key, version_salt: bytes,
    count: Count = lambda size: None,
) -> None:  # fmt: skip
    """Encrypt `size` bytes, which come in pieces of any length, as the file `name` of a version."""
    header = Header(name, size, key.id, version_salt, os.urandom(16))
    cipher = _cipher(_file_key(header, key.derive(version_salt)))
    target.write(header.encode())
    pieces = _evenly(source, header.frame)
    for index in range(header.frames):
        piece = next(pieces, b"")
        if len(piece) != min(header.frame, size - index * header.frame):
            raise ModelError(f"{name}: was written to while it was read")
        target.write(cipher.encrypt(_nonce(index, header.frames), piece, None))
        count(len(piece))
    if next(pieces, b""):
        raise ModelError(f"{name}: was written to while it was read")


def _evenly(source: Iterator[bytes], width: int) -> Iterator[bytes]:
    """The same bytes in pieces of this width, the last one less."""
    waiting = bytearray()
    for piece in source:
        waiting += piece
        while len(waiting) >= width:
            yield bytes(waiting[:width])
            del waiting[:width]
    if waiting:
        yield bytes(waiting)


def _nonce(index: int, count: int) -> bytes:
    return _NONCE.pack(index, index == count - 1)


def _file_key(header: Header, secret: bytes) -> bytes:
    return derive(secret, header.file_salt, b"sluice model file 1" + header.encode())


def _cipher(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ModuleNotFoundError as error:
        raise ModelError(
            f"encrypted models need the package '{error.name}', which is not installed: pip install 'sluice[encrypt]'"
        ) from error
    return AESGCM(key)
