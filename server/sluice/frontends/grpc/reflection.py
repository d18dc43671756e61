"""Server reflection, so that tools such as grpcurl can call the server without its proto files."""

from __future__ import annotations

from collections.abc import AsyncIterator

from grpc_reflection.v1alpha.reflection import aio
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from sluice.frontends.grpc.call import Call, Methods, Send, parse
from sluice.frontends.grpc.streams import Streams
from sluice.pb.pool import POOL

# Version 1 is version 1alpha under another name: their messages are the same on the wire.
METHODS = tuple(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha"))


class ReflectionServicer:
    """Describes the given services from our own descriptor pool."""

    def __init__(self, services: tuple[str, ...], streams: Streams) -> None:
        self._servicer = aio.ReflectionServicer(services, pool=POOL)
        self._streams = streams

    def methods(self) -> Methods:
        return Methods(duplex_streams=dict.fromkeys(METHODS, self.info))

    async def info(self, call: Call, messages: AsyncIterator[bytes], send: Send) -> None:
        await self._streams.wait(self._answer(messages, send))

    async def _answer(self, messages: AsyncIterator[bytes], send: Send) -> None:
        async for reply in self._servicer.ServerReflectionInfo(_parsed(messages), None):
            await send(reply.SerializeToString())


async def _parsed(messages: AsyncIterator[bytes]) -> AsyncIterator[ServerReflectionRequest]:
    async for message in messages:
        yield parse(ServerReflectionRequest, message)
