"""What follows from a worker's deaths, case by case."""

import pytest

from sluice.workers.restarts import (
    FAULT_WINDOW,
    FAULTS,
    PROVEN_BATCHES,
    PROVEN_SECONDS,
    Case,
    Cause,
    Death,
    Others,
    Restarts,
    Verdict,
)

PROVEN = Death(Cause.DIED, PROVEN_SECONDS, 0, served=True)
BUSY = Death(Cause.DIED, 1.0, PROVEN_BATCHES, served=True)
SERVED = Death(Cause.DIED, 1.0, 1, served=True)
NEVER_SERVED = Death(Cause.DIED, 1.0, 0, served=False)
NOT_SPAWNED = Death(Cause.DIED, 0.0, 0, served=False, spawned=False)
HUNG = Death(Cause.HUNG, PROVEN_SECONDS, 0, served=True)
FAULT = Death(Cause.DEVICE, PROVEN_SECONDS, 0, served=True, blames_device=True)
EXPLAINED = Death(Cause.DEVICE, PROVEN_SECONDS, 0, served=True)
FINE, ALONE, SOME_DOWN, ALL_DOWN = Others(3, 0), Others(0, 0), Others(1, 2), Others(0, 3)


@pytest.mark.parametrize(
    ("deaths", "others", "expected"),
    [
        ([SERVED], FINE, Verdict(Case.ONE_DIED, 0.0)),
        ([PROVEN] * 9, FINE, Verdict(Case.ONE_DIED, 0.0)),
        ([BUSY] * 9, FINE, Verdict(Case.ONE_DIED, 0.0)),
        ([HUNG] * 9, FINE, Verdict(Case.ONE_DIED, 0.0)),
        ([SERVED], SOME_DOWN, Verdict(Case.SEVERAL_DIED, 0.2)),
        ([PROVEN], Others(1, 50), Verdict(Case.SEVERAL_DIED, 1.0)),
        ([SERVED], ALL_DOWN, Verdict(Case.NONE_LEFT, 0.0)),
        ([PROVEN] * 9, ALONE, Verdict(Case.NONE_LEFT, 0.0)),
        ([SERVED, SERVED], FINE, Verdict(Case.CRASH_LOOP, 0.2)),
        ([SERVED, SERVED, SERVED], FINE, Verdict(Case.CRASH_LOOP, 0.4)),
        ([SERVED] * 50, FINE, Verdict(Case.CRASH_LOOP, 5.0)),
        ([SERVED, SERVED, PROVEN], FINE, Verdict(Case.ONE_DIED, 0.0)),
        ([SERVED] * 5 + [PROVEN, SERVED], FINE, Verdict(Case.CRASH_LOOP, 0.2)),
        ([NEVER_SERVED] * 50, FINE, Verdict(Case.CRASH_LOOP, 30.0)),
        ([NEVER_SERVED] * 2000, FINE, Verdict(Case.CRASH_LOOP, 30.0)),
        ([SERVED] * 50, ALONE, Verdict(Case.CRASH_LOOP_ALONE, 1.0)),
        ([SERVED, SERVED], ALL_DOWN, Verdict(Case.CRASH_LOOP_ALONE, 0.2)),
        ([NOT_SPAWNED] * 50, FINE, Verdict(Case.NOT_SPAWNED, 1.0)),
        ([NOT_SPAWNED] * 50, ALONE, Verdict(Case.NOT_SPAWNED, 1.0)),
        ([NEVER_SERVED] * 50, ALONE, Verdict(Case.CRASH_LOOP, 30.0)),
        ([FAULT] * (FAULTS - 1), FINE, Verdict(Case.ONE_DIED, 0.0)),
        ([FAULT] * FAULTS, FINE, Verdict(Case.DEVICE_GONE, 300.0)),
        ([FAULT] * FAULTS, ALONE, Verdict(Case.DEVICE_GONE, 300.0)),
        # On probation: one more fault is enough, and it waits longer.
        ([FAULT] * (FAULTS + 1), FINE, Verdict(Case.DEVICE_GONE, 600.0)),
        ([FAULT] * 50, FINE, Verdict(Case.DEVICE_GONE, 3600.0)),
        ([EXPLAINED] * 50, ALONE, Verdict(Case.NONE_LEFT, 0.0)),
        ([FAULT] * FAULTS + [SERVED], FINE, Verdict(Case.ONE_DIED, 0.0)),
    ],
)
def test_the_last_death_of_several(deaths: list[Death], others: Others, expected: Verdict) -> None:
    restarts = Restarts()
    verdicts = [restarts.died(death, others, now=float(number)) for number, death in enumerate(deaths)]
    assert verdicts[-1] == expected


def test_faults_long_ago_are_forgotten() -> None:
    restarts = Restarts()
    for number in range(2 * FAULTS):
        now = number * FAULT_WINDOW
        assert restarts.died(FAULT, FINE, now).case is not Case.DEVICE_GONE
        assert restarts.faults(now) <= 2
    assert restarts.faults(1e9) == 0
