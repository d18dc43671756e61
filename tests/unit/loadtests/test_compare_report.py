import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import compare_runs as runs
import pytest
from loadtests.compare import machine, report
from loadtests.compare.analysis import compared, verdicts
from loadtests.compare.records import Problem
from loadtests.compare.steps import next_step

COMPARISON = compared(runs.whole_run())


def test_the_best_server_comes_first_with_the_largest_rate_it_held() -> None:
    rows = COMPARISON.of("lognormal")
    assert [row.name for row in rows] == ["sluice", "triton-single", "triton-batching"]
    for row, holds in zip(rows, (90, 60, 30), strict=True):
        assert holds / runs.OPTIONS.growth < row.held <= holds < row.next_failed


def test_overload_is_measured_at_fractions_of_each_servers_own_rate() -> None:
    row = COMPARISON.of("lognormal")[2]
    assert set(row.overload) == {0.8, 1.2, 2.0}
    assert row.overload[2.0].rate == pytest.approx(2 * row.held)
    assert row.overload[2.0].goodput == pytest.approx(0.2 * 30, rel=0.02)


def test_the_goals_are_ratios_of_rates_held() -> None:
    peer, batching, ceiling, kept = verdicts(COMPARISON, "lognormal")
    assert "triton-single" in peer.text
    assert peer.found == pytest.approx(1.5, rel=0.1)
    assert batching.found == pytest.approx(3.0, rel=0.1)
    assert ceiling.found == pytest.approx(COMPARISON.of("lognormal")[0].held / 100)
    assert kept.met
    assert kept.found == pytest.approx(1.0, rel=0.1)


def test_a_peer_that_held_nothing_is_beaten_without_a_number() -> None:
    comparison = compared([runs.RUN, *runs.run_of("sluice", 50.0), *runs.run_of("triton-single", 1.0)])
    found = verdicts(comparison, "lognormal")
    assert math.isinf(found[0].found)
    assert "∞" in report.page(comparison)
    assert "below 4.7" in report.page(comparison)


def test_a_run_without_sluice_has_no_goals() -> None:
    assert verdicts(compared([runs.RUN, *runs.run_of("triton-single", 40.0)]), "lognormal") == []


def test_nothing_is_left_to_measure_after_a_whole_run_and_all_before_it() -> None:
    measured = runs.run_of("sluice", 90.0)
    assert next_step(measured, runs.LADDER, runs.OPTIONS, runs.ALONE) is None
    first = next_step([], runs.LADDER, runs.OPTIONS, runs.ALONE)
    assert first is not None
    assert first.rate == measured[0].rate
    assert [each.fraction for each in measured if each.fraction] == [0.8, 1.2, 2.0]


def test_servers_at_the_same_rate_are_sent_the_same_trace() -> None:
    one = next_step(runs.run_of("sluice", 90.0)[:1], runs.LADDER, runs.OPTIONS, runs.ALONE)
    other = next_step(runs.run_of("triton-single", 60.0)[:1], runs.LADDER, runs.OPTIONS, runs.ALONE)
    assert one == other


def test_the_page_says_all_that_is_needed_to_judge_it() -> None:
    problem = Problem(round=3, name="triton-batching", text="it has\nended")
    page = report.page(compared([*runs.whole_run(), problem]))
    for wanted in (
        "Triton, batching",
        "a processor",
        "2026-01-02",
        "onnxruntime 1.2.3",
        "at most 4 rows",
        "its defaults",
    ):
        assert wanted in page
    assert "- triton-batching, round 3: it has ended" in page
    assert "disturbed" not in page
    assert "2.0 rows a batch, 10% padding" in page


def test_a_run_on_a_busy_machine_says_so() -> None:
    disturbed = compared(runs.whole_run())
    disturbed.foreign[:] = [1.2] * len(disturbed.foreign)
    page = report.page(disturbed)
    assert "**The machine was disturbed" in page
    assert "(met)" not in page
    assert "(met)" in report.page(COMPARISON)


def test_the_report_is_written_with_its_charts_and_figures(tmp_path: Path) -> None:
    written = report.write(COMPARISON, tmp_path)
    page = (tmp_path / "comparison.md").read_text()
    for path in written:
        if path.suffix == ".svg":
            ElementTree.parse(path)
            assert f"comparison/{path.name}" in page
    figures = json.loads((tmp_path / "comparison" / "figures.json").read_text())
    assert [row["name"] for row in figures["rows"]] == runs.NAMES
    assert len(figures["goals"]["lognormal"]) == 4


def test_the_machine_is_named_from_what_the_system_says(tmp_path: Path) -> None:
    cpu, memory = tmp_path / "cpuinfo", tmp_path / "meminfo"
    cpu.write_text("processor : 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2\n")
    memory.write_text("MemTotal:       16777216 kB\n")
    found = machine.facts(cpu, memory)
    assert found["processor"] == "Some CPU @ 2 GHz (avx2)"
    assert found["memory"] == "16 GiB"


def test_a_machine_that_says_nothing_is_named_all_the_same(tmp_path: Path) -> None:
    found = machine.facts(tmp_path / "none", tmp_path / "none")
    assert found["processor"]
    assert "memory" not in found
