"""The published rules do what their documents say, in cases small enough to follow by hand."""

from collections.abc import Sequence

import pytest

from sluice.simulation.planners import Symphony, TurboTransformers
from sluice.simulation.queues import Turns
from sluice.simulation.requests import Request
from sluice.simulation.rivals import Bento, Buckets, Clipper, MLServer, TextEmbeddings, Triton, Unbatched
from sluice.simulation.rule import Move, Rule, Setting
from sluice.simulation.worlds import Roofline

# 10 ms and 1 ms for each row, whatever its length; or 1 ms for each ten tokens.
BY_ROW = Roofline("rows", launch=0.01, floor=0.0, token=0.0001, attention=0.0)
SETTING = Setting(target=0.1, workers=1, worlds={"model": BY_ROW})


def queue(rule: Rule, lengths: Sequence[int], due: float = 0.1, rows: int = 1) -> list[Request]:
    """One request each millisecond."""
    made = [
        Request(number, number / 1000, length, rows, wanted=number / 1000 + due, due=number / 1000 + due)
        for number, length in enumerate(lengths)
    ]
    for request in made:
        assert rule.arrive(request, request.arrival)
    return made


def chosen(rule: Rule, now: float) -> list[int]:
    move = rule.choose(0, now, 1)
    return [request.sequence for request in move.requests] if move else []


def test_none_takes_one_after_another() -> None:
    rule = Unbatched(SETTING)
    queue(rule, [5, 6])
    assert [chosen(rule, 0.01) for _ in range(3)] == [[0], [1], []]


def test_triton_takes_the_oldest_up_to_its_size_and_holds_for_its_delay() -> None:
    rule = Triton(SETTING, most_rows=3, delay=0.2)
    queue(rule, [5, 6])
    move = rule.choose(0, 0.002, 1)
    assert move is not None
    assert not move.requests
    assert move.until == pytest.approx(0.02)
    assert chosen(rule, 0.020001) == [0, 1]
    queue(rule, [5, 60, 7, 8])
    move = rule.choose(0, 0.003, 1)
    assert move is not None
    assert [request.sequence for request in move.requests] == [0, 1, 2]
    assert (move.rows, move.length) == (3, 60)


def test_triton_counts_rows_and_rejects_what_is_late() -> None:
    rule = Triton(SETTING, most_rows=5)
    queue(rule, [5, 6, 7, 8], rows=2)
    assert chosen(rule, 0.01) == [0, 1]
    move = rule.choose(0, 0.1025, 1)
    assert move is not None
    assert [request.sequence for request in move.given_up] == [2]
    assert [request.sequence for request in move.requests] == [3]


def test_buckets_batch_only_what_is_of_a_length() -> None:
    rule = Buckets(SETTING, tokens=64, delay=0.1)
    queue(rule, [10, 100, 12, 16, 90, 13])
    move = rule.choose(0, 0.006, 1)  # four short ones fill their bucket
    assert move is not None
    assert [request.sequence for request in move.requests] == [0, 2, 3, 5]
    assert move.length == 16
    move = rule.choose(0, 0.011, 1)  # the long ones' time is over; a batch of 128 tokens has one row
    assert move is not None
    assert [request.sequence for request in move.requests] == [1]
    assert move.length == 128


def test_buckets_wait_for_the_time_out_of_the_oldest() -> None:
    rule = Buckets(SETTING, tokens=64, delay=0.1)
    queue(rule, [10])
    move = rule.choose(0, 0.001, 1)
    assert move is not None
    assert move.until == pytest.approx(0.01)
    assert chosen(rule, 0.010001) == [0]


def test_text_embeddings_pads_within_a_budget_and_admits_512() -> None:
    rule = TextEmbeddings(SETTING, budget=100)
    queue(rule, [10, 20, 30, 40])
    assert chosen(rule, 0.01) == [0, 1, 2]  # 3 × 30; with the fourth 4 × 40
    full = TextEmbeddings(SETTING)
    queue(full, [5] * 512)
    assert not full.arrive(Request(512, 0.6, 5, due=9.0), 0.6)
    move = full.choose(0, 0.6, 1)
    assert move is not None
    full.finished(0, move, 0.01, 0.61)
    assert full.arrive(Request(513, 0.61, 5, due=9.0), 0.61)


