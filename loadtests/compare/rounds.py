"""The run: in each round every server once, at the rate that is its next, in random order, beside the bare model."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from loadtests.children import Child
from loadtests.compare.checking import CheckError, Embeddings, wait_until_right
from loadtests.compare.contestants import MODEL_NAME, Contestant, Setting, request, start
from loadtests.compare.processes import ServerProcess, cpu_seconds, free_ports, machine_seconds
from loadtests.compare.records import Alone, Ceiling, Measurement, Options, Problem, Record, Run
from loadtests.compare.steps import Step, next_step
from loadtests.compare.traces import trace
from sluice.bench.generators import Generators
from sluice.bench.samples import Sample, percentile
from sluice.bench.senders import Wire
from sluice.bench.server import Counters, Model
from sluice.bench.traffic import BenchError, mix

PAUSED = frozenset({"litserve", "ray"})  # they poll; the others cost nothing while nobody asks them
_PATIENCE = 10.0  # targets, after which a client gives a request up
_SETTLE_SECONDS = 20.0
_FIRST_SECONDS = 3.0  # of gentle load on each mix after a start, for what a server learns or allocates lazily
_FIRST_SHARE = 0.15  # of the ceiling
_MOST_FAILURES = 2  # starts that may fail before a server is left out
CEILING_TEXTS = {"lognormal": 512, "bimodal": 96}  # two to three seconds on two cores

Say = Callable[[str], None]


class BareModel:
    """The ceiling's processes, one for each core that the servers' workers have."""

    def __init__(self, model: Path, workers: int) -> None:
        self._children = [Child("compare.ceiling", str(model), str(each), str(workers)) for each in range(workers)]
        first, *_ = [child.hear() for child in self._children]
        self.alone: list[tuple[int, float]] = [(length, seconds) for length, seconds in first["alone"]]

    def rate(self, name: str) -> float:
        """Texts per second of all of them together."""
        for child in self._children:
            child.tell({"mix": name, "texts": CEILING_TEXTS[name]})
        return float(sum(child.hear()["rate"] for child in self._children))

    def close(self) -> None:
        for child in self._children:
            child.close()


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds of CPU that were used, by whom, and of the wall's clock."""

    server: float
    generators: float
    machine: float
    wall: float

    def since(self, before: Clocks) -> Clocks:
        return Clocks(
            self.server - before.server,
            self.generators - before.generators,
            self.machine - before.machine,
            self.wall - before.wall,
        )


def counters(server: ServerProcess) -> Counters | None:
    """What the server says of its batches, if it does."""
    if not server.how.address.grpc:
        return None
    return Model(server.how.address, MODEL_NAME, metrics_url=server.how.metrics).counters()


def outcomes(samples: Sequence[Sample]) -> dict[str, Any]:
    """What became of each request, as a measurement holds it."""
    return {
        "lengths": [sample.length for sample in samples],
        "milliseconds": [
            round(sample.seconds * 1000, 1) if sample.outcome == "answered" else None for sample in samples
        ],
        "outcomes": dict(Counter(str(sample.outcome) for sample in samples)),
        "failures": dict(Counter(sample.detail for sample in samples if sample.detail).most_common(3)),
    }


