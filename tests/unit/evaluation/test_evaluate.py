"""Whole evaluations of small models whose answers are known."""

import json
from pathlib import Path
from typing import Any

import encoders
import graphs
import numpy as np
import pytest
from onnx import TensorProto, helper
from test_evaluation_data import files_of, write

from sluice.errors import ModelError
from sluice.evaluation import record
from sluice.evaluation.data import EvaluationError
from sluice.evaluation.evaluate import Asked, Report, evaluate
from sluice.evaluation.runner import Allowed
from sluice.store import manifest

USUAL = Asked(samples=60)


def run(repository: Path, name: str, asked: Asked = USUAL, against: str = "", version: str = "1") -> Report:
    files = files_of(repository, name, version)
    other = files_of(repository, name, against) if against else None
    return evaluate(files, other, asked, Allowed([repository]), lambda step, done, total: None)


def results(report: Report) -> dict[str, str]:
    return {check.name: check.result for check in report.checks}


def details(report: Report) -> dict[str, str]:
    return {check.name: check.detail for check in report.checks}


def test_a_good_encoder_passes_everything(tmp_path: Path) -> None:
    encoders.encoder(tmp_path)
    report = run(tmp_path, "words")
    assert report.passed
    assert results(report) == {
        "ordinary input": "ok",
        "empty text": "ok",
        "longest input": "ok",
        "strange texts": "ok",
        "all over the vocabulary": "ok",
        "all masked out": "noted",  # a mean of nothing
        "the same again": "ok",
        "in a batch": "ok",
    }
    assert (report.kind, report.output, report.data, report.samples) == ("embedding", "embedding", "synthetic", 60)
    assert "NaN" in details(report)["all masked out"]
    assert "batches of any lengths" in details(report)["in a batch"]
    strict = run(tmp_path, "words", Asked(samples=60, strict=True))
    assert not strict.passed
    assert results(strict)["all masked out"] == "failed"


def test_a_word_without_numbers_fails_and_is_named(tmp_path: Path) -> None:
    encoders.encoder(tmp_path, vectors=encoders.spoiled("ba"))
    report = run(tmp_path, "words")
    assert not report.passed
    assert results(report)["ordinary input"] == "failed"
    assert "output 'embedding' has 8 NaN of 8 values (made-up text " in details(report)["ordinary input"]
    assert report.metrics()["evaluation.finite"] == "no"
    assert report.metrics()["evaluation.verdict"] == "failed"


def test_what_only_an_unknown_word_shows_is_found(tmp_path: Path) -> None:
    encoders.encoder(tmp_path, vectors=encoders.spoiled("[UNK]", float("inf")))
    report = run(tmp_path, "words")
    assert results(report)["ordinary input"] == "ok"
    assert results(report)["strange texts"] == "failed"
    assert "infinite" in details(report)["strange texts"]
    assert not report.passed


def test_a_table_that_is_shorter_than_the_vocabulary_fails(tmp_path: Path) -> None:
    encoders.encoder(tmp_path, vectors=encoders.table()[:-1])
    path = write(tmp_path / "rows", '"ba be bi"')
    report = run(tmp_path, "words", Asked(data=path))
    assert not report.passed
    assert results(report)["ordinary input"] == results(report)["strange texts"] == "ok"
    assert details(report)["all over the vocabulary"].startswith("refused: the model refuses this input")


