"""Breaks things: a method for each kind of fault. A fault counts once it has happened, not once it was wanted."""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from loadtests.chaos import load as loading
from loadtests.chaos import machine, models
from loadtests.chaos.clients import Http
from loadtests.chaos.load import Load
from loadtests.chaos.machine import Server, SlowDisk
from loadtests.chaos.schedule import Fault
from loadtests.chaos.watch import Line, Watch

_ARMED_PATIENCE = 15.0  # for a batch to come by
_API_PATIENCE = 60.0
_LOAD_TRIES = 5
_LAST_PATIENCE = 30.0  # for the faults that are under way when the time is over
_DISK_RATE = 20 << 20  # bytes per second
_ARMED = frozenset({"raise", "crash", "exit", "hang", "spin", "device", "out-of-memory", "hog"})


class Injection:
    """Injects a round's faults into one server."""

    def __init__(self, server: Server, repository: Path, armed: Path, load: Load, watch: Watch) -> None:
        self.done: Counter[str] = Counter()
        self.skipped: dict[str, str] = {}  # kind -> why it cannot be had here
        self.notes: list[str] = []  # what the server did that it should not have
        self.disk = SlowDisk(repository)
        self.network = ""  # why there is none of ours; set by who knows
        self._server = server
        self._repository = repository
        self._armed = armed
        self._load = load
        self._watch = watch
        self._control = Http(server.http)
        self._numbers = itertools.count(1)
        self._versions = itertools.count(2)
        self._alone: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._ways: dict[str, Callable[[random.Random], Awaitable[bool]]] = {
            "kill": self._kill,
            "kill-busy": self._kill_busy,
            "stop": self._stop,
            "pause": self._pause,
            "reload": self._reload,
            "bad-reload": self._bad_reload,
            "unload": self._unload,
            "storm": self._storm,
            "slow-network": self._slow_network,
            "slow-disk": self._slow_disk,
        }

    async def run(self, faults: Sequence[Fault], start: float) -> None:
        """Every fault at its time; returns when all have happened or could not."""
        self.disk.hold([self._server.process.pid, *machine.children(self._server.process.pid)])
        tasks = []
        for fault in faults:
            await asyncio.sleep(max(0.0, start + fault.at - time.monotonic()))
            tasks.append(asyncio.get_running_loop().create_task(self._inject(fault)))
        if not tasks:
            return
        ended, late = await asyncio.wait(tasks, timeout=_LAST_PATIENCE)
        for task in late:
            task.cancel()
        if late:
            self.notes.append(f"{len(late)} faults could not happen within {_LAST_PATIENCE:g} s of their time")
            await asyncio.wait(late)
        for task in ended:
            task.result()

    async def _inject(self, fault: Fault) -> None:
        chance = random.Random(fault.seed)
        if fault.kind in _ARMED:
            happened = await self._arm(fault.kind)
        elif fault.kind.startswith("poison-"):
            happened = await self._poison(chance, fault.kind)
        else:
            happened = await self._ways[fault.kind](chance)
        self.done[fault.kind] += happened

    async def close(self) -> None:
        await self._control.close()

    # Signals.

    async def _kill(self, chance: random.Random) -> bool:
        workers = self._watch.live()
        if not workers:
            return False
        pid = chance.choice(workers)
        self._watch.killed(pid, "kill")
        return self._server.signal(pid, signal.SIGKILL)

    async def _kill_busy(self, chance: random.Random) -> bool:
        """A batch is held in the model, then its worker is killed; the request is expected to run again elsewhere."""
        held = await self._held()
        if held is None:
            return False
        self._watch.killed(held.pid, "kill-busy", held)
        return self._server.signal(held.pid, signal.SIGKILL)

    async def _held(self) -> Line | None:
        async with self._alone["hold"]:
            path = self._touch("hold")
            line = await self._watch.next("hold", _ARMED_PATIENCE)
            path.unlink(missing_ok=True)
            return line

    async def _stop(self, chance: random.Random) -> bool:
        workers = self._watch.live()
        if not workers:
            return False
        pid = chance.choice(workers)
        self._watch.recovery.struck(time.monotonic(), "stop")
        return self._server.signal(pid, signal.SIGSTOP)

    async def _pause(self, chance: random.Random) -> bool:
        workers = self._watch.live()
        if not workers:
            return False
        pid = chance.choice(workers)
        self._watch.recovery.struck(time.monotonic(), "pause")
        stopped = self._server.signal(pid, signal.SIGSTOP)
        await asyncio.sleep(0.1 + 0.7 * chance.random())
        self._server.signal(pid, signal.SIGCONT)
        return stopped

    # The model.

    def _touch(self, what: str) -> Path:
        path = self._armed / f"{what}.{next(self._numbers)}"
        path.touch()
        return path

    async def _arm(self, kind: str) -> bool:
        """The next batch of the whim does it. Those of one kind happen one after the other, so that each is seen."""
        async with self._alone[kind]:
            path = self._touch(kind)
            try:
                return await self._watch.next(kind, _ARMED_PATIENCE) is not None
            finally:
                path.unlink(missing_ok=True)

    async def _poison(self, chance: random.Random, kind: str) -> bool:
        order = {"poison-raise": "raise", "poison-hang": "hang"}.get(kind) or chance.choice(("exit", "crash"))
        question = self._load.poison(chance, order)
        for protocol in ("http", "grpc"):
            await self._load.ask(question, protocol)
        return self._watch.doings[order] > 0

    # Models come and go.

    async def _change(self, model: str, verb: str = "load") -> tuple[int, str]:
        """Status and text; what the API does not answer is noted, with status 0."""
        try:
            async with asyncio.timeout(_API_PATIENCE):
                path = f"/v2/repository/models/{model}/{verb}"
                status, _, content = await self._control.post(path, b"{}", {"Content-Type": "application/json"})
        except (TimeoutError, OSError) as error:
            self.notes.append(f"{verb} of {model} was not answered: {error!r}")
            return 0, ""
        return status, content.decode(errors="replace")[:200]

    async def _reload(self, chance: random.Random) -> bool:
        async with self._alone["tagger"]:
            epochs = self._load.epochs["tagger"]
            before = max(epochs.current)
            version = next(self._versions)
            models.write_tagger(self._repository, "tagger", version)
            epochs.begin(version, time.monotonic())
            status, text = await self._change("tagger")
            if status == 200:
                epochs.only(version, time.monotonic())
                shutil.rmtree(self._repository / "tagger" / str(before))
            else:  # which of the two is served now is not known, and the next one ends it
                self.notes.append(f"reload: {status} {text}")
            return True

    async def _bad_reload(self, chance: random.Random) -> bool:
        """A damaged file must be refused, and the version before it goes on."""
        async with self._alone["tagger"]:
            directory = self._repository / "tagger" / str(next(self._versions))
            directory.mkdir()
            (directory / "model.onnx").write_bytes(chance.randbytes(300))
            status, text = await self._change("tagger")
            shutil.rmtree(directory)
            if not 400 <= status < 500:
                self.notes.append(f"a damaged version was loaded: {status} {text}")
            return True

    async def _unload(self, chance: random.Random) -> bool:
        async with self._alone["spare"]:
            status, text = await self._change("spare", "unload")
            if status != 200:
                self.notes.append(f"unload: {status} {text}")
            await asyncio.sleep(0.2 * chance.random())
            for _ in range(_LOAD_TRIES):  # a worker may die under it, or two: it is answered, and asked again
                status, text = await self._change("spare", "load")
                if status == 200:
                    return True
                self.notes.append(f"load: {status} {text}")
                await asyncio.sleep(1)
            return True

    # The world around.

    async def _storm(self, chance: random.Random) -> bool:
        await loading.storm(self._load, chance)
        return True

    async def _slow_network(self, chance: random.Random) -> bool:
        if self.network:
            self.skipped["slow-network"] = self.network
            return False
        async with self._alone["network"]:
            with machine.slow_network(8) as slowed:
                await asyncio.sleep(1 + chance.random())
        if not slowed:
            self.skipped["slow-network"] = "tc cannot limit the loopback device's bandwidth"
        return slowed

    async def _slow_disk(self, chance: random.Random) -> bool:
        if self.disk.unable:
            self.skipped["slow-disk"] = self.disk.unable
            return False
        async with self._alone["disk"]:
            with self.disk.slow(_DISK_RATE):
                workers = self._watch.live()
                if workers:
                    pid = chance.choice(workers)
                    self._watch.killed(pid, "slow-disk")
                    self._server.signal(pid, signal.SIGKILL)
                await asyncio.sleep(5)
        return True
