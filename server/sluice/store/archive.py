"""The container of packages: a zip of one strict shape, whose stored members can be memory-mapped where they lie.

Every zip tool reads it, but only this shape is read back: members follow one another from the first byte to the
directory without a gap, the directory repeats what each member's own header says, and names are plain relative paths
that mean the same on every system. So there is nothing that one tool sees and another does not, and no member takes
more room than its share of the archive allows.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from sluice.errors import ModelError

ALIGNMENT = 4096
CHUNK = 1 << 20  # bytes in memory at a time
MOST_MEMBERS = 10_000
LARGEST_DIRECTORY = 16 << 20
LARGEST_DEFLATED = 16 << 20  # larger members are stored
HIGHEST_RATIO = 100  # of a deflated member's size to the room it takes

_LOCAL = struct.Struct("<4sHHHHHLLLHH")
_RECORD = struct.Struct("<4sBBHHHHHLLLHHHHHLL")
_END = struct.Struct("<4sHHHHLLH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQHHLLQQQQ")
_UTF8, _DEFLATE_OPTIONS = 0x800, 0x6  # the only flags
_BEYOND = 0xFFFFFFFF  # "see the 64-bit field"
_SIZES, _PADDING = 0x0001, 0xD935  # the only extra fields: 64-bit sizes, and what zipalign fills up with
_STORED, _DEFLATED = 0, 8
_DAY = 0x21  # 1980-01-01: no times, so that equal versions give equal packages

_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Member:
    name: str
    size: int
    room: int  # that its data takes in the archive
    deflated: bool
    crc: int
    offset: int  # of its data


class Writer:
    """Appends members to a new file; equal members give equal bytes, whenever and wherever they are written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._records: list[bytes] = []

    def add(self, name: str, chunks: Iterable[bytes], size: int, *, aligned: bool = True) -> None:
        """Store a member of this size."""
        self._add(name, chunks, (size, size), _STORED, aligned)

    def add_small(self, name: str, data: bytes) -> None:
        """Deflate a member if that is worth it and allowed, else store it, unaligned."""
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        packed = deflate.compress(data) + deflate.flush() if len(data) <= LARGEST_DEFLATED else data
        if len(packed) < 0.9 * len(data) and len(data) <= HIGHEST_RATIO * len(packed):
            self._add(name, [packed], (len(data), len(packed)), _DEFLATED, False, zlib.crc32(data))
        else:
            self._add(name, [data], (len(data), len(data)), _STORED, False)

    def close(self) -> None:
        """Write the directory, which makes an archive of the file."""
        start = self._file.tell()
        self._file.write(b"".join(self._records))
        at = self._file.tell()
        count, length = len(self._records), at - start
        if count >= 0xFFFF or max(start, length) >= _BEYOND:
            self._file.write(_END64.pack(b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, start))
            self._file.write(_LOCATOR.pack(b"PK\6\7", 0, at, 1))
        count = min(count, 0xFFFF)
        self._file.write(_END.pack(b"PK\5\6", 0, 0, count, count, min(length, _BEYOND), min(start, _BEYOND), 0))

    def _add(
        self, name: str, chunks: Iterable[bytes], sizes: tuple[int, int], method: int, aligned: bool, crc: int = 0
    ) -> None:
        raw, start = name.encode(), self._file.tell()
        size, room = sizes
        needs = 45 if max(size, room, start) >= _BEYOND else 20
        kind = (0 if name.isascii() else _UTF8, method, 0, _DAY)
        short = sizes if max(sizes) < _BEYOND else (_BEYOND, _BEYOND)  # a header has both in 64 bits, or none
        extra = _wide(short, sizes)
        if aligned:
            extra += _padding(-(start + _LOCAL.size + len(raw) + len(extra)) % ALIGNMENT)
        self._file.write(bytes(_LOCAL.size) + raw + extra)
        written = 0
        for chunk in chunks:
            self._file.write(chunk)
            written += len(chunk)
            crc = zlib.crc32(chunk, crc) if method == _STORED else crc
        if written != room:
            raise ModelError(f"{name}: was written to while it was read")
        end = self._file.tell()
        self._file.seek(start)
        self._file.write(_LOCAL.pack(b"PK\3\4", needs, *kind, crc, short[1], short[0], len(raw), len(extra)))
        self._file.seek(end)
        place = min(start, _BEYOND)
        extra = _wide((*short, place), (size, room, start))
        record = (crc, short[1], short[0], len(raw), len(extra), 0, 0, 0, 0o100644 << 16, place)
        self._records.append(_RECORD.pack(b"PK\1\2", 45, 3, needs, *kind, *record) + raw + extra)


