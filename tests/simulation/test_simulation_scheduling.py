"""What the server's own policy holds, in virtual time: guards, with fixed seeds and few requests."""

import pytest

from sluice.simulation.events import Death, Run, Slowdown
from sluice.simulation.figures import Figures, figures
from sluice.simulation.requests import Outcome
from sluice.simulation.rules import OURS, kinds
from sluice.simulation.scenario import Scenario, Traffic, only, play
from sluice.simulation.sluice_rule import Making
from sluice.simulation.traffic import Generated, lengths
from sluice.simulation.worlds import CPU, GPU, Scaled, World


def scenario(world: World = GPU, mix: str = "lognormal", workers: int = 4, **changes: object) -> Scenario:
    source = changes.pop("source", None) or Generated(lengths(mix))
    settings: dict[str, object] = {"target": 5 * world.seconds(1, 512), "requests": 4000, **changes}
    return Scenario(only(world), source, workers, **settings)  # type: ignore[arg-type]


def run(asked: Scenario, load: float, warm: bool = True) -> tuple[Run, Figures]:
    traffic = Traffic(asked)
    done = play(traffic, kinds(Making(warm=warm))[OURS].usual, traffic.rate(load))
    return done, figures(done, asked.workers)


@pytest.mark.parametrize(
    ("world", "mix", "workers", "load"),
    [
        (GPU, "lognormal", 1, 0.22),
        (GPU, "lognormal", 4, 0.57),
        (GPU, "bimodal", 4, 0.68),
        (GPU, "constant", 4, 0.85),
        (CPU, "lognormal", 4, 0.88),
        (CPU, "bimodal", 1, 0.68),
    ],
)
def test_the_load_that_was_held_still_is(world: World, mix: str, workers: int, load: float) -> None:
    target = 5 * world.seconds(1, 64 if mix == "constant" else 512)
    _, found = run(scenario(world, mix, workers, target=target), load)
    assert found.in_time >= 0.99
    assert found.worst_class >= 0.97


@pytest.mark.parametrize("world", [GPU, CPU])
@pytest.mark.parametrize("load", [1.5, 2.5])
def test_overload_costs_goodput_little(world: World, load: float) -> None:
    asked = scenario(world, requests=6000)
    _, found = run(asked, load)
    traffic = Traffic(asked)
    assert found.goodput >= 0.8 * traffic.overload(traffic.rate(load)).alike


def test_a_slow_worker_costs_only_its_own_share() -> None:
    for world in (GPU, CPU):
        _, found = run(scenario(world, requests=6000, slowdowns=[Slowdown(2.0, 1)]), 0.35)
        assert found.in_time >= 0.995


@pytest.mark.parametrize(("world", "load"), [(GPU, 0.1), (CPU, 0.3)])
def test_a_dying_worker_loses_nothing(world: World, load: float) -> None:
    asked = scenario(world, requests=3000)
    span = asked.requests / Traffic(asked).rate(load)
    deaths = [Death(0, 0.3 * span, 0.2 * span), Death(2, 0.35 * span, 0.4 * span)]
    done, found = run(scenario(world, requests=3000, deaths=deaths), load)
    assert any(batch.lost for batch in done.batches)
    assert all(request.outcome is Outcome.ANSWERED for request in done.requests)
    assert found.in_time >= 0.99


def test_the_urgent_are_served_sooner_and_nobody_starves() -> None:
    source = Generated(lengths("lognormal"), priorities={1: 0.2, 5: 0.6, 10: 0.2})
    _, calm = run(scenario(CPU, source=source), 0.9)
    parts = calm.parts["priority"]
    assert parts["1"].p99 < parts["5"].p99 < parts["10"].p99
    assert min(part.in_time for part in parts.values()) >= 0.99
    _, busy = run(scenario(CPU, source=source), 1.5)
    parts = busy.parts["priority"]
    assert parts["1"].in_time > parts["5"].in_time > parts["10"].in_time
    assert parts["1"].in_time >= 0.9


def test_two_classes_of_latency_share_the_workers() -> None:
    target = 4 * 5 * GPU.seconds(1, 512)
    source = Generated(lengths("lognormal"), deadlines={target / 4: 0.5, float("inf"): 0.5})
    _, found = run(scenario(source=source, target=target), 0.5)
    tight, loose = found.parts["deadline"].values()
    assert tight.in_time >= 0.99
    assert loose.in_time >= 0.99
    assert tight.p99 <= target / 4 < loose.p99 * 4


def test_tenants_get_their_weighted_shares_in_overload() -> None:
    # b asks for a tenth of what is offered, a fifth of what can be done: less than its half
    source = Generated(lengths("lognormal"), tenants={"a": 0.9, "b": 0.1})
    _, found = run(scenario(CPU, source=source), 2.0)
    parts = found.parts["tenant"]
    assert parts["b"].in_time >= 0.85
    source = Generated(lengths("lognormal"), tenants={"a": 0.5, "b": 0.5})
    _, even = run(scenario(CPU, source=source), 2.5)
    parts = even.parts["tenant"]
    assert parts["a"].in_time == pytest.approx(parts["b"].in_time, rel=0.15)
    _, weighted = run(scenario(CPU, source=source, shares={"a": 1.0, "b": 3.0}), 2.5)
    parts = weighted.parts["tenant"]
    assert 2.0 <= parts["b"].in_time / parts["a"].in_time <= 4.0


def test_several_models_share_the_workers_and_none_starves() -> None:
    source = Generated(lengths("lognormal"), models={"small": 0.6, "usual": 0.3, "large": 0.1})
    worlds: dict[str, World] = {"small": Scaled(GPU, 0.5), "usual": GPU, "large": Scaled(GPU, 3.0)}
    asked = Scenario(worlds, source, 4, 15 * GPU.seconds(1, 512), 4000)
    _, calm = run(asked, 0.35)
    assert min(part.in_time for part in calm.parts["model"].values()) >= 0.99
    _, busy = run(asked, 1.5)
    parts = busy.parts["model"]
    assert min(part.in_time for part in parts.values()) >= 0.25


@pytest.mark.parametrize(("factor", "in_time"), [(0.5, 0.99), (1.5, 0.99), (2.0, 0.93)])
def test_a_cost_that_drifts_is_followed(factor: float, in_time: float) -> None:
    asked = scenario(requests=8000)
    rate = Traffic(asked).rate(0.12)
    drift = [Slowdown(factor, None, 0.3 * asked.requests / rate)]
    _, found = run(scenario(requests=8000, slowdowns=drift), 0.12)
    assert found.in_time >= in_time


def test_a_cold_start_is_learned_from() -> None:
    _, found = run(scenario(requests=6000), 0.3, warm=False)
    assert found.in_time >= 0.99


def test_bursts_of_four_times_the_load_between_them_are_ridden_out() -> None:
    source = Generated(lengths("lognormal"), "bursts")
    done, found = run(scenario(CPU, source=source), 0.45)
    assert found.in_time >= 0.98
    assert len(done.requests) > 3000
