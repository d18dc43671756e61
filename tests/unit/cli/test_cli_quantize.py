"""`sluice quantize`, on tiny models that it really quantizes, runs and publishes."""

import json
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest

from sluice.cli.main import main
from sluice.convert.importer import import_directory
from sluice.store import manifest

GOLDEN = Path(__file__).parents[2] / "models" / "golden"
_CPU = ["CPUExecutionProvider"]
TEXTS = [
    f"{who} {does} {what}"
    for who in ("The miller", "A sluice", "The brook", "Nobody")
    for does in ("opens", "closes", "watches", "hears of")
    for what in ("the gate.", "a wheel that stands still in the winter.", "water")
]


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in TEXTS))
    return tmp_path / "models"


def quantize(*arguments: str) -> int:
    return main(("quantize", *arguments, "--samples", "48"))


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert quantize(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(str(path)).graph.node}


@pytest.mark.parametrize(
    ("to", "accuracy", "operator"),
    [
        ("int8", "0.99", "MatMulIntegerToFloat"),
        ("uint8", "0.99", "MatMulIntegerToFloat"),
        ("int4", "0.9", "MatMulNBits"),
        ("fp16", "0.9999", "Cast"),
        ("bf16", "0.99", "Cast"),
    ],
)
def test_makes_a_sealed_version_that_says_what_was_proven(
    capsys: pytest.CaptureFixture[str], repository: Path, to: str, accuracy: str, operator: str
) -> None:
    parent = import_directory(GOLDEN / "bert-mean", repository, "mini")
    report = as_json(capsys, "mini", "--to", to, "--min-accuracy", accuracy, "--calibrate", "texts.jsonl")
    child = repository / "mini" / "2"
    sealed = manifest.read(child)
    assert sealed is not None
    manifest.verify(child, sealed)
    assert [(each.relation, each.name, each.version) for each in sealed.parents] == [
        ("quantized from", "mini", "1.0.0")
    ]
    assert sealed.parents[0].digest == getattr(manifest.read(parent), "digest", lambda: "")()
    assert (sealed.version, sealed.task, sealed.tokenizer) == ("2.0.0", "embedding", "tokenizer.json")
    assert sealed.metrics["evaluation.digest"] == sealed.digest()
    assert sealed.metrics["evaluation.verdict"] == "passed"
    assert sealed.metrics["evaluation.against"] == "mini/1"
    assert sealed.metrics["evaluation.data"] == "texts.jsonl"
    assert sealed.metrics["evaluation.samples"] == 12
    assert float(sealed.metrics["evaluation.cosine_mean"]) >= float(accuracy)
    assert sealed.metrics["evaluation.required"] == f"cosine_mean >= {float(accuracy):g}"
    assert sealed.metrics["evaluation.batching"] == "any"  # which only the look at its stability tells
    assert float(sealed.metrics["evaluation.cosine_mean"]) == pytest.approx(report["proof"]["cosine_mean"], abs=2e-6)
    assert sealed.metrics["quantize.to"] == to
    assert operator in operators(child / "model.onnx")
    assert (child / "tokenizer.json").read_bytes() == (parent / "tokenizer.json").read_bytes()
    assert not (child / "import.json").exists()
    assert report["version"] == "mini/2"
    record = json.loads((child / "quantize.json").read_text())
    assert record["chosen"] == report["chosen"]
    assert set(record["layers"]) <= {name for name in record["layers"] if name}
    assert ET.fromstring((child / "quantize.svg").read_text()).tag.endswith("svg")
    assert "quantized from" in (child / "README.md").read_text()


