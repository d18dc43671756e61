"""A web server for tests, which breaks what it is told to break."""

from __future__ import annotations

import re
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        return None  # clients that go away


class Site:
    """Serves `files`; everything else about it can be set while it runs."""

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.tag = '"one"'  # "" = none
        self.has_ranges = True
        self.says_length = True
        self.moved: dict[str, str] = {}
        self.statuses: list[tuple[int, dict[str, str]]] = []  # answered first, one per request
        self.cuts: list[int] = []  # the next answers break off after so many bytes
        self.stalls: list[int] = []  # the next answers say no more after so many bytes
        self.password = ""  # base64, which is asked for
        self.lie = 0  # added to the length
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.ended = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._base = f"http://127.0.0.1:{self._server.server_port}"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._base = f"https://localhost:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return self._base

    @property
    def ranges(self) -> list[str]:
        return [headers["Range"] for _, headers in self.requests if "Range" in headers]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            return None

        def do_GET(self) -> None:
            site.requests.append((self.path, dict(self.headers)))
            path = re.sub(r"^http://[^/]*", "", self.path).partition("?")[0]
            if site.statuses:
                self._answer(*site.statuses.pop(0))
            elif site.password and self.headers.get("Authorization") != f"Basic {site.password}":
                self._answer(401, {"WWW-Authenticate": "Basic"})
            elif path in site.moved:
                self._answer(302, {"Location": site.moved[path]})
            elif path not in site.files:
                self._answer(404, {})
            elif site.tag and self.headers.get("If-None-Match") == site.tag:
                self._answer(304, {})
            else:
                self._send(site.files[path])

        def _answer(self, code: int, headers: dict[str, str]) -> None:
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _send(self, body: bytes) -> None:
            start, end = 0, len(body)
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            is_part = asked and site.has_ranges and self.headers.get("If-Range") == site.tag
            if asked and is_part:
                start, end = int(asked[1]), int(asked[2]) + 1
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(body)}")
            else:
                self.send_response(200)
            if site.has_ranges:
                self.send_header("Accept-Ranges", "bytes")
            if site.tag:
                self.send_header("ETag", site.tag)
            if site.says_length:
                self.send_header("Content-Length", str(end - start + site.lie))
            self.end_headers()
            part = body[start:end]
            stall = site.stalls.pop(0) if site.stalls else None
            cut = site.cuts.pop(0) if site.cuts else None
            try:
                self.wfile.write(part[: stall if stall is not None else cut])
                if stall is not None:
                    self.wfile.flush()
                    site.ended.wait(30)
            except (BrokenPipeError, ConnectionResetError):
                return

    return Handler
