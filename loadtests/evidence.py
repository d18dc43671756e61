"""Renews the figures of docs/scheduling.md by running the commands that stand beside them.

    python -m loadtests.evidence          # our rule's column of the study, and everything else: 15 minutes of one core
    python -m loadtests.evidence --all    # every rule's column: 45 minutes

The page is its own template: the table under a command, or the output inside its block, is what the command said last.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path("docs/scheduling.md")
STUDY = Path("docs/scheduling")
RUN = re.compile(r"^`sluice (simulate run .*)`$")
SLUICE = Path(sys.executable).with_name("sluice")
RUNS = ("| rule | load | in time | worst lengths | goodput/s | p99 ms |", "|---|---:|---:|---:|---:|---:|")
PARTS = ("| load | | | in time | p50 ms | p99 ms |", "|---:|---|---|---:|---:|---:|")


def main() -> None:
    rules = "all" if "--all" in sys.argv[1:] else "sluice"
    sluice("simulate", "study", str(STUDY), "--rules", rules)
    text = with_study(PAGE.read_text(encoding="utf-8"), (STUDY / "study.md").read_text(encoding="utf-8"))
    text = with_blocks(text)
    PAGE.write_text("\n".join(with_tables(text.split("\n"))), encoding="utf-8")


def sluice(*arguments: str) -> str:
    print("sluice", shlex.join(arguments), flush=True)
    done = subprocess.run([SLUICE, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def with_study(text: str, study: str) -> str:
    """The page's tables of loads held, in their order, from the study's."""
    table = re.compile(r"^\| \| sluice \|.*\n(?:\|.*\n)+", re.MULTILINE)
    fresh = iter(table.findall(study + "\n"))
    return table.sub(lambda _: next(fresh), text)


def with_blocks(text: str) -> str:
    """Blocks that show a command and its output, and those that draw pictures, whose output is not shown."""

    def renewed(found: re.Match[str]) -> str:
        body = found[1]
        if body.startswith("sluice simulate run"):
            for command in pictured(shlex.split(body.replace("\\\n", " "))):
                sluice(*command)
        if not body.startswith("$ sluice"):
            return found[0]
        commands = [line.removeprefix("$ sluice ") for line in body.splitlines() if line.startswith("$ sluice ")]
        return "```\n" + "\n\n".join(f"$ sluice {one}\n{shown(one)}" for one in commands) + "\n```"

    return re.sub(r"^```\n(.*?)\n```$", renewed, text, flags=re.MULTILINE | re.DOTALL)


def shown(command: str) -> str:
    lines = sluice(*shlex.split(command)).splitlines()
    return "\n".join(line.rstrip() for line in lines if line.strip())


def pictured(words: list[str]) -> Iterator[list[str]]:
    """The command for the GPU-like device, as the page has it, and for the CPU-like one."""
    yield words[1:]
    others = {"gpu": "cpu", "0.015": "0.182", f"{STUDY}/gpu": f"{STUDY}/cpu"}
    yield [others.get(word, word) for word in words[1:]]


def with_tables(lines: list[str]) -> Iterator[str]:
    """Each command's line with a fresh table under it, of runs or, where the page has that, of parts."""
    at = 0
    while at < len(lines):
        yield lines[at]
        found = RUN.match(lines[at])
        at += 1
        if found is None or lines[at : at + 1] != [""] or not lines[at + 1].startswith("| "):
            continue
        header = lines[at + 1]
        while lines[at].startswith("|") or not lines[at]:
            at += 1
        yield ""
        yield from table(found[1], header)
        yield ""


def table(command: str, header: str) -> list[str]:
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "figures.json"
        sluice(*shlex.split(command), "--output", str(output))
        rules: dict[str, list[dict[str, Any]]] = json.loads(output.read_text())["rules"]
    steps = [(rule, step) for rule, answers in rules.items() for step in answers]
    if header == PARTS[0]:
        return [*PARTS, *(row for _, step in steps for row in part_rows(step))]
    return [*RUNS, *(run_row(rule, step) for rule, step in steps)]


def run_row(rule: str, step: dict[str, Any]) -> str:
    shares = f"{step['in_time']:.2%} | {step['worst_class']:.2%}".replace("%", " %")
    return f"| {rule} | {step['load']:.2f} | {shares} | {step['goodput']:.1f} | {step['p99'] * 1e3:.1f} |"


def part_rows(step: dict[str, Any]) -> Iterator[str]:
    for kind, parts in step["parts"].items():
        for name, part in parts.items():
            share = f"{part['in_time']:.2%}".replace("%", " %")
            latencies = f"{part['p50'] * 1e3:.1f} | {part['p99'] * 1e3:.1f}"
            yield f"| {step['load']:.2f} | {kind} | {name} | {share} | {latencies} |"


if __name__ == "__main__":
    main()
