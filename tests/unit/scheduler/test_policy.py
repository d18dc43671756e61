"""The policy as a whole: what it runs keeps every bound, nothing is lost, and who is served when it is too much."""

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import BOUNDS, TARGET, Request, learned, policy, seconds, slow_seconds

from sluice.scheduler.cost import Cost
from sluice.scheduler.policy import Bounds, Decision, Policy, Refusal
from sluice.scheduler.steps import MULTIPLES_OF_8, Learned


def lengths(decision: Decision[Request]) -> list[int]:
    return sorted(entry.length for entry in decision.entries)


def drain(one: Policy[Request], now: float = 0.0, worker: str = "a") -> list[Decision[Request]]:
    """Run all that waits, one batch after the other."""
    decisions = []
    while len(one):
        decision = one.choose(worker, now)
        assert decision.entries or decision.given_up or decision.until is not None
        if decision.entries:
            now += decision.seconds
            one.finished(worker, decision.rows, decision.length, decision.seconds, now)
        elif decision.until is not None:
            assert decision.until > now
            now = decision.until
        decisions.append(decision)
    return decisions


def submit(one: Policy[Request], *requests: Request, now: float = 0.0) -> list[Refusal | None]:
    return [one.submit(request, now) for request in requests]


def test_nothing_waits_nothing_runs() -> None:
    one = policy()
    assert one.choose("a", 0.0) == Decision()
    assert one.urgency(0.0) == (True, math.inf)
    assert list(one) == []


def test_like_lengths_run_together() -> None:
    one = policy()
    submit(one, *(Request(number, length) for number, length in enumerate([20, 500, 21, 22, 480, 20])))
    first, second = drain(one)
    assert [lengths(first), lengths(second)] == [[20, 20, 21, 22], [480, 500]] or [
        lengths(second),
        lengths(first),
    ] == [[20, 20, 21, 22], [480, 500]]


def test_short_ones_fill_a_batch_that_costs_the_same() -> None:
    one = policy()
    submit(one, Request(0, 100), Request(1, 30), Request(2, 20))
    assert lengths(one.choose("a", 0.0)) == [20, 30, 100]  # all below the knee


def test_padding_that_costs_is_not_taken() -> None:
    one = policy(learned(slow_seconds))
    submit(one, Request(0, 100), Request(1, 5))
    assert len(one.choose("a", 0.0).entries) == 1


def test_a_batch_is_padded_to_its_step() -> None:
    one = policy(steps=MULTIPLES_OF_8)
    submit(one, Request(0, 13))
    assert one.choose("a", 0.0).length == 16


def test_a_request_beyond_the_bounds_runs_alone() -> None:
    one = policy(bounds=Bounds(rows=4, tokens=100, size=10))
    submit(one, Request(0, 300, rows=9, size=50), Request(1, 300))
    assert [len(decision.entries) for decision in drain(one)] == [1, 1]


def test_a_long_request_is_given_patience() -> None:
    one = policy(learned(slow_seconds), target=0.05)
    assert one.patience(1, 10) == 0.05
    assert one.patience(1, 1000) == pytest.approx(3 * slow_seconds(1, 1000), rel=0.1)


REQUESTS = st.lists(
    st.builds(
        lambda length, rows, patience, group, shift, tenant, size: Request(
            0, length, 0.0, patience, rows, size, group, shift, tenant
        ),
        st.integers(1, 300),
        st.integers(1, 12),
        st.floats(-0.5, 3.0),
        st.sampled_from("ab"),
        st.floats(-3, 3),
        st.sampled_from([None, "x", "y"]),
        st.integers(0, 900),
    ),
    max_size=60,
)
TIGHT = Bounds(rows=16, tokens=1024, size=2000)


@given(REQUESTS, st.data(), st.sampled_from([learned(), learned(slow_seconds), Cost()]), st.booleans())
@settings(max_examples=200)
def test_whatever_happens_each_ends_once_and_batches_keep_their_bounds(
    described: list[Request], data: st.DataObject, cost: Cost, stepped: bool
) -> None:
    one = policy(Cost.restore(cost.state()), 0.3, TIGHT, Learned(4, 300) if stepped else MULTIPLES_OF_8)
    one.workers = 2
    ended: Counter[int] = Counter()
    now, waiting = 0.0, {}
    for number, request in enumerate(described):
        entry = replace(request, sequence=number, arrival=now, due=now + request.due)
        if one.submit(entry, now) is None:
            waiting[number] = entry
        else:
            ended[number] += 1
        if waiting and data.draw(st.integers(0, 9)) == 0:
            gone = waiting.pop(data.draw(st.sampled_from(sorted(waiting))))
            one.remove(gone)
            one.remove(gone)
            ended[gone.sequence] += 1
        if data.draw(st.integers(0, 3)) == 0:
            now = step(one, now, waiting, ended, data.draw(st.integers(1, 2)), data.draw(st.booleans()))
    for _ in range(500):
        if not waiting:
            break
        now = step(one, now, waiting, ended, 1, False)
    assert not waiting
    assert not list(one)
    assert len(one) == 0
    assert ended == Counter(range(len(described)))
    assert one.choose("a", now) == Decision()


