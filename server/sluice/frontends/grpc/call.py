"""The waist between a gRPC implementation and the servicer: bytes and metadata in, bytes out, errors of our tree.

A method is cancelled by cancelling the task that runs it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from sluice.errors import InvalidRequest

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(slots=True)
class Call:
    """What a call brings beside its messages, and what its reply takes along."""

    metadata: Metadata = ()
    deadline: float | None = None  # monotonic seconds
    reply_metadata: Metadata = ()  # sent ahead of the reply, be it an answer or an error
    trailers: Metadata = ()  # sent behind an answer

    def value(self, key: str) -> str:
        """The first value of a metadata key; empty if it was not sent."""
        for name, value in self.metadata:
            if name == key and isinstance(value, str):
                return value
        return ""


Send = Callable[[bytes], Awaitable[None]]
Unary = Callable[[Call, bytes], Awaitable[bytes]]
ServerStream = Callable[[Call, bytes, Send], Awaitable[None]]
DuplexStream = Callable[[Call, AsyncIterator[bytes], Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Methods:
    """Methods by their full names, such as "/inference.GRPCInferenceService/ModelInfer"."""

    unary: Mapping[str, Unary] = field(default_factory=dict)
    server_streams: Mapping[str, ServerStream] = field(default_factory=dict)
    duplex_streams: Mapping[str, DuplexStream] = field(default_factory=dict)

    def __or__(self, other: Methods) -> Methods:
        return Methods(
            {**self.unary, **other.unary},
            {**self.server_streams, **other.server_streams},
            {**self.duplex_streams, **other.duplex_streams},
        )


M = TypeVar("M", bound=Message)


def decoded(request: type[M], method: Callable[[M], Awaitable[Message]]) -> Unary:
    """A method on protobuf messages as one on bytes."""

    async def call(_: Call, data: bytes) -> bytes:
        return (await method(parse(request, data))).SerializeToString()

    return call


def parse(kind: type[M], data: bytes) -> M:
    """A message from its bytes."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidRequest(f"the message is not a valid {kind.DESCRIPTOR.name}") from None
