"""What a version is called in the keys of kept answers: by its files, and by all else that decides what it answers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields

from sluice.reuse.answers import Identity
from sluice.store import manifest
from sluice.store.repository import VersionFiles
from sluice.store.settings import ModelSettings

# Settings that change when, where and for whom something is computed, but nothing of what the model gets to see or
# answers. Whatever is not named here counts, so that nothing is forgotten.
_WITHOUT_EFFECT = frozenset(
    {
        "target_latency",
        "max_batch_tokens",
        "max_queue",
        "queue_timeout",
        "priority_levels",
        "default_priority",
        "instances",
        "gpus",
        "version_policy",
        "warm_up",
        "warm_lengths",
        "max_length",
        "origin",
        "text",  # what becomes of texts before the model sees them, and of its answers: only its own are kept
        "fallback",
        "triton",
        "notes",
    }
)


def identity_of(files: VersionFiles, key: str) -> Identity:
    """Sealed files are the same wherever they lie, if the same is said of them; others are known to this server only,
    as long as they are loaded, by their `key`."""
    said = manifest.read(files.directory)
    if said is None:
        return Identity(key, False)
    told = (said.digest(), files.model, files.backend, files.path.name, _told(files.settings))
    return Identity(hashlib.sha256(repr(told).encode("utf-8", "surrogatepass")).hexdigest(), True)


def _told(settings: ModelSettings) -> list[tuple[str, object]]:
    """The settings that count, in a form that does not depend on the order in which they were said."""
    told: list[tuple[str, object]] = []
    for name in sorted(one.name for one in fields(settings)):
        if name not in _WITHOUT_EFFECT:
            value = getattr(settings, name)
            if isinstance(value, Mapping):
                value = sorted(value.items())
            elif name in ("inputs", "outputs"):
                value = sorted(value, key=lambda tensor: str(tensor.name))
            told.append((name, value))
    return told
