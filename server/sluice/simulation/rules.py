"""Every rule there is to choose from, by name, and what of each is worth tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sluice.simulation.planners import Symphony, TurboTransformers
from sluice.simulation.queues import Turns
from sluice.simulation.requests import SimulationError
from sluice.simulation.rivals import Bento, Buckets, Clipper, MLServer, TextEmbeddings, Triton, Unbatched
from sluice.simulation.rule import Rule, Setting
from sluice.simulation.scenario import RuleMaker
from sluice.simulation.sluice_rule import Making, Sluice

OURS = "sluice"


@dataclass(frozen=True, slots=True)
class Kind:
    """A rule as its project ships it, and other settings that its operator might find better."""

    about: str
    usual: RuleMaker
    tuned: Sequence[tuple[str, RuleMaker]] = ()


def _rival(make: RuleMaker) -> RuleMaker:
    return partial(_turns, make)


def _turns(make: RuleMaker, setting: Setting) -> Rule:
    return Turns(make, setting) if len(setting.worlds) > 1 else make(setting)


_TRITON = [
    (f"{rows} rows, delay {delay:.0%} of the target", _rival(partial(Triton, most_rows=rows, delay=delay)))
    for rows in (1, 2, 4, 8, 16, 32, 64, 128)
    for delay in ((0.0, 0.1) if rows > 1 else (0.0,))
]
_TEI = [
    (f"{budget} tokens{', expiring' if expire else ''}", _rival(partial(TextEmbeddings, budget=budget, expire=expire)))
    for budget in (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
    for expire in (False, True)
]
_BUCKETS = [
    (f"{tokens} tokens, delay {delay:.0%} of the target", _rival(partial(Buckets, tokens=tokens, delay=delay)))
    for tokens in (64, 128, 256, 512, 1024, 2048, 4096, 16384)
    for delay in (0.0, 0.05, 0.2)
]


def kinds(making: Making) -> Mapping[str, Kind]:
    """By name."""
    return {
        OURS: Kind("this server's", partial(_ours, making)),
        "triton": Kind("Triton's dynamic batcher: first come, 32 rows", _rival(Triton), _TRITON),
        "tei": Kind("Text Embeddings Inference: first come, 16384 padded tokens", _rival(TextEmbeddings), _TEI),
        "buckets": Kind("length buckets 16, 32, 64, … with a time-out", _rival(Buckets), _BUCKETS),
        "mlserver": Kind("MLServer: 32 rows or 5 ms", _rival(MLServer)),
        "bento": Kind("BentoML: learned a·n + b, newest first", _rival(Bento)),
        "clipper": Kind("Clipper: batch size by AIMD", _rival(Clipper)),
        "turbo": Kind("TurboTransformers: best cutting of the sorted queue, true costs", _rival(TurboTransformers)),
        "symphony": Kind("Symphony: deferred batches, true costs", _rival(Symphony)),
        "none": Kind("one request after another", _rival(Unbatched)),
    }


def _ours(making: Making, setting: Setting) -> Rule:
    return Sluice(setting, making)


NAMES = tuple(kinds(Making()))


def chosen(text: str, making: Making) -> Mapping[str, Kind]:
    """From a list of names with commas between them; "all" = every one."""
    known = kinds(making)
    names = list(known) if text == "all" else [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise SimulationError(f"rules: there is no '{name}'; there are {', '.join(known)}, and all")
    if not names:
        raise SimulationError("rules: none given")
    return {name: known[name] for name in names}
