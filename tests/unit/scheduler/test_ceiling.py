"""How large batches may be after some found no memory: smaller at once, larger again slowly, never lost for ever."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import Request, policy

from sluice.scheduler.ceiling import BELOW, LEAST_BELIEF, MOST_BELIEF, STEP_SECONDS, Ceiling
from sluice.scheduler.policy import Bounds, Policy

MOST = 1024


def climb(ceiling: Ceiling, now: float, seconds: float, fits: int = MOST) -> float:
    """Batches as large as allowed, one a step, for so long."""
    until = now + seconds
    while now < until:
        now += STEP_SECONDS
        if ceiling.tokens > fits:
            ceiling.failed(ceiling.tokens, now)
        else:
            ceiling.passed(ceiling.tokens, now)
    return now


def test_at_first_there_is_none() -> None:
    ceiling = Ceiling(MOST)
    assert ceiling.tokens == MOST
    assert not ceiling.passed(MOST, 0.0)


def test_what_did_not_fit_is_not_tried_again_soon() -> None:
    ceiling = Ceiling(MOST)
    ceiling.failed(800, 0.0)
    assert ceiling.tokens == 400
    now = climb(ceiling, 0.0, LEAST_BELIEF / 2)
    assert ceiling.tokens == int(BELOW * 800)
    climb(ceiling, now, LEAST_BELIEF)
    assert ceiling.tokens == MOST


def test_parts_that_do_not_fit_either_lower_it_further() -> None:
    ceiling = Ceiling(MOST)
    ceiling.failed(1024, 0.0)
    ceiling.failed(512, 0.0, again=True)
    assert ceiling.tokens == 256


def test_a_request_that_does_not_fit_alone_lowers_nothing() -> None:
    ceiling = Ceiling(MOST)
    ceiling.failed(900, 0.0)
    assert ceiling.tokens == 450
    for tokens in (800, 200, 50, 20):
        ceiling.failed(tokens, 1.0, again=tokens < 800)
    ceiling.forgive()
    assert ceiling.tokens == 450  # as it was before the last such batch


def test_small_batches_tell_nothing() -> None:
    ceiling = Ceiling(MOST)
    ceiling.failed(1000, 0.0)
    assert not ceiling.passed(10, LEAST_BELIEF + 1)
    assert ceiling.tokens == 500


def test_memory_that_is_not_there_is_tried_ever_more_rarely() -> None:
    ceiling, failures, now = Ceiling(MOST), [], 0.0
    for _ in range(40000):
        now += STEP_SECONDS
        if ceiling.tokens > 300:
            failures.append(now)
            ceiling.failed(ceiling.tokens, now)
        else:
            ceiling.passed(ceiling.tokens, now)
    gaps = [later - earlier for earlier, later in itertools.pairwise(failures)]
    assert gaps[-1] >= MOST_BELIEF
    assert len(failures) < 30
    assert ceiling.tokens >= 150


@given(
    st.lists(
        st.tuples(st.sampled_from(["failed", "again", "passed", "forgive"]), st.integers(1, 4000), st.floats(0, 200))
    )
)
def test_it_stays_between_one_and_the_bound(events: list[tuple[str, int, float]]) -> None:
    ceiling, now = Ceiling(MOST), 0.0
    for event, tokens, pause in events:
        now += pause
        match event:
            case "failed" | "again":
                ceiling.failed(tokens, now, again=event == "again")
                assert ceiling.tokens < tokens or ceiling.tokens == 1
            case "passed":
                before = ceiling.tokens
                assert ceiling.passed(tokens, now) == (ceiling.tokens > before)
            case _:
                ceiling.forgive()
        assert 1 <= ceiling.tokens <= MOST
    climb(ceiling, now, MOST_BELIEF + 200)
    assert ceiling.tokens == MOST


def largest(one: Policy[Request], now: float) -> int:
    """Padded tokens of the largest batch that is made of many requests."""
    for number in range(64):
        one.submit(Request(number, 16, now, now + 100.0), now)
    most = 0
    while len(one):
        decision = one.choose("a", now)
        one.failed("a", now)
        most = max(most, decision.rows * decision.length)
    return most


BOUNDS = Bounds(rows=64, tokens=512, size=1 << 20)


def test_the_policy_keeps_to_it() -> None:
    one = policy(target=100.0, bounds=BOUNDS)
    assert 256 < largest(one, 0.0) <= 512
    one.overflowed(512, 0.0, alone=False, again=False)
    assert one.ceiling.tokens == 256
    assert largest(one, 0.0) <= 256
    now = 0.0
    for _ in range(100):
        now += STEP_SECONDS
        one.finished("a", one.ceiling.tokens // 16, 16, 0.003, now)
    assert 256 < largest(one, now) <= 512


def test_one_request_that_fits_nowhere_makes_no_batch_smaller() -> None:
    one = policy(target=100.0, bounds=BOUNDS)
    one.overflowed(512, 0.0, alone=False, again=False)
    one.overflowed(256, 0.0, alone=False, again=True)
    one.overflowed(16, 0.0, alone=True, again=True)
    assert 256 < largest(one, 0.0) <= 512
    one.overflowed(16, 0.0, alone=True, again=False)
    assert 256 < largest(one, 0.0) <= 512


@pytest.mark.parametrize(("share", "most"), [(1.0, 512), (0.5, 256), (0.25, 128), (0.0, 16), (7.0, 512)])
def test_squeezed_batches_are_smaller_until_there_is_room_again(share: float, most: int) -> None:
    one = policy(target=100.0, bounds=BOUNDS)
    one.squeeze(share)
    assert most / 2 < largest(one, 0.0) <= most
    one.squeeze(1.0)
    assert 256 < largest(one, 0.0) <= 512


def test_squeezing_and_the_ceiling_add_up_to_the_smaller() -> None:
    one = policy(target=100.0, bounds=BOUNDS)
    one.overflowed(512, 0.0, alone=False, again=False)
    one.squeeze(0.25)
    assert 64 < largest(one, 0.0) <= 128
    one.squeeze(0.75)
    assert 128 < largest(one, 0.0) <= 256
