"""Who is compared: how each server is started, what its batching is set to, and which bytes a request to it is."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.compare.environments import ROOT, SERVICES, python
from sluice.bench import bodies
from sluice.bench.address import Address
from sluice.pb import inference_pb2
from sluice.request import Tensor, encode_bytes

MODEL_NAME = "embedder"
_PATH = "/embed"

# What each peer's dynamic batching is set to unless `--tune` has searched the grid below on the machine at hand: small
# batches and short waits, because on a CPU a padded token costs as much as a real one and a batch of long texts gains
# nothing. BentoML has no waiting time; its documented knob is the latency that it may plan with.
TUNED: dict[str, dict[str, float]] = {
    "triton": {"rows": 4, "delay_ms": 1},
    "mlserver": {"rows": 4, "delay_ms": 1},
    "litserve": {"rows": 4, "delay_ms": 1},
    "bentoml": {"rows": 4, "latency_ms": 300},
    "ray": {"rows": 4, "delay_ms": 1},
}
ROWS_TRIED = (2, 4, 8, 16)
DELAYS_TRIED = (1.0, 5.0)  # ms; without any, MLServer does not batch and LitServe spins


@dataclass(frozen=True, slots=True)
class Setting:
    """What all servers of a run have in common."""

    model: Path  # the ONNX file
    workers: int
    target: float  # seconds
    folder: Path  # for logs and what is written for a server


@dataclass(frozen=True, slots=True)
class Contestant:
    """One server with one setting."""

    name: str
    peer: str
    scheme: str  # grpc or http
    batching: Mapping[str, float] | None = None
    package: str = ""
    text_as_bytes: bool = False  # a text travels as one BYTES element

    @property
    def ours(self) -> bool:
        return self.peer == "sluice"


@dataclass(frozen=True, slots=True)
class Start:
    """How to start a server, and where it will listen."""

    command: list[str]
    environment: dict[str, str]
    address: Address
    folder: Path
    patience: float = 90.0  # seconds until it has to answer
    end_patience: float = 8.0  # until it has to end; LitServe is known never to do so by itself
    ended_by_interrupt: bool = False
    metrics: str = ""  # a Prometheus page with Sluice's metrics


def contestants(tuned: Mapping[str, Mapping[str, float]] = TUNED) -> list[Contestant]:
    """Sluice, and each peer with its dynamic batching and without."""
    found = [Contestant("sluice", "sluice", "grpc", package="sluice")]
    peers = (
        ("triton", "grpc", "nvidia-pytriton", False),
        ("mlserver", "grpc", "mlserver", True),
        ("litserve", "http", "litserve", False),
        ("bentoml", "http", "bentoml", False),
        ("ray", "http", "ray", False),
    )
    for peer, scheme, package, as_bytes in peers:
        found.append(Contestant(f"{peer}-batching", peer, scheme, tuned[peer], package, as_bytes))
        found.append(Contestant(f"{peer}-single", peer, scheme, None, package, as_bytes))
    return found


def grid(peer: str, target: float) -> list[dict[str, float]]:
    """The settings of its dynamic batching that a search for the best one tries."""
    if peer == "bentoml":
        return [{"rows": rows, "latency_ms": target * 1000} for rows in ROWS_TRIED]
    return [{"rows": rows, "delay_ms": delay} for rows in ROWS_TRIED for delay in DELAYS_TRIED]


def described(contestant: Contestant, target: float) -> str:
    """Its setting in words."""
    if contestant.ours:
        return f"target latency {target * 1000:g} ms"
    if contestant.batching is None:
        return "batching off"
    words = {"rows": "at most {:g} rows", "delay_ms": "waits {:g} ms", "latency_ms": "latency limit {:g} ms"}
    return ", ".join(words[name].format(value) for name, value in contestant.batching.items())


# Starting ------------------------------------------------------------------


def start(contestant: Contestant, setting: Setting, ports: list[int]) -> Start:
    """Write what the server needs into its folder and say how it is started."""
    folder = setting.folder / contestant.name
    folder.mkdir(parents=True, exist_ok=True)
    address = Address(contestant.scheme, "127.0.0.1", ports[0])
    command, more = _COMMANDS[contestant.peer](contestant, setting, folder, ports)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("SLUICE_", "PYTHON", "VIRTUAL_"))
    }
    environment["OMP_NUM_THREADS"] = "1"
    if not contestant.ours:
        environment |= {
            "PYTHONPATH": str(SERVICES),
            "PATH": f"{python(contestant.peer).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "COMPARE_MODEL": str(setting.model),
            "COMPARE_PORT": str(ports[0]),
            "COMPARE_WORKERS": str(setting.workers),
            "COMPARE_BATCHING": json.dumps(contestant.batching),
        }
    environment |= more
    metrics = f"http://127.0.0.1:{ports[2]}/metrics" if contestant.ours else ""
    return Start(command, environment, address, folder, ended_by_interrupt=contestant.ours, metrics=metrics)


_Command = tuple[list[str], dict[str, str]]


def _sluice(_: Contestant, setting: Setting, folder: Path, ports: list[int]) -> _Command:
    """As an operator starts it, with a copy of the file that everybody runs."""
    version = folder / "models" / MODEL_NAME / "1"
    version.mkdir(parents=True, exist_ok=True)
    for copy, original in ((version / "model.onnx", setting.model), (version.parent / "model.toml", _hints(setting))):
        if not copy.exists() or copy.stat().st_size != original.stat().st_size:
            shutil.copyfile(original, copy)
    command = [sys.executable, "-m", "sluice.cli.main", "serve", "--repository", str(folder / "models")]
    command += ["--grpc-port", str(ports[0]), "--http-port", str(ports[1]), "--metrics-port", str(ports[2])]
    command += ["--workers", str(setting.workers), "--lame-duck", "0", "--target-latency", str(setting.target)]
    return command, {"PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT / "server"))}


def _hints(setting: Setting) -> Path:
    return setting.model.parents[1] / "model.toml"


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


_TRITON_CONFIG = """backend: "python"
max_batch_size: {rows}
input {{ name: "input_ids" data_type: TYPE_INT64 dims: {dims} {ragged} }}
output {{ name: "embedding" data_type: TYPE_FP32 dims: [ {output} ] }}
instance_group {{ count: {workers} kind: KIND_CPU }}
{batching}
"""


def _triton(contestant: Contestant, setting: Setting, folder: Path, ports: list[int]) -> _Command:
    """The binary inside PyTriton's wheel, with a repository of one Python model.

    Texts of different lengths share a batch only as what its documentation calls ragged input.
    """
    home = python("triton").parents[1] / f"lib/python{sys.version_info.major}.{sys.version_info.minor}"
    packages = home / "site-packages"
    triton = packages / "pytriton" / "tritonserver"
    model = folder / "models" / MODEL_NAME
    (model / "1").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(SERVICES / "triton_model.py", model / "1" / "model.py")
    shutil.copyfile(SERVICES / "embedder.py", model / "1" / "embedder.py")  # its folder is on the stub's path
    rows = int(contestant.batching["rows"]) if contestant.batching else 0
    delay = int(contestant.batching["delay_ms"] * 1000) if contestant.batching else 0
    (model / "config.pbtxt").write_text(
        _TRITON_CONFIG.format(
            rows=rows,
            dims="[ -1 ]" if rows else "[ 1, -1 ]",
            output="384" if rows else "1, 384",
            ragged="allow_ragged_batch: true" if rows else "",
            workers=setting.workers,
            batching=f"dynamic_batching {{ max_queue_delay_microseconds: {delay} }}" if rows else "",
        )
    )
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True, exist_ok=True)
    stub = triton / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    for part in (*(triton / "backends" / "python").glob("*.*"), stub / "triton_python_backend_stub"):
        _link(backend / part.name, part)
    command = [str(triton / "bin" / "tritonserver"), "--model-repository", str(folder / "models")]
    command += ["--backend-directory", str(backend.parent), "--grpc-address", "127.0.0.1"]
    command += ["--grpc-port", str(ports[0]), "--allow-http", "false", "--allow-metrics", "false"]
    libraries = [str(triton / "external_libs"), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return command, {"PYTHONPATH": str(packages), "LD_LIBRARY_PATH": os.pathsep.join(libraries)}


def _mlserver(contestant: Contestant, setting: Setting, folder: Path, ports: list[int]) -> _Command:
    model: dict[str, Any] = {"name": MODEL_NAME, "implementation": "mlserver_model.EmbedderRuntime"}
    if contestant.batching:
        model["max_batch_size"] = int(contestant.batching["rows"])
        model["max_batch_time"] = contestant.batching["delay_ms"] / 1000
    server = {
        "host": "127.0.0.1",
        "grpc_port": ports[0],
        "http_port": ports[1],
        "metrics_port": ports[2],
        "parallel_workers": setting.workers,
        "debug": False,
        "use_structured_logging": False,
    }
    (folder / "model-settings.json").write_text(json.dumps(model))
    (folder / "settings.json").write_text(json.dumps(server))
    return [str(python("mlserver").parent / "mlserver"), "start", str(folder)], {}


def _litserve(*_: Any) -> _Command:
    return [str(python("litserve")), str(SERVICES / "litserve_server.py")], {}


def _bentoml(_: Contestant, __: Setting, folder: Path, ports: list[int]) -> _Command:
    command = [str(python("bentoml").parent / "bentoml"), "serve", "bentoml_service:EmbedderService"]
    command += ["--host", "127.0.0.1", "--port", str(ports[0]), "--working-dir", str(SERVICES)]
    return command, {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(folder)}


def _ray(_: Contestant, __: Setting, folder: Path, ___: list[int]) -> _Command:
    # its sockets lie below this folder, and their paths may be no longer than 107 bytes
    more = {"COMPARE_TEMPORARY": str(folder / "r"), "RAY_USAGE_STATS_ENABLED": "0"}
    return [str(python("ray")), str(SERVICES / "ray_serve.py")], more


_COMMANDS = {
    "sluice": _sluice,
    "triton": _triton,
    "mlserver": _mlserver,
    "litserve": _litserve,
    "bentoml": _bentoml,
    "ray": _ray,
}


# Asking ----------------------------------------------------------------------


def token_ids(length: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The ids of a text of this many tokens; the same length always gives the same ones."""
    return np.random.default_rng((7, length)).integers(1000, 20000, length, dtype="<i8")


