"""The keys that model files are encrypted with: 32 bytes each, from the environment or a file, found by their ids."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from sluice.errors import ModelError, system_reason

log = logging.getLogger("sluice.store")

VARIABLE = "SLUICE_MODEL_KEY"
FILE_VARIABLE = "SLUICE_MODELS__KEY_FILE"  # the setting models.key_file, for commands that read no other settings
LENGTH = 32
ID_LENGTH = 8
_LARGEST_FILE = 64 << 10
_FORM = f"a key is {LENGTH} bytes in base64 or hexadecimal, such as `openssl rand -base64 {LENGTH}` makes"
_HOW = f"set {VARIABLE}, or name a file of keys as models.key_file"


class Key:
    """One key. Its id tells it from others, says nothing of it, and is nobody's to choose."""

    __slots__ = ("_secret", "id")

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.id = hashlib.sha256(b"sluice model key id\0" + secret).hexdigest()[: 2 * ID_LENGTH]

    def __repr__(self) -> str:
        return f"Key({self.id})"

    def derive(self, salt: bytes) -> bytes:
        """The secret of one version, which its worker is given in place of the key."""
        return derive(self._secret, salt, b"sluice model version 1")


def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF of RFC 5869 with SHA-256, for the 32 bytes of a single block."""
    return hmac.digest(hmac.digest(salt, secret, "sha256"), info + b"\x01", "sha256")


class Keys:
    """All that are given. The first encrypts; every one decrypts what it encrypted."""

    def __init__(self, text: str = "", file: Path | None = None) -> None:
        """`text` is of keys with commas or spaces between them; the file has one a line, and is read when it is
        needed, again for a key that was not in it: one can be added while a server runs."""
        self._text = text
        self._file = file
        self._known: dict[str, Key] = {}
        self._warned = False

    @classmethod
    def given(cls, environment: Mapping[str, str], file: Path | None = None) -> Keys:
        """What the environment has, and then the file. A process with keys leaves none in a core dump."""
        if file is None and environment.get(FILE_VARIABLE):
            file = Path(environment[FILE_VARIABLE])
        text = environment.get(VARIABLE, "")
        if text or file:
            keep_out_of_dumps()
        return cls(text, file)

    def __repr__(self) -> str:
        return f"Keys({', '.join(self._known)})"

    def __bool__(self) -> bool:
        return bool(self._text.strip() or self._file)

    def first(self) -> Key:
        """The one to encrypt with; ModelError if there is none."""
        for key in self._all():
            return key
        raise ModelError(f"there is no key to encrypt with: {_HOW}; {_FORM}")

    def get(self, key_id: str) -> Key | None:
        if key_id not in self._known:
            for key in self._all():
                self._known[key.id] = key
                if key.id == key_id:  # what is wrong behind it matters to nobody
                    break
        return self._known.get(key_id)

    def find(self, key_id: str, shown: str) -> Key:
        """The key of this id; ModelError names the file that needs it."""
        key = self.get(key_id)
        if key is not None:
            return key
        if not self._known:
            raise ModelError(f"{shown}: is encrypted with the key {key_id}, and no key is given: {_HOW}")
        there = ", ".join(tuple(self._known))
        raise ModelError(f"{shown}: is encrypted with the key {key_id}; those given are {there}")

    def _all(self) -> Iterator[Key]:
        for number, word in enumerate(re.split(r"[\s,]+", self._text.strip()), 1):
            if word:
                yield _key(word, f"{VARIABLE}, key {number}")
        if self._file is not None:
            yield from self._in_file(self._file)

    def _in_file(self, path: Path) -> Iterator[Key]:
        place = f"models.key_file: {path}"
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                content = file.read(_LARGEST_FILE + 1)
        except OSError as error:
            if _looks_like_a_key(str(path)):
                why = "names no file, and looks like a key itself; write it into a file of its own, and name that"
                raise ModelError(f"models.key_file: {why}") from None
            raise ModelError(f"{place}: cannot be read: {system_reason(error)}") from error
        if len(content) > _LARGEST_FILE:
            raise ModelError(f"{place}: is larger than {_LARGEST_FILE} bytes; {_FORM}")
        if mode & stat.S_IROTH and not self._warned:
            self._warned = True
            log.warning("%s: everybody on this machine can read it; chmod 600 %s", place, path)
        found = False
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
            word = line.partition("#")[0].strip()
            if word:
                found = True
                yield _key(word, f"{place}, line {number}")
        if not found:
            raise ModelError(f"{place}: holds no key; {_FORM}")


NO_KEYS = Keys()


def _key(word: str, place: str) -> Key:
    """The key that a text is; the error must not tell the text."""
    if re.fullmatch(r"[0-9A-Fa-f]{64}", word):
        return Key(bytes.fromhex(word))
    try:
        secret = base64.b64decode(word.replace("-", "+").replace("_", "/") + "=" * (-len(word) % 4), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if len(secret) != LENGTH:
        raise ModelError(f"{place}: is no key; {_FORM}")
    return Key(secret)


def _looks_like_a_key(text: str) -> bool:
    """As a path it may have lost a slash or two."""
    return re.fullmatch(r"[0-9A-Fa-f]{64}|[A-Za-z0-9+/_-]{41,43}=?", text) is not None


def keep_out_of_dumps() -> None:
    """Have the kernel leave this process's memory out of core dumps, wherever they go. Unlike a process that says it
    may not be dumped at all, it can still be looked at by whoever runs it."""
    with contextlib.suppress(OSError):  # a kernel without core dumps
        Path("/proc/self/coredump_filter").write_text("0")
