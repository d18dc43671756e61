"""Where a model's versions come from, as `[source]` in its `model.toml` says."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sluice.store.redaction import shown

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.+)")
# What they bring is not one file, and is told by a commit, a version or a digest of their own.
_WITHOUT_SHA256 = ("hf", "mlflow", "oci")


@dataclass(frozen=True, slots=True)
class Origin:
    """An address or an absolute path, and what shall become of it."""

    address: str
    sha256: str = ""  # of the file at the address; "" = not known
    version: str = ""  # the number it gets; "" = the next that is free

    @property
    def source(self) -> str:
        """As `sluice pull` takes it."""
        return f"{self.address}#sha256={self.sha256}" if self.sha256 else self.address

    @property
    def shown(self) -> str:
        """Without what may be secret."""
        return shown(self.address)


def checked(address: str, sha256: str, version: str) -> Origin:
    """What was said as an origin; ValueError if it cannot be one."""
    found = _ADDRESS.fullmatch(address)
    if found is None and not address.startswith("/"):
        raise ValueError(f"must be an address, as https://…, or an absolute path, not {shown(address)!r}")
    if sha256 and (found is None or found[1].lower() in _WITHOUT_SHA256):
        raise ValueError("has a sha256 beside it, which belongs to the address of one file")
    if sha256 and "#" in address:
        raise ValueError("says after # what the file should be, and so does sha256; say it once")
    return Origin(address, sha256, version)
