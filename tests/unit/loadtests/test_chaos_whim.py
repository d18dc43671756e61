import os
from pathlib import Path

import numpy as np
import pytest
from loadtests.chaos import whim
from loadtests.chaos.watch import parse


@pytest.fixture
def model(tmp_path: Path) -> whim.Model:
    (tmp_path / "armed").mkdir()
    model = whim.Model()
    model.load(tmp_path, {"armed": str(tmp_path / "armed"), "witness": str(tmp_path / "witness")})
    return model


def row(serial: int, order: str = "fine") -> list[int]:
    return [whim.MARK, serial, whim.ORDERS.index(order), 5]


def witnessed(folder: Path) -> list[tuple[str, tuple[int, ...]]]:
    lines = [parse(text) for text in (folder / "witness").read_text().splitlines()]
    return [(line.what, line.serials) for line in lines if line is not None and line.pid == os.getpid()]


def test_it_computes_and_says_so(model: whim.Model, tmp_path: Path) -> None:
    x = np.array([row(7), row(8)])
    assert np.array_equal(model.run({"x": x})["y"], x * 3 + 1)
    model.run({"x": np.zeros((1, 1), np.int64)})
    assert witnessed(tmp_path) == [("run", (7, 8)), ("warm", ())]


def test_a_guilty_row_raises_each_time(model: whim.Model, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="told to"):
            model.run({"x": np.array([row(7), row(8, "raise")])})
    assert witnessed(tmp_path)[1] == ("raise", (8,))


def test_a_file_makes_the_next_batch_raise_and_is_used_up(model: whim.Model, tmp_path: Path) -> None:
    (tmp_path / "armed" / "out-of-memory.1").touch()
    x = np.array([row(7)])
    with pytest.raises(RuntimeError, match="out of memory"):
        model.run({"x": x})
    assert np.array_equal(model.run({"x": x})["y"], x * 3 + 1)


def test_made_up_input_touches_no_file(model: whim.Model, tmp_path: Path) -> None:
    (tmp_path / "armed" / "raise.1").touch()
    model.run({"x": np.zeros((2, 4), np.int64)})
    assert (tmp_path / "armed" / "raise.1").exists()
