"""Pickles are found by what they are, whatever they are called and however packed; nothing else is taken for one."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.store.pickles import Refused, look
from sluice.store.window import Window


class Evil:
    def __reduce__(self) -> Any:
        return os.getcwd, ()


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with path.open("rb") as file:
        try:
            look(file, Window(file.fileno()))
        except Refused as error:
            return str(error)
    return ""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.bin"


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def saved(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol_are_found(file: Path, protocol: int) -> None:
    code = pickle.dumps(Evil(), protocol)
    assert "is a pickle, which runs code when it is read" in refusal(file, code)
    assert f"it names {os.getcwd.__module__}.getcwd" in refusal(file, code)
    assert refusal(file, pickle.dumps({"a": [bytes(1 << 20), Evil()]}, protocol))
    assert refusal(file, code[:-1])  # it would have run by then
    assert refusal(file, code + b"anything")
    assert bool(refusal(file, pickle.dumps({"weights": [1.5, "text"]}, protocol))) == (protocol >= 2)


@pytest.mark.parametrize(
    "pack",
    [gzip.compress, zlib.compress, bz2.compress, lzma.compress, lambda data: lzma.compress(data, lzma.FORMAT_ALONE)],
)
def test_pickles_are_found_in_what_is_compressed(file: Path, pack: Any) -> None:
    for protocol in (0, 2, 5):
        assert "is compressed, and what is in it is a pickle" in refusal(file, pack(pickle.dumps(Evil(), protocol)))
    large = pickle.dumps(np.random.default_rng(0).bytes(3 << 20), 4)
    assert refusal(file, pack(large))
    assert refusal(file, pack(b"some text, nothing else " * 1000)) == ""


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_pickles_are_found_in_zips(file: Path, method: int) -> None:
    for protocol in (0, 4):
        members = {"archive/version": b"3\n", "archive/data.pkl": pickle.dumps({"a": 1, "b": Evil()}, protocol)}
        packed = zipped(members, method)
        assert "is a zip whose member 'archive/data.pkl' is a pickle" in refusal(file, packed)
        assert refusal(file, b"#!/bin/sh\n" + packed)  # which zip tools read as well
    assert refusal(file, zipped({"a.npy": saved(np.array([{}], dtype=object))}, method))
    assert refusal(file, zipped({"a.npy": saved(np.zeros(1 << 20)), "b.txt": b"text", "empty": b""}, method)) == ""


@pytest.mark.parametrize("array", [np.array([{}], dtype=object), np.zeros(2, [("a", "f4"), ("b", "O")])])
def test_arrays_of_objects_are_refused(file: Path, array: np.ndarray[Any, Any]) -> None:
    assert "numpy array of objects" in refusal(file, saved(array))


def test_arrays_of_numbers_pass_if_they_are_whole(file: Path) -> None:
    content = saved(np.arange(1000.0))
    assert refusal(file, content) == ""
    assert "says it has 8000 bytes, and has 7999" in refusal(file, content[:-1])
    hidden = content.replace(b"'<f8'", b"'\\x4f'")[:200]
    assert "header" in refusal(file, hidden) or "objects" in refusal(file, hidden)
    assert "header cannot be read" in refusal(file, b"\x93NUMPY\1\0\xff\xff")
    assert "header cannot be read" in refusal(file, b"\x93NUMPY\1\0\x00\x20" + b"(" * 8192)


def test_zips_that_cannot_be_looked_into_are_refused(file: Path) -> None:
    sound = zipped({"a": b"text"})
    assert "cannot be looked into" in refusal(file, zipped({"a": b"text"}, zipfile.ZIP_LZMA))
    assert "damaged" in refusal(file, sound.replace(b"PK\1\2", b"PK\1\3"))
    absurd = bytearray(sound)
    absurd[-10:-6] = (1 << 31).to_bytes(4, "little")
    assert "directory is absurd" in refusal(file, bytes(absurd))
    bomb = bytearray(zipped({"a": bytes(1000)}, zipfile.ZIP_DEFLATED))
    at = bomb.rindex(b"PK\1\2")
    bomb[at + 24 : at + 28] = (3 << 30).to_bytes(4, "little")
    assert "says it holds" in refusal(file, bytes(bomb))
    assert "lz4" in refusal(file, b"\x04\x22\x4d\x18" + bytes(20))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        b"\x80\x02",
        b"\x80\x04 random weights follow \xff\xfe",
        b"cat\ndog\nRabbit\n",
        b"copyright 2020\nAll rights reserved\n)R.",
        b"import os\nimport sys\n",
        b"I am a text.\nN.\n",
        b"{}\n",
        b"[PAD]\n[UNK]\n",
        b"(\n",
        bytes(1 << 20),
        b"\x0a" * 1000,
        np.random.default_rng(1).bytes(1 << 20),
    ],
)
def test_other_files_pass(file: Path, content: bytes) -> None:
    assert refusal(file, content) == ""


def test_looking_is_bounded(file: Path) -> None:
    assert refusal(file, b"N0" * 1_000_000 + pickle.dumps(Evil(), 0))  # hidden behind what does nothing
    assert refusal(file, b"(" * 5_000_000)
    file.write_bytes(b"")
    with file.open("r+b") as huge:  # and a pickle whose first text is larger than any memory
        huge.write(b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little"))
        huge.truncate((1 << 40) + 100)
        assert not refused(huge)
        huge.seek((1 << 40) + 11)
        huge.write(b"0cposix\ngetcwd\n)R.")
        huge.flush()
        assert "posix.getcwd" in refused(huge)


def refused(file: Any) -> str:
    file.flush()
    try:
        look(file, Window(file.fileno()))
    except Refused as error:
        return str(error)
    return ""


SEEDS = [
    pickle.dumps({"a": [Evil(), 1.5, "text", b"bytes"]}, 0),
    pickle.dumps({"a": [Evil(), 1.5, "text", b"bytes"]}, 4),
    zipped({"data.pkl": pickle.dumps(Evil())}, zipfile.ZIP_DEFLATED),
    saved(np.zeros(3, [("a", "f4"), ("b", "i8")])),
    gzip.compress(pickle.dumps(Evil())),
    lzma.compress(pickle.dumps(Evil())),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "file"


@given(data=st.data())
def test_damage_is_passed_or_refused(place: Path, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    refusal(place, bytes(content[: data.draw(st.integers(0, len(content)))]))


@given(start=st.sampled_from([b"", b"\x80\x02", b"\x93NUMPY\1\0", b"PK\3\4", b"\x1f\x8b"]), rest=st.binary())
def test_noise_is_passed_or_refused(place: Path, start: bytes, rest: bytes) -> None:
    refusal(place, start + rest)


@given(content=st.recursive(st.none() | st.integers() | st.text() | st.binary(), st.lists), protocol=st.integers(2, 5))
def test_every_pickle_with_a_head_is_found(place: Path, content: object, protocol: int) -> None:
    assert refusal(place, pickle.dumps(content, protocol))


class Harmless(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError


@given(content=st.lists(st.sampled_from([b"N", b"(", b"l", b"t", b"0", b"2", b"]", b"a", b"I1\n", b"K.", b"}"])))
def test_what_the_unpickler_throws_away_hides_nothing(place: Path, content: list[bytes]) -> None:
    before = b"(" + b"".join(content) + b"1"
    try:
        Harmless(io.BytesIO(before + b"N.")).load()
    except Exception:
        return
    assert refusal(place, before + pickle.dumps(Evil(), 0))
