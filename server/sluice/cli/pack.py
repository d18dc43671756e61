"""`sluice pack` and `sluice unpack`: versions in single files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sluice.cli.places import version_directory
from sluice.cli.progress import progress, size_text

Repository = Annotated[Path, typer.Option("--repository", "-r", help="Directory of models.")]
_MODELS = Path("models")
_VERSION = "A model, NAME/N, or a version's directory."


def pack(
    version: Annotated[str, typer.Argument(metavar="NAME|PATH", help=_VERSION)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to make, or its directory.", show_default="NAME-VERSION.sluice"),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="NAME|PATH", help="Pack only what differs from this version, which receivers then need."),
    ] = None,
    repository: Repository = _MODELS,
) -> None:
    """Pack a sealed version into a single file."""
    from sluice.store import packing
    from sluice.store.package import sealed

    directory = version_directory(version, repository)
    parent = version_directory(against, repository) if against else None
    target = output or Path()
    if target.is_dir():
        target /= packing.usual_name(sealed(directory))
    with progress() as report:
        packed = packing.pack(directory, target, parent, report)
    print(f"{packed.path} has {size_text(packed.size)}; unpacked {size_text(packed.unpacked)}")
    if parent:
        origin = sealed(parent)
        print(f"it needs {origin.name} {origin.version} ({origin.digest()})")
        for name in packed.left_out:
            print(f"  {name}: as it is there")
        for name, size in packed.in_part:
            print(f"  {name}: {size_text(size)} new")


def unpack(
    file: Annotated[Path, typer.Argument(help="The package.")],
    repository: Repository = _MODELS,
    number: Annotated[
        str | None, typer.Option("--as", metavar="N", help="Version to create.", show_default="the next that is free")
    ] = None,
) -> None:
    """Unpack a package into the repository; what is there already is kept."""
    from sluice.store import unpacking

    with progress() as report:
        done = unpacking.unpack(file, repository, number, report)
    name = f"{done.manifest.name} {done.manifest.version}"
    print(f"{name} is {done.told}")
