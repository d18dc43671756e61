"""`python -m loadtests.texts`: what texts cost on this machine, and for how long they keep others waiting.

Tokenizing beside the library's own batches; how late the event loop hears while it works on texts; requests of texts
beside requests of tokens; and answers that are used again. Everything is interleaved and judged by ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import statistics
import sys
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from loadtests.children import child, noting
from loadtests.texts import requests, waiting
from loadtests.texts.tokenizing import IN_FLIGHT

LENGTHS = (8, 24, 64, 128, 256, 512)
ALLOWED = 1.2  # what tokenizing may cost, against the library's own batches
PARTS = ("tokenizing", "waiting", "requests", "demo", "cache")


def tokenizing(repository: Path, model: str, rounds: int, seconds: float, notes: list[str]) -> list[dict[str, Any]]:
    path = requests.where(repository, model, notes)
    if path is None:
        return []
    measured: dict[int, list[dict[str, float]]] = {tokens: [] for tokens in LENGTHS}
    with contextlib.ExitStack() as stack, noting(notes, "tokenizing: "):
        process = stack.enter_context(child("texts.tokenizing", str(path)))
        process.hear()
        for _ in range(rounds):
            for tokens in LENGTHS:
                measured[tokens].append(process.ask({"tokens": tokens, "seconds": seconds}))
    return [_summary(tokens, found) for tokens, found in measured.items() if found]


def _summary(tokens: int, found: list[dict[str, float]]) -> dict[str, Any]:
    row: dict[str, Any] = {"tokens": tokens}
    for name in found[0]:
        row[name] = statistics.median(one[name] for one in found)
    for name in ("library", "arrays"):
        row[f"{name}_ratio"] = statistics.median(one["server_cpu_us"] / one[f"{name}_cpu_us"] for one in found)
    return row


def show_tokenizing(console: Console, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    title = f"Tokenizing, CPU µs per text at {IN_FLIGHT} requests in flight (x{ALLOWED} of the library's is allowed)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("tokens", "encode_batch", "server", "ratio", "encode_batch_fast + arrays", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        colour = "green" if row["library_ratio"] <= ALLOWED else "red"
        table.add_row(
            str(row["tokens"]),
            f"{row['library_cpu_us']:.1f}",
            f"{row['server_cpu_us']:.1f}",
            f"[{colour}]x{row['library_ratio']:.2f}[/]",
            f"{row['arrays_cpu_us']:.1f}",
            f"x{row['arrays_ratio']:.2f}",
        )
    console.print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="texts", description="What texts cost on this machine.")
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; all, if none is named")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (3)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each window (1)")
    parser.add_argument("--repository", type=Path, default=Path("models"), help="where the demo model lies (models)")
    parser.add_argument("--model", default="minilm", help="the demo model's name (minilm)")
    arguments = parser.parse_args()
    if stray := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no part '{min(stray)}'")
    return arguments


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # through the blocks that end what was started
    wanted, notes = arguments.parts or PARTS, list[str]()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    where = arguments.repository, arguments.model, arguments.rounds
    seconds, result = arguments.seconds, dict[str, list[dict[str, Any]]]()
    measures = {
        "tokenizing": lambda: tokenizing(*where, seconds, notes),
        "waiting": lambda: waiting.waits(*where, 5 * seconds, notes),
        "requests": lambda: requests.costs(*where, seconds, notes),
        "demo": lambda: requests.served(*where, 4 * seconds, notes),
        "cache": lambda: requests.cached(*where, seconds, notes),
    }
    for part in PARTS:
        if part in wanted:
            result[part] = measures[part]()
            if not arguments.json:
                _show(console, part, result[part])
    if arguments.json:
        print(json.dumps(result | {"notes": notes}))
    else:
        for note in notes:
            console.print(f"! {note}", markup=False)
    return 0


def _show(console: Console, part: str, rows: list[dict[str, Any]]) -> None:
    match part:
        case "tokenizing":
            show_tokenizing(console, rows)
        case "waiting":
            waiting.show(console, rows)
        case "requests":
            requests.show(console, rows)
        case "demo":
            requests.show(console, rows, "Texts of mixed lengths, the demo model")
        case "cache":
            for model in dict.fromkeys(row["model"] for row in rows):
                own = [row for row in rows if row["model"] == model]
                requests.show(console, own, f"Answers used again, texts of 24 tokens, {model}")


if __name__ == "__main__":
    sys.exit(main())
