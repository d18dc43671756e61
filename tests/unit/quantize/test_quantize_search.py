"""The search, on layers whose losses and times are plain numbers."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from sluice.quantize.layers import Layer
from sluice.quantize.methods import Menu, Method
from sluice.quantize.nearness import Bounds, Nearness
from sluice.quantize.search import Choice, Found, Measured, Search

QUICK, CAREFUL, BATCH, TABLE = (
    Method("quick", "static"),
    Method("careful", "rows"),
    Method("batch", "dynamic"),
    Method("table", "entries"),
)


def layer(name: str, size: int = 100, kind: str = "product") -> Layer:
    return Layer(name, "table" if kind == "table" else "product", 0, name, size, 100, "x", "", "y", -1)


LAYERS = [*(layer(f"layer{number}") for number in range(8)), layer("words", kind="table")]


_SECONDS = {"quick": 0.2, "careful": 0.6, "batch": 0.1, "table": 1.0}
_FACTORS = {"quick": 1.0, "careful": 0.01, "batch": 1.0, "table": 0.1}


@dataclass
class Arithmetic:
    """Each layer takes a tenth of the time; a method saves a share of it, and costs the layer's loss times a factor."""

    losses: Mapping[str, float]
    asked: int = 0

    def loss(self, choice: Choice) -> float:
        self.asked += 1
        return sum(self.losses.get(name, 0.0) * _FACTORS[method.name] for name, method in choice.items())

    def measure(self, choice: Choice) -> Measured:
        saved = sum((1 - _SECONDS[method.name]) * 0.1 for method in choice.values())
        near = Nearness({"cosine_mean": 1 - self.loss(choice)}, "cosine_mean")
        return Measured(near, 1 / (1 - saved), 1000 - 50 * len(choice))


def found(study: Arithmetic, bound: float, menu: Menu) -> Found:
    return Search(LAYERS, menu, study, Bounds(bound), lambda step, done, total: None).run()


def names(choice: Choice, method: Method) -> set[str]:
    return {name for name, each in choice.items() if each == method}


def test_the_fastest_method_that_keeps_the_bound_is_taken_for_all() -> None:
    study = Arithmetic({f"layer{number}": 1e-5 for number in range(8)})
    result = found(study, 0.999, Menu((CAREFUL, QUICK)))
    assert result.chosen is not None
    assert names(result.chosen.choice, QUICK) == {f"layer{number}" for number in range(8)}
    assert result.chosen.kept == 0
    assert not result.losses  # nothing had to be looked at closely


def test_layers_that_lose_too_much_fall_back_to_the_more_exact_method() -> None:
    study = Arithmetic({f"layer{number}": 0.02 if number in (2, 5) else 1e-5 for number in range(8)})
    result = found(study, 0.999, Menu((CAREFUL, QUICK)))
    assert result.chosen is not None
    assert names(result.chosen.choice, CAREFUL) == {"layer2", "layer5"}
    assert len(names(result.chosen.choice, QUICK)) == 6
    assert result.chosen.speed > max(point.speed for point in result.points if point.name == "careful")


def test_without_a_more_exact_method_they_stay_as_they_are() -> None:
    study = Arithmetic({f"layer{number}": 0.02 if number in (2, 5) else 1e-5 for number in range(8)})
    result = found(study, 0.999, Menu((QUICK,)))
    assert result.chosen is not None
    assert set(result.chosen.choice) == {f"layer{number}" for number in range(8)} - {"layer2", "layer5"}
    assert result.chosen.kept == 2


def test_nothing_is_chosen_where_nothing_keeps_the_bound() -> None:
    study = Arithmetic({f"layer{number}": 0.5 for number in range(8)})
    assert found(study, 0.999, Menu((QUICK, CAREFUL))).chosen is None


def test_what_is_only_compared_is_never_chosen() -> None:
    study = Arithmetic({f"layer{number}": 1e-6 for number in range(8)})
    result = found(study, 0.999, Menu((QUICK,), compared=(BATCH,)))
    assert result.chosen is not None
    assert result.chosen.name == "quick"
    assert [point.eligible for point in result.points] == [True, False]


@pytest.mark.parametrize(("loss", "taken"), [(1e-4, True), (0.5, False)])
def test_tables_are_made_smaller_if_the_bound_allows_it(loss: float, taken: bool) -> None:
    study = Arithmetic({"words": loss})
    result = found(study, 0.999, Menu((QUICK,), table=TABLE))
    assert result.chosen is not None
    assert ("words" in result.chosen.choice) is taken
    assert len(names(result.chosen.choice, QUICK)) == 8


def test_layers_are_sorted_by_what_they_lose_for_the_time_they_save() -> None:
    """A large layer that loses more is worth more than a small one that loses nearly as much."""
    layers = [layer("large", 1000), layer("small", 10)]
    study = Arithmetic({"large": 0.003, "small": 0.002})
    result = Search(layers, Menu((QUICK,)), study, Bounds(0.996), lambda step, done, total: None).run()
    assert result.chosen is not None
    assert set(result.chosen.choice) == {"large"}


def test_the_search_asks_for_few_choices_as_a_whole() -> None:
    study = Arithmetic({f"layer{number}": 0.001 * number for number in range(8)})
    result = found(study, 0.999, Menu((QUICK, CAREFUL)))
    assert result.chosen is not None
    assert study.asked <= 2 + 8 + 2 * 4
