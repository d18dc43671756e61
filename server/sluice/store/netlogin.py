"""Names and passwords for hosts, from the file where other programs look for them: `$NETRC`, or `~/.netrc`."""

from __future__ import annotations

import base64
import ipaddress
import netrc
import os
import urllib.request
from pathlib import Path

from sluice.errors import ModelError


def add(request: urllib.request.Request) -> None:
    """Give the request its host's name and password, if there are any, and nobody can read them on the way."""
    host = _name(request.host)
    if request.type != "https" and not is_here(request.host):
        return
    path = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    if not Path(path).is_file():
        return
    try:
        login = netrc.netrc(path).authenticators(host)
    except (netrc.NetrcParseError, OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read as a netrc file") from error
    if login is not None:
        pair = base64.b64encode(f"{login[0]}:{login[2]}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {pair}")


def _name(host: str) -> str:
    """Without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def is_here(host: str) -> bool:
    """Whether it, with or without a port, is this machine."""
    host = _name(host)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
