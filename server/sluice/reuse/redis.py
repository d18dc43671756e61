"""Answers that replicas keep for one another, in Redis.

It only ever helps: a Redis that is slow, full or gone costs a request a moment at most, and is then left alone for a
while. What it says is checked, for others may write there.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from sluice.errors import ConfigError, InvalidRequest
from sluice.request import Tensor, decode_bytes
from sluice.reuse.answers import Outputs
from sluice.spec import BYTES, DATATYPES, NUMPY_TYPES
from sluice.telemetry.complaints import Complaint

USER, PASSWORD = "REDIS_USERNAME", "REDIS_PASSWORD"

# Seconds that a request waits for an answer from there, and for which it is left alone after a failure.
PATIENCE = 0.05
PAUSE = 5.0

# Under way at a time, over as many connections: more are no faster, and to make many at once takes longer than it may.
ASKING = WRITING = 4

# Says what kind of value follows; another form gets another one.
_PREFIX = b"sluice:answer:1:"

_log = logging.getLogger("sluice.reuse")
_T = TypeVar("_T")


class _Kept(msgspec.Struct, array_like=True):
    name: str
    datatype: str
    shape: list[int]
    data: bytes


_decoder = msgspec.msgpack.Decoder(list[_Kept])
_encoder = msgspec.msgpack.Encoder()


class Redis:
    """A store for `Reuse`."""

    def __init__(self, url: str, environment: dict[str, str] | None = None) -> None:
        try:
            from redis import asyncio as library
            from redis import exceptions
        except ModuleNotFoundError as error:
            raise ConfigError("response_cache.redis: needs the package redis: pip install 'sluice[redis]'") from error
        said = os.environ if environment is None else environment
        self._failures: tuple[type[BaseException], ...] = (exceptions.RedisError, OSError, asyncio.TimeoutError)
        try:
            self._client: Any = library.from_url(
                url,
                username=said.get(USER),
                password=said.get(PASSWORD),
                socket_timeout=1.0,
                socket_connect_timeout=1.0,
                retry_on_timeout=False,
                max_connections=2 * (ASKING + WRITING),  # a broken one may still be on its way out
            )
        except ValueError as error:
            raise ConfigError(f"response_cache.redis: {error}") from error
        self._asking = asyncio.Semaphore(ASKING)
        self._writing = asyncio.Semaphore(WRITING)
        self._not_before = 0.0
        self._complaint = Complaint(_log)

    async def get(self, key: bytes) -> Outputs | None:
        if not self._may_ask():
            return None
        try:
            async with asyncio.timeout(PATIENCE):
                await self._asking.acquire()
        except TimeoutError:  # others of ours are before it, which is no failure of Redis
            return None
        try:
            found = await self._ask(lambda: self._client.get(_PREFIX + key))
        finally:
            self._asking.release()
        return _outputs(found) if isinstance(found, bytes) else None

    async def put(self, key: bytes, outputs: Outputs, seconds: float) -> None:
        if not self._may_ask():
            return
        async with self._writing:
            value = _encoder.encode(
                [_Kept(one.name, one.datatype, list(one.shape), bytes(one.data)) for one in outputs]
            )
            await self._ask(lambda: self._client.set(_PREFIX + key, value, px=max(1, int(seconds * 1000))))

    async def close(self) -> None:
        try:
            await self._client.aclose()
        except self._failures:
            pass

    def _may_ask(self) -> bool:
        return time.monotonic() >= self._not_before

    async def _ask(self, question: Callable[[], Awaitable[_T]]) -> _T | None:
        if not self._may_ask():  # it may have failed while this one waited for its turn
            return None
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await question()
        except self._failures as error:
            if self._may_ask():  # the first of those that were under way tells for all
                why = str(error) or "it does not answer in time"
                text = f"response_cache.redis: is not used for a while: {why}"
                self._complaint.raised(text, sort=type(error).__name__)
            self._not_before = time.monotonic() + PAUSE
            return None
        if self._may_ask():  # else it was asked before another question failed
            self._complaint.over("response_cache.redis: is used again")
        return answer


def _outputs(value: bytes) -> Outputs | None:
    """What was kept; None if that is not what we would have written."""
    try:
        kept = _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not kept or not all(map(_is_whole, kept)):
        return None
    return tuple(Tensor(one.name, one.datatype, tuple(one.shape), one.data) for one in kept)


def _is_whole(one: _Kept) -> bool:
    """Whether its data are what its datatype and shape say."""
    if one.datatype not in DATATYPES or any(size < 0 for size in one.shape):
        return False
    count = math.prod(one.shape)
    if one.datatype != BYTES:
        return len(one.data) == count * NUMPY_TYPES[one.datatype].itemsize
    try:
        return len(decode_bytes(one.data, one.name)) == count
    except InvalidRequest:
        return False
