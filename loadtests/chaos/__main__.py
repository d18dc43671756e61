"""`python -m loadtests.chaos`: breaks servers on purpose for some minutes, checks every answer, writes docs/chaos.md.

Exits with 1 when an answer was wrong or a request lost. The same seed gives the same schedule. It ends by itself.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import uvloop

from loadtests.chaos import capacity, machine, report, rounds, schedule
from loadtests.chaos.models import Texts

_QUICK_MINUTES, _MINUTES = 1.5, 12.0
_PER_MINUTE = 76.0  # faults
_OVERHEAD = 0.25  # of a round's time: starting, recovering, stopping
_CAPACITY_SECONDS = 80.0
_MOST_SHOWN = 20


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description="Faults against a real server under checked load.")
    parser.add_argument("--seed", type=int, default=1, help="of the schedule and the load (1)")
    parser.add_argument("--minutes", type=float, default=_MINUTES, help=f"in all, about ({_MINUTES:g})")
    parser.add_argument("--quick", action="store_true", help="one round in a minute and a half, no page")
    parser.add_argument("--server", type=int, default=0, help="which of the servers the quick round is with (0)")
    parser.add_argument("--faults", type=int, default=0, help="in all; 0 = 76 for each minute")
    parser.add_argument("--kinds", default="", help="only these kinds of faults, as kill,hang")
    parser.add_argument("--page", type=Path, default=None, help="where to write the page (docs/chaos.md, quick: none)")
    parser.add_argument(
        "--keep", type=Path, default=None, help="keep the servers' folders with their logs, and the record, here"
    )
    parser.add_argument("--no-capacity", action="store_true", help="skip the comparison with a smaller server")
    return parser.parse_args()


def main() -> int:
    chosen = arguments()
    network = machine.enter_network("loadtests.chaos", sys.argv[1:])
    minutes = min(chosen.minutes, _QUICK_MINUTES) if chosen.quick else chosen.minutes
    settings = rounds.SETTINGS[chosen.server : chosen.server + 1] if chosen.quick else rounds.SETTINGS
    with_capacity = not (chosen.quick or chosen.no_capacity)
    left = minutes * 60 - (_CAPACITY_SECONDS if with_capacity else 0)
    seconds = max(10.0, left / len(settings) * (1 - _OVERHEAD))
    count = chosen.faults or round(seconds * len(settings) / 60 * _PER_MINUTE)
    names = set(filter(None, chosen.kinds.split(",")))
    kinds = [kind for kind in schedule.KINDS if not names or kind.name in names]
    texts = Texts()
    results = []
    record = report.Run(date.today().isoformat(), chosen.seed, report.described_machine())
    with tempfile.TemporaryDirectory(prefix="sluice-chaos-") as scratch:
        folder = chosen.keep or Path(scratch)
        for number, setting in enumerate(settings):
            faults = schedule.draw(chosen.seed + number, seconds, round(count / len(settings)), kinds)
            site = rounds.Site(folder / f"round-{number}")
            site.build(texts)
            began = time.monotonic()
            result = uvloop.run(rounds.play(site, setting, texts, faults, seconds, chosen.seed + number, network))
            results.append(result)
            record.rounds.append(result.plain())
            if chosen.keep is not None:
                report.keep(chosen.keep / "run.json", record)
            print(report.line(result, time.monotonic() - began), file=sys.stderr, flush=True)
        if with_capacity:
            record.capacity = uvloop.run(capacity.measure(folder, texts)).plain()
        if chosen.keep is not None:
            report.keep(chosen.keep / "run.json", record)
    text = report.page(record)
    print(text)
    page = chosen.page or (None if chosen.quick else Path("docs/chaos.md"))
    if page is not None:
        report.write(page, record, text)
    for result in results:
        for bad in result.bad[:_MOST_SHOWN]:
            print(f"{result.setting}: {bad}", file=sys.stderr)
    return 0 if all(result.sound for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
