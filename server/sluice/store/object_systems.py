"""The libraries that know the object stores, and how each of them is set up."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sluice.errors import ModelError

_GRACE = 5.0  # seconds to close connections


@dataclass(frozen=True)
class Kind:
    module: str
    name: str  # of the class in it
    container: str  # what holds the objects
    logins: str  # where credentials are looked for
    options: Callable[[float, bool], dict[str, Any]]  # of the class, by timeout and whether nobody asks
    reading: Mapping[str, Any] = field(default_factory=dict)  # options when a stretch is read
    place: str = ""  # of the class, if it is not in the module itself


def connect(scheme: str, timeout: float, is_nobody: bool) -> Any:
    """A file system of fsspec's; ModelError if its package is not installed."""
    kind = KINDS[scheme]
    try:
        library = importlib.import_module(kind.place or kind.module)
    except ModuleNotFoundError as error:
        package = (error.name or kind.module).partition(".")[0]
        raise ModelError(
            f"{scheme}:// needs the package '{package}', which is not installed; pip install 'sluice[{scheme}]'"
        ) from error
    for logger in (kind.module, "azure"):  # errors are ours to tell, once and without what may be secret
        logging.getLogger(logger).setLevel(logging.CRITICAL + 1)
    options = {"skip_instance_cache": True, "use_listings_cache": False} | kind.options(timeout, is_nobody)
    return _impatient(getattr(library, kind.name)(**options))


def disconnect(system: Any) -> None:
    """Close the file system's connections."""
    for name in ("_s3", "_session", "service_client"):
        client = getattr(system, name, None)
        if client is not None:
            with suppress(Exception):  # what cannot be closed ends with the process
                asyncio.run_coroutine_threadsafe(client.close(), system.loop).result(_GRACE)


def _impatient(system: Any) -> Any:
    """Every library tries again by rules of its own, some for minutes; instead `parts` decides that for all."""
    system.retries = 1
    once = getattr(getattr(type(system), "_request", None), "__wrapped__", None)
    if once is not None:
        system._request = types.MethodType(once, system)
    with suppress(AttributeError):
        system.service_client._config.retry_policy.total_retries = 0
    return system


def _s3(timeout: float, is_nobody: bool) -> dict[str, Any]:
    """Endpoint, region, profile and keys come from where botocore looks for them."""
    patience = {"connect_timeout": timeout, "read_timeout": timeout, "retries": {"total_max_attempts": 1}}
    return {"anon": is_nobody, "config_kwargs": patience}


def _gs(timeout: float, is_nobody: bool) -> dict[str, Any]:
    """Of an emulator everybody may ask everything."""
    from aiohttp import ClientTimeout

    is_nobody = is_nobody or bool(os.environ.get("STORAGE_EMULATOR_HOST"))
    return {
        "token": "anon" if is_nobody else "google_default",
        "access": "read_only",
        "requests_timeout": ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout),
        "session_kwargs": {"trust_env": True},
    }


def _az(timeout: float, is_nobody: bool) -> dict[str, Any]:
    """Names and keys are read from the environment; without a key azure-identity looks for one."""
    if not any(os.environ.get(f"AZURE_STORAGE_{name}") for name in ("ACCOUNT_NAME", "CONNECTION_STRING")):
        why = "set AZURE_STORAGE_ACCOUNT_NAME or AZURE_STORAGE_CONNECTION_STRING"
        raise ModelError(f"az:// does not tell the account; {why}")
    return {"anon": is_nobody, "connection_timeout": timeout, "read_timeout": timeout}


KINDS = {
    "s3": Kind(
        "s3fs",
        "S3FileSystem",
        "bucket",
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE and ~/.aws",
        _s3,
    ),
    "gs": Kind(
        "gcsfs",
        "GCSFileSystem",
        "bucket",
        "GOOGLE_APPLICATION_CREDENTIALS and `gcloud auth application-default login`",
        _gs,
        {"concurrency": 1},
        "gcsfs.core",  # the module itself has one that asks more of the store than files need
    ),
    "az": Kind(
        "adlfs",
        "AzureBlobFileSystem",
        "container",
        "AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN and `az login`",
        _az,
        {"max_concurrency": 1},
    ),
}
SCHEMES = tuple(KINDS)