class Archive:
    """Reads an archive; opening it checks all of its structure and none of its contents."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._file = file
        self._map: mmap.mmap | None = None
        self.size = os.fstat(file.fileno()).st_size
        self.members: dict[str, Member] = {}

    @classmethod
    def open(cls, path: Path) -> Self:
        archive = cls(path, path.open("rb"))
        try:
            archive.members = archive._directory()
        except BaseException:
            archive.close()
            raise
        return archive

    def close(self) -> None:
        """What was mapped stays valid for as long as somebody holds it."""
        self._file.close()
        self._map = None

    def chunks(self, name: str) -> Iterator[bytes]:
        """A member's data, in pieces of bounded size; ModelError at the end of one that is damaged."""
        member = self.members[name]
        crc = length = 0
        for chunk in self._inflated(member) if member.deflated else self.part(name, 0, member.size):
            crc, length = zlib.crc32(chunk, crc), length + len(chunk)
            yield chunk
        if length != member.size or crc != member.crc:
            raise self.wrong(f"{name} is damaged")

    def part(self, name: str, offset: int, length: int) -> Iterator[bytes]:
        """Some of a stored member's data, in pieces of bounded size, unchecked."""
        start = self._stored(name).offset + offset
        while length:
            self._file.seek(start)
            chunk = self._file.read(min(CHUNK, length))
            if not chunk:
                raise self.wrong("it ends too early")
            yield chunk
            start, length = start + len(chunk), length - len(chunk)

    def map(self, name: str) -> memoryview:
        """A stored member where it lies in the file: nothing is read before it is used."""
        member = self._stored(name)
        if self._map is None:
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return memoryview(self._map)[member.offset : member.offset + member.size]

    def wrong(self, reason: str) -> ModelError:
        return ModelError(f"{self.path}: {reason}")

    def _stored(self, name: str) -> Member:
        member = self.members.get(name)
        if member is None:
            raise self.wrong(f"there is no {name} in it")
        if member.deflated:
            raise self.wrong(f"{name} is compressed and can only be read from its beginning")
        return member

    def _inflated(self, member: Member) -> Iterator[bytes]:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._file.seek(member.offset)
        data = self._file.read(member.room)
        left = member.size
        try:
            while left:
                chunk = inflate.decompress(data, min(CHUNK, left))
                data, left = inflate.unconsumed_tail, left - len(chunk)
                if not chunk:
                    break
                yield chunk
            if inflate.decompress(data, 1) or not inflate.eof or inflate.unused_data:
                raise self.wrong(f"{member.name} is damaged")
        except zlib.error as error:
            raise self.wrong(f"{member.name} is damaged") from error

    def _read(self, offset: int, length: int) -> bytes:
        if offset + length > self.size:
            raise self.wrong("it is cut short or no package")
        self._file.seek(offset)
        return self._file.read(length)

    def _directory(self) -> dict[str, Member]:
        count, start, length = self._end()
        if count > MOST_MEMBERS or length > LARGEST_DIRECTORY:
            raise self.wrong(f"it has more than {MOST_MEMBERS} files or a directory of more than 16 MiB")
        records = self._read(start, length)
        members: dict[str, Member] = {}
        place = position = 0
        for _ in range(count):
            member, offset, place = self._record(records, place)
            if offset != position:
                raise self.wrong(f"{member.name} is not where the one before it ends")
            if member.name in members:
                raise self.wrong(f"there are two of {member.name}")
            members[member.name] = member
            position = member.offset + member.room
        if place != length or position != start:
            raise self.wrong("there is something between its parts")
        check_names(members, self.path)
        return members

    def _end(self) -> tuple[int, int, int]:
        """How many members there are, where the directory starts, and how long it is."""
        at = self.size - _END.size
        if at < 0:
            raise self.wrong("it is cut short or no package")
        signature, disk, other, here, count, length, start, comment = _END.unpack(self._read(at, _END.size))
        if signature != b"PK\5\6" or disk or other or here != count or comment:
            raise self.wrong("it is cut short or no package")
        locator = at - _LOCATOR.size  # of the 64-bit end, which only large archives have
        if locator >= _END64.size and self._read(locator, 4) == b"PK\6\7":
            _, disk, place, disks = _LOCATOR.unpack(self._read(locator, _LOCATOR.size))
            at = locator - _END64.size
            end = _END64.unpack(self._read(at, _END64.size))
            if end[:2] != (b"PK\6\6", 44) or end[4:6] != (0, 0) or (disk, place, disks) != (0, at, 1):
                raise self.wrong("its end makes no sense")
            long = end[6], end[7], end[8], end[9]
            for said, true, beyond in zip(
                (here, count, length, start), long, (0xFFFF,) * 2 + (_BEYOND,) * 2, strict=True
            ):
                if said not in (true, beyond):
                    raise self.wrong("its end says two things")
            here, count, length, start = long
        if here != count or start + length != at:
            raise self.wrong("its directory is not where it should be")
        return count, start, length

    def _record(self, records: bytes, place: int) -> tuple[Member, int, int]:
        """A member as directory and header say alike, where that header is, and where the next record is."""
        if place + _RECORD.size > len(records):
            raise self.wrong("its directory is cut short")
        (signature, _, _, _, flags, method, _, _, crc, room, size, name_length, extra_length, comment, disk, _,
         attributes, offset) = _RECORD.unpack_from(records, place)  # fmt: skip
        place += _RECORD.size
        rest = records[place : place + name_length + extra_length]
        raw, extra = rest[:name_length], rest[name_length:]
        if signature != b"PK\1\2" or comment or disk or len(rest) != name_length + extra_length:
            raise self.wrong("its directory makes no sense")
        name = self._name(raw, flags)
        if attributes >> 28 not in (0, 0o10):
            raise self.wrong(f"{name} is a link, a directory or a device, not a file")
        size, room, offset = self._long((size, room, offset), extra, name)
        header = self._read(offset, _LOCAL.size)
        signature, _, *same, crc2, room2, size2, name_length, extra_length = _LOCAL.unpack(header)
        rest = self._read(offset + _LOCAL.size, name_length + extra_length)
        size2, room2 = self._long((size2, room2), rest[name_length:], name)
        if signature != b"PK\3\4" or rest[:name_length] != raw or same[:2] != [flags, method]:
            raise self.wrong(f"{name} has two different headers")
        if (crc, room, size) != (crc2, room2, size2):
            raise self.wrong(f"{name} has two different sizes")
        data = offset + _LOCAL.size + len(rest)
        member = Member(name, size, room, method == _DEFLATED, crc, data)
        self._check(member, flags, method)
        return member, offset, place + len(raw) + len(extra)

    def _check(self, member: Member, flags: int, method: int) -> None:
        name = member.name
        if flags & ~(_UTF8 | _DEFLATE_OPTIONS) or method not in (_STORED, _DEFLATED):
            raise self.wrong(f"{name} is encrypted or packed in a way that packages are not")
        if not member.deflated and member.size != member.room:
            raise self.wrong(f"{name} has two different sizes")
        if member.deflated and (
            max(member.size, member.room) > LARGEST_DEFLATED or member.size > HIGHEST_RATIO * member.room
        ):
            raise self.wrong(f"{name} would grow to {member.size} bytes from {member.room}; that is no honest file")

    def _name(self, raw: bytes, flags: int) -> str:
        try:
            name = raw.decode("utf-8" if flags & _UTF8 else "ascii")
        except UnicodeDecodeError as error:
            raise self.wrong(f"{raw[:100]!r} is not a name") from error
        if problem := name_problem(name):
            raise self.wrong(problem)
        return name

    def _long(self, values: tuple[int, ...], extra: bytes, name: str) -> list[int]:
        """The values, those that do not fit into 32 bits from the extra field."""
        long: bytes | None = None
        while extra:
            kind, length = struct.unpack_from("<HH", extra) if len(extra) >= 4 else (0, 0)
            field, extra = extra[4 : 4 + length], extra[4 + length :]
            if kind == _SIZES and long is None and len(field) == length:
                long = field
            elif kind != _PADDING or len(field) != length:
                raise self.wrong(f"{name} has fields that packages do not have")
        beyond = values.count(_BEYOND)
        if len(long or b"") != 8 * beyond:
            raise self.wrong(f"{name} has sizes that make no sense")
        wide = iter(struct.unpack(f"<{beyond}Q", long or b""))
        return [next(wide) if value == _BEYOND else value for value in values]