@dataclass(slots=True)
class Rounds:
    """One run and everything it has running."""

    run: Run
    contestants: list[Contestant]
    setting: Setting
    wanted: Embeddings
    bare: BareModel
    generators: Generators
    write: Callable[[Iterable[Record]], None]
    say: Say
    measured: list[Measurement] = field(default_factory=list)
    round: int = 0
    _servers: dict[str, ServerProcess] = field(default_factory=dict)
    _failures: Counter[str] = field(default_factory=Counter)
    _wires: dict[str, Wire] = field(default_factory=dict)

    @property
    def options(self) -> Options:
        return self.run.options

    def steps(self, contestant: Contestant) -> dict[str, Step]:
        """What is left of it to measure in this round, by mix."""
        if self._failures[contestant.name] > _MOST_FAILURES:
            return {}
        alone = Alone(self.run)
        found = {}
        for name in self.options.mixes:
            measured = [each for each in self.measured if (each.name, each.mix) == (contestant.name, name)]
            step = next_step(measured, self.options.ladder(self.run.ceilings[name]), self.options, alone)
            if step is not None:
                found[name] = step
        return found

    def go(self, after_round: Callable[[], None]) -> None:
        """Rounds until nothing is left."""
        while True:
            todo = [(each, steps) for each in self.contestants if (steps := self.steps(each))]
            if not todo:
                return
            self.round += 1
            for name in self.options.mixes:
                ceiling = Ceiling(round=self.round, mix=name, rate=self.bare.rate(name))
                self.write([ceiling])
                self.say(f"round {self.round}: ceiling {ceiling.rate:.1f}/s of {name}")
            order = np.random.default_rng((self.options.seed, self.round)).permutation(len(todo))
            for place in order:
                self._visit(*todo[place])
            after_round()

    def _visit(self, contestant: Contestant, steps: dict[str, Step]) -> None:
        try:
            server = self._awake(contestant)
            for name, step in steps.items():
                self._measure(contestant, server, name, step)
                if not self._settled(contestant, server):
                    self.say(f"  {contestant.name} still computes; it is started anew")
                    self._drop(contestant)
                    server = self._awake(contestant)
            if contestant.peer in PAUSED:
                server.pause()
        except (CheckError, BenchError, OSError) as error:
            self._failures[contestant.name] += 1
            self._drop(contestant)
            self.write([Problem(round=self.round, name=contestant.name, text=str(error)[:1000])])
            self.say(f"  {contestant.name}: {error}")

    def _awake(self, contestant: Contestant) -> ServerProcess:
        server = self._servers.get(contestant.name)
        if server is not None and server.running:
            server.resume()
            return server
        self._drop(contestant)
        server = ServerProcess(start(contestant, self.setting, free_ports(3)))
        self._servers[contestant.name] = server
        server.start()
        took = wait_until_right(contestant, server, self.wanted)
        self._wires[contestant.name] = self._wire(contestant, server)
        self.say(f"  {contestant.name} started in {took:.0f} s")
        for name in self.options.mixes:
            rate = self.run.ceilings[name] * _FIRST_SHARE
            self.generators.run(self._wires[contestant.name], trace(name, rate, _FIRST_SECONDS, seed=0))
        self._settled(contestant, server)
        return server

    def _settled(self, contestant: Contestant, server: ServerProcess) -> bool:
        """Wait until its load is worked off: no more CPU, or of one that polls, a quick answer to a request alone."""
        if contestant.peer not in PAUSED:
            return server.settle(_SETTLE_SECONDS)
        wire = self._wires[contestant.name]
        end = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < end:
            (sample,) = self.generators.run(wire, [(0.0, min(wire.bodies))])
            if sample.outcome == "answered" and sample.seconds <= self.options.target / 2:
                return True
        return False

    def _wire(self, contestant: Contestant, server: ServerProcess) -> Wire:
        address = server.how.address
        lengths = {length for name in self.options.mixes for length in mix(name).support}
        bodies = {length: request(contestant, address, length) for length in lengths}
        return Wire(address, bodies, _PATIENCE * self.options.target)

    def _measure(self, contestant: Contestant, server: ServerProcess, name: str, step: Step) -> None:
        plan = trace(name, step.rate, self.options.warm_up + step.seconds, step.seed)
        told, before = counters(server), self._clocks(server)
        samples = self.generators.run(self._wires[contestant.name], plan)
        spent = self._clocks(server).since(before)
        now_told = counters(server)
        since = now_told.since(told) if told is not None and now_told is not None else None
        counted = [sample for sample in samples if sample.due >= self.options.warm_up]
        rss, pss = server.memory()
        made = Measurement(
            round=self.round,
            name=contestant.name,
            mix=name,
            rate=step.rate,
            seconds=step.seconds,
            rung=step.rung,
            fraction=step.fraction,
            **outcomes(counted),
            answered=sum(sample.outcome == "answered" for sample in samples),
            cpu_seconds=spent.server,
            generator_seconds=spent.generators,
            elapsed=spent.wall,
            foreign=max(0.0, spent.machine - spent.server - spent.generators) / spent.wall,
            rss=rss,
            pss=pss,
            late_p99=percentile(sorted(sample.late for sample in counted), 99) if counted else 0.0,
            batches=dict(since.batches) if since else {},
            padding=since.padding_share if since else None,
        )
        self.measured.append(made)
        self.write([made])
        where = f"at {step.fraction:g} × its rate" if step.fraction else "climbing"
        self.say(
            f"  {contestant.name:18} {name:9} {step.rate:6.1f}/s  {where:17}"
            f" {made.tally(Alone(self.run)).share:7.2%} in time   others use {made.foreign:.2f} cores"
        )

    def _clocks(self, server: ServerProcess) -> Clocks:
        generators = cpu_seconds(psutil.Process(pid) for pid in self.generators.pids())
        return Clocks(cpu_seconds(server.tree()), generators, machine_seconds(), time.monotonic())

    def _drop(self, contestant: Contestant) -> None:
        if (server := self._servers.pop(contestant.name, None)) is not None:
            server.stop()

    def close(self) -> None:
        for server in self._servers.values():
            with contextlib.suppress(OSError):
                server.stop()
        self._servers = {}
