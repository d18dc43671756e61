"""Programs of PyTorch become models that give what torch gives, or are refused with a reason."""

import importlib.util
import json
import tomllib
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from servers import StartServer

from sluice.cli.main import main
from sluice.store import manifest

if importlib.util.find_spec("torch") is None:
    pytest.skip("PyTorch is not installed: `make conversions` does that and runs this", allow_module_level=True)

import torch

GOLDEN = Path(__file__).parents[1] / "models" / "golden"
TOKENS = ("--input", "input_ids=INT64[batch,sequence]", "--input", "attention_mask=INT64[batch,sequence]")

# torch's own, at import and on export, which nobody here can change
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

MAKE = """
import torch

torch.manual_seed(3)


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(20, 8)
        self.last = torch.nn.Linear(8, 4)

    def forward(self, input_ids, attention_mask):
        states = self.words(input_ids)
        mask = attention_mask.unsqueeze(-1).float()
        mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        return {"embedding": self.last(mean), "states": states}


class Short(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(1, 12, 4))

    def forward(self, states):
        return states + self.table[:, : states.shape[1]]


class Pair(torch.nn.Module):
    def forward(self, left, right):
        return left + right, (left * right).sum(-1)


class Noisy(torch.nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


def encoder():
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    return Encoder(), {"attention_mask": torch.ones_like(ids), "input_ids": ids}


def short():
    return Short(), {"states": torch.randn(2, 5, 4)}, {"states": {0: "batch", 1: "sequence"}}


def pair():
    return Pair(), (torch.randn(1, 3), torch.randn(1, 3))


def filter():
    module = torch.nn.Conv1d(8, 4, 3, padding="same")
    return module, {"input": torch.randn(2, 8, 50)}, {"input": {0: "batch", 2: "time"}}


def noisy():
    return Noisy(), torch.randn(2, 3)


def fixed():
    return torch.nn.Linear(3, 2), {"input": torch.randn(2, 3)}, {"input": {0: "batch", 1: "time"}}


def wrong_axis():
    return torch.nn.Linear(3, 2), {"input": torch.randn(2, 3)}, {"input": {5: "batch"}}


def raising():
    raise RuntimeError("no weights here")


def nothing():
    return None


def numbers():
    return torch.nn.Linear(3, 2), {"input": 3}


number = 3
"""


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("make.py").write_text(MAKE, "utf-8")


