"""Encrypted files: what comes out is what went in, or nothing does."""

import io
import os
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from sluice.encryption.container import FRAME, MAGIC, TAG, Header, Reader, encrypted_size, read_header, write
from sluice.encryption.keys import Key, derive
from sluice.errors import ModelError

KEY = Key(bytes(range(32)))
SALT = b"s" * 32
NAME = "data/weights.bin"
SIZES = (0, 1, 1000, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME, 3 * FRAME + 77)


def content(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def encrypted(plain: bytes, name: str = NAME, key: Key = KEY, salt: bytes = SALT) -> bytes:
    target = io.BytesIO()
    write(iter([plain[:7], plain[7:]]), len(plain), target, name, key, salt)
    return target.getvalue()


def decrypted(path: Path, data: bytes, key: Key = KEY) -> bytes:
    path.write_bytes(data)
    with path.open("rb") as file:
        header = read_header(file.fileno(), NAME, "m/1/weights.bin")
        assert header is not None
        return b"".join(Reader(file.fileno(), header, key.derive(header.version_salt), "m/1/weights.bin").frames())


def refusal(path: Path, data: bytes, key: Key = KEY) -> str:
    with pytest.raises(ModelError) as error:
        decrypted(path, data, key)
    place, _, why = error.value.message.partition(": ")
    assert place == "m/1/weights.bin"
    return why


@pytest.mark.parametrize("size", SIZES)
def test_what_comes_out_is_what_went_in(tmp_path: Path, size: int) -> None:
    data = encrypted(content(size))
    assert len(data) == encrypted_size(NAME, size)
    assert decrypted(tmp_path / "file", data) == content(size)


def test_nothing_shows(tmp_path: Path) -> None:
    plain = b"the weights of a model" * 1000
    first, second = encrypted(plain), encrypted(plain)
    assert b"weights of" not in first
    beginning = Header(NAME, len(plain), KEY.id, SALT, bytes(16)).length
    assert first[beginning:] != second[beginning:]  # the same file twice does not look the same
    assert first[beginning : beginning + 100] not in second


@given(size=st.sampled_from(SIZES), places=st.lists(st.tuples(st.integers(0, 4 * FRAME), st.integers(0, 2 * FRAME))))
def test_it_is_read_from_anywhere(
    tmp_path_factory: pytest.TempPathFactory, size: int, places: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.mktemp("files") / "file"
    path.write_bytes(encrypted(content(size)))
    with path.open("rb") as file:
        header = read_header(file.fileno(), NAME, "file")
        assert header is not None
        reader = Reader(file.fileno(), header, KEY.derive(SALT), "file")
        assert reader.size == size
        for position, length in places:
            assert reader.at(length, position) == content(size)[position : position + length]


def test_a_change_anywhere_is_found(tmp_path: Path) -> None:
    data = encrypted(content(FRAME + 100))
    header = len(data) - FRAME - 100 - 2 * TAG
    for place in (*range(len(MAGIC), header), header, header + FRAME // 2, header + FRAME + TAG - 1, len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        assert refusal(tmp_path / "file", bytes(changed))
    assert "its header or first frame does not pass" in refusal(
        tmp_path / "file", data[:header] + b"x" + data[header + 1 :]
    )
    assert "frame 2 of 2 does not pass" in refusal(tmp_path / "file", data[:-1] + bytes([data[-1] ^ 1]))


def test_frames_stay_where_they_are(tmp_path: Path) -> None:
    plain = content(FRAME) * 3
    data, other = encrypted(plain), encrypted(plain)
    width, start = FRAME + TAG, len(data) - 3 * (FRAME + TAG)
    frames = [data[start + index * width : start + (index + 1) * width] for index in range(3)]
    for order in ((1, 0, 2), (0, 2, 1), (0, 0, 2), (0, 1, 1)):
        swapped = data[:start] + b"".join(frames[index] for index in order)
        assert "does not pass" in refusal(tmp_path / "file", swapped)
    # Not even the same frame of the same file, encrypted another time.
    mixed = data[: start + width] + other[start + width : start + 2 * width] + data[start + 2 * width :]
    assert "frame 2 of 3 does not pass" in refusal(tmp_path / "file", mixed)


def test_an_end_that_is_missing_is_found(tmp_path: Path) -> None:
    data = encrypted(content(2 * FRAME))
    for length in (len(data) - 1, len(data) - FRAME - TAG, 100, 70):
        assert "is encrypted, and cut short" in refusal(tmp_path / "file", data[:length])
    assert "is encrypted, and too long" in refusal(tmp_path / "file", data + b"\0")
    # A header that says so makes it no better: the last frame says that it is the last.
    shorter = Header(NAME, FRAME, KEY.id, SALT, data[len(MAGIC) + 56 : len(MAGIC) + 72])
    start = shorter.length
    assert "does not pass" in refusal(tmp_path / "file", shorter.encode() + data[start : start + FRAME + TAG])


def test_only_its_own_key_reads_it(tmp_path: Path) -> None:
    other = Key(bytes(32))
    assert "does not pass" in refusal(tmp_path / "file", encrypted(content(100)), other)
    claimed = encrypted(content(100)).replace(bytes.fromhex(KEY.id), bytes.fromhex(other.id))
    assert "does not pass" in refusal(tmp_path / "file", claimed, other)


def test_it_is_itself_only_in_its_place(tmp_path: Path) -> None:
    why = refusal(tmp_path / "file", encrypted(content(100), "model.onnx"))
    assert why == "was encrypted as 'model.onnx', and is itself only in that place"


def test_what_is_not_encrypted_has_no_header(tmp_path: Path) -> None:
    for plain in (b"", b"\x89PNG\r\n", MAGIC[:-1]):
        (tmp_path / "file").write_bytes(plain)
        with (tmp_path / "file").open("rb") as file:
            assert read_header(file.fileno(), NAME, "file") is None


def test_a_later_format_is_told(tmp_path: Path) -> None:
    data = bytearray(encrypted(b""))
    data[len(MAGIC)] = 2
    assert "is encrypted in format 2" in refusal(tmp_path / "file", bytes(data))


@pytest.mark.parametrize("size", [99, 101])
def test_a_file_that_changes_while_it_is_read_is_not_written(size: int) -> None:
    with pytest.raises(ModelError, match="was written to while it was read"):
        write(iter([content(100)]), size, io.BytesIO(), NAME, KEY, SALT)


def test_the_form_is_what_the_documentation_says(tmp_path: Path) -> None:
    """Made here as docs/encryption.md tells, so that files of today can be read for ever."""

    def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
        return HKDF(hashes.SHA256(), 32, salt, info).derive(secret)

    secret, name, plain = bytes(range(32)), NAME.encode(), content(65536 + 5)
    version_salt, file_salt = os.urandom(32), os.urandom(16)
    header = bytes.fromhex("89 53 4C 55 49 43 45 0A") + b"\x01\0"
    header += len(name).to_bytes(2) + (65536).to_bytes(4) + len(plain).to_bytes(8)
    header += sha256(b"sluice model key id\0" + secret).digest()[:8] + version_salt + file_salt + name
    key = hkdf(hkdf(secret, version_salt, b"sluice model version 1"), file_salt, b"sluice model file 1" + header)
    first = AESGCM(key).encrypt(bytes(12), plain[:65536], None)
    last = AESGCM(key).encrypt(bytes(3) + (1).to_bytes(8) + b"\x01", plain[65536:], None)
    assert decrypted(tmp_path / "file", header + first + last) == plain


def test_keys_are_derived_as_the_standard_says() -> None:
    secret, salt = os.urandom(32), os.urandom(32)
    for info in (b"", b"sluice model file 1"):
        assert HKDF(hashes.SHA256(), 32, salt, info).derive(secret) == derive(secret, salt, info)
