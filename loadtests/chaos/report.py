"""A run's record as a page with tables and charts, and as JSON beside it."""

from __future__ import annotations

import json
import os
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loadtests.chaos.load import GRACE, PATIENCE
from loadtests.chaos.rounds import Result
from loadtests.chaos.schedule import KINDS
from loadtests.compare import machine
from sluice import charts

CONTINUE_GOAL, WARM_GOAL, CAPACITY_GOAL, FAULTS_GOAL = 0.05, 3.0, 0.95, 500

_KILLS = ("kill", "kill-busy")


@dataclass
class Run:
    """Everything that is kept of a run."""

    date: str
    seed: int
    machine: dict[str, str]
    rounds: list[dict[str, Any]] = field(default_factory=list)
    capacity: dict[str, Any] | None = None

    def total(self, name: str) -> Counter[str]:
        """A table of counts, over all rounds."""
        return sum((Counter(each[name]) for each in self.rounds), Counter())

    @property
    def errors(self) -> dict[tuple[str, str], int]:
        found: Counter[tuple[str, str]] = Counter()
        for each in self.rounds:
            for kind, who, count in each["errors"]:
                found[kind, who] += count
        return dict(found)

    def recoveries(self, kinds: Iterable[str], standby: bool = False) -> list[float]:
        """Seconds, of the rounds without a standby or with one."""
        rounds = [each for each in self.rounds if ("standby" in each["setting"]) is standby]
        return sorted(time for each in rounds for kind in kinds for time in each["recoveries"].get(kind, ()))

    @property
    def continued(self) -> list[float]:
        return sorted(time for each in self.rounds for time in each["continued"])


def described_machine() -> dict[str, str]:
    """And how busy it was before the run."""
    return machine.facts() | {"load average before": f"{os.getloadavg()[0]:.1f}"}


def line(result: Result, seconds: float) -> str:
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(result.outcomes.items()))
    return f"{result.setting}: {sum(result.faults.values())} faults, {outcomes}; {seconds:.0f} s"


def write(page: Path, run: Run, text: str) -> None:
    """The page, and beside it a folder of its charts and its record."""
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(run.rounds):
        (folder / f"round-{number}.svg").write_text(_chart(each), encoding="utf-8")
    keep(folder / "run.json", run)
    page.write_text(text, encoding="utf-8")


def keep(path: Path, run: Run) -> None:
    path.write_text(json.dumps(asdict(run)), encoding="utf-8")


def page(run: Run) -> str:
    outcomes = run.total("outcomes")
    faults = run.total("faults")
    blocks = [
        "# Chaos",
        "<!-- Written by `python -m loadtests.chaos`; what is changed here by hand is lost. -->",
        "Servers that are broken on purpose while they are asked. Requests over both protocols come at the times of a "
        "schedule, whatever became of those before, and every answer is compared with the truth. A request is *lost* "
        f"if it has no answer {GRACE:g} s after its deadline, or within {PATIENCE:g} s if it has none, or if its "
        "connection goes away instead. It is *wrong* if "
        "its answer is not the one that the bare model gives, or if it is answered although it cannot be. *Guilty* are "
        f"requests made to raise, to hang or to kill. Seed {run.seed}, {run.date}; "
        + ", ".join(f"{name} {value}" for name, value in run.machine.items())
        + "; the load generator runs on the same cores.",
        _verdict(run, faults, outcomes),
        "## Rounds",
        _rounds(run),
        *_pictures(run),
        "## Faults",
        _faults(run, faults),
        *_skipped(run),
        "## Answers",
        _answers(run, outcomes),
        "## Coming back",
        _recoveries(run),
        *_capacity(run),
        *_notes(run),
    ]
    return "\n\n".join(blocks) + "\n"


