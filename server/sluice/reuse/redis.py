"""Answers that replicas keep for one another, in Redis.

It only ever helps: a Redis that is slow, full or gone costs a request a moment at most, and is then left alone for a
while. What it says is checked, for others may write there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

import msgspec

from sluice.errors import ConfigError
from sluice.request import Tensor
from sluice.reuse.answers import Outputs
from sluice.spec import DATATYPES
from sluice.telemetry.complaints import Complaint

USER, PASSWORD = "REDIS_USERNAME", "REDIS_PASSWORD"

# Seconds that a request waits for an answer from there, and for which it is left alone after a failure.
PATIENCE = 0.05
PAUSE = 5.0

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
            )
        except ValueError as error:
            raise ConfigError(f"response_cache.redis: {error}") from error
        self._not_before = 0.0
        self._complaint = Complaint(_log)

    async def get(self, key: bytes) -> Outputs | None:
        found = await self._ask(self._client.get(_PREFIX + key)) if self._may_ask() else None
        return _outputs(found) if isinstance(found, bytes) else None

    async def put(self, key: bytes, outputs: Outputs, seconds: float) -> None:
        if self._may_ask():
            value = _encoder.encode(
                [_Kept(one.name, one.datatype, list(one.shape), bytes(one.data)) for one in outputs]
            )
            await self._ask(self._client.set(_PREFIX + key, value, px=max(1, int(seconds * 1000))))

    async def close(self) -> None:
        try:
            await self._client.aclose()
        except self._failures:
            pass

    def _may_ask(self) -> bool:
        return time.monotonic() >= self._not_before

    async def _ask(self, question: Awaitable[_T]) -> _T | None:
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await question
        except self._failures as error:
            self._not_before = time.monotonic() + PAUSE
            why = str(error) or "it does not answer in time"
            self._complaint.raised(f"response_cache.redis: is not used for a while: {why}", sort=type(error).__name__)
            return None
        self._complaint.over("response_cache.redis: is used again")
        return answer


def _outputs(value: bytes) -> Outputs | None:
    """What was kept; None if that is not what we would have written."""
    try:
        kept = _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not kept or any(one.datatype not in DATATYPES for one in kept):
        return None
    return tuple(Tensor(one.name, one.datatype, tuple(one.shape), one.data) for one in kept)
