"""`sluice check` refuses what answers ordinary input with anything but numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import encoders
import graphs
import numpy as np
from onnx import TensorProto, helper

NAN_FOR_LONG = """
import numpy


class Model:
    def load(self, directory, parameters):
        pass

    def run(self, inputs):
        return {"y": inputs["x"] / (32 - inputs["x"].shape[1])}
"""


def sluice(*words: str, path: str = "") -> "subprocess.CompletedProcess[str]":
    paths = [path, os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(each for each in paths if each)}
    command = [sys.executable, "-W", "ignore", "-m", "sluice.cli.main", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def check(repository: Path, *flags: str, path: str = "") -> tuple[int, dict[str, dict[str, Any]]]:
    done = sluice("check", "-r", str(repository), "--json", "--workers", "1", *flags, path=path)
    assert done.stdout, done.stderr
    return done.returncode, {row["name"]: row for row in json.loads(done.stdout)}


def test_outputs_that_are_no_numbers_fail_a_version(tmp_path: Path) -> None:
    encoders.encoder(tmp_path, name="good")
    encoders.encoder(tmp_path, name="spoiled", vectors=encoders.spoiled(encoders.WORDS[10]))
    unbounded = encoders.table()
    unbounded[7] = np.inf
    encoders.encoder(tmp_path, name="unbounded", vectors=unbounded)
    (tmp_path / "unbounded" / "1" / "tokenizer.json").unlink()  # made-up tokens show it as well
    value = graphs.value
    graphs.save(
        tmp_path / "brain" / "1" / "model.onnx",
        [
            helper.make_node("Sqrt", ["x"], ["root"]),
            helper.make_node("Cast", ["root"], ["y"], to=TensorProto.BFLOAT16),
            helper.make_node("Identity", ["x"], ["same"]),
        ],
        [value("x", "FP32", ["batch", 4])],
        [value("same", "FP32", ["batch", 4]), value("y", "BF16", ["batch", 4])],
    )
    code, rows = check(tmp_path)
    assert code == 1
    assert {name: row["ok"] for name, row in rows.items()} == {
        "good": True,
        "spoiled": False,
        "unbounded": False,
        "brain": False,
    }
    assert "output 'embedding' has 8 NaN of 8 values for ordinary input (made-up text " in rows["spoiled"]["reason"]
    assert "output 'embedding' has 8 infinite of 8 values" in rows["unbounded"]["reason"]
    assert "output 'y' has" in rows["brain"]["reason"]
    assert rows["good"]["reason"] == ""


def test_an_output_that_nobody_gets_unasked_is_looked_at(tmp_path: Path) -> None:
    value = graphs.value
    graphs.save(
        tmp_path / "quiet" / "1" / "model.onnx",
        [helper.make_node("Identity", ["x"], ["same"]), helper.make_node("Log", ["x"], ["logarithm"])],
        [value("x", "FP32", ["batch", 4])],
        [value("same", "FP32", ["batch", 4]), value("logarithm", "FP32", ["batch", 4])],
    )
    (tmp_path / "quiet" / "model.toml").write_text('[[output]]\nname = "logarithm"\ndefault = false\n')
    code, rows = check(tmp_path)
    assert code == 1
    assert "output 'logarithm' has" in rows["quiet"]["reason"]


def test_a_python_model_is_looked_at_where_it_may_run(tmp_path: Path) -> None:
    model = tmp_path / "ratio"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.py").write_text(NAN_FOR_LONG)
    tensor = 'datatype = "FP32"\nshape = [-1, -1]\nbatch_axis = 0\nsequence_axis = 1\n'
    (model / "model.toml").write_text(f'[[input]]\nname = "x"\n{tensor}[[output]]\nname = "y"\n{tensor}')
    code, rows = check(tmp_path, "--python-directory", str(tmp_path))
    assert code == 1
    assert (
        "output 'y' has 32 infinite of 32 values for ordinary input (a warm-up request of length 32)"
        in (rows["ratio"]["reason"])
    )


def test_what_the_operator_sends_to_warm_it_is_ordinary(tmp_path: Path) -> None:
    """A model that refuses made-up tokens, and spoils the one written down."""
    graphs.lookup(tmp_path, rows=3)
    (tmp_path / "lookup" / "model.toml").write_text(
        '[[warm_up]]\nname = "first"\n[[warm_up.input]]\nname = "input_ids"\ndatatype = "INT64"\nshape = [4]\n'
        '[[warm_up.input]]\nname = "attention_mask"\ndatatype = "INT64"\nshape = [4]\n'
    )
    assert check(tmp_path)[0] == 0


def test_a_damaged_tokenizer_is_no_tokenizer(tmp_path: Path) -> None:
    """Made-up tokens do where texts cannot be made; but the operator is told."""
    encoders.encoder(tmp_path, name="good")
    encoders.encoder(tmp_path, name="spoiled", vectors=encoders.spoiled(encoders.WORDS[0]))
    encoders.encoder(tmp_path, name="damaged")
    (tmp_path / "damaged" / "1" / "tokenizer.json").write_text("{}")
    code, rows = check(tmp_path)
    assert code == 1
    assert {name: row["ok"] for name, row in rows.items()} == {"good": True, "spoiled": False, "damaged": False}
    assert "takes no texts: tokenizer.json: is no tokenizer" in rows["damaged"]["reason"]
