"""One round: a fresh server, the load, a schedule of faults, and what became of it all, as plain data."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loadtests.chaos import models, recovery
from loadtests.chaos.injection import Injection
from loadtests.chaos.ledger import Epochs, Outcome
from loadtests.chaos.load import STREAMS, Load, Stream
from loadtests.chaos.machine import Server
from loadtests.chaos.schedule import Fault
from loadtests.chaos.watch import Watch

HANG_TIMEOUT = 2.0  # well above the longest pause
COMPUTE_TIMEOUT = 5.0
QUARANTINE = 60.0
BACK_PATIENCE = 60.0  # until full strength, after the last fault
WIDTH = 2.0  # seconds of one point in the charts
_LEAD = 2.0  # seconds of load before the first fault


@dataclass(frozen=True, slots=True)
class Setting:
    """How a round's server is run."""

    name: str
    workers: int
    flags: tuple[str, ...] = ()


SETTINGS = (
    Setting("2 workers", 2),
    Setting("3 workers", 3),
    Setting("2 workers, a standby for each", 2, ("--standby",)),
    Setting("2 workers of at most 600 MiB", 2, ("--max-memory", str(600 << 20))),
)


@dataclass(frozen=True, slots=True)
class Site:
    """A folder with models, and where the misbehaving one finds its orders and writes what it did."""

    folder: Path

    @property
    def repository(self) -> Path:
        return self.folder / "models"

    @property
    def armed(self) -> Path:
        return self.folder / "armed"

    @property
    def witness(self) -> Path:
        return self.folder / "witness"

    def build(self, texts: models.Texts) -> None:
        self.repository.mkdir(parents=True)
        self.armed.mkdir()
        texts.write(self.repository)
        for name in ("tagger", "spare"):
            models.write_tagger(self.repository, name, 1)
        models.write_whim(self.repository, self.armed, self.witness)

    def start(self, setting: Setting) -> Server:
        flags = ["--workers", str(setting.workers), "--hang-timeout", f"{HANG_TIMEOUT:g}"]
        flags += ["--compute-timeout", f"{COMPUTE_TIMEOUT:g}", "--quarantine", f"{QUARANTINE:g}", *setting.flags]
        return Server.start(self.repository, self.folder / "log", flags)


@dataclass
class Result:
    """What a round came to."""

    setting: str
    seconds: float
    faults: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    errors: list[tuple[str, str, int]] = field(default_factory=list)  # kind, who got it, how often
    examples: dict[str, str] = field(default_factory=dict)  # what an error of each kind said
    bad: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    recoveries: dict[str, list[float]] = field(default_factory=dict)  # seconds after a fault that struck alone
    worst: float = 0.0  # the longest time from the last fault of an outage to full strength
    worst_after: str = ""
    short: float = 0.0  # seconds with fewer warm workers than there should be
    continued: list[float] = field(default_factory=list)
    most_deaths: int = 0  # workers that one poison request took
    usual: tuple[int, int, float] = (0, 0, 0.0)  # at full strength: sent, right, 99th percentile of seconds
    recovering: tuple[int, int, float] = (0, 0, 0.0)
    rates: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    struck: list[float] = field(default_factory=list)  # when a worker was lost, in seconds from the start
    late: float = 0.0  # the most that the load was behind its schedule

    @property
    def sound(self) -> bool:
        return not self.bad

    def plain(self) -> dict[str, Any]:
        return asdict(self)