def test_near_versions_and_far_ones(tmp_path: Path) -> None:
    for version, noise in (("1", 0.0), ("2", 0.01), ("3", 3.0)):
        encoders.encoder(tmp_path, version, encoders.table(noise))
    same = run(tmp_path, "words", against="1")
    assert same.measures == pytest.approx({"cosine_mean": 1.0, "cosine_min": 1.0, "neighbours": 1.0})
    close = run(tmp_path, "words", Asked(samples=60, least_accuracy=0.99), "1", "2")
    assert 0.99 < close.measures["cosine_min"] <= close.measures["cosine_mean"] < 1
    assert close.passed
    assert close.required == {"cosine_mean": 0.99}
    far = run(tmp_path, "words", Asked(samples=60, least_accuracy=0.99, least={"neighbours": 0.9}), "1", "3")
    assert far.measures["neighbours"] < 0.9
    assert not far.passed
    assert sorted(far.short) == ["cosine_mean", "neighbours"]
    assert far.short["cosine_mean"].endswith("less than 0.99")
    assert far.metrics()["evaluation.against"] == "words/1"
    assert far.metrics()["evaluation.required"] == "neighbours >= 0.9, cosine_mean >= 0.99"


def test_versions_of_other_sizes_cannot_be_compared(tmp_path: Path) -> None:
    encoders.encoder(tmp_path, "1", classes=3)
    encoders.encoder(tmp_path, "2", classes=4)
    with pytest.raises(EvaluationError, match=r"'logits' cannot be compared: .* \[1, 3\] in one version and \[1, 4\]"):
        run(tmp_path, "words", against="1", version="2")


def four(repository: Path, name: str, nodes: list[Any], datatype: str = "FP32") -> None:
    """A model from x [batch, 4] to y."""
    ports = [graphs.value(port, kind, ["batch", 4]) for port, kind in (("x", "FP32"), ("y", datatype))]
    graphs.save(repository / name / "1" / "model.onnx", nodes, ports[:1], ports[1:])


def test_a_classifier_by_labels_and_against_another(tmp_path: Path) -> None:
    encoders.encoder(tmp_path, "1", classes=3)
    encoders.encoder(tmp_path, "2", encoders.table(0.01), classes=3)
    (tmp_path / "words" / "model.toml").write_text('[[output]]\nname = "logits"\nlabels = ["a", "b", "c"]\n')
    texts = [" ".join(encoders.WORDS[number : number + 4]) for number in range(40)]
    unlabelled = run(tmp_path, "words", Asked(data=write(tmp_path / "rows", *map(json.dumps, texts))), "1", "2")
    assert unlabelled.kind == "classes"
    assert unlabelled.measures["agreement"] >= 0.9
    assert unlabelled.data == "rows"
    truth = _classes(texts)
    right = [{"text": text, "label": "abc"[number]} for text, number in zip(texts, truth, strict=True)]
    report = run(tmp_path, "words", Asked(data=write(tmp_path / "right", *right), least_accuracy=1.0))
    assert report.measures == {"accuracy": 1.0, "f1": 1.0}
    assert report.passed
    wrong = [{"text": row["text"], "label": (truth[at] + (at % 4 == 0)) % 3} for at, row in enumerate(right)]
    report = run(tmp_path, "words", Asked(data=write(tmp_path / "wrong", *wrong), least_accuracy=0.9))
    assert report.measures["accuracy"] == 0.75
    assert report.short == {"accuracy": "accuracy is 0.75, less than 0.9"}
    for label, error in (("d", "its classes are a, b, c"), (3, "has 3, from 0 on"), (0.5, "has 3, from 0 on")):
        path = write(tmp_path / "odd", {"text": "ba", "label": label})
        with pytest.raises(EvaluationError, match=error):
            run(tmp_path, "words", Asked(data=path))


def _classes(texts: list[str]) -> list[int]:
    """What the table and the head give, computed apart."""
    vectors, head = encoders.table(), np.random.default_rng(2).standard_normal((8, 3)).astype(np.float32)
    found = []
    for text in texts:
        tokens = [2, *(encoders.VOCABULARY.index(word) for word in text.split()), 3]
        found.append(int((vectors[tokens].mean(axis=0) @ head).argmax()))
    return found


