"""`python -m loadtests.rolling`: restart servers behind each proxy that is installed, and change models, under load.

Prints how many requests there were, how many failed, and the longest answer while it was done; exits with 1 when a
request failed. `--page` puts the table into docs/proxies.md.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from loadtests.rolling import proxies, rounds
from loadtests.rolling.rounds import Run

PAGE = proxies.ROOT / "docs" / "proxies.md"
_TABLE = re.compile(r"(?<=<!-- rolling -->\n).*?(?=<!-- /rolling -->)", re.DOTALL)
HEAD = (
    "| in front | clients | restarts | requests | failed | sent again | p50 ms | longest meanwhile, ms |",
    "|---|---|---:|---:|---:|---:|---:|---:|",
)


def table(runs: Sequence[Run]) -> str:
    """Markdown, a line for each kind of client."""
    lines = list(HEAD)
    for run in runs:
        for one in run.outcomes:
            middle = statistics.median(took for _, took in one.seconds) * 1e3 if one.seconds else 0.0
            cells = (
                run.name,
                one.kind,
                str(run.restarts or "-"),
                str(len(one.seconds) + len(one.failures)),
                str(len(one.failures)),
                str(one.resent or "-"),
                f"{middle:.1f}",
                f"{one.worst(run.windows) * 1e3:.0f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rolling", description="Restarts and reloads under load, nothing failing.")
    names = [*(proxy.name for proxy in proxies.ALL), "none", "reload", "recycle"]
    parser.add_argument("runs", nargs="*", metavar="RUN", default=names, help=f"some of {', '.join(names)} (all)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each server is restarted (3)")
    parser.add_argument("--clients", type=int, default=2, help="of each kind (2)")
    parser.add_argument("--page", action="store_true", help="put the table into docs/proxies.md")
    return parser.parse_args()


def run(name: str, chosen: argparse.Namespace, folder: Path) -> Run | None:
    """One run by its name; None if its proxy is not installed."""
    if name == "reload":
        return rounds.changed(folder, chosen.rounds, chosen.clients)
    if name == "recycle":
        return rounds.recycled(folder, chosen.clients)
    if name == "none":
        return rounds.behind(None, folder, chosen.rounds, chosen.clients)
    proxy = next(proxy for proxy in proxies.ALL if proxy.name.lower() == name.lower())
    if proxy.program() is None:
        return None
    return rounds.behind(proxy, folder, chosen.rounds, chosen.clients)


def main() -> int:
    chosen = arguments()
    runs = []
    for name in chosen.runs:
        with tempfile.TemporaryDirectory(prefix="rolling-") as folder:
            done = run(name, chosen, Path(folder))
        if done is None:
            print(f"{name} is not installed", file=sys.stderr)
            continue
        print(f"{name}: {len(done.failures)} failed", file=sys.stderr, flush=True)
        for failure in done.failures[:10]:
            print(f"  {failure:.300}", file=sys.stderr)
        runs.append(done)
    text = table(runs)
    print(text)
    if chosen.page:
        PAGE.write_text(_TABLE.sub(lambda _: text, PAGE.read_text()))
    return int(any(run.failures for run in runs))


if __name__ == "__main__":
    sys.exit(main())
