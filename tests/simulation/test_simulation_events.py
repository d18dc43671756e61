"""The simulation's own laws, whatever the rule."""

import math
from collections import Counter
from itertools import pairwise

import pytest

from sluice.simulation.events import Death, Fleet, Ran, Run, Simulation, Slowdown
from sluice.simulation.figures import figures
from sluice.simulation.queues import FirstCome, batch
from sluice.simulation.requests import ENDS, Outcome, Request, SimulationError
from sluice.simulation.rule import Move
from sluice.simulation.rules import NAMES, kinds
from sluice.simulation.scenario import Scenario, Traffic, only, play
from sluice.simulation.sluice_rule import Making
from sluice.simulation.traffic import Generated, lengths
from sluice.simulation.worlds import CPU, GPU, Roofline, World


def scenario(**changes: object) -> Scenario:
    settings: dict[str, object] = {"workers": 3, "target": 0.015, "requests": 1500, **changes}
    return Scenario(only(GPU), Generated(lengths("lognormal")), **settings)  # type: ignore[arg-type]


def run(rule: str, asked: Scenario, load: float = 0.4) -> Run:
    traffic = Traffic(asked)
    return play(traffic, kinds(Making())[rule].usual, traffic.rate(load))


def overlapping(run: Run) -> list[tuple[Ran, Ran]]:
    found = []
    for worker in {each.worker for each in run.batches}:
        own = sorted((each for each in run.batches if each.worker == worker), key=lambda each: each.start)
        found += [(one, other) for one, other in pairwise(own) if other.start < one.end]
    return found


@pytest.mark.parametrize("rule", NAMES)
@pytest.mark.parametrize(
    "asked",
    [
        scenario(),
        scenario(gap=0.001, slowdowns=[Slowdown(2.0, 1, 0.01)]),
        scenario(deaths=[Death(0, 0.01, 0.02), Death(2, 0.02, 1.0)]),
        scenario(deaths=[Death(0, 0.01, 1e9), Death(1, 0.01, 1e9), Death(2, 0.02, 1e9)]),
    ],
    ids=["plain", "gap and a slow worker", "deaths", "none left"],
)
def test_every_request_ends_once_and_no_worker_runs_two_batches(rule: str, asked: Scenario) -> None:
    done = run(rule, asked)
    assert all(request.outcome in ENDS and math.isfinite(request.ended) for request in done.requests)
    assert all(request.ended >= request.arrival for request in done.requests)
    answered = sum(request.outcome is Outcome.ANSWERED for request in done.requests)
    assert sum(batch.requests for batch in done.batches if not batch.lost) == answered
    assert not overlapping(done)
    assert all(earlier.end <= later.end for earlier, later in pairwise(done.batches))
    dead = [(death.worker, death.at, death.at + death.away) for death in asked.deaths]
    for worker, since, until in dead:
        assert not [each for each in done.batches if each.worker == worker and since < each.end - 1e-12 < until]


@pytest.mark.parametrize("rule", NAMES)
def test_the_same_seed_gives_the_same_run(rule: str) -> None:
    first, second = run(rule, scenario(requests=500)), run(rule, scenario(requests=500))
    assert [(each.ended, each.outcome) for each in first.requests] == [
        (each.ended, each.outcome) for each in second.requests
    ]


def test_a_request_with_a_deadline_expires_while_it_waits() -> None:
    requests = [Request(0, 0.0, 512), Request(1, 0.001, 8, deadline=0.01), Request(2, 0.002, 8, deadline=9.0)]
    for request in requests:
        request.wanted = min(request.arrival + 1.0, request.deadline)
    slow = Roofline("slow", launch=0.02, floor=0.0, token=0.0, attention=0.0)
    rule = kinds(Making())["none"].usual(scenario(workers=1).setting())
    Simulation(rule, requests, Fleet(1, only(slow), noise=0.0)).run()
    assert [request.outcome for request in requests] == [Outcome.ANSWERED, Outcome.EXPIRED, Outcome.ANSWERED]
    assert [request.ended for request in requests] == pytest.approx([0.02, 0.01, 0.04])