def test_classes_without_names_are_labelled_by_number(tmp_path: Path) -> None:
    encoders.encoder(tmp_path, classes=3)
    with pytest.raises(EvaluationError, match="nothing names its classes: give their numbers, from 0 to 2"):
        run(tmp_path, "words", Asked(data=write(tmp_path / "rows", {"text": "ba", "label": "sport"})))
    row = {"text": "ba", "label": _classes(["ba"])[0]}
    report = run(tmp_path, "words", Asked(data=write(tmp_path / "rows", row)))
    assert report.measures["accuracy"] == 1


def test_pairs_of_an_embedding_are_ranked_by_their_cosine(tmp_path: Path) -> None:
    encoders.encoder(tmp_path)
    pairs = [("ba", "ba"), ("ba be bi", "ba be bo"), ("ba be bi bo", "da de di do")]
    rows = [{"text": first, "pair": second, "label": 1 - at / 3} for at, (first, second) in enumerate(pairs)]
    report = run(tmp_path, "words", Asked(data=write(tmp_path / "rows", *rows)))
    assert report.measures == {"spearman": pytest.approx(1)}
    assert report.samples == 3
    rows[0]["label"] = "same"
    with pytest.raises(EvaluationError, match="label 'same': a pair is labelled with a number"):
        run(tmp_path, "words", Asked(data=write(tmp_path / "rows", *rows)))


def test_an_embedding_with_classes_is_judged_by_its_neighbour(tmp_path: Path) -> None:
    encoders.encoder(tmp_path)
    rows = [{"text": f"{word} {word} {more}", "label": word} for word in ("ba", "du") for more in ("be", "bi", "bo")]
    report = run(tmp_path, "words", Asked(data=write(tmp_path / "rows", *rows)))
    assert report.measures == {"accuracy": 1.0, "f1": 1.0}


def test_a_cross_encoder_is_given_both_texts_at_once(tmp_path: Path) -> None:
    for version in ("1", "2"):
        encoders.encoder(tmp_path, version, encoders.table(0.001 * (version == "2")), classes=1)
    rows = [{"text": encoders.WORDS[number], "pair": encoders.WORDS[number + 9]} for number in range(4)]
    report = run(tmp_path, "words", Asked(data=write(tmp_path / "rows", *rows), least_accuracy=0.9), "1", "2")
    assert report.kind == "score"
    assert report.measures["order"] == pytest.approx(1)
    assert report.measures["cosine_mean"] > 0.99
    assert report.passed


def test_classes_of_tokens_are_compared_one_by_one(tmp_path: Path) -> None:
    for version, vectors in (("1", encoders.table()), ("2", encoders.table(0.01)), ("3", -encoders.table())):
        path = tmp_path / "tags" / version / "model.onnx"
        nodes = [helper.make_node("Gather", ["table", "input_ids"], ["logits"], axis=0)]
        ports = [
            graphs.value("input_ids", "INT64", ["batch", "sequence"]),
            graphs.value("logits", "FP32", ["batch", "sequence", encoders.WIDTH]),
        ]
        graphs.save(path, nodes, ports[:1], ports[1:], {"table": vectors})
        encoders.tokenizer(path.parent)
    near = run(tmp_path, "tags", USUAL, "1", "2")
    assert near.kind == "classes of tokens"
    assert 0.95 < near.measures["agreement"] <= 1
    assert near.measures["cosine_min"] > 0.99
    far = run(tmp_path, "tags", Asked(samples=60, least_accuracy=0.5), "1", "3")
    assert far.measures == pytest.approx({"agreement": 0.0, "cosine_mean": -1.0, "cosine_min": -1.0})
    assert list(far.short) == ["agreement"]
    path = write(tmp_path / "rows", {"text": "ba", "label": 1})
    with pytest.raises(EvaluationError, match="labels say nothing of output 'logits', which is classes of tokens"):
        run(tmp_path, "tags", Asked(data=path))


