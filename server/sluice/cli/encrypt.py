"""`sluice encrypt` and `sluice decrypt`: versions whose graph and weights only those who have the key can read."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sluice.cli.console import CommandError
from sluice.cli.options import LoadedSettings
from sluice.cli.places import version_directory
from sluice.cli.progress import progress, size_text

if TYPE_CHECKING:
    from sluice.encryption.keys import Keys
    from sluice.store.encrypting import Remade

Target = Annotated[str, typer.Argument(metavar="NAME|PATH", help="A model, NAME/N, or a version's directory.")]
Number = Annotated[
    str | None, typer.Option("--as", metavar="N", help="Version to create.", show_default="the next that is free")
]


def encrypt(
    loaded: LoadedSettings,
    target: Target,
    number: Number = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Make a package of it instead: a file, or its directory.")
    ] = None,
) -> None:
    """Make a version of a version, with its model and weights encrypted by the first key given.

    Keys come from SLUICE_MODEL_KEY and models.key_file. One that is encrypted with another key is encrypted anew.
    """
    from sluice.encryption.keys import Keys
    from sluice.store import encrypting

    models = loaded.settings.models
    directory = version_directory(target, models.repository)
    keys = Keys.given(os.environ, models.key_file)
    if output is not None:
        _package(directory, keys, output)
        return
    with progress() as report:
        done = encrypting.encrypt(directory, models.repository, keys, number, report)
    _say(done)
    print(f"key {done.placed.manifest.model.key_id} is needed wherever it is served")
    print(f"{directory} is there as before; remove it where nobody shall have it")


def decrypt(loaded: LoadedSettings, target: Target, number: Number = None) -> None:
    """Make a version of an encrypted version that anybody can read."""
    from sluice.encryption.keys import Keys
    from sluice.store import encrypting

    models = loaded.settings.models
    directory = version_directory(target, models.repository)
    with progress() as report:
        done = encrypting.decrypt(directory, models.repository, Keys.given(os.environ, models.key_file), number, report)
    _say(done)


def _package(directory: Path, keys: "Keys", output: Path) -> None:
    """By way of a version beside the package, which has nothing in the clear that shall not be."""
    from sluice.store import encrypting, packing

    folder = output if output.is_dir() else output.parent
    if not folder.is_dir():
        raise CommandError(f"{folder}: there is no such directory", "make it, or choose another place for --output")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".encrypting-") as temporary:
        with progress() as report:
            done = encrypting.encrypt(directory, Path(temporary), keys, None, report)
        target = output / packing.usual_name(done.placed.manifest) if output.is_dir() else output
        with progress() as report:
            packed = packing.pack(done.placed.directory, target, None, report)
    print(f"{packed.path} has {size_text(packed.size)}")
    print(f"key {done.placed.manifest.model.key_id} is needed wherever it is served")


def _say(done: "Remade") -> None:
    content, placed = done.placed.manifest, done.placed
    where = f"in {placed.directory}" if placed.is_new else f"already in {placed.directory}, nothing to do"
    print(f"{content.name} {content.version} is {where}")
    print(f"  {'encrypted' if content.model.encryption else 'in the clear'}: {', '.join(done.files)}")
    if done.others:
        print(f"  as before: {', '.join(done.others)}")
