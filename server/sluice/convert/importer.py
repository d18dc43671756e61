"""Imports a model of another format into a model repository: the engine of `sluice import`.

A version appears whole or not at all: it is written beside its place, checked by running it, and then renamed. It is
made once: importing the same source again finds it and returns; another source needs another version or name.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from sluice import __version__
from sluice.convert.making import Convertible, Made, Progress, silent
from sluice.errors import ConfigError, ModelError
from sluice.store import card, disk, manifest

RECORD = "import.json"
SETTINGS = "model.toml"
STAGING = ".importing-"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def import_directory(
    source: Path, repository: Path, name: str, version: str = "1", progress: Progress | None = None, origin: str = ""
) -> Path:
    """Convert a Hugging Face style directory; as for `import_model`."""
    check_names(name, version)
    need_extra()
    from sluice.convert.pretrained import Pretrained
    from sluice.convert.source import read_source

    return import_model(Pretrained(read_source(source)), repository, name, version, progress, origin)


def import_model(
    source: Convertible,
    repository: Path,
    name: str,
    version: str = "1",
    progress: Progress | None = None,
    origin: str = "",
) -> Path:
    """Convert a model and return its version directory. `progress` is told the step, how far it is, and of how much.

    `origin` is what the manifest calls its source, if that is not where it lies.
    """
    check_names(name, version)
    need_extra()
    model = repository / name
    try:
        model.mkdir(parents=True, exist_ok=True)
        with disk.locked(model, STAGING):
            target = model / version
            if not _is_imported(source, target):
                _import(source, target, progress or silent, origin)
            return target
    except OSError as error:
        raise ModelError(f"{error.filename or model}: {error.strerror or error}") from error
    finally:
        _remove_if_empty(model)


def check_names(name: str, version: str) -> None:
    if not NAME.fullmatch(name):
        raise ConfigError(f"name: {name!r} must be letters, digits, '.', '_' and '-', and start with a letter or digit")
    if not (version.isascii() and version.isdigit() and version[0] != "0"):
        raise ConfigError(f"version: {version!r} must be a whole number from 1")


def need_extra() -> None:
    for module in ("onnx", "safetensors"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(f"importing models needs {module}: pip install 'sluice[import]'") from error


def _import(source: Convertible, target: Path, progress: Progress, origin: str) -> None:
    stats = _stats(source)
    digest = _digest(source, progress)
    staging = target.parent / f"{STAGING}{target.name}"
    staging.mkdir()
    try:
        made = source.make(staging, progress)
        _write_record(staging, digest, stats, source)
        _seal(staging, target, source, made, origin)
        for folder, _, names in os.walk(staging):
            for name in (*names, "."):
                disk.sync(Path(folder, name))
        if made.settings:
            _write_settings(target.parent / SETTINGS, made.settings)
        staging.rename(target)
        disk.sync(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _seal(staging: Path, target: Path, source: Convertible, made: Made, origin: str) -> None:
    sealed = manifest.seal(
        staging,
        name=target.parent.name,
        version=f"{target.name}.0.0",
        task=made.task,
        source=origin or os.fsencode(source.place.resolve()).decode("utf-8", "replace"),
    )
    card.write(staging, sealed)


def _is_imported(source: Convertible, target: Path) -> bool:
    """Whether the version exists and came from this source; ModelError if it came from anything else."""
    if not os.path.lexists(target):
        return False
    if not source.files:
        raise ModelError(
            f"{target}: this version exists, and what code makes is only known by running it; import as another version"
        )
    record = _read_record(target)
    stats = _stats(source)
    said = tuple(record.get("said", ()))
    if said == source.said and record.get("files") == stats:
        return True
    if said != source.said or record.get("digest") != _digest(source, silent):
        raise ModelError(
            f"{target}: this version exists and was made from another source; import as another version or name"
        )
    return True  # the same content, copied anew; not noted for next time, since a sealed version stays as it is


def _read_record(target: Path) -> dict[str, Any]:
    try:
        record = json.loads((target / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _write_record(directory: Path, digest: str, stats: dict[str, list[int]], source: Convertible) -> None:
    record = {"source": str(source.place.resolve()), "digest": digest, "tool": f"sluice {__version__}", "files": stats}
    if source.said:
        record["said"] = list(source.said)
    staged = directory / f".{RECORD}"
    staged.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    staged.replace(directory / RECORD)


def _stats(source: Convertible) -> dict[str, list[int]]:
    """Sizes and times, which tell an unchanged source without reading it."""
    found = {str(path.resolve()): path.stat() for path in source.files}
    return {path: [stat.st_size, stat.st_mtime_ns] for path, stat in found.items()}


def _digest(source: Convertible, progress: Progress) -> str:
    """Content decides: reinstalling a package changes paths and times, but not the model."""
    total = hashlib.sha256()
    files = source.files
    base = source.place if source.place.is_dir() else source.place.parent
    for number, path in enumerate(files):
        progress("read", number, len(files))
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        total.update(os.fsencode(os.path.relpath(path, base)) + b"\0" + content)
    progress("read", len(files), len(files))
    return total.hexdigest()


def _write_settings(path: Path, text: str) -> None:
    """Whole or not at all, and never over what is there."""
    staged = path.with_name(f"{STAGING}{path.name}")
    staged.write_text(text, "utf-8")
    disk.sync(staged)
    with suppress(FileExistsError):
        os.link(staged, path)
    staged.unlink()


def _remove_if_empty(directory: Path) -> None:
    with suppress(OSError):
        directory.rmdir()
