"""What happened to each request, and what a rate's requests amount to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["answered", "refused", "expired", "failed"]

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
_CLASSES = 4
_NOTICEABLE = 0.002  # seconds: timers are no finer than one millisecond


@dataclass(slots=True)
class Sample:
    """One request; `late` and `seconds` count from the time it should have been sent."""

    due: float  # seconds from the step's start
    length: int
    late: float = 0.0  # until the generator got round to it
    waited: float = 0.0  # further, until a connection was free
    seconds: float = math.inf  # until its outcome was known
    outcome: Outcome = "failed"
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LengthClass:
    """How the requests of one quarter of the lengths fared."""

    shortest: int
    longest: int
    requests: int
    share: float  # of its requests in time


@dataclass(frozen=True, slots=True)
class Figures:
    """One rate's result. Shares are of all requests sent; percentiles are of those answered."""

    rate: float  # asked for
    sent_rate: float
    requests: int
    answered: int
    refused: int
    expired: int
    failed: int
    share: float  # answered within the target
    goodput: float  # requests per second answered within the target
    throughput: float  # requests per second answered at all
    percentiles: dict[str, float]
    longest: float
    late_p99: float  # the generator's own lateness
    late_most: float
    waited_p99: float  # for a free connection
    saturated: bool  # the generator, not the server, is what was measured
    classes: tuple[LengthClass, ...]
    failures: dict[str, int]

    @property
    def worst_class(self) -> float:
        return min((each.share for each in self.classes), default=0.0)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` percent of the ordered values do not exceed; nan of nothing."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)]


def summarize(samples: Iterable[Sample], rate: float, seconds: float, target: float) -> Figures:
    """The figures of the requests that were due within one window of `seconds`."""
    counted = list(samples)
    outcomes = Counter(sample.outcome for sample in counted)
    times = sorted(sample.seconds for sample in counted if sample.outcome == "answered")
    in_time = sum(_in_time(sample, target) for sample in counted)
    late = sorted(sample.late for sample in counted)
    late_p99 = percentile(late, 99) if late else 0.0
    return Figures(
        rate=rate,
        sent_rate=len(counted) / seconds,
        requests=len(counted),
        answered=outcomes["answered"],
        refused=outcomes["refused"],
        expired=outcomes["expired"],
        failed=outcomes["failed"],
        share=in_time / len(counted) if counted else 0.0,
        goodput=in_time / seconds,
        throughput=len(times) / seconds,
        percentiles={f"p{share:g}": percentile(times, share) for share in PERCENTILES},
        longest=times[-1] if times else math.nan,
        late_p99=late_p99,
        late_most=late[-1] if late else 0.0,
        waited_p99=percentile(sorted(sample.waited for sample in counted), 99) if counted else 0.0,
        saturated=late_p99 > max(_NOTICEABLE, 0.05 * target),
        classes=length_classes(counted, target),
        failures=dict(Counter(sample.detail for sample in counted if sample.detail).most_common(5)),
    )


def length_classes(samples: Sequence[Sample], target: float) -> tuple[LengthClass, ...]:
    """Quarters of the requests by length; equal lengths stay together, so there may be fewer."""
    ordered = sorted(samples, key=lambda sample: sample.length)
    classes: list[LengthClass] = []
    start = 0
    for number in range(1, _CLASSES + 1):
        end = len(ordered) * number // _CLASSES
        while 0 < end < len(ordered) and ordered[end].length == ordered[end - 1].length:
            end += 1
        if end <= start:
            continue
        members = ordered[start:end]
        share = sum(_in_time(sample, target) for sample in members) / len(members)
        classes.append(LengthClass(members[0].length, members[-1].length, len(members), share))
        start = end
    return tuple(classes)


def _in_time(sample: Sample, target: float) -> bool:
    return sample.outcome == "answered" and sample.seconds <= target
