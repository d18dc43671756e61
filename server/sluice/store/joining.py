"""Takes the signature of a version that came once more, where that very version lies without one.

It must be over the files that lie there; who made it, and whether that is enough, is asked when they are loaded.
"""

from __future__ import annotations

import os
from dataclasses import replace

from sluice.errors import ModelError
from sluice.store import signatures
from sluice.store.contents import SIGNATURE, Hashes
from sluice.store.manifest import write_text
from sluice.store.placing import Placed


def joined(placed: Placed, text: bytes | None) -> Placed:
    """The version, with what became of the signature that came with it."""
    if placed.is_new or text is None:
        return placed
    path, shown = placed.directory / SIGNATURE, signatures.shown(placed.directory)
    again = f"remove {placed.directory} and bring it again to have that, or bring it under another number with --as"
    try:
        if os.path.lexists(path):
            if signatures.read_bytes(path, shown) == text:
                return placed
            return replace(placed, note=f"it came with another signature than {shown}, which was kept; {again}")
        signature = signatures.parse(text, shown)
        signatures.compare(signature, signatures.content(placed.directory, Hashes()))
        write_text(path, text.decode())
    except (ModelError, UnicodeDecodeError) as error:
        reason = error.message if isinstance(error, ModelError) else "is not UTF-8 text"
        return replace(placed, note=f"the signature that came with it was not taken: {reason}; {again}")
    return replace(placed, note="and has the signature that came with it now")
