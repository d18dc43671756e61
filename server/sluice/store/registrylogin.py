"""Names and passwords for container registries, from the files where docker and podman keep them.

They are `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`, and podman's `auth.json`; a
file may name a helper program that knows them.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sluice.errors import ModelError, system_reason

_PATIENCE = 30.0  # seconds, for a helper program
_HELPER = re.compile(r"[\w.-]+", re.ASCII)
_REFRESH = "<token>"  # what stands for the name of one who has a token instead
_HUB = ("docker.io", "registry-1.docker.io", "index.docker.io")


@dataclass(frozen=True)
class Login:
    name: str
    password: str = field(repr=False)
    refresh: str = field(default="", repr=False)  # a token to get others with, instead of both

    @property
    def basic(self) -> str:
        """The value of the header that says so."""
        return f"Basic {base64.b64encode(f'{self.name}:{self.password}'.encode()).decode()}"


class _Auth(msgspec.Struct):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _File(msgspec.Struct):
    auths: dict[str, _Auth] = msgspec.field(default_factory=dict)
    stores: str = msgspec.field(default="", name="credsStore")
    helpers: dict[str, str] = msgspec.field(default_factory=dict, name="credHelpers")


class _Answer(msgspec.Struct):
    name: str = msgspec.field(default="", name="Username")
    secret: str = msgspec.field(default="", name="Secret")


def login(registry: str) -> Login | None:
    """Who asks this registry, as `host` or `host:port`; None for nobody in particular."""
    keys = _keys(registry)
    for path in _places():
        if not path.is_file():
            continue
        told = _read(path)
        for key in keys:
            if helper := told.helpers.get(key):
                return _ask(helper, key, path)
            if (found := _of(told.auths.get(key), path)) is not None:
                return found
        if told.stores:
            for key in keys:
                if (found := _ask(told.stores, key, path)) is not None:
                    return found
    return None


def _keys(registry: str) -> list[str]:
    """What it is called in the files."""
    if registry in _HUB:
        return ["https://index.docker.io/v1/", *_HUB]
    return [
        registry,
        f"https://{registry}",
        f"https://{registry}/",
        f"https://{registry}/v1/",
        f"https://{registry}/v2/",
    ]


def _places() -> Iterator[Path]:
    home = os.path.expanduser("~")
    if named := os.environ.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
    yield Path(os.environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker"), "config.json")
    if running := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(running, "containers", "auth.json")
    yield Path(os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config"), "containers", "auth.json")


def _read(path: Path) -> _File:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {system_reason(error)}") from error
    except msgspec.MsgspecError as error:
        raise ModelError(f"{path}: cannot be read as the configuration of docker or podman") from error


def _of(auth: _Auth | None, path: Path) -> Login | None:
    if auth is None:
        return None
    name, password = auth.username, auth.password
    if auth.auth:
        try:
            name, _, password = base64.b64decode(auth.auth, validate=True).decode().rstrip("\0").partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise ModelError(f"{path}: its auth is not base64; log in again") from error
    if not name and not auth.identitytoken:
        return None  # docker leaves an empty one where a helper knows more
    return Login(name, password, auth.identitytoken)


def _ask(helper: str, key: str, path: Path) -> Login | None:
    program = f"docker-credential-{helper}"
    if not _HELPER.fullmatch(helper):
        raise ModelError(f"{path}: names a helper {helper!r}, which no program is called")
    try:
        done = subprocess.run(
            [program, "get"], input=key, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except FileNotFoundError as error:
        raise ModelError(f"{path}: names the helper {program}, which is not installed") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise ModelError(f"{path}: the helper {program} cannot be asked: {type(error).__name__}") from error
    if done.returncode:
        return None  # it says "credentials not found", each helper in its own words
    try:
        answer = msgspec.json.decode(done.stdout, type=_Answer)
    except msgspec.MsgspecError as error:
        raise ModelError(f"{path}: the helper {program} does not answer as it should") from error
    if answer.name == _REFRESH:
        return Login("", "", answer.secret)
    return Login(answer.name, answer.secret)
