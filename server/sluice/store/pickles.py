"""Finds pickles by content: plain, compressed, or in a zip, as PyTorch, joblib and numpy write them.

Reading a pickle runs whatever code it names. None is read here: its opcodes are stepped through, as the unpickler would
meet them, to tell a pickle from a file that happens to begin like one.
"""

from __future__ import annotations

import ast
import bz2
import lzma
import math
import pickletools
import re
import struct
import zipfile
import zlib
from typing import Any, BinaryIO

from numpy.lib import format as npy

from sluice.store.window import Window

HIGHEST_PROTOCOL = 5
_HEAD = 1 << 16  # bytes looked at of what is compressed or in a zip
_MOST_COMPRESSED = 1 << 20  # bytes that may be needed to see the first of them: one block of bzip2
_END = 22 + 0xFFFF  # where the end of a zip is told
_MOST_STEPS = 1_000_000
_MOST_MEMBERS = 100_000
_LARGEST_DIRECTORY = 32 << 20
_HIGHEST_RATIO, _HARMLESS = 100, 1 << 30
_LARGEST_HEADER = 10_000  # numpy's own bound
_LZMA_MEMORY = 64 << 20

_OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
_PREFIXES = {-2: ("<B", 1), -3: ("<i", 4), -4: ("<I", 4), -5: ("<Q", 8)}  # of arguments that tell their length
_NAMING = {"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"}
_RUNNING = {"REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD", "PERSID", "BINPERSID"}
_DOTTED = re.compile(rb"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class _Unlike(Exception):
    """No unpickler gets further than this."""


class Refused(Exception):
    """What a file may not be."""


def look(file: BinaryIO, window: Window) -> None:
    """Refused if it bears a pickle, or claims to be something that may and cannot be looked into."""
    if b"PK\5\6" in window.at(max(0, window.size - _END), _END):
        _look_into_zip(file, window)
    _look_at(window, window.size)
    plain = _decompressed(window)
    if plain:
        _look_at(Window.over(plain), None, "is compressed, and what is in it ")


def _look_at(window: Window, size: int | None, shown: str = "") -> None:
    """`size`: of what begins as the window shows; None = not known."""
    head = window.at(0, _HEAD)
    if head.startswith(b"\x93NUMPY"):
        _look_at_array(head, size, shown)
    elif (named := _pickled(window, cut=size is None or size > window.size)) is not None:
        raise Refused(f"{shown}is a pickle, which runs code when it is read{named}")


def _pickled(window: Window, cut: bool) -> str | None:
    """What a pickle names, if it is one; `cut` = only its beginning is here."""
    head = window.at(0, 2)
    headed = len(head) == 2 and head[0] == 0x80 and head[1] <= HIGHEST_PROTOCOL
    steps = _Steps(window)
    try:
        for _ in range(_MOST_STEPS):
            code = steps.next()
            if (code in _RUNNING or code == "STOP") and (headed or steps.naming):
                return steps.named()
            if code == "STOP":
                return None  # numbers and texts: no code
    except _Unlike:
        ended = cut and steps.at >= window.size
        return steps.named() if (headed and (steps.naming or ended)) or (steps.naming and ended) else None
    return steps.named()  # nothing else looks like a pickle for so long


class _Steps:
    """Steps through the opcodes, counting what is on the stack."""

    def __init__(self, window: Window) -> None:
        self.at = 0
        self.naming = False
        self._name = ""  # the first; a hint to readers
        self._texts = ["", ""]
        self._window = window
        self._stack = [0]  # how many things lie above each mark

    def named(self) -> str:
        return f"; it names {self._name}" if self._name else ""

    def next(self) -> str:
        code = self._window.at(self.at, 1)
        opcode = _OPCODES.get(code[0]) if code else None
        if opcode is None:
            raise _Unlike
        self.at += 1
        if opcode.arg is not None:
            self._step_over(opcode.name, opcode.arg)
        self._move(opcode)
        if opcode.name == "STACK_GLOBAL" and all(self._texts):
            self._name = self._name or ".".join(self._texts)
        self.naming = self.naming or opcode.name in _NAMING
        return opcode.name

    def _step_over(self, code: str, argument: Any) -> None:
        if argument.n >= 0:
            if code == "PROTO" and self._window.at(self.at, 1) > bytes([HIGHEST_PROTOCOL]):
                raise _Unlike
            self.at += argument.n
        elif argument.n in _PREFIXES:
            form, width = _PREFIXES[argument.n]
            prefix = self._window.at(self.at, width)
            if len(prefix) < width:
                self.at = self._window.size
                raise _Unlike
            (length,) = struct.unpack(form, prefix)
            if length < 0:
                raise _Unlike
            if code in ("SHORT_BINUNICODE", "BINUNICODE") and length <= 200:
                text = self._window.at(self.at + width, length)
                self._texts = [self._texts[1], text.decode("ascii", "replace") if _DOTTED.fullmatch(text) else ""]
            self.at += width + length
        elif argument.name == "stringnl_noescape_pair":
            module, name = self._line(), self._line()
            if not _DOTTED.fullmatch(module) or not _DOTTED.fullmatch(name):
                raise _Unlike
            self._name = self._name or f"{module.decode('ascii', 'replace')}.{name.decode('ascii', 'replace')}"
        else:
            line = self._line()
            if argument.name in ("stringnl", "decimalnl_short", "decimalnl_long", "floatnl"):
                _check_line(argument.name, line)
        if self.at > self._window.size:
            self.at = self._window.size
            raise _Unlike

    def _line(self) -> bytes:
        """To the end of the line; its beginning is all that matters of a long one."""
        end = self._window.find(b"\n", self.at)
        if end < 0:
            self.at = self._window.size
            raise _Unlike
        line = self._window.at(self.at, min(end - self.at, 1000))
        self.at = end + 1
        return line

    def _move(self, opcode: Any) -> None:
        before, after = opcode.stack_before, opcode.stack_after
        if pickletools.markobject in before:
            if len(self._stack) < 2:
                raise _Unlike
            self._stack.pop()
            before = before[: before.index(pickletools.markobject)]
        if opcode.name == "POP" and not self._stack[-1] and len(self._stack) > 1:
            self._stack.pop()
            return
        self._stack[-1] -= len(before)
        if self._stack[-1] < 0:
            raise _Unlike
        if opcode.name == "MARK":
            self._stack.append(0)
        else:
            self._stack[-1] += len(after)


def _check_line(kind: str, line: bytes) -> None:
    """A line of text is seldom a number or between quotes."""
    text = line.decode("latin-1").strip()
    if kind == "stringnl":
        fits = len(line) == 1000 or (len(text) > 1 and text[0] == text[-1] and text[0] in "'\"")
    elif kind == "floatnl":
        fits = len(line) == 1000 or re.fullmatch(r"[-+\w.]+", text) is not None
    else:
        fits = re.fullmatch(r"[-+]?[0-9_]+L?", text) is not None
    if not fits:
        raise _Unlike


def _look_at_array(head: bytes, size: int | None, shown: str) -> None:
    """An .npy file: its elements may be pickled, or more than there are."""
    width, form = (2, "<H") if head[6:7] == b"\1" else (4, "<I")
    try:
        (length,) = struct.unpack_from(form, head, 8)
        start = 8 + width + length
        if length > _LARGEST_HEADER or start > len(head):
            raise ValueError
        header = ast.literal_eval(head[8 + width : start].decode("latin-1").strip())
        dtype = npy.descr_to_dtype(header["descr"])
        shape = [int(dim) for dim in header["shape"]]
        if min(shape, default=0) < 0:
            raise ValueError
    except Exception as error:  # whatever such a text can be the reason of
        raise Refused(f"{shown}is a numpy array whose header cannot be read") from error
    if dtype.hasobject:
        raise Refused(f"{shown}is a numpy array of objects, which are pickles and run code when they are read")
    needed = math.prod(shape) * dtype.itemsize
    if size is not None and needed > size - start:
        raise Refused(f"{shown}is a numpy array that says it has {needed} bytes, and has {max(0, size - start)}")


def _decompressed(window: Window) -> bytes | None:
    """The beginning of what joblib and others would decompress."""
    head = window.at(0, 6)
    decoder: Any
    if head.startswith(b"\x1f\x8b"):
        decoder = zlib.decompressobj(zlib.MAX_WBITS + 16)
    elif head[:1] == b"\x78":
        decoder = zlib.decompressobj()
    elif head.startswith(b"BZh"):
        decoder = bz2.BZ2Decompressor()
    elif head.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        decoder = lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)
    elif head.startswith(b"\x04\x22\x4d\x18"):
        raise Refused("is compressed with lz4, into which this server cannot look; compress it with gzip")
    else:
        return None
    plain = b""
    try:
        for position in range(0, min(window.size, _MOST_COMPRESSED), _HEAD):
            if len(plain) >= _HEAD or decoder.eof:
                break
            plain += decoder.decompress(window.at(position, _HEAD), _HEAD)
    except lzma.LZMAError as error:
        if "limit" in str(error).lower():
            raise Refused("is compressed so that it takes too much memory to look into it") from error
    except (zlib.error, OSError, EOFError, ValueError):
        pass  # what came before the damage is looked at all the same
    return plain


