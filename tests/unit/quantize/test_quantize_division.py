"""How data is divided: no row on both sides, and none in two attempts."""

import numpy as np
import pytest

from sluice.errors import ModelError
from sluice.evaluation.data import Row
from sluice.quantize.division import divide
from sluice.quantize.nearness import Bounds

ROWS = [Row(f"text {number // 3}", label=number) for number in range(300)]  # each text three times


def test_every_row_is_in_one_part_only() -> None:
    divided = divide(ROWS, "texts.jsonl", 1000, 0)
    parts = [[row.text for row in part] for part in (divided.seen, *divided.held)]
    assert [len(part) for part in parts] == [50, 25, 25]
    assert len({text for part in parts for text in part}) == 100


def test_rows_are_drawn_by_the_seed() -> None:
    first, again, other = (divide(ROWS, "texts.jsonl", 1000, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert first.seen != ROWS[:150:3]


def test_arrays_are_the_same_by_what_is_in_them() -> None:
    rows = [Row(inputs={"x": np.full((1, 4), number % 40, np.float32)}) for number in range(80)]
    divided = divide(rows, "synthetic", 1000, 0)
    assert len(divided.seen) + sum(len(part) for part in divided.held) == 40


def test_the_same_over_and_over_is_too_little() -> None:
    with pytest.raises(ModelError, match=r"t\.jsonl: has 1 different rows, and at least 32 are needed"):
        divide([Row("again")] * 500, "t.jsonl", 1000, 0)


def test_a_second_choice_has_to_be_nearer() -> None:
    stricter = Bounds(0.96, 0.0, 0.5).stricter()
    assert stricter.accuracy == pytest.approx(0.97)
    assert (stricter.neighbours, stricter.difference) == (0.0, 0.5)
