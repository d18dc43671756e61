"""Object stores for tests: real servers of their protocols here, behind a proxy that breaks what it is told to."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self
from urllib.parse import quote, unquote, urlsplit

NODE_MODULES = Path(__file__).parents[1] / ".venvs" / "stores" / "node_modules"
BUCKET = "models"


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        return None  # clients that go away


class Proxy:
    """Passes requests on; everything about it can be set while it runs."""

    def __init__(self, target: str, certificate: tuple[Path, Path] | None = None) -> None:
        self.target = urlsplit(target).netloc
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.statuses: list[int] = []  # answered first, one per request
        self.cuts: list[int] = []  # the next stretches break off after so many bytes
        self.stalls: list[int] = []  # the next stretches say no more after so many bytes
        self.lie = 0  # added to the length of objects that are looked at
        self.before: Callable[[int], None] = lambda number: None  # is told the how many-th stretch is asked for
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._scheme = "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"{self._scheme}://localhost:{self._server.server_port}"

    @property
    def stretches(self) -> list[tuple[str, str]]:
        """The objects and ranges that were asked for."""
        return [
            (unquote(path.partition("?")[0]).rpartition("/")[2], asked)
            for method, path, headers in self.requests
            if method == "GET" and (asked := _range(headers))
        ]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def faults(self, is_stretch: bool) -> tuple[int, int | None, int | None]:
        """What is done to a request: the status that is answered, the bytes to cut after, and to stall after."""
        with self._lock:
            status = self.statuses.pop(0) if self.statuses else 0
            stall = self.stalls.pop(0) if self.stalls and is_stretch and not status else None
            cut = self.cuts.pop(0) if self.cuts and is_stretch and not status else None
            return status, cut, stall

    def wait(self) -> None:
        self._ended.wait(30)


def _range(headers: dict[str, str]) -> str:
    return headers.get("Range") or headers.get("x-ms-range") or ""


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            return None

        def do_HEAD(self) -> None:
            self._pass_on()

        def do_GET(self) -> None:
            self._pass_on()

        def _pass_on(self) -> None:
            headers = dict(self.headers)
            is_stretch = self.command == "GET" and bool(_range(headers))
            proxy.requests.append((self.command, self.path, headers))
            if is_stretch:
                proxy.before(len(proxy.stretches))
            status, cut, stall = proxy.faults(is_stretch)
            try:
                if status:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                else:
                    self._answer(headers, cut if stall is None else stall)
                if stall is not None:
                    self.wfile.flush()
                    proxy.wait()
            except (BrokenPipeError, ConnectionResetError):
                return

        def _answer(self, headers: dict[str, str], most: int | None) -> None:
            connection = http.client.HTTPConnection(proxy.target, timeout=30)
            try:
                path = re.sub(r"^http://[^/]*", "", self.path)  # as proxies are asked
                connection.request(self.command, path, headers=headers)
                response = connection.getresponse()
                body = response.read()
            finally:
                connection.close()
            self.send_response_only(response.status)
            for name, value in response.getheaders():
                if name.lower() in ("transfer-encoding", "connection", "content-length"):
                    continue
                self.send_header(name, value)
            size = int(response.headers.get("Content-Length") or len(body))
            self.send_header("Content-Length", str(size + (proxy.lie if self.command == "HEAD" else 0)))
            self.end_headers()
            self.wfile.write(body[:most])

    return Handler


class ObjectStore(Protocol):
    """A store with the bucket or container `models`."""

    scheme: str
    proxy: Proxy

    def put(self, name: str, content: bytes) -> None: ...

    def remove(self, name: str) -> None: ...

    def environment(self) -> dict[str, str]:
        """What tells programs of it."""
        ...


@contextmanager
def running(command: list[str], sign: str, environment: dict[str, str] | None = None) -> Iterator[str]:
    """A server of its own; what of its output fits `sign`, which says where it listens."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | (environment or {}),
    )
    said: list[str] = []
    found = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if not found.is_set() and (match := re.search(sign, line)):
                said.append(match[0])
                found.set()
        found.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert found.wait(60)
        assert said, f"{command} ended"
        yield said[0]
    finally:
        process.terminate()
        process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()


class S3:
    """Of moto, which believes every signature."""

    scheme = "s3"
    _signed: ClassVar = {"Authorization": "AWS4-HMAC-SHA256 Credential=AKIDFORTESTS/20260101/us-east-1/s3/aws4_request"}

    def __init__(self, url: str, proxy: Proxy) -> None:
        self.proxy = proxy
        self._url = url
        _send("POST", f"{url}/moto-api/reset")
        _send("PUT", f"{url}/{BUCKET}", headers=self._signed)

    def put(self, name: str, content: bytes, access: str = "private") -> None:
        headers = self._signed | {"x-amz-acl": access}
        _send("PUT", f"{self._url}/{BUCKET}/{quote(name)}", content, headers=headers)

    def remove(self, name: str) -> None:
        _send("DELETE", f"{self._url}/{BUCKET}/{quote(name)}", headers=self._signed)

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.proxy.url,
            "AWS_ACCESS_KEY_ID": "AKIDFORTESTS",
            "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }


