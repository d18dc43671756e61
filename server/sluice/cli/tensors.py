"""Tensors as people type and read them, to and from the JSON and binary forms of the HTTP protocol."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sluice.cli.console import CommandError
from sluice.request import decode_bytes
from sluice.spec import BYTES, NUMPY_TYPES

BINARY_ONLY = frozenset({"FP16", "BF16"})  # the protocol has no JSON form for them


@dataclass(frozen=True, slots=True)
class Encoded:
    """One input's JSON, and the bytes that follow the request if it has no JSON form."""

    document: dict[str, Any]
    binary: bytes = b""


def encode(name: str, text: str, metadata: Mapping[str, Any]) -> Encoded:
    """What was typed for an input, as its metadata wants it: datatype, and leading axes that were left out."""
    datatype = str(metadata["datatype"])
    value = _parse(name, text, datatype)
    shape = _shape(name, value)
    expected = metadata["shape"]
    missing = expected[: max(0, len(expected) - len(shape))]
    if all(size in (-1, 1) for size in missing):
        shape = (1,) * len(missing) + shape
    document = {"name": name, "datatype": datatype, "shape": list(shape)}
    elements = list(_flatten(value))
    if datatype not in BINARY_ONLY:
        return Encoded({**document, "data": elements})
    binary = _to_half(name, elements, datatype)
    return Encoded({**document, "parameters": {"binary_data_size": len(binary)}}, binary)


def decode(outputs: list[dict[str, Any]], binary: bytes) -> list[dict[str, Any]]:
    """The outputs with all their data as JSON has it."""
    decoded, at = [], 0
    for output in outputs:
        parameters = dict(output.get("parameters") or {})
        size = parameters.pop("binary_data_size", None)
        plain = {key: value for key, value in output.items() if key != "parameters"}
        if parameters:
            plain["parameters"] = parameters
        if size is not None:
            plain["data"] = _from_binary(str(output["name"]), str(output["datatype"]), binary[at : at + size])
            at += size
        decoded.append(plain)
    return decoded


def readable(output: Mapping[str, Any]) -> str:
    """One output for people: name, datatype and shape, then its elements, shortened if there are many."""
    kind = object if output["datatype"] == BYTES else None
    elements = np.array(list(_flatten(output["data"])), dtype=kind)
    array = elements.reshape(output["shape"])
    text = np.array2string(array, threshold=24, edgeitems=3, precision=6, separator=", ", max_line_width=100)
    return f"{output['name']}  {output['datatype']}  {output['shape']}\n{text}"


def _parse(name: str, text: str, datatype: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        if datatype == BYTES:
            return text
        raise CommandError(f"--input {name}: not JSON: {error}", f"such as --input '{name}=[[1, 2, 3]]'") from error
    return value if datatype != BYTES or isinstance(value, str | list) else text


def _shape(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        return ()
    shapes = {_shape(name, item) for item in value}
    if len(shapes) > 1:
        raise CommandError(f"--input {name}: its rows differ in length", "send rows of different lengths one by one")
    return (len(value), *(shapes.pop() if shapes else ()))


def _flatten(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _flatten(item)
    else:
        yield value


def _to_half(name: str, elements: list[Any], datatype: str) -> bytes:
    try:
        with np.errstate(over="ignore"):
            values = np.array(elements, dtype="<f4")
            if datatype == "FP16":
                return values.astype("<f2").tobytes()
    except (ValueError, TypeError) as error:
        raise CommandError(f"--input {name}: {datatype} takes numbers") from error
    bits = values.view("<u4")
    nearest_even = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    halves: bytes = ((bits + nearest_even) >> np.uint32(16)).astype("<u2").tobytes()
    return halves


def _from_binary(name: str, datatype: str, data: bytes) -> list[Any]:
    if datatype == BYTES:
        return [element.decode(errors="replace") for element in decode_bytes(data, name)]
    values = np.frombuffer(data, dtype=NUMPY_TYPES[datatype])
    if datatype == "BF16":
        values = (values.astype("<u4") << np.uint32(16)).view("<f4")
    elements: list[Any] = values.tolist()
    return elements