def step(
    one: Policy[Request], now: float, waiting: dict[int, Request], ended: Counter[int], idle: int, fails: bool
) -> float:
    """One decision, checked; a batch that fails is put back once."""
    assert sorted(entry.sequence for entry in one) == sorted(waiting)
    decision = one.choose("a", now, idle)
    for entry in decision.given_up:
        assert waiting.pop(entry.sequence) is entry
        ended[entry.sequence] += 1
    if not decision.entries:
        return max(now + 0.001, decision.until or 0.0)
    entries = decision.entries
    assert all(waiting[entry.sequence] is entry for entry in entries)
    assert len({entry.group for entry in entries}) == 1
    assert decision.rows == sum(entry.rows for entry in entries)
    assert decision.length >= max(entry.length for entry in entries)
    if len(entries) > 1:
        assert decision.rows <= TIGHT.rows
        assert decision.rows * decision.length <= TIGHT.tokens
        assert sum(entry.size for entry in entries) <= TIGHT.size
    if fails:
        one.failed("a", now)
        for entry in entries:
            one.restore(entry, now)
        return now + 0.01
    for entry in entries:
        del waiting[entry.sequence]
        ended[entry.sequence] += 1
    now += decision.seconds
    one.finished("a", decision.rows, decision.length, seconds(decision.rows, decision.length), now)
    return now


@given(st.integers(1, 400), st.integers(1, 4), st.floats(1.01, 50.0), st.integers(1, 4))
def test_one_alone_that_can_be_in_time_is(length: int, rows: int, spare: float, workers: int) -> None:
    one = policy(target=0.02)
    one.workers = workers
    one.renew()
    due = spare * one.cost.seconds(rows, length)
    assert one.submit(Request(0, length, due=due, rows=rows), 0.0) is None
    decision = one.choose("a", 0.0, 1)
    now = 0.0
    if decision.until is not None:
        now = decision.until
        decision = one.choose("a", now, 1)
    assert len(decision.entries) == 1
    assert not decision.given_up
    assert now + decision.seconds <= due


def test_what_is_late_runs_when_nothing_else_does() -> None:
    one = policy()
    submit(one, Request(0, 10, due=0.001), Request(1, 400, due=0.9))
    one.cost.observe("a", 1, 10, seconds(1, 10))
    timely, late = one.choose("a", 0.0), one.choose("a", 0.01)
    assert [timely.entries[0].sequence, late.entries[0].sequence] == [1, 0]


def test_what_is_late_is_not_given_up_for_that_alone() -> None:
    one = policy()
    submit(one, Request(0))
    decision = one.choose("a", 2 * TARGET + 0.1)
    assert [entry.sequence for entry in decision.entries] == [0]
    assert not decision.given_up


def test_what_is_late_runs_in_the_end_even_if_timely_work_never_stops_coming() -> None:
    one = policy()
    submit(one, Request(0, 10, due=0.001))
    now, ran = 0.01, list[int]()
    while 0 not in ran and now < 20 * TARGET:
        number = len(ran) + 1
        submit(one, Request(number, 10, now, due=now + TARGET))
        decision = one.choose("a", now)
        assert not decision.given_up
        ran += [entry.sequence for entry in decision.entries]
        now += 0.01 * TARGET
    assert 0 in ran
    assert now > 5 * TARGET


def test_what_is_late_is_given_up_when_there_is_too_much_work() -> None:
    one = policy(learned(slow_seconds))
    submit(one, Request(0, 100, due=0.001))
    assert all(flood(one, 40, first=1))
    assert [entry.sequence for entry in one.choose("a", 0.01).given_up] == [0]


def test_with_too_much_work_a_full_batch_passes_over_what_is_due_too_soon_for_it() -> None:
    one = policy(target=0.1)
    urgent = Request(0, 100, due=0.004)
    submit(one, urgent)
    assert all(flood(one, 250, first=1, due=0.09))
    decision = one.choose("a", 0.0)
    assert decision.given_up == (urgent,)
    assert len(decision.entries) > 30
    assert decision.rows == len(decision.entries)


