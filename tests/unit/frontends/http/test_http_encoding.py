"""Compressed bodies in both directions, bombs included."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.errors import InvalidRequest, TooLarge
from sluice.frontends.http import encoding

LIMIT = 1 << 20


@given(st.lists(st.binary(max_size=2000), min_size=1), st.sampled_from(("gzip", "deflate")))
def test_what_was_deflated_inflates(parts: list[bytes], name: str) -> None:
    assert encoding.inflate(encoding.deflate(parts, name), name, LIMIT) == b"".join(parts)


def test_the_formats_are_those_of_http() -> None:
    assert gzip.decompress(encoding.deflate([b"a", b"b"], "gzip")) == b"ab"
    assert zlib.decompress(encoding.deflate([b"a", b"b"], "deflate")) == b"ab"
    assert encoding.inflate(gzip.compress(b"a") + gzip.compress(b"b"), " X-GZIP ", LIMIT) == b"ab"
    assert encoding.inflate(gzip.compress(zlib.compress(b"a")), "deflate, gzip", LIMIT) == b"a"
    assert encoding.inflate(b"a", "identity", LIMIT) == b"a"


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_bombs_stop_at_the_limit(name: str) -> None:
    exact = encoding.deflate([bytes(LIMIT)], name)
    assert len(encoding.inflate(exact, name, LIMIT)) == LIMIT
    with pytest.raises(TooLarge, match=f"over the limit of {LIMIT} bytes when decompressed"):
        encoding.inflate(encoding.deflate([bytes(LIMIT + 1)], name), name, LIMIT)


def test_layers_are_few() -> None:
    data = b"a"
    for _ in range(encoding.MOST_LAYERS):
        data = gzip.compress(data)
    assert encoding.inflate(data, ", ".join(["gzip"] * encoding.MOST_LAYERS), LIMIT) == b"a"
    with pytest.raises(InvalidRequest, match="more than 4 encodings"):
        encoding.inflate(gzip.compress(data), ", ".join(["gzip"] * (encoding.MOST_LAYERS + 1)), LIMIT)


def test_bombs_in_many_members_stop_too() -> None:
    with pytest.raises(TooLarge):
        encoding.inflate(gzip.compress(bytes(LIMIT // 4)) * 5, "gzip", LIMIT)
    with pytest.raises(InvalidRequest, match="goes on after its end"):
        encoding.inflate(gzip.compress(b"") * 100_000, "gzip", LIMIT)


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (b"plain text", "gzip", "the body is not gzip"),
        (b"", "gzip", "the gzip body ends too early"),
        (gzip.compress(b"x" * 100)[:-5], "gzip", "the gzip body ends too early"),
        (zlib.compress(b"x") + b"more", "deflate", "goes on after its end"),
        (gzip.compress(b"x") + b"more", "gzip", "the body is not gzip"),
        (b"x", "br", "'br' is not supported; gzip and deflate are"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, name: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^Content-Encoding: .*{message}"):
        encoding.inflate(data, name, LIMIT)


@given(st.binary(max_size=200), st.sampled_from(("gzip", "deflate", "gzip, deflate")))
def test_any_bytes_raise_only_our_errors(data: bytes, name: str) -> None:
    with pytest.raises((InvalidRequest, TooLarge)):
        encoding.inflate(b"\0" + data, name, 1024)


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        (b"gzip", "gzip"),
        (b"deflate", "deflate"),
        (b"gzip, deflate, br", "gzip"),
        (b"gzip;q=0.5, deflate;q=0.8", "deflate"),
        (b"GZIP ; Q=1", "gzip"),
        (b"*", "gzip"),
        (b"*;q=0.1, gzip;q=0", "deflate"),
        (b"gzip;q=0", ""),
        (b"gzip;q=0, deflate;q=0, *", ""),
        (b"identity;q=1, gzip;q=0.5", ""),
        (b"br", ""),
        (b"", ""),
        (b"gzip;q=nonsense", ""),
        (b"\xff\xfe", ""),
        (b"gzip" + b" " * 508, "gzip"),
        (b"gzip" + b" " * 509, ""),  # nobody needs so much to say what is liked
    ],
)
def test_the_clients_preference_counts(accepted: bytes, chosen: str) -> None:
    assert encoding.choose(accepted) == chosen
