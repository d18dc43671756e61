"""Packages and deltas of real versions: what is unpacked is what was packed, or nothing is."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import identity, save, value
from numpy.typing import NDArray
from onnx import helper

from sluice.errors import ModelError
from sluice.store import manifest
from sluice.store.archive import ALIGNMENT
from sluice.store.package import Package
from sluice.store.packing import pack, usual_name
from sluice.store.placing import Placed
from sluice.store.unpacking import find_parent, unpack

LAYERS, WIDTH = 8, 512
_SIZE = LAYERS * WIDTH * WIDTH * 4  # without the graph

_Weights = dict[str, NDArray[np.float32]]


def weights(seed: int = 0) -> _Weights:
    random = np.random.default_rng(seed)
    return {f"layer{number}": random.standard_normal((WIDTH, WIDTH), np.float32) for number in range(LAYERS)}


def network(path: Path, constants: _Weights, note: str = "") -> None:
    """Eight layers of 1 MiB in one file."""
    nodes = [
        helper.make_node("MatMul", [f"h{number}", f"layer{number}"], [f"h{number + 1}"]) for number in range(LAYERS)
    ]
    save(
        path, nodes, [value("h0", "FP32", ["batch", WIDTH])], [value(f"h{LAYERS}", "FP32", ["batch", WIDTH])], constants
    )
    model = onnx.load(path)
    model.doc_string = note
    onnx.save(model, path)


def version(repository: Path, number: str, constants: _Weights, note: str = "") -> Path:
    directory = repository / "net" / number
    network(directory / "model.onnx", constants, note)
    words = {f"word{index}": index for index in range(20_000)}
    (directory / "tokenizer.json").write_text(json.dumps(words))
    manifest.seal(directory)
    return directory


def small(repository: Path, name: str = "small") -> Path:
    directory = identity(repository, name).parent
    (directory / "assets").mkdir()
    (directory / "assets/labels.txt").write_text("good\nbad\n")
    (directory / "empty.txt").touch()
    manifest.seal(directory, licence="Apache-2.0")
    (directory / "README.md").write_text("# small\n")
    return directory


def content(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def left_in(directory: Path) -> list[Path]:
    return list(directory.rglob("*"))


def test_a_version_comes_back_as_it_was(tmp_path: Path) -> None:
    directory = small(tmp_path / "here")
    packed = pack(directory, tmp_path / "small.sluice")
    done = unpack(packed.path, tmp_path / "there")
    assert done == Placed(tmp_path / "there/small/1", manifest.seal(directory), True)
    assert content(done.directory) == content(directory)
    manifest.verify(done.directory, done.manifest)
    assert packed.path.stat().st_size == packed.size
    assert packed.unpacked == sum(entry.size for entry in done.manifest.files)


def test_a_package_is_a_zip_with_the_manifest_first(tmp_path: Path) -> None:
    directory = small(tmp_path / "here")
    pack(directory, tmp_path / "small.sluice")
    with zipfile.ZipFile(tmp_path / "small.sluice") as archive:
        assert archive.namelist()[0] == "manifest.toml"
        archive.extractall(tmp_path / "by hand")
    assert content(tmp_path / "by hand") == content(directory)
    assert (tmp_path / "small.sluice").read_bytes().index(b"manifest = 1\n") < 100


def test_equal_versions_give_equal_packages(tmp_path: Path) -> None:
    directory = small(tmp_path / "here")
    shutil.copytree(directory, tmp_path / "copy")
    os.utime(tmp_path / "copy/model.onnx", (0, 0))
    one, two = pack(directory, tmp_path / "1"), pack(tmp_path / "copy", tmp_path / "2")
    assert one.path.read_bytes() == two.path.read_bytes()
    assert usual_name(manifest.seal(directory)) == "small-1.0.0.sluice"


def test_weights_are_used_where_they_lie(tmp_path: Path) -> None:
    directory = version(tmp_path, "1", weights())
    packed = pack(directory, tmp_path / "net.sluice")
    with Package.open(packed.path) as package:
        view = package.map("model.onnx")
    assert np.frombuffer(view, np.uint8).ctypes.data % ALIGNMENT == 0
    assert view == (directory / "model.onnx").read_bytes()
    assert packed.size < packed.unpacked  # the tokenizer is deflated


def test_a_package_once_unpacked_is_not_unpacked_again(tmp_path: Path) -> None:
    packed = pack(small(tmp_path / "here"), tmp_path / "x").path
    first = unpack(packed, tmp_path / "there")
    assert unpack(packed, tmp_path / "there") == Placed(first.directory, first.manifest, False)
    assert unpack(packed, tmp_path / "there", "1").directory == first.directory
    other = unpack(packed, tmp_path / "there", "7")
    assert (other.directory.name, other.is_new) == ("7", True)


def test_another_version_is_never_overwritten(tmp_path: Path) -> None:
    packed = pack(small(tmp_path / "here"), tmp_path / "x").path
    place = tmp_path / "there/small/1"
    place.mkdir(parents=True)
    with pytest.raises(ModelError, match="it exists and is another version"):
        unpack(packed, tmp_path / "there", "1")
    assert left_in(place.parent) == [place]
    assert unpack(packed, tmp_path / "there").directory.name == "2"
    (place.parent / "4").symlink_to("nowhere")
    with pytest.raises(ModelError, match="it exists and is another version"):
        unpack(packed, tmp_path / "there", "4")
    with pytest.raises(ModelError, match="whole number from 1"):
        unpack(packed, tmp_path / "there", "../5")


def test_a_file_is_never_overwritten_by_a_package(tmp_path: Path) -> None:
    directory = small(tmp_path / "here")
    (tmp_path / "x").write_text("mine")
    with pytest.raises(ModelError, match="it exists"):
        pack(directory, tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"
    with pytest.raises(ModelError, match="cannot be written"):
        pack(directory, tmp_path / "no such directory/x")


def test_only_what_is_sealed_and_unchanged_is_packed(tmp_path: Path) -> None:
    directory = identity(tmp_path / "here").parent
    with pytest.raises(ModelError, match=r"`sluice seal .*` writes one"):
        pack(directory, tmp_path / "x")
    manifest.seal(directory)
    (directory / "more").write_text("")
    with pytest.raises(ModelError, match=r"more is not in the manifest"):
        pack(directory, tmp_path / "x")
    with pytest.raises(ModelError, match="there is no such directory"):
        pack(tmp_path / "nowhere", tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize(
    ("name", "reason"), [("aux.json", "on every system"), ("MODEL.onnx", "one file on some"), (".delta/0", "their own")]
)
def test_a_version_whose_names_do_not_travel_is_not_packed(tmp_path: Path, name: str, reason: str) -> None:
    directory = identity(tmp_path / "here").parent
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_text("x")
    manifest.seal(directory)
    with pytest.raises(ModelError, match=reason):
        pack(directory, tmp_path / "x")


def tampered(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The package with other members, each of them sound."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target


def _flip(members: dict[str, bytes]) -> None:
    data = members["model.onnx"]
    members["model.onnx"] = data[:-1] + bytes([data[-1] ^ 1])


def _rename(members: dict[str, bytes]) -> None:
    members["manifest.toml"] = members["manifest.toml"].replace(b'name = "small"', b'name = "small.tmp"')


def _first(members: dict[str, bytes]) -> None:
    members["manifest.toml"] = members.pop("manifest.toml")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_flip, r"model\.onnx is not what the manifest says"),
        (_rename, r"cannot be called 'small\.tmp'"),
        (_first, r"begins with manifest\.toml"),
        (lambda members: members.pop("manifest.toml"), r"begins with manifest\.toml"),
        (lambda members: members.pop("model.onnx"), r"model\.onnx is missing"),
        (lambda members: members.update({"model.py": b"evil"}), r"model\.py is not in its manifest"),
        (lambda members: members.update({"model.onnx": b"short"}), r"model\.onnx has 5 bytes"),
        (lambda members: members.update({"manifest.toml": b"manifest = 1"}), r"manifest\.toml"),
        (lambda members: members.update({"manifest.toml": b"\xff"}), r"not UTF-8"),
        (lambda members: members.update({"README.md": bytes(5 << 20)}), r"more than 4 MiB"),
        (lambda members: members.update({".delta/recipe.json": b"{}"}), r"its recipe makes no sense"),
    ],
)  # fmt: skip
def test_a_tampered_package_leaves_nothing_behind(
    tmp_path: Path, change: Callable[[dict[str, bytes]], None], reason: str
) -> None:
    packed = pack(small(tmp_path / "here"), tmp_path / "good").path
    bad = tampered(packed, tmp_path / "bad", change)
    (tmp_path / "there").mkdir()
    with pytest.raises(ModelError, match=reason):
        unpack(bad, tmp_path / "there")
    assert left_in(tmp_path / "there") == []


@pytest.mark.parametrize("number", [None, "3"])
def test_a_damaged_package_leaves_no_directory_behind(tmp_path: Path, number: str | None) -> None:
    packed = pack(small(tmp_path / "here"), tmp_path / "good").path
    bad = tampered(packed, tmp_path / "bad", _flip)
    with pytest.raises(ModelError):
        unpack(bad, tmp_path / "there" / "and deeper", number)
    assert not (tmp_path / "there").exists()
    (tmp_path / "there").mkdir()
    with pytest.raises(ModelError):
        unpack(bad, tmp_path / "there", number)
    assert (tmp_path / "there").is_dir()  # which was not made for it


def test_whatever_byte_is_damaged_nothing_else_is_unpacked(tmp_path: Path) -> None:
    directory = small(tmp_path / "here")
    data = pack(directory, tmp_path / "good").path.read_bytes()
    bad, good = tmp_path / "bad", content(directory)
    for position in range(0, len(data), 7):
        bad.write_bytes(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :])
        try:
            done = unpack(bad, tmp_path / "there")
        except ModelError:
            assert not (tmp_path / "there/small").exists()
        else:  # a time or another thing that is not read
            assert content(done.directory) == good
            shutil.rmtree(tmp_path / "there/small")
    assert position > 1000


def test_a_delta_that_makes_absurdly_much_of_little_is_refused(tmp_path: Path) -> None:
    parent, child = _pair(tmp_path)
    packed = pack(child, tmp_path / "delta", parent).path

    def grow(members: dict[str, bytes]) -> None:
        recipe = json.loads(members[".delta/recipe.json"])
        runs = [[recipe["sources"].index("model.onnx"), 0, _SIZE]] * 150
        recipe["files"]["model.onnx"] = runs
        del members[f".delta/{list(recipe['files']).index('model.onnx')}"]
        members[".delta/recipe.json"] = json.dumps(recipe).encode()
        text = members["manifest.toml"].decode()
        text = re.sub(r'(\[files."model.onnx"\]\nsha256 = "\w+"\nsize = )\d+', rf"\g<1>{_SIZE * len(runs)}", text)
        digest = re.search(r"which is (sha256:\w+)", _complaint(text))
        assert digest
        members["manifest.toml"] = re.sub(r"^digest = .*$", f'digest = "{digest[1]}"', text, flags=re.M).encode()

    bad = tampered(packed, tmp_path / "bad", grow)
    shutil.rmtree(child)
    with pytest.raises(ModelError, match="that is no honest delta"):
        unpack(bad, tmp_path / "models")
    assert [path.name for path in (tmp_path / "models/net").iterdir()] == ["1"]


def _complaint(text: str) -> str:
    with pytest.raises(ModelError) as caught:
        manifest.parse(text)
    return caught.value.message


_KILLED = """
import os, signal, sys
from pathlib import Path
from sluice.store.unpacking import unpack