def test_a_tenant_within_its_share_is_not_passed_over() -> None:
    one = policy(target=0.1)
    urgent = Request(0, 100, due=0.004, tenant="quiet")
    submit(one, urgent)
    assert all(flood(one, 250, first=1, due=0.09, tenant="loud"))
    decision = one.choose("a", 0.0)
    assert urgent in decision.entries
    assert not decision.given_up


def test_what_waits_on_although_passed_over_ends_once() -> None:
    one = policy(target=0.1)
    submit(one, Request(0, 100, due=0.004), Request(1, 100, due=0.005, tenant="quiet"))
    assert all(flood(one, 250, first=2, due=0.09, tenant="loud"))
    decisions = drain(one)
    ended = Counter(entry.sequence for each in decisions for entry in each.entries + each.given_up)
    assert ended == Counter(range(252))
    assert 1 not in [entry.sequence for entry in decisions[0].given_up]


def test_equals_run_in_the_order_they_came_whatever_the_order_of_submission() -> None:
    found = []
    for order in (range(10), reversed(range(10)), (3, 7, 1, 9, 0, 2, 8, 5, 4, 6)):
        one = policy(bounds=Bounds(rows=3, tokens=1000, size=100))
        submit(one, *(Request(number) for number in order))
        found.append([entry.sequence for decision in drain(one) for entry in decision.entries])
    assert found[0] == list(range(10))
    assert found[0] == found[1] == found[2]


def test_a_higher_priority_goes_first() -> None:
    one = policy(bounds=Bounds(rows=1, tokens=1000, size=100))
    submit(one, Request(0), Request(1, shift=-0.2), Request(2, shift=0.2))
    assert [decision.entries[0].sequence for decision in drain(one)] == [1, 0, 2]


def test_age_beats_priority() -> None:
    one = policy(bounds=Bounds(rows=1, tokens=1000, size=100))
    submit(one, Request(0, shift=1e9))
    now, first = 0.0, -1
    for number in range(1, 30):
        submit(one, Request(number, arrival=now, due=now + TARGET, shift=-1e9), now=now)
        first = one.choose("a", now).entries[0].sequence
        if first == 0:
            break
        now += 0.1
    assert first == 0
    assert now < TARGET  # a shift is worth so little that it is in time even then


def flood(one: Policy[Request], count: int, first: int = 0, **details: object) -> list[bool]:
    """So many at once: which were admitted."""
    return [
        one.submit(replace(Request(first + number, 100), **details), 0.0) is None  # type: ignore[arg-type]
        for number in range(count)
    ]


def test_what_cannot_be_in_time_is_refused_with_a_time_to_try_again() -> None:
    one = policy(learned(slow_seconds))
    assert all(flood(one, 20))
    refusals = submit(one, *(Request(100 + number, 100) for number in range(100)))
    refused = [refusal for refusal in refusals if refusal is not None]
    assert refused
    assert all(0 < refusal.retry_after < 10 for refusal in refused)
    late = [entry for decision in drain(one) for entry in decision.given_up]
    assert len(late) < 20


def test_the_costly_are_refused_first() -> None:
    one = policy(learned(slow_seconds))
    assert not all(flood(one, 200))
    assert one.submit(Request(1000, 100), 0.0) is not None
    assert one.submit(Request(1001, 5), 0.0) is None


def test_a_model_that_knows_nothing_refuses_nobody() -> None:
    assert all(flood(policy(Cost()), 2000))


def test_a_higher_priority_is_admitted_where_a_lower_is_refused() -> None:
    one = policy(learned(slow_seconds))
    assert not all(flood(one, 200))
    assert one.submit(Request(1000, 100, shift=0.5), 0.0) is not None
    assert one.submit(Request(1001, 100, shift=-0.5), 0.0) is None


@pytest.mark.parametrize(("weight", "expected"), [(1.0, 0.5), (3.0, 0.25)])
def test_tenants_share_what_there_is_by_weight(weight: float, expected: float) -> None:
    one = policy(learned(slow_seconds))
    one.shares = {"flood": weight}
    flood(one, 300, tenant="flood")
    flood(one, 100, first=1000, tenant="late")
    served: Counter[object] = Counter()
    for decision in drain(one):
        served.update(entry.tenant for entry in decision.entries)
    assert served["late"] / served.total() == pytest.approx(expected, abs=0.12)


