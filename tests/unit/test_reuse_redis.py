"""Answers kept in Redis: as many as there are, and nothing but what was written."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from sluice.request import Tensor
from sluice.reuse.answers import Outputs
from sluice.reuse.redis import PAUSE, Redis
from sluice.reuse.redis import _outputs as outputs_of


def answer(number: int) -> Outputs:
    return (Tensor("y", "UINT8", (4,), number.to_bytes(4, "little")),)


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server is not installed")
    place = tmp_path / "socket"
    command = [binary, "--port", "0", "--unixsocket", str(place), "--save", "", "--dir", str(tmp_path)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            if b"ready to accept" in line.lower():
                break
        yield f"unix://{place}"
    finally:
        process.terminate()
        await process.communicate()


async def test_many_at_once_are_all_kept(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sluice.reuse")
    monkeypatch.setattr("sluice.reuse.redis.PATIENCE", 30.0)
    redis = Redis(address, {})
    keys = [b"%d" % number for number in range(512)]
    await asyncio.gather(*(redis.put(key, answer(number), 60) for number, key in enumerate(keys)))
    assert [await redis.get(key) for key in keys] == [answer(number) for number in range(512)]
    assert None not in await asyncio.gather(*map(redis.get, keys))
    await redis.close()
    assert caplog.messages == []


async def test_it_is_used_again_only_when_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sluice.reuse")
    now = 1000.0
    monkeypatch.setattr("sluice.reuse.redis.time", SimpleNamespace(monotonic=lambda: now))
    redis, go = Redis("redis://127.0.0.1/0", {}), asyncio.Event()

    async def slow() -> bool:
        return await go.wait()

    async def fails() -> bool:
        raise OSError("gone")

    async def soon() -> bool:
        return True

    before = asyncio.create_task(redis._ask(slow))
    await asyncio.sleep(0)
    assert await redis._ask(fails) is None
    go.set()
    assert await before
    assert caplog.messages == ["response_cache.redis: is not used for a while: gone"]
    assert await redis._ask(soon) is None
    now += PAUSE
    assert await redis._ask(soon)
    assert caplog.messages[1:] == ["response_cache.redis: is used again"]


def kept(datatype: str, shape: list[int], data: bytes) -> bytes:
    return msgspec.msgpack.encode([("y", datatype, shape, data)])


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP32", [1, 4], b"ab"),
        ("FP32", [1, -4], bytes(16)),
        ("FP32", [-1, -4], bytes(16)),
        ("FP32", [1 << 62], bytes(16)),
        ("FP99", [4], bytes(16)),
        ("BYTES", [2], b"\1\0\0\0a"),
        ("BYTES", [1], b"\\9\0\0\0a"),
    ],
)
def test_what_contradicts_itself_is_not_believed(datatype: str, shape: list[int], data: bytes) -> None:
    assert outputs_of(kept(datatype, shape, data)) is None


@pytest.mark.parametrize(
    ("datatype", "shape", "data"), [("FP32", [1, 4], bytes(16)), ("FP16", [0, 3], b""), ("BYTES", [1], b"\1\0\0\0a")]
)
def test_what_was_written_is(datatype: str, shape: list[int], data: bytes) -> None:
    assert outputs_of(kept(datatype, shape, data)) == (Tensor("y", datatype, tuple(shape), data),)