def test_the_task_decides_what_an_output_is(tmp_path: Path) -> None:
    directory = encoders.encoder(tmp_path, classes=3)
    assert run(tmp_path, "words", Asked(samples=5)).kind == "classes"
    assert run(tmp_path, "words", Asked(samples=5, task="embedding")).kind == "embedding"
    manifest.seal(directory, task="embedding")
    assert run(tmp_path, "words", Asked(samples=5)).kind == "embedding"
    assert run(tmp_path, "words", Asked(samples=5, task="rerank")).kind == "classes"


def test_values_and_texts_agree_or_do_not(tmp_path: Path) -> None:
    graphs.tagger(tmp_path, "tagger", "1", 2)
    graphs.tagger(tmp_path, "tagger", "2", 3)
    report = run(tmp_path, "tagger", Asked(samples=10, output="total"), "1", "2")
    assert report.kind == "value"
    assert report.measures == {"agreement": 0.0}
    graphs.identity(tmp_path, "strings", ("BYTES",), ("batch", 1))
    report = run(tmp_path, "strings", Asked(data=write(tmp_path / "rows", {"text": "a", "label": "a"})))
    assert report.passed
    assert report.measures == {"accuracy": 1.0, "f1": 1.0}


def test_a_batch_that_changes_answers_is_noted(tmp_path: Path) -> None:
    graphs.unmasked_mean(tmp_path)
    graphs.scaled_by_batch(tmp_path)
    graphs.identity(tmp_path)
    report = run(tmp_path, "unmasked")
    assert report.passed
    assert report.metrics()["evaluation.batching"] == "equal"
    assert results(report)["in a batch"] == "noted"
    report = run(tmp_path, "mingled")
    assert report.metrics()["evaluation.batching"] == "never"
    assert "one request at a time" in details(report)["in a batch"]
    assert run(tmp_path, "identity").metrics()["evaluation.batching"] == "any"


def test_zeros_and_large_values_are_noted(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceL2", ["x"], ["size"], axes=[1], keepdims=1),
        helper.make_node("Div", ["x", "size"], ["y"]),
    ]
    four(tmp_path, "unit", nodes)
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["half"] * 2, ["y"]),
    ]
    four(tmp_path, "half", nodes, "FP16")
    report = run(tmp_path, "unit")
    assert report.passed
    assert results(report)["nothing but zeros"] == "noted"
    assert results(report)["large values"] == "ok"
    report = run(tmp_path, "half")
    assert results(report) == {
        "ordinary input": "ok",
        "nothing but zeros": "ok",
        "large values": "noted",
        "the same again": "ok",
        "in a batch": "ok",
    }


def test_a_model_that_answers_by_chance_is_noted(tmp_path: Path) -> None:
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["y"])]
    four(tmp_path, "dice", nodes)
    report = run(tmp_path, "dice", Asked(samples=5))
    assert report.passed
    assert results(report)["the same again"] == "noted"


def test_a_model_that_raises_fails(tmp_path: Path) -> None:
    graphs.python_echo(tmp_path)
    path = write(tmp_path / "rows", {"inputs": {"x": [1, 2]}}, {"inputs": {"x": [666, 2]}})
    report = run(tmp_path, "echo", Asked(data=path))
    assert not report.passed
    assert details(report)["ordinary input"].startswith("rows, line 2: the model raised RuntimeError: the number of")
    assert run(tmp_path, "echo", Asked(samples=5)).passed


def test_a_model_that_refuses_what_is_made_up_needs_data(tmp_path: Path) -> None:
    graphs.lookup(tmp_path, rows=3)
    with pytest.raises(EvaluationError, match="refuses made-up input; give it data of its own with --data"):
        run(tmp_path, "lookup")
    path = write(tmp_path / "rows", *({"inputs": {"input_ids": [[number]]}} for number in range(3)))
    report = run(tmp_path, "lookup", Asked(data=path))
    assert report.passed
    assert results(report)["longest input"] == "noted"


