"""`make bench`: what a request costs this machine, beside what it would cost without the server.

Server CPU per request on both protocols, of three servers in turn: the bare building blocks, the front ends alone, and
the whole server with a model that computes next to nothing. Then what texts cost beside tokens, and the demo model's
throughput beside a bare onnxruntime loop. Machines are noisy: everything is interleaved and judged by the median of the
rounds' ratios.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from loadtests.bare import TEXTS
from loadtests.bodies import Body, grpc_body, identity_bodies, lengths, text_inputs, write_identity
from loadtests.children import Child, Figures, Run, Target, child, measure, noting, whole_server
from loadtests.texts import requests

IN_FLIGHT = (1, 64)
ALLOWED = 1.3  # what the front ends may cost, against their building blocks
MOST_SECONDS = 240  # for everything; the usual run takes less than half


def front_ends(arguments: argparse.Namespace, notes: list[str]) -> list[dict[str, Any]]:
    """CPU per request of each server, protocol and number in flight, in interleaved rounds."""
    rows: dict[tuple[str, int], list[dict[str, Figures]]] = {}
    bodies = identity_bodies()
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(child("client"))
        targets = _targets(stack, notes)
        for _ in range(arguments.rounds):
            for protocol, body in bodies.items():
                for in_flight in IN_FLIGHT:
                    run = Run(protocol, in_flight, arguments.seconds)
                    figures = _round(client, targets, run, body, notes)
                    rows.setdefault((protocol, in_flight), []).append(figures)
    return [_summary(protocol, in_flight, rounds) for (protocol, in_flight), rounds in rows.items()]


def _targets(stack: contextlib.ExitStack, notes: list[str]) -> list[Target]:
    targets = []
    for kind in ("blocks", "fronts"):
        server = stack.enter_context(child("blocks", kind))
        with noting(notes):
            ports = server.hear()
            targets.append(Target(kind, server.process.pid, ports["grpc"], ports["http"]))
    with noting(notes):
        repository = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-bench-"))) / "models"
        write_identity(repository)
        targets.append(stack.enter_context(whole_server(repository)))
    return targets


def _round(client: Child, targets: list[Target], run: Run, body: Body, notes: list[str]) -> dict[str, Figures]:
    figures = {}
    for target in targets:
        with noting(notes, f"{target.name}, {run.protocol}: "):
            figures[target.name] = measure(client, target, run, [body])
    return figures


def _summary(protocol: str, in_flight: int, rounds: list[dict[str, Figures]]) -> dict[str, Any]:
    row: dict[str, Any] = {"protocol": protocol, "in_flight": in_flight}
    for name in ("blocks", "fronts", "server"):
        measured = [figures[name] for figures in rounds if name in figures]
        if not measured:
            continue
        row[f"{name}_cpu_us"] = statistics.median(figures["cpu_us"] for figures in measured)
        ratios = [
            figures[name]["cpu_us"] / figures["blocks"]["cpu_us"]
            for figures in rounds
            if {name, "blocks"} <= figures.keys() and figures["blocks"]["cpu_us"]
        ]
        if ratios and name != "blocks":
            row[f"{name}_ratio"] = statistics.median(ratios)
        row[f"{name}_requests_per_second"] = statistics.median(figures["requests_per_second"] for figures in measured)
        row[f"{name}_p50_ms"] = statistics.median(figures["p50_ms"] for figures in measured)
    return row


def throughput(arguments: argparse.Namespace, notes: list[str]) -> dict[str, Any] | None:
    """The demo model served, beside the same texts in a bare loop on every core."""
    repository = Path(arguments.repository).resolve()
    files = sorted(repository.glob(f"{arguments.model}/*/model.onnx"))
    if not files:
        notes.append(f"no model '{arguments.model}' in {repository}: its throughput was not measured")
        return None
    rounds: list[tuple[Figures, Figures]] = []
    cores = len(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack, noting(notes):
        loops = [stack.enter_context(child("bare", str(files[-1]), str(each), str(cores))) for each in range(cores)]
        names = [loop.hear()["inputs"] for loop in loops]
        client = stack.enter_context(child("client"))
        target = stack.enter_context(whole_server(repository))
        bodies = [grpc_body(arguments.model, text_inputs(names[0], length), length) for length in lengths(TEXTS)]
        for _ in range(arguments.throughput_rounds):
            for loop in loops:
                loop.tell({"seconds": arguments.throughput_seconds})
            answers = [loop.hear() for loop in loops]
            bare = {name: sum(answer[name] for answer in answers) for name in answers[0]}
            run = Run("gRPC", IN_FLIGHT[-1], arguments.throughput_seconds)
            rounds.append((bare, measure(client, target, run, bodies)))
    return _throughput_summary(rounds) if rounds else None


def _throughput_summary(rounds: list[tuple[Figures, Figures]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name in ("requests_per_second", "tokens_per_second"):
        row[f"bare_{name}"] = statistics.median(bare[name] for bare, _ in rounds)
        row[f"server_{name}"] = statistics.median(served[name] for _, served in rounds)
        row[f"{name}_ratio"] = statistics.median(served[name] / bare[name] for bare, served in rounds)
    row["server_cpu_us"] = statistics.median(served["cpu_us"] for _, served in rounds)
    return row


def show(result: dict[str, Any]) -> None:
    """The tables for people."""
    console = Console(highlight=False)
    table = Table(
        title="Server CPU per request, µs (workers not counted)", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    for heading in ("", "in flight", "blocks", "fronts", "ratio", "server", "ratio", "req/s"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in result["front_ends"]:
        ratio = row.get("fronts_ratio")
        verdict = "" if ratio is None else f"[{'green' if ratio <= ALLOWED else 'red'}]x{ratio:.2f}[/]"
        table.add_row(
            row["protocol"],
            str(row["in_flight"]),
            _number(row, "blocks_cpu_us"),
            _number(row, "fronts_cpu_us"),
            verdict,
            _number(row, "server_cpu_us"),
            f"x{row['server_ratio']:.2f}" if "server_ratio" in row else "",
            _number(row, "server_requests_per_second"),
        )
    console.print(table)
    console.print(
        "blocks: bare grpc.aio and uvicorn doing only what any server must\n"
        f"fronts: our front ends over an engine that answers at once; x{ALLOWED} is allowed\n"
        "server: all of it, with its queue and the hand-over to a worker\n"
    )
    requests.show(console, result["texts"])
    if (row := result["throughput"]) is not None:
        table = Table(
            title="Throughput, texts of median 24 tokens", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
        )
        for heading in ("", "bare loop", "server", "ratio"):
            table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
        for name in ("requests_per_second", "tokens_per_second"):
            numbers = [_number(row, f"{side}_{name}") for side in ("bare", "server")]
            table.add_row(name.replace("_per_second", "/s"), *numbers, f"x{row[f'{name}_ratio']:.2f}")
        console.print(table)
    for note in result["notes"]:
        console.print(f"! {note}", markup=False)


def _table(title: str, headings: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    return table


def _number(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:,.0f}" if name in row else ""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="What a request costs on this machine.")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds of the front ends (3)")
    parser.add_argument("--seconds", type=float, default=0.8, help="length of each of their windows (0.8)")
    parser.add_argument("--repository", default="models", help="where the demo model lies (models)")
    parser.add_argument("--model", default="minilm", help="the demo model's name (minilm)")
    parser.add_argument("--throughput-rounds", type=int, default=2, help="interleaved rounds of the throughput (2)")
    parser.add_argument("--throughput-seconds", type=float, default=6.0, help="length of each of their windows (6)")
    return parser.parse_args()


def _out_of_time(signum: int, frame: object) -> None:
    raise TimeoutError(f"the bench took longer than {MOST_SECONDS} s")


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # through the blocks that end what was started
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.alarm(MOST_SECONDS)
    notes: list[str] = []
    started = time.monotonic()
    result = {
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "system": platform.platform(),
            "python": sys.version.split()[0],
        },
        "front_ends": front_ends(arguments, notes),
        "texts": requests.costs(
            Path(arguments.repository), arguments.model, arguments.rounds, arguments.seconds, notes
        ),
        "throughput": throughput(arguments, notes),
        "notes": notes,
        "seconds": 0.0,
    }
    result["seconds"] = time.monotonic() - started
    if arguments.json:
        print(json.dumps(result))
    else:
        show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
