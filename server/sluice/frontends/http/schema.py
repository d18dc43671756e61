"""The JSON bodies clients send, as types; what does not fit is refused with the field's path."""

from __future__ import annotations

import re
from typing import Annotated, TypeVar

import msgspec

from sluice.errors import InvalidRequest

T = TypeVar("T")

MAX_DIMENSIONS = 32

JsonParameter = bool | int | float | str
Size = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Shape = Annotated[list[Size], msgspec.Meta(max_length=MAX_DIMENSIONS)]

NOTHING = msgspec.Raw(b"")


class InputBody(msgspec.Struct, gc=False):
    name: str
    datatype: str
    shape: Shape
    parameters: dict[str, JsonParameter] = {}
    data: msgspec.Raw = NOTHING  # its type depends on `datatype`: parsed in a second step


class OutputBody(msgspec.Struct, gc=False):
    name: str
    parameters: dict[str, JsonParameter] = {}


class InferBody(msgspec.Struct, gc=False):
    inputs: list[InputBody]
    outputs: list[OutputBody] = []
    id: str = ""
    parameters: dict[str, JsonParameter] = {}


class IndexBody(msgspec.Struct):
    ready: bool = False


class LoadBody(msgspec.Struct):
    parameters: dict[str, JsonParameter] = {}


class UnloadParameters(msgspec.Struct):
    unload_dependents: bool = False


class UnloadBody(msgspec.Struct):
    parameters: UnloadParameters = msgspec.field(default_factory=UnloadParameters)


class PromoteBody(msgspec.Struct, forbid_unknown_fields=True):
    version: str | int  # a number or another alias
    by: str = ""
    reason: str = ""


class RemoveAliasBody(msgspec.Struct, forbid_unknown_fields=True):
    by: str = ""
    reason: str = ""


class RegionBody(msgspec.Struct):
    key: str
    byte_size: Size
    offset: Size = 0


INFER = msgspec.json.Decoder(InferBody)
INDEX = msgspec.json.Decoder(IndexBody)
LOAD = msgspec.json.Decoder(LoadBody)
UNLOAD = msgspec.json.Decoder(UnloadBody)
PROMOTE = msgspec.json.Decoder(PromoteBody)
REMOVE_ALIAS = msgspec.json.Decoder(RemoveAliasBody)
REGION = msgspec.json.Decoder(RegionBody)
LOG = msgspec.json.Decoder(dict[str, bool | int | str])
TRACE = msgspec.json.Decoder(dict[str, str | int | list[str] | None])

_AT = re.compile(r"(.*) - at `(?:key in )?\$(.*)`", re.DOTALL)


def decode(decoder: msgspec.json.Decoder[T], data: bytes | memoryview | msgspec.Raw, at: str = "") -> T:
    """The typed value of `data`; `at` is where it stands in the whole body."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        message, path = str(error), at
        if found := _AT.fullmatch(message):
            message, path = found[1], (at + found[2]).removeprefix(".")
        raise InvalidRequest(f"{path or 'the body'}: {message[:1].lower()}{message[1:].replace('`', '')}") from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"{at or 'the body'}: not JSON: {error}") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"{at or 'the body'}: not JSON: a string is not UTF-8") from None
    except RecursionError:
        raise InvalidRequest(f"{at or 'the body'}: nested too deeply") from None
