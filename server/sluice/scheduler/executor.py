"""A worker as the scheduler sees it."""

from __future__ import annotations

from collections.abc import Container, Hashable
from typing import Protocol

from sluice.scheduler.entry import Batch


class Executor(Hashable, Protocol):
    """Computes batches and says what came of them."""

    @property
    def idle(self) -> bool:
        """Nothing runs on it and nothing is staged."""

    @property
    def open(self) -> bool:
        """May be given a batch: it is idle, or what it runs is about to end."""

    @property
    def serving(self) -> Container[str]:
        """The versions it holds."""

    def free_at(self, now: float) -> float:
        """When a batch given now is predicted to begin."""

    def run(self, batch: Batch) -> None:
        """Start computing, or stage it behind what runs: then `Scheduler.began` is called when its turn comes. When it
        ended, `freed` is called, then, exactly once, `finished`, `failed` or `returned`."""