def made(function: str) -> Any:
    """What a function of make.py returns."""
    spec = importlib.util.spec_from_file_location("made", "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function)()


def imported(*words: str, name: str = "m") -> Path:
    assert main(["import", *words, "--name", name, "--allow-code"]) == 0
    return Path("models") / name / "1"


def dims(version: Path) -> dict[str, list[int | str]]:
    graph = onnx.load(version / "model.onnx").graph
    return {
        port.name: [dim.dim_param or dim.dim_value for dim in port.type.tensor_type.shape.dim]
        for port in (*graph.input, *graph.output)
    }


def run(version: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_outputs()]
    return dict(zip(names, session.run(names, {name: value.numpy() for name, value in inputs.items()}), strict=True))


def assert_same(version: Path, module: Any, inputs: dict[str, Any]) -> None:
    with torch.no_grad():
        wanted = module.eval()(**inputs)
    found = run(version, inputs)
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        np.testing.assert_allclose(found[name], tensor.numpy(), rtol=1e-5, atol=1e-5)


def tokens(*shape: int) -> dict[str, Any]:
    ids = torch.randint(1, 20, shape)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


ENCODER = {
    "input_ids": ["batch", "sequence"],
    "attention_mask": ["batch", "sequence"],
    "embedding": ["batch", 4],
    "states": ["batch", "sequence", 8],
}


def by_function() -> tuple[str, ...]:
    return ("make.py:encoder",)


def by_export() -> tuple[str, ...]:
    module, inputs = made("encoder")
    examples = {name: torch.cat([tensor, tensor]) for name, tensor in inputs.items()}
    free = {name: {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")} for name in examples}
    torch.export.save(torch.export.export(module.eval(), (), examples, dynamic_shapes=free), "encoder.pt2")
    return ("encoder.pt2",)


def by_script() -> tuple[str, ...]:
    torch.jit.script(made("encoder")[0].eval()).save("encoder.pt")
    return ("encoder.pt", *TOKENS)


@pytest.mark.parametrize("write", [by_function, by_export, by_script])
def test_an_encoder_gives_what_torch_gives(write: Callable[[], tuple[str, ...]]) -> None:
    words = write()
    version = imported(*words)
    assert dims(version) == ENCODER
    module, _ = made("encoder")
    assert_same(version, module, tokens(1, 9))
    assert_same(version, module, tokens(4, 2))
    sealed = manifest.read(version)
    assert sealed is not None
    manifest.verify(version, sealed)
    assert sealed.model.producer.startswith("pytorch")


def test_a_module_is_found_by_its_name_too() -> None:
    Path("package").mkdir()
    Path("package/making.py").write_text(MAKE)
    assert dims(imported("package.making:encoder")) == ENCODER


def test_traced_programs_are_imported() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()).eval()
    torch.jit.trace(module, torch.randn(2, 3)).save("traced.pt")
    version = imported("traced.pt", "--input", "x=FP32[batch,3]")
    assert dims(version) == {"x": ["batch", 3], "output": ["batch", 4]}
    rows = torch.randn(5, 3)
    np.testing.assert_allclose(run(version, {"x": rows})["output"], module(rows).detach(), rtol=1e-5, atol=1e-6)


def test_a_file_may_be_called_as_a_module_and_have_neighbours() -> None:
    Path("json.py").write_text("from beside import encoder\n")
    Path("beside.py").write_text(MAKE)
    assert dims(imported("json.py:encoder")) == ENCODER
    assert json.dumps({}) == "{}"


def test_examples_in_order_are_named_by_the_module() -> None:
    assert dims(imported("make.py:pair")) == {
        "left": ["batch", 3], "right": ["batch", 3], "output_0": ["batch", 3], "output_1": ["batch"],
    }  # fmt: skip


def test_a_function_names_further_free_axes() -> None:
    version = imported("make.py:filter")
    assert dims(version) == {"input": ["batch", 8, "time"], "output": ["batch", 4, "time"]}
    assert run(version, {"input": torch.randn(3, 8, 7)})["output"].shape == (3, 4, 7)


def test_sizes_are_named_on_the_command_line() -> None:
    said = [word.replace("batch", "rows").replace("sequence", "text") for word in TOKENS]
    version = imported("make.py:encoder", *said)
    assert dims(version)["states"] == ["rows", "text", 8]


def test_the_longest_sequence_is_written_down() -> None:
    version = imported("make.py:short")
    assert tomllib.loads((version.parent / "model.toml").read_text("utf-8")) == {"max_length": 12}
    assert run(version, {"states": torch.randn(1, 12, 4)})["output"].shape == (1, 12, 4)


def test_the_tokenizer_comes_along() -> None:
    version = imported("make.py:encoder", "--tokenizer", str(GOLDEN / "bert-mean" / "tokenizer.json"))
    sealed = manifest.read(version)
    assert sealed is not None
    assert sealed.tokenizer == "tokenizer.json"


def test_an_imported_program_is_served(start_server: StartServer) -> None:
    imported("make.py:encoder", name="encoder")
    server = start_server(Path("models"))
    body = {"inputs": [{"name": "input_ids", "shape": [1, 3], "datatype": "INT64", "data": [5, 6, 7]}]}
    request = urllib.request.Request(f"{server.http}/v2/models/encoder/infer", json.dumps(body).encode())
    with urllib.request.urlopen(request) as reply:
        outputs = {each["name"]: each["data"] for each in json.load(reply)["outputs"]}
    module, _ = made("encoder")
    ids = torch.tensor([[5, 6, 7]])
    wanted = module.eval()(ids, torch.ones_like(ids))["embedding"].detach().numpy()[0]
    np.testing.assert_allclose(outputs["embedding"], wanted, rtol=1e-4, atol=1e-5)


def test_the_same_program_is_found_and_code_never_is(capsys: pytest.CaptureFixture[str]) -> None:
    words = by_export()
    imported(*words)
    capsys.readouterr()
    imported(*words)
    assert "nothing to do" in capsys.readouterr().out
    assert main(["import", "make.py:encoder", "--name", "m", "--allow-code"]) == 1
    assert "what code makes is only known by running it" in capsys.readouterr().err


def damaged(name: str) -> Callable[[], None]:
    def write() -> None:
        (by_export if name.endswith("2") else by_script)()
        content = Path(name).read_bytes()
        at = len(content) // 3
        Path(name).write_bytes(content[:at] + bytes(200) + content[at + 200 :])

    return write


def cut() -> None:
    by_export()
    Path("encoder.pt2").write_bytes(Path("encoder.pt2").read_bytes()[:3000])


def weights() -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), "weights.pt")


def nothing() -> None:
    return None


@pytest.mark.parametrize(
    ("write", "words", "why"),
    [
        (by_script, ("encoder.pt",), "does not say what it takes"),
        (by_script, ("encoder.pt", *TOKENS[:2]), "missing value for argument 'attention_mask'"),
        (by_script, ("encoder.pt", "--input", "input_ids=BF16[batch,3]"), "torch has no BF16"),
        (by_export, ("encoder.pt2", "--input", "other=INT64[2]"), "there is no input 'other'"),
        (by_export, ("encoder.pt2", "--input", "input_ids=INT64[batch]"), "does not fit the example"),
        (damaged("encoder.pt"), ("encoder.pt", *TOKENS), "is damaged"),
        (damaged("encoder.pt2"), ("encoder.pt2",), "is damaged"),
        (cut, ("encoder.pt2",), "was not brought here as a whole"),
        (weights, ("weights.pt",), "no program; write a function"),
        (nothing, ("make.py:missing",), "there is no function of this name"),
        (nothing, ("make.py:number",), "there is no function of this name"),
        (nothing, ("make.py:raising",), "it raised RuntimeError: no weights here"),
        (nothing, ("make.py:nothing",), "must return (module, examples)"),
        (nothing, ("make.py:numbers",), "example 'input' is int, and must be a tensor"),
        (nothing, ("make.py:wrong_axis",), "is no axis of [2, 3]"),
        (nothing, ("make.py:fixed",), "the program"),
        (nothing, ("make.py:noisy",), "differs from torch's by"),
        (nothing, ("absent_module:make",), "cannot be read: ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_imported_is_refused(
    write: Callable[[], Any], words: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write()
    capsys.readouterr()
    assert main(["import", *words, "--name", "refused", "--allow-code"]) == 1
    error = capsys.readouterr().err
    assert why in error
    assert "Traceback" not in error
    assert not Path("models/refused").exists()
