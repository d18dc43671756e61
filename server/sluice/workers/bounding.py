"""How large a version's batches and its queue may become: as its operator says, or the server's, or by the device."""

from __future__ import annotations

from sluice.config import settings as config
from sluice.scheduler.entry import Limits
from sluice.scheduler.policy import Bounds
from sluice.scheduler.steps import EXACT, Learned, Steps
from sluice.spec import ModelSpec, Padding
from sluice.store.settings import ModelSettings

# Padded tokens in one batch when nobody says otherwise: what memory allows, since what pays is learned. A CPU worker
# that runs all kinds of shapes of up to 1024 tokens takes 250 MiB beside its models; a GPU needs far more to be busy.
DEFAULT_BATCH_TOKENS = {"cpu": 1024, "cuda": 65536}
DEFAULT_BATCH_ROWS = {"cpu": 64, "cuda": 512}

# Lengths that batches are padded to where each shape is costly to prepare.
COSTLY_SHAPES = 12


def most_rows(limits: config.Scheduler, kind: str) -> int:
    return limits.max_batch_rows or DEFAULT_BATCH_ROWS[kind]


def batch(limits: config.Scheduler, kind: str, spec: ModelSpec, settings: ModelSettings) -> Bounds:
    """Of one batch."""
    tokens = settings.max_batch_tokens or limits.max_batch_tokens or DEFAULT_BATCH_TOKENS[kind]
    rows = 1 if spec.padding is Padding.NEVER else max(1, spec.max_batch_rows)
    return Bounds(rows, tokens if spec.has_sequence else rows, limits.max_batch_bytes)


def queue(limits: config.Scheduler, settings: ModelSettings) -> Limits:
    return Limits(
        queue=settings.max_queue or limits.max_queue,
        queue_timeout=settings.queue_timeout or limits.queue_timeout or None,
    )


def steps(kind: str, spec: ModelSpec, longest: int) -> Steps:
    """What batches are padded to: on a CPU exact lengths cost nothing, elsewhere each new shape does."""
    costly = kind != "cpu" and spec.has_sequence and spec.padding is Padding.ANY
    return Learned(COSTLY_SHAPES, longest) if costly else EXACT
