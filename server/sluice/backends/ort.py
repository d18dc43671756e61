"""ONNX models through onnxruntime, with inputs and outputs bound to the slot's memory instead of copied.

A CPU's arena stays as onnxruntime makes it, and shrinks after a giant only. One layer of MiniLM, 1000 batches of random
shapes up to 256 tokens, processes interleaved; MiB at the end and at most, speed by CPU time (0.02 is noise):

| | MiB | most | speed |
|---|---|---|---|
| as it is, no memory pattern | 155 | 155 | 1 |
| with memory patterns | 169 | 169 | 0.98 |
| lengths rounded to 8 | 155 | 155 | 0.98 |
| grown by just what is asked (kSameAsRequested) | 246 | 246 | 0.99 |
| shrunk after each run, 16th, 64th | 127, 151, 164 | 182, 182, 164 | 0.85, 0.95, 0.98 |
| no arena | 138 | 139 | 0.94 |
| no arena, malloc never returning anything | 221 | 221 | 0.97 |

So random shapes alone do not make it grow: regions that double in size are few and are used again by every shape. What
does is a single giant: 32 rows of 512 take 1088 MiB, kept for ever. One run with shrinkage later it is 121.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from sluice.backends.base import Array, Source
from sluice.backends.high_water import HighWater
from sluice.errors import InvalidRequest, ModelError, ModelFailed, SluiceError
from sluice.spec import BYTES, NUMPY_TYPES, Port, Signature

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": BYTES,
}
_BF16 = 16  # onnx.TensorProto.BFLOAT16, which has no numpy type to stand for it
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# Whatever goes wrong is raised as well, and answered or logged by us.
_LOG_FATAL = 4


class OnnxRuntimeBackend:
    """One session of one model."""

    def __init__(self) -> None:
        self._session: Any = None
        self._datatypes: dict[str, str] = {}
        self._high_water = HighWater()
        self._trimming = False
        self._shrinking: Any = None  # the run options that make a CPU's arena give back what it does not use

    def load(self, source: Source) -> Signature:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = source.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _LOG_FATAL
        # A memory pattern is kept for every new input shape and never given back, and spinning threads steal the cores
        # that other workers compute on.
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wanted = _PROVIDERS[source.device]
        on_cpu = source.device == "cpu"
        with _readable(source, options) as path:
            try:
                self._session = onnxruntime.InferenceSession(
                    path,
                    options,
                    providers=[wanted] if on_cpu else [wanted, _PROVIDERS["cpu"]],
                    # On a CPU encoders of the BERT family run 10-14 % faster without this fusion.
                    disabled_optimizers=["SkipLayerNormFusion"] if on_cpu else [],
                )
            except Exception as error:  # onnxruntime's exceptions share no base but Exception
                why = _first_line(error).replace(path, source.path.name)
                raise ModelError(f"onnxruntime cannot load {source.path.name}: {why}") from error
        # onnxruntime falls back to the CPU without raising, so what it really uses has to be asked.
        if self._session.get_providers()[0] != wanted:
            raise ModelError(f"onnxruntime cannot use {wanted} here; it has {', '.join(self._session.get_providers())}")
        inputs = tuple(_port(value, "input") for value in self._session.get_inputs())
        outputs = tuple(_port(value, "output") for value in self._session.get_outputs() if value.type in _DATATYPES)
        if not outputs:
            raise ModelError(f"{source.path.name} has no output that is a tensor")
        if any(port.datatype == BYTES for port in inputs) and any(port.datatype == "BF16" for port in outputs):
            raise ModelError(f"{source.path.name} takes strings and gives bfloat16, which onnxruntime cannot do here")
        self._datatypes = {port.name: port.datatype for port in (*inputs, *outputs)}
        if on_cpu:  # a GPU's memory has no other use
            self._shrinking = onnxruntime.RunOptions()
            self._shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return Signature("onnxruntime_onnx", inputs, outputs)

    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None]) -> dict[str, Array]:
        fallen = self._high_water.use(sum(array.nbytes for array in inputs.values())) is not None
        options = self._shrinking if fallen or self._trimming else None
        self._trimming = False
        try:
            if any(self._datatypes[name] == BYTES for name in inputs):
                return self._run_copying(inputs, outputs, options)
            return self._run_in_place(inputs, outputs, options)
        except SluiceError:
            raise
        except Exception as error:
            if isinstance(error, InvalidArgument) or self._refuses(inputs, outputs):
                raise InvalidRequest(f"the model refuses this input: {_first_line(error)}") from error
            raise ModelFailed(f"onnxruntime: {_first_line(error)}") from error

    def _refuses(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None]) -> bool:
        """Whether a node says itself that it cannot take such values, such as a token beyond the vocabulary. Only the
        class of the error tells, and a run in place always raises RuntimeError: run it again, copying."""
        try:
            self._session.run(list(outputs), {name: self._given(name, array) for name, array in inputs.items()})
        except InvalidArgument:
            return True
        except Exception:
            return False
        return False

    def _run_in_place(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None], options: Any
    ) -> dict[str, Array]:
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, self._element_type(name), array.shape, array.ctypes.data)
        for name, place in outputs.items():
            if place is None or self._datatypes[name] == BYTES:
                binding.bind_output(name, "cpu")
            else:
                binding.bind_output(name, "cpu", 0, self._element_type(name), place.shape, place.ctypes.data)
        self._session.run_with_iobinding(binding, options)
        results: dict[str, Array] = {}
        for (name, place), value in zip(outputs.items(), binding.get_outputs(), strict=True):
            results[name] = self._fetch(name, value) if place is None or self._datatypes[name] == BYTES else place
        return results

    def _run_copying(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None], options: Any
    ) -> dict[str, Array]:
        """onnxruntime's Python interface binds no strings: a model that takes any gets and gives copies."""
        given = {name: self._given(name, array) for name, array in inputs.items()}
        results: dict[str, Array] = {}
        values = self._session.run(list(outputs), given, options)
        for (name, place), value in zip(outputs.items(), values, strict=True):
            if self._datatypes[name] == BYTES:
                results[name] = _encoded(value)
            elif place is None:
                results[name] = value
            else:
                place[...] = value
                results[name] = place
        return results

    def _given(self, name: str, array: Array) -> Any:
        if self._datatypes[name] == BYTES:
            return _strings(name, array)
        if self._datatypes[name] == "BF16":
            return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _BF16)
        return array

    def _element_type(self, name: str) -> Any:
        datatype = self._datatypes[name]
        return _BF16 if datatype == "BF16" else NUMPY_TYPES[datatype].type

    def _fetch(self, name: str, value: Any) -> Array:
        datatype = self._datatypes[name]
        if datatype == "BF16":  # .numpy() knows no such type: copy its bits
            shape = tuple(value.shape())
            bits = ctypes.string_at(value.data_ptr(), 2 * int(np.prod(shape)))
            return np.frombuffer(bits, dtype=np.uint16).reshape(shape)
        array: Array = value.numpy()
        return _encoded(array) if datatype == BYTES else array

    def trim(self) -> None:
        # Only a run makes an arena shrink: the next one does.
        self._trimming = True

    def close(self) -> None:
        self._session = self._shrinking = None


