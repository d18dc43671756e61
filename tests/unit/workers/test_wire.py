"""Messages survive their bytes, and a real worker process at the far end of the socket understands and answers them."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import graphs
import msgspec
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.spec import BYTES, NUMPY_TYPES, Port
from sluice.workers import wire
from sluice.workers.devices import Device
from sluice.workers.process import Process
from sluice.workers.slots import Slot, aligned, array_at
from sluice.workers.wire import Done, Failed, Load, Loaded, Logged, Overflow, Place, Refused, Run, Started, Wanted

NAMES = st.text(max_size=20)
SIZES = st.integers(0, 2**62)
SHAPES = st.lists(SIZES, max_size=4).map(tuple)
PORTS = st.lists(
    st.builds(
        wire.PortMessage,
        NAMES,
        st.sampled_from([*NUMPY_TYPES, BYTES]),
        st.lists(st.none() | st.integers(0, 9) | NAMES, max_size=4).map(tuple),
    ),
    max_size=3,
).map(tuple)
PLACES = st.builds(Place, NAMES, NAMES, SHAPES, SIZES, SIZES)
SEVERAL = st.lists(PLACES, max_size=3).map(tuple)
TO_WORKER: st.SearchStrategy[wire.ToWorker] = st.one_of(
    st.builds(
        Load,
        NAMES,
        NAMES,
        NAMES,
        NAMES,
        st.dictionaries(NAMES, NAMES, max_size=3),
        NAMES,
        SIZES,
        st.none() | NAMES,
        PORTS,
        PORTS,
        st.binary(max_size=32),
        st.lists(NAMES, max_size=3).map(tuple),
    ),
    st.builds(
        Run,
        SIZES,
        NAMES,
        st.integers(0, 1),
        SIZES,
        SEVERAL,
        st.lists(st.builds(Wanted, NAMES, st.none() | PLACES), max_size=3).map(tuple),
        SIZES,
    ),
    st.builds(wire.Unload, NAMES),
    st.builds(wire.Ping),
    st.builds(wire.Trim),
    st.builds(wire.Stop),
)
TO_SERVER: st.SearchStrategy[wire.ToServer] = st.one_of(
    st.builds(Started, SIZES),
    st.builds(Loaded, NAMES, NAMES, PORTS, PORTS),
    st.builds(Refused, NAMES, NAMES, NAMES),
    st.builds(wire.Pong),
    st.builds(Done, SIZES, SEVERAL, st.floats(0, 1e9)),
    st.builds(Overflow, SIZES, SIZES),
    st.builds(Failed, SIZES, NAMES, NAMES),
    st.builds(Logged, st.integers(0, 50), NAMES, NAMES),
)


@given(TO_WORKER)
def test_messages_to_a_worker_survive(message: wire.ToWorker) -> None:
    assert wire.decode_for_worker(wire.encode(message)) == message


def test_what_is_shown_of_a_load_tells_no_secret(tmp_path: Path) -> None:
    message = msgspec.structs.replace(load(tmp_path / "model.onnx"), secret=b"hidden")
    assert "hidden" not in f"{message!r} {message}"


@given(TO_SERVER)
def test_messages_to_the_server_survive(message: wire.ToServer) -> None:
    assert wire.decode_for_server(memoryview(wire.encode(message))) == message


@given(PORTS)
def test_ports_survive(messages: tuple[wire.PortMessage, ...]) -> None:
    assert wire.from_ports(wire.to_ports(messages)) == messages


class FarEnd:
    """A real worker process and its two slots."""

    def __init__(self) -> None:
        self.slots = [Slot.create(f"test-wire-{number}") for number in range(2)]
        self.process = Process(Device("cpu", 0, 1), self._received, self._gone)
        self.heard: asyncio.Queue[wire.ToServer] = asyncio.Queue()
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def _received(self, message: wire.ToServer) -> None:
        if not isinstance(message, Logged):
            self.heard.put_nowait(message)

    def _gone(self, how: str) -> None:
        self.ended.set_result(how)

    async def answer(self, message: wire.ToWorker) -> wire.ToServer:
        self.process.send(message)
        return await asyncio.wait_for(self.heard.get(), 60)

    async def close(self) -> None:
        await self.process.stop(10)
        for slot in self.slots:
            slot.close()


@pytest.fixture
async def far_end() -> AsyncIterator[FarEnd]:
    far = FarEnd()
    far.process.start(far.slots)
    started = await asyncio.wait_for(far.heard.get(), 60)
    assert started == Started(far.process.pid)
    yield far
    await far.close()


def load(path: Path, key: str = "k", backend: str = "onnxruntime", ports: tuple[Port, ...] = ()) -> Load:
    described = wire.from_ports(ports)
    platform = "python" if ports else None
    return Load(key, backend, str(path), str(path.parent), {}, "cpu", 1, platform, described, described)


def run(slot: Slot, *, key: str = "k", number: int = 1, in_place: bool = True) -> Run:
    """Two floats in, two floats out, written in place or where the worker likes."""
    slot.grow(256)
    source = Place("INPUT0", "FP32", (1, 2), 0, 8)
    array_at(slot.memory, source)[...] = [[1.5, -2.5]]
    target = Place("OUTPUT0", "FP32", (1, 2), 64, 8) if in_place else None
    return Run(number, key, 0, slot.size, (source,), (Wanted("OUTPUT0", target),), 128)


async def test_a_model_is_loaded_run_and_unloaded(far_end: FarEnd, tmp_path: Path) -> None:
    path = graphs.identity(tmp_path)
    loaded = await far_end.answer(load(path))
    port = wire.PortMessage("INPUT0", "FP32", ("batch", "n"))
    assert loaded == Loaded("k", "onnxruntime_onnx", (port,), (wire.PortMessage("OUTPUT0", "FP32", ("batch", "n")),))
    for number, in_place in enumerate((True, False)):
        done = await far_end.answer(run(far_end.slots[0], number=number, in_place=in_place))
        assert isinstance(done, Done)
        assert done.number == number
        assert done.outputs[0].offset == (64 if in_place else 128)
        assert array_at(far_end.slots[0].memory, done.outputs[0]).tolist() == [[1.5, -2.5]]
    far_end.process.send(wire.Unload("k"))
    failed = await far_end.answer(run(far_end.slots[0], number=7))
    assert isinstance(failed, Failed)
    assert (failed.number, failed.fault) == (7, "model")


async def test_outputs_that_do_not_fit_ask_for_a_larger_slot(far_end: FarEnd, tmp_path: Path) -> None:
    await far_end.answer(load(graphs.identity(tmp_path)))
    slot = far_end.slots[0]
    slot.grow(1)
    elements = slot.size // 4
    source = Place("INPUT0", "FP32", (1, elements), 0, slot.size)
    array_at(slot.memory, source)[...] = np.arange(elements)
    message = Run(1, "k", 0, slot.size, (source,), (Wanted("OUTPUT0", None),), slot.size)
    overflow = await far_end.answer(message)
    assert overflow == Overflow(1, aligned(2 * slot.size))
    assert isinstance(overflow, Overflow)
    slot.grow(overflow.size)
    done = await far_end.answer(Run(1, "k", 0, slot.size, message.inputs, message.outputs, message.free))
    assert isinstance(done, Done)
    assert array_at(slot.memory, done.outputs[0]).tolist() == [list(range(elements))]


async def test_a_file_that_is_no_model_is_refused_with_a_reason(far_end: FarEnd, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"nothing of the kind")
    refused = await far_end.answer(load(path))
    assert isinstance(refused, Refused)
    assert "model.onnx" in refused.reason
    unknown = await far_end.answer(load(path, "other", "abacus"))
    assert isinstance(unknown, Refused)
    assert "abacus" in unknown.reason


async def test_what_a_model_raises_comes_back(far_end: FarEnd, tmp_path: Path) -> None:
    path = graphs.python_echo(tmp_path) / "1" / "model.py"
    ports = (Port("x", "INT64", (None, None)),)
    described = (Port("y", "INT64", (None, None)),)
    message = Load(
        "k", "python", str(path), str(path.parent), {}, "cpu", 1, "python",
        wire.from_ports(ports), wire.from_ports(described),
    )  # fmt: skip
    assert isinstance(await far_end.answer(message), Loaded)
    slot = far_end.slots[1]
    slot.grow(64)
    place = Place("x", "INT64", (1, 1), 0, 8)
    array_at(slot.memory, place)[...] = 666
    failed = await far_end.answer(Run(3, "k", 1, slot.size, (place,), (Wanted("y", None),), 64))
    assert failed == Failed(3, failed.reason, "model")  # type: ignore[union-attr]
    assert isinstance(failed, Failed)
    assert "the number of the beast" in failed.reason
    array_at(slot.memory, place)[...] = 999
    far_end.process.send(Run(4, "k", 1, slot.size, (place,), (Wanted("y", None),), 64))
    assert await asyncio.wait_for(far_end.ended, 60) == "exit code 9"


async def test_it_ends_when_told(far_end: FarEnd) -> None:
    pid = far_end.process.pid
    far_end.process.send(wire.Stop())
    assert await asyncio.wait_for(far_end.ended, 60) == "exit code 0"
    assert not psutil.pid_exists(pid)
    far_end.process.send(wire.Stop())  # nobody hears it, and nobody minds


async def test_its_death_is_noticed(far_end: FarEnd) -> None:
    os.kill(far_end.process.pid, signal.SIGKILL)
    assert await asyncio.wait_for(far_end.ended, 60) == "signal SIGKILL"


async def test_signals_meant_for_the_server_do_not_end_it(far_end: FarEnd, tmp_path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(far_end.process.pid, number)
    assert isinstance(await far_end.answer(load(graphs.identity(tmp_path))), Loaded)


async def test_a_process_that_does_not_stop_is_killed(far_end: FarEnd) -> None:
    os.kill(far_end.process.pid, signal.SIGSTOP)
    await far_end.process.stop(0.01)
    assert far_end.ended.result() == "signal SIGKILL"
