"""`make compare`: Sluice beside other servers, from environments to report.

Servers that are not measured are idle, or paused where they would poll. `--quick` takes some 40 minutes for both mixes
on two cores, the default about an hour and a half; both can be interrupted and continued.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import signal
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from loadtests.children import MeasuringError
from loadtests.compare import environments, machine, records, report, tuning
from loadtests.compare.analysis import compared
from loadtests.compare.checking import expected
from loadtests.compare.contestants import TUNED, Contestant, Setting, contestants, described
from loadtests.compare.records import QUICK, Measurement, Options, Record, Run
from loadtests.compare.rounds import BareModel, Rounds
from loadtests.compare.traces import MIXES
from sluice.bench.generators import Generators

ROOT = environments.ROOT
_CEILING_TRIES = 3
_TUNED_FILE = "tuned.json"


def main() -> None:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no server outlives the comparison
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.jsonl"
    if arguments.report_only:
        _report(path, arguments.docs)
        return
    every = contestants(TUNED | _tuned(folder))
    entrants = _entrants(arguments, every)
    found = records.recover(path) if arguments.resume else []
    if found:
        run = next(record for record in found if isinstance(record, Run))
        entrants = [each for each in every if each.name in run.options.names]
        if any(run.settings[each.name] != described(each, run.options.target) for each in entrants):
            raise SystemExit("compare: batching settings have changed since that run; it cannot be continued")
    for peer in sorted({each.peer for each in entrants if not each.ours}):
        say(f"environment of {peer}")
        environments.make(peer)
    _measure(arguments, folder, path, entrants, found)


def _measure(
    arguments: argparse.Namespace, folder: Path, path: Path, entrants: list[Contestant], found: list[Record]
) -> None:
    earlier = next((record.options for record in found if isinstance(record, Run)), None)
    workers, target = (earlier.workers, earlier.target) if earlier else (arguments.workers, arguments.target)
    with contextlib.ExitStack() as stack:
        # /tmp because Ray's sockets lie below it, whose paths have a short limit
        temporary = tempfile.TemporaryDirectory(prefix="compare-", dir="/tmp", ignore_cleanup_errors=True)
        setting = Setting(arguments.model.resolve(), workers, target, Path(stack.enter_context(temporary)))
        bare = stack.enter_context(contextlib.closing(BareModel(setting.model, workers)))
        generators = stack.enter_context(contextlib.closing(Generators(1)))
        generators.start()
        wanted = expected(setting.model)
        if arguments.tune:
            tuned = _tuned(folder) | tuning.tune(entrants, setting, wanted, bare, generators, say)
            (folder / _TUNED_FILE).write_text(json.dumps(tuned))
            return
        if not found:
            found = [_new_run(arguments, entrants, bare, tuned=bool(_tuned(folder)))]
            path.unlink(missing_ok=True)
            records.append(path, found)
        run = next(record for record in found if isinstance(record, Run))

        def write(more: Iterable[Record]) -> None:
            records.append(path, more)

        rounds = Rounds(run, entrants, setting, wanted, bare, generators, write, say)
        stack.enter_context(contextlib.closing(rounds))
        rounds.measured = [record for record in found if isinstance(record, Measurement)]
        rounds.round = max((each.round for each in found if not isinstance(each, Run)), default=0)
        rounds.go(lambda: _report(path, arguments.docs))


def _new_run(arguments: argparse.Namespace, entrants: list[Contestant], bare: BareModel, tuned: bool) -> Run:
    options = Options(
        names=[each.name for each in entrants],
        mixes=arguments.mixes,
        workers=arguments.workers,
        target=arguments.target,
        seed=arguments.seed,
        **(QUICK if arguments.quick else {}),  # type: ignore[arg-type]
    )
    ceilings = {name: max(bare.rate(name) for _ in range(_CEILING_TRIES)) for name in options.mixes}
    say("ceilings: " + ", ".join(f"{name} {rate:.1f}/s" for name, rate in ceilings.items()))
    return Run(
        options=options,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=machine.facts(),
        versions={each.name: _versions(each) for each in entrants},
        settings={each.name: described(each, arguments.target) for each in entrants},
        alone=bare.alone,
        ceilings=ceilings,
        tuned=tuned,
    )


def _versions(contestant: Contestant) -> dict[str, str]:
    executable = Path(sys.executable) if contestant.ours else environments.python(contestant.peer)
    return environments.versions(executable, contestant.package)


def _report(path: Path, docs: Path) -> None:
    comparison = compared(records.read(path))
    written = report.write(comparison, docs)
    say(f"wrote {', '.join(str(each) for each in written)}")


def _tuned(folder: Path) -> dict[str, dict[str, float]]:
    """What `--tune` found on this machine."""
    path = folder / _TUNED_FILE
    found: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _entrants(arguments: argparse.Namespace, every: list[Contestant]) -> list[Contestant]:
    wanted = arguments.only.split(",") if arguments.only else []
    unknown = [name for name in wanted if not any(each.name == name or each.peer == name for each in every)]
    if unknown:
        raise SystemExit(f"--only: no such server: {', '.join(unknown)}; there are {', '.join(e.name for e in every)}")
    return [each for each in every if not wanted or each.name in wanted or each.peer in wanted]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.compare", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="coarser rates and shorter windows")
    parser.add_argument("--resume", action="store_true", help="continue the run in the folder, with its options")
    parser.add_argument("--report-only", action="store_true", help="write the report of the run in the folder again")
    parser.add_argument(
        "--tune",
        action="store_true",
        help="search each peer's best batching settings for later runs in the folder, and end",
    )
    parser.add_argument("--only", default="", metavar="NAME,…", help="these servers only, by name or by peer")
    parser.add_argument("--mixes", default=",".join(MIXES), type=lambda text: text.split(","), metavar="MIX,…")
    parser.add_argument("--workers", type=int, default=int(machine.facts()["cores"]), help="of every server")
    parser.add_argument("--target", type=float, default=0.3, help="seconds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "minilm" / "1" / "model.onnx")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "comparison", help="for the run's records")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where the report goes")
    arguments = parser.parse_args()
    if set(arguments.mixes) - set(MIXES):
        parser.error(f"--mixes: of {', '.join(MIXES)}")
    if (arguments.resume or arguments.report_only) and not (arguments.folder / "run.jsonl").is_file():
        parser.error(f"{arguments.folder} has no run")
    if not arguments.report_only and not arguments.model.is_file():
        parser.error(f"{arguments.model} is not there; `make models/minilm/1/model.onnx` makes it")
    return arguments


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    try:
        main()
    except (environments.InstallError, MeasuringError, msgspec.MsgspecError) as error:
        raise SystemExit(f"compare: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit("compare: interrupted; --resume continues") from None
