"""Who is to blame when a batch ends badly: suspects try again in ever smaller company until the guilty one is alone.

A batch that *failed* is halved until what fails is one entry, which is guilty at once: a model that raised will raise
again, and trying costs nothing but time. A batch that *killed its worker* costs the time of a new process as well, so
it is halved only until an entry has seen `DEATHS_IN_COMPANY` deaths; from then on each suspect computes alone. And
since workers also die of other things, an entry is guilty only when workers died `DEATHS_ALONE` times while they
computed nothing else; between the two stands a worker that has warmed up with this very version, so it was not that.

One request thus costs at most `MOST_DEATHS` workers their life, and two if it never had company.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol

from sluice.errors import WorkerLost

DEATHS_IN_COMPANY = 2
DEATHS_ALONE = 2
MOST_DEATHS = DEATHS_IN_COMPANY + DEATHS_ALONE


class Suspect(Protocol):
    """What is asked of an entry."""

    group: Hashable
    losses: int  # workers that died computing it
    lone_losses: int  # of these, those that computed nothing else

    @property
    def sequence(self) -> int: ...


def died(entries: Sequence[Suspect]) -> None:
    """A worker died computing them: each has seen one death more."""
    alone = len(entries) == 1
    for entry in entries:
        entry.losses += 1
        entry.lone_losses += alone


def guilty(entries: Sequence[Suspect], *, death: bool) -> bool:
    """Whether what failed is one entry that has had all its chances."""
    return len(entries) == 1 and (not death or convicted(entries[0].lone_losses))


def convicted(lone_losses: int) -> bool:
    """Whether so many deaths alone are proof."""
    return lone_losses >= DEATHS_ALONE


def regroup(suspects: Sequence[Suspect], batch: int) -> None:
    """Let those of a failed batch that still want an answer try again in halves, which nobody else joins. Neighbours
    stay together: they are alike, and so what is wrong with one may well be wrong with the next."""
    middle = (len(suspects) + 1) // 2
    for at, entry in enumerate(suspects):
        isolate(entry, company=("suspects", batch, at < middle))


def isolate(entry: Suspect, company: tuple[object, ...] = ()) -> None:
    """Let it compute in this company only, or alone where it has seen too many deaths for any."""
    if not company or entry.losses >= DEATHS_IN_COMPANY:
        company = ("alone", entry.sequence)
    entry.group = company


def verdict(entry: Suspect, error: WorkerLost) -> WorkerLost:
    """What the guilty one is told."""
    text = (
        f"this request was given up after {entry.losses} workers died under it, {entry.lone_losses} of them while "
        f"they computed nothing else: {error.message}"
    )
    return type(error)(text, retry_after=error.retry_after)
