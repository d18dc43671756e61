"""Rows of files, and what becomes of them."""

import json
from pathlib import Path
from typing import Any

import encoders
import graphs
import numpy as np
import pytest

from sluice.errors import ModelError
from sluice.evaluation import data, texts
from sluice.evaluation.data import EvaluationError, Row
from sluice.evaluation.runner import opened
from sluice.spec import ModelSpec
from sluice.store.repository import VersionFiles, find


def files_of(repository: Path, name: str, version: str = "1") -> VersionFiles:
    found = find(repository, name, also=version)
    return next(files for files in found.versions if files.version == version)


def spec_of(files: VersionFiles) -> ModelSpec:
    with opened(files) as runner:
        return runner.spec


@pytest.fixture
def words(tmp_path: Path) -> VersionFiles:
    encoders.encoder(tmp_path)
    return files_of(tmp_path, "words")


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_every_form_of_a_row_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "rows.jsonl",
        '"a text"',
        "",
        {"text": "another"},
        {"text": "one", "pair": "other", "label": 0.5},
        {"text": "", "label": "sport"},
        {"inputs": {"x": [[1, 2]]}, "label": 3},
    )
    assert data.read(path) == [
        Row("a text", place="rows.jsonl, line 1"),
        Row("another", place="rows.jsonl, line 3"),
        Row("one", "other", label=0.5, place="rows.jsonl, line 4"),
        Row("", label="sport", place="rows.jsonl, line 5"),
        Row(inputs={"x": [[1, 2]]}, label=3, place="rows.jsonl, line 6"),
    ]


def test_of_more_rows_than_asked_some_at_even_distances(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", *(f'"{number}"' for number in range(10)))
    assert [row.text for row in data.read(path, 4)] == ["0", "2", "5", "7"]
    assert len(data.read(path, 10)) == len(data.read(path, 99)) == 10


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("{", "rows.jsonl, line 2: is not JSON"),
        (b'"\xff"', "rows.jsonl, line 2: is not JSON"),
        ("[1]", r"line 2: must be a text or an object, not \[1\]"),
        ({"txt": "a"}, "line 2: txt: did you mean 'text'"),
        ({"label": 1}, "line 2: must have either text or inputs"),
        ({"text": "a", "inputs": {}}, "line 2: must have either text or inputs"),
        ({"text": 1}, "line 2: text: must be a text, not 1"),
        ({"inputs": {"x": 1}, "pair": "b"}, "line 2: pair: goes with text"),
        ({"inputs": []}, "line 2: inputs: must be an object"),
        ({"text": "a", "label": True}, "line 2: label: must be a class's name or a number, not true"),
        ({"text": "a", "label": [1]}, "line 2: label: must be"),
        ('{"text": "a", "label": NaN}', "line 2: label: must be"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, line: Any, error: str) -> None:
    text = line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
    (tmp_path / "rows.jsonl").write_bytes(b'"good"\n' + text + b"\n")
    with pytest.raises(EvaluationError, match=error):
        data.read(tmp_path / "rows.jsonl")


def test_a_file_without_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"rows.jsonl: is empty"):
        data.read(write(tmp_path / "rows.jsonl", ""))
    with pytest.raises(EvaluationError, match=r"missing.jsonl: cannot be read: No such file"):
        data.read(tmp_path / "missing.jsonl")


def test_texts_become_tokens_without_padding(words: VersionFiles) -> None:
    rows = [Row("ba be"), Row("ba be", "bi")]
    single, pair = data.dataset(words, spec_of(words), rows, "here").samples
    ba, be, bi = (encoders.VOCABULARY.index(word) for word in ("ba", "be", "bi"))
    assert single.inputs["input_ids"].tolist() == [[2, ba, be, 3]]
    assert single.inputs["attention_mask"].tolist() == [[1, 1, 1, 1]]
    assert single.length == 4
    assert pair.inputs["input_ids"].tolist() == [[2, ba, be, 3, bi, 3]]