def _look_into_zip(file: BinaryIO, window: Window) -> None:
    """Its directory is read if it is of a sane size, and the beginning of each member."""
    begins = window.at(0, 4) == b"PK\3\4"
    entries, room = _directory(window)
    if entries > _MOST_MEMBERS or room > _LARGEST_DIRECTORY:
        raise Refused(f"is a zip whose directory is absurd: {entries} members in {room} bytes")
    try:
        with zipfile.ZipFile(file) as archive:
            _look_at_members(archive, window.size)
    except Refused:
        raise
    except Exception as error:  # zipfile raises most anything when an archive is damaged
        if begins:
            raise Refused("is a zip that cannot be looked into: it is damaged, or packed in an unusual way") from error


def _directory(window: Window) -> tuple[int, int]:
    """How many members it says to have, and the size of its directory."""
    start = max(0, window.size - _END)
    tail = window.at(start, _END)
    end = tail.rfind(b"PK\5\6")
    if len(tail) < end + 22:
        return 0, 0
    _, entries, room = struct.unpack_from("<HHL", tail, end + 8)
    locator = window.at(max(0, start + end - 20), 20)
    if locator.startswith(b"PK\6\7") and len(locator) == 20:
        (at,) = struct.unpack_from("<Q", locator, 8)
        wide = window.at(min(at, window.size), 56)
        before = window.at(max(0, start + end - 76), 56)  # where zipfile looks for it
        for record in (wide, before):
            if record.startswith(b"PK\6\6") and len(record) == 56:
                entries, room = (max(pair) for pair in zip((entries, room), _wide(record), strict=True))
    return entries, room


def _wide(record: bytes) -> tuple[int, int]:
    entries, room = struct.unpack_from("<QQ", record, 32)
    return entries, room


def _look_at_members(archive: zipfile.ZipFile, size: int) -> None:
    members = archive.infolist()
    total = sum(member.file_size for member in members)
    if total > max(_HARMLESS, _HIGHEST_RATIO * size) or sum(member.compress_size for member in members) > size:
        raise Refused(f"is a zip of {size} bytes that says it holds {total}")
    for member in members:
        if member.is_dir():
            continue
        name = member.filename[:100]
        if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Refused(
                f"is a zip whose member {name!r} cannot be looked into: encrypted or packed in an unusual way"
            )
        with archive.open(member) as content:
            head = content.read(min(_HEAD, member.file_size))
        _look_at(Window.over(head), member.file_size, f"is a zip whose member {name!r} ")