def _verdict(run: Run, faults: Counter[str], outcomes: Counter[str]) -> str:
    sent = sum(outcomes.values())
    lost = outcomes["lost"] + sum("the server" in bad for each in run.rounds for bad in each["bad"])
    rows = [
        ("faults injected", f"{sum(faults.values())}", f"≥ {FAULTS_GOAL}", sum(faults.values()) >= FAULTS_GOAL),
        ("wrong answers", f"{outcomes['wrong']} of {sent:,}", "0", not outcomes["wrong"]),
        ("lost requests", f"{lost} of {sent:,}", "0", not lost),
    ]
    if run.capacity and (continued := run.capacity["continued"]):
        shown = f"{_ms(statistics.median(continued))} (worst {_ms(continued[-1])}, {len(continued)} times)"
        rows.append(
            ("from a kill to its batch running on an idle worker", shown, "< 50 ms", continued[-1] < CONTINUE_GOAL)
        )
    if continued := run.continued:
        shown = f"{_ms(statistics.median(continued))} (worst {_ms(continued[-1])}, {len(continued)} times)"
        goal = statistics.median(continued) < CONTINUE_GOAL
        rows.append(("the same under load, when the others finish what they compute first", shown, "< 50 ms", goal))
    if warm := run.recoveries(_KILLS):
        shown = f"{statistics.median(warm):.2f} s (worst {warm[-1]:.2f} s, {len(warm)} times)"
        rows.append(("from a kill until its replacement is warm", shown, "< 3 s", warm[-1] < WARM_GOAL))
    if warm := run.recoveries(_KILLS, standby=True):
        shown = f"{_ms(statistics.median(warm))} (worst {_ms(warm[-1])}, {len(warm)} times)"
        rows.append(("the same with a standby", shown, "< 3 s", warm[-1] < WARM_GOAL))
    if (share := capacity_share(run)) is not None:
        goal = share >= CAPACITY_GOAL
        rows.append(("answers while recovering, of a server with one worker less", f"{share:.0%}", "≥ 95%", goal))
    table = [(name, value, goal, "met" if met else "**not met**") for name, value, goal, met in rows]
    return _table(("", "found", "goal", ""), table)


def capacity_share(run: Run) -> float | None:
    """The median of what was answered while recovering, of the median that the smaller server answers."""
    if run.capacity is None or not run.capacity["fewer"]:
        return None
    fewer = statistics.median(run.capacity["fewer"])
    return float(statistics.median(run.capacity["recovering"]) / fewer) if fewer else None


def _rounds(run: Run) -> str:
    head = ("server", "seconds", "faults", "requests", "right", "errors", "wrong", "lost", "p99 at full strength",
            "p99 while recovering", "right while recovering", "worst recovery")  # fmt: skip
    rows = []
    for each in run.rounds:
        outcomes = Counter(each["outcomes"])
        sent, right, p99 = each["recovering"]
        rows.append((
            each["setting"], f"{each['seconds']:.0f}", f"{sum(each['faults'].values())}", f"{sum(outcomes.values()):,}",
            f"{outcomes['right']:,}", f"{outcomes['error']:,}", f"{outcomes['wrong']}", f"{outcomes['lost']}",
            _ms(each["usual"][2]), _ms(p99), f"{right / sent:.1%}" if sent else "–",
            f"{each['worst']:.2f} s after {each['worst_after']}" if each["worst"] else "–",
        ))  # fmt: skip
    text = (
        "The load stays below what the workers can do. *While recovering*: of the innocent requests sent while fewer "
        "workers were warm than there should be. *Worst recovery*: from the last fault of an outage to full strength."
    )
    return _table(head, rows) + "\n\n" + text


def _faults(run: Run, faults: Counter[str]) -> str:
    rows = [(kind.name, f"{faults[kind.name]}", kind.what) for kind in KINDS if faults[kind.name]]
    most = max((each["most_deaths"] for each in run.rounds), default=0)
    rows.append(("**all**", f"**{sum(faults.values())}**", ""))
    return _table(("fault", "times", ""), rows) + (
        f"\n\nNo request of those that kill their worker, each sent twice, cost more than {most} workers."
        if most
        else ""
    )


def _skipped(run: Run) -> list[str]:
    reasons = {kind: why for each in run.rounds for kind, why in each["skipped"].items()}
    return [f"Left out: {kind}, because {why}." for kind, why in sorted(reasons.items())]