def test_pairs_apart_are_two_samples_each(words: VersionFiles) -> None:
    rows = [Row("ba", "be", label=1), Row("bi", "bo", label=0)]
    made = data.dataset(words, spec_of(words), rows, "here", apart=True)
    assert made.apart
    assert made.labels == (1, 0)
    assert [encoders.VOCABULARY[sample.inputs["input_ids"][0, 1]] for sample in made.samples] == [
        "ba",
        "be",
        "bi",
        "bo",
    ]
    with pytest.raises(EvaluationError, match="line 2: has no pair"):
        data.dataset(words, spec_of(words), [rows[0], Row("ba", place="line 2")], "here", apart=True)
    assert not data.dataset(words, spec_of(words), [Row("ba")], "here", apart=True).apart


def test_long_texts_are_cut_where_the_model_ends(tmp_path: Path, words: VersionFiles) -> None:
    spec = spec_of(words)
    long = Row(" ".join(["ba"] * 900))
    assert data.dataset(words, spec, [long], "here").samples[0].length == 64  # as the tokenizer says
    (words.directory / "tokenizer_config.json").write_text('{"model_max_length": 32}')
    assert data.dataset(words, spec, [long], "here").samples[0].length == 32
    (tmp_path / "words" / "model.toml").write_text("max_length = 10\n")
    words = files_of(tmp_path, "words")
    sample = data.dataset(words, spec, [long], "here").samples[0]
    assert sample.length == 10
    assert sample.inputs["input_ids"][0, -1] == 3  # cut before the mark


def test_made_up_texts_are_of_the_vocabulary_and_the_same_each_time(words: VersionFiles) -> None:
    spec = spec_of(words)
    made = data.synthetic(words, spec, 300)
    again = data.synthetic(words, spec, 300)
    assert made.name == "synthetic"
    ids = [sample.inputs["input_ids"].tolist() for sample in made.samples]
    assert ids == [sample.inputs["input_ids"].tolist() for sample in again.samples]
    assert ids != [sample.inputs["input_ids"].tolist() for sample in data.synthetic(words, spec, 300, seed=1).samples]
    unknown = encoders.VOCABULARY.index("[UNK]")
    assert not any(unknown in row[0] for row in ids)
    lengths = sorted(sample.length for sample in made.samples)
    assert lengths[0] >= 3
    assert 18 < lengths[150] < 31  # the median of real short texts
    assert lengths[-1] == 64


@pytest.mark.parametrize("kind", ["bytes", "pieces", "parts"])
def test_every_kind_of_tokenizer_makes_texts(words: VersionFiles, kind: str) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    corpus = [" ".join(encoders.WORDS[at : at + 12]) for at in range(80)] + ["größer 漢字 naïve"] * 3
    if kind == "bytes":  # as GPT-2, RoBERTa
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(vocab_size=400, show_progress=False)
    elif kind == "pieces":  # as XLM-R, T5
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=160, show_progress=False, unk_token="<unk>", special_tokens=["<unk>"]
        )
    else:  # as BERT
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=160, show_progress=False, special_tokens=["[UNK]"])
    made.train_from_iterator(corpus, trainer)
    made.save(str(words.directory / "tokenizer.json"))
    spec = spec_of(words)
    rows = data.made_up(words, spec, 100)
    assert len({row.text for row in rows}) > 90
    assert all(row.text and row.text.replace(" ", "").isalpha() for row in rows)
    lengths = sorted(sample.length for sample in data.dataset(words, spec, rows, "here").samples)
    assert 15 < lengths[50] < 60
    assert lengths[0] >= 1


def test_made_up_tensors_fit_the_model(tmp_path: Path) -> None:
    kinds = ("FP32", "FP16", "BF16", "FP64", "INT8", "UINT8", "INT64", "BOOL", "BYTES")
    for kind in kinds:
        graphs.identity(tmp_path, kind, (kind,), ("batch", 3))
        files = files_of(tmp_path, kind)
        spec = spec_of(files)
        made = data.synthetic(files, spec, 5)
        with opened(files) as runner:
            for sample in made.samples:
                given, found = sample.inputs["INPUT0"], runner.alone(sample)["OUTPUT0"]
                assert given.shape == found.shape == (1, 3)
                expected = data.from_bfloat16(given) if kind == "BF16" else given
                assert np.array_equal(expected, found)


