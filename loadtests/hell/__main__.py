"""`make hell`: the goodput of good clients with and without each attack, in turns, and what the server kept of it.

The good clients ask at a steady rate on both protocols and count an answer only if it is right and in time. Windows of
peace and of attack alternate, so that a slow moment of the machine meets both; the ratio is that of all good answers.
Attackers run on the same machine, which takes more from the server than any network would let through.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rich.console import Console

from loadtests.bodies import IDENTITY, write_identity
from loadtests.children import ROOT, Target, whole_server
from loadtests.hell.asking import LARGE_BATCHES
from loadtests.hell.attacks import ATTACKS
from loadtests.hell.good import Tally, behave

WANTED = 0.9  # of the goodput in peace
GATHER = 1.0  # seconds an attack gets before its window begins
SETTLE_SECONDS = 10.0  # in which everything an attack has begun must be over
PROTOCOLS = ("http", "grpc")
_WAITING = "nv_inference_pending_request_count"


@dataclass(slots=True)
class Outcome:
    """One attack: the good clients' windows without and with it, and traces it left."""

    name: str
    peace: list[dict[str, Tally]] = field(default_factory=list)
    war: list[dict[str, Tally]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    grown: float = 0.0  # MiB of the server's memory, at most
    left: int = 0  # requests still waiting when it was long over

    def ratio(self, protocol: str) -> float:
        def share(windows: list[dict[str, Tally]]) -> float:
            return sum(one[protocol].good for one in windows) / max(1, sum(one[protocol].sent for one in windows))

        return share(self.war) / max(1e-9, share(self.peace))

    @property
    def wrong(self) -> int:
        return sum(tally.wrong for one in (*self.peace, *self.war) for tally in one.values())

    @property
    def passed(self) -> bool:
        return not self.wrong and not self.left and min(map(self.ratio, PROTOCOLS)) >= WANTED


@contextlib.contextmanager
def attacker(name: str, target: Target, outcome: Outcome) -> Iterator[None]:
    """An attack for as long as the block lasts."""
    command = [sys.executable, "-m", "loadtests.hell.attacker", name, str(target.http), str(target.grpc)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        time.sleep(GATHER)
        yield
    finally:
        process.stdin.close()
        counts = process.stdout.read()
        process.stdout.close()
        if process.wait(30):
            raise SystemExit(f"hell: the attack {name} itself failed")
        for what, number in json.loads(counts).items():
            outcome.counts[what] = outcome.counts.get(what, 0) + number


def attacked(name: str, target: Target, rounds: int, seconds: float) -> Outcome:
    outcome = Outcome(name)
    server = psutil.Process(target.pid)
    for _ in range(rounds):
        before = server.memory_info().rss
        outcome.peace.append(asyncio.run(behave(target.http, target.grpc, seconds)))
        with attacker(name, target, outcome):
            outcome.war.append(asyncio.run(behave(target.http, target.grpc, seconds)))
            outcome.grown = max(outcome.grown, (server.memory_info().rss - before) / (1 << 20))
        outcome.left = settled(target)
    return outcome


def settled(target: Target) -> int:
    """Requests that still wait once nobody asks any more; 0 unless something was forgotten."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{target.metrics}/metrics", timeout=10) as reply:
            lines = reply.read().decode().splitlines()
        waiting = sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(_WAITING))
        if not waiting or time.monotonic() > deadline:
            return int(waiting)
        time.sleep(0.1)


def table(outcomes: list[Outcome]) -> str:
    """Markdown."""
    lines = [
        "| attack | what | HTTP goodput | gRPC goodput | HTTP p99 | gRPC p99 | memory | |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for each in outcomes:
        attack = ATTACKS[each.name]
        did = ", ".join(f"{number:,} {what}".replace(",", " ") for what, number in each.counts.items())
        cells = [each.name, f"{attack.what} ({did})" if did else attack.what]
        cells += [f"{each.ratio(protocol):.3f}" for protocol in PROTOCOLS]
        cells += [f"{_p99(each.peace, name):.0f} → {_p99(each.war, name):.0f} ms" for name in PROTOCOLS]
        cells += [f"{each.grown:+.0f} MiB", "" if each.passed else _trouble(each)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _p99(windows: list[dict[str, Tally]], protocol: str) -> float:
    return 1000 * max(one[protocol].latency(0.99) for one in windows)


def _trouble(outcome: Outcome) -> str:
    failures: dict[str, int] = {}
    for one in outcome.war:
        for tally in one.values():
            for reason, number in tally.failures.items():
                failures[reason] = failures.get(reason, 0) + number
    said = [f"{number} {reason}" for reason, number in sorted(failures.items())]
    said += [f"{outcome.wrong} wrong"] * bool(outcome.wrong) + [f"{outcome.left} left"] * bool(outcome.left)
    return "**" + ", ".join(said) + "**"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hell", description="Goodput of good clients beside clients from hell.")
    parser.add_argument("--only", default="*", help="attacks, as a pattern such as grpc-* (all)")
    parser.add_argument("--rounds", type=int, default=3, help="windows of peace and of attack (3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a window (5)")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    names = [name for name in ATTACKS if fnmatch.fnmatch(name, arguments.only)]
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="hell-") as folder:
        repository = Path(folder) / "models"
        write_identity(repository)
        (repository / IDENTITY / "model.toml").write_text(LARGE_BATCHES)
        for name in names:
            with whole_server(repository) as target:  # each time another, lest one attack's wounds show in the next
                asyncio.run(behave(target.http, target.grpc, 1.0))  # first times
                outcomes.append(attacked(name, target, arguments.rounds, arguments.seconds))
            print(table(outcomes[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    Console(soft_wrap=True, markup=False, highlight=False).print(table(outcomes))
    return 0 if all(each.passed for each in outcomes) else 1


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    sys.exit(main())
