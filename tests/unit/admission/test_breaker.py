"""The circuit breaker, by its phases."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.admission.breaker import TRANSITIONS, Breaker, Event, Phase, Rule

RULE = Rule(window=10, least=4, share=0.5, pause=1, longest_pause=6)


def opened(at: float = 100.0) -> Breaker:
    breaker = Breaker(RULE)
    breaker.trip(at, "the device is gone")
    return breaker


def half_open(at: float = 101.0) -> Breaker:
    breaker = opened(at - 1)
    breaker.probing(at)
    return breaker


def test_few_failures_say_nothing() -> None:
    breaker = Breaker(RULE)
    for _ in range(3):
        breaker.failed(100, "no")
    assert breaker.allows(100)
    assert breaker.retry_after(100) == 0


def test_opens_when_the_share_is_reached() -> None:
    breaker = Breaker(RULE)
    for _ in range(3):
        breaker.succeeded(100)
    for second in (101, 102):
        breaker.failed(second, "no")
        assert breaker.phase is Phase.CLOSED
    breaker.failed(103, "still no")
    assert breaker.phase is Phase.OPEN
    assert not breaker.allows(103)
    assert breaker.opened_at == 103
    assert breaker.reason == "3 of 6 failed within 10 s, the last one: still no"
    assert breaker.retry_after(103.25) == 0.75


def test_a_failure_among_many_successes_does_not_open() -> None:
    breaker = Breaker(RULE)
    for tick in range(1000):
        now = 100 + tick / 50
        breaker.failed(now, "no") if tick % 3 == 2 else breaker.succeeded(now)
    assert breaker.phase is Phase.CLOSED


def test_old_outcomes_are_forgotten() -> None:
    breaker = Breaker(RULE)
    for _ in range(3):
        breaker.failed(100, "no")
    breaker.failed(111, "no")
    assert breaker.phase is Phase.CLOSED
    assert breaker.rates(111) == (1, 1)
    assert breaker.rates(1e6) == (0, 0)


def test_a_few_grave_failures_are_enough_however_rare() -> None:
    breaker = Breaker(RULE)
    for minute in range(4):
        breaker.failed(60 * minute, "it hung", grave=True)
    breaker.succeeded(240)
    for minute in range(5, 9):
        breaker.failed(60 * minute, "it hung", grave=True)
        breaker.failed(60 * minute + 30, "no")
        assert breaker.allows(60 * minute)
    breaker.failed(600, "it hung", grave=True)
    assert breaker.phase is Phase.OPEN
    assert breaker.reason == "5 failed gravely and none succeeded, the last one: it hung"


def test_outcomes_of_work_from_before_it_opened_count_for_nothing() -> None:
    breaker = opened()
    for _ in range(100):
        breaker.failed(100.5, "late")
    assert breaker.reason == "the device is gone"
    breaker.probing(101)
    for _ in range(100):
        breaker.failed(101, "late")
    assert breaker.phase is Phase.HALF_OPEN
    breaker.probed(101, ok=True)
    assert breaker.rates(101) == (0, 0)


def test_probes_only_after_the_pause() -> None:
    breaker = opened(at=100)
    assert not breaker.may_probe(100.9)
    assert breaker.may_probe(101)
    breaker.probing(101)
    assert breaker.phase is Phase.HALF_OPEN
    assert not breaker.may_probe(101)
    assert not breaker.allows(101)
    assert breaker.retry_after(101) > 0


def test_a_passed_probe_closes_and_forgets_the_reason() -> None:
    breaker = half_open()
    breaker.probed(102, ok=True)
    assert breaker.phase is Phase.CLOSED
    assert breaker.reason == ""
    assert breaker.allows(102)


def test_each_failed_probe_doubles_the_pause_up_to_the_longest() -> None:
    breaker, now, pauses = opened(at=100), 100.0, []
    for _ in range(5):
        pauses.append(breaker.retry_after(now))
        now += pauses[-1]
        assert breaker.may_probe(now)
        breaker.probing(now)
        breaker.probed(now, ok=False, reason="still gone")
        assert breaker.phase is Phase.OPEN
        assert breaker.reason == "still gone"
    assert pauses == [1, 2, 4, 6, 6]


def test_the_pause_begins_small_again_after_a_passed_probe() -> None:
    breaker = half_open()
    breaker.probed(102, ok=False)
    assert breaker.retry_after(102) == 2
    breaker.probing(104)
    breaker.probed(104, ok=True)
    breaker.trip(105, "again")
    assert breaker.retry_after(105) == 1


def in_doubt() -> Breaker:
    breaker = Breaker(replace(RULE, doubt=True))
    for _ in range(4):
        breaker.failed(100, "no")
    return breaker


def test_a_doubt_lets_live_work_pass_and_may_be_settled_at_once() -> None:
    breaker = in_doubt()
    assert breaker.phase is Phase.IN_DOUBT
    assert breaker.allows(100)
    assert breaker.may_probe(100)
    breaker.probing(100)
    breaker.probed(101, ok=False, reason="it is true")
    assert (breaker.phase, breaker.reason) == (Phase.OPEN, "it is true")


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("event", list(Event))
def test_only_what_the_table_says_changes_the_phase(phase: Phase, event: Event) -> None:
    makers = {
        Phase.CLOSED: lambda: Breaker(replace(RULE, doubt=True)),
        Phase.IN_DOUBT: in_doubt,
        Phase.OPEN: opened,
        Phase.HALF_OPEN: half_open,
    }
    breaker = makers[phase]()
    assert breaker.phase is phase
    match event:
        case Event.DOUBTED:
            for _ in range(4):
                breaker.failed(102, "x")
        case Event.TRIPPED:
            breaker.trip(102, "x")
        case Event.PROBING:
            breaker.probing(102)
        case Event.PROBE_PASSED:
            breaker.probed(102, ok=True)
        case Event.PROBE_FAILED:
            breaker.probed(102, ok=False, reason="x")
    assert breaker.phase is TRANSITIONS.get((phase, event), phase)


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=60))
def test_rates_lose_nothing_recent_and_keep_nothing_old(steps: list[tuple[float, bool]]) -> None:
    breaker = Breaker(Rule(window=10, least=10**9))
    now, seen = 50.0, []
    for wait, failed in steps:
        now += wait
        breaker.failed(now, "no") if failed else breaker.succeeded(now)
        seen.append((now, failed))
    failures, outcomes = breaker.rates(now)
    surely = [failed for at, failed in seen if at > now - 9]
    at_most = [failed for at, failed in seen if at > now - 10]
    assert len(surely) <= outcomes <= len(at_most)
    assert sum(surely) <= failures <= sum(at_most)
