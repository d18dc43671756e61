"""Which faults are injected and when: drawn from a seed, the same on every run."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to break something; `weight` is how often it is chosen beside the others."""

    name: str
    weight: int
    what: str
    most: int = 1_000_000  # in one round
    room: float = 0.0  # seconds before the next one of its kind
    costs: bool = False  # it takes a worker away for a while


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a round."""

    at: float  # seconds from the round's start
    kind: str
    seed: int  # of whatever is drawn while injecting it


KINDS = (
    Kind("kill", 36, "kill -9 of any worker process", costs=True),
    Kind("kill-busy", 30, "kill -9 of a worker in the middle of a batch", costs=True),
    Kind("stop", 14, "SIGSTOP of a worker, left to the server to find out", room=4, costs=True),
    Kind("pause", 30, "SIGSTOP of a worker, SIGCONT within a second", costs=True),
    Kind("crash", 14, "the model reads address 0: SIGSEGV in the middle of a batch", costs=True),
    Kind("exit", 8, "the model leaves the process in the middle of a batch", costs=True),
    Kind("hang", 12, "the model sleeps for ever in the middle of a batch", room=4, costs=True),
    Kind("spin", 4, "the model computes for ever in the middle of a batch", room=8, costs=True),
    Kind("device", 6, "the model raises what a device does that is lost for this process", most=2, room=10, costs=True),
    Kind("raise", 76, "the model raises an exception, once"),
    Kind("out-of-memory", 60, "the model raises what a device does whose memory is full, once"),
    Kind("hog", 10, "a worker takes 300 MiB more for some seconds", room=6),
    Kind("poison-raise", 56, "a request that always raises, sent twice"),
    Kind("poison-kill", 14, "a request that always kills its worker, sent twice", room=3, costs=True),
    Kind("poison-hang", 4, "a request that always computes for ever, sent twice", room=10, costs=True),
    Kind("reload", 40, "a new version of a model is loaded, the old one goes", room=2),
    Kind("bad-reload", 20, "a new version is loaded whose file is damaged", room=2),
    Kind("unload", 20, "a model is unloaded, and loaded again", room=2),
    Kind("storm", 70, "40 requests over both protocols, nine in ten of them cancelled at random moments"),
    Kind("slow-network", 26, "the network passes 8 Mbit/s for a second or two (tc tbf)", room=3),
    Kind(
        "slow-disk",
        10,
        "the disk gives 20 MB/s while a worker is replaced, the model not in memory",
        room=10,
        costs=True,
    ),
)
_COSTLY = "whatever takes a worker away"
GAP = 2.0  # seconds between two faults that take a worker away, so that most returns can be timed …
OVERLAP = 0.2  # … and the share of those that fall into others all the same
BY_NAME: Mapping[str, Kind] = {kind.name: kind for kind in KINDS}


def draw(seed: int, seconds: float, count: int, kinds: Iterable[Kind] = KINDS) -> list[Fault]:
    """`count` faults spread over the time, as many of each kind as its weight says; fewer if their room does not do."""
    chance = random.Random(f"schedule {seed}")
    names = _names(list(kinds), count, chance)
    chance.shuffle(names)
    slot = seconds / max(1, len(names))
    free: dict[str, float] = {}
    faults = []
    waiting: list[str] = []
    for number in range(len(names)):
        at = (number + chance.random()) * slot
        waiting.append(names[number])
        any_time = chance.random() < OVERLAP
        chosen = next((name for name in waiting if _may(name, at, free, any_time)), None)
        if chosen is None:
            continue
        waiting.remove(chosen)
        free[chosen] = at + BY_NAME[chosen].room
        if BY_NAME[chosen].costs:
            free[_COSTLY] = at + GAP
        faults.append(Fault(at, chosen, chance.randrange(1 << 32)))
    return faults


def _may(name: str, at: float, free: Mapping[str, float], any_time: bool) -> bool:
    return free.get(name, 0.0) <= at and (any_time or not BY_NAME[name].costs or free.get(_COSTLY, 0.0) <= at)


def _names(kinds: list[Kind], count: int, chance: random.Random) -> list[str]:
    """Every kind at least once where there is place; the rest by weight."""
    total = sum(kind.weight for kind in kinds)
    exact = {kind.name: count * kind.weight / total for kind in kinds}
    whole = {kind.name: min(kind.most, max(1, int(exact[kind.name]))) for kind in kinds}
    able = [kind for kind in kinds if whole[kind.name] < kind.most]
    while sum(whole.values()) < count and able:
        (kind,) = chance.choices(able, [each.weight for each in able])
        whole[kind.name] += 1
        able = [each for each in able if whole[each.name] < each.most]
    names = [name for name, number in whole.items() for _ in range(number)]
    if len(names) > count:
        chance.shuffle(names)
    return names[:count]
