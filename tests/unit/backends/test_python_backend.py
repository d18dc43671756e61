import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import numpy as np
import pytest

from sluice.backends.base import Array, create
from sluice.backends.base import Source as BackendSource
from sluice.backends.python import PythonBackend
from sluice.errors import ModelError, ModelFailed
from sluice.spec import DATATYPES, NUMPY_TYPES, Port, Signature

Start = Callable[..., PythonBackend]


def _signature(**outputs: str) -> Signature:
    return Signature(
        "python",
        (Port("x", "FP32", (None,)),),
        tuple(Port(name, datatype, (None,)) for name, datatype in outputs.items()),
    )


def _source(
    directory: Path, text: str, signature: Signature | None, parameters: Mapping[str, str] | None = None
) -> BackendSource:
    (directory / "model.py").write_text(text)
    return BackendSource(directory / "model.py", directory, parameters or {}, "cpu", 1, signature)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Load a model whose `run` has the given body."""
    backends: list[PythonBackend] = []

    def load(body: str, **outputs: str) -> PythonBackend:
        text = "import numpy as np\nclass Model:\n    def load(self, directory, parameters):\n        pass\n"
        text += "    def run(self, inputs):\n" + indent(dedent(body).strip(), " " * 8)
        backend = PythonBackend()
        backends.append(backend)
        backend.load(_source(tmp_path, text, _signature(**(outputs or {"y": "FP32"}))))
        return backend

    yield load
    for backend in backends:
        backend.close()


def _run(backend: PythonBackend, place: Array | None = None, name: str = "y") -> Array:
    return backend.run({"x": np.arange(3, dtype=np.float32)}, {name: place})[name]


def test_from_load_to_close(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = """
import sys
from dataclasses import dataclass
print("imported")

@dataclass
class State:
    factor: float

class Model:
    def load(self, directory, parameters):
        print("loaded")
        self.directory = directory
        self.state = State(float(parameters["factor"]))
    def run(self, inputs):
        print("ran")
        return {"y": inputs["x"] * np.float32(self.state.factor), "not wanted": None}
    def close(self):
        print("closed", self.directory.name)
