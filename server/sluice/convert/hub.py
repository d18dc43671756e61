"""Imports a model from the Hugging Face Hub, `hf://ORGANISATION/NAME[@REVISION]`, through the cache of huggingface_hub.

Only weights in safetensors and texts are downloaded, never pickles or code. Tokens and the cache's place come from the
environment or the files where every program that uses the Hub has them.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice.convert.importer import import_directory
from sluice.convert.making import Progress
from sluice.errors import ModelError
from sluice.store import manifest, placing
from sluice.store.redaction import shown

SCHEME = "hf://"
_SOURCE = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)
_WANTED = ["*.json", "*.txt", "model*.safetensors", "*_*/*.safetensors"]
_UNWANTED = ["onnx/*", "openvino/*"]
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Hub:
    """How the Hub is asked."""

    offline: bool = False
    bars: bool = False  # huggingface_hub shows how far it is
    timeout: float = 30.0  # seconds, for the first answer about a file
    endpoint: str | None = None  # None: as the environment says
    cache: Path | None = None  # None: as the environment says


@dataclass(frozen=True)
class Imported:
    directory: Path
    is_new: bool


def pull(source: str, repository: Path, name: str | None, number: str | None, hub: Hub, progress: Progress) -> Imported:
    """Import the model, as its name on the Hub and the next version that is free if nothing else is said."""
    found = _SOURCE.fullmatch(source)
    if found is None:
        raise ModelError(
            f"{shown(source)}: is no address on the Hub, as hf://ORGANISATION/NAME or hf://ORGANISATION/NAME@REVISION"
        )
    snapshot = _snapshot(found[1], found[2], hub)
    origin = f"{SCHEME}{found[1]}@{snapshot.name}"  # the commit
    name = name or found[1].partition("/")[2]
    model = repository / name
    if number is None:
        for directory in placing.versions(model):
            if _is_of(directory, origin):
                return Imported(directory, False)
        number = str(max((int(each.name) for each in placing.versions(model)), default=0) + 1)
    existed = (model / number).exists()
    _check(snapshot, source)
    return Imported(import_directory(snapshot, repository, name, number, progress, origin), not existed)


def _is_of(directory: Path, origin: str) -> bool:
    with suppress(ModelError):
        known = manifest.read(directory)
        return known is not None and known.source == origin
    return False


def _snapshot(model: str, revision: str | None, hub: Hub) -> Path:
    """The directory, named by its commit, where huggingface_hub has put the files."""
    library: Any = importlib.import_module("huggingface_hub")
    errors: Any = importlib.import_module("huggingface_hub.errors")
    place = f"{SCHEME}{model}{f'@{revision}' if revision else ''}"
    bars = importlib.import_module("huggingface_hub.utils")
    (bars.enable_progress_bars if hub.bars else bars.disable_progress_bars)()
    try:
        return Path(
            library.snapshot_download(
                model,
                revision=revision,
                cache_dir=hub.cache,
                local_files_only=hub.offline,
                allow_patterns=_WANTED,
                ignore_patterns=_UNWANTED,
                endpoint=hub.endpoint,
                etag_timeout=hub.timeout,
            )
        )
    except errors.GatedRepoError as error:
        raise ModelError(f"{place}: is not for everybody; get leave there, and set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(f"{place}: there is no such model, or it is private and needs HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{place}: there is no such revision") from error
    except errors.LocalEntryNotFoundError as error:
        why = "nothing shall be downloaded" if hub.offline else "the Hub does not answer"
        raise ModelError(f"{place}: is not, or not whole, in the cache, and {why}") from error
    except errors.HfHubHTTPError as error:
        raise ModelError(f"{place}: the Hub says {error.response.status_code}") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{place}: cannot be downloaded: {type(error).__name__}") from error


def _check(snapshot: Path, source: str) -> None:
    """Large files lie in the Hub's cache under their sha256; ModelError if one is not what it should be."""
    for path in sorted(snapshot.rglob("*.safetensors")):
        blob = path.resolve()
        if not _SHA256.fullmatch(blob.name):
            continue
        with blob.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != blob.name:
                relative = path.relative_to(snapshot)
                raise ModelError(f"{source}: {relative} is damaged; remove {blob}, and pull again")
