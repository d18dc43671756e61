"""`sluice verify`: whether a version or a package is what its manifest says, and who signed it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sluice.cli.options import LoadedSettings
from sluice.cli.places import version_directory
from sluice.cli.progress import progress

_TARGET = "A package, a model, NAME/N, or a version's directory."


def verify(
    loaded: LoadedSettings,
    target: Annotated[str, typer.Argument(metavar="FILE|NAME|PATH", help=_TARGET)],
) -> None:
    """Read a package or a version to the end, and say whether it is what its manifest says, and who signed it."""
    from sluice.errors import ModelError
    from sluice.store import manifest, signatures, unpacking
    from sluice.store.contents import SIGNATURE, Hashes
    from sluice.store.package import Package, sealed
    from sluice.store.trust import Trust

    models = loaded.settings.models
    if not Path(target).is_file():
        directory = version_directory(target, models.repository)
        content, hashes = sealed(directory), Hashes()
        manifest.verify(directory, content, hashes)
        name = directory.absolute().parent.name
        signature = signatures.read(directory)
        found = signatures.content(directory, hashes)
    else:
        with Package.open(Path(target)) as package, progress() as report:
            content = package.manifest
            package.check(unpacking.find_parent(package, models.repository), report)
            name, text = content.name, package.signature()
            signature = signatures.parse(text, f"{target}: {SIGNATURE}") if text is not None else None
            found = package.digests()
    if signature is not None:
        told = Trust(models).account(signature, found, name, content.source)
    elif models.signatures == "require" or models.trusted_keys:  # who names a key wants to know that it signed
        raise ModelError(f"{target} is not signed")
    else:
        told = "no"
    print(f"{target} is {content.name} {content.version}, whole and unchanged: {content.digest()}")
    print(f"signed: {told}")