def test_inputs_by_name(tmp_path: Path) -> None:
    graphs.identity(tmp_path, "two", ("FP32", "INT8"), ("batch", 2))
    files = files_of(tmp_path, "two")
    spec = spec_of(files)
    rows = [Row(inputs={"INPUT0": [0.5, 1], "INPUT1": [[1, 2]]})]  # one row, with or without its axis
    (sample,) = data.dataset(files, spec, rows, "here").samples
    assert sample.inputs["INPUT0"].tolist() == [[0.5, 1.0]]
    assert sample.inputs["INPUT0"].dtype == np.float32
    assert sample.inputs["INPUT1"].dtype == np.int8


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ({"INPUT0": [1, 2]}, "'INPUT1' is missing"),
        ({"INPUT0": [1, 2], "INPUT7": [1, 2]}, "INPUT7: did you mean 'INPUT"),
        ({"INPUT0": [1, 2, 3], "INPUT1": [1, 2]}, r"'INPUT0': has the shape \[1, 3\], not \[1, 2\]"),
        ({"INPUT0": [[1, 2], [3, 4]], "INPUT1": [1, 2]}, "'INPUT0': has 2 rows; give each a line of its own"),
        ({"INPUT0": [1, 2], "INPUT1": [1, 200]}, "'INPUT1': is no array of INT8: a value does not fit"),
        ({"INPUT0": [1, 2], "INPUT1": [1, 0.5]}, "'INPUT1': is no array of INT8: a value does not fit"),
        ({"INPUT0": [1, "a"], "INPUT1": [1, 2]}, "'INPUT0': is no array of FP32"),
        ({"INPUT0": [[1], [1, 2]], "INPUT1": [1, 2]}, "'INPUT0': is no array of FP32"),
        ({"INPUT0": {"a": 1}, "INPUT1": [1, 2]}, "'INPUT0': is no array of FP32"),
    ],
)
def test_wrong_inputs_are_named(tmp_path: Path, inputs: dict[str, Any], error: str) -> None:
    graphs.identity(tmp_path, "two", ("FP32", "INT8"), ("batch", 2))
    files = files_of(tmp_path, "two")
    with pytest.raises(EvaluationError, match=error):
        data.dataset(files, spec_of(files), [Row(inputs=inputs, place="line 1")], "here")


def test_a_model_that_takes_strings_is_given_the_text(tmp_path: Path) -> None:
    graphs.identity(tmp_path, "strings", ("BYTES",), ("batch", 1))
    files = files_of(tmp_path, "strings")
    (sample,) = data.dataset(files, spec_of(files), [Row("größer")], "here").samples
    assert sample.inputs["INPUT0"].tolist() == [["größer".encode()]]
    with pytest.raises(EvaluationError, match="takes no pair of texts"):
        data.dataset(files, spec_of(files), [Row("a", "b")], "here")


def test_a_model_without_a_tokenizer_takes_no_texts(tmp_path: Path) -> None:
    graphs.tagger(tmp_path)
    graphs.identity(tmp_path)
    files = files_of(tmp_path, "tagger")
    with pytest.raises(ModelError, match=r"tagger/1: there is no tokenizer.json"):
        data.dataset(files, spec_of(files), [Row("a")], "here")
    files = files_of(tmp_path, "identity")
    with pytest.raises(EvaluationError, match="takes no text; give its inputs"):
        data.dataset(files, spec_of(files), [Row("a")], "here")


def test_a_damaged_tokenizer_is_an_error(words: VersionFiles) -> None:
    (words.directory / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"words/1/tokenizer.json: cannot be read"):
        data.synthetic(words, spec_of(words), 5)


def test_a_fixed_number_of_tokens_is_filled_up(tmp_path: Path) -> None:
    from onnx import helper

    nodes = [helper.make_node("Identity", ["input_ids"], ["out"])]
    value = graphs.value
    path = graphs.save(
        tmp_path / "fixed" / "1" / "model.onnx",
        nodes,
        [value("input_ids", "INT64", ["batch", 6])],
        [value("out", "INT64", ["batch", 6])],
    )
    encoders.tokenizer(path.parent)
    files = files_of(tmp_path, "fixed")
    short, long = data.dataset(files, spec_of(files), [Row("ba"), Row("ba " * 20)], "here").samples
    assert short.inputs["input_ids"].tolist() == [[2, 5, 3, 0, 0, 0]]
    assert long.inputs["input_ids"].tolist() == [[2, 5, 5, 5, 5, 3]]
    assert texts.takes_tokens(spec_of(files))
