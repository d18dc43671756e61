import pytest
from loadtests.compare.ceiling import batches, dealt
from loadtests.compare.traces import MIXES, representative, trace

from sluice.bench.traffic import mix


@pytest.mark.parametrize("name", MIXES)
def test_the_same_seed_gives_the_same_trace(name: str) -> None:
    assert trace(name, 20, 5, seed=3) == trace(name, 20, 5, seed=3)
    assert trace(name, 20, 5, seed=3) != trace(name, 20, 5, seed=4)


def test_a_trace_has_its_rate_exactly_and_ends_in_time() -> None:
    made = trace("lognormal", 50, 4, seed=1)
    assert len(made) == 200
    assert [due for due, _ in made] == sorted(due for due, _ in made)
    assert 0 <= made[0][0] <= made[-1][0] <= 4


def test_traces_differ_in_order_but_hardly_in_what_they_ask_for() -> None:
    one, other = (representative(mix("bimodal"), 100, seed) for seed in (1, 2))
    assert one != other
    assert sorted(one) == sorted(other)
    assert sum(length > 100 for length in one) == 20


def test_the_ceilings_batches_need_no_padding_and_lose_no_text() -> None:
    lengths = representative(mix("lognormal"), 300, seed=1)
    made = batches(lengths, tokens=256)
    assert sorted(length for rows, length in made for _ in range(rows)) == sorted(lengths)
    assert all(rows == 1 or rows * length <= 256 for rows, length in made)


def test_the_ceilings_processes_share_all_batches_about_evenly() -> None:
    made = batches(representative(mix("lognormal"), 300, seed=1))
    shares = [dealt(made, number, 2) for number in range(2)]
    assert sorted(shares[0] + shares[1]) == sorted(made)
    tokens = [sum(rows * length for rows, length in share) for share in shares]
    assert abs(tokens[0] - tokens[1]) < 0.05 * sum(tokens)
