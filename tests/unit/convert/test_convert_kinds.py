"""`sluice import` tells by what a source holds what it is, and runs no code that nobody allowed."""

import json
import re
import shutil
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import save, tagger, value
from onnx import helper

from sluice.cli.main import main
from sluice.convert.architecture import FAMILIES
from sluice.convert.said_inputs import SaidInput, parse
from sluice.errors import ConfigError
from sluice.store import manifest

GOLDEN = Path(__file__).parents[2] / "models" / "golden"


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def linear(path: Path, external: str = "") -> Path:
    """x [batch, 2] -> y = 2 x, its weights in a file of their own if that has a name."""
    constants = {"w": np.eye(2, dtype=np.float32) * 2}
    ports = [value(name, "FP32", ["batch", 2]) for name in "xy"]
    save(path, [helper.make_node("MatMul", ["x", "w"], ["y"])], [ports[0]], [ports[1]], constants)
    if external:
        model = onnx.load(path)
        onnx.save_model(model, path, save_as_external_data=True, location=external, size_threshold=0)
    return path


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What `sluice import` says against it; nothing may be left behind."""
    assert main(["import", *words, "--name", "refused"]) == 1
    assert not Path("models/refused").exists()
    printed = capsys.readouterr()
    (error,) = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    return error


def doubled(version: Path) -> None:
    session = onnxruntime.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["y"], {"x": np.array([[1, 2]], np.float32)})
    np.testing.assert_array_equal(found, [[2, 4]])


def test_an_onnx_file_becomes_a_sealed_version(capsys: pytest.CaptureFixture[str]) -> None:
    source = linear(Path("there/ranker.onnx"))
    assert main(["import", str(source), "--name", "ranker", "--version", "3"]) == 0
    version = Path("models/ranker/3")
    doubled(version)
    sealed = manifest.read(version)
    assert sealed is not None
    assert (sealed.name, sealed.version, sealed.task) == ("ranker", "3.0.0", "other")
    assert sealed.source == str(source.resolve())
    manifest.verify(version, sealed)
    assert not Path("models/ranker/model.toml").exists()
    capsys.readouterr()
    assert main(["import", str(source), "--name", "ranker", "--version", "3"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    linear(source, "other.data")
    assert main(["import", str(source), "--name", "ranker", "--version", "3"]) == 1
    assert "made from another source" in capsys.readouterr().err


def test_weights_in_files_of_their_own_come_along() -> None:
    source = linear(Path("there/ranker.onnx"), "ranker.weights")
    assert main(["import", str(source), "--name", "ranker"]) == 0
    assert {path.name for path in Path("models/ranker/1").iterdir()} == {
        "model.onnx", "ranker.weights", "import.json", "manifest.toml", "README.md",
    }  # fmt: skip
    doubled(Path("models/ranker/1"))


def test_links_are_followed_as_the_caches_of_others_have_them() -> None:
    source = linear(Path("there/blobs/1234"), "5678")
    snapshot = Path("there/snapshot")
    snapshot.mkdir()
    (snapshot / "model.onnx").symlink_to(source.resolve())
    (snapshot / "5678").symlink_to(source.with_name("5678").resolve())
    assert main(["import", str(snapshot), "--name", "ranker"]) == 0
    doubled(Path("models/ranker/1"))
    assert not any(path.is_symlink() for path in Path("models/ranker/1").iterdir())


def test_a_directory_brings_its_texts_and_what_its_configuration_says() -> None:
    directory = Path("exported")
    directory.mkdir()
    shutil.copy(GOLDEN / "bert-mean" / "tokenizer.json", directory)
    config = json.loads((GOLDEN / "roberta-sequence" / "config.json").read_text("utf-8"))
    (directory / "config.json").write_text(json.dumps(config), "utf-8")
    ids = value("input_ids", "INT64", ["batch", "sequence"])
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["floats"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["floats", "axis"], ["sum"], keepdims=1),
        helper.make_node("Concat", ["sum", "sum", "sum"], ["logits"], axis=1),
    ]
    logits = value("logits", "FP32", ["batch", 3])
    save(directory / "onnx" / "model.onnx", nodes, [ids], [logits], {"axis": np.array([1], np.int64)})
    assert main(["import", str(directory), "--name", "mood"]) == 0
    assert (Path("models/mood/1") / "tokenizer.json").exists()
    settings = tomllib.loads(Path("models/mood/model.toml").read_text("utf-8"))
    assert settings == {
        "max_length": 22,
        "output": [{"name": "logits", "labels": ["calm", 'the "second"', "größer\n"]}],
    }
    sealed = manifest.read(Path("models/mood/1"))
    assert sealed is not None
    assert (sealed.task, sealed.tokenizer, sealed.source) == (
        "classification",
        "tokenizer.json",
        str(directory.resolve()),
    )


def several(directory: Path) -> None:
    linear(directory / "a.onnx")
    linear(directory / "b.onnx")


def damaged(directory: Path) -> None:
    (directory / "model.onnx").write_bytes(b"no graph")


def outside(directory: Path) -> None:
    linear(directory / "model.onnx", "weights")
    (directory / "weights").rename(directory.parent / "weights")
    model = onnx.load(directory / "model.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = "../weights" if entry.key == "location" else entry.value
    (directory / "model.onnx").write_bytes(model.SerializeToString())


def lacking(directory: Path) -> None:
    linear(directory / "model.onnx", "weights")
    (directory / "weights").unlink()


def short(directory: Path) -> None:
    linear(directory / "model.onnx", "weights")
    (directory / "weights").write_bytes(bytes(8))


def unknown_operator(directory: Path) -> None:
    ports = [value(name, "FP32", ["batch", 2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Magic", ["x"], ["y"])], "test", [ports[0]], [ports[1]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (directory / "model.onnx").write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (several, "has more than one ONNX file; name one of them: a.onnx, b.onnx"),
        (damaged, "is not an ONNX model"),
        (outside, "points outside of the model's directory"),
        (lacking, "bad/weights: No such file or directory"),
        (short, "beyond the end of weights"),
        (unknown_operator, "onnxruntime does not take the model"),
    ],
)
def test_bad_onnx_directories_are_refused(
    write: Callable[[Path], None], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = Path("bad")
    directory.mkdir()
    write(directory)
    assert reason in refusal(capsys, str(directory))


def zip_of(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"")


@pytest.mark.parametrize(
    ("name", "members", "why"),
    [
        ("program.pt2", ("program/archive_format", "program/models/model.json"), "is an exported program"),
        (
            "script.pt",
            ("script/code/__torch__.py", "script/constants.pkl", "script/data.pkl"),
            "is a TorchScript program",
        ),
    ],
)
def test_programs_are_not_read_unless_their_code_is_allowed(
    name: str, members: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    zip_of(Path(name), *members)
    told = refusal(capsys, name)
    assert why in told
    assert "--allow-code" in told


@pytest.mark.parametrize("name", ["model.joblib", "model.pkl"])
def test_pickles_are_not_read_unless_their_code_is_allowed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(name).write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    assert "is a pickle, which runs code when it is read: say --allow-code" in refusal(capsys, name)
    assert not Path("ran").exists()


def test_a_function_is_not_called_unless_its_code_is_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    Path("make.py").write_text("open('ran', 'w')\ndef model(): ...\n")
    assert "make.py:model: is code" in refusal(capsys, "make.py:model")
    assert not Path("ran").exists()


def test_weights_alone_are_no_program(capsys: pytest.CaptureFixture[str]) -> None:
    zip_of(Path("weights.pt"), "weights/data.pkl", "weights/data/0")
    assert "write a function that makes the model with them" in refusal(capsys, "weights.pt", "--allow-code")


def test_what_is_of_no_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("letter.odt").write_bytes(b"Dear")
    assert "is of no kind that can be imported" in refusal(capsys, "letter.odt")
    assert "there is no such file or directory" in refusal(capsys, "missing.onnx")
    assert "is an address; `sluice pull` brings" in refusal(capsys, "hf://someone/something")


@pytest.mark.parametrize(
    ("source", "package", "extra"),
    [
        ("make.py:model", "torch", "torch"),
        ("program.pt2", "torch", "torch"),
        ("script.pt", "torch", "torch"),
        ("model.joblib", "skl2onnx", "sklearn"),
        ("model.ubj", "xgboost", "xgboost"),
        ("model.txt", "lightgbm", "lightgbm"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    source: str, package: str, extra: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    Path("make.py").write_text("import torch\n")
    zip_of(Path("program.pt2"), "program/archive_format")
    zip_of(Path("script.pt"), "script/code/a.py", "script/constants.pkl")
    for name in ("model.joblib", "model.ubj", "model.txt"):
        Path(name).write_bytes(b"never read")
    options = ("--input", "x=FP32[batch,2]") if package == "torch" else ()
    assert main(["import", source, "--name", "refused", "--allow-code", *options]) == 1
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"error: the package '{package}' is not installed",
        f"hint: pip install 'sluice[{extra}]'",
    ]
    assert not Path("models/refused").exists()


def test_options_that_mean_nothing_for_a_source_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    source = tagger(Path("there"))
    assert "--input is for programs of PyTorch" in refusal(capsys, str(source), "--input", "x=FP32[2]")
    tokenizer = str(GOLDEN / "bert-mean" / "tokenizer.json")
    assert "--tokenizer is for programs" in refusal(capsys, str(source), "--tokenizer", tokenizer)


def test_the_page_tells_every_option_and_family(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "import.md").read_text("utf-8")
    assert main(["import", "--help"]) == 0
    options = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert options >= {"--name", "--allow-code"}
    assert {option for option in options if option not in page} == set()
    assert {family for family in FAMILIES if f"`{family}`" not in page} == set()


def test_inputs_are_said_with_names_datatypes_and_sizes() -> None:
    assert parse(["ids=INT64[batch, sequence]", "flag=BOOL[]"]) == (
        SaidInput("ids", "INT64", ("batch", "sequence")),
        SaidInput("flag", "BOOL", ()),
    )
    assert str(parse(["x=FP32[batch,3]"])[0]) == "x=FP32[batch,3]"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x", "is not NAME=DATATYPE"),
        ("x=FP32", "is not NAME=DATATYPE"),
        ("x=FLOAT[2]", "'FLOAT' is no datatype"),
        ("x=FP32[-1]", "'-1' is neither a size"),
        ("x=FP32[0]", "'0' is neither a size"),
        ("x=FP32[2,]", "'' is neither a size"),
    ],
)
def test_inputs_that_make_no_sense_are_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match="--input: ") as caught:
        parse([text])
    assert why in caught.value.message


def test_an_input_is_said_once() -> None:
    with pytest.raises(ConfigError, match="'x' is said twice"):
        parse(["x=FP32[2]", "x=FP32[3]"])
