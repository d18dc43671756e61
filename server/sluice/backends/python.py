"""A user's own Python class as a model: `model.py` with a class `Model` that has `load` and `run`.

The file is run under a private module name and its directory is not put on the module path. What it prints goes to
standard error, what it raises becomes our error with the traceback in the log, and what it returns is checked before a
client sees it.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import logging
import sys
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any
from uuid import uuid4

import numpy as np

from sluice.backends.base import Array, Source
from sluice.errors import ModelError, ModelFailed
from sluice.spec import BYTES, NUMPY_TYPES, Signature

_log = logging.getLogger(__name__)

# A model that leaves the interpreter must not take the worker with it.
_RAISED = (Exception, SystemExit)


class PythonBackend:
    """One instance of one user's `Model`."""

    def __init__(self) -> None:
        self._module: ModuleType | None = None
        self._model: Any = None
        self._datatypes: dict[str, str] = {}

    def load(self, source: Source) -> Signature:
        if source.signature is None:
            raise ModelError(f"{source.path.name}: a Python model's inputs and outputs are described in model.toml")
        _check_source(source.path)
        self._datatypes = {port.name: port.datatype for port in source.signature.outputs}
        with contextlib.redirect_stdout(sys.stderr):
            self._module = _execute(source.path)
            model = _model_class(self._module, source.path.name)
            try:
                self._model = model()
                self._model.load(source.directory, dict(source.parameters))
            except _RAISED as error:
                _log.exception("%s: Model.load raised", source.path)
                self._model = None
                raise ModelError(f"{_place(error, source.path)}: {_described(error)}") from error
        return source.signature

    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None]) -> dict[str, Array]:
        with contextlib.redirect_stdout(sys.stderr):
            try:
                results = self._model.run(dict(inputs))
            except _RAISED as error:
                _log.exception("Model.run raised")
                raise ModelFailed(f"the model raised {_described(error)}") from error
        if not isinstance(results, Mapping):
            raise ModelFailed(f"the model returned {type(results).__name__}, not a dict of its outputs")
        answer: dict[str, Array] = {}
        for name, place in outputs.items():
            if name not in results:
                there = ", ".join(map(str, results)) or "nothing"
                raise ModelFailed(f"output '{name}' is missing from what the model returned: {there}")
            answer[name] = _deliver(name, _converted(name, results[name], self._datatypes[name]), place)
        return answer

    def close(self) -> None:
        model, self._model = self._model, None
        module, self._module = self._module, None
        close = getattr(model, "close", None)
        if callable(close):
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    close()
            except _RAISED:
                _log.exception("Model.close raised")
        if module is not None:
            sys.modules.pop(module.__name__, None)


class _FreshLoader(SourceFileLoader):
    """Always compiles the source: no cache is written into a repository, and none that is stale is read."""

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


def _check_source(path: Path) -> None:
    """Tell what can be told without running it: a Triton model would only fail at importing Triton's own module."""
    try:
        tree = ast.parse(path.read_bytes(), path.name)
    except SyntaxError as error:
        place = f"{path.name}, line {error.lineno}" if error.lineno else path.name
        raise ModelError(f"{place}: {error.msg}") from error
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise ModelError(f"{path.name}: cannot be read: {error}") from error
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    if "TritonPythonModel" in classes and "Model" not in classes:
        raise ModelError(
            f"{path.name}: class TritonPythonModel belongs to Triton's Python backend, which is not available here; "
            "write a class Model with load(directory, parameters) and run(inputs)"
        )


def _execute(path: Path) -> ModuleType:
    name = f"_sluice_model_{uuid4().hex}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_FreshLoader(name, str(path)))
    if spec is None or spec.loader is None:
        raise ModelError(f"{path.name}: is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    try:
        spec.loader.exec_module(module)
    except _RAISED as error:
        del sys.modules[name]
        _log.exception("%s raised while it was imported", path)
        raise ModelError(f"{_place(error, path)}: {_described(error)}") from error
    return module


def _model_class(module: ModuleType, file: str) -> Any:
    model = getattr(module, "Model", None)
    if not isinstance(model, type):
        raise ModelError(f"{file}: there is no class Model")
    for method in ("load", "run"):
        if not callable(getattr(model, method, None)):
            raise ModelError(f"{file}: class Model has no method {method}")
    return model


def _place(error: BaseException, path: Path) -> str:
    """The file, with the line in it that the error came through last."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{path.name}, line {line}" if line else path.name


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _converted(name: str, value: Any, datatype: str) -> Array:
    """The result as an array of the output's datatype; a cast that could change values is refused."""
    try:
        if datatype == BYTES:
            return _bytes(name, value)
        expected = NUMPY_TYPES[datatype]
        array = np.asarray(value)
        if array.dtype == expected:
            return array
        plain = isinstance(value, list | tuple | int | float) and not isinstance(value, np.generic)
        if _castable(array, expected, plain) and (plain or datatype != "BF16"):
            return array.astype(expected)
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelFailed(f"output '{name}' cannot be made an array of {datatype}: {error}") from error
    raise ModelFailed(f"output '{name}' is {array.dtype}, which is not safely {datatype} ({expected})")


def _castable(array: Array, expected: np.dtype[Any], plain: bool) -> bool:
    """`plain`: Python's own numbers, which have a kind but no width, so that their values decide."""
    if not plain:
        return np.can_cast(array.dtype, expected, "safe")
    if array.dtype.kind in "iu" and expected.kind in "iu":
        return bool(np.array_equal(array, array.astype(expected)))
    return array.size == 0 or np.can_cast(array.dtype, expected, "same_kind")


def _bytes(name: str, value: Any) -> Array:
    array = value.astype(object) if isinstance(value, np.ndarray) else np.array(value, dtype=object)
    encoded = np.empty(array.size, dtype=object)
    for index, element in enumerate(array.reshape(-1)):
        if not isinstance(element, bytes | str):
            raise ModelFailed(f"output '{name}' has an element of {type(element).__name__}, not bytes or str")
        encoded[index] = element.encode() if isinstance(element, str) else element
    return encoded.reshape(array.shape)


def _deliver(name: str, array: Array, place: Array | None) -> Array:
    if place is None:
        return np.ascontiguousarray(array).reshape(array.shape)
    if array.shape != place.shape:
        raise ModelFailed(f"output '{name}' has the shape {list(array.shape)} instead of {list(place.shape)}")
    if array is not place:
        place[...] = array
    return place
