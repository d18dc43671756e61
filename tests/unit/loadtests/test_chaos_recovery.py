import math

from loadtests.chaos.recovery import Recovery, by_kind
from loadtests.chaos.watch import Line, parse


def test_an_outage_lasts_from_its_fault_until_all_workers_are_warm() -> None:
    recovery = Recovery(full=2)
    recovery.seen(0.0, 2)
    recovery.struck(1.0, "kill")
    recovery.seen(1.5, 1)
    assert recovery.windows(1.6) == [(1.0, 1.6)]
    recovery.seen(3.0, 2)
    assert not recovery.recovering
    assert [(outage.began, outage.ended, outage.seconds) for outage in recovery.outages] == [(1.0, 3.0, 2.0)]
    assert by_kind(recovery.finished()) == {"kill": [2.0]}


def test_faults_that_fall_into_an_outage_are_counted_from_the_last_and_to_no_kind() -> None:
    recovery = Recovery(full=2)
    recovery.struck(1.0, "kill")
    recovery.seen(2.0, 1)
    recovery.struck(2.5, "hang")
    recovery.seen(4.0, 2)
    (outage,) = recovery.finished()
    assert outage.faults == ["kill", "hang"]
    assert outage.seconds == 1.5
    assert by_kind([outage]) == {}


def test_a_fault_told_late_does_not_end_before_it_struck() -> None:
    recovery = Recovery(full=1)
    recovery.struck(5.0, "crash")
    recovery.seen(4.9, 1)  # looked at before
    assert recovery.finished() == []
    recovery.seen(5.1, 1)
    assert not recovery.recovering


def test_missing_workers_that_nobody_attacked_are_an_outage_too() -> None:
    recovery = Recovery(full=2)
    recovery.seen(1.0, 1)
    assert recovery.outages[0].faults == ["unknown"]
    assert recovery.finished() == []
    assert math.isnan(recovery.outages[0].ended)
    assert recovery.windows(7.0) == [(1.0, 7.0)]


def test_lines_of_the_witness() -> None:
    assert parse("12 3.500000 run 1,2") == Line(12, 3.5, "run", (1, 2))
    assert parse("12 3.500000 warm ") == Line(12, 3.5, "warm", ())
    assert parse("12 3.5") is None
