"""Brings files into the cache, unless they are there already and still what their address has."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sluice.errors import ModelError, system_reason
from sluice.store.blobs import Address, Cache, key_of
from sluice.store.download import Downloaded, Rules
from sluice.store.package import Progress, silent

# Into this directory, unless it is of this validator still.
Bring = Callable[[Path, str], Downloaded | None]


@dataclass(frozen=True)
class Means:
    """How versions are brought."""

    cache: Cache
    offline: bool = False
    rules: Rules | None = None
    progress: Progress = silent


@contextmanager
def fetched(url: str, shown: str, sha256: str, means: Means, bring: Bring) -> Iterator[Path]:
    """The file of the address, in the cache, and kept there while it is used.

    With its sha256 nobody is asked if the cache has it. What the address gave is noted once the caller is content.
    """
    cache = means.cache
    key = key_of(url)
    with clear_errors(cache), cache.partial(sha256 or key) as place, ExitStack() as stack:
        known = None if sha256 else cache.address(key)
        wanted = known.sha256 if known else sha256
        held = stack.enter_context(cache.using(wanted)) if wanted else None
        done: Downloaded | None = None
        if held is None or not (sha256 or means.offline):
            if means.offline:
                shutil.rmtree(place)
                raise not_in_cache(shown)
            done = bring(place, known.validator if known and held else "")
            if done is not None:
                wanted = _checked(done.path, shown, sha256)
                held = stack.enter_context(cache.adopt(done.path, wanted))
        try:
            if held is None:
                raise ModelError(f"{shown}: the server says that nothing changed, and was not asked")
            yield held
            if done is not None:
                cache.note(key, Address(shown, done.validator, wanted))
        finally:  # whoever waits for it comes when there is a note
            shutil.rmtree(place)


def not_in_cache(shown: str) -> ModelError:
    return ModelError(f"{shown}: is not in the cache, and nothing shall be downloaded")


@contextmanager
def clear_errors(cache: Cache) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = error.filename or cache.directory
        raise ModelError(f"{place}: cannot be written or read: {system_reason(error)}") from error


def _checked(path: Path, shown: str, sha256: str) -> str:
    """Its sha256; ModelError, and the file is gone, if it should be another one."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 and found != sha256:
        shutil.rmtree(path.parent)
        raise ModelError(f"{shown}: the file's sha256 is {found}, not {sha256}")
    return found
