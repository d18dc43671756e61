"""The arithmetic: by values that can be checked by hand, and by what has to hold of any."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.evaluation import measures

Array = np.ndarray[Any, Any]


def random(rows: int, width: int = 6, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, width))


def test_cosine_of_each_row() -> None:
    first = np.array([[1.0, 0], [1, 0], [1, 1], [2, 0], [0, 0], [0, 0]])
    second = np.array([[1.0, 0], [0, 3], [1, 0], [-4, 0], [0, 0], [1, 0]])
    assert measures.cosine(first, second) == pytest.approx([1, 0, math.sqrt(0.5), -1, 1, 0])


def test_what_is_no_number_is_like_nothing() -> None:
    first = np.array([[1.0, 1], [1, 1], [1, 1]])
    second = np.array([[math.nan, 1], [math.inf, 1], [1, 1]])
    assert measures.cosine(first, second).tolist() == pytest.approx([0, 0, 1])


def test_neighbours_agree_whatever_the_scale_and_rotation() -> None:
    vectors = random(50)
    rotation, _ = np.linalg.qr(random(6, seed=1))
    assert measures.neighbours(vectors, 3 * vectors @ rotation) == 1.0


def test_neighbours_of_other_vectors_rarely_agree() -> None:
    assert measures.neighbours(random(400), random(400, seed=1)) < 0.05


def test_neighbours_count_each_sample() -> None:
    first = np.array([[1.0, 0], [0.99, 0.1], [0, 1], [0.1, 0.99]])
    second = np.array([[1.0, 0], [0.99, 0.1], [0, 1], [0.99, -0.1]])  # the last moved to the first two
    # The third has another neighbour now, and so has the last.
    assert measures.neighbours(first, second) == 0.5


def test_neighbours_that_are_equally_near_are_equally_good() -> None:
    same = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    assert measures.neighbours(same, same[[1, 2, 0, 3]]) == 1.0


def test_neighbours_of_many_are_those_of_few() -> None:
    first, second = random(2500), random(2500) + 0.3 * random(2500, seed=2)
    unit = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (first, second)]
    nearest = []
    for vectors in unit:
        similar = vectors @ vectors.T
        np.fill_diagonal(similar, -2)
        nearest.append(similar.argmax(axis=1))
    assert measures.neighbours(first, second) == pytest.approx((nearest[0] == nearest[1]).mean())
    assert measures.nearest(first).tolist() == nearest[0].tolist()


def test_two_samples_have_no_choice_of_neighbours() -> None:
    assert math.isnan(measures.neighbours(random(2), random(2)))


def test_classes_and_agreement() -> None:
    chosen = measures.classes(np.array([[0.1, 0.9], [0.8, 0.2], [math.nan, 0.2]]))
    assert chosen.tolist() == [1, 0, 1]
    assert measures.agreement(chosen, np.array([1, 0, 0])) == pytest.approx(2 / 3)
    assert math.isnan(measures.agreement(np.array([]), np.array([])))


def test_accuracy_and_f1() -> None:
    labels, chosen = ["a", "a", "b", "b", "c"], ["a", "b", "b", "b", "b"]
    assert measures.accuracy(chosen, labels) == pytest.approx(0.6)
    # a: precision 1, recall ½; b: precision ½, recall 1; c: nothing right.
    assert measures.macro_f1(chosen, labels) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert math.isnan(measures.accuracy([], []))
    assert math.isnan(measures.macro_f1([], []))


def test_spearman() -> None:
    assert measures.spearman([1, 2, 3, 4], [10, 20, 30, 400]) == pytest.approx(1)
    assert measures.spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # Ranks 1.5 1.5 3 4 against 1 2 3 4: 4.5 / √(4.5 × 5).
    assert measures.spearman([5, 5, 7, 9], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(22.5))
    assert math.isnan(measures.spearman([1, 1, 1], [1, 2, 3]))
    assert math.isnan(measures.spearman([], []))


def test_scan_counts_what_is_no_number() -> None:
    found = measures.scan(np.array([1, math.nan, math.inf, -math.inf], np.float16))
    assert (found.elements, found.nan, found.infinite, found.finite) == (4, 1, 2, False)
    assert str(found) == "1 NaN and 2 infinite of 4 values"
    for array in (np.array([1, 2]), np.array([b"x"], object), np.array([True]), np.zeros((2, 2)), np.zeros(0)):
        assert measures.scan(array).finite


def test_difference_is_relative_to_the_largest_value() -> None:
    assert measures.difference(np.array([10.0, 1]), np.array([10.0, 1.5])) == pytest.approx(0.05)
    assert measures.difference(np.zeros(0), np.zeros(0)) == 0
    assert measures.difference(np.zeros(2), np.zeros(3)) == math.inf
    assert measures.difference(np.array([1, 2]), np.array([1, 3])) == math.inf
    assert measures.difference(np.array([1, 2]), np.array([1, 2])) == 0
    assert measures.difference(np.array([1.0, math.nan]), np.array([1.0, 2.0])) == math.inf
    assert measures.difference(np.array([math.nan]), np.array([math.nan])) == 0


VALUES = st.lists(st.tuples(*[st.integers(-50, 50)] * 2), min_size=2, max_size=30)


@given(VALUES)
def test_spearman_is_symmetric_and_sees_only_the_order(pairs: list[tuple[int, int]]) -> None:
    first, second = ([float(pair[side]) for pair in pairs] for side in (0, 1))
    found = measures.spearman(first, second)
    assert found == pytest.approx(measures.spearman(second, first), nan_ok=True)
    assert found == pytest.approx(measures.spearman([value**3 for value in first], second), nan_ok=True)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30))
def test_f1_is_one_exactly_where_all_is_right(pairs: list[tuple[str, str]]) -> None:
    chosen, labels = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert 0 <= measures.macro_f1(chosen, labels) <= 1
    assert (measures.macro_f1(chosen, labels) == 1) == (chosen == labels)
