"""From the texts of `sluice simulate`'s options to what they mean; each error names its option."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from sluice.simulation.events import Death, Slowdown
    from sluice.simulation.scenario import Traffic
    from sluice.simulation.sluice_rule import Making
    from sluice.simulation.traffic import Source
    from sluice.simulation.worlds import World

_Value = TypeVar("_Value")


class Arrivals(StrEnum):
    POISSON = "poisson"
    CONSTANT = "constant"
    BURSTS = "bursts"
    STEP = "step"
    DIURNAL = "diurnal"


class Device(StrEnum):
    GPU = "gpu"
    CPU = "cpu"


def world(name: Device, cost: Path | None) -> "World":
    from sluice.simulation.worlds import WORLDS, learned

    return WORLDS[name.value] if cost is None else learned(cost)


def source(path: Path | None, lengths_text: str, arrivals: Arrivals, parts: Mapping[str, Any]) -> "Source":
    """`parts` says what else marks made-up requests; those that are empty are left to their defaults."""
    from sluice.simulation.recorded import recorded
    from sluice.simulation.traffic import Generated, lengths

    given = {name: shares for name, shares in parts.items() if shares}
    if path is None:
        return Generated(lengths(lengths_text), arrivals.value, **given)
    if set(given) - {"models", "tenants"}:  # which may say factors and weights
        name = min(set(given) - {"models", "tenants"})
        raise typer.BadParameter("recorded traffic has its own", param_hint=f"--{name}")
    return recorded(path)


def count(source: "Source", requests: int) -> int:
    from sluice.simulation.recorded import Recorded

    if isinstance(source, Recorded):
        return min(len(source.lines), requests or len(source.lines))
    return requests


def worlds(base: "World", source: "Source", factors: Mapping[str, float]) -> dict[str, "World"]:
    from sluice.simulation.worlds import Scaled

    return {model: Scaled(base, factors[model]) if model in factors else base for model in source.model_names}


def making(source: "Source", steps: str, cold: bool) -> "Making":
    from sluice.scheduler.steps import EXACT, Learned, Multiples
    from sluice.simulation.sluice_rule import Making

    kind, _, number = steps.rpartition(":")
    if steps == "exact":
        return Making(source.longest, lambda: EXACT, warm=not cold)
    if kind not in ("", "learned") or not number.isdecimal() or int(number) < 1:
        raise typer.BadParameter(f"'{steps}' is neither exact, N nor learned:N", param_hint="--steps")
    count = int(number)
    return Making(source.longest, lambda: Learned(count, source.longest) if kind else Multiples(count), warm=not cold)


def rates(loads: str, rates: str, made: "Traffic", source: "Source") -> list[float]:
    if loads and rates:
        raise typer.BadParameter("either loads or rates", param_hint="--load")
    if rates:
        return sorted(numbers(rates, "--rate"))
    if loads:
        return [made.rate(each) for each in sorted(numbers(loads, "--load"))]
    return [source.own_rate or made.rate(0.5)]


def numbers(text: str, option: str) -> list[float]:
    found = [a_number(part, option) for part in text.split(",") if part.strip()]
    if not found or min(found) <= 0:
        raise typer.BadParameter(f"'{text}' is no list of numbers above 0", param_hint=option)
    return found


def whole_numbers(text: str, option: str, most: int) -> list[int]:
    found = numbers(text, option)
    if any(each != int(each) or each > most for each in found):
        raise typer.BadParameter(f"'{text}' is no list of whole numbers up to {most}", param_hint=option)
    return [int(each) for each in found]


def a_number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is no number", param_hint=option) from error


def shares(text: str, option: str, kind: type[_Value]) -> dict[_Value, float]:
    return pairs(text, option, kind)[0]


def pairs(text: str, option: str, kind: type[_Value]) -> tuple[dict[_Value, float], dict[_Value, float]]:
    """Of VALUE=SHARE[:NUMBER],… the shares and the numbers."""
    shares: dict[_Value, float] = {}
    numbers: dict[_Value, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        value_text, equals, rest = part.partition("=")
        share, colon, number = rest.partition(":")
        try:
            value = kind(value_text.strip())  # type: ignore[call-arg]
        except ValueError as error:
            raise typer.BadParameter(f"'{value_text}' in '{part}' is no number", param_hint=option) from error
        if not equals or a_number(share, option) <= 0 or (colon and a_number(number, option) <= 0):
            raise typer.BadParameter(f"'{part}' is not of the form VALUE=SHARE", param_hint=option)
        shares[value] = float(share)
        if colon:
            numbers[value] = float(number)
    return shares, numbers


def slow(text: str, workers: int) -> "Slowdown":
    from sluice.simulation.events import Slowdown

    parts = text.split(":")
    if len(parts) not in (2, 3):
        raise typer.BadParameter(f"'{text}' is not of the form WORKER:FACTOR[:FROM]", param_hint="--slow")
    factor, *since = (a_number(part, "--slow") for part in parts[1:])
    if factor <= 0:
        raise typer.BadParameter(f"'{text}': the factor must be above 0", param_hint="--slow")
    worker = None if parts[0] == "all" else a_worker(parts[0], workers, "--slow")
    return Slowdown(factor, worker, *since)


def death(text: str, workers: int) -> "Death":
    from sluice.simulation.events import Death

    parts = text.split(":")
    if len(parts) != 3:
        raise typer.BadParameter(f"'{text}' is not of the form WORKER:AT:AWAY", param_hint="--death")
    at, away = (a_number(part, "--death") for part in parts[1:])
    return Death(a_worker(parts[0], workers, "--death"), at, away)


def a_worker(text: str, workers: int, option: str) -> int:
    if not text.isdecimal() or int(text) >= workers:
        raise typer.BadParameter(f"there is no worker '{text}' of {workers}, from 0 on", param_hint=option)
    return int(text)
