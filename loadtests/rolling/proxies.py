"""The proxies, with the configurations that docs/proxies/ recommends; only addresses are changed to run them here."""

from __future__ import annotations

import contextlib
import getpass
import grp
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.compare.processes import free_ports
from loadtests.rolling.replicas import PATIENCE, Replica

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "proxies"
ENVOY = ROOT / ".venvs" / "envoy" / "bin" / "envoy"

_SERVER = re.compile(r"\b10\.0\.0\.(\d+)(:|, port_value: )800([01])\b")
_CHECK = re.compile(r"^( +server .* port )8000$", re.MULTILINE)
_FRONT = re.compile(r"\b0\.0\.0\.0(:|, port_value: )800([01])\b")


@dataclass(frozen=True)
class Proxy:
    """A proxy that may be installed here."""

    name: str
    example: str
    flags: tuple[str, ...] = ()  # what it wants of the servers

    def program(self) -> str | None:
        """Its path; None if it is not installed."""
        if self.name == "Envoy" and ENVOY.exists():
            return str(ENVOY)
        return shutil.which(self.name.lower(), path=None) or shutil.which(f"/usr/sbin/{self.name.lower()}")

    def command(self, program: str, config: Path) -> list[str]:
        if self.name == "HAProxy":
            return [program, "-db", "-f", str(config)]
        if self.name == "Envoy":
            quiet = ["--disable-hot-restart", "--log-level", "error", "--concurrency", "1"]
            return [program, "-c", str(config), *quiet]
        system = f"daemon off; pid {config.parent}/nginx.pid; user {getpass.getuser()} {_group()};"
        return [program, "-c", str(config), "-p", str(config.parent), "-e", "stderr", "-g", system]


HAPROXY = Proxy("HAProxy", "haproxy.cfg")
NGINX = Proxy("nginx", "nginx.conf", ("--no-listen-early",))
ENVOY_PROXY = Proxy("Envoy", "envoy.yaml")
ALL = (HAPROXY, NGINX, ENVOY_PROXY)


@dataclass(frozen=True)
class Entrance:
    """Where clients go."""

    http: str
    grpc: str
    alive: Callable[[], None] = lambda: None  # raises if nobody stands there any more


def configured(example: str, replicas: Sequence[Replica], fronts: Sequence[int]) -> str:
    """An example's text with addresses of this machine. It has two servers, so there are two replicas."""
    checks = iter(replicas)
    text = _SERVER.sub(lambda m: f"127.0.0.1{m[2]}{replicas[int(m[1]) - 1].ports[int(m[3])]}", example)
    text = _CHECK.sub(lambda m: f"{m[1]}{next(checks).ports[0]}", text)
    text = _FRONT.sub(lambda m: f"127.0.0.1{m[1]}{fronts[int(m[2])]}", text)
    if left := re.search(r"\b10\.0\.0\.\d+|\b0\.0\.0\.0", text):
        raise ValueError(f"an address that is not known here: {left[0]}")
    return text


@contextlib.contextmanager
def running(proxy: Proxy, replicas: Sequence[Replica], folder: Path) -> Iterator[Entrance]:
    """The proxy in front of the replicas, as a process of its own."""
    program = proxy.program()
    assert program is not None
    fronts = free_ports(2)
    text = configured((EXAMPLES / proxy.example).read_text(), replicas, fronts)
    if proxy is NGINX:  # where it may write; the package's folders belong to somebody else
        folders = "".join(
            f"    {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = text.replace("http {\n", f"http {{\n{folders}", 1)
    config = folder / proxy.example
    config.write_text(text)
    words = folder / f"{proxy.name}.log"
    with words.open("ab") as log:
        process = subprocess.Popen(proxy.command(program, config), stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def alive() -> None:
        if process.poll() is not None:
            raise RuntimeError(f"{proxy.name} ended: {words.read_text()[-600:]}")

    try:
        yield Entrance(f"127.0.0.1:{fronts[0]}", f"127.0.0.1:{fronts[1]}", alive)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _group() -> str:
    """The group of this process, which nginx would guess to be named like the user."""
    return grp.getgrgid(os.getgid()).gr_name
