"""`python -m loadtests.chaos.soak`: an hour of steady load below capacity; memory and throughput must not move.

Writes docs/soak.md. Exits with 1 when an answer was wrong or lost, or when something drifted in the last half of the
time. It ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

import uvloop

from loadtests.chaos import machine, rounds, schedule
from loadtests.chaos.drift import Drift, drift
from loadtests.chaos.injection import Injection
from loadtests.chaos.ledger import Epochs, Outcome
from loadtests.chaos.load import STREAMS, Load, Stream
from loadtests.chaos.models import Texts
from loadtests.chaos.watch import Watch
from loadtests.compare.machine import facts
from sluice import charts

BOUND = 0.01  # of the mean, over the last half
_SETTLED = 10.0  # seconds of load before the first sample
_EVERY = 5.0
_WIDTH = 60.0  # seconds of one point of throughput and latency: few requests tell little
_MOST_POINTS = 360
_FAULTS_PER_HOUR = 60
_SETTING = rounds.Setting("2 workers", 2)


@dataclass
class Soak:
    """What a soak came to; each line is (seconds from the start, value)."""

    date: str
    seed: int
    seconds: float
    faults: int = 0
    lines: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)
    machine: dict[str, str] = field(default_factory=dict)

    def drifts(self) -> dict[str, Drift]:
        return {name: drift(points) for name, points in self.lines.items()}

    @property
    def steady(self) -> bool:
        """Memory does not grow, and no less is answered than before."""
        drifts = self.drifts()
        return all(drifts[name].share < BOUND for name in MEMORY) and drifts[ANSWERED].share > -BOUND


SERVER, WORKERS, ALL = "server MiB", "workers MiB", "server and workers MiB"
MEMORY = (SERVER, WORKERS, ALL)
RESIDENT = "with files' pages, MiB"
ANSWERED, SENT, P50, P99 = "answered of sent", "sent /s", "p50 ms", "p99 ms"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="soak", description="Steady load for long, and what drifts.")
    parser.add_argument("--hours", type=float, default=1.0, help="how long (1)")
    parser.add_argument("--load", type=float, default=1.0, help="times the usual rates of 66 requests per second (1)")
    parser.add_argument("--faults", action="store_true", help="kill, pause or reload something once a minute")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--page", type=Path, default=Path("docs/soak.md"), help="where to write it (docs/soak.md)")
    return parser.parse_args()


async def run(folder: Path, texts: Texts, chosen: argparse.Namespace) -> Soak:
    site = rounds.Site(folder)
    site.build(texts)
    seconds = chosen.hours * 3600
    soak = Soak(date.today().isoformat(), chosen.seed, seconds, machine=facts())
    streams = tuple(Stream(each.model, each.protocol, each.rate * chosen.load) for each in STREAMS)
    server = await asyncio.to_thread(site.start, _SETTING)
    load, watch, ended = Load(server, texts), Watch(server, site.witness, _SETTING.workers), asyncio.Event()
    load.open()
    start = time.monotonic()
    load.epochs["tagger"] = Epochs.starting(1, start)
    injection = Injection(server, site.repository, site.armed, load, watch)
    looking = asyncio.get_running_loop().create_task(watch.look(ended))
    sampling = asyncio.get_running_loop().create_task(_sample(server.process.pid, start, soak))
    try:
        await asyncio.gather(load.run(streams, seconds, chosen.seed), injection.run(_faults(chosen), start))
        sampling.cancel()
        await load.settle()
    finally:
        sampling.cancel()
        ended.set()
        await looking
        await injection.close()
        await load.close()
        code, left = await asyncio.to_thread(server.stop)
        injection.disk.close()
    soak.bad = [f"{each.outcome}: {each.model}: {each.kind} {each.detail}"[:200] for each in load.ledger.bad()]
    if code or left:
        soak.bad.append(f"the server ended with {code} and left {len(left)} processes behind")
    soak.faults = sum(injection.done.values())
    soak.outcomes = {outcome.value: count for outcome, count in load.ledger.counts().items()}
    _latencies(soak, load, start)
    return soak


def _faults(chosen: argparse.Namespace) -> list[schedule.Fault]:
    if not chosen.faults:
        return []
    kinds = [schedule.BY_NAME[name] for name in ("kill", "pause", "reload", "storm", "raise")]
    return schedule.draw(chosen.seed, chosen.hours * 3600, round(chosen.hours * _FAULTS_PER_HOUR), kinds)


async def _sample(pid: int, start: float, soak: Soak) -> None:
    """Until cancelled."""
    await asyncio.sleep(_SETTLED)
    while True:
        now = time.monotonic() - start
        server = machine.memory(pid)
        workers = [machine.memory(child) for child in machine.children(pid)]
        held = sum(each[1] for each in workers)
        values = {SERVER: server[1], WORKERS: held, ALL: server[1] + held}
        values[RESIDENT] = server[0] + sum(each[0] for each in workers)
        for name, value in values.items():
            soak.lines.setdefault(name, []).append((now, value))
        await asyncio.sleep(_EVERY)


def _latencies(soak: Soak, load: Load, start: float) -> None:
    """A point for each minute that is whole."""
    width = min(_WIDTH, soak.seconds / 10)
    for number in range(int(soak.seconds // width)):
        begin = start + number * width
        sent, right, times = load.ledger.during([(begin, begin + width)])
        if not times:
            continue
        at = (number + 0.5) * width
        for name, value in (
            (SENT, sent / width),
            (ANSWERED, right / sent),
            (P50, times[len(times) // 2] * 1000),
            (P99, times[int(len(times) * 0.99)] * 1000),
        ):
            soak.lines.setdefault(name, []).append((at, value))


def page(soak: Soak) -> str:
    found = soak.drifts()
    rows = ["| | at half time | at the end | drift | bound |", "| --- | --: | --: | --: | --: |"]
    for name, each in found.items():
        bound = f"< {BOUND:.0%}" if name in MEMORY else f"> -{BOUND:.0%}" if name == ANSWERED else "–"
        rows.append(f"| {name} | {each.at_start:,.3f} | {each.at_end:,.3f} | {each.share:+.2%} | {bound} |")
    outcomes = ", ".join(f"{count:,} {name}" for name, count in sorted(soak.outcomes.items()))
    wrong = soak.outcomes.get(Outcome.WRONG, 0) + soak.outcomes.get(Outcome.LOST, 0)
    blocks = [
        "# Soak",
        "<!-- Written by `python -m loadtests.chaos.soak`; what is changed here by hand is lost. -->",
        f"A server with 2 workers under steady load for {soak.seconds / 3600:g} h: four models, both protocols, every "
        "answer compared with the truth. Drift is what a straight line through the last half of the time gains, as a "
        "share of the mean. Memory is what the processes hold themselves; a page that several share counts once, and "
        "pages of files, which the system drops when it needs them, are in a line of their own. "
        f"{soak.date}; " + ", ".join(f"{name} {value}" for name, value in soak.machine.items()) + ".",
        f"Requests: {outcomes}; **{wrong} wrong or lost**. Faults injected: {soak.faults}. "
        f"Memory and throughput are **{'steady' if soak.steady else 'not steady'}**.",
        "\n".join(rows),
        "![memory](soak/memory.svg)\n![latency](soak/latency.svg)\n![throughput](soak/throughput.svg)",
        *("- " + bad for bad in soak.bad[:20]),
    ]
    return "\n\n".join(blocks) + "\n"


def pictures(soak: Soak) -> dict[str, str]:
    shown = {
        "memory": ("MiB", (*MEMORY, RESIDENT)),
        "latency": ("ms", (P50, P99)),
        "throughput": ("requests per second", (SENT,)),
    }
    return {name: _picture(soak, name, unit, lines) for name, (unit, lines) in shown.items()}


def _picture(soak: Soak, title: str, unit: str, names: tuple[str, ...]) -> str:
    """The lines as sampled, and dashed through the last half of each the straight one."""
    series = []
    for number, name in enumerate(names):
        points = soak.lines.get(name, [])
        step = max(1, len(points) // _MOST_POINTS)
        colour = charts.COLOURS[number]
        series.append(charts.Series(name, [(at / 60, value) for at, value in points[::step]], colour=colour))
        line = drift(points)
        ends = [(line.start / 60, line.at_start), (line.end / 60, line.at_end)]
        series.append(charts.Series(f"its drift: {line.share:+.2%}", ends, dashed=True, colour=colour))
    about = charts.Chart(title, "minutes", unit, width=900, height=300, marks=False, aside=False)
    return charts.lines(about, series)


def main() -> int:
    chosen = arguments()
    texts = Texts()
    with tempfile.TemporaryDirectory(prefix="sluice-soak-") as folder:
        soak = uvloop.run(run(Path(folder), texts, chosen))
    folder_of_page = chosen.page.with_suffix("")
    folder_of_page.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures(soak).items():
        (folder_of_page / f"{name}.svg").write_text(picture, encoding="utf-8")
    (folder_of_page / "run.json").write_text(json.dumps(asdict(soak)), encoding="utf-8")
    text = page(soak)
    chosen.page.write_text(text, encoding="utf-8")
    print(text)
    return 0 if soak.steady and not soak.bad else 1


if __name__ == "__main__":
    sys.exit(main())