def _send(
    method: str,
    url: str,
    content: bytes | None = None,
    kind: str = "application/octet-stream",
    headers: dict[str, str] | None = None,
) -> bytes:
    request = urllib.request.Request(url, content, method=method)
    request.add_header("Content-Type", kind)
    for name, value in (headers or {}).items():
        request.add_header(name, value)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as response:
        content = response.read()
    return bytes(content)


@contextmanager
def s3_server() -> Iterator[str]:
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with running(command, r"http://127\.0\.0\.1:\d+") as url:
        yield url


class Azure:
    """Of azurite, whose account and key everybody knows."""

    scheme = "az"
    _KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    def __init__(self, url: str, proxy: Proxy) -> None:
        blobs = importlib.import_module("azure.storage.blob")
        self.proxy = proxy
        self._client = blobs.BlobServiceClient.from_connection_string(self._connection(url))
        for container in self._client.list_containers():
            self._client.delete_container(container["name"])
        self._container = self._client.create_container(BUCKET)

    def put(self, name: str, content: bytes) -> None:
        self._container.upload_blob(name, content, overwrite=True)

    def remove(self, name: str) -> None:
        self._container.delete_blob(name)

    def environment(self) -> dict[str, str]:
        return {"AZURE_STORAGE_CONNECTION_STRING": self._connection(self.proxy.url)}

    def _connection(self, url: str) -> str:
        account = "devstoreaccount1"
        said = {"DefaultEndpointsProtocol": "http", "AccountName": account, "AccountKey": self._KEY}
        return "".join(f"{name}={value};" for name, value in (said | {"BlobEndpoint": f"{url}/{account}"}).items())


@contextmanager
def azure_server() -> Iterator[str]:
    command = ["node", str(NODE_MODULES / "azurite/dist/src/blob/main.js"), "--blobPort", "0", "--inMemoryPersistence"]
    command += ["--skipApiVersionCheck", "--silent", "--disableTelemetry"]
    with running(command, r"http://127\.0\.0\.1:\d+") as url:
        yield url


class Google:
    """Of an emulator that speaks the JSON API."""

    scheme = "gs"

    def __init__(self, url: str, proxy: Proxy) -> None:
        self.proxy = proxy
        self._url = url
        with suppress(urllib.error.HTTPError):  # it is there already
            _send("POST", f"{url}/storage/v1/b?project=test", json.dumps({"name": BUCKET}).encode(), "application/json")
        for name in self._names():
            self.remove(name)

    def _names(self) -> list[str]:
        listed = json.loads(_send("GET", f"{self._url}/storage/v1/b/{BUCKET}/o"))
        return [item["name"] for item in listed.get("items", [])]

    def put(self, name: str, content: bytes) -> None:
        _send(
            "POST", f"{self._url}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={quote(name, safe='')}", content
        )

    def remove(self, name: str) -> None:
        _send("DELETE", f"{self._url}/storage/v1/b/{BUCKET}/o/{quote(name, safe='')}")

    def environment(self) -> dict[str, str]:
        return {"STORAGE_EMULATOR_HOST": self.proxy.url}


@contextmanager
def google_server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:  # it does not tell which one it takes
        port = str(free.getsockname()[1])
    command = [
        sys.executable,
        "-m",
        "gcp_storage_emulator",
        "start",
        "--in-memory",
        "--host",
        "127.0.0.1",
        "--port",
        port,
    ]
    with running(command, "All services started"):
        yield f"http://127.0.0.1:{port}"


@dataclass(frozen=True)
class Kind:
    server: Callable[[], AbstractContextManager[str]]
    store: Callable[[str, Proxy], ObjectStore]
    packages: tuple[str, ...]
    file: Path | None = None


SERVERS = {
    "s3": Kind(s3_server, S3, ("s3fs", "moto", "flask")),
    "gs": Kind(google_server, Google, ("gcsfs", "gcp_storage_emulator")),
    "az": Kind(azure_server, Azure, ("adlfs", "azure.storage.blob"), NODE_MODULES / "azurite"),
}


def missing(scheme: str) -> str:
    """Why there is no such server here; "" if there is one."""
    kind = SERVERS[scheme]
    try:
        found = all(importlib.util.find_spec(package) for package in kind.packages)
    except ModuleNotFoundError:
        found = False
    if not found or (kind.file is not None and not kind.file.exists()):
        return f"what tests {scheme}:// is not installed: `make stores` does that and runs this"
    return ""
