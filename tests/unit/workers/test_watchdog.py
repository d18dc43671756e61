"""How long is too long."""

import pytest

from sluice.workers.watchdog import Watchdog

DOG = Watchdog(hang=5.0, compute=60.0, interval=10.0)


@pytest.mark.parametrize(
    ("predicted", "patience"), [(0.001, 5.0), (0.25, 5.0), (0.5, 10.0), (2.0, 40.0), (10.0, 60.0), (0.0, 60.0)]
)
def test_a_batch_gets_what_its_prediction_allows(predicted: float, patience: float) -> None:
    assert DOG.batch(predicted) == patience


def test_no_patience_is_longer_than_the_upper_bound() -> None:
    dog = Watchdog(hang=5.0, compute=0.5, interval=0.0)
    assert dog.batch(0.001) == dog.trial == dog.sign_of_life == 0.5


def test_a_rested_worker_is_asked_for_a_sign_of_life() -> None:
    assert not DOG.beats(rested_since=100.0, now=109.9)
    assert DOG.beats(rested_since=100.0, now=110.0)
    assert not Watchdog(5.0, 60.0, interval=0.0).beats(rested_since=0.0, now=1e9)


def test_a_process_may_be_stopped_for_a_moment() -> None:
    assert not DOG.stands_still(None, now=1e9)
    assert not DOG.stands_still(100.0, now=104.9)
    assert DOG.stands_still(100.0, now=105.0)
