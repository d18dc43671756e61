"""Whose signature a version needs before it is loaded, by `models.signatures` and `models.trusted_keys`.

The most specific keys count, and only those: the model's own, or else those of where it came from, or else those for
all. They are read anew each time, so that a key can be replaced while a server runs.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from sluice.config.settings import Models
from sluice.errors import ConfigError, ModelError
from sluice.store import signatures, signing
from sluice.store.contents import Hashes
from sluice.store.manifest import Manifest
from sluice.store.signatures import Signature

log = logging.getLogger("sluice.store")

_ENDS = "/@?#"  # what may follow the beginning of a source


@dataclass(frozen=True)
class Verified:
    """A signature that holds."""

    signer: str
    by: Path  # the trusted key, or the authority's certificate


class Trust:
    """Says who signed a version, and whether that is enough."""

    def __init__(self, models: Models, hashes: Hashes | None = None) -> None:
        self._models = models
        self._hashes = hashes or Hashes()

    def prepare(self) -> None:
        """ConfigError if signatures are asked for and cannot be verified: better at the start than at each version. The
        packages are imported, which takes too long to do it while requests are answered."""
        asked = self._models.signatures_wanted_by
        if not asked:
            return
        try:
            signing.import_packages()
        except ModelError as error:
            raise ConfigError(f"models.{asked}: {error.message}") from error
        for _, path in self._models.keys:
            try:
                signing.trusted_key(path)
            except ModelError as error:
                raise ConfigError(f"models.trusted_keys: {error.message}") from error

    def warn_of_nobody(self, models: Collection[str]) -> None:
        """A key for a model that is not there is likely a slip of the pen, and others count for whichever was meant."""
        for scope, path in self._models.keys:
            if scope and "/" not in scope and scope not in models:
                log.warning("models.trusted_keys: '%s=%s' is for a model that is not in the repository", scope, path)

    def keys_for(self, model: str, source: str) -> list[Path]:
        """Whose signatures count for it."""
        keys = self._models.keys
        own = [path for scope, path in keys if scope == model]
        if own:
            return own
        near = [(scope, path) for scope, path in keys if "/" in scope and _begins(source, scope)]
        if near:
            longest = max(len(scope) for scope, _ in near)
            return [path for scope, path in near if len(scope) == longest]
        return [path for scope, path in keys if not scope]

    def check(self, directory: Path, said: Manifest | None) -> None:
        """Before a version is loaded; ModelError if it may not be."""
        if self._models.signatures == "off":
            return
        name = _name(directory)
        try:
            found = self.verify(directory, said)
        except ModelError as error:
            if self._models.signatures == "require":
                raise
            log.warning("%s; it is served all the same, since models.signatures is 'warn'", error.message)
        else:
            log.info("%s is signed by %s (%s)", name, found.signer, found.by)

    def verify(self, directory: Path, said: Manifest | None) -> Verified:
        """Who signed the version in this directory; ModelError if nobody did whom we trust, or if it is not what was
        signed."""
        signature = signatures.read(directory)
        if said is None or signature is None:
            raise ModelError(f"{_name(directory)} is not {'sealed and ' if said is None else ''}signed")
        found = signatures.content(directory, self._hashes)
        return self.verified(signature, found, directory.absolute().parent.name, said.source)

    def verified(self, signature: Signature, found: Mapping[str, str], model: str, source: str) -> Verified:
        """The same for files that lie elsewhere, as in a package, by their sha256."""
        keys = [signing.trusted_key(path) for path in self.keys_for(model, source)]
        return Verified(signature.signer, signing.verify(signature, found, keys).path)

    def account(self, signature: Signature, found: Mapping[str, str], model: str, source: str) -> str:
        """Who signed, for people to read; ModelError if the signature does not hold."""
        if self._models.signatures != "require" and not self.keys_for(model, source):
            signatures.compare(signature, found)
            return f"says that it is by {signature.signer}; models.trusted_keys names no key to tell by"
        verified = self.verified(signature, found, model, source)
        return f"by {verified.signer} ({verified.by})"


def _begins(source: str, scope: str) -> bool:
    rest = source.removeprefix(scope)
    return source.startswith(scope) and (not rest or scope.endswith("/") or rest[0] in _ENDS)


def _name(directory: Path) -> str:
    return "/".join(directory.absolute().parts[-2:])
