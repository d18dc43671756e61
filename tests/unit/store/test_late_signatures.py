"""A signature that comes with a version which lies there already."""

from __future__ import annotations

from pathlib import Path

import graphs
import pytest
import signers
from signers import Signer

from sluice.cli.main import main
from sluice.store import manifest, packing, signatures, signing, sources, unpacking
from sluice.store.blobs import Cache
from sluice.store.contents import Hashes
from sluice.store.placing import Placed
from sluice.store.sources import Means, Wanted


@pytest.fixture
def ann(tmp_path: Path) -> Signer:
    return signers.signer(tmp_path / "keys", "ann")


@pytest.fixture
def version(tmp_path: Path) -> Path:
    directory = graphs.tagger(tmp_path / "origin").parent
    manifest.seal(directory)
    return directory


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def sign(directory: Path, signer: Signer) -> bytes:
    return signing.sign(directory, signing.Identity(signer.key.read_bytes())).text


def packed(version: Path, name: str) -> Path:
    return packing.pack(version, version.parent / name).path


def brought(source: Path, models: Path, cache: Path) -> Placed:
    return sources.pull(str(source), Wanted(models), Means(Cache(cache, 1 << 30)))


def test_it_is_put_where_none_was(version: Path, models: Path, ann: Signer) -> None:
    unpacking.unpack(packed(version, "before"), models)
    text = sign(version, ann)
    again = unpacking.unpack(packed(version, "after"), models)
    assert (again.is_new, again.note) == (False, "and has the signature that came with it now")
    assert (again.directory / "model.sig").read_bytes() == text
    found = signatures.read(again.directory)
    assert found is not None
    signatures.compare(found, signatures.content(again.directory, Hashes()))
    assert unpacking.unpack(packed(version, "once more"), models).note == ""


def test_of_a_directory_too(version: Path, models: Path, tmp_path: Path, ann: Signer) -> None:
    brought(version, models, tmp_path / "cache")
    text = sign(version, ann)
    assert "the signature that came with it" in brought(version, models, tmp_path / "cache").note
    assert (models / "tagger" / "1" / "model.sig").read_bytes() == text


def test_what_is_there_is_kept_and_that_is_said(
    version: Path, models: Path, tmp_path: Path, ann: Signer, capsys: pytest.CaptureFixture[str]
) -> None:
    text = sign(version, ann)
    unpacking.unpack(packed(version, "before"), models)
    sign(version, signers.signer(tmp_path / "keys", "bob"))
    assert main(["unpack", str(packed(version, "after")), "-r", str(models)]) == 0
    assert capsys.readouterr().out == (
        f"tagger 1.0.0 is already in {models}/tagger/1, it came with another signature than tagger/1/model.sig, which "
        f"was kept; remove {models}/tagger/1 and bring it again to have that, or bring it under another number with "
        "--as\n"
    )
    assert (models / "tagger" / "1" / "model.sig").read_bytes() == text


@pytest.mark.parametrize("text", [b"nonsense", b"\xff", b""])
def test_what_is_no_signature_is_not_taken(version: Path, models: Path, text: bytes) -> None:
    unpacking.unpack(packed(version, "before"), models)
    (version / "model.sig").write_bytes(text)
    note = unpacking.unpack(packed(version, "after"), models).note
    assert note.startswith("the signature that came with it was not taken: tagger/1/model.sig: ")
    assert not (models / "tagger" / "1" / "model.sig").exists()


def test_one_over_other_files_is_not_taken(version: Path, models: Path, ann: Signer) -> None:
    done = unpacking.unpack(packed(version, "before"), models)
    sign(version, ann)
    path = packed(version, "after")
    (done.directory / "model.onnx").write_bytes(b"changed since")
    assert "model.onnx is not as it was signed" in unpacking.unpack(path, models).note
    assert not (done.directory / "model.sig").exists()
