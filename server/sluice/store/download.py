"""Downloads a file over HTTP into a directory of its own, in parts if large, and goes on where it was broken off.

The file is as long as the server said, and of one state of the resource: what was begun is continued only if the server
says, by the entity tag or time it gave, that the resource did not change. Nothing here knows what the file should hold.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from itertools import pairwise
from pathlib import Path
from typing import Any

from sluice import __version__
from sluice.errors import ModelError, system_reason
from sluice.store import netlogin, segments
from sluice.store.package import Progress, silent
from sluice.store.redaction import shown
from sluice.store.segments import Changed, Failed, Segment, State

_CHUNK = 1 << 20
_SAVED = 8 << 20  # bytes between two notes of how far a segment is
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


def any_size(_: int) -> None:
    return None


@dataclass(frozen=True)
class Rules:
    timeout: float = 30.0  # seconds without a byte
    attempts: int = 6  # in a row that bring nothing
    pause: float = 0.5  # seconds before the second attempt, doubled for each one after
    connections: int = 4
    parallel_from: int = 32 << 20  # bytes
    part: int = 8 << 20  # bytes asked for at a time, where there is nothing to read on from
    login: Callable[[urllib.request.Request], None] = netlogin.add  # tells the server who asks
    accept: Callable[[int], None] = any_size  # ModelError for a file of so many bytes, of which none are read then
    hint: str = "a name and password for the host are taken from ~/.netrc"


@dataclass(frozen=True)
class Downloaded:
    path: Path
    validator: str


def download(
    url: str, place: Path, validator: str = "", rules: Rules | None = None, progress: Progress = silent
) -> Downloaded | None:  # fmt: skip
    """The file at `url`, in the directory `place`; None if the server says that it is still the one of `validator`."""
    return _Download(url, place, rules or Rules(), progress).run(validator)


class _Download:
    def __init__(self, url: str, place: Path, rules: Rules, progress: Progress) -> None:
        self._url = url
        self._place = place
        self._rules = rules
        self._progress = progress
        self._opener = urllib.request.build_opener(_Redirects)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._responses: set[Any] = set()  # which are being read
        self._reported = 0
        self._state = State("")

    def run(self, validator: str) -> Downloaded | None:
        self._state = segments.load(self._place)
        if self._state.segments:
            self._rules.accept(self._state.size)
        for start in range(segments.STARTS):
            try:
                return self._whole(validator, 1 if start else self._rules.connections)
            except Changed:
                self._state = State("")
        raise ModelError(f"{shown(self._url)}: the file changes while it is downloaded; try again later")

    def _whole(self, validator: str, connections: int) -> Downloaded | None:
        self._stopped.clear()
        response: Any = None
        if not self._state.segments:
            response = self._patiently(lambda: self._open(_unless(validator)))
            if response is None:
                return None
            self._begin(response, connections)
            if not self._state.size:
                response.close()
        open_segments = [segment for segment in self._state.segments if not segment.is_done]
        with (self._place / segments.DATA).open("r+b") as file:
            if len(open_segments) <= 1:
                for segment in open_segments:
                    self._fetch(segment, file.fileno(), response)
            else:
                self._in_parallel(open_segments, file.fileno(), response)
            file.truncate(self._state.size)
            os.fsync(file.fileno())
        return Downloaded(self._place / segments.DATA, self._state.validator)

    def _begin(self, response: Any, connections: int) -> None:
        size = _length(response.headers)
        if size is None:
            response.close()
            raise ModelError(f"{shown(self._url)}: the server does not say how long the file is")
        ranges = response.headers.get("Accept-Ranges", "").strip().lower() == "bytes"
        name = _validator(response.headers)
        parts = connections if ranges and name and size >= self._rules.parallel_from else 1
        cuts = [size * part // parts for part in range(parts + 1)]
        self._state = State(name, [Segment(*cut) for cut in pairwise(cuts)])
        try:
            self._rules.accept(size)
            segments.begin(self._place, self._state)
        except ModelError:
            response.close()
            raise

    def _in_parallel(self, parts: list[Segment], file: int, first: Any) -> None:
        with ThreadPoolExecutor(self._rules.connections, thread_name_prefix="sluice-download") as pool:
            responses = [first] + [None] * (len(parts) - 1)
            tasks = [
                pool.submit(self._fetch, *each) for each in zip(parts, [file] * len(parts), responses, strict=True)
            ]
            try:
                for task in wait(tasks, return_when=FIRST_EXCEPTION).done:
                    task.result()
            except BaseException:
                self._stop()
                raise

    def _fetch(self, segment: Segment, file: int, response: Any = None) -> None:
        """Read the segment to its end, with as many attempts as bring something."""
        farthest = segment.position
        failures = 0
        while not segment.is_done and not self._stopped.is_set():
            try:
                with response or self._open(self._range(segment)) as opened, self._stoppable(opened):
                    self._start_at(segment, opened)
                    self._read(opened, segment, file)
            except (OSError, http.client.HTTPException) as error:
                if self._stopped.is_set():
                    return
                failures = 1 if segment.position > farthest else failures + 1
                farthest = max(farthest, segment.position)
                self._save()
                self._wait(error, failures)
            except BaseException:
                self._stopped.set()
                self._save()
                raise
            response = None

    @contextmanager
    def _stoppable(self, response: Any) -> Iterator[None]:
        with self._lock:
            self._responses.add(response)
        try:
            yield
        finally:
            with self._lock:
                self._responses.remove(response)

    def _stop(self) -> None:
        """End the other connections, also those that wait for a byte."""
        self._stopped.set()
        with self._lock:
            for response in self._responses:
                with suppress(OSError, ValueError), socket.socket(fileno=os.dup(response.fileno())) as connection:
                    connection.shutdown(socket.SHUT_RDWR)

    def _range(self, segment: Segment) -> dict[str, str]:
        if not self._state.validator:
            segment.done = 0
        if not segment.position and segment.end == self._state.size:
            return {}
        return {"Range": f"bytes={segment.position}-{segment.end - 1}", "If-Range": self._state.validator}

    def _start_at(self, segment: Segment, response: Any) -> None:
        """Make sure that what comes is what goes to the segment's position."""
        if response.status == HTTPStatus.PARTIAL_CONTENT:
            found = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
            if not found or int(found[1]) != segment.position or int(found[3]) != self._state.size:
                raise Changed
            if self._state.validator.startswith('"') and response.headers.get("ETag", "") != self._state.validator:
                raise Changed
        elif _length(response.headers) != self._state.size or _validator(response.headers) != self._state.validator:
            raise Changed
        elif segment.start:
            raise Changed  # the server gives no parts after all
        else:
            segment.done = 0

    def _read(self, response: Any, segment: Segment, file: int) -> None:
        unsaved = 0
        while not segment.is_done and not self._stopped.is_set():
            chunk = response.read1(min(_CHUNK, segment.end - segment.position))
            if not chunk:
                raise Failed(f"the connection ended {segment.end - segment.position} bytes early")
            try:
                segments.write(file, chunk, segment.position)
            except OSError as error:
                raise ModelError(f"{self._place}: cannot be written: {system_reason(error)}") from error
            segment.done += len(chunk)
            unsaved += len(chunk)
            self._report()
            if unsaved >= _SAVED:
                os.fdatasync(file)
                self._save()
                unsaved = 0

    def _report(self) -> None:
        with self._lock:
            done = sum(segment.done for segment in self._state.segments)
            if done > self._reported:
                self._reported = done
                self._progress("download", done, self._state.size)

    def _open(self, headers: dict[str, str]) -> Any:
        """The response, None for 304; ModelError for an answer that another attempt would not change."""
        request = urllib.request.Request(self._url)  # noqa: S310 - `sources` takes http and https only
        for name, value in headers.items():
            request.add_header(name, value)
        request.add_header("Accept-Encoding", "identity")
        request.add_header("User-Agent", f"sluice/{__version__}")
        self._rules.login(request)
        try:
            response = self._opener.open(request, timeout=self._rules.timeout)
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error)
        except urllib.error.URLError as error:
            reason = error.reason
            if isinstance(reason, ssl.SSLCertVerificationError):
                why = f"the server's certificate is not trusted: {reason.verify_message}"
                raise ModelError(f"{shown(self._url)}: {why}") from error
            if isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_NONAME:
                raise ModelError(f"{shown(self._url)}: there is no host of this name") from error
            raise Failed(system_reason(reason) if isinstance(reason, OSError) else str(reason)) from error
        except ValueError as error:
            raise ModelError(f"{shown(self._url)}: is redirected to what is no address") from error
        if response.headers.get("Content-Encoding", "identity") != "identity":
            response.close()
            raise ModelError(f"{shown(self._url)}: the server sends it encoded, though asked not to")
        return response

    def _refused(self, error: urllib.error.HTTPError) -> None:
        code = error.code
        if code == HTTPStatus.NOT_MODIFIED:
            return
        if code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise Changed
        name = http.client.responses.get(code, "")
        why = f"the server says {code} {name}".rstrip()
        if code in _TRANSIENT:
            raise Failed(why, _seconds(error.headers.get("Retry-After", "")))
        if code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            why += f"; {self._rules.hint}"
        elif 300 <= code < 400:
            why += ", and leads nowhere"
        raise ModelError(f"{shown(self._url)}: {why}")

    def _patiently(self, opened: Callable[[], Any]) -> Any:
        for failures in range(1, self._rules.attempts + 1):
            try:
                return opened()
            except (OSError, http.client.HTTPException) as error:
                self._wait(error, failures)
        raise AssertionError("_wait raises at last")

    def _wait(self, error: OSError | http.client.HTTPException, failures: int) -> None:
        """Before the next attempt, longer each time; ModelError if there were enough."""
        if failures >= self._rules.attempts:
            why = _why(error)
            raise ModelError(f"{shown(self._url)}: {why}; gave up after {failures} attempts") from error
        asked = error.retry_after if isinstance(error, Failed) else 0.0
        self._stopped.wait(segments.pause(failures, self._rules.pause, asked))

    def _save(self) -> None:
        with self._lock:
            segments.save(self._place, self._state)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows never from https to http, and takes nobody's password along."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:  # fmt: skip
        if req.type == "https" and not newurl.lower().startswith("https://"):
            raise ModelError(f"{shown(req.full_url)}: is redirected from https to http")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
        if request is not None:
            netlogin.add(request)
        return request


def _length(headers: Message) -> int | None:
    text = headers.get("Content-Length", "")
    if headers.get("Transfer-Encoding") or not (text.isascii() and text.isdigit()):
        return None
    return int(text)


def _validator(headers: Message) -> str:
    """A strong entity tag, or else the time of the last change."""
    tag: str = headers.get("ETag", "").strip()
    return tag if tag.startswith('"') else str(headers.get("Last-Modified", "")).strip()


def _unless(validator: str) -> dict[str, str]:
    """Asks for nothing if the resource is still the one of the validator."""
    if not validator:
        return {}
    return {"If-None-Match" if validator.startswith('"') else "If-Modified-Since": validator}


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _why(error: OSError | http.client.HTTPException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return system_reason(error)
    return f"the server's answer is not HTTP ({type(error).__name__})"
