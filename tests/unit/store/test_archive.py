"""The strict zip: what it writes every tool reads, and what it reads means one thing."""

import io
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.errors import ModelError
from sluice.store.archive import ALIGNMENT, LARGEST_DEFLATED, Archive, Writer, check_names, name_problem
from sluice.store.pieces import LARGEST, SMALLEST, pieces


def _write(path: Path, members: dict[str, bytes], small: tuple[str, ...] = ()) -> Path:
    with path.open("wb") as file:
        writer = Writer(file)
        for name, data in members.items():
            if name in small:
                writer.add_small(name, data)
            else:
                writer.add(name, [data[:10], data[10:]], len(data))
        writer.close()
    return path


def _read(path: Path) -> dict[str, bytes]:
    archive = Archive.open(path)
    try:
        return {name: b"".join(archive.chunks(name)) for name in archive.members}
    finally:
        archive.close()


MEMBERS = {
    "first": b"1" * 5000,
    "a/é.json": b"".join(b'{"key": %d}' % n for n in range(500)),
    "weights": bytes(range(256)) * 20,
    "empty": b"",
}


def test_what_is_written_is_read_by_every_zip_tool(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.zip", MEMBERS, small=("a/é.json",))
    assert _read(path) == MEMBERS
    with zipfile.ZipFile(path) as other:
        assert {name: other.read(name) for name in other.namelist()} == MEMBERS


def test_stored_members_are_aligned_and_mapped_in_place(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.zip", MEMBERS, small=("a/é.json",))
    archive = Archive.open(path)
    view = archive.map("weights")
    assert np.frombuffer(view, np.uint8).ctypes.data % ALIGNMENT == 0
    assert view.readonly
    with pytest.raises(ModelError, match="is compressed"):
        archive.map("a/é.json")
    with pytest.raises(ModelError, match="there is no nothing in it"):
        archive.map("nothing")
    archive.close()
    archive.close()
    assert view == MEMBERS["weights"]


class _Sparse(io.FileIO):
    """Leaves holes for zeros."""

    def write(self, data: Any, /) -> int:
        if len(data) < 1 << 20 or any(data[:: 1 << 12]):
            return super().write(data)
        self.seek(len(data), os.SEEK_CUR)
        return len(data)


def test_sizes_and_places_beyond_32_bits(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    zeros = bytes(64 << 20)
    size = 65 * len(zeros) + 3
    with _Sparse(path, "w") as file:
        writer = Writer(cast(BinaryIO, file))
        writer.add("large", [zeros] * 65 + [b"end"], size)
        writer.add("after", [b"text"], 4)
        writer.close()
    assert path.stat().st_size > 1 << 32 > path.stat().st_blocks * 512
    with zipfile.ZipFile(path) as other:
        assert [info.file_size for info in other.infolist()] == [size, 4]
        assert other.read("after") == b"text"
    archive = Archive.open(path)
    assert b"".join(archive.chunks("after")) == b"text"
    program = (
        "import re, sys; from pathlib import Path; from sluice.store.archive import Archive;"
        "archive = Archive.open(Path(sys.argv[1])); view = archive.map('large'); archive.close();"
        "assert view[-3:] == b'end' and view[1 << 32] == 0;"
        # Not ru_maxrss, which begins with what the parent had.
        "print(re.search('VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 500_000  # kB: a member is mapped without being read
    archive.close()


def test_equal_members_give_equal_bytes(tmp_path: Path) -> None:
    one, two = (_write(tmp_path / name, MEMBERS, small=("a/é.json",)).read_bytes() for name in ("1", "2"))
    assert one == two


def test_what_would_look_like_a_bomb_is_stored(tmp_path: Path) -> None:
    zeros = bytes(1 << 20)
    path = _write(tmp_path / "x.zip", {"zeros.json": zeros}, small=("zeros.json",))
    assert path.stat().st_size > len(zeros)
    assert _read(path) == {"zeros.json": zeros}


@given(st.binary(max_size=3000), st.integers(1, 50))
def test_deflated_members_come_back(tmp_path_factory: pytest.TempPathFactory, data: bytes, times: int) -> None:
    path = _write(tmp_path_factory.mktemp("archive") / "x", {"data": data * times}, small=("data",))
    assert _read(path) == {"data": data * times}


def _zip(path: Path, *members: tuple[zipfile.ZipInfo | str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def _link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


def _unicode_path(name: str) -> zipfile.ZipInfo:
    """A field that some tools take the name from."""
    info = zipfile.ZipInfo(name)
    info.extra = struct.pack("<HHBL", 0x7075, 9, 1, 0) + b"evil"
    return info


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        ("/etc/passwd", "is a relative path"),
        ("../x", "is a relative path"),
        ("a/../../x", "is a relative path"),
        ("a//x", "is a relative path"),
        ("a/", "is a relative path"),
        ("a./x", "do not end in a dot"),
        ("a\\x", "has only printable"),
        ("C:x", "has only printable"),
        ("x\x1b[2J", "has only printable"),
        ("x\u202egnp.exe", "has only printable"),
        ("e\u0301", "form NFC"),
        ("a/con", "on every system"),
        ("LPT1.json", "on every system"),
        ("x" * 256, "on every system"),
        ("a/" * 600 + "x", "1024 bytes"),
        (_link("model.onnx"), "is a link, a directory or a device"),
        (_unicode_path("model.onnx"), "has fields that packages do not have"),
    ],
    ids=lambda value: ascii(value)[:20] if isinstance(value, str) else value.filename,
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, member: zipfile.ZipInfo | str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        Archive.open(_zip(tmp_path / "x", (member, b"data")))


@pytest.mark.parametrize(
    "names", [("a", "A"), ("straße", "STRASSE"), ("a", "a/b"), ("A", "a/b/c")], ids=lambda names: "+".join(names)
)
def test_names_that_are_one_file_somewhere_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(ModelError, match=r"one file on some systems|the directory of"):
        check_names(names, tmp_path)
    with pytest.raises(ModelError, match=r"one file on some systems|the directory of"):
        Archive.open(_zip(tmp_path / "x", *((name, b"data") for name in names)))


def test_ordinary_names_are_names() -> None:
    for name in ("model.onnx", "a/b/c.json", "1_Pooling/config.json", ".gitattributes", "übersetzung 2.txt", "console"):
        assert name_problem(name) is None


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"two of model\.onnx"):
        Archive.open(_zip(tmp_path / "x", ("model.onnx", b"good"), ("model.onnx", b"evil")))


def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no honest file"):
        Archive.open(_zip(tmp_path / "steep", ("x", bytes(1 << 20)), method=zipfile.ZIP_DEFLATED))
    large = np.random.default_rng(0).integers(0, 9, LARGEST_DEFLATED + 1, np.uint8).tobytes()
    with pytest.raises(ModelError, match="no honest file"):
        Archive.open(_zip(tmp_path / "large", ("x", large), method=zipfile.ZIP_DEFLATED))
    many = [(f"{number}", b"") for number in range(10_001)]
    with pytest.raises(ModelError, match="more than 10000 files"):
        Archive.open(_zip(tmp_path / "many", *many))


def _overlapping(data: bytes) -> bytes:
    """Both names lead to the first member's data, as in the bombs that need no deep nesting."""
    second = data.rindex(b"PK\1\2")
    return data[: second + 42] + struct.pack("<L", 0) + data[second + 46 :]


def _two_names(data: bytes) -> bytes:
    return data.replace(b"one", b"eno", 1)


def _two_sizes(data: bytes) -> bytes:
    return data[:22] + struct.pack("<L", 2) + data[26:]


@pytest.mark.parametrize(
    "change",
    [
        _overlapping,
        _two_names,
        _two_sizes,
        lambda data: b"junk" + data,
        lambda data: data + b"junk",
        lambda data: data[:-2] + b"\x04\x00junk",
        lambda data: data.replace(b"PK\1\2", b"junkPK\1\2", 1),
        lambda data: data[:6] + b"\x01" + data[7:],
        lambda data: b"",
        lambda data: b"PK\5\6" + bytes(15),
    ],
)  # fmt: skip
def test_what_two_tools_could_read_in_two_ways_is_refused(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = _zip(tmp_path / "x", ("one", b"data"), ("two", b"data"))
    assert _read(path) == {"one": b"data", "two": b"data"}
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ModelError):
        Archive.open(path)


@pytest.mark.parametrize("end", ["whole", "64 bit"])
def test_whatever_byte_is_damaged_is_noticed_or_makes_no_difference(tmp_path: Path, end: str) -> None:
    path = _write(tmp_path / "x", {"one": b"data" * 5, "two": b"text " * 50}, small=("one", "two"))
    data = path.read_bytes()
    if end == "64 bit":
        count, length, start = struct.unpack_from("<HLL", data, len(data) - 12)
        at = len(data) - 22
        data = (
            data[:at]
            + struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, start)
            + struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
            + data[at:]
        )
        path.write_bytes(data)
    good = _read(path)
    for position in range(len(data)):
        for value in {data[position] ^ 1, data[position] ^ 0x80, 0, 0xFF} - {data[position]}:
            path.write_bytes(data[:position] + bytes([value]) + data[position + 1 :])
            try:
                found = _read(path)
            except ModelError:
                continue
            assert found == good, position
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ModelError):
            _read(path)


class _Hesitant(io.BytesIO):
    """Gives less than it is asked for."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size, 77_777) if size else size)


def test_pieces_are_cut_by_content(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(4 << 20)
    cut = list(pieces(io.BytesIO(data)))
    assert b"".join(cut) == data
    assert all(SMALLEST <= len(piece) <= LARGEST for piece in cut[:-1])
    assert list(pieces(_Hesitant(data))) == cut
    moved = list(pieces(io.BytesIO(data[:1_000_000] + b"a few bytes more" + data[1_000_000:])))
    assert len(set(moved) - set(cut)) <= 2
    zeros = bytes(1 << 20)
    assert b"".join(pieces(io.BytesIO(zeros))) == zeros
    assert list(pieces(io.BytesIO())) == []