def test_mlserver_closes_batches_whether_or_not_a_worker_is_free() -> None:
    rule = MLServer(SETTING, most_rows=4, most_time=0.0025)
    queue(rule, [5] * 7)  # those of 0 to 2 ms, and of 3 to 5 ms: closed by time
    assert chosen(rule, 0.0065) == [0, 1, 2]
    assert chosen(rule, 0.0065) == [3, 4, 5]
    move = rule.choose(0, 0.0065, 1)
    assert move is not None
    assert move.until == pytest.approx(0.0085)


def test_clipper_grows_by_one_and_shrinks_by_a_tenth() -> None:
    rule = Clipper(SETTING)
    queue(rule, [5] * 60)
    sizes = []
    for seconds in (0.01, 0.01, 0.06, 0.01, 0.01):
        move = rule.choose(0, 1.0, 1)
        assert move is not None
        sizes.append(move.rows)
        rule.finished(0, move, seconds, 1.0)
    assert sizes == [1, 2, 3, 2, 3]


def test_bento_learns_takes_the_newest_and_drops_the_oldest() -> None:
    rule = Bento(SETTING, most_rows=2)
    queue(rule, [5] * 4)
    assert chosen(rule, 0.05) == [3, 2]
    for rows in (1, 2, 4):
        rule.finished(0, Move((), rows, 5), 0.02 + 0.01 * rows, 0.06)
    # two wait, the oldest since 0.06: with 2 · 0.01 + 0.02 to come it would be late
    assert chosen(rule, 0.0605) == [1]


def test_turbo_cuts_the_sorted_queue_and_runs_the_part_with_the_oldest() -> None:
    rule = TurboTransformers(SETTING)
    queue(rule, [500, 10, 490, 12], due=9.0)
    assert chosen(rule, 0.01) == [2, 0]
    assert chosen(rule, 0.01) == [1, 3]


def test_symphony_holds_until_one_more_would_be_too_many() -> None:
    rule = Symphony(SETTING)
    queue(rule, [10, 10])
    move = rule.choose(0, 0.002, 1)
    assert move is not None
    # the head is due at 0.1, and three rows of ten take 1.1 · 13 ms
    assert move.until == pytest.approx(0.1 - 1.1 * 0.013)
    assert chosen(rule, move.until or 0.0) == [0, 1]


def test_symphony_drops_what_cannot_be_in_time() -> None:
    rule = Symphony(SETTING)
    queue(rule, [10])
    move = rule.choose(0, 0.095, 1)
    assert move is not None
    assert [request.sequence for request in move.given_up] == [0]


@pytest.mark.parametrize(
    "make", [Unbatched, Triton, Buckets, TextEmbeddings, MLServer, Clipper, Bento, TurboTransformers, Symphony]
)
def test_what_expired_is_not_run_and_what_was_put_back_is(make: type[Triton]) -> None:
    rule = make(SETTING)
    made = queue(rule, [5, 6], due=9.0)
    rule.remove(made[0])
    rule.remove(made[0])
    taken: list[int] = []
    moves: list[Move] = []
    for now in (0.5, 1.0, 8.9889):
        move = rule.choose(0, now, 1)
        if move is not None and move.requests:
            taken += [request.sequence for request in move.requests]
            moves.append(move)
            break
    assert taken == [1]
    rule.failed(0, moves[0], 1.0)
    rule.put_back(moves[0].requests, 1.0)
    assert [number for now in (1.0, 2.0, 8.9889) for number in chosen(rule, now)] == [1]


def test_several_models_take_turns() -> None:
    rule = Turns(Unbatched, Setting(target=0.1, workers=1, worlds={"a": BY_ROW, "b": BY_ROW}))
    for number, model in enumerate("aaab"):
        rule.arrive(Request(number, 0.0, 5, model=model, due=1.0), 0.0)
    assert sorted(chosen(rule, 0.0) + chosen(rule, 0.0)) == [0, 3]
    assert [chosen(rule, 0.0) for _ in range(3)] == [[1], [2], []]
