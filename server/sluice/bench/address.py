"""Where a server is and which protocol it is asked in, read from one URL."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from sluice.bench.traffic import BenchError

_PORTS = {"http": 80, "https": 443, "grpc": 8001, "grpcs": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """A server's host and port, and the path before every path of its protocol."""

    scheme: str
    host: str
    port: int
    base: str = ""

    @property
    def grpc(self) -> bool:
        return self.scheme.startswith("grpc")

    @property
    def secure(self) -> bool:
        return self.scheme.endswith("s")

    @property
    def netloc(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def address(url: str) -> Address:
    """Of http://, https://, grpc:// or grpcs://; HTTP if none of them is said."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError as error:
        raise BenchError(f"url: '{url}' has no valid port") from error
    if parts.scheme not in _PORTS or not parts.hostname:
        raise BenchError(f"url: '{url}' is no address such as http://127.0.0.1:8000 or grpc://127.0.0.1:8001")
    return Address(parts.scheme, parts.hostname, port or _PORTS[parts.scheme], parts.path.rstrip("/"))
