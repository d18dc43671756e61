"""`sluice simulate`, from the command line to its files."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from sluice.cli.main import main
from sluice.scheduler.cost import Cost
from sluice.simulation import report
from sluice.simulation.requests import SimulationError
from sluice.simulation.rules import NAMES
from sluice.simulation.study import CELLS, Found, Record
from sluice.simulation.worlds import CPU

SMALL = ["--requests", "300", "--seed", "1"]


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["simulate", *arguments]) == 0
    return capsys.readouterr().out


def test_run_compares_rules_and_writes_figures_and_pictures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    directory, figures = tmp_path / "plots", tmp_path / "figures.json"
    text = output(
        capsys,
        *("run", "--rules", "all", "--load", "0.1,0.3", "--workers", "2", "--plots", str(directory)),
        *("--output", str(figures), *SMALL),
    )
    for name in NAMES:
        assert sum(line.startswith(f"{name} ") for line in text.splitlines()) == 2
    document = json.loads(figures.read_text())
    assert list(document["rules"]) == list(NAMES)
    assert [each["load"] for each in document["rules"]["sluice"]] == pytest.approx([0.1, 0.3])
    assert {path.name for path in directory.iterdir()} == {
        "goodput.svg",
        "in-time.svg",
        "worst-class.svg",
        "padding.svg",
        "latency.svg",
    }
    for path in directory.iterdir():
        ElementTree.fromstring(path.read_text())


def test_run_shows_what_tells_requests_apart(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--tenants", "x=1:2,y=1", "--models", "m=1,n=1:2", "--priorities", "1=1,5=3", "--rows", "1=3,4=1")
    faults = ("--slow", "1:2:0.01", "--death", "0:0.01:0.01", "--deadlines", "0.05=1,inf=1", "--gap", "0.0001")
    text = output(capsys, "run", "--json", "--workers", "2", *arguments, *faults, *SMALL)
    document = json.loads(text)
    assert document["device"] == {"m": "gpu", "n": "gpu × 2"}
    found = document["rules"]["sluice"][0]
    assert {kind: list(parts) for kind, parts in found["parts"].items()} == {
        "model": ["m", "n"],
        "tenant": ["x", "y"],
        "priority": ["1", "5"],
        "deadline": ["0.05", "inf"],
    }
    assert sum(found["outcomes"].values()) == 300
    assert "requests with" in output(capsys, "run", *arguments, *SMALL)


def test_run_plays_recorded_traffic_on_a_learned_device(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    traffic, kept = tmp_path / "traffic.csv", tmp_path / "1-cpu.json"
    traffic.write_text("arrival,length\n" + "".join(f"{number / 50},{8 + number % 40}\n" for number in range(200)))
    cost = Cost()
    for rows in (1, 2, 4, 8, 16):
        for length in (8, 32, 128):
            cost.profile(rows, length, CPU.seconds(rows, length))
    cost.fit()
    kept.write_text(json.dumps({"circumstances": {}, "cost": cost.state()}))
    arguments = ("--traffic", str(traffic), "--cost", str(kept), "--target", "0.1", "--json")
    document = json.loads(output(capsys, "run", *arguments))
    found = document["rules"]["sluice"][0]
    assert (document["requests"], found["rate"]) == (200, pytest.approx(50))
    assert found["in_time"] == 1
    faster = json.loads(output(capsys, "run", *arguments, "--rate", "500"))["rules"]["sluice"][0]
    assert faster["utilisation"] > found["utilisation"]


@pytest.mark.parametrize("steps", ["exact", "8", "learned:4"])
def test_run_pads_to_the_steps_asked_for(capsys: pytest.CaptureFixture[str], steps: str) -> None:
    arguments = ("run", "--steps", steps, "--load", "0.1", "--json", "--lengths", "bimodal", *SMALL)
    warm, cold = (json.loads(output(capsys, *arguments, *more))["rules"]["sluice"][0] for more in ((), ("--cold",)))
    assert warm["outcomes"] == {"answered": 300}
    assert sum(cold["outcomes"].values()) == 300


def test_capacity_grows_with_the_workers(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("capacity", "--world", "cpu", "--workers", "1,2", "--target", "0.3", *SMALL)
    one, two = json.loads(output(capsys, *arguments, "--json"))["capacities"]
    assert 1.5 * one["rate"] < two["rate"]
    for each in (one, two):
        assert 0 < each["fair_rate"] <= each["rate"] <= 1.02 * each["bound"]  # so few requests may be lucky
    assert "99% within 300 ms" in output(capsys, *arguments)


def test_study_keeps_what_was_found_before(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ("study", str(tmp_path), "--cells", "cpu constant", "--scale", "0.02", "--no-tune")
    output(capsys, *arguments, "--rules", "triton")
    text = output(capsys, *arguments, "--rules", "none")
    assert text.splitlines()[2] in ("| | none | triton |", "| | triton | none |")
    assert (tmp_path / "study.md").read_text() == text.removesuffix("\n")
    ElementTree.fromstring((tmp_path / "study.svg").read_text())
    assert len(json.loads((tmp_path / "study.json").read_text())["found"]) == 6
    assert json.loads(output(capsys, *arguments, "--rules", "none", "--json", "--jobs", "2"))["found"]


def test_the_study_table_marks_the_best_and_sorts_by_mean(tmp_path: Path) -> None:
    record = Record(tmp_path / "study.json")
    for rule, loads in (("a", (0.25, 0.5)), ("b", (0.5, 0.75)), ("c", (1.0,))):
        for cell, load in zip(CELLS, loads, strict=False):
            record.add(Found(rule, cell.name, load, load / 2, "", 1.0))
    lines = report.study_table(Record(tmp_path / "study.json")).splitlines()
    assert lines == [
        "| | b | a | c |",
        "|---|---:|---:|---:|",
        f"| {CELLS[0].name} | .50 | .25 | **1.00** |",
        f"| {CELLS[1].name} | **.75** | .50 |  |",
        "| **mean** | **.625** | .375 |  |",
    ]
    assert report.study_table(record, fair=True).splitlines()[2].endswith("| .25 | .12 | **.50** |")
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(SimulationError, match="not what a study wrote"):
        Record(tmp_path / "study.json")


def test_the_study_has_eighteen_cells() -> None:
    assert len({cell.name for cell in CELLS}) == 18
    assert [round(cell.scenario().target, 6) for cell in CELLS[:3]] == [0.015, 0.015, 0.009]


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["run", "--rules", "magic"], 1, "error: rules: there is no 'magic'"),
        (["run", "--load", "0.1,x"], 2, "for --load"),
        (["run", "--load", "0.1", "--rate", "5"], 2, "for --load"),
        (["run", "--rate", "0"], 2, "for --rate"),
        (["run", "--lengths", "gaussian"], 1, "error: lengths: 'gaussian'"),
        (["run", "--traffic", "missing"], 1, "error: missing: No such file"),
        (["run", "--cost", "missing"], 1, "error: missing: No such file"),
        (["run", "--tenants", "x"], 2, "for --tenants"),
        (["run", "--tenants", "x=0"], 2, "for --tenants"),
        (["run", "--priorities", "high=1"], 2, "for --priorities"),
        (["run", "--slow", "3:2"], 2, "for --slow"),
        (["run", "--slow", "0"], 2, "for --slow"),
        (["run", "--slow", "0:0"], 2, "for --slow"),
        (["run", "--death", "0:1"], 2, "for --death"),
        (["run", "--steps", "few"], 2, "for --steps"),
        (["run", "--workers", "65"], 2, "for '--workers'"),
        (["capacity", "--workers", "1.5"], 2, "for --workers"),
        (["capacity", "--rule", "all"], 2, "for --rule"),
        (["study", "there", "--cells", "tpu"], 2, "for --cells"),
    ],
)
def test_what_is_wrong_is_named(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    error: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", *arguments]) == code
    assert error in capsys.readouterr().err
