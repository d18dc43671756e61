"""Versions that are encrypted: what of them is, what their manifests say, and what is wrong with changed ones."""

import base64
import shutil
from pathlib import Path

import graphs
import onnx
import pytest
from onnx import TensorProto

from sluice.encryption import container
from sluice.encryption.container import MAGIC
from sluice.encryption.keys import Key, Keys
from sluice.errors import ModelError
from sluice.spec import Port
from sluice.store import graph_inspection, inspection, manifest
from sluice.store.encrypting import decrypt, encrypt
from sluice.store.manifest import Parent, examine, seal
from sluice.store.packing import pack
from sluice.store.repository import find
from sluice.store.unpacking import unpack

KEY, OLD, OTHER = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2, 3))
KEYS = Keys(KEY)
ID = KEYS.first().id
PORTS = (Port("input_ids", "INT64", ("batch", "sequence")), Port("attention_mask", "INT64", ("batch", "sequence")))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A version whose weights lie in a file of their own, with files that are not encrypted, sealed."""
    models = tmp_path / "models"
    path = graphs.weights_apart(graphs.lookup(models), "data/weights.bin")
    (path.parent / "labels.txt").write_text("cat\ndog\n")
    seal(path.parent, licence="MIT", metrics={"cosine": 1.0})
    (path.parent / "README.md").write_text("Written by its author.\n")
    return models


@pytest.fixture
def version(models: Path) -> Path:
    """That version, encrypted."""
    return encrypt(models / "lookup" / "1", models, KEYS).placed.directory


def refusal(models: Path, keys: Keys = KEYS, name: str = "lookup") -> str:
    """What is said against the latest version; nothing if it may be loaded."""
    (files,) = find(models, name).versions
    try:
        inspection.inspect(files, [], keys)
    except ModelError as error:
        return error.message
    return ""


def test_the_graph_and_its_weights_are_encrypted(models: Path, version: Path) -> None:
    old = models / "lookup" / "1"
    assert version == models / "lookup" / "2"
    for name in ("model.onnx", "data/weights.bin"):
        assert (version / name).read_bytes().startswith(MAGIC)
        assert not (old / name).read_bytes().startswith(MAGIC)
    assert (old / "data/weights.bin").read_bytes()[:100] not in (version / "data/weights.bin").read_bytes()
    assert (version / "labels.txt").read_text() == "cat\ndog\n"
    before, sealed = manifest.read(old), manifest.read(version)
    assert before
    assert sealed
    manifest.verify(version, sealed)
    assert (sealed.model.encryption, sealed.model.key_id) == ("aes-256-gcm", ID)
    assert (sealed.name, sealed.version, sealed.licence) == ("lookup", "1.0.0+encrypted", "MIT")
    assert sealed.parents == (Parent("encrypted from", "lookup", "1.0.0", before.digest()),)
    assert (sealed.inputs, sealed.outputs, sealed.metrics) == (before.inputs, before.outputs, before.metrics)
    assert sealed.model.parameters == before.model.parameters
    card = (version / "README.md").read_text()
    assert card.startswith("Written by its author.\n")
    assert f"aes-256-gcm, key {ID}" in card


def test_it_is_looked_over_with_the_key_only(models: Path, version: Path) -> None:
    (files,) = find(models, "lookup").versions
    assert files.directory == version
    found = inspection.inspect(files, [], KEYS)
    assert found.externals == ("data/weights.bin",)
    assert len(found.secret) == 32
    assert repr(found.secret) not in repr(found)
    assert refusal(models, Keys()) == (
        f"lookup/2/model.onnx: is encrypted with the key {ID}, and no key is given: "
        "set SLUICE_MODEL_KEY, or name a file of keys as models.key_file"
    )
    assert f"is encrypted with the key {ID}; those given are " in refusal(models, Keys(OTHER))
    assert refusal(models, Keys(f"{OTHER} {KEY}")) == ""


def test_a_graph_gone_bad_is_found_through_its_encryption(models: Path) -> None:
    path = models / "lookup" / "1" / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    tensor = model.graph.initializer.add(name="w", data_type=TensorProto.UINT8, dims=[4])
    tensor.raw_data = b"long enough"
    path.write_bytes(model.SerializeToString())
    seal(path.parent)
    encrypt(path.parent, models, KEYS)
    assert refusal(models) == ""
    model.graph.initializer[-1].dims[:] = [4000]
    path.write_bytes(model.SerializeToString())
    seal(path.parent)
    with pytest.raises(ModelError, match=r"lookup/1/model\.onnx: tensor 'w': by its dims"):
        encrypt(path.parent, models, KEYS)
    assert sorted(each.name for each in (models / "lookup").iterdir()) == ["1", "2"]


def test_what_belongs_to_another_version_is_refused(models: Path, version: Path) -> None:
    weights = version / "data" / "weights.bin"
    mine = weights.read_bytes()
    other = encrypt(models / "lookup" / "1", models / ".." / "others", KEYS).placed.directory
    place = "lookup/2/model.onnx: tensor 'table': external_data: location: 'data/weights.bin'"
    for source, why in (
        (
            other / "data" / "weights.bin",
            "was encrypted with another version's graph",
        ),
        (models / "lookup" / "1" / "data" / "weights.bin", "is not encrypted, and the graph is"),
    ):
        shutil.copy(source, weights)
        assert refusal(models) == f"{place} {why}"
    weights.write_bytes(mine)
    assert refusal(models) == ""
    shutil.copy(models / "lookup" / "1" / "model.onnx", version / "model.onnx")
    assert refusal(models) == f"{place} is encrypted, and the graph is not"
    weights.write_bytes(mine[:-1])
    assert "lookup/2/data/weights.bin: is encrypted, and cut short" in refusal(models)
    shutil.copy(weights, version / "model.onnx")
    assert "was encrypted as 'data/weights.bin'" in refusal(models)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.999])
def test_a_damaged_graph_is_refused(models: Path, version: Path, place: float) -> None:
    data = bytearray((version / "model.onnx").read_bytes())
    data[int(place * len(data))] ^= 4
    (version / "model.onnx").write_bytes(data)
    assert refusal(models).startswith("lookup/2/model.onnx: ")


def test_a_python_model_is_not_encrypted(models: Path) -> None:
    directory = graphs.python_echo(models) / "1"
    with pytest.raises(ModelError, match="echo/1: is a Python model, whose files its own code reads"):
        encrypt(directory, models, KEYS)
    with (directory / "model.py").open("wb") as file:
        container.write(iter([b"code"]), 4, file, "model.py", KEYS.first(), bytes(32))
    assert "model.py: is encrypted" in refusal(models, name="echo")


def test_sealing_anew_needs_the_key_only_for_what_is_new(models: Path, version: Path) -> None:
    (version / "labels.txt").write_text("cat\n")
    sealed = manifest.read(version)
    assert sealed
    again = seal(version)
    assert (again.inputs, again.outputs, again.model) == (sealed.inputs, sealed.outputs, sealed.model)
    assert again.digest() != sealed.digest()
    (version / "manifest.toml").unlink()
    for keys in (Keys(), Keys(OTHER)):
        little = examine(version, keys)
        assert (little.inputs, little.model.opsets, little.model.key_id) == ((), {}, ID)
    whole = examine(version, KEYS)
    assert (whole.inputs, whole.outputs, whole.model) == (sealed.inputs, sealed.outputs, sealed.model)


def test_a_version_without_a_manifest_is_encrypted_as_well(models: Path) -> None:
    path = graphs.weights_apart(graphs.lookup(models, "open"), "weights.bin")
    done = encrypt(path.parent, models, KEYS)
    assert done.files == ("model.onnx", "weights.bin")
    sealed = manifest.read(done.placed.directory)
    assert sealed
    assert sealed.inputs == PORTS
    assert refusal(models, name="open") == ""


def test_a_key_is_followed_by_another(models: Path) -> None:
    old = encrypt(models / "lookup" / "1", models, Keys(OLD)).placed
    both = Keys(f"{KEY},{OLD}")
    new = encrypt(old.directory, models, both).placed
    assert (new.directory.name, new.manifest.model.key_id) == ("3", ID)
    assert new.manifest.parents == (Parent("encrypted from", "lookup", "1.0.0+encrypted", old.manifest.digest()),)
    assert refusal(models, KEYS) == ""
    with pytest.raises(ModelError, match=f"lookup/3: is encrypted with the key {ID} already"):
        encrypt(new.directory, models, both)
    with pytest.raises(ModelError, match=r"is encrypted with the key .*; those given are"):
        encrypt(old.directory, models, KEYS)


def test_decrypting_is_the_way_back(models: Path, version: Path) -> None:
    back = decrypt(version, models, KEYS)
    assert (back.placed.directory, back.placed.is_new) == (models / "lookup" / "1", False)
    shutil.rmtree(models / "lookup" / "1")
    back = decrypt(version, models, KEYS, "7")
    assert (back.placed.directory.name, back.placed.manifest.version) == ("7", "1.0.0")
    assert (back.placed.manifest.model.encryption, back.placed.manifest.model.key_id) == ("", "")
    assert refusal(models, Keys()) == ""
    with pytest.raises(ModelError, match="lookup/7: is not encrypted"):
        decrypt(back.placed.directory, models, KEYS)


def test_damage_is_found_before_anything_is_made(models: Path, version: Path) -> None:
    for each in (models / "lookup" / "1", version):
        labels = each / "labels.txt"
        labels.write_text("dog\n")
        with pytest.raises(ModelError, match=r"labels\.txt is changed"):
            encrypt(each, models, Keys(f"{OTHER} {KEY}"))
    assert sorted(each.name for each in (models / "lookup").iterdir()) == ["1", "2"]


def test_a_package_of_it_needs_no_key(models: Path, version: Path, tmp_path: Path) -> None:
    packed = pack(version, tmp_path / "lookup.sluice")
    done = unpack(packed.path, tmp_path / "there")
    assert done.manifest.model.key_id == ID
    assert refusal(tmp_path / "there") == ""


def test_a_large_graph_is_looked_over_in_part_only(tmp_path: Path) -> None:
    path = graphs.lookup(tmp_path / "models", rows=500_000)
    directory = encrypt(path.parent, tmp_path / "models", KEYS).placed.directory
    data = bytearray((directory / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1  # in the weights, which the worker decrypts and nobody else
    (directory / "model.onnx").write_bytes(data)
    assert graph_inspection.inspect(directory / "model.onnx", directory, "model.onnx", KEYS).externals == ()
    assert Key(bytes([1]) * 32).id == ID
