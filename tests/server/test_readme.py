"""The README's commands, run as they stand (only the ports are the test's)."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import texts
from servers import Server, end, launch

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MINILM = ROOT / "models" / "minilm"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory as `make serve` leaves it: the demo model, and a `.venv` to type."""
    from sluice.convert.demo import demo_source
    from sluice.convert.importer import import_directory

    directory = tmp_path_factory.mktemp("readme")
    if MINILM.exists():
        shutil.copytree(MINILM, directory / "models" / "minilm")
    else:
        import_directory(demo_source(), directory / "models", "minilm")
    texts.reranker(directory / "models")
    (directory / ".venv").symlink_to(sys.prefix)
    return directory


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[Server]:
    server = launch(directory / "models", directory / "server.log")
    yield server
    end(server)


def adapted(text: str, server: Server) -> str:
    return text.replace("http://127.0.0.1:8000", server.http).replace("127.0.0.1:8001", server.grpc)


@pytest.mark.parametrize("command", blocks("sh"), ids=lambda command: command.split("\n")[0][:40])
def test_shell_commands(command: str, server: Server, directory: Path) -> None:
    environment = {**os.environ, "SLUICE_URL": server.http}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", adapted(command, server)],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not command.startswith("curl") or done.stdout
    assert '"error"' not in done.stdout
    for part in ANSWERS.get(command.split()[2].removeprefix("http://127.0.0.1:8000"), ()):
        assert part in done.stdout


ANSWERS = {
    "/v2/models/minilm/infer": ['"model_name":"minilm"'],
    "/v1/embeddings": ['"object":"list"', '"model":"minilm"'],
    "/embed": ["[["],
    "/v1/rerank": ['"relevance_score":', '"model_id":"minilm"'],
}

# What the Python examples print.
PRINTED = {
    'InferInput("input_ids"': "(1, 384)",
    "openai": "2 384 17",
    "huggingface_hub": "(1, 384)\nTrue",
    'InferInput("text"': "(2, 384)",
}


@pytest.mark.parametrize("client", PRINTED)
def test_python_clients(client: str, server: Server, directory: Path) -> None:
    (script,) = [block for block in blocks("python") if client in block and "kserve" not in block]
    done = subprocess.run(
        [sys.executable, "-c", adapted(script, server)], cwd=directory, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == PRINTED[client]


def test_the_python_model_serves(directory: Path, tmp_path: Path) -> None:
    (model,) = [block for block in blocks("python") if "class Model" in block]
    home = tmp_path / "models" / "double"
    (home / "1").mkdir(parents=True)
    (home / "1" / "model.py").write_text(model)
    (tensors,) = [block for block in blocks("toml") if "datatype" in block]
    (home / "model.toml").write_text(tensors)
    server = launch(tmp_path / "models", tmp_path / "log", "--python-directory", str(tmp_path / "models"))
    try:
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 21]}]}
        status, reply = server.request("POST", "/v2/models/double/infer", body)
        assert (status, reply["outputs"][0]["data"]) == (200, [2, 4, 42])
    finally:
        end(server)


def test_the_model_settings_of_the_example_are_valid(tmp_path: Path) -> None:
    from sluice.store import toml

    (example,) = [block for block in blocks("toml") if "max_length" in block]
    (tmp_path / "model.toml").write_text(example)
    assert toml.read(tmp_path / "model.toml")["max_length"] == 512


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+)\b", " ".join(blocks("console")))) <= targets


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "server" / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
