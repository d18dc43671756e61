"""A worker's lives with real processes: how they end, what follows, and that nobody who asked for something notices."""

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import psutil
import pytest
from apps import running

from sluice.app import App
from sluice.config.settings import Health, Models, Settings, Workers
from sluice.errors import (
    CircuitOpen,
    DeviceFault,
    Hung,
    ModelError,
    ModelFailed,
    NotReady,
    OutOfDeviceMemory,
    SluiceError,
    WorkerLost,
)
from sluice.health import Condition, Part
from sluice.request import InferRequest, Tensor
from sluice.workers.probe import work as made_up
from sluice.workers.worker import State, Worker

Opened = Callable[..., AbstractAsyncContextManager[App]]

MODEL = '''
import os
import time
from pathlib import Path


class Panic(BaseException):
    pass


class Model:
    """Echoes; certain values make it fail as devices fail, and a file can hold it up or spoil one worker."""

    kept = []

    def load(self, directory, parameters):
        self.gate = directory / "gate"
        self.spoiled = directory / "spoiled"

    def run(self, inputs):
        x = inputs["x"]
        if (x == -700).any():
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered ; GPU=0")
        if (x == -214).any():
            raise RuntimeError("CUDA failure 214: uncorrectable ECC error encountered ; GPU=0")
        if (x == -2).any():
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if (x == -666).any():
            raise RuntimeError("the number of the beast")
        if (x == -1).any():
            raise Panic("a panic of another language")
        while (x == -42).any():
            print("and on and on" * 1000)
        if (x == -777).any():
            self.kept.append(b"x" * (256 << 20))
        if self.spoiled.exists() and self.spoiled.read_text() == str(os.getpid()):
            raise RuntimeError("not this time")
        while self.gate.exists():
            (self.gate.parent / "held").touch()
            time.sleep(0.002)
        return {"y": x}
'''


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """The inner parts of a server with `odd`, a model as above, and `tagger`."""
    graphs.tagger(tmp_path)
    directory = graphs.python_echo(tmp_path, "odd", more="target_latency = 60")
    (directory / "1" / "model.py").write_text(MODEL)

    def open_app(count: int = 1, probe_interval: float = 0.0, **workers: Any) -> AbstractAsyncContextManager[App]:
        models = Models.model_validate({"repository": tmp_path, "python_directories": [tmp_path]})
        section = Workers.model_validate({"device": "cpu", "count": count, "hang_timeout": 60.0, **workers})
        return running(Settings(models=models, workers=section, health=Health(probe_interval=probe_interval)))

    return open_app


async def ask(app: App, *values: int, model: str = "odd") -> list[int]:
    data = np.array([values], "<i8")
    name = "x" if model == "odd" else "input_ids"
    response = await app.engine.infer(InferRequest(model, "", (Tensor(name, "INT64", data.shape, data.tobytes()),)))
    answer: list[int] = response.outputs[0].array()[0].tolist()
    return answer


