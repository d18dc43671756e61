"""The cache of downloads: bounded, least recently used first to go, nothing that is in use, nothing that is damaged."""

import hashlib
import os
from pathlib import Path

import pytest

from sluice.errors import ConfigError, ModelError
from sluice.store.blobs import Address, Cache, size_of


def put(cache: Cache, content: bytes, used: float | None = None) -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    with cache.partial(sha256) as place:
        (place / "data").write_bytes(content)
        with cache.adopt(place / "data", sha256) as path:
            assert path.read_bytes() == content
    if used is not None:
        os.utime(cache.directory / "blobs" / sha256, (used, used))
    return sha256


def held(cache: Cache) -> list[str]:
    return [blob.sha256 for blob in cache.blobs()]


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 250)
    old, older = put(cache, b"a" * 100, 2000), put(cache, b"b" * 100, 1000)
    with cache.using(older) as path:  # and now it is the newest
        assert path is not None
    new = put(cache, b"c" * 100)
    assert old not in held(cache)
    assert set(held(cache)) == {older, new}
    assert cache.prune(100) == 100
    assert held(cache) == [new]


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 150)
    first = put(cache, b"a" * 100, 1000)
    with cache.using(first), cache.partial("begun") as place:
        (place / "data").write_bytes(b"d" * 100)
        second = put(cache, b"b" * 100)
        assert set(held(cache)) == {first, second}
        assert cache.prune(0) == 100
        assert held(cache) == [first]
        assert place.exists()
    assert cache.prune(0) > 100
    assert cache.size() == 0


def test_one_that_is_larger_than_the_limit_can_be_used_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10)
    put(cache, b"a" * 100)
    put(cache, b"b" * 100)
    assert len(held(cache)) == 1


def test_damage_is_found(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    sound, bad = put(cache, b"a"), put(cache, b"b")
    cache.note("key", Address("https://host/x", '"1"', bad))
    (tmp_path / "blobs" / bad).chmod(0o600)
    (tmp_path / "blobs" / bad).write_bytes(b"c")
    assert cache.verify() == [bad]
    assert held(cache) == [sound]
    assert cache.address("key") is None
    with cache.using(bad) as path:
        assert path is None


def test_blobs_are_read_only_and_tell_where_they_are_from(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "deep" / "cache", 1000)
    assert cache.blobs() == []
    assert cache.size() == 0
    sha256 = put(cache, b"a")
    for key, source in (("1", "https://host/x"), ("2", "https://host/y"), ("3", "https://host/x")):
        cache.note(key, Address(source, "", sha256))
    assert cache.blobs()[0].sources == ("https://host/x", "https://host/y")
    assert (cache.directory / "blobs" / sha256).stat().st_mode & 0o777 == 0o444
    assert cache.directory.stat().st_mode & 0o777 == 0o700


def test_a_cache_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="the cache cannot be used"), Cache(tmp_path / "file", 1).partial("x"):
        pass


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("10", 10),
        ("7 bytes", 7),
        ("1.5kB", 1500),
        ("500MB", 500_000_000),
        ("2 GiB", 2 << 30),
        ("1TB", 10**12),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert size_of(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1 XB", "1e3", "ten"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        size_of(text)


def test_the_environment_says_where_and_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLUICE_CACHE", raising=False)
    monkeypatch.delenv("SLUICE_CACHE_LIMIT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert (Cache.usual().directory, Cache.usual().limit) == (tmp_path / "sluice", 20 * 10**9)
    monkeypatch.setenv("SLUICE_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("SLUICE_CACHE_LIMIT", "1GB")
    assert (Cache.usual().directory, Cache.usual().limit) == (tmp_path / "own", 10**9)
    monkeypatch.setenv("SLUICE_CACHE_LIMIT", "much")
    with pytest.raises(ConfigError, match="SLUICE_CACHE_LIMIT: 'much'"):
        Cache.usual()
