"""The largest load that a rule holds, by bisection, and the best setting of a rule that has several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sluice.simulation.rules import Kind
from sluice.simulation.scenario import Answer, RuleMaker, Traffic, answer

# Loads are parts of the strict fluid bound, which nothing can exceed but by luck of the sample.
LEAST, MOST = 0.02, 1.02
STEPS = 6  # to 1/64


@dataclass(frozen=True, slots=True)
class Wanted:
    """What holding a load means."""

    in_time: float = 0.99
    worst_class: float = 0.0

    def held(self, found: Answer) -> bool:
        return found.figures.in_time >= self.in_time and found.figures.worst_class >= self.worst_class


ALL = Wanted()
FAIR = Wanted(worst_class=0.97)


class Trials:
    """One rule's answers to one traffic, by setting and load; none is simulated twice."""

    def __init__(self, traffic: Traffic, kind: Kind, tune: bool = False) -> None:
        self._traffic = traffic
        self.settings: Sequence[tuple[str, RuleMaker]] = kind.tuned if tune and kind.tuned else [("", kind.usual)]
        self._known: dict[tuple[int, float], Answer] = {}

    def answer(self, setting: int, load: float) -> Answer:
        return self.at_rate(setting, self._traffic.rate(load))

    def at_rate(self, setting: int, rate: float) -> Answer:
        key = (setting, rate)
        if key not in self._known:
            self._known[key] = answer(self._traffic, self.settings[setting][1], rate)
        return self._known[key]


@dataclass(frozen=True, slots=True)
class Held:
    """The largest load held; `answer` is None where not even the least was."""

    load: float
    setting: str
    answer: Answer | None


def largest(trials: Trials, wanted: Wanted, steps: int = STEPS, progress: Callable[[], None] = lambda: None) -> Held:
    """Bisects the load; a load is held if any setting holds it, the last that did being asked first."""
    low, high = LEAST, MOST
    order = list(range(len(trials.settings)))
    best: tuple[int, Answer] | None = None
    for _ in range(steps):
        load = (low + high) / 2
        found = next((each for each in order if wanted.held(trials.answer(each, load))), None)
        progress()
        if found is None:
            high = load
        else:
            low = load
            order.remove(found)
            order.insert(0, found)
            best = found, trials.answer(found, load)
    if best is None:
        return Held(low if _held_at_least(trials, order, wanted) else 0.0, "", None)
    return Held(low, trials.settings[best[0]][0], best[1])


def _held_at_least(trials: Trials, order: Sequence[int], wanted: Wanted) -> bool:
    return any(wanted.held(trials.answer(each, LEAST)) for each in order)
