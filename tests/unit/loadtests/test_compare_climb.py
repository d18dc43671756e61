from hypothesis import given
from hypothesis import strategies as st
from loadtests.compare.climb import Ladder, Rule, Tally, held_rung, next_rung, tallies

LADDER = Ladder(ceiling=100.0, growth=1.1, lowest=-20, highest=1)
RULE = Rule(share=0.99, tries=2)
GOOD, NARROW, BAD = Tally.of(1000, 995), Tally.of(1000, 980), Tally.of(1000, 100)


def climb(limit: int, rule: Rule = RULE, narrow: bool = False) -> tuple[int | None, int]:
    """Of a server that holds every rung up to a limit: the rung found, and the runs it took."""
    runs: list[tuple[int, Tally]] = []
    while (rung := next_rung(LADDER, tallies(runs), rule)) is not None:
        runs.append((rung, GOOD if rung <= limit else NARROW if narrow else BAD))
        assert len(runs) < 30
    return held_rung(LADDER, tallies(runs), rule), len(runs)


@given(st.integers(LADDER.lowest, LADDER.highest), st.booleans())
def test_the_search_finds_the_largest_rung_that_is_held(limit: int, narrow: bool) -> None:
    assert climb(limit, narrow=narrow)[0] == limit


def test_the_search_halves() -> None:
    assert max(climb(limit)[1] for limit in range(LADDER.lowest, LADDER.highest + 1)) <= 5 + 1  # the last one twice


def test_a_server_that_holds_nothing_has_no_rung() -> None:
    assert climb(LADDER.lowest - 1)[0] is None


def test_a_narrow_failure_is_tried_again_and_a_clear_one_is_not() -> None:
    first = next_rung(LADDER, {}, RULE)
    assert first is not None
    assert next_rung(LADDER, {first: NARROW}, RULE) == first
    assert next_rung(LADDER, {first: BAD}, RULE) != first


def test_the_runs_at_a_rung_count_together() -> None:
    together = tallies([(3, NARROW), (3, Tally.of(2000, 2000)), (4, BAD)])
    assert together[3] == Tally(3000, 2980, 2, best=1.0)
    assert RULE.held(together[3])
    assert together[4] == BAD


def test_a_disturbed_run_does_not_end_the_search() -> None:
    runs: list[tuple[int, Tally]] = []
    while (rung := next_rung(LADDER, tallies(runs), RULE)) is not None:
        first = not runs
        runs.append((rung, BAD if first or rung > -3 else GOOD))
    assert held_rung(LADDER, tallies(runs), RULE) == -3


def test_a_rung_above_a_failed_one_is_not_believed() -> None:
    assert held_rung(LADDER, {-5: BAD, 0: GOOD, -10: GOOD}, RULE) == -10


def test_rungs_are_shares_of_the_ceiling() -> None:
    assert LADDER.rate(0) == 100
    assert LADDER.rate(1) > 100 > LADDER.rate(-1)
