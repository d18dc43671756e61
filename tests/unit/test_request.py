"""BYTES elements survive their wire form, and a wire form that lies is refused by name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.errors import InvalidRequest
from sluice.request import Tensor, decode_bytes, encode_bytes
from sluice.spec import BYTES, NUMPY_TYPES


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_bytes_round_trip(elements: list[bytes]) -> None:
    assert decode_bytes(encode_bytes(elements), "x") == elements


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused_by_name(data: bytes) -> None:
    complaint, elements = "'text'", list[bytes]()
    try:
        elements = decode_bytes(data, "text")
    except InvalidRequest as error:
        complaint = error.message
    else:
        assert encode_bytes(elements) == data
    assert "'text'" in complaint


@given(st.sampled_from(sorted(NUMPY_TYPES)), st.lists(st.integers(0, 3), max_size=3))
def test_an_array_is_a_view_of_the_data(datatype: str, shape: list[int]) -> None:
    expected = np.ones(shape, NUMPY_TYPES[datatype])
    data = bytearray(expected.tobytes())
    array = Tensor("x", datatype, tuple(shape), data).array()
    assert array.shape == tuple(shape)
    np.testing.assert_array_equal(array, expected)
    assert array.size == 0 or np.shares_memory(array, np.frombuffer(data, np.uint8))


def test_an_array_of_bytes_keeps_its_shape_and_trailing_zeros() -> None:
    array = Tensor("x", BYTES, (2, 1), encode_bytes([b"a\0", b""])).array()
    assert array.tolist() == [[b"a\0"], [b""]]


def test_bytes_that_end_too_early() -> None:
    with pytest.raises(InvalidRequest, match=r"'x'.*middle"):
        decode_bytes(b"\0\0", "x")
    with pytest.raises(InvalidRequest, match=r"'x'.*claims 9 bytes but only 1"):
        decode_bytes(b"\x09\0\0\0a", "x")