async def until(condition: Callable[[], bool]) -> None:
    """Until it is true; every turn of the event loop may make it so."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


class Load:
    """Requests one after the other until told to stop, each with an answer of its own."""

    def __init__(self, app: App) -> None:
        self.answered = 0
        self._app = app
        self._stopping = False
        self._tasks = [asyncio.create_task(self._send(number)) for number in range(10, 14)]

    async def _send(self, client: int) -> None:
        while not self._stopping:
            number = 1000 + self.answered
            assert await ask(self._app, number, client) == [number, client]
            self.answered += 1

    async def more(self, count: int = 50) -> None:
        wanted = self.answered + count
        await until(lambda: self.answered >= wanted or any(task.done() for task in self._tasks))

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)


def restarts(app: App, cause: str) -> float:
    return app._metrics.registry.get_sample_value("sluice_worker_restarts_total", {"cause": cause}) or 0.0


def held(app: App) -> bool:
    """Every worker serves both models."""
    return all(worker.state is State.RUNNING and len(worker.serving) == 2 for worker in app.pool.workers)


def condition(app: App, kind: str) -> list[Condition]:
    return [part.condition for part in app.pool.parts() if part.kind == kind]


async def test_recycling_costs_no_request(opened: Opened) -> None:
    async with opened() as app:
        (worker,) = app.pool.workers
        load = Load(app)
        await load.more()
        for _ in range(2):
            before = worker.pid
            await worker.recycle("a test wants it")
            assert worker.pid != before
            assert held(app)
            await load.more()
        await load.stop()
        assert restarts(app, "recycled") == worker.restarts == 2
        await until(lambda: len(worker.pids) == 1)


async def test_a_version_that_is_being_loaded_is_waited_for(opened: Opened, tmp_path: Path) -> None:
    """A replacement takes over only when it holds what the old process does, however it came by it."""
    async with opened() as app:
        (worker,) = app.pool.workers
        graphs.tagger(tmp_path, "late", factor=9)
        before = worker.pid
        recycling = asyncio.create_task(worker.recycle("a test wants it"))
        await app.catalog.load("late")
        await recycling
        assert worker.pid != before
        assert await ask(app, 1, model="late") == [9]
        assert len(worker.serving) == 3


async def test_a_replacement_that_cannot_hold_everything_is_not_used(opened: Opened, tmp_path: Path) -> None:
    async with opened() as app:
        (worker,) = app.pool.workers
        before = worker.pid
        (tmp_path / "tagger" / "1" / "model.onnx").unlink()
        with pytest.raises(SluiceError, match="cannot load tagger"):
            await worker.recycle("a test wants it")
        assert worker.pid == before
        assert await ask(app, 5, model="tagger") == [10]
        await until(lambda: len(worker.pids) == 1)


async def test_a_standby_takes_over_at_once(opened: Opened) -> None:
    async with opened(standby=True) as app:
        (worker,) = app.pool.workers
        await until(lambda: "a standby is ready" in app.pool.parts()[0].reason)
        for number in range(2):
            load = Load(app)
            await load.more()
            first, second = worker.pids
            assert worker.pid == first
            os.kill(first, signal.SIGKILL)
            await until(lambda pid=first: worker.pid != pid)  # type: ignore[misc]
            assert worker.pid == second
            assert held(app)
            await load.more()
            await load.stop()
            assert restarts(app, "died") == number + 1
            await until(lambda: "a standby is ready" in app.pool.parts()[0].reason)


async def test_a_standby_holds_what_was_loaded_meanwhile(opened: Opened, tmp_path: Path) -> None:
    async with opened(standby=True) as app:
        (worker,) = app.pool.workers
        await until(lambda: "a standby is ready" in app.pool.parts()[0].reason)
        graphs.tagger(tmp_path, "late", factor=9)
        await app.catalog.load("late")
        await app.catalog.unload("tagger")
        os.kill(worker.pid, signal.SIGKILL)
        assert await ask(app, 1, model="late") == [9]
        assert await ask(app, 4) == [4]


async def test_too_much_memory_is_answered_and_the_worker_lives(opened: Opened) -> None:
    async with opened() as app:
        (worker,) = app.pool.workers
        before = worker.pid
        with pytest.raises(OutOfDeviceMemory, match="out of memory"):
            await ask(app, -2)
        assert await ask(app, 3) == [3]
        assert (worker.pid, worker.restarts) == (before, 0)


async def test_a_fault_of_the_device_replaces_the_process(opened: Opened) -> None:
    async with opened() as app:
        (worker,) = app.pool.workers
        before = worker.pid
        with pytest.raises(DeviceFault, match="illegal memory access"):
            await ask(app, -700)
        await until(lambda: held(app) and worker.pid != before)
        assert restarts(app, "device") == worker.restarts
        # One request, however often it was tried, is no reason to give the device up.
        assert worker.state is State.RUNNING
        assert condition(app, "device") == [Condition.DEGRADED]
        assert await ask(app, 3) == [3]


async def test_a_device_that_fails_again_and_again_is_out_of_service(opened: Opened) -> None:
    async with opened() as app:
        (worker,) = app.pool.workers
        asking = asyncio.create_task(ask(app, -214))
        others = [asyncio.create_task(ask(app, -214)) for _ in range(2)]
        await until(lambda: worker.state is State.OUT)
        assert "out of service for 300 s" in worker.reason
        assert condition(app, "device") == condition(app, "worker") == [Condition.FAILED]
        assert app.pool.states()["out"] == 1
        outcomes = await asyncio.gather(asking, *others, return_exceptions=True)
        assert all(isinstance(outcome, DeviceFault | NotReady) for outcome in outcomes)
        with pytest.raises(NotReady, match="out of service"):
            await ask(app, 1)


async def test_a_process_that_stands_still_is_replaced(opened: Opened) -> None:
    """Idle, nobody would notice but for the look at the process itself."""
    async with opened(hang_timeout=0.2) as app:
        (worker,) = app.pool.workers
        psutil.Process(worker.pid).suspend()
        await until(lambda: restarts(app, "hung") == 1 and held(app))
        assert await ask(app, 3) == [3]


async def test_a_process_that_stands_still_while_it_computes_is_replaced(opened: Opened, tmp_path: Path) -> None:
    gate, reached = tmp_path / "odd" / "1" / "gate", tmp_path / "odd" / "1" / "held"
    async with opened(hang_timeout=0.2, compute_timeout=60.0) as app:
        (worker,) = app.pool.workers
        gate.touch()
        asking = asyncio.create_task(ask(app, 3))
        await until(reached.exists)
        os.kill(worker.pid, signal.SIGSTOP)
        gate.unlink()
        assert await asking == [3]
        assert restarts(app, "hung") >= 1


async def test_a_model_that_never_stops_talking_stops_nobody_else(opened: Opened) -> None:
    async with opened(count=2, hang_timeout=0.5) as app:
        talking = asyncio.create_task(ask(app, -42))
        for number in range(20):
            assert await ask(app, number) == [number]
        with pytest.raises(Hung):
            await talking


async def test_what_is_no_exception_is_a_failure_like_any_other(opened: Opened) -> None:
    async with opened() as app:
        with pytest.raises(ModelFailed, match="a panic of another language"):
            await ask(app, -1)
        assert restarts(app, "died") == 0


async def test_settings_too_large_for_a_worker_are_refused(opened: Opened, tmp_path: Path) -> None:
    async with opened() as app:
        with (tmp_path / "odd" / "model.toml").open("a") as settings:
            settings.write(f'[parameters]\nendless = "{"x" * 300_000}"\n')
        with pytest.raises(ModelError, match="too large to be handed to a worker"):
            await app.catalog.load("odd")
        assert await ask(app, 3) == [3]


async def test_a_rested_worker_gives_signs_of_life(opened: Opened, tmp_path: Path) -> None:
    """What computes for ever though nobody asked for anything is noticed, before a request has to suffer."""
    gate, reached = tmp_path / "odd" / "1" / "gate", tmp_path / "odd" / "1" / "held"
    async with opened(probe_interval=0.01, hang_timeout=0.3) as app:
        gate.touch()
        await until(lambda: reached.exists() and restarts(app, "hung") >= 1)
        gate.unlink()
        await until(lambda: held(app))
        assert await ask(app, 3) == [3]
        assert app.catalog.statistics("odd")[0].execution_count == 1


async def test_a_worker_without_models_gives_signs_of_life_as_well(opened: Opened) -> None:
    async with opened(probe_interval=0.01, hang_timeout=0.2) as app:
        for name in ("odd", "tagger"):
            await app.catalog.unload(name)
        (worker,) = app.pool.workers
        psutil.Process(worker.pid).suspend()
        await until(lambda: restarts(app, "hung") == 1 and worker.state is State.RUNNING)


async def test_a_worker_that_takes_too_much_memory_is_replaced(opened: Opened) -> None:
    async with opened(max_memory=200 << 20) as app:
        (worker,) = app.pool.workers
        fresh = worker.memory()
        assert 0 < fresh < 200 << 20
        load = Load(app)
        await load.more()
        assert await ask(app, -777) == [-777]
        await until(lambda: restarts(app, "memory") == 1)
        await load.more()
        await load.stop()
        await until(lambda: len(worker.pids) == 1)
        assert worker.memory() < 200 << 20
        assert restarts(app, "died") == 0


async def test_a_fresh_process_that_takes_too_much_is_not_replaced_again(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(max_memory=1) as app:
        await until(lambda: "workers.max_memory is too small" in caplog.text)
        assert restarts(app, "memory") == 1
        assert await ask(app, 3) == [3]


async def test_a_worker_that_fails_where_others_succeed_gets_no_requests(opened: Opened, tmp_path: Path) -> None:
    async with opened(count=2) as app:
        bad, good = app.pool.workers
        (tmp_path / "odd" / "1" / "spoiled").write_text(str(bad.pid))

        async def one(*values: int) -> None:
            with contextlib.suppress(ModelFailed, CircuitOpen):
                assert await ask(app, *values) == list(values)

        for number in range(1000, 2000):
            # Of unequal shapes, so that they share no batch and both workers have something to do.
            await asyncio.gather(*(one(*([number] * length)) for length in range(1, 5)))
            if not bad.serving:
                break
        assert not bad.serving
        assert good.serving
        assert "of its batches failed" in bad.reason
        assert Condition.DEGRADED in condition(app, "worker")
        for number in range(20):
            assert await ask(app, 9000 + number) == [9000 + number]
        # Its tiny batch fails as well: another process takes its place, and proves that it can.
        await until(lambda: restarts(app, "device") == 1 and held(app))
        assert not bad.reason


async def test_a_model_that_fails_everywhere_is_no_workers_fault(opened: Opened) -> None:
    async with opened(count=2) as app:
        for _ in range(40):
            outcomes = await asyncio.gather(*(ask(app, -666) for _ in range(4)), return_exceptions=True)
            assert all(isinstance(outcome, ModelFailed) for outcome in outcomes)
        assert held(app)
        assert [worker.reason for worker in app.pool.workers] == ["", ""]


async def test_what_its_warm_up_hangs_is_served_without_it(opened: Opened, tmp_path: Path) -> None:
    """A model that hangs only lately must not keep its worker, and the other models, in a loop of restarts."""
    gate = tmp_path / "odd" / "1" / "gate"
    async with opened(compute_timeout=0.5) as app:
        (worker,) = app.pool.workers
        gate.touch()
        os.kill(worker.pid, signal.SIGKILL)
        await until(lambda: restarts(app, "hung") == 1 and held(app))
        gate.unlink()
        assert await ask(app, 3) == [3]
        assert await ask(app, 5, model="tagger") == [10]


async def test_what_kills_workers_when_it_is_loaded_is_left_out(opened: Opened, tmp_path: Path) -> None:
    async with opened() as app:
        (worker,) = app.pool.workers
        deadly = MODEL.replace("self.gate =", "os._exit(3)\n        self.gate =")
        (tmp_path / "odd" / "1" / "model.py").write_text(deadly)
        os.kill(worker.pid, signal.SIGKILL)
        await until(lambda: bool(worker.state is State.RUNNING and len(worker.serving) == 1 and worker.restarts > 3))
        assert await ask(app, 5, model="tagger") == [10]
        rows = {row.name: row for row in app.catalog.index()}
        assert "ended the worker's process 3 times" in rows["odd"].reason


async def test_without_descriptors_a_worker_waits_for_them(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as app:
        (worker,) = app.pool.workers
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            os.kill(worker.pid, signal.SIGKILL)
            await until(lambda: worker.restarts >= 3)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert caplog.text.count("it cannot be started: Too many open files") == 1
        await until(lambda: held(app))
        assert await ask(app, 3) == [3]


async def test_who_waits_for_a_worker_out_of_service_is_told(opened: Opened) -> None:
    async with opened() as app:
        (worker,) = app.pool.workers
        version = app.catalog.live("odd")
        work = made_up(version.spec, 1, 2)
        others = [asyncio.create_task(ask(app, -214)) for _ in range(3)]
        waiting = asyncio.create_task(worker.trial(version.lane.key, version.spec, [work] * 2))
        outcome = (await asyncio.gather(waiting, return_exceptions=True))[0]
        while worker.state is not State.OUT:
            with contextlib.suppress(WorkerLost):
                await worker.trial(version.lane.key, version.spec, [work])
        assert isinstance(outcome, WorkerLost | dict)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def test_trimming_keeps_answers_right(opened: Opened) -> None:
    async with opened(count=2) as app:
        load = Load(app)
        for _ in range(20):
            app.pool.trim()
            await load.more(5)
        await load.stop()
        assert restarts(app, "died") == 0


async def test_parts_say_what_there_is(opened: Opened) -> None:
    async with opened(count=2) as app:
        assert [(part.kind, part.name.split()[0], part.condition) for part in app.pool.parts()] == [
            ("worker", "cpu:0", Condition.OK),
            ("device", "cpu:0", Condition.OK),
            ("worker", "cpu:1", Condition.OK),
            ("device", "cpu:1", Condition.OK),
        ]
        worker: Worker = app.pool.workers[0]
        os.kill(worker.pid, signal.SIGKILL)
        await until(lambda: worker.state is not State.RUNNING)
        part: Part = app.pool.parts()[0]
        assert part.condition is not Condition.OK
        assert "died (signal SIGKILL)" in part.reason
        assert worker.reason in part.reason
        await worker.back()
        assert app.pool.parts()[0].condition is Condition.OK
