"""A small HTTP client for a running server; whatever goes wrong becomes one clear CommandError."""

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import typer

from sluice.cli.console import CommandError

Url = Annotated[str, typer.Option("--url", envvar="SLUICE_URL", help="Address of a running server's HTTP port.")]
DEFAULT_URL = "http://127.0.0.1:8000"
_JSON_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply's JSON and the binary part that follows it."""

    json: Any
    binary: bytes
    status: int = 200


class Client:
    """One request per connection: a command line has no use for more."""

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError as error:
            raise CommandError(f"--url: '{url}' has no valid port") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CommandError(f"--url: '{url}' is no HTTP address", f"such as {DEFAULT_URL}")
        self._url = url
        self._host, self._port = parts.hostname, port
        self._connection = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._base = parts.path.rstrip("/")
        self._timeout = timeout

    def get(self, path: str, accept: int = 200) -> Reply:
        """`accept` is a status that says something instead of being an error."""
        return self._call("GET", path, None, {}, accept)

    def post(self, path: str, document: Any, binary: bytes = b"") -> Reply:
        """The document as JSON, then the binary part that it describes."""
        head = json.dumps(document).encode()
        headers = {"Content-Type": "application/octet-stream" if binary else "application/json"}
        if binary:
            headers[_JSON_LENGTH] = str(len(head))
        return self._call("POST", path, head + binary, headers)

    def delete(self, path: str, document: Any) -> Reply:
        """What is said about it goes along as JSON."""
        return self._call("DELETE", path, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _call(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], accept: int = 200) -> Reply:
        connection = self._connection(self._host, self._port, timeout=self._timeout)
        try:
            connection.request(method, f"{self._base}/{path}", body, dict(headers))
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()
        length = response.getheader(_JSON_LENGTH, "")
        end = int(length) if length.isdecimal() else len(content)
        if response.status >= 400 and response.status != accept:
            raise CommandError(*_refusal(response.status, content))
        try:
            document = json.loads(content[:end]) if content.strip() else None
        except ValueError as error:
            raise CommandError(
                f"{self._url} answered something that is not JSON", "is this a Sluice server?"
            ) from error
        return Reply(document, content[end:], response.status)

    def _unreachable(self, error: Exception) -> CommandError:
        start = "start one with `sluice serve`, or give its address with --url"
        if isinstance(error, ConnectionRefusedError):
            return CommandError(f"no server at {self._url} (connection refused)", start)
        if isinstance(error, socket.gaierror):
            return CommandError(f"no such host: '{self._host}'", "check --url")
        if isinstance(error, TimeoutError):
            return CommandError(f"{self._url} did not answer within {self._timeout:g} s", "wait longer with --timeout")
        if isinstance(error, http.client.HTTPException):
            return CommandError(f"{self._url} does not speak HTTP", "give the HTTP port, not the gRPC one")
        return CommandError(f"{self._url}: {error}", start)


def model_path(name: str, version: str = "") -> str:
    path = f"v2/models/{quote(name, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def _refusal(status: int, content: bytes) -> tuple[str, str]:
    try:
        message = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        message = content.decode(errors="replace").strip()[:200] or http.client.responses.get(status, "refused")
    hint = "`sluice models list` shows what is served; is the URL that of the HTTP port?" if status == 404 else ""
    return f"{message} (HTTP {status})", hint
