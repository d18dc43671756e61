from typing import Any

from loadtests.chaos import report
from loadtests.chaos.rounds import Result


def played(setting: str = "2 workers", **changes: Any) -> dict[str, Any]:
    result = Result(
        setting,
        100.0,
        faults={"kill": 300, "raise": 220},
        outcomes={"right": 9000, "error": 12, "cancelled": 100},
        errors=[("model failed", "whim", 2), ("worker lost", "guilty", 10)],
        examples={"worker lost": '{"error":"the worker died"}'},
        recoveries={"kill": [1.0, 1.5, 2.0]},
        worst=2.5,
        worst_after="hang",
        continued=[0.004, 0.012],
        most_deaths=2,
        usual=(8000, 8000, 0.05),
        recovering=(1000, 990, 0.2),
        rates={"sent": [(0.0, 60.0), (2.0, 61.0)], "right": [(0.0, 60.0), (2.0, 59.0)]},
        struck=[1.0],
    )
    return result.plain() | changes


def run(*rounds: dict[str, Any], **changes: Any) -> report.Run:
    return report.Run("2026-01-02", 1, {"cores": "2"}, list(rounds), **changes)


CAPACITY = {
    "workers": 2, "whole": [150.0, 160.0], "fewer": [80.0, 80.0, 82.0], "recovering": [78.0, 80.0, 81.0],
    "kills": 9, "back": [2.0], "continued": [0.003, 0.004], "bad": 0,
}  # fmt: skip


def verdicts(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.endswith(("met |", "**not met** |"))]


def test_a_run_without_fault_of_the_server_meets_every_goal() -> None:
    text = report.page(run(played(), played("2 workers, a standby for each"), capacity=CAPACITY))
    lines = verdicts(text)
    assert len(lines) == 8
    assert not any("not met" in line for line in lines)
    assert "| faults injected | 1040 | ≥ 500 | met |" in lines
    assert "**100%**" in text


def test_wrong_and_lost_are_told_with_their_examples() -> None:
    bad = played(outcomes={"right": 10, "wrong": 1, "lost": 2}, bad=["wrong: tagger over http: not this request's"])
    text = report.page(run(bad))
    assert "| wrong answers | 1 of 13 | 0 | **not met** |" in text
    assert "| lost requests | 2 of 13 | 0 | **not met** |" in text
    assert "- 2 workers: wrong: tagger over http: not this request's" in text


def test_a_server_that_ended_by_itself_is_never_a_good_run() -> None:
    text = report.page(run(played(bad=["the server ended by itself with -11"])))
    assert "| lost requests | 1 of" in text


def test_errors_are_a_table_of_who_got_them() -> None:
    text = report.page(run(played(), played()))
    assert "| error | guilty | whim | for instance |" in text
    assert "| model failed |  | 4 |  |" in text
    assert "| worker lost | 20 |  | the worker died |" in text


def test_what_could_not_be_had_here_is_said() -> None:
    text = report.page(run(played(skipped={"slow-disk": "no control group can be written here"})))
    assert "Left out: slow-disk, because no control group can be written here." in text


def test_the_share_of_the_remaining_capacity() -> None:
    assert report.capacity_share(run()) is None
    assert report.capacity_share(run(capacity=CAPACITY)) == 1.0
