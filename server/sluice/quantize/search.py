"""Looks for the fastest choice of layers and methods that stays within the bounds; asks, and computes nothing itself.

First each method for all products. A method that misses the bounds but is faster than all that keep them is taken out
again of the layers that lose most accuracy for the time they save, until what is left keeps the bounds. A layer's loss
is what the answers lose when it alone is changed: losses of layers add up well enough to sort by, and every choice that
is made of them is measured as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from sluice.quantize.layers import Layer
from sluice.quantize.methods import Menu, Method
from sluice.quantize.nearness import Bounds, Nearness

Choice = Mapping[str, Method]
Progress = Callable[[str, int, int], None]
# A method is worth a search of its layers if it is so much faster than what keeps the bounds already.
_WORTH = 1.02
_SEARCHED = 2  # methods, the fastest first


class Study(Protocol):
    """What can be asked of a choice."""

    def measure(self, choice: Choice) -> Measured: ...

    def loss(self, choice: Choice) -> float:
        """How far the answers are from the parent's, on few samples: enough to sort layers by."""


@dataclass(frozen=True, slots=True)
class Measured:
    nearness: Nearness
    speed: float  # how many times as fast as the parent
    size: int  # bytes of its file


@dataclass(frozen=True, slots=True)
class Point:
    """A choice that was measured."""

    name: str
    choice: Choice
    nearness: Nearness
    speed: float
    size: int
    eligible: bool = True  # False: shown for comparison, never chosen
    kept: int = 0  # products left in 32 bits


@dataclass(frozen=True, slots=True)
class Found:
    points: tuple[Point, ...]
    losses: Mapping[str, Mapping[str, float]]  # by method and layer: what it alone costs
    chosen: Point | None  # None: nothing keeps the bounds


class Search:
    """One search."""

    def __init__(self, layers: Sequence[Layer], menu: Menu, study: Study, bounds: Bounds, progress: Progress) -> None:
        self._products = [layer for layer in layers if layer.kind == "product"]
        self._tables = [layer for layer in layers if layer.kind == "table"]
        self._menu = menu
        self._study = study
        self._bounds = bounds
        self._progress = progress
        self._points: list[Point] = []
        self._losses: dict[str, Mapping[str, float]] = {}

    def run(self) -> Found:
        whole = [*self._menu.methods, *self._menu.compared] if self._products else []
        for number, method in enumerate(whole):
            self._progress("methods", number, len(whole))
            eligible = method in self._menu.methods
            self._measure(method.name, {layer.name: method for layer in self._products}, eligible)
        self._progress("methods", len(whole), len(whole))
        for method in self._worth_a_search():
            self._mix(method)
        chosen = self._fastest()
        if self._menu.table is not None and self._tables:
            chosen = self._with_tables(chosen) or chosen
        return Found(tuple(self._points), self._losses, chosen)

    def _measure(self, name: str, choice: Choice, eligible: bool = True) -> Point:
        products = sum(layer.name in choice for layer in self._products)
        found = self._study.measure(choice)
        point = Point(
            name, choice, found.nearness, found.speed, found.size, eligible, len(self._products) - products
        )  # fmt: skip
        self._points.append(point)
        return point

    def _keeps(self, point: Point) -> bool:
        return not self._bounds.missed(point.nearness)

    def _fastest(self) -> Point | None:
        good = [point for point in self._points if point.eligible and self._keeps(point)]
        if self._menu.smallest:
            return min(good, key=lambda point: (point.size, -point.speed), default=None)
        return max(good, key=lambda point: point.speed, default=None)

    def _worth_a_search(self) -> list[Method]:
        best = self._fastest()
        tried = [
            (point, method)
            for point, method in zip(self._points, self._menu.methods, strict=False)
            if not self._keeps(point)
        ]
        if self._menu.smallest:
            better = [pair for pair in tried if best is None or pair[0].size < best.size]
            return [method for _, method in sorted(better, key=lambda pair: pair[0].size)[:_SEARCHED]]
        better = [pair for pair in tried if pair[0].speed > (best.speed * _WORTH if best is not None else 1.0)]
        return [method for _, method in sorted(better, key=lambda pair: -pair[0].speed)[:_SEARCHED]]

    def _mix(self, method: Method) -> None:
        """The most layers in this method that keep the bounds; the others stay in 32 bits, or fall back to what keeps
        the bounds already: the one loses nothing, the other saves a little time."""
        best = self._fastest()
        losses = self._losses_of(method)
        order = sorted(self._products, key=lambda layer: losses[layer.name] / layer.size, reverse=True)
        self._least(method, order, {}, "32 bits")
        if best is not None:
            self._least(method, order, best.choice, best.name)

    def _least(self, method: Method, order: Sequence[Layer], rest: Choice, called: str) -> None:
        """Halve the interval in which the least number of others lies."""
        step = f"search {method.name} and {called}"
        low, high = 1, len(order)
        while low < high:
            self._progress(step, len(order) - (high - low), len(order))
            count = (low + high) // 2
            kept = {layer.name for layer in order[:count]}
            choice = {layer.name: method for layer in order if layer.name not in kept}
            choice |= {name: other for name, other in rest.items() if name in kept}
            point = self._measure(f"{method.name}, {count} in {called}", choice)
            low, high = (low, count) if self._keeps(point) else (count + 1, high)
        self._progress(step, len(order), len(order))

    def _losses_of(self, method: Method) -> Mapping[str, float]:
        losses: dict[str, float] = {}
        for number, layer in enumerate(self._products):
            self._progress(f"losses of {method.name}", number, len(self._products))
            losses[layer.name] = max(0.0, self._study.loss({layer.name: method}))
        self._progress(f"losses of {method.name}", len(self._products), len(self._products))
        self._losses[method.name] = losses
        return losses

    def _with_tables(self, chosen: Point | None) -> Point | None:
        """The same with smaller tables, which cost no time, if the bounds allow them."""
        table = self._menu.table
        assert table is not None
        base = chosen.choice if chosen is not None else {}
        if chosen is None and self._products:
            return None
        name = f"{chosen.name}, tables" if chosen is not None else table.name
        point = self._measure(name, {**base, **{layer.name: table for layer in self._tables}})
        if not self._keeps(point):
            self._points[-1] = replace(point, eligible=False)
            return None
        return point