def test_a_bound_needs_something_to_compare_with(tmp_path: Path) -> None:
    encoders.encoder(tmp_path)
    with pytest.raises(EvaluationError, match="name another version with --against, or give --data with labels"):
        run(tmp_path, "words", Asked(least_accuracy=0.9))
    with pytest.raises(EvaluationError, match="--min neighbour: was not measured; did you mean 'neighbours'"):
        run(tmp_path, "words", Asked(samples=20, least={"neighbour": 0.9}), "1")
    with pytest.raises(EvaluationError, match="output 'embeding': did you mean 'embedding'"):
        run(tmp_path, "words", Asked(samples=20, output="embeding"))


def test_what_is_found_is_written_and_replaced(tmp_path: Path) -> None:
    directory = encoders.encoder(tmp_path)
    files = files_of(tmp_path, "words")
    assert not record.write(directory, run(tmp_path, "words"))  # there is no manifest
    sealed = manifest.seal(directory, metrics={"speed": 3, "evaluation.against": "words/0"})
    report = run(tmp_path, "words")
    assert record.write(directory, report)
    written = manifest.read(directory)
    assert written is not None
    assert written.digest() == sealed.digest() == written.metrics["evaluation.digest"]
    assert written.metrics == {"speed": 3, **report.metrics()}
    assert "evaluation.against" not in written.metrics
    assert "evaluation.verdict | passed" in (directory / "README.md").read_text().replace("\\", "")
    manifest.verify(directory, written)
    (files.directory / "more.txt").write_text("x")
    with pytest.raises(ModelError, match=r"more.txt is not in the manifest"):
        run(tmp_path, "words")
    manifest.seal(directory)
    with pytest.raises(ModelError, match="was sealed anew while it was evaluated"):
        record.write(directory, report)


def test_a_version_that_fails_cannot_be_compared_with(tmp_path: Path) -> None:
    for version, number in (("1", "7"), ("2", "8")):
        graphs.python_model(tmp_path, "echo", graphs.PYTHON_MODEL.replace("666", number), version=version)
    path = write(tmp_path / "rows", {"inputs": {"x": [7]}})
    with pytest.raises(EvaluationError, match=r"echo/1 cannot be compared with: rows, line 1: the model raised"):
        run(tmp_path, "echo", Asked(data=path), "1", "2")


def test_an_output_too_large_to_keep_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoders.encoder(tmp_path)
    monkeypatch.setattr("sluice.evaluation.evaluate._MOST_KEPT", 100)
    assert run(tmp_path, "words").passed  # nothing is compared, nothing kept
    with pytest.raises(EvaluationError, match=r"4 samples give more than .* fewer --samples"):
        run(tmp_path, "words", against="1")


SENTENCES = (
    ("A man is playing the guitar.", "Someone plays a guitar.", 4.6),
    ("The cat sleeps on the sofa.", "A cat is sleeping on the couch.", 4.7),
    ("Two children run through the park.", "Kids are running in a park.", 4.5),
    ("The train to Berlin is late.", "Our train was delayed.", 3.0),
    ("She cooks dinner for her friends.", "A woman prepares a meal.", 3.3),
    ("The shop opens at nine.", "The shop closes at nine.", 2.4),
    ("A dog barks at the postman.", "The postman brings a letter.", 1.8),
    ("He reads a book about history.", "The river is frozen in winter.", 0.2),
    ("The price of oil went up.", "A girl paints the fence.", 0.0),
)


def test_the_demo_model_knows_what_sentences_mean(tmp_path: Path) -> None:
    repository = Path(__file__).parents[3] / "models"
    if not (repository / "minilm" / "1" / "model.onnx").exists():
        pytest.skip("the demo model is not prepared: `make serve` or `sluice import demo` does it")
    rows = [{"text": first, "pair": second, "label": label} for first, second, label in SENTENCES]
    report = run(repository, "minilm", Asked(data=write(tmp_path / "rows", *rows), least_accuracy=0.6))
    assert report.passed, report.short
    assert set(results(report).values()) == {"ok"}
