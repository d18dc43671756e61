"""Encrypted versions in a running server: they answer as before, and whoever has no key or damaged files is refused."""

import base64
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphs
import psutil
import pytest
from servers import Server, StartServer

from sluice.encryption.keys import VARIABLE, Key, Keys
from sluice.store.encrypting import encrypt

FIRST, SECOND, THIRD = (bytes([number]) * 32 for number in (11, 12, 13))
IDS = [[1, 2, 3, 4]]


def text(secret: bytes) -> str:
    return base64.b64encode(secret).decode()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Models that are encrypted with one key, with another, and not at all; each has weights in a file of its own."""
    models, before = tmp_path / "models", tmp_path / "before"
    for name, secret in (("first", FIRST), ("second", SECOND), ("third", THIRD), ("damaged", FIRST)):
        path = graphs.weights_apart(graphs.lookup(before, name))
        encrypt(path.parent, before, Keys(text(secret)))
        (models / name).mkdir(parents=True)
        (before / name / "2").rename(models / name / "1")
    graphs.weights_apart(graphs.lookup(models, "plain"))
    damage(models / "damaged")
    return models


def damage(model: Path) -> None:
    """In the weights, where nobody has looked before the worker reads them; without a manifest, which would tell."""
    (model / "1" / "manifest.toml").unlink(missing_ok=True)
    weights = model / "1" / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)


def answer(server: Server, name: str) -> Any:
    body = {"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 4], "data": IDS}]}
    status, found = server.request("POST", f"/v2/models/{name}/infer", body)
    return found["outputs"][0]["data"] if status == 200 else found["error"]


def reasons(server: Server) -> dict[str, str]:
    return {row["name"]: row["reason"] for row in server.request("POST", "/v2/repository/index", {})[1]}


def test_each_is_served_with_its_key_and_refused_without(
    start_server: StartServer, models: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{SECOND.hex()}\n")
    server = start_server(models, "--key-file", str(keys), environment={VARIABLE: text(FIRST)})
    expected = answer(server, "plain")
    assert len(expected) == 8
    assert answer(server, "first") == answer(server, "second") == expected
    said = reasons(server)
    assert {name for name, reason in said.items() if not reason} == {"plain", "first", "second"}
    assert f"third/1/model.onnx: is encrypted with the key {Key(THIRD).id}; those given are" in said["third"]
    assert "weights.bin: is damaged or was tampered with" in said["damaged"]

    # A key that is added to the file is found by the next load.
    keys.write_text(f"{SECOND.hex()}\n{THIRD.hex()}\n")
    assert server.request("POST", "/v2/repository/models/third/load", {})[0] == 200
    assert answer(server, "third") == expected

    # One that goes bad while it is served goes on being served as it was loaded.
    damage(models / "first")
    status, refused = server.request("POST", "/v2/repository/models/first/load", {})
    assert (status, "does not pass" in refused["error"]) == (400, True)
    assert answer(server, "first") == expected


def test_a_new_worker_decrypts_again(start_server: StartServer, models: Path) -> None:
    server = start_server(models, "--workers", "1", environment={VARIABLE: text(FIRST)})
    expected = answer(server, "first")
    (worker,) = server.workers()
    worker.kill()
    assert answer(server, "plain") == answer(server, "first") == expected
    assert server.workers() != [worker]


def test_without_keys_the_others_are_served(start_server: StartServer, models: Path) -> None:
    server = start_server(models, "--workers", "1")
    assert len(answer(server, "plain")) == 8
    for name in ("first", "second", "third", "damaged"):
        assert "no key is given: set SLUICE_MODEL_KEY, or name a file of keys" in reasons(server)[name]
        assert "no key is given" in answer(server, name)


@pytest.mark.parametrize("wrong", ["hunter2", "file"])
def test_what_is_no_key_harms_no_other_model(
    start_server: StartServer, models: Path, tmp_path: Path, wrong: str
) -> None:
    if wrong == "file":
        server = start_server(models, "--workers", "1", "--key-file", str(tmp_path / "nobody"))
        assert "nobody: cannot be read: No such file" in reasons(server)["first"]
    else:
        server = start_server(models, "--workers", "1", environment={VARIABLE: wrong})
        assert "SLUICE_MODEL_KEY, key 1: is no key" in reasons(server)["first"]
        assert wrong not in server.output()
    assert len(answer(server, "plain")) == 8


def test_neither_keys_nor_weights_show(start_server: StartServer, models: Path) -> None:
    server = start_server(models, "--log-level", "debug", environment={VARIABLE: text(FIRST)})
    assert len(answer(server, "first")) == 8
    processes = [psutil.Process(server.process.pid), *server.workers()]
    secrets = (text(FIRST), FIRST.hex(), repr(FIRST)[2:20])
    shown = [server.output(), *server.printed, *(" ".join(process.cmdline()) for process in processes)]
    shown += [str(server.request("GET", path)[1]) for path in ("/v2/models/first", "/v2/models/first/config", "/v2")]
    shown += [str(worker.environ()) for worker in processes[1:]]
    for secret in secrets:
        assert not [each for each in shown if secret in each]
    for process in processes:
        assert int(Path(f"/proc/{process.pid}/coredump_filter").read_text(), 16) == 0
        files = [os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir() if link.is_symlink()]
        assert not [file for file in files if "sluice-model" in file or "weights.bin" in file]
        assert "model.onnx" not in Path(f"/proc/{process.pid}/maps").read_text()


def in_memory(pid: int, sought: Callable[[bytes], bool]) -> bool:
    """Whether something is in a process's memory."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
            if place is None or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            start, end = (int(each, 16) for each in place.groups())
            try:
                memory.seek(start)
                if sought(memory.read(end - start)):
                    return True
            except (OSError, OverflowError, MemoryError):
                continue
    return False


def test_a_worker_is_not_told_the_key(start_server: StartServer, models: Path) -> None:
    server = start_server(models, "--workers", "1", environment={VARIABLE: text(FIRST)})
    assert len(answer(server, "first")) == 8
    (worker,) = server.workers()
    forms = (FIRST, text(FIRST).encode(), FIRST.hex().encode())
    assert in_memory(server.process.pid, lambda memory: text(FIRST).encode() in memory)
    assert not in_memory(worker.pid, lambda memory: any(form in memory for form in forms))