async def play(
    site: Site,
    setting: Setting,
    texts: models.Texts,
    faults: Sequence[Fault],
    seconds: float,
    seed: int,
    network: str = "",
    streams: tuple[Stream, ...] = STREAMS,
) -> Result:
    """Start a server, break it for so long while it is asked, let it recover, and stop it."""
    server = await asyncio.to_thread(site.start, setting)
    ended = asyncio.Event()
    load, watch = Load(server, texts), Watch(server, site.witness, setting.workers)
    injection = Injection(server, site.repository, site.armed, load, watch)
    injection.network = network
    result = Result(setting.name, seconds)
    load.open()
    looking = asyncio.get_running_loop().create_task(watch.look(ended))
    try:
        start = time.monotonic()
        load.epochs["tagger"] = Epochs.starting(1, start)
        sending = load.run(streams, _LEAD + seconds, seed)
        await asyncio.gather(sending, injection.run(faults, start + _LEAD))
        await load.settle()
        await _back(server, watch, load, result)
        _conclude(result, load, watch, injection, start)
    finally:
        ended.set()
        await looking
        await injection.close()
        await load.close()
        code, left = await asyncio.to_thread(server.stop)
        injection.disk.close()
    if code != 0:
        result.bad.append(f"the server ended with {code}")
    result.bad += [f"the server left process {pid} behind" for pid in left]
    return result


async def _back(server: Server, watch: Watch, load: Load, result: Result) -> None:
    """When nothing breaks any more, the server comes back to full strength, to rest, and answers."""
    end = time.monotonic() + BACK_PATIENCE
    chance = random.Random(0)
    while watch.strength() < watch.recovery.full and time.monotonic() < end and server.alive:
        await load.ask(load.question("tagger", chance), "http")
        await asyncio.sleep(0.1)
    watch.tick()
    if not server.alive:
        result.bad.append(f"the server ended by itself with {server.process.returncode}")
        return
    if watch.strength() < watch.recovery.full:
        text = f"{BACK_PATIENCE:g} s after the last fault {watch.strength()} of {watch.recovery.full} workers are warm"
        result.notes.append(text)
    for protocol in ("http", "grpc"):
        for model in ("tagger", "whim", "minilm", "spare"):
            request = await load.ask(load.question(model, chance), protocol)
            if request.outcome is not Outcome.RIGHT:
                result.notes.append(f"after everything, {model} over {protocol}: {request.kind} {request.detail[:120]}")
    waiting = await asyncio.to_thread(server.metric, "nv_inference_pending_request_count")
    if waiting:
        result.notes.append(f"after everything, {waiting:g} requests are said to wait")


def _conclude(result: Result, load: Load, watch: Watch, injection: Injection, start: float) -> None:
    now, ledger = time.monotonic(), load.ledger
    ended = watch.recovery.finished()
    windows = watch.recovery.windows(now)
    result.faults = dict(injection.done)
    result.skipped = injection.skipped
    result.outcomes = {outcome.value: count for outcome, count in ledger.counts().items()}
    result.errors = sorted((kind, who, count) for (kind, who), count in ledger.errors().items())
    result.examples = {kind: said[:160] for kind, said in ledger.examples().items()}
    for each in ledger.bad():
        told = (
            f"{each.outcome}: {each.model} over {each.protocol}, {each.sent - start:.1f} s: {each.kind} {each.detail}"
        )
        result.bad.append(told[:300])
    result.notes += injection.notes
    result.recoveries = recovery.by_kind(ended)
    if ended:
        worst = max(ended, key=lambda outage: outage.seconds)
        result.worst, result.worst_after = worst.seconds, worst.faults[-1]
    result.short = sum(b - a for a, b in windows)
    result.continued = sorted(watch.continued)
    result.most_deaths = max(watch.deaths.values(), default=0)
    result.usual = _summary(*ledger.during(_between(windows, start, start + _LEAD + result.seconds)))
    result.recovering = _summary(*ledger.during(windows))
    result.rates = ledger.per_second(start, WIDTH)
    result.struck = [outage.began - start for outage in watch.recovery.outages]
    result.late = load.late


def _summary(sent: int, right: int, times: list[float]) -> tuple[int, int, float]:
    return sent, right, times[max(0, math.ceil(0.99 * len(times)) - 1)] if times else 0.0


def _between(windows: Sequence[tuple[float, float]], start: float, end: float) -> list[tuple[float, float]]:
    """The rest of the time."""
    edges = [start, *(edge for window in windows for edge in window), end]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]
