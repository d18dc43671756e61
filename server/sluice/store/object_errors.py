"""What the libraries of the object stores raise, as errors of ours: final ones, and such that another attempt may mend.

They are told apart by what all of them have, a status or a kind of exception, along the chain of what caused what.
Their texts are not repeated.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from http import HTTPStatus

from sluice.errors import ModelError, system_reason
from sluice.store.object_systems import KINDS
from sluice.store.segments import Changed, Failed

_TRANSIENT = {408, 409, 425, 429, 500, 502, 503, 504}
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9.]{2,63}")
_NO_CONTAINER = {"NoSuchBucket", "ContainerNotFound"}
_NOBODY = {"NoCredentialsError", "ClientAuthenticationError", "DefaultCredentialsError"}
_CONNECTION = {
    *("HTTPClientError", "ConnectionError", "ClientError", "RequestException"),
    *("ServiceRequestError", "ServiceResponseError", "TimeoutError", "FSTimeoutError", "TransportError"),
}


def needs_credentials(error: BaseException) -> bool:
    """Whether the library found none."""
    return any(type(each).__name__ in _NOBODY and not _status(each) for each in _chain(error))


def told(error: Exception, scheme: str, path: str, is_nobody: bool) -> ModelError | Failed | Changed:
    where, kind = f"{scheme}://{path}", KINDS[scheme]
    chain = list(_chain(error))
    status = next((status for each in chain if (status := _status(each))), 0)
    code = next((code for each in chain if (code := _code(each))), "")
    if code in _NO_CONTAINER:
        return ModelError(f"{scheme}://{path.partition('/')[0]}: there is no such {kind.container}")
    if status in (401, 403) or any(isinstance(each, PermissionError) for each in chain) or _is_forbidden(error):
        who = "and no credentials were found" if is_nobody else "with the credentials that were found"
        said = f" ({code})" if code else ""
        return ModelError(f"{where}: access is denied{said}, {who}; they come from {kind.logins}")
    if status in (404, 410) or isinstance(error, FileNotFoundError):
        return ModelError(f"{where}: there is no such object, and none below it")
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return Changed()
    if status in _TRANSIENT:
        return Failed(f"the store says {status}")
    if status:
        return ModelError(f"{where}: the store says {status}{f' ({code})' if code else ''}")
    return _of_connection(chain, where) or ModelError(f"{where}: cannot be read: {type(error).__name__}")


def _of_connection(chain: list[BaseException], where: str) -> ModelError | Failed | None:
    if any(isinstance(each, ssl.SSLCertVerificationError) for each in chain):
        return ModelError(f"{where}: the store's certificate is not trusted")
    if any(isinstance(each, socket.gaierror) and each.errno == socket.EAI_NONAME for each in chain):
        return ModelError(f"{where}: there is no host of the store's name")
    if any(isinstance(each, TimeoutError) or "Timeout" in type(each).__name__ for each in chain):
        return Failed("no answer in time")
    for each in chain:
        if isinstance(each, OSError) and each.errno:
            return Failed(system_reason(each))
    names = {base.__name__ for each in chain for base in type(each).__mro__}
    return Failed("the connection failed") if names & _CONNECTION else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came from."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop(0)
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__]


def _status(error: BaseException) -> int:
    """Of HTTP: botocore has it in a table, azure and aiohttp as attributes, gcsfs as a number or a text."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    names = ("status_code", "status", *(["code"] if type(error).__name__ == "HttpError" else []))
    for name in names:
        found = getattr(error, name, None)
        if isinstance(found, int | str) and str(found).isdigit() and 100 <= int(found) < 600:
            return int(found)
    return 0


def _code(error: BaseException) -> str:
    """What the store calls it, which is a word."""
    response = getattr(error, "response", None)
    found = response.get("Error", {}).get("Code") if isinstance(response, dict) else getattr(error, "error_code", "")
    text = str(getattr(found, "value", found) or "")
    return text if _CODE.fullmatch(text) else ""


def _is_forbidden(error: BaseException) -> bool:
    return type(error) is OSError and str(error).startswith("Forbidden")  # as gcsfs has it
