"""A disk that is full for a while: no file of this process gets longer than is said, as none does on a full disk."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def short_disk() -> Iterator[Callable[[int | None], None]]:
    """Says how long files may be, None as they like. The write that comes so far is cut short, the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int | None) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, before if size is None else (size, before[1]))

    try:
        yield limit
    finally:
        limit(None)
