"""Every message between the server and a worker, as small frozen classes; tensors never travel here, only places in
a slot.

Messages are msgpack in packets of a SOCK_SEQPACKET socket: packets keep their borders, and an empty read means the
other side is gone. The packet that carries a message is also the doorbell. An eventfd would ring about 30 µs sooner
(116 against 146 µs round trip), but would need the message in the slot as well, a second thing to wait for and a
third to notice a death by; a batch computes for milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sluice.spec import Port

# A packet larger than this would not fit the socket's buffer; only reasons have no natural bound and are cut.
MAX_PACKET = 128 << 10
MAX_REASON = 4 << 10


class Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of all."""


class PortMessage(msgspec.Struct, frozen=True, array_like=True):
    """`spec.Port` on the wire."""

    name: str
    datatype: str
    dims: tuple[int | str | None, ...]


def from_ports(ports: Iterable[Port]) -> tuple[PortMessage, ...]:
    return tuple(PortMessage(port.name, port.datatype, port.dims) for port in ports)


def to_ports(messages: Iterable[PortMessage]) -> tuple[Port, ...]:
    return tuple(Port(message.name, message.datatype, message.dims) for message in messages)


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a tensor lies in a slot; BYTES are in their wire form."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    offset: int
    size: int


class Wanted(msgspec.Struct, frozen=True, array_like=True):
    """An output to compute; without a place the worker finds one behind everything else."""

    name: str
    place: Place | None


# From the server to the worker.


class Load(Message, frozen=True, tag=True, array_like=True):
    key: str
    backend: str
    path: str
    directory: str
    parameters: dict[str, str]
    device: str
    threads: int
    platform: str | None  # these three: a signature the file does not tell
    inputs: tuple[PortMessage, ...]
    outputs: tuple[PortMessage, ...]
    secret: bytes = b""  # these two: of a version that is encrypted
    externals: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Load({self.key!r})"


class Unload(Message, frozen=True, tag=True, array_like=True):
    key: str


class Run(Message, frozen=True, tag=True, array_like=True):
    number: int
    key: str
    slot: int
    slot_size: int  # the slot may have grown since the last time
    inputs: tuple[Place, ...]
    outputs: tuple[Wanted, ...]
    free: int  # offset from where outputs without a place may be written


class Ping(Message, frozen=True, tag=True, array_like=True):
    """Answer: a worker that holds nothing to compute with can prove no more than that it reads."""


class Trim(Message, frozen=True, tag=True, array_like=True):
    """Give back memory that is kept only to be quick."""


class Stop(Message, frozen=True, tag=True, array_like=True):
    pass


# From the worker to the server.


class Started(Message, frozen=True, tag=True, array_like=True):
    pid: int


class Loaded(Message, frozen=True, tag=True, array_like=True):
    key: str
    platform: str
    inputs: tuple[PortMessage, ...]
    outputs: tuple[PortMessage, ...]


class Refused(Message, frozen=True, tag=True, array_like=True):
    """The version cannot be loaded; `fault` as in `Failed`."""

    key: str
    reason: str
    fault: str


class Pong(Message, frozen=True, tag=True, array_like=True):
    pass


class Done(Message, frozen=True, tag=True, array_like=True):
    number: int
    outputs: tuple[Place, ...]
    seconds: float


class Overflow(Message, frozen=True, tag=True, array_like=True):
    """The outputs do not fit the slot, which must have `size` bytes for that."""

    number: int
    size: int


class Failed(Message, frozen=True, tag=True, array_like=True):
    """The model raised. `fault`: whose fault it was, one of `faults.Fault`."""

    number: int
    reason: str
    fault: str


class Logged(Message, frozen=True, tag=True, array_like=True):
    """A line for the server's log; a worker writes none of its own."""

    level: int
    logger: str
    text: str


ToWorker = Load | Unload | Run | Ping | Trim | Stop
ToServer = Started | Loaded | Refused | Done | Overflow | Failed | Pong | Logged

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_to_server: msgspec.msgpack.Decoder[ToServer] = msgspec.msgpack.Decoder(ToServer)


def encode(message: ToWorker | ToServer) -> bytes:
    return _encoder.encode(message)


def decode_for_worker(packet: bytes | bytearray | memoryview) -> ToWorker:
    return _to_worker.decode(packet)


def decode_for_server(packet: bytes | bytearray | memoryview) -> ToServer:
    return _to_server.decode(packet)
