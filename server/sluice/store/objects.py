"""Reads an object store, `s3://`, `gs://` or `az://`, through fsspec: what there is of a name, and stretches of it.

Credentials are those that each store's own tools would find, in the environment and in the usual files; without any, it
is asked as anybody may. Of what the libraries say only codes are repeated, since the rest may hold what is secret.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import re
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from sluice.errors import ModelError
from sluice.store import object_errors, object_systems
from sluice.store.redaction import shown
from sluice.store.segments import Changed, Stopped

_ADDRESS = re.compile(r"([a-z0-9]+)://([A-Za-z0-9][A-Za-z0-9._-]*)(/.*)?")
_UNREADABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")


@dataclass(frozen=True)
class Address:
    scheme: str
    path: str  # bucket/name, without a slash at its end
    is_directory: bool = False  # it is written with a slash at its end, or is a whole bucket

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"

    def below(self, name: str) -> Address:
        return Address(self.scheme, f"{self.path}/{name}")


@dataclass(frozen=True)
class Object:
    """One state of an object."""

    path: str
    size: int
    validator: str  # another one for each state


def address_of(text: str) -> Address:
    """ModelError if nothing in a store can be called so."""
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    found = _ADDRESS.fullmatch(f"{scheme}://{rest}")
    if found is None or "?" in rest or "//" in rest.rstrip("/") or _UNREADABLE.search(rest):
        told = f"{scheme}://{shown(rest).rpartition('@')[2]}"
        why = f"is no address, as {scheme}://{object_systems.KINDS[scheme].container.upper()}/NAME"
        if "@" in rest:
            why += "; names and passwords do not belong into addresses"
        raise ModelError(f"{told!r}: {why}")
    path = rest.rstrip("/")
    return Address(scheme, path, path != rest or "/" not in path)


class Store:
    """The store that an address is in. Any thread may ask; `stop` ends all questions that are open."""

    def __init__(self, scheme: str, timeout: float) -> None:
        self._scheme = scheme
        self._timeout = timeout
        self._lock = threading.Lock()
        self._asked: set[concurrent.futures.Future[Any]] = set()
        self._system: Any = None
        self._is_nobody = False  # no credentials were found
        self._is_stopped = False

    def look(self, path: str) -> Object | None:
        """The object of this name, None if it is a directory; ModelError if it is neither."""
        told = self._answer("_info", path)
        return None if told["type"] == "directory" else _object(told)

    def below(self, path: str) -> dict[str, Object]:
        """Every object whose name is this one, a slash and more, by that."""
        found = {}
        for told in self._answer("_find", path, detail=True).values():
            name = told["name"].removeprefix(f"{path}/")
            only_marks = told["type"] == "directory" or not name or name.endswith("/")
            if not only_marks and name != told["name"]:
                found[name] = _object(told)
        return found

    def read(self, path: str, start: int, end: int) -> bytes:
        """A stretch of an object; Changed if it has none such."""
        options = object_systems.KINDS[self._scheme].reading
        content: bytes = self._answer("_cat_file", path, start=start, end=end, **options)
        if len(content) != end - start:
            raise Changed  # what a store cuts short ends there
        return content

    def stop(self) -> None:
        """End all that is asked, also what waits for a byte. Nothing can be asked after."""
        with self._lock:
            self._is_stopped = True
            asked = list(self._asked)
        for each in asked:
            each.cancel()

    def close(self) -> None:
        self.stop()
        with self._lock:
            system, self._system = self._system, None
        if system is not None:
            object_systems.disconnect(system)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _answer(self, method: str, path: str, **options: Any) -> Any:
        """What the library answers; where it finds no credentials it is asked again without."""
        system, is_nobody = None, self._is_nobody
        try:
            system, is_nobody = self._connected()
            return self._result(getattr(system, method)(path, **options), system.loop)
        except (Stopped, ModelError):
            raise
        except Exception as error:
            if is_nobody or not object_errors.needs_credentials(error):
                raise object_errors.told(error, self._scheme, path, is_nobody) from error
        self._become_nobody(system)
        return self._answer(method, path, **options)

    def _result(self, question: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> Any:
        with self._lock:
            if self._is_stopped:
                question.close()
                raise Stopped
            asked = asyncio.run_coroutine_threadsafe(question, loop)
            self._asked.add(asked)
        try:
            return asked.result()
        except concurrent.futures.CancelledError as error:
            raise Stopped from error
        finally:
            asked.cancel()  # if we are interrupted
            with self._lock:
                self._asked.discard(asked)

    def _connected(self) -> tuple[Any, bool]:
        with self._lock:
            if self._system is None:
                self._system = object_systems.connect(self._scheme, self._timeout, self._is_nobody)
            return self._system, self._is_nobody

    def _become_nobody(self, system: Any) -> None:
        with self._lock:
            if system is not self._system:
                return  # another thread was faster
            self._system, self._is_nobody = None, True
        if system is not None:
            object_systems.disconnect(system)


def _object(told: dict[str, Any]) -> Object:
    """Lists and answers on single objects tell the same in different words, and times to different fractions."""
    state = told.get("generation") or told.get("ETag") or told.get("etag") or ""
    time = told.get("LastModified") or told.get("last_modified") or told.get("mtime")
    changed = f" {int(time.timestamp())}" if isinstance(time, datetime) else ""
    return Object(told["name"], int(told["size"]), f"{str(state).strip(chr(34))}{changed}")
