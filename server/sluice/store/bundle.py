"""Makes a version of files that were brought one by one and lie in the cache.

If they bring a manifest they are a sealed version and must be what it says; otherwise what they are becomes a version
that is sealed here, with where it came from.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from sluice.errors import ModelError
from sluice.store import card, manifest, placing
from sluice.store.contents import CARD, MANIFEST, SIGNATURE, is_beside, name_of_file
from sluice.store.joining import joined
from sluice.store.manifest import Manifest
from sluice.store.package import Progress
from sluice.store.placing import Placed
from sluice.store.reading import read_text
from sluice.store.signatures import read_bytes

if TYPE_CHECKING:
    from sluice.store.sources import Wanted

_CHUNK = 1 << 20
_MODEL = "model.onnx"


@dataclass(frozen=True)
class Bundle:
    files: Mapping[str, Path]  # below the version's directory, with /: where each lies
    shown: str  # where they come from, in messages
    usual: str  # what the model is called if nobody says
    said: Mapping[str, Any] = field(default_factory=dict)  # fields of the manifest, if they bring none
    about: str = ""  # for the card, if they bring none


def place(bundle: Bundle, wanted: Wanted, progress: Progress) -> Placed:
    """Put it into the repository; ModelError if it is no version, or not what its manifest says."""
    check(bundle.files, bundle.shown)
    own = bundle.files.get(MANIFEST)
    content = None if own is None else manifest.parse(read_text(own, MANIFEST), f"{bundle.shown}: {MANIFEST}")
    files = dict(bundle.files) if content is not None else _with_usual_name(bundle.files)

    def make(staging: Path, target: Path) -> Manifest:
        _copy(files, bundle.shown, staging, progress)
        try:
            if content is not None:
                manifest.verify(staging, content)
                return content
            return _sealed(bundle, staging, target)
        except ModelError as error:  # which names the directory where it was made
            raise ModelError(error.message.replace(f"{staging.parent.name}/{staging.name}", bundle.shown)) from error

    usual = content.name if content is not None else bundle.usual
    placed = placing.place(wanted.models, wanted.name or usual, wanted.number, make, content)
    signature = bundle.files.get(SIGNATURE) if content is not None else None
    return joined(placed, read_bytes(signature, f"{bundle.shown}: {SIGNATURE}") if signature is not None else None)


def found(wanted: Wanted, usual: str, source: str, marks: Mapping[str, str] | None = None) -> Placed | None:
    """The version in the repository that came from there before, if there is one where it is wanted.

    `marks` are metrics that it must have: what is called the same elsewhere is another.
    """
    model = wanted.models / (wanted.name or usual)
    directories = placing.versions(model) if wanted.number is None else [model / wanted.number]
    for directory in directories:
        with suppress(ModelError):
            known = manifest.read(directory)
            if known is not None and known.source == source and (marks or {}).items() <= known.metrics.items():
                return Placed(directory, known, False)
    return None


def check(names: Collection[str], shown: str) -> None:
    """ModelError if one can be no file's in a version, or not beside the others."""
    for name in names:
        _check(name, names, shown)


def _check(name: str, names: Collection[str], shown: str) -> None:
    if is_beside(PurePosixPath(name)) and not name.startswith("."):
        return
    try:
        path = PurePosixPath(name_of_file(name))
    except ValueError as error:
        raise ModelError(f"{shown}: {error}") from error
    if above := next((str(each) for each in path.parents if str(each) in names), None):
        raise ModelError(f"{shown}: '{above}' is a file, and a directory of '{name}'")


def _with_usual_name(files: Mapping[str, Path]) -> dict[str, Path]:
    """The only graph, however it is called, becomes the version's model."""
    graphs = [name for name in files if "/" not in name and name.endswith(".onnx")]
    if len(graphs) != 1:
        return dict(files)
    return {_MODEL if name == graphs[0] else name: path for name, path in files.items()}


def _copy(files: Mapping[str, Path], shown: str, target: Path, progress: Progress) -> None:
    total = sum(path.stat().st_size for path in files.values())
    free = shutil.disk_usage(target).free
    if total > free:
        raise ModelError(f"{shown}: it takes {total} bytes, and {free} are free on the disk")
    done = 0
    for name, path in files.items():
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as old, place.open("xb") as new:
            while chunk := old.read(_CHUNK):
                new.write(chunk)
                done += len(chunk)
                progress("copy", done, total)


def _sealed(bundle: Bundle, staging: Path, target: Path) -> Manifest:
    said = {"name": target.parent.name, "version": f"{target.name}.0.0", **bundle.said}
    sealed = manifest.seal(staging, **said)
    if bundle.about and not (staging / CARD).exists():
        about = bundle.about.replace(card.BEGIN, "").replace(card.END, "")
        manifest.write_text(staging / CARD, f"# {target.parent.name}\n\n{about.strip()}\n")
    card.write(staging, sealed)
    return sealed