def request(contestant: Contestant, address: Address, length: int) -> bytes:
    """One text as the bytes that travel."""
    data = token_ids(length)
    if contestant.scheme == "grpc":
        if contestant.text_as_bytes:
            tensor = Tensor("input_ids", "BYTES", (1,), encode_bytes([data.tobytes()]))
        else:
            tensor = Tensor("input_ids", "INT64", (1, length), data.tobytes())
        return bodies.grpc_message(MODEL_NAME, "", [tensor])
    if contestant.peer == "bentoml" and contestant.batching:
        body, kind = json.dumps({"texts": [data.tolist()]}).encode(), "application/json"
    else:
        body, kind = data.tobytes(), "application/octet-stream"
    path = "/predict" if contestant.peer == "litserve" else _PATH
    return bodies.http_request(address.netloc, path, body, {"Content-Type": kind})


def embedding(contestant: Contestant, answer: bytes) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What an answer's bytes say; of HTTP, its body."""
    if contestant.scheme == "grpc":
        reply = inference_pb2.ModelInferResponse.FromString(answer)
        if reply.raw_output_contents:
            return np.frombuffer(reply.raw_output_contents[0], "<f4")
        return np.array(reply.outputs[0].contents.fp32_contents, "<f4")
    if contestant.peer == "bentoml" and contestant.batching:
        return np.array(json.loads(answer), "<f4").ravel()
    return np.frombuffer(answer, "<f4")
