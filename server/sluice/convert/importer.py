"""Imports a Hugging Face style directory into a model repository: the engine of `sluice import`.

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
from typing import TYPE_CHECKING, Any

from sluice import __version__
from sluice.convert.source import Source, read_source
from sluice.errors import ConfigError, ModelError
from sluice.store import card, disk, manifest

if TYPE_CHECKING:
    from sluice.convert.conversion import Conversion, Progress

RECORD = "import.json"
SETTINGS = "model.toml"
MODEL = "model.onnx"
WEIGHTS = "model.onnx.data"
LARGEST_SINGLE_FILE = 1_900_000_000  # one protobuf message ends at 2 GiB
TASKS = {
    "embedding": "embedding",
    "sequence_classification": "classification",
    "token_classification": "token-classification",
    "states": "other",
}
STAGING = ".importing-"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def import_directory(
    source: Path, repository: Path, name: str, version: str = "1", progress: Progress | None = None, origin: str = ""
) -> Path:
    """Convert a model and return its version directory. `progress` is told the step, how far it is, and of how much.

    `origin` is what the manifest calls its source, if that is not the directory.
    """
    _check_names(name, version)
    _need_extra()
    described = read_source(source)
    model = repository / name
    model.mkdir(parents=True, exist_ok=True)
    try:
        with disk.locked(model, STAGING):
            target = model / version
            if _is_imported(described, target):
                return target
            _import(described, target, progress or _silent, origin)
            return target
    except OSError as error:
        raise ModelError(f"{model}: {error.strerror or error}") from error
    finally:
        _remove_if_empty(model)


def _import(source: Source, target: Path, progress: Progress, origin: str) -> None:
    from sluice.convert.check import check_model
    from sluice.convert.conversion import convert
    from sluice.convert.settings_file import settings_text

    stats = _stats(source)
    digest = _digest(source, progress)
    conversion = convert(source, progress)
    staging = target.parent / f"{STAGING}{target.name}"
    staging.mkdir()
    try:
        progress("write", 0, 1)
        _write_model(conversion, staging)
        for path in source.text_files:
            shutil.copyfile(path, staging / path.name)
        _write_record(staging, digest, stats, source)
        progress("write", 1, 1)
        progress("check", 0, 1)
        check_model(staging / MODEL, conversion.architecture)
        progress("check", 1, 1)
        _seal(staging, target, source, origin)
        for path in (*staging.iterdir(), staging):
            disk.sync(path)
        _write_settings(target.parent / SETTINGS, settings_text(conversion))
        staging.rename(target)
        disk.sync(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _seal(staging: Path, target: Path, source: Source, origin: str) -> None:
    sealed = manifest.seal(
        staging,
        name=target.parent.name,
        version=f"{target.name}.0.0",
        task=TASKS[source.task],
        source=origin or os.fsencode(source.directory.resolve()).decode("utf-8", "replace"),
    )
    card.write(staging, sealed)


def _check_names(name: str, version: str) -> None:
    if not NAME.fullmatch(name):
        raise ConfigError(f"name: {name!r} must be letters, digits, '.', '_' and '-', and start with a letter or digit")
    if not (version.isascii() and version.isdigit() and (version == "0" or version[0] != "0")):
        raise ConfigError(f"version: {version!r} must be a whole number")


def _need_extra() -> None:
    for module in ("onnx", "safetensors"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(f"importing models needs {module}: pip install 'sluice[import]'") from error


def _is_imported(source: Source, target: Path) -> bool:
    """Whether the version exists and came from this source; ModelError if it came from anything else."""
    if not target.exists():
        return False
    record = _read_record(target)
    stats = _stats(source)
    if record.get("files") == stats:
        return True
    if record.get("digest") != _digest(source, _silent):
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


def _write_record(directory: Path, digest: str, stats: dict[str, list[int]], source: Source) -> None:
    record = {
        "source": str(source.directory.resolve()),
        "digest": digest,
        "tool": f"sluice {__version__}",
        "files": stats,
    }
    staged = directory / f".{RECORD}"
    staged.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    staged.replace(directory / RECORD)


def _stats(source: Source) -> dict[str, list[int]]:
    """Sizes and times, which tell an unchanged source without reading it."""
    found = {str(path.resolve()): path.stat() for path in source.files}
    return {path: [stat.st_size, stat.st_mtime_ns] for path, stat in found.items()}


def _digest(source: Source, progress: Progress) -> str:
    """Content decides: reinstalling a package changes paths and times, but not the model."""
    total = hashlib.sha256()
    files = source.files
    for number, path in enumerate(files):
        progress("read", number, len(files))
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        total.update(os.fsencode(os.path.relpath(path, source.directory)) + b"\0" + content)
    progress("read", len(files), len(files))
    return total.hexdigest()


def _write_model(conversion: Conversion, directory: Path) -> None:
    import onnx

    size = sum(len(tensor.raw_data) for tensor in conversion.model.graph.initializer)
    if size > LARGEST_SINGLE_FILE:
        onnx.save_model(conversion.model, directory / MODEL, save_as_external_data=True, location=WEIGHTS)
    else:
        onnx.save_model(conversion.model, directory / MODEL)


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


def _silent(step: str, done: int, total: int) -> None:
    return None
