"""System shared memory: what is mapped, what is refused, and that views outlive their registration."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice.errors import InvalidRequest, UnknownThing, Unsupported
from sluice.frontends.regions import Region, Regions

SIZE = 16384


@pytest.fixture
def key() -> Iterator[str]:
    """A shared memory object of SIZE bytes whose bytes count up."""
    name = f"region-test-{uuid.uuid4().hex}"
    path = Path("/dev/shm") / name
    path.write_bytes(bytes(index % 251 for index in range(SIZE)))
    yield name
    path.unlink(missing_ok=True)


@pytest.fixture
def regions() -> Iterator[Regions]:
    opened = Regions(enabled=True)
    yield opened
    opened.close()


@pytest.mark.parametrize("prefix", ["", "/"])
@pytest.mark.parametrize("offset", [0, 8, 4096, 5000])
def test_reads_what_is_there(regions: Regions, key: str, prefix: str, offset: int) -> None:
    regions.register("r", prefix + key, offset, 1000)
    assert bytes(regions.read("r", 10, 4)) == bytes((offset + index) % 251 for index in range(10, 14))
    assert len(regions.read("r", 1000, 0)) == 0
    assert regions.status("r") == [Region("r", prefix + key, offset, 1000)]


def test_reading_does_not_copy(regions: Regions, key: str) -> None:
    regions.register("r", key, 0, SIZE)
    view = regions.read("r", 0, 4)
    with open(f"/dev/shm/{key}", "r+b") as file:
        file.write(b"new!")
    assert bytes(view) == b"new!"
    assert view.readonly


def test_writes_into_the_object(regions: Regions, key: str) -> None:
    regions.register("r", key, 4, 100)
    regions.write("r", 2, 50, memoryview(b"output").cast("B"))
    assert Path(f"/dev/shm/{key}").read_bytes()[6:12] == b"output"
    with pytest.raises(InvalidRequest, match="do not fit"):
        regions.write("r", 0, 3, b"four")
    with pytest.raises(InvalidRequest, match="not all inside"):
        regions.write("r", 90, 11, b"x")


def test_a_view_outlives_its_region(regions: Regions, key: str) -> None:
    regions.register("r", key, 0, SIZE)
    view = regions.read("r", 0, 3)
    regions.unregister("r")
    os.unlink(f"/dev/shm/{key}")
    assert view == bytes([0, 1, 2])
    with pytest.raises(InvalidRequest, match="not registered"):
        regions.read("r", 0, 3)


def test_unregister_forgives(regions: Regions, key: str) -> None:
    regions.unregister("")
    regions.unregister("never there")
    regions.register("a", key, 0, 10)
    regions.register("b", key, 10, 10)
    assert [region.name for region in regions.status()] == ["a", "b"]
    regions.unregister("a")
    assert [region.name for region in regions.status()] == ["b"]
    regions.unregister("")
    assert regions.status() == []
    regions.close()
    regions.close()


def test_descriptors_are_given_back(regions: Regions, key: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        regions.register("r", key, 0, 10)
        regions.unregister("r")
        with pytest.raises(InvalidRequest):
            regions.register("r", key, 0, SIZE + 1)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("name", ["", "/", "..", ".", "a/b", "../etc/passwd", "/../x", "nul\0", "\ud800", "x" * 300])
def test_refuses_keys_that_leave_the_directory(regions: Regions, name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^key: "):
        regions.register("r", name, 0, 10)


def test_refuses_what_is_no_memory_object(regions: Regions) -> None:
    name = f"region-test-{uuid.uuid4().hex}"
    with pytest.raises(InvalidRequest, match="No such file"):
        regions.register("r", name, 0, 10)
    os.symlink("/etc/passwd", f"/dev/shm/{name}")
    try:
        with pytest.raises(InvalidRequest, match=r"^key: "):
            regions.register("r", name, 0, 10)
    finally:
        os.unlink(f"/dev/shm/{name}")
    os.mkfifo(f"/dev/shm/{name}")
    try:
        with pytest.raises(InvalidRequest, match=r"^key: "):
            regions.register("r", name, 0, 10)
    finally:
        os.unlink(f"/dev/shm/{name}")


@pytest.mark.parametrize(
    ("offset", "byte_size", "field"),
    [
        (0, SIZE + 1, "byte_size"),
        (SIZE, 1, "byte_size"),
        (-1, 1, "offset"),
        (0, 0, "byte_size"),
        (2**63, 1, "byte_size"),
    ],
)
def test_refuses_sizes_that_lie(regions: Regions, key: str, offset: int, byte_size: int, field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field}: "):
        regions.register("r", key, offset, byte_size)
    assert regions.status() == []


def test_refuses_a_second_region_of_one_name(regions: Regions, key: str) -> None:
    regions.register("r", key, 0, 10)
    with pytest.raises(InvalidRequest, match="already registered"):
        regions.register("r", key, 0, 10)


def test_a_shrunken_object_is_refused_instead_of_killing_the_process(regions: Regions, key: str) -> None:
    regions.register("r", key, 0, SIZE)
    os.truncate(f"/dev/shm/{key}", 100)
    with pytest.raises(InvalidRequest, match="made smaller"):
        regions.read("r", 0, SIZE)
    with pytest.raises(InvalidRequest, match="made smaller"):
        regions.write("r", 8000, 4, b"data")


def test_unknown_names(regions: Regions) -> None:
    with pytest.raises(UnknownThing, match="'r'"):
        regions.status("r")
    with pytest.raises(InvalidRequest, match="'r'"):
        regions.write("r", 0, 1, b"x")


def test_switched_off(key: str) -> None:
    regions = Regions(enabled=False)
    with pytest.raises(Unsupported, match="shared_memory"):
        regions.register("r", key, 0, 10)
    assert regions.status() == []
    regions.unregister("")
