"""What a version must have before it becomes `production`, by `models.approval`: a signature, a passed evaluation."""

from __future__ import annotations

from pathlib import Path

from sluice.config.settings import Models
from sluice.errors import ModelError, NotApproved
from sluice.store import manifest
from sluice.store.contents import Hashes
from sluice.store.manifest import Manifest
from sluice.store.trust import Trust

SIGNED, EVALUATED = "signed", "evaluated"
# What an evaluation writes into a manifest's metrics; see docs/trust.md.
_DIGEST, _VERDICT = "evaluation.digest", "evaluation.verdict"
_PASSED = "passed"


class Approval:
    """The rules of one repository."""

    def __init__(self, models: Models, trust: Trust, hashes: Hashes) -> None:
        self._rules = models.approval
        self._trust = trust
        self._hashes = hashes

    @classmethod
    def of(cls, models: Models) -> Approval:
        hashes = Hashes()
        return cls(models, Trust(models, hashes), hashes)

    def check(self, directory: Path) -> None:
        """NotApproved unless the version in this directory may become production."""
        if reason := self.lacking(directory):
            place = f"{directory.parent.name}/{directory.name}"
            raise NotApproved(f"{place} cannot become production: {reason} (models.approval)")

    def lacking(self, directory: Path) -> str:
        """What it lacks; empty if that is nothing."""
        if not self._rules or not directory.is_dir():
            return ""
        try:
            said = manifest.read(directory)
            reasons = [self._unsigned(directory, said)] if SIGNED in self._rules else []
            reasons += [self._unproven(directory, said)] if EVALUATED in self._rules else []
        except ModelError as error:
            reasons = [error.message]
        return "; ".join(filter(None, reasons))

    def _unsigned(self, directory: Path, said: Manifest | None) -> str:
        try:
            self._trust.verify(directory, said)
        except ModelError as error:
            return error.message
        return ""

    def _unproven(self, directory: Path, said: Manifest | None) -> str:
        if said is None:
            return "it is not sealed, so that nothing tells whether it was evaluated"
        verdict, digest = said.metrics.get(_VERDICT), said.metrics.get(_DIGEST)
        if verdict is None:
            return "it was not evaluated; `sluice evaluate` does it"
        if digest != said.digest():
            return "it was evaluated with other files; `sluice evaluate` does it anew"
        if verdict != _PASSED:
            return f"its evaluation says {verdict!r}, not {_PASSED!r}"
        manifest.verify(directory, said, self._hashes)  # lest the files are others than those evaluated
        return ""
