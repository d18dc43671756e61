"""A Hugging Face Hub for tests, which has one model: its listing, its files, its refusals."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "a" * 40


class SmallHub(ThreadingHTTPServer):
    """Has one model, org/model, whose files are those of `directory`."""

    daemon_threads = False

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.directory = directory
        self.commit = COMMIT
        self.refusal: tuple[int, str] | None = None
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: SmallHub

    def log_message(self, format: str, *args: Any) -> None:
        return None

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, with_body: bool) -> None:
        hub = self.server
        path = self.path.partition("?")[0]
        hub.asked.append(path)
        headers = {"X-Repo-Commit": hub.commit}
        if hub.refusal:
            return self._send(hub.refusal[0], b"{}", headers | {"X-Error-Code": hub.refusal[1]}, with_body)
        if path.startswith("/api/models/org/model/tree/"):
            return self._send(200, json.dumps(self._tree()).encode(), headers, with_body)
        if path.startswith("/api/models/org/model"):
            told = {"id": "org/model", "sha": hub.commit, "siblings": [], "tags": [], "downloads": 0, "likes": 0}
            return self._send(200, json.dumps(told | {"private": False}).encode(), headers, with_body)
        found = re.fullmatch(r"/org/model/resolve/[^/]+/(.+)", path)
        file = hub.directory / found[1] if found else None
        if file is None or not file.is_file():
            return self._send(404, b"", headers | {"X-Error-Code": "RepoNotFound"}, with_body)
        content = file.read_bytes()
        return self._send(200, content, headers | {"ETag": f'"{_name(file, content)}"'}, with_body)

    def _tree(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        for path in sorted(each for each in self.server.directory.rglob("*") if each.is_file()):
            content = path.read_bytes()
            entry = {"type": "file", "path": path.relative_to(self.server.directory).as_posix(), "size": len(content)}
            entry["oid"] = hashlib.sha1(content).hexdigest()
            if path.suffix == ".safetensors":
                entry["lfs"] = {"oid": _name(path, content), "size": len(content), "pointerSize": 1}
            entries.append(entry)
        return entries

    def _send(self, code: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(code)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def _name(path: Path, content: bytes) -> str:
    kind = hashlib.sha256 if path.suffix == ".safetensors" else hashlib.sha1
    return kind(content).hexdigest()


@contextmanager
def small_hub(directory: Path) -> Iterator[SmallHub]:
    with SmallHub(directory) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
