"""Runs models alone and in batches, and gives each sample its own answer."""

from pathlib import Path

import encoders
import graphs
import numpy as np
import pytest
from onnx import TensorProto, helper
from test_evaluation_data import files_of

from sluice.errors import InvalidRequest, ModelError, ModelFailed
from sluice.evaluation import data
from sluice.evaluation.data import Row, Sample
from sluice.evaluation.runner import Allowed, opened, trusted
from sluice.store import manifest


def test_each_sample_gets_its_own_answer_of_any_batch(tmp_path: Path) -> None:
    encoders.encoder(tmp_path)
    files = files_of(tmp_path, "words")
    with opened(files) as runner:
        samples = data.synthetic(files, runner.spec, 40).samples
        alone = runner.each(samples)
        equal = runner.batched(samples)
        padded = runner.batched(samples, tokens=200, padded=True)
        for one, two, three in zip(alone, equal, padded, strict=True):
            assert one["embedding"].shape == (1, encoders.WIDTH)
            assert np.allclose(one["embedding"], two["embedding"], atol=1e-6)
            assert np.allclose(one["embedding"], three["embedding"], atol=1e-6)


def test_batches_are_of_neighbours_by_length_and_bounded(tmp_path: Path) -> None:
    encoders.encoder(tmp_path)
    files = files_of(tmp_path, "words")
    with opened(files) as runner:
        samples = data.synthetic(files, runner.spec, 60).samples
        for padded in (False, True):
            plan = runner.plan(samples, 100, padded=padded)
            assert sorted(index for batch in plan for index in batch) == list(range(60))
            for batch in plan:
                lengths = [samples[index].length for index in batch]
                assert len(batch) == 1 or max(lengths) * len(batch) <= 100
                assert padded or len(set(lengths)) == 1
        assert len(runner.plan(samples, 100, padded=True)) < len(runner.plan(samples, 100))


def test_outputs_of_tokens_lose_their_padding(tmp_path: Path) -> None:
    graphs.tagger(tmp_path)
    files = files_of(tmp_path, "tagger")
    rows = [Row(inputs={"input_ids": list(range(1, length + 1))}) for length in (1, 3, 5)]
    with opened(files) as runner:
        samples = data.dataset(files, runner.spec, rows, "here").samples
        answers = runner.together(samples)
    for length, answer in zip((1, 3, 5), answers, strict=True):
        assert answer["tokens"].tolist() == [[2 * number for number in range(1, length + 1)]]
        assert answer["total"].tolist() == [[2 * sum(range(1, length + 1))]]


def test_axes_that_the_graph_hides_are_seen(tmp_path: Path) -> None:
    """As many tokens as the output has channels, and names that say nothing."""
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["floats", "last"], ["column"]),
        helper.make_node("Mul", ["column", "ones"], ["out"]),
    ]
    graphs.save(
        tmp_path / "hidden" / "1" / "model.onnx",
        nodes,
        [graphs.value("input_ids", "INT64", ["batch", "sequence"])],
        [graphs.value("out", "FP32", ["batch", None, None])],
        {"last": np.array([2], np.int64), "ones": np.ones(4, np.float32)},
    )
    files = files_of(tmp_path, "hidden")
    with opened(files) as runner:
        rows = [Row(inputs={"input_ids": [7] * length}) for length in (2, 4)]
        short, long = runner.together(data.dataset(files, runner.spec, rows, "here").samples)
    assert short["out"].tolist() == [[[7.0] * 4] * 2]
    assert long["out"].tolist() == [[[7.0] * 4] * 4]


def test_a_model_without_a_batch_axis_runs_one_at_a_time(tmp_path: Path) -> None:
    graphs.identity(tmp_path, "single", ("FP32",), (3,))
    files = files_of(tmp_path, "single")
    with opened(files) as runner:
        assert not runner.batches
        samples = data.synthetic(files, runner.spec, 3).samples
        assert runner.plan(samples) == [[0], [1], [2]]
        answers = runner.batched(samples)
    assert [answer["OUTPUT0"].tolist() for answer in answers] == [s.inputs["INPUT0"].tolist() for s in samples]


def test_a_scalar_stays_one(tmp_path: Path) -> None:
    graphs.identity(tmp_path, "scalar", ("FP32",), ())
    files = files_of(tmp_path, "scalar")
    with opened(files) as runner:
        assert runner.alone(Sample({"INPUT0": np.array(2, np.float32)}))["OUTPUT0"].shape == ()


def test_what_the_model_refuses_is_named(tmp_path: Path) -> None:
    encoders.encoder(tmp_path)
    files = files_of(tmp_path, "words")
    row = Row(inputs={"input_ids": [[5000]]}, place="rows.jsonl, line 9")
    with opened(files) as runner:
        (sample,) = data.dataset(files, runner.spec, [row], "here").samples
        with pytest.raises(InvalidRequest, match=r"rows.jsonl, line 9: the model refuses"):
            runner.alone(sample)


def test_rows_that_cannot_be_told_apart_are_an_error(tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["x", "flat"], ["y"])]
    graphs.save(
        tmp_path / "mixed" / "1" / "model.onnx",
        nodes,
        [graphs.value("x", "FP32", ["batch", 2])],
        [graphs.value("y", "FP32", ["batch"])],
        {"flat": np.array([-1], np.int64)},
    )
    files = files_of(tmp_path, "mixed")
    with opened(files) as runner:
        samples = data.synthetic(files, runner.spec, 3).samples
        with pytest.raises(ModelFailed, match=r"output 'y' of shape .* has no axis for the rows"):
            runner.together(samples)


def test_python_models_run_where_they_may(tmp_path: Path) -> None:
    graphs.python_echo(tmp_path)
    files = files_of(tmp_path, "echo")
    with pytest.raises(ModelError, match="python_directories"), opened(files):
        pass
    with opened(files, Allowed(python_directories=[tmp_path])) as runner:
        (sample,) = data.synthetic(files, runner.spec, 1).samples
        assert np.array_equal(runner.alone(sample)["y"], sample.inputs["x"])


def test_what_a_server_would_not_load_is_not_trusted(tmp_path: Path) -> None:
    encoders.encoder(tmp_path)
    files = files_of(tmp_path, "words")
    assert trusted(files, Allowed()) is None
    sealed = manifest.seal(files.directory)
    assert trusted(files, Allowed()) == sealed
    (files.directory / "extra.bin").write_bytes(b"not sealed")
    with pytest.raises(ModelError, match=r"extra.bin is not in the manifest"):
        trusted(files, Allowed())
