"""A worker process: reads messages, runs models on its slots' memory, writes outputs back in place.

The law of this file: it runs in a fresh interpreter with one device visible, imports nothing above `workers`, and
knows neither requests nor queues. It ends when told, when the server's end of the socket closes, and, by the kernel's
hand, when the server dies in the middle of a computation. The main thread computes; models load in another one, so
that a version loads while others serve.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from sluice.backends import base
from sluice.errors import SluiceError
from sluice.request import encode_bytes
from sluice.spec import BYTES, NUMPY_TYPES, Signature
from sluice.workers import faults, wire
from sluice.workers.slots import Slot, aligned, array_at

_PR_SET_PDEATHSIG = 1


class Worker:
    """The state of the process: its slots and the models it holds."""

    def __init__(self, connection: socket.socket, slots: list[Slot]) -> None:
        self._connection = connection
        self._slots = slots
        self._models: dict[str, base.Backend] = {}
        self._loading: set[str] = set()

    def serve(self) -> None:
        """Until told to stop or the server is gone."""
        self._send(wire.Started(os.getpid()))
        packet = bytearray(wire.MAX_PACKET)
        view = memoryview(packet)
        while size := self._connection.recv_into(packet):
            match wire.decode_for_worker(view[:size]):
                case wire.Run() as run:
                    self._run(run)
                case wire.Load() as load:
                    self._loading.add(load.key)
                    threading.Thread(target=self._load, args=(load,), daemon=True).start()
                case wire.Unload(key):
                    self._loading.discard(key)
                    model = self._models.pop(key, None)
                    if model is not None:
                        model.close()
                case wire.Ping():
                    self._send(wire.Pong())
                case wire.Trim():
                    self._trim()
                case wire.Stop():
                    return

    def _send(self, message: wire.ToServer) -> None:
        self._connection.send(wire.encode(message))

    def _load(self, load: wire.Load) -> None:
        try:
            model = base.create(load.backend)
            signature = model.load(_source(load))
        except BaseException as error:  # a panic of a library in Rust is no Exception
            self._send(wire.Refused(load.key, _reason(error), faults.classify(error)))
        else:
            if load.key not in self._loading:  # nobody wants it any more
                model.close()
                return
            self._models[load.key] = model
            inputs, outputs = wire.from_ports(signature.inputs), wire.from_ports(signature.outputs)
            self._send(wire.Loaded(load.key, signature.platform, inputs, outputs))

    def _run(self, run: wire.Run) -> None:
        try:
            reply = self._compute(run)
        except BaseException as error:
            reply = wire.Failed(run.number, _reason(error), faults.classify(error))
        self._send(reply)

    def _trim(self) -> None:
        for model in list(self._models.values()):
            trim = getattr(model, "trim", None)
            if callable(trim):
                trim()
        with contextlib.suppress(AttributeError):  # another C library than the GNU one
            ctypes.CDLL(None).malloc_trim(0)

    def _compute(self, run: wire.Run) -> wire.ToServer:
        slot = self._slots[run.slot]
        slot.attach(run.slot_size)
        inputs = {place.name: array_at(slot.memory, place) for place in run.inputs}
        places = {
            wanted.name: None if wanted.place is None else array_at(slot.memory, wanted.place) for wanted in run.outputs
        }
        began = time.perf_counter()
        results = self._models[run.key].run(inputs, places)
        seconds = time.perf_counter() - began
        outputs, free = [], run.free
        for wanted in run.outputs:
            place = wanted.place
            if place is None:
                place, data = _placed(wanted.name, results[wanted.name], free)
                free = aligned(place.offset + place.size)
                if free <= slot.size:
                    slot.memory[place.offset : place.offset + place.size] = data
            outputs.append(place)
        if free > slot.size:
            return wire.Overflow(run.number, free)
        return wire.Done(run.number, tuple(outputs), seconds)


def _reason(error: BaseException) -> str:
    text = error.message if isinstance(error, SluiceError) else f"{type(error).__name__}: {error}"
    return text[: wire.MAX_REASON]


_OIP_TYPES = {dtype: name for name, dtype in NUMPY_TYPES.items() if name != "BF16"}


def _placed(name: str, array: base.Array, offset: int) -> tuple[wire.Place, Any]:
    """Where an output of unforeseen shape goes, and its bytes. BF16 looks like UINT16 here; the server knows better."""
    if array.dtype == object:
        data: Any = encode_bytes(array.reshape(-1))
        return wire.Place(name, BYTES, array.shape, offset, len(data)), data
    contiguous = np.ascontiguousarray(array)
    place = wire.Place(name, _OIP_TYPES[contiguous.dtype], array.shape, offset, contiguous.nbytes)
    return place, contiguous.reshape(-1).view(np.uint8).data


class _LogToServer(logging.Handler):
    """Hands what is logged here to the server, which knows how and whether to write it."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        message = wire.Logged(record.levelno, record.name, self.format(record)[: wire.MAX_REASON])
        with contextlib.suppress(OSError):
            self._connection.send(wire.encode(message))


def _source(load: wire.Load) -> base.Source:
    signature = None
    if load.platform is not None:
        signature = Signature(load.platform, wire.to_ports(load.inputs), wire.to_ports(load.outputs))
    path, directory = Path(load.path), Path(load.directory)
    return base.Source(
        path, directory, load.parameters, load.device, load.threads, signature, load.secret, load.externals
    )


def main(arguments: list[str]) -> None:
    """`child <server's pid> <socket> <slot>...`, the numbers of inherited file descriptors."""
    server, connection, *slots = (int(argument) for argument in arguments)
    # Without this a worker would finish a long computation before it noticed that the server is gone.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        return
    # A terminal's interrupt reaches the whole process group; the server decides when workers stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = socket.socket(fileno=connection)
    logging.basicConfig(level=logging.INFO, handlers=[_LogToServer(channel)], format="%(message)s")
    try:
        Worker(channel, [Slot(descriptor) for descriptor in slots]).serve()
    except ConnectionError:
        pass  # the server died between two messages
    # Frameworks' exit handlers take long and sometimes crash; there is nothing left to clean up.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
