"""Triton's own clients, made for a server, and requests in their words."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from servers import Server
from tritonclient.utils import np_to_triton_dtype

MODULES: dict[str, ModuleType] = {"http": tritonclient.http, "grpc": tritonclient.grpc}
Array = np.ndarray[Any, Any]


def open_client(server: Server, protocol: str) -> Any:
    """A synchronous client; to be used in a `with`."""
    url = server.netloc if protocol == "http" else server.grpc
    return MODULES[protocol].InferenceServerClient(url)


def given(protocol: str, **arrays: Array) -> list[Any]:
    """Inputs of these names and values."""
    inputs = []
    for name, array in arrays.items():
        inputs.append(MODULES[protocol].InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def ids(protocol: str, rows: Sequence[Sequence[int]]) -> list[Any]:
    """What the tagger takes."""
    array = np.array(rows, np.int64)
    return given(protocol, input_ids=array, attention_mask=np.ones_like(array))


def wanted(protocol: str, name: str, **options: Any) -> Any:
    """An output asked for."""
    return MODULES[protocol].InferRequestedOutput(name, **options)