def test_a_dead_workers_batch_runs_again() -> None:
    requests = [Request(number, 0.0, 8, wanted=1.0) for number in range(2)]
    slow = Roofline("slow", launch=0.1, floor=0.0, token=0.0, attention=0.0)
    rule = kinds(Making())["triton"].usual(scenario(workers=1, target=1.0).setting())
    done = Simulation(rule, requests, Fleet(1, only(slow), noise=0.0, deaths=[Death(0, 0.05, 0.2)])).run()
    assert [(batch.start, batch.end, batch.lost) for batch in done.batches] == [
        (0.0, 0.05, True),
        (0.25, pytest.approx(0.35), False),
    ]
    assert [request.ended for request in requests] == pytest.approx([0.35, 0.35])


def test_the_gap_and_slowness_take_their_time() -> None:
    requests = [Request(number, 0.0, 8, wanted=1.0) for number in range(3)]
    world = Roofline("flat", launch=0.1, floor=0.0, token=0.0, attention=0.0)
    rule = kinds(Making())["none"].usual(scenario(workers=1).setting())
    fleet = Fleet(1, only(world), noise=0.0, gap=0.01, slowdowns=[Slowdown(2.0, None, 0.2)])
    done = Simulation(rule, requests, fleet).run()
    assert [batch.start for batch in done.batches] == pytest.approx([0.0, 0.11, 0.22])
    assert [request.ended for request in requests] == pytest.approx([0.1, 0.21, 0.42])


@pytest.mark.parametrize("busy", [0.3, 0.7])
def test_a_single_server_with_fixed_times_waits_as_theory_says(busy: float) -> None:
    """M/D/1: the mean wait is busy · service / 2 (1 - busy), after Pollaczek and Khinchine."""
    service = 0.01
    world = Roofline("fixed", launch=service, floor=0.0, token=0.0, attention=0.0)
    asked = Scenario(only(world), Generated(lengths("constant")), 1, 10.0, 60_000, seed=3, noise=0.0)
    done = play(Traffic(asked), kinds(Making())["none"].usual, busy / service)
    waits = [request.ended - request.arrival - service for request in done.requests]
    assert sum(waits) / len(waits) == pytest.approx(busy * service / 2 / (1 - busy), rel=0.05)
    assert figures(done, 1).utilisation == pytest.approx(busy, rel=0.02)


class _Forgetful(FirstCome):
    """Never runs anything."""

    def choose(self, worker: int, now: float, idle: int) -> Move | None:
        return None


class _Repeating(FirstCome):
    """Runs its first request over and over."""

    def choose(self, worker: int, now: float, idle: int) -> Move | None:
        return batch([self.queue[0]]) if self.queue else None


@pytest.mark.parametrize(("rule", "fault"), [(_Forgetful, "left 2 requests waiting"), (_Repeating, "runs again")])
def test_a_rule_that_breaks_a_law_is_found_out(rule: type[FirstCome], fault: str) -> None:
    requests = [Request(number, 0.0, 8, wanted=1.0) for number in range(2)]
    with pytest.raises(SimulationError, match=fault):
        Simulation(rule(scenario().setting()), requests, Fleet(2, only(GPU))).run()


@pytest.mark.parametrize("world", [GPU, CPU])
def test_figures_count_what_happened(world: World) -> None:
    asked = Scenario(only(world), Generated(lengths("bimodal")), 2, 5 * world.seconds(1, 512), 2000)
    traffic = Traffic(asked)
    done = play(traffic, kinds(Making())["buckets"].usual, traffic.rate(1.5))
    found = figures(done, 2)
    assert found.outcomes == Counter(request.outcome.value for request in done.requests)
    assert sum(found.outcomes.values()) == 2000
    assert 0 <= found.worst_class <= found.in_time <= 1
    assert found.classes[1] is None  # nothing between 33 and 128
    assert 0 < found.padding < 1
    assert 0.5 < found.utilisation <= 1
    assert list(found.latencies) == sorted(found.latencies)