def test_its_answers_are_those_of_the_proof(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    """Run by onnxruntime itself, apart from all that measured it."""
    import onnxruntime

    import_directory(GOLDEN / "bert-mean", repository, "mini")
    as_json(capsys, "mini", "--to", "int8", "--min-accuracy", "0.99", "--calibrate", "texts.jsonl")
    ids = np.random.default_rng(3).integers(5, 90, (4, 9))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    both = [
        onnxruntime.InferenceSession(
            str(repository / "mini" / number / "model.onnx"), providers=["CPUExecutionProvider"]
        )
        for number in "12"
    ]
    parent, child = (session.run(["embedding"], inputs)[0] for session in both)
    cosine = (parent * child).sum(1) / np.linalg.norm(parent, axis=1) / np.linalg.norm(child, axis=1)
    assert cosine.min() > 0.99
    assert not np.array_equal(parent, child)


@pytest.mark.parametrize("to", ["int8", "int4"])
def test_a_server_loads_it_and_pads_it(capsys: pytest.CaptureFixture[str], repository: Path, to: str) -> None:
    """Its probe compares an answer alone with that in a padded batch, in a worker of its own."""
    import_directory(GOLDEN / "bert-mean", repository, "mini")
    as_json(capsys, "mini", "--to", to, "--min-accuracy", "0.9", "--calibrate", "texts.jsonl")
    assert main(("check", "-r", str(repository), "--workers", "1", "--json")) == 0
    (checked,) = json.loads(capsys.readouterr().out)
    assert (checked["version"], checked["ok"], checked["padding"]) == ("2", True, "any")


def test_below_the_bound_nothing_is_left_behind(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    import_directory(GOLDEN / "bert-mean", repository, "mini")
    before = sorted(str(path) for path in repository.rglob("*"))
    assert quantize("mini", "--to", "int4", "--min-accuracy", "1.0", "--calibrate", "texts.jsonl") == 1
    written = capsys.readouterr()
    assert "no version is made" in written.err
    assert "is below 1" in written.err
    assert "frontier" in written.out  # what there is, is shown all the same
    assert sorted(str(path) for path in repository.rglob("*")) == before


def test_a_dry_run_reports_and_makes_nothing(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    import_directory(GOLDEN / "bert-mean", repository, "mini")
    arguments = ("mini", "--to", "int8", "--min-accuracy", "0.9", "--dry-run")
    assert quantize(*arguments, "--report", "out/report.json", "--plot", "out/plot.svg") == 0
    assert "chosen" in capsys.readouterr().out
    assert json.loads(Path("out/report.json").read_text())["version"] == ""
    assert Path("out/plot.svg").read_text().startswith("<svg")
    assert not (repository / "mini" / "2").exists()


def test_classes_have_to_agree(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    import_directory(GOLDEN / "bert-sequence", repository, "classes")
    report = as_json(capsys, "classes", "--to", "fp16", "--min-accuracy", "0.99")
    assert report["data"] == "synthetic"
    assert report["proof"]["agreement"] >= 0.99
    assert "neighbours" not in report["proof"]


def test_a_model_without_a_tokenizer_is_given_tensors(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((64, 48)).astype(np.float32)
    graphs.save(
        repository / "dense" / "3" / "model.onnx",
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        [graphs.value("x", "FP32", ["batch", 64])],
        [graphs.value("y", "FP32", ["batch", 48])],
        {"w": weights},
    )
    report = as_json(capsys, "dense/3", "--to", "int8", "--min-accuracy", "0.999", "--as", "7")
    assert report["layers"].keys() == {"w"}
    sealed = manifest.read(repository / "dense" / "7")
    assert sealed is not None
    assert sealed.parents[0].version == "3.0.0"  # as it would be sealed; it is not


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nobody", "--to", "int8"), "nobody: there is neither such a model in models"),
        (("tagger/9", "--to", "int8"), "tagger/9: there is neither such a model"),
        (("tagger", "--to", "int3"), "--to: 'int3' is none of int8, uint8, fp16, bf16, int4"),
        (("tagger", "--to", "int8"), "nothing to quantize"),
        (("echo", "--to", "int8"), "only ONNX models can be quantized"),
        (("mini", "--to", "int8", "--calibrate", "none.jsonl"), "none.jsonl: cannot be read"),
        (("mini", "--to", "int8", "--calibrate", "few.jsonl"), "few.jsonl: has 2 different rows"),
        (("mini", "--to", "int8", "--as", "x"), "'x' is no version directory's name"),
    ],
)
def test_what_cannot_be_is_said(
    capsys: pytest.CaptureFixture[str], repository: Path, arguments: tuple[str, ...], says: str
) -> None:
    graphs.tagger(repository)
    graphs.python_echo(repository)
    import_directory(GOLDEN / "bert-mean", repository, "mini")
    Path("few.jsonl").write_text('"one"\n"two"\n' * 40)
    assert quantize(*arguments) == 1
    assert says in capsys.readouterr().err


def test_a_number_that_is_taken_is_refused(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    import_directory(GOLDEN / "bert-mean", repository, "mini")
    assert quantize("mini", "--to", "fp16", "--as", "1") == 1
    assert "it exists and is another version" in capsys.readouterr().err
    with (repository / "mini" / "1" / "manifest.toml").open("rb") as file:
        assert tomllib.load(file)["version"] == "1.0.0"


def two_outputs(repository: Path, scale: float) -> None:
    """Two products with matrices; the numbers of the second one's are as large as that."""
    random = np.random.default_rng(0)
    weights = [random.standard_normal((64, 64)).astype(np.float32) for _ in range(2)]
    graphs.save(
        repository / "two" / "1" / "model.onnx",
        [onnx.helper.make_node("MatMul", ["x", name], [output]) for name, output in (("v", "embedding"), ("w", "aux"))],
        [graphs.value("x", "FP32", ["batch", 64])],
        [graphs.value(name, "FP32", ["batch", 64]) for name in ("embedding", "aux")],
        {"v": weights[0], "w": weights[1] * np.float32(scale)},
    )


def test_the_bounds_are_for_every_output_that_a_request_gets(
    capsys: pytest.CaptureFixture[str], repository: Path
) -> None:
    two_outputs(repository, 1e-9)  # all zeros in 16 bits
    report = as_json(capsys, "two", "--to", "fp16", "--min-accuracy", "0.999")
    whole = next(point for point in report["points"] if point["name"] == "fp16")
    assert whole["outputs"]["aux"]["cosine_mean"] == 0
    assert report["layers"].keys() == {"v"}  # the other one stays as it is
    assert report["proof"]["outputs"]["aux"]["cosine_mean"] == 1


def test_the_proof_tells_of_every_output(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    two_outputs(repository, 1.0)
    report = as_json(capsys, "two", "--to", "fp16", "--min-accuracy", "0.999")
    assert report["proof"]["outputs"]["aux"]["cosine_mean"] >= 0.999


def test_no_text_is_on_both_sides_of_the_proof(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    import_directory(GOLDEN / "bert-mean", repository, "mini")
    Path("often.jsonl").write_text("".join(json.dumps(text) + "\n" for text in TEXTS for _ in range(5)))
    report = as_json(capsys, "mini", "--to", "fp16", "--min-accuracy", "0.9", "--calibrate", "often.jsonl")
    assert report["proof"]["samples"] == len(TEXTS) // 4


def test_few_choices_may_be_proven(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    """What is near enough by chance, on what it was chosen by, is refused, and not replaced until something passes."""
    import_directory(GOLDEN / "bert-mean", repository, "mini")
    arguments = ("mini", "--to", "bf16", "--calibrate", "turned.jsonl", "--dry-run")
    for turn in range(20):
        turned = TEXTS[turn:] + TEXTS[:turn]
        Path("turned.jsonl").write_text("".join(json.dumps(text) + "\n" for text in turned))
        report = as_json(capsys, *arguments, "--min-accuracy", "0.9")
        seen = next(point["cosine_mean"] for point in report["points"] if point["chosen"])
        if report["proof"]["cosine_mean"] < seen:
            break
    else:
        pytest.fail("no division of the texts is harder to prove than to choose by")
    bound = (seen + report["proof"]["cosine_mean"]) / 2
    assert quantize(*arguments, "--min-accuracy", repr(bound), "--report", "refused.json") == 1
    assert "on samples that it was not chosen by" in capsys.readouterr().err
    attempts = json.loads(Path("refused.json").read_text())["attempts"]
    assert attempts[0]["missed"]
    assert len(attempts) <= 2


def test_what_would_fail_its_evaluation_is_not_made(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    """Its second output is the logarithm of what is never positive, in the parent as well."""
    nodes = [("MatMul", ["x", "w"], "embedding"), ("Abs", ["x"], "a"), ("Neg", ["a"], "b"), ("Log", ["b"], "aux")]
    graphs.save(
        repository / "nan" / "1" / "model.onnx",
        [onnx.helper.make_node(operator, inputs, [output]) for operator, inputs, output in nodes],
        [graphs.value("x", "FP32", ["batch", 64])],
        [graphs.value(name, "FP32", ["batch", 64]) for name in ("embedding", "aux")],
        {"w": np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)},
    )
    before = sorted(str(path) for path in repository.rglob("*"))
    assert quantize("nan", "--to", "fp16", "--min-accuracy", "0") == 1
    assert "no version is made: its evaluation fails: ordinary input: " in (says := capsys.readouterr().err)
    assert "output 'aux' has" in says
    assert sorted(str(path) for path in repository.rglob("*")) == before


def test_stability_is_looked_at_before_anything_is_made(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    """A table of words that ends before the vocabulary does: no text of the data has the last word."""
    directory = import_directory(GOLDEN / "bert-mean", repository, "mini")
    model = onnx.load(str(directory / "model.onnx"))
    looked_up = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    table = max((each for each in model.graph.initializer if each.name in looked_up), key=lambda each: each.dims[0])
    table.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(table)[:-1], table.name))
    onnx.save(model, directory / "model.onnx")
    (directory / "manifest.toml").unlink()
    assert quantize("mini", "--to", "fp16", "--min-accuracy", "0.99", "--calibrate", "texts.jsonl") == 1
    assert "its evaluation fails: all over the vocabulary: " in capsys.readouterr().err
    assert not (repository / "mini" / "2").exists()


@pytest.mark.parametrize("option", ["--report", "--plot"])
def test_a_file_that_cannot_be_written_is_said_before_any_work(
    capsys: pytest.CaptureFixture[str], repository: Path, option: str
) -> None:
    import_directory(GOLDEN / "bert-mean", repository, "mini")
    Path("file").write_text("mine")
    for path, why in (("file/report", "Not a directory"), ("models", "Is a directory")):
        assert quantize("mini", "--to", "fp16", option, path) == 1
        written = capsys.readouterr()
        assert f"{path}: cannot be written: {why}" in written.err
        assert not written.out
    assert Path("file").read_text() == "mine"
    assert not (repository / "mini" / "2").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("option", ["--report", "--plot"])
def test_a_disk_that_is_full_in_the_end_hides_no_version(
    capsys: pytest.CaptureFixture[str], repository: Path, option: str
) -> None:
    import_directory(GOLDEN / "bert-mean", repository, "mini")
    assert quantize("mini", "--to", "fp16", "--min-accuracy", "0.9", option, "/dev/full") == 1
    written = capsys.readouterr()
    assert "/dev/full: cannot be written: No space left on device; mini/2 is made all the same, in " in written.err
    assert "mini/2 is in " in written.out
    assert manifest.read(repository / "mini" / "2") is not None


def test_the_table_shows_what_another_output_lost(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    two_outputs(repository, 1e-9)
    assert quantize("two", "--to", "fp16", "--min-accuracy", "0.999", "--dry-run") == 0
    table = capsys.readouterr().out
    assert "other outputs" in table
    assert "0.00000" in next(line for line in table.splitlines() if " fp16  " in line)
