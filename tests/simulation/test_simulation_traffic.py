import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sluice.scheduler.cost import Cost
from sluice.simulation.recorded import recorded
from sluice.simulation.requests import SimulationError
from sluice.simulation.scenario import Scenario, Traffic, only
from sluice.simulation.traffic import ARRIVALS, Generated, lengths
from sluice.simulation.worlds import CPU, GPU, Scaled, Shares, bound, learned, overload_bound


@pytest.mark.parametrize("name", sorted(ARRIVALS))
def test_arrivals_rise_and_keep_their_rate(name: str) -> None:
    times = Generated(lengths("constant"), name).times(20_000, 100.0, 0.5, np.random.default_rng(1))
    assert all(earlier <= later for earlier, later in pairwise(times))
    mean = 5 / 6 if name == "step" else 1.0  # the step is in the middle third alone
    assert len(times) == pytest.approx(20_000 * mean, rel=0.1)
    assert times[-1] == pytest.approx(200, rel=0.1)


def test_a_step_is_three_times_as_dense_in_its_middle_third() -> None:
    times = np.array(Generated(lengths("constant"), "step").times(9000, 100.0, 0.5, np.random.default_rng(1)))
    parts = [((times >= 30 * third) & (times < 30 * third + 30)).sum() for third in range(3)]
    assert parts == [pytest.approx(1500, rel=0.1), pytest.approx(4500, rel=0.1), pytest.approx(1500, rel=0.1)]


def test_lengths_have_their_shape() -> None:
    random = np.random.default_rng(1)
    drawn = lengths("lognormal").draw(random, 50_000)
    assert np.median(drawn) == pytest.approx(24, abs=1)
    assert (drawn.min(), drawn.max()) == (1, 512)
    drawn = lengths("bimodal").draw(random, 10_000)
    assert ((drawn >= 16) & (drawn <= 32)).mean() == pytest.approx(0.8, abs=0.02)
    assert set(lengths("constant:7").draw(random, 5)) == {7}


@pytest.mark.parametrize("text", ["", "gaussian", "constant:0", "lognormal:9", "lognormal:9:3", "constant:x"])
def test_unknown_lengths_are_refused(text: str) -> None:
    with pytest.raises(SimulationError, match="lengths"):
        lengths(text)


def test_lengths_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "lengths"
    path.write_text("3\n5 5\n")
    found = lengths(str(path))
    assert found.longest == 5
    assert set(found.draw(np.random.default_rng(1), 100)) == {3, 5}
    path.write_text("3\n0\n")
    with pytest.raises(SimulationError, match="at least 1"):
        lengths(str(path))


def test_made_up_requests_have_what_marks_them_in_the_shares_asked_for() -> None:
    source = Generated(
        lengths("constant"),
        rows={1: 3, 8: 1},
        models={"a": 1.0, "b": 1.0},
        tenants={"x": 0.9, "y": 0.1},
        priorities={1: 1, 5: 4},
        deadlines={0.05: 0.5, float("inf"): 0.5},
    )
    traffic = Traffic(Scenario({"a": GPU, "b": Scaled(GPU, 4.0)}, source, 2, 0.1, 8000))
    made = traffic.requests(1000.0)
    assert len(made) == 8000
    for share, marked in (
        (0.25, [each.rows == 8 for each in made]),
        (0.5, [each.model == "b" for each in made]),
        (0.1, [each.tenant == "y" for each in made]),
        (0.2, [each.priority == 1 for each in made]),
    ):
        assert sum(marked) / 8000 == pytest.approx(share, abs=0.03)
    assert {round(each.wanted - each.arrival, 9) for each in made} == {0.05, 0.1}


