from pathlib import Path

import compare_runs as runs
import pytest
from loadtests.compare import records
from loadtests.compare.records import Alone, Problem


def test_records_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    written = runs.whole_run()
    records.append(path, written[:3])
    records.append(path, written[3:])
    assert records.read(path) == written


def test_a_line_that_was_cut_short_is_left_out_and_can_be_written_after(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    records.append(path, runs.whole_run())
    path.write_bytes(path.read_bytes()[:-20])
    found = records.recover(path)
    assert found == runs.whole_run()[:-1]
    problem = Problem(round=9, name="x", text="it ended")
    records.append(path, [problem])
    assert records.read(path) == [*found, problem]


def test_a_long_text_has_as_long_as_a_multiple_of_what_it_takes_alone() -> None:
    alone = Alone(runs.RUN)
    assert alone.due(10) == 300
    assert alone.due(512) == pytest.approx(3 * 200)


def test_only_answers_in_time_count() -> None:
    measured = runs.measurement("sluice", 10.0, [100, 299, 301, None])
    tally = measured.tally(Alone(runs.RUN))
    assert (tally.requests, tally.in_time, tally.runs) == (4, 2, 1)