def test_a_tenant_alone_may_use_everything() -> None:
    alone, nobody = policy(learned(slow_seconds)), policy(learned(slow_seconds))
    assert sum(flood(alone, 300, tenant="x")) == sum(flood(nobody, 300))


def test_a_slow_worker_leaves_what_it_would_be_late_with() -> None:
    one = policy(learned(slow_seconds))
    one.workers = 2
    one.renew()
    now = 0.0
    for _ in range(60):
        for worker, factor in (("fast", 1.0), ("slow", 4.0)):
            one.cost.observe(worker, 1, 100, factor * slow_seconds(1, 100))
    submit(one, Request(0, 100, due=10.0))
    busy = one.choose("fast", now)
    assert busy.entries
    one.finished("fast", 1, 100, busy.seconds, now)
    submit(one, Request(1, 100, due=2.0 * slow_seconds(1, 100)))
    left = one.choose("slow", now, 2)
    assert left == Decision()
    assert one.choose("fast", now, 2).entries


def test_nobody_waits_for_a_worker_that_is_gone() -> None:
    one = policy(learned(slow_seconds))
    for _ in range(60):
        one.cost.observe("fast", 1, 100, slow_seconds(1, 100))
        one.cost.observe("slow", 1, 100, 4 * slow_seconds(1, 100))
    submit(one, Request(0, 100, due=10.0))
    one.choose("fast", 0.0)
    one.failed("fast", 0.0)
    submit(one, Request(1, 100, due=2.0 * slow_seconds(1, 100)))
    assert one.choose("slow", 0.0).entries  # late, but nothing else waits


def test_the_last_idle_worker_is_held_back_from_a_bad_batch() -> None:
    long = slow_seconds(1, 100)
    one = policy(learned(slow_seconds), target=1.2 * long)
    for number in range(8):
        submit(one, Request(number, 100, due=one.target))
        assert one.choose("a", 0.0).entries  # nothing better could come: not held
        one.finished("a", 1, 100, long, 0.0)
    submit(one, Request(8, 2, due=one.target))
    held = one.choose("a", 0.0, 1)
    assert not held.entries
    assert held.until is not None
    run = one.choose("a", held.until, 1)
    assert [entry.sequence for entry in run.entries] == [8]
    assert held.until + run.seconds <= one.target
    submit(one, Request(9, 2, due=one.target))
    assert one.choose("b", 0.0, 2).entries  # another is idle still


@given(st.lists(st.integers(20, 200), min_size=1, max_size=20), st.integers(1, 6))
def test_idle_workers_compute_side_by_side_where_that_is_faster(described: list[int], idle: int) -> None:
    one = policy(learned(slow_seconds))
    submit(one, *(Request(number, length) for number, length in enumerate(described)))
    window = policy(learned(slow_seconds))
    submit(window, *(Request(number, length) for number, length in enumerate(described)))
    whole, part = window.choose("a", 0.0, 1), one.choose("a", 0.0, idle)
    assert set(part.entries) <= set(whole.entries)
    assert part.entries
    assert part.seconds <= whole.seconds
    if idle > 1 and len(whole.entries) > 1 and len(set(described)) == 1:
        assert part.seconds < 0.8 * whole.seconds
        assert len(part.entries) in (len(whole.entries) // idle, -(-len(whole.entries) // idle), 1)


def test_idle_workers_do_not_share_what_costs_the_same_together() -> None:
    one = policy()
    submit(one, *(Request(number, 20) for number in range(8)))
    assert len(one.choose("a", 0.0, 4).entries) == 8


def test_the_shape_chosen_never_depends_on_the_clocks_zero() -> None:
    def run(start: float) -> list[list[int]]:
        one = policy()
        for number, length in enumerate([5, 100, 30, 300, 7, 90, 120]):
            one.submit(Request(number, length, start, start + TARGET), start)
        return [lengths(decision) for decision in drain(one, start)]

    assert run(0.0) == run(4096.0)


def test_demand_and_utilisation_follow_the_traffic() -> None:
    one = policy(learned(slow_seconds), bounds=replace(BOUNDS, rows=1))
    one.workers = 2
    now, apart = 0.0, 2 * slow_seconds(1, 100)
    for number in range(3000):
        one.submit(Request(number, 100, now, now + TARGET), now)
        decision = one.choose("a", now)
        now += apart
        one.finished("a", decision.rows, decision.length, slow_seconds(1, 100), now)
    assert one.demand(now) == pytest.approx(0.5, rel=0.5)
    assert one.utilisation(now) == pytest.approx(one.demand(now) / 2)
    assert one.demand(now + 1000) < 0.01