def test_recorded_traffic_is_read_from_both_formats(tmp_path: Path) -> None:
    table, lines = tmp_path / "t.csv", tmp_path / "t.jsonl"
    table.write_text("arrival,length,rows,tenant,deadline\n0.5,7,2,x,0.2\n0.25,9,,,\n")
    lines.write_text(
        '{"arrival": 0.5, "length": 7, "rows": 2, "tenant": "x", "deadline": 0.2}\n\n{"arrival": 0.25, "length": 9}\n'
    )
    assert recorded(table).lines == recorded(lines).lines
    found = recorded(table)
    assert [(line.arrival, line.length, line.rows) for line in found.lines] == [(0.25, 9, 1), (0.5, 7, 2)]
    assert (found.longest, found.own_rate) == (9, 4.0)
    made = Traffic(Scenario(only(GPU), found, 1, 0.1, 2)).requests(2.0)
    assert [(each.arrival, each.length, each.tenant) for each in made] == [(0.0, 9, None), (0.5, 7, "x")]
    assert made[1].wanted == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "needs the columns"),
        ("arrival,length\n", "no requests"),
        ("arrival,size\n1,2\n", "unknown column 'size'"),
        ("arrival,length\n1,2\nx,2\n", ":3: arrival: 'x' is no number"),
        ("arrival,length\n1,0\n", ":2: length must be at least 1"),
        ("arrival,length\n1\n", ":2: length is missing"),
        ("arrival,length\n1,2,3\n", ":2: more values"),
        ('{"arrival": 1}\n', ":1: length is missing"),
        ('{"arrival": 1, "length": 2, "colour": 3}\n', ":1: unknown name 'colour'"),
        ('{"arrival": 1, "length": 2}\n{"arrival"\n', ":2: "),
        ('{"arrival": 1, "length": 2}\n[1]\n', ":2: not an object"),
    ],
)
def test_recorded_traffic_that_is_wrong_is_named_with_its_line(tmp_path: Path, content: str, fault: str) -> None:
    path = tmp_path / "traffic"
    path.write_text(content)
    with pytest.raises(SimulationError, match=fault):
        recorded(path)


def test_a_model_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "traffic"
    path.write_text("arrival,length,model\n1,2,m\n")
    with pytest.raises(SimulationError, match="'m'"):
        Traffic(Scenario(only(GPU), recorded(path), 1, 0.1, 1))


def test_the_bound_is_what_the_best_batches_of_equals_would_do() -> None:
    # 64 tokens: 3 ms up to 983 tokens; within 15 ms a batch of 107 rows takes 14.9 ms
    share = Shares(GPU, 0.015).of(1, 64)
    assert share == min(GPU.seconds(rows, 64) / rows for rows in range(1, 513) if GPU.seconds(rows, 64) <= 0.015)
    assert bound([share] * 10, 4) == pytest.approx(4 / share)
    # a request that alone takes a third of the target and more has three times its own time
    assert Shares(CPU, 0.001).patience(1, 512) == pytest.approx(3 * CPU.seconds(1, 512))
    assert Shares(GPU, 0.015).of(8, 64) == pytest.approx(8 * share)


def test_the_overload_bound_serves_all_alike_or_the_cheapest_first() -> None:
    costs = [0.001] * 50 + [0.003] * 50
    offered = overload_bound(costs, 1, 1000.0)
    assert offered.alike == pytest.approx(500)
    assert offered.cheapest == pytest.approx(1000 * 2 / 3, rel=0.02)
    assert overload_bound(costs, 4, 1000.0).alike == 1000


def test_a_target_that_nothing_meets_holds_no_load() -> None:
    source = Generated(lengths("constant"), deadlines={0.0001: 1.0})
    assert Traffic(Scenario(only(GPU), source, 1, 0.1, 100)).bound > 0
    assert bound([float("inf")], 1) == 0


def test_a_learned_device_comes_from_a_servers_file(tmp_path: Path) -> None:
    cost = Cost()
    for rows in (1, 2, 4, 8, 16, 32, 64):
        for length in (8, 32, 128, 512):
            cost.profile(rows, length, GPU.seconds(rows, length))
    cost.fit()
    path = tmp_path / "1-cuda.json"
    path.write_text(json.dumps({"circumstances": {"model": "m"}, "cost": cost.state()}))
    world = learned(path)
    assert world.seconds(16, 128) == pytest.approx(GPU.seconds(16, 128), rel=0.1)
    assert world.row_times(4, 128).tolist() == [world.seconds(rows, 128) for rows in (1, 2, 3, 4)]
    path.write_text(json.dumps(cost.state()))
    assert learned(path).seconds(2, 64) == world.seconds(2, 64)
    for wrong in ("{}", "[]", "no"):
        path.write_text(wrong)
        with pytest.raises(SimulationError, match="not a learned cost"):
            learned(path)
