"""What a version must have before it becomes `production`, by `models.approval`: a signature, a passed evaluation."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from sluice.config.settings import Models
from sluice.errors import ModelError, NotApproved
from sluice.store import manifest
from sluice.store.contents import Hashes
from sluice.store.manifest import Manifest
from sluice.store.trust import Trust

log = logging.getLogger("sluice.store")

SIGNED, EVALUATED = "signed", "evaluated"
# What an evaluation writes into a manifest's metrics; see docs/trust.md.
_DIGEST, _VERDICT = "evaluation.digest", "evaluation.verdict"
_PASSED = "passed"


class Approval:
    """The rules of one repository."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._rules = models.approval

    @property
    def asked(self) -> bool:
        """Whether there are any."""
        return bool(self._rules)

    def check(self, directory: Path) -> str:
        """NotApproved unless the version in this directory may become production. The digest of its files as they are
        now, if anything is asked for."""
        reason, digest = self._look(directory)
        if reason:
            place = f"{directory.parent.name}/{directory.name}"
            raise NotApproved(f"{place} cannot become production: {reason} (models.approval)")
        return digest

    def check_removal(self, model: Path, left: Collection[str]) -> None:
        """NotApproved unless what answers once nothing of the model is in production may: the latest of the versions
        that are left."""
        if not self._rules or not left:
            return
        latest = max(left, key=int)
        if reason := self.lacking(model / latest):
            raise NotApproved(
                f"{model.name}: production cannot be taken away: version {latest} would answer, and is not approved: "
                f"{reason} (models.approval); promote another instead"
            )

    def lacking(self, directory: Path) -> str:
        """What it lacks; empty if that is nothing."""
        return self._look(directory)[0]

    def _look(self, directory: Path) -> tuple[str, str]:
        """What it lacks, and its digest. Every file is read: whoever can write into them can do it unseen."""
        if not self._rules or not directory.is_dir():
            return "", ""
        hashes, said = Hashes(), None
        try:
            said = manifest.read(directory)
            reasons = [self._unsigned(directory, said, hashes)] if SIGNED in self._rules else []
            reasons += [_unproven(directory, said, hashes)] if EVALUATED in self._rules else []
        except ModelError as error:
            reasons = [error.message]
        except Exception as error:  # what cannot be told is not approved
            log.exception("whether %s is approved cannot be told", directory)
            reasons = [f"internal error: {error!r:.200}"]
        return "; ".join(filter(None, reasons)), said.digest() if said is not None else ""

    def _unsigned(self, directory: Path, said: Manifest | None, hashes: Hashes) -> str:
        try:
            Trust(self._models, hashes).verify(directory, said)
        except ModelError as error:
            return error.message
        return ""


def _unproven(directory: Path, said: Manifest | None, hashes: Hashes) -> str:
    if said is None:
        return "it is not sealed, so that nothing tells whether it was evaluated"
    verdict, digest = said.metrics.get(_VERDICT), said.metrics.get(_DIGEST)
    if verdict is None:
        return "it was not evaluated; `sluice evaluate` does it"
    if digest != said.digest():
        return "it was evaluated with other files; `sluice evaluate` does it anew"
    if verdict != _PASSED:
        return f"its evaluation says {verdict!r}, not {_PASSED!r}"
    manifest.verify(directory, said, hashes)  # lest the files are others than those evaluated
    return ""