def _answers(run: Run, outcomes: Counter[str]) -> str:
    head = ("answer", "requests")
    names = ("right", "error", "cancelled", "wrong", "lost")
    told = {"error": "an explicit error", "cancelled": "cancelled by their clients"}
    first = _table(head, [(told.get(name, name), f"{outcomes[name]:,}") for name in names])
    who = sorted({who for _, who in run.errors}, key=lambda each: (each != "guilty", each))
    kinds = sorted({kind for kind, _ in run.errors})
    said = {kind: text for each in run.rounds for kind, text in each["examples"].items()}
    rows = [
        (kind, *(f"{run.errors.get((kind, each), '')}" for each in who), _quoted(said.get(kind, ""))) for kind in kinds
    ]
    text = (
        "Explicit errors, by who got them: the guilty, or the innocent, by the model they asked. An innocent one that "
        "is alone in its batch when the model raises is told so; one that shares a batch with a guilty one is answered."
    )
    return first + "\n\n" + text + ("\n\n" + _table(("error", *who, "for instance"), rows) if rows else "")


def _quoted(text: str) -> str:
    """An error's words on one line of a table, out of the JSON they may have come in."""
    words = text.removeprefix('{"error":"').removesuffix('"}').replace("|", "/")
    return " ".join(words.split())


def _recoveries(run: Run) -> str:
    kinds = sorted({kind for each in run.rounds for kind in each["recoveries"]})
    rows = []
    for kind in kinds:
        for standby in (False, True):
            if times := run.recoveries((kind,), standby):
                name = f"{kind}, with a standby" if standby else kind
                rows.append((name, f"{len(times)}", f"{statistics.median(times):.2f}", f"{times[-1]:.2f}"))
    text = "Seconds from a fault that nothing else fell into, to as many warm workers as there should be."
    return text + "\n\n" + _table(("fault", "times", "median s", "worst s"), rows)


def _capacity(run: Run) -> list[str]:
    found, share = run.capacity, capacity_share(run)
    if found is None or share is None:
        return []
    rows = [
        (f"{found['workers']} workers, nothing broken", _spread(found["whole"])),
        (f"{found['workers'] - 1} workers, nothing broken", _spread(found["fewer"])),
        (f"{found['workers']} workers, one of them always being replaced", _spread(found["recovering"])),
    ]
    text = (
        "Right answers of the demo model per second, asked by as many clients as keep every worker busy; medians, and "
        f"ranges over {len(found['fewer'])} turns. A worker was killed {found['kills']} times, each as soon as the one "
        "before was replaced. What starts and warms a replacement runs on the same cores as everything else. It is "
        f"**{share:.0%}** of the remaining capacity."
    )
    return ["## Capacity while recovering", text, _table(("server", "answers /s"), rows)]


def _notes(run: Run) -> list[str]:
    notes = [f"- {each['setting']}: {note}" for each in run.rounds for note in (*each["bad"], *each["notes"])]
    return ["## To be looked at", "\n".join(notes[:40])] if notes else []


def _pictures(run: Run) -> list[str]:
    shown = [f"![{each['setting']}](chaos/round-{number}.svg)" for number, each in enumerate(run.rounds)]
    return ["\n".join(shown)] if shown else []


def _chart(each: dict[str, Any]) -> str:
    """Requests sent and right answers; beneath them a tick for each time a worker was lost."""
    series = [charts.Series(name, each["rates"].get(name, ())) for name in ("sent", "right")]
    top = max((value for _, value in each["rates"].get("sent", ())), default=1.0)
    ticks = [(at + shift, height) for at in sorted(each["struck"]) for shift, height in
             ((-0.01, 0.0), (0.0, 0.06 * top), (0.01, 0.0))]  # fmt: skip
    series.append(charts.Series("a worker is lost", ticks, colour="#c00"))
    about = charts.Chart(each["setting"], "seconds", "requests per second", width=900, height=260, marks=False)
    return charts.lines(about, series)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    marks = " | ".join("---" if number == 0 else "--:" for number in range(len(head)))
    lines = [f"| {' | '.join(head)} |", f"| {marks} |", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)
