"""Asks a container registry for manifests and blobs, as the OCI distribution specification says, with tokens it gives.

Every answer comes by `download`, so that attempts, limits and unfinished downloads are those of any other file. A
registry on this machine is spoken to over plain HTTP, every other over https.
"""

from __future__ import annotations

import http.client
import re
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from sluice import __version__
from sluice.errors import ModelError, system_reason
from sluice.store import netlogin, registrylogin
from sluice.store.download import Rules, download
from sluice.store.package import Progress, silent
from sluice.store.redaction import shown
from sluice.store.registrylogin import Login

MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_HINT = "log in with `docker login` or `podman login`, whose files are read"
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_USUAL_LIFE = 60.0  # seconds of a token that does not say
_SPARE = 10.0  # seconds before its end in which it is not used any more
_LONGEST_ANSWER = 1 << 20  # bytes of an answer that has a token

Accept = Callable[[int], None]  # ModelError for a file of so many bytes


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """What is asked with a password is answered where it was asked, or not at all."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Registry:
    """One repository of a registry."""

    def __init__(self, host: str, repository: str, rules: Rules) -> None:
        self.host = host
        self.repository = repository
        name = "registry-1.docker.io" if host == "docker.io" else host
        scheme = "http" if netlogin.is_here(name) else "https"
        self._base = f"{scheme}://{name}/v2/"
        self._rules = rules
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._login: Login | None = None
        self._challenge: dict[str, str] | None = None  # None: not asked yet
        self._token = ""
        self._good_until = 0.0
        self._lock = threading.Lock()

    def manifest(self, reference: str, place: Path, accept: Accept) -> Path:
        """What a tag or a digest stands for, if it is of a size to be accepted."""
        return self._get(f"manifests/{reference}", place, silent, accept)

    def blob(self, digest: str, place: Path, progress: Progress, accept: Accept) -> Path:
        return self._get(f"blobs/{digest}", place, progress, accept)

    def _get(self, path: str, place: Path, progress: Progress, accept: Accept) -> Path:
        if self._challenge is None:
            self._knock()
        rules = replace(self._rules, login=self._prepare, accept=accept, hint=_HINT)
        done = download(f"{self._base}{self.repository}/{path}", place, "", rules, progress)
        if done is None:
            raise ModelError(f"{self.host}: the registry says that nothing changed, and was not asked")
        return done.path

    def _prepare(self, request: urllib.request.Request) -> None:
        """The header that says who asks; a token that ends soon is renewed before."""
        request.add_header("Accept", ", ".join((*MANIFEST_TYPES, *INDEX_TYPES, "*/*")))
        with self._lock:
            if self._challenge and self._challenge["scheme"] == "bearer":
                if monotonic() >= self._good_until:
                    self._renew()
                request.add_unredirected_header("Authorization", f"Bearer {self._token}")
            elif self._challenge and self._login is not None:
                request.add_unredirected_header("Authorization", self._login.basic)

    def _knock(self) -> None:
        """Ask how the registry wants to know who asks."""
        self._challenge = {}
        status, headers, _ = self._ask(self._request(self._base))
        if status != HTTPStatus.UNAUTHORIZED:
            return
        self._login = registrylogin.login(self.host)
        scheme, _, rest = str(headers.get("WWW-Authenticate", "")).partition(" ")
        if scheme.lower() not in ("basic", "bearer"):
            raise ModelError(f"{self.host}: the registry wants a login of a kind that is not known here: {scheme!r}")
        if scheme.lower() == "basic" and self._login is None:
            raise ModelError(f"{self.host}: the registry asks for a name and password; {_HINT}")
        self._challenge = {"scheme": scheme.lower(), **dict(_PARAMETER.findall(rest))}

    def _renew(self) -> None:
        """Get a token where the registry says; without a login, as anybody."""
        assert self._challenge is not None
        realm = self._challenge.get("realm", "")
        try:
            parts = urllib.parse.urlsplit(realm)
        except ValueError as error:
            raise ModelError(f"{self.host}: the registry sends to {shown(realm)!r} for tokens: {error}") from error
        if not realm.isascii() or not realm.isprintable():
            raise ModelError(f"{self.host}: the registry sends to {shown(realm)!r} for tokens, which is no address")
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and netlogin.is_here(parts.netloc))
        if not is_safe or "@" in parts.netloc:
            raise ModelError(f"{self.host}: the registry sends to {shown(realm)!r} for tokens, which is not https")
        asked = {"scope": f"repository:{self.repository}:pull"}
        if service := self._challenge.get("service"):
            asked["service"] = service
        login = self._login
        if login is not None and login.refresh:
            form = {**asked, "grant_type": "refresh_token", "client_id": "sluice", "refresh_token": login.refresh}
            request = self._request(realm, urllib.parse.urlencode(form).encode())
        else:
            joined = "&" if parts.query else "?"
            request = self._request(f"{realm}{joined}{urllib.parse.urlencode(asked)}")
            if login is not None:
                request.add_unredirected_header("Authorization", login.basic)
        status, _, body = self._ask(request)
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise ModelError(f"{self.host}: the registry does not know this name and password; {_HINT}")
        try:
            told = msgspec.json.decode(body, type=_Token) if status == HTTPStatus.OK else _Token()
        except msgspec.MsgspecError:
            told = _Token()
        self._token = told.token or told.access_token
        if not self._token or not (self._token.isascii() and self._token.isprintable()):
            raise ModelError(f"{shown(realm)}: gives no token, but {status}")
        life = told.expires_in if told.expires_in is not None and told.expires_in > 0 else _USUAL_LIFE
        self._good_until = monotonic() + max(life - _SPARE, life / 2)

    def _request(self, url: str, body: bytes | None = None) -> urllib.request.Request:
        headers = {"User-Agent": f"sluice/{__version__}"}
        return urllib.request.Request(url, body, headers)  # noqa: S310 - http only to this machine, else https

    def _ask(self, request: urllib.request.Request) -> tuple[int, Any, bytes]:
        """A short answer: status, headers, body; more than one attempt if the server is not there or busy."""
        place = shown(request.full_url)
        why = ""
        for attempt in range(self._rules.attempts):
            if attempt:
                threading.Event().wait(self._rules.pause * 2 ** (attempt - 1))
            try:
                with self._opener.open(request, timeout=self._rules.timeout) as answer:
                    return answer.status, answer.headers, answer.read(_LONGEST_ANSWER)
            except urllib.error.HTTPError as error:
                with error:
                    if error.code < 500 and error.code != HTTPStatus.TOO_MANY_REQUESTS:
                        return error.code, error.headers, b""
                    why = f"the server says {error.code}"
            except urllib.error.URLError as error:
                if isinstance(error.reason, ssl.SSLCertVerificationError):
                    text = f"the server's certificate is not trusted: {error.reason.verify_message}"
                    raise ModelError(f"{place}: {text}") from error
                why = system_reason(error.reason) if isinstance(error.reason, OSError) else str(error.reason)
            except (OSError, http.client.HTTPException) as error:
                no_answer = isinstance(error, TimeoutError)
                why = "no answer in time" if no_answer or not isinstance(error, OSError) else system_reason(error)
        raise ModelError(f"{place}: {why}; gave up after {self._rules.attempts} attempts")