import numpy as np
"""
    signature = _signature(y="FP32")
    modules, path = set(sys.modules), list(sys.path)
    backend = create("python")
    assert backend.load(_source(tmp_path, text, signature, {"factor": "3"})) is signature
    np.testing.assert_array_equal(
        backend.run({"x": np.array([1, 2], np.float32)}, {"y": None})["y"], np.array([3, 6], np.float32)
    )
    backend.close()
    backend.close()
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.split() == ["imported", "loaded", "ran", "closed", tmp_path.name]
    assert sys.path == path
    assert not [name for name in set(sys.modules) - modules if "sluice_model" in name]
    assert [file.name for file in tmp_path.iterdir()] == ["model.py"]  # no cache is left in the repository


def test_a_changed_file_is_never_taken_from_a_cache(start: Start) -> None:
    first = start("return {'y': np.full(3, 1, np.float32)}")
    second = start("return {'y': np.full(3, 2, np.float32)}")  # of the same size, in the same second
    assert (_run(first)[0], _run(second)[0]) == (1, 2)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("class Model:\n    def load(self\n", "model.py, line 2: '(' was never closed"),
        ("x = '\0'", "model.py: source code string cannot contain null bytes"),
        ("x = 1", "model.py: there is no class Model"),
        ("Model = 1", "model.py: there is no class Model"),
        ("class Model:\n    def run(self, inputs): ...", "model.py: class Model has no method load"),
        ("class Model:\n    def load(self, d, p): ...", "model.py: class Model has no method run"),
        ("import triton_python_backend_utils\nclass TritonPythonModel:\n    pass", "model.py: class TritonPythonModel"),
        ("x = 1\nimport no_such_module", "model.py, line 2: ModuleNotFoundError: No module named 'no_such_module'"),
        ("import sys\nsys.exit(3)", "model.py, line 2: SystemExit: 3"),
        (
            "class Model:\n    def load(self, d, p):\n        {}['a']\n    def run(self, i): ...",
            "line 3: KeyError: 'a'",
        ),
        ("class Model:\n    def load(self): ...\n    def run(self, i): ...", "model.py: TypeError"),
        (
            "class Model:\n    def __init__(self):\n        raise ValueError\n    load = run = print",
            "line 3: ValueError",
        ),
    ],
)
def test_a_file_that_is_no_model(tmp_path: Path, text: str, reason: str) -> None:
    modules = set(sys.modules)
    backend = PythonBackend()
    with pytest.raises(ModelError) as error:
        backend.load(_source(tmp_path, text, _signature(y="FP32")))
    backend.close()
    assert reason in error.value.message
    assert set(sys.modules) == modules


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.py: cannot be read"):
        PythonBackend().load(BackendSource(tmp_path / "model.py", tmp_path, {}, "cpu", 1, _signature(y="FP32")))


def test_a_signature_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"described in model\.toml"):
        PythonBackend().load(_source(tmp_path, "", None))


def test_what_the_model_raises_is_told_without_its_traceback(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    for raised in ("ValueError('too long')", "SystemExit(1)", "KeyError"):
        backend = start(f"raise {raised}")
        with caplog.at_level(logging.ERROR), pytest.raises(ModelFailed) as error:
            _run(backend)
        assert "Traceback" not in error.value.message
        assert "model.py" in caplog.text
        assert raised.partition("(")[0] in error.value.message
    with pytest.raises(ModelFailed, match="the model raised ValueError: too long"):
        _run(start("raise ValueError('too long')"))


def test_it_goes_on_after_a_failure(start: Start) -> None:
    backend = start("return {'y': inputs['x']} if len(inputs['x']) == 3 else 1 / 0")
    with pytest.raises(ModelFailed, match="ZeroDivisionError"):
        backend.run({"x": np.zeros(2, np.float32)}, {"y": None})
    assert _run(backend).shape == (3,)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return None", "the model returned NoneType, not a dict"),
        ("return [1]", "the model returned list, not a dict"),
        ("return {'z': 1}", "output 'y' is missing from what the model returned: z"),
        ("return {}", "output 'y' is missing from what the model returned: nothing"),
        ("return {'y': np.zeros(3, np.float64)}", "output 'y' is float64, which is not safely FP32"),
        ("return {'y': np.float64(1)}", "output 'y' is float64, which is not safely FP32"),
        ("return {'y': 'text'}", "output 'y' is <U4, which is not safely FP32"),
        ("return {'y': [[1], [2, 3]]}", "output 'y' cannot be made an array of FP32"),
        ("return {'y': None}", "output 'y' is object, which is not safely FP32"),
        ("return {'y': np.zeros((3, 1), np.float32)}", "output 'y' has the shape [3, 1] instead of [3]"),
    ],
)
def test_results_are_checked(start: Start, body: str, reason: str) -> None:
    with pytest.raises(ModelFailed) as error:
        _run(start(body), np.zeros(3, np.float32))
    assert reason in error.value.message


def test_outputs_are_written_in_place_where_there_is_a_place(start: Start) -> None:
    place = np.zeros((4, 3), np.float32)[2]
    assert _run(start("return {'y': inputs['x'] * 2}"), place) is place
    np.testing.assert_array_equal(place, [0, 2, 4])


def test_a_result_without_a_place_is_contiguous(start: Start) -> None:
    assert _run(start("return {'y': np.zeros((4, 6), np.float32).T}")).flags.c_contiguous
    assert _run(start("return {'y': np.float32(1)}")).shape == ()


@pytest.mark.parametrize(
    ("value", "datatype", "expected"),
    [
        ("[1.5, 2]", "FP32", [1.5, 2.0]),
        ("(1, 2)", "FP64", [1.0, 2.0]),
        ("3", "INT8", 3),
        ("[1, 255]", "UINT8", [1, 255]),
        ("[]", "INT64", []),
        ("[True]", "BOOL", [True]),
        ("np.array([1, 2], np.int32)", "INT64", [1, 2]),
        ("np.array([1, 2], np.float16)", "FP32", [1.0, 2.0]),
        ("np.array([1, 2], '>f4')", "FP32", [1.0, 2.0]),
        ("np.array([16256], np.uint16)", "BF16", [16256]),
        ("['a', b'\\xff\\0']", "BYTES", [b"a", b"\xff\0"]),
        ("np.array(['ä'])", "BYTES", ["ä".encode()]),
        ("np.array([b'a', 'b'], object)", "BYTES", [b"a", b"b"]),
        ("'whole'", "BYTES", b"whole"),
    ],
)
def test_what_can_safely_become_the_outputs_datatype_does(
    start: Start, value: str, datatype: str, expected: Any
) -> None:
    result = _run(start(f"return {{'y': {value}}}", y=datatype))
    assert result.tolist() == expected
    assert result.dtype == (NUMPY_TYPES.get(datatype) or np.dtype(object))


@pytest.mark.parametrize(
    ("value", "datatype"),
    [
        ("[1.5]", "INT64"),
        ("[256]", "UINT8"),
        ("[-1]", "UINT64"),
        ("[1 << 70]", "INT64"),
        ("[2]", "BOOL"),
        ("np.array([1], np.int64)", "INT32"),
        ("np.array([1], np.int64)", "FP32"),
        ("np.array([1], np.uint8)", "BF16"),
        ("[1.5]", "BF16"),
        ("[1]", "BYTES"),
        ("[None]", "BYTES"),
    ],
)
def test_what_would_change_values_is_refused(start: Start, value: str, datatype: str) -> None:
    with pytest.raises(ModelFailed, match=f"output 'y' .*{'' if datatype == 'BYTES' else datatype}"):
        _run(start(f"return {{'y': {value}}}", y=datatype))


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_every_datatype_passes_unchanged(start: Start, datatype: str) -> None:
    backend = start("return {'y': inputs['x']}", y=datatype)
    given = np.array([b"1", b""], object) if datatype == "BYTES" else np.array([1, 0], NUMPY_TYPES[datatype])
    result = backend.run({"x": given}, {"y": None})["y"]
    assert result.dtype == given.dtype
    assert result.tolist() == given.tolist()