def progress(step, done, total):
    if done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)

unpack(Path(sys.argv[1]), Path(sys.argv[2]), None, progress)
"""


def test_an_unpacking_that_is_killed_leaves_no_version(tmp_path: Path) -> None:
    directory = version(tmp_path / "here", "1", weights())
    packed = pack(directory, tmp_path / "x").path
    there = tmp_path / "there"
    done = subprocess.run([sys.executable, "-c", _KILLED, str(packed), str(there)], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = (there / "net").iterdir()
    assert left.name.startswith(".")
    assert content(unpack(packed, there).directory) == content(directory)
    assert [path.name for path in (there / "net").iterdir()] == ["1"]


_LIMITED = """
import resource, sys
from sluice.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("command", ["pack", "unpack"])
def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, command: str) -> None:
    directory = version(tmp_path / "here", "1", weights())
    packed = pack(directory, tmp_path / "x").path
    (tmp_path / "there").mkdir()
    arguments = {
        "pack": ["pack", str(directory), "-o", str(tmp_path / "there")],
        "unpack": ["unpack", str(packed), "-r", str(tmp_path / "there")],
    }[command]
    done = subprocess.run([sys.executable, "-c", _LIMITED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert left_in(tmp_path / "there") == []


def _on_a_small_disk(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command with 4 MB of room at `place`, and list what is there afterwards."""
    script = f'mount -t tmpfs -o size=4m none {place} && "$@"; echo $?; find {place} -mindepth 1'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, "-m", "sluice.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a small disk can be mounted."""
    place = tmp_path / "there"
    place.mkdir()
    script = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(place)]
    if shutil.which("unshare") is None or subprocess.run(script, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    return place


def test_what_does_not_fit_on_the_disk_is_not_begun(tmp_path: Path, place: Path) -> None:
    packed = pack(version(tmp_path / "here", "1", weights()), tmp_path / "x").path
    done = _on_a_small_disk(place, "unpack", str(packed), "-r", str(place))
    assert re.search(r"it takes \d+ bytes, and \d+ are free on the disk", done.stderr)
    assert done.stdout == "1\n"


def test_a_full_disk_leaves_no_package_behind(tmp_path: Path, place: Path) -> None:
    directory = version(tmp_path / "here", "1", weights())
    done = _on_a_small_disk(place, "pack", str(directory), "-o", str(place))
    assert done.stderr.endswith("net-1.0.0.sluice: cannot be written: No space left on device\n")
    assert done.stdout == "1\n"


def test_of_several_at_once_one_unpacks(tmp_path: Path) -> None:
    directory = version(tmp_path / "here", "1", weights())
    packed = pack(directory, tmp_path / "x").path
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: unpack(packed, tmp_path / "there"), range(4)))
    assert sorted(each.is_new for each in done) == [False, False, False, True]
    assert {each.directory for each in done} == {tmp_path / "there/net/1"}
    assert content(done[0].directory) == content(directory)


def test_an_interrupted_packing_leaves_nothing_behind(tmp_path: Path) -> None:
    directory = small(tmp_path / "here")
    (tmp_path / "there").mkdir()

    def interrupted(step: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(directory, tmp_path / "there/x", None, interrupted)
    assert left_in(tmp_path / "there") == []


# Deltas.


def _pair(tmp_path: Path, change: Callable[[_Weights], None] | None = None, note: str = "x") -> tuple[Path, Path]:
    """A version and the next one, which has another third layer unless said otherwise."""
    parent = version(tmp_path / "models", "1", weights())
    changed = weights()
    if change is None:
        changed["layer3"] = weights(1)["layer3"]
    else:
        change(changed)
    return parent, version(tmp_path / "models", "2", changed, note)


def _nothing(constants: _Weights) -> None:
    return None


def _row(constants: _Weights) -> None:
    constants["layer5"][7] += 1


def _everything(constants: _Weights) -> None:
    constants.update(weights(1))


def _order(constants: _Weights) -> None:
    """The same weights at other places of the file."""
    moved = dict(reversed(list(constants.items())))
    constants.clear()
    constants.update(moved)


@pytest.mark.parametrize(
    ("change", "note", "least", "most"),
    [
        (_nothing, "a note that moves all that follows " * 20, 0, 0.05),
        (_row, "", 0, 0.05),
        (None, "", 0.11, 0.17),  # one layer of eight, which is 0.12
        (_order, "", 0, 0.20),
        (_everything, "", 0.95, 1.05),
    ],
    ids=["a note", "a row", "a layer", "the order", "everything"],
)  # fmt: skip
def test_a_delta_is_as_large_as_what_is_new(
    tmp_path: Path, change: Callable[[_Weights], None] | None, note: str, least: float, most: float
) -> None:
    parent, child = _pair(tmp_path, change, note)
    whole = pack(child, tmp_path / "whole")
    delta = pack(child, tmp_path / "delta", parent)
    assert least <= delta.size / whole.size <= most
    assert "tokenizer.json" in delta.left_out
    there = tmp_path / "there"
    unpack(pack(parent, tmp_path / "parent").path, there)
    done = unpack(delta.path, there)
    assert content(done.directory) == content(child)
    assert unpack(whole.path, there) == Placed(done.directory, done.manifest, False)


def test_a_delta_finds_its_parent_wherever_it_is(tmp_path: Path) -> None:
    parent, child = _pair(tmp_path)
    delta = pack(child, tmp_path / "delta", parent).path
    (tmp_path / "there/other").mkdir(parents=True)
    shutil.copytree(parent, tmp_path / "there/other/9")
    done = unpack(delta, tmp_path / "there")
    assert done.directory == tmp_path / "there/net/1"
    assert content(done.directory) == content(child)


def test_a_delta_without_its_parent_says_what_it_needs(tmp_path: Path) -> None:
    parent, child = _pair(tmp_path)
    delta = pack(child, tmp_path / "delta", parent).path
    with pytest.raises(ModelError, match=r"a delta against net 1\.0\.0 .* unpack that version first"):
        unpack(delta, tmp_path / "there")
    assert left_in(tmp_path / "there") == []
    with Package.open(delta) as package:
        assert find_parent(package, tmp_path / "nowhere") is None
        with pytest.raises(ModelError, match="which is not there"):
            package.check(None)
        package.check(find_parent(package, tmp_path / "models"))


def test_a_parent_that_was_changed_gives_no_version(tmp_path: Path) -> None:
    parent, child = _pair(tmp_path)
    delta = pack(child, tmp_path / "delta", parent).path
    shutil.rmtree(child)
    with (parent / "model.onnx").open("r+b") as file:
        file.seek(6 << 20)
        file.write(b"other")
    with pytest.raises(ModelError, match="the version it is a delta against was changed"):
        unpack(delta, tmp_path / "models")
    with (parent / "model.onnx").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(ModelError, match="shorter than its manifest says"):
        unpack(delta, tmp_path / "models")
    assert [path.name for path in (tmp_path / "models/net").iterdir()] == ["1"]


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        (lambda runs: runs[:-1], "does not give the file"),
        (lambda runs: [[0, 0, 1 << 62], *runs], "does not give the file"),
        (lambda runs: [[99, *run[1:]] for run in runs], "names a file that it does not have"),
        (lambda runs: [[run[0], run[1] + (run[0] == -1), run[2]] for run in runs], "blocks in order"),
        (lambda runs: [[run[0], run[1] + _SIZE * (run[0] >= 0), run[2]] for run in runs], "takes what net does not"),
        (lambda runs: [[0, 0, sum(run[2] for run in runs)]], "are not what its recipe says"),
        (lambda runs: [[run[0], -1, run[2]] for run in runs], "makes no sense"),
        (lambda runs: [[run[0], run[1], 0] for run in runs], "makes no sense"),
        (lambda runs: "all of it", "makes no sense"),
        (lambda runs: list(reversed(runs)), "blocks in order|not what the manifest says"),
    ],
)  # fmt: skip
def test_a_recipe_that_reaches_for_more_is_refused(
    tmp_path: Path, runs: Callable[[list[list[int]]], object], reason: str
) -> None:
    parent, child = _pair(tmp_path)
    delta = pack(child, tmp_path / "delta", parent).path

    def change(members: dict[str, bytes]) -> None:
        recipe = json.loads(members[".delta/recipe.json"])
        recipe["files"]["model.onnx"] = runs(recipe["files"]["model.onnx"])
        members[".delta/recipe.json"] = json.dumps(recipe).encode()

    bad = tampered(delta, tmp_path / "bad", change)
    shutil.rmtree(child)
    with pytest.raises(ModelError, match=reason):
        unpack(bad, tmp_path / "models")
    assert [path.name for path in (tmp_path / "models/net").iterdir()] == ["1"]


def test_a_recipe_names_only_files_of_the_parent(tmp_path: Path) -> None:
    parent, child = _pair(tmp_path)
    delta = pack(child, tmp_path / "delta", parent).path
    secret = tmp_path / "models/net/secret"
    shutil.copy(parent / "tokenizer.json", secret)

    def change(members: dict[str, bytes]) -> None:
        text = members[".delta/recipe.json"].decode()
        members[".delta/recipe.json"] = text.replace('"sources":["', '"sources":["../secret","').encode()

    shutil.rmtree(child)
    with pytest.raises(ModelError, match="takes what net does not have"):
        unpack(tampered(delta, tmp_path / "bad", change), tmp_path / "models")