@contextmanager
def _readable(source: Source, options: Any) -> Iterator[str]:
    """The path that onnxruntime reads the graph from; what is encrypted is there in the clear, in memory only."""
    if not source.secret:
        yield str(source.path)
        return
    from sluice.backends.decrypted import decrypted

    with decrypted(source) as found:
        places, data = list(found.externals), list(found.externals.values())
        if places:  # they are copied as the session is made
            options.add_external_initializers_from_files_in_memory(places, data, [array.size for array in data])
        yield found.graph


def _port(value: Any, side: str) -> Port:
    if value.type not in _DATATYPES:
        raise ModelError(f"{side} '{value.name}' is a {value.type}, not a tensor")
    # A value without shape information reads as an empty list; a true scalar does too, and both take what comes.
    return Port(value.name, _DATATYPES[value.type], tuple(value.shape))


def _strings(name: str, array: Array) -> Array:
    try:
        decoded = [element.decode() for element in array.reshape(-1)]
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"input '{name}': an element is not UTF-8, which this model's strings are") from error
    strings = np.empty(len(decoded), dtype=object)
    strings[:] = decoded
    return strings.reshape(array.shape)


def _encoded(strings: Array) -> Array:
    encoded = np.empty(strings.size, dtype=object)
    encoded[:] = [str(element).encode() for element in strings.reshape(-1)]
    return encoded.reshape(strings.shape)


def _first_line(error: Exception) -> str:
    """What went wrong, without the trail of codes and nodes before it."""
    text = str(error).rpartition("Status Message: ")[2].strip()
    return text.splitlines()[0] if text else type(error).__name__
