"""Remembers requests that killed workers, so that sending one again costs nothing, or at least nobody else.

A request that was found guilty is refused for a while. One that killed, or may have killed, a worker but went away
before it could be found guilty, as clients with deadlines do, keeps what it has on its account: sent again it computes
alone, and what it does then counts. Requests are told by a fingerprint of all that a model gets to see. None is taken
as long as nothing of the same model and size is remembered.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from sluice.errors import Quarantined
from sluice.scheduler.blame import convicted
from sluice.scheduler.entry import Work

MOST = 1024  # requests remembered: beyond, the oldest are forgotten

_Kind = tuple[str, int, int, int]


@dataclass(frozen=True, slots=True)
class Mark:
    """What is remembered of a request."""

    losses: int  # workers that died computing it
    lone_losses: int  # of these, those that computed nothing else
    until: float

    @property
    def guilty(self) -> bool:
        return convicted(self.lone_losses)

    def refusal(self, now: float) -> Quarantined:
        """What whoever sends it again is told."""
        left = max(1.0, self.until - now)
        text = f"this very request killed workers lately; it is not computed again for {left:.0f} seconds"
        return Quarantined(text, retry_after=left)


class Quarantine:
    """One server's; `seconds` of 0 remember nothing."""

    def __init__(self, seconds: float = 300.0) -> None:
        self._seconds = seconds
        self._marks: dict[tuple[_Kind, bytes], Mark] = {}  # the oldest first
        self._kinds: dict[_Kind, int] = {}  # how many marks there are of each

    def __len__(self) -> int:
        return len(self._marks)

    def mark(self, model: str, work: Work, losses: int, lone_losses: int, now: float) -> None:
        """Remember it from now on; the worst that is known of it counts."""
        if not self._seconds:
            return
        kind = _kind(model, work)
        key = kind, fingerprint(work)
        known = self._marks.get(key)
        if known is not None:
            losses, lone_losses = max(losses, known.losses), max(lone_losses, known.lone_losses)
            self._forget(key)
        self._marks[key] = Mark(losses, lone_losses, now + self._seconds)
        self._kinds[kind] = self._kinds.get(kind, 0) + 1
        while len(self._marks) > MOST or next(iter(self._marks.values())).until <= now:
            self._forget(next(iter(self._marks)))

    def find(self, model: str, work: Work, now: float) -> Mark | None:
        """What is known of this request; costs nothing unless something like it is remembered."""
        if not self._kinds or (kind := _kind(model, work)) not in self._kinds:
            return None
        key = kind, fingerprint(work)
        mark = self._marks.get(key)
        if mark is not None and mark.until <= now:
            self._forget(key)
            return None
        return mark

    def acquit(self, model: str, work: Work) -> None:
        """It was computed, and the worker lives."""
        if self._kinds and (kind := _kind(model, work)) in self._kinds:
            self._forget((kind, fingerprint(work)))

    def clear(self, model: str) -> None:
        """The model was loaded anew: what killed the old one may be fine."""
        for key in [key for key in self._marks if key[0][0] == model]:
            self._forget(key)

    def _forget(self, key: tuple[_Kind, bytes]) -> None:
        if self._marks.pop(key, None) is None:
            return
        kind = key[0]
        self._kinds[kind] -= 1
        if not self._kinds[kind]:
            del self._kinds[kind]


def _kind(model: str, work: Work) -> _Kind:
    return model, work.rows, work.length, work.size


def fingerprint(work: Work) -> bytes:
    """Equal for requests that a model cannot tell apart: inputs by name, type, shape and bytes, and outputs asked for;
    not who asked, how urgently, or in which words."""
    digest = hashlib.blake2b(repr(work.outputs).encode(), digest_size=16)
    for tensor in work.inputs:
        if tensor is None:
            digest.update(b"\0")
        else:
            digest.update(repr((tensor.name, tensor.datatype, tensor.shape)).encode())
            digest.update(tensor.data)
    return digest.digest()
