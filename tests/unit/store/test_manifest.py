import hashlib
import os
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphs
import pytest

from sluice import __version__
from sluice.errors import ModelError
from sluice.spec import Port
from sluice.store.contents import Hashes
from sluice.store.manifest import FileEntry, Manifest, Parent, dump, parse, plain, read, seal, verify


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A version as people have them, with a file in a folder."""
    directory = graphs.tagger(tmp_path, "tagger", "3").parent
    (directory / "tokenizer.json").write_text("{}")
    (directory / "extra").mkdir()
    (directory / "extra" / "labels.txt").write_text("cat\ndog\n")
    return directory


def refusal(check: Callable[[], object]) -> str:
    with pytest.raises(ModelError) as caught:
        check()
    return caught.value.message


def tampered(directory: Path) -> str:
    manifest = read(directory)
    assert manifest is not None
    return refusal(lambda: verify(directory, manifest))


def test_a_directory_without_one_has_none(version: Path) -> None:
    assert read(version) is None


def test_a_seal_says_what_the_directory_holds(version: Path) -> None:
    sealed = seal(version, task="other", licence="MIT", parents=(Parent("quantized from", "tagger", "1.0.0"),))
    assert read(version) == sealed
    assert (sealed.name, sealed.version, sealed.tokenizer) == ("tagger", "3.0.0", "tokenizer.json")
    assert sealed.created_by == f"sluice {__version__}"
    assert {"sluice", "onnx", "onnxruntime"} <= sealed.runtime.keys()
    assert sealed.model.opsets == {"ai.onnx": 17}
    assert sealed.model.parameters == 2  # a factor and an axis
    assert sealed.inputs[0] == Port("input_ids", "INT64", ("batch", "sequence"))
    assert sealed.outputs[1] == Port("total", "INT64", ("batch", 1))
    labels = b"cat\ndog\n"
    entry = FileEntry("extra/labels.txt", hashlib.sha256(labels).hexdigest(), len(labels))
    assert sealed.file("extra/labels.txt") == entry
    assert [file.path for file in sealed.files] == ["extra/labels.txt", "model.onnx", "tokenizer.json"]
    verify(version, sealed)


def test_the_digest_is_what_the_document_says_it_is(version: Path) -> None:
    sealed = seal(version)
    lines = sorted(f"{file.sha256}  {file.size}  {file.path}\n" for file in sealed.files)
    assert sealed.digest() == "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()
    assert tomllib.loads((version / "manifest.toml").read_text())["digest"] == sealed.digest()


def test_the_same_files_have_the_same_digest_elsewhere(version: Path, tmp_path: Path) -> None:
    first = seal(version).digest()
    moved = version.rename(tmp_path / "tagger" / "4")
    assert seal(moved).digest() == first


def test_what_was_said_before_is_kept(version: Path) -> None:
    first = seal(version, task="embedding", metrics={"cosine": 0.998})
    second = seal(version, licence="MIT")
    assert (second.task, second.metrics, second.licence) == ("embedding", {"cosine": 0.998}, "MIT")
    assert second.created == first.created
    assert seal(version, task="").task == ""


def test_a_change_can_be_sealed_anew(version: Path) -> None:
    first = seal(version, version="3.1.0-rc.1")
    (version / "tokenizer.json").write_text('{"model": 1}')
    second = seal(version)
    assert second.version == "3.1.0-rc.1"
    assert second.digest() != first.digest()
    verify(version, second)


def test_the_manifest_and_the_card_are_not_among_the_files(version: Path) -> None:
    sealed = seal(version)
    (version / "README.md").write_text("about it")
    (version / "extra" / "README.md").write_text("a file like any other")
    assert "extra/README.md is not in the manifest" in tampered(version)
    assert {"manifest.toml", "README.md"}.isdisjoint(file.path for file in sealed.files)


def test_a_python_model_can_be_sealed(tmp_path: Path) -> None:
    sealed = seal(graphs.python_echo(tmp_path) / "1")
    assert (sealed.model.format, sealed.inputs) == ("python", ())


def test_a_graph_of_any_name_can_be_sealed(version: Path) -> None:
    (version / "model.onnx").rename(version / "mine.onnx")
    assert seal(version).inputs[0].name == "input_ids"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda at: (at / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda at: (at / "tokenizer.json").write_text("[]"), "tokenizer.json is changed: its sha256 is "),
        (lambda at: (at / "tokenizer.json").write_text("{ }"), "tokenizer.json is changed: it has 3 bytes, not 2"),
        (lambda at: (at / "more.bin").write_bytes(b""), "more.bin is not in the manifest"),
        (lambda at: (at / "extra" / ".hidden").write_bytes(b""), "extra/.hidden is not in the manifest"),
        (lambda at: (at / "extra").rename(at / "other"), "extra/labels.txt is missing"),
        (lambda at: (at / "model.onnx").write_bytes(b"x"), "model.onnx is changed"),
    ],
)
def test_whatever_is_changed_is_found(version: Path, change: Callable[[Path], object], reason: str) -> None:
    seal(version)
    change(version)
    message = tampered(version)
    assert message.startswith("tagger/3 is not what its manifest says: ")
    assert reason in message


def test_many_changes_are_told_briefly(version: Path) -> None:
    seal(version)
    for number in range(9):
        (version / f"{number}.bin").write_bytes(b"")
    message = tampered(version)
    assert "0.bin" in message
    assert message.endswith("; and 4 more")


def link(place: Path, target: str | Path) -> None:
    place.unlink(missing_ok=True)
    place.symlink_to(target)


def fifo(place: Path) -> None:
    os.mkfifo(place)


def unix_socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(place))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda at: link(at / "tokenizer.json", "../../secret"), "leads out"),
        (lambda at: link(at / "tokenizer.json", at.parent.parent / "secret"), "leads out"),
        (lambda at: link(at / "README.md", "../../secret"), "leads out"),
        (lambda at: link(at / "folder", "extra"), "is a link to a directory"),
        (lambda at: link(at / "folder", "../.."), "leads out"),
        (lambda at: link(at / "lost", "nowhere"), "cannot be read"),
        (lambda at: link(at / "lost", "lost"), "lost: "),
        (lambda at: fifo(at / "pipe"), "neither a file nor a directory"),
        (lambda at: unix_socket(Path("s")), "neither a file nor a directory"),
        (lambda at: (at / "a\nb").write_text(""), "control characters"),
        (lambda at: (at / "a\\b").write_text(""), "backslashes"),
        (lambda at: (at / "a\udcff").write_text(""), "UTF-8"),
    ],
)
def test_what_nobody_can_vouch_for_is_refused(
    version: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], reason: str
) -> None:
    (version.parent.parent / "secret").write_text("{}")
    monkeypatch.chdir(version)  # a socket's path is short
    sealed = seal(version)
    make(version)
    assert reason in refusal(lambda: verify(version, sealed))
    assert reason in refusal(lambda: seal(version))


def test_a_link_within_the_directory_is_a_file(version: Path) -> None:
    link(version / "also.json", "tokenizer.json")
    sealed = seal(version)
    verify(version, sealed)
    (version / "tokenizer.json").write_text("[]")
    assert "also.json is changed" in tampered(version)


@pytest.mark.parametrize("name", ["", "nothing"])
def test_a_directory_without_a_model_cannot_be_sealed(tmp_path: Path, name: str) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    if name:
        (tmp_path / "m" / "1" / name).touch()
    assert "there is no model.onnx or model.py" in refusal(lambda: seal(tmp_path / "m" / "1"))
    assert read(tmp_path / "m" / "1") is None


def test_a_damaged_model_cannot_be_sealed(version: Path) -> None:
    (version / "model.onnx").write_bytes(b"\xff" * 100)
    assert "model.onnx: is not an ONNX model" in refusal(lambda: seal(version))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"version": "3"}, "version: must be like 1.2.0"),
        ({"version": ""}, "version: is missing"),
        ({"task": "magic"}, "task: must be one of"),
        ({"tokenizer": "vocab.txt"}, "'vocab.txt' is not among the files"),
        ({"tokenizer": "../x"}, "inside the version's directory"),
        ({"licence": "a\x1b[31mb"}, "control characters"),
        ({"metrics": {"cosine": float("nan")}}, "finite"),
        ({"licences": "MIT"}, "did you mean 'licence'"),
        ({"name": "a/b"}, "a model's name"),
        ({"source": "\ud800"}, "UTF-8"),
    ],
)
def test_nonsense_is_not_written(version: Path, said: dict[str, Any], reason: str) -> None:
    assert reason in refusal(lambda: seal(version, **said))
    assert sorted(path.name for path in version.iterdir()) == ["extra", "model.onnx", "tokenizer.json"]


def edited(version: Path, old: str, new: str) -> Path:
    path = version / "manifest.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return version


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("manifest = 1", "", "manifest: is missing"),
        ("manifest = 1", "manifest = 2", "another version of Sluice"),
        ("manifest = 1", "manifest = true", "another version of Sluice"),
        ('name = "tagger"', "name = 5", "name: must be a text"),
        ('name = "tagger"', "nam = 1", "nam: unknown key; did you mean 'name'?"),
        ("created = ", 'created = "" #', "created: must be a time"),
        ("Z\n", "\n", "created: must be a time with its zone"),
        ("digest = ", 'digest = "sha256:' + "0" * 64 + '" #', "digest: is not that of [files]"),
        ("[model]", "[modell]", "modell: unknown key"),
        ('format = "onnx"', "", "model.format: is missing"),
        ('format = "onnx"', 'format = "onyx"', "model.format: must be one of"),
        ('datatype = "INT64"', 'datatype = "INT65"', "signature.inputs.datatype: must be one of"),
        ('shape = ["batch", "sequence"]', "shape = [-1]", "signature.inputs.shape: must be of sizes and names"),
        ('[files."model.onnx"]', '[files."../model.onnx"]', "files: '../model.onnx': must name a file inside"),
        ('[files."model.onnx"]', '[files."/model.onnx"]', "must name a file inside"),
        ('[files."model.onnx"]', '[files."a//model.onnx"]', "must name a file inside"),
        ('[files."model.onnx"]', '[files."manifest.toml"]', "is not one of the files"),
        ("size = ", "size = -", 'files."extra/labels.txt".size: must be a whole number'),
        ("sha256 = ", 'sha256 = "x" #', 'files."extra/labels.txt".sha256: must be like'),
        ("[files.", "[[files.", "not valid TOML"),
        ("manifest = 1", f"manifest = {'1' * 5000}", "not valid TOML: has a number beyond 64 bits"),
        ("manifest = 1", f"manifest = {'[' * 50_000}", "not valid TOML: is nested too deeply"),
        ("manifest = 1", "manifest = 1\nparents = 1", "parents: must be written as [[parents]]"),
        ("manifest = 1", 'manifest = 1\nsource = "a\\u001b"', "source: must be a text in one line"),
        ("manifest = 1", "manifest = 1\nmetrics = { a = true }", "metrics: 'a': must be a number or a text"),
    ],
)
def test_a_wrong_manifest_is_an_error_that_names_the_key(version: Path, old: str, new: str, reason: str) -> None:
    seal(version)
    edited(version, old, new)
    message = refusal(lambda: read(version))
    assert message.startswith("tagger/3/manifest.toml: ")
    assert reason in message


@pytest.mark.parametrize(
    "make",
    [fifo, Path.mkdir, lambda at: link(at, "/dev/zero"), lambda at: link(at, "nowhere"), lambda at: link(at, at)],
)
def test_a_manifest_is_a_file(version: Path, make: Callable[[Path], object]) -> None:
    make(version / "manifest.toml")
    assert refusal(lambda: read(version)) == "tagger/3/manifest.toml: is not a file"


def test_every_line_matters(version: Path) -> None:
    """Whichever single line is lost, the rest is not taken for a whole manifest of the same version."""
    sealed = seal(version)
    lines = dump(sealed).splitlines(keepends=True)
    for number in range(len(lines)):
        try:
            found = parse("".join(lines[:number] + lines[number + 1 :]))
        except ModelError:
            continue
        assert found != sealed or not lines[number].strip()
        assert found.files == sealed.files


def test_the_text_says_everything_and_is_always_the_same(version: Path) -> None:
    said = {'odd "name" ü': 1.5e-7, "agreement": "97 % of texts", "steps": 3}
    parents = (Parent("quantized from", "tagger", "1.0.0", f"sha256:{'0' * 64}"), Parent("delta of", "x", "2.0.0"))
    sealed = seal(version, metrics=said, parents=parents, source="hf://somebody/tagger", task="rerank")
    text = dump(sealed)
    assert parse(text) == sealed
    assert dump(parse(text)) == text == (version / "manifest.toml").read_text()
    assert plain(sealed)["parents"][1] == {"relation": "delta of", "name": "x", "version": "2.0.0"}


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seal(version)
    before = (version / "manifest.toml").read_text()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "manifest.toml: cannot be written: No space left" in refusal(lambda: seal(version, licence="MIT"))
    assert (version / "manifest.toml").read_text() == before
    assert not [path for path in version.iterdir() if path.name.startswith(".manifest")]


def test_what_a_killed_seal_left_is_no_stranger(version: Path) -> None:
    sealed = seal(version)
    (version / ".manifest.toml.4711").write_text("half")
    verify(version, sealed)


def test_an_unchanged_file_is_read_once(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = seal(version)
    hashes, read_files = Hashes(), []
    digest = hashlib.file_digest

    def counted(file: Any, name: str) -> Any:
        read_files.append(Path(file.name).name)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    verify(version, sealed, hashes)
    assert sorted(read_files) == ["labels.txt", "model.onnx", "tokenizer.json"]
    verify(version, sealed, hashes)
    assert len(read_files) == 3
    before = (version / "tokenizer.json").stat()
    (version / "tokenizer.json").write_text("[]")  # the size stays, and the time is set back
    os.utime(version / "tokenizer.json", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "tokenizer.json is changed" in refusal(lambda: verify(version, sealed, hashes))
    assert read_files[3:] == ["tokenizer.json"]


def test_a_manifest_may_be_of_a_version_with_many_files(tmp_path: Path) -> None:
    directory = graphs.tagger(tmp_path, "many").parent
    for number in range(200):
        (directory / f"{number}.bin").write_bytes(bytes([number]) * number)
    sealed: Manifest = seal(directory)
    assert len(sealed.files) == 201
    verify(directory, sealed)


def test_the_document_shows_a_manifest_and_names_every_key(version: Path) -> None:
    document = (Path(__file__).parents[3] / "docs" / "manifest.md").read_text("utf-8")
    shown = parse(document.split("```toml\n")[1].split("```")[0])
    assert shown.file("model.onnx") is not None
    parents = (Parent("delta of", "x", "1.0.0", f"sha256:{'0' * 64}"),)
    said = {"source": "x", "licence": "x", "task": "other", "metrics": {"x": 1}, "parents": parents}
    tables = plain(seal(version, **said))
    keys = {*tables, *tables["model"], *tables["parents"][0], *tables["signature"]["inputs"][0]} - {"producer"}
    described = document.split("| Key | Meaning |")[1].split("\n\n")[0]
    missing = [key for key in keys if not any(mark in described for mark in (f"`{key}`", f"[{key}", f"[[{key}"))]
    assert not missing
