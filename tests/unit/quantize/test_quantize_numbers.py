"""Matrices of few bits are the ones they were, as near as those bits allow."""

import numpy as np
import pytest

from sluice.quantize import numbers


@pytest.fixture
def matrix() -> numbers.Array:
    drawn = np.random.default_rng(1).standard_normal((96, 40)).astype(np.float32)
    drawn[:, 3] *= 50  # columns of their own sizes
    drawn[:, 7] = 0
    return drawn


@pytest.mark.parametrize(("bits", "most"), [(8, 127), (7, 63)])
def test_a_column_is_off_by_half_a_step_at_most(matrix: numbers.Array, bits: int, most: int) -> None:
    columns = numbers.by_columns(matrix, bits)
    assert columns.values.dtype == np.int8
    assert int(np.abs(columns.values).max()) == most
    assert np.all(np.abs(columns.values * columns.scales - matrix) <= columns.scales * 0.5001)


def test_unsigned_columns_stand_for_zero_exactly(matrix: numbers.Array) -> None:
    matrix[matrix < -0.5] = 0
    columns = numbers.by_columns_unsigned(matrix)
    assert columns.values.dtype == np.uint8
    assert columns.zeros is not None
    wide = (columns.values.astype(np.float32) - columns.zeros.astype(np.float32)) * columns.scales
    assert np.all(np.abs(wide - matrix) <= columns.scales * 1.0001)
    assert not wide[matrix == 0].any()


def test_each_entry_of_a_table_has_its_own_scale(matrix: numbers.Array) -> None:
    matrix[5] *= 1e-3
    table = numbers.by_rows(matrix)
    assert table.scales.shape == (96, 1)
    assert np.all(np.abs(table.values * table.scales - matrix) <= table.scales * 0.5001)


@pytest.mark.parametrize(("bits", "size", "steps"), [(8, 32, 127), (8, 64, 127), (4, 32, 7), (4, 16, 7)])
def test_blocks_are_packed_as_onnxruntime_takes_them(matrix: numbers.Array, bits: int, size: int, steps: int) -> None:
    """96 is no multiple of 64: the last block is filled up with zeros."""
    blocks = numbers.by_blocks(matrix, bits, size)
    count = -(-96 // size)
    assert blocks.values.shape == (40, count, size * bits // 8)
    assert blocks.scales.shape == (40, count)
    values = blocks.values
    if bits == 4:
        values = np.stack([values & 15, values >> 4], axis=-1).reshape(40, count, size)
    middle = 1 << (bits - 1)
    wide = ((values.astype(np.float32) - middle) * blocks.scales[..., None]).reshape(40, -1)[:, :96].T
    error = np.sqrt(np.mean(np.square(wide - matrix), axis=0))
    largest = np.abs(matrix).max(axis=0)
    assert np.all(error <= largest / steps)


def test_a_four_bit_scale_loses_no_more_than_the_largest_weights_own(matrix: numbers.Array) -> None:
    """An outlier may be cut off where the others gain more by it."""
    matrix[0] *= 3

    def error(cuts: tuple[float, ...]) -> float:
        blocks = np.ascontiguousarray(matrix.T).reshape(40, 3, 32)
        scales = numbers.block_scales(blocks, 8, cuts)
        rounded = np.clip(np.rint(blocks / scales[..., None]), -8, 7) * scales[..., None]
        return float(np.square(rounded - blocks).sum())

    assert error((1.0, 0.9, 0.8)) < error((1.0,))