def name_problem(name: str) -> str | None:
    """What is wrong with a file's name inside a package, on any system, or None."""
    shown = ascii(name[:100])
    if not name or len(name.encode("utf-8", "surrogatepass")) > 1024:
        return f"{shown}: a name has 1 to 1024 bytes"
    if _UNSAFE.search(name) or not name.isprintable() or unicodedata.normalize("NFC", name) != name:
        return f"{shown}: a name has only printable characters, none of < > : \" | ? * \\, and is in Unicode's form NFC"
    for part in name.split("/"):
        if part in ("", ".", "..") or part[-1] in ". " or part[0] == " ":
            return f"{shown}: a name is a relative path whose parts are not empty, '.' or '..' and do not end in a dot"
        if _RESERVED.fullmatch(part) or len(part.encode()) > 255:
            return f"{shown}: {part[:50]} cannot be a file's name on every system"
    return None


def check_names(names: Iterable[str], where: Path) -> None:
    """ModelError if two of them would be one file, or one a file and a directory, on some system."""
    seen: dict[str, str] = {}
    names = list(names)
    for name in names:
        if problem := name_problem(name):
            raise ModelError(f"{where}: {problem}")
        folded = unicodedata.normalize("NFC", name.casefold())
        if folded in seen:
            raise ModelError(f"{where}: {name} and {seen[folded]} are one file on some systems")
        seen[folded] = name
    for folded, name in seen.items():
        above = folded
        while "/" in above:
            above = above.rpartition("/")[0]
            if above in seen:
                raise ModelError(f"{where}: {seen[above]} is a file and the directory of {name}")


def _wide(short: tuple[int, ...], values: tuple[int, ...]) -> bytes:
    """The extra field with the values whose short fields say that theirs is there."""
    wide = [value for field, value in zip(short, values, strict=True) if field == _BEYOND]
    return struct.pack(f"<HH{len(wide)}Q", _SIZES, 8 * len(wide), *wide) if wide else b""


def _padding(length: int) -> bytes:
    if not length:
        return b""
    length += ALIGNMENT if length < 6 else 0
    return struct.pack("<HHH", _PADDING, length - 4, ALIGNMENT) + bytes(length - 6)
