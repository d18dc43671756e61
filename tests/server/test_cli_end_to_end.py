"""The command line as people type it, against real repositories and a real server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import graphs
import pytest
from servers import Server, end, launch

import sluice


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("good")
    graphs.tagger(repository)
    graphs.unmasked_mean(repository)
    graphs.identity(repository, "half", datatypes=("FP16",))
    graphs.identity(repository, "words", datatypes=("BYTES",))
    return repository


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("bad")
    graphs.tagger(repository)
    graphs.python_echo(repository)
    (repository / "garbage" / "1").mkdir(parents=True)
    (repository / "garbage" / "1" / "model.onnx").write_bytes(b"nothing of the kind")
    return repository


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, good: Path) -> Iterator[Server]:
    server = launch(good, tmp_path_factory.mktemp("log") / "server.log")
    yield server
    end(server)


@pytest.fixture
def sluice_command(tmp_path: Path) -> "Command":
    return Command(tmp_path)


class Command:
    """Runs `sluice` in an empty working directory, without anything of ours in the environment."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, *words: str, stdin: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
        return subprocess.run(
            [sys.executable, "-m", "sluice.cli.main", *words],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.directory,
            timeout=120,
            env={**kept, "COLUMNS": "200", **environment},
        )

    def json(self, *words: str, code: int = 0) -> Any:
        result = self(*words, "--json")
        assert result.returncode == code, result.stderr
        return json.loads(result.stdout)


def test_check_of_a_good_repository(sluice_command: Command, good: Path) -> None:
    rows = {row["name"]: row for row in sluice_command.json("check", "-r", str(good), "--workers", "1")}
    assert {name: row["ok"] for name, row in rows.items()} == dict.fromkeys(
        ("tagger", "unmasked", "half", "words"), True
    )
    assert rows["tagger"]["padding"] == "any"
    assert rows["unmasked"]["padding"] == "equal"
    assert "differs" in rows["unmasked"]["reason"]


def test_check_of_a_bad_repository(sluice_command: Command, bad: Path) -> None:
    result = sluice_command("check", "-r", str(bad), "--workers", "1")
    assert result.returncode == 1
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert " ok " in lines["tagger"]
    assert "failed" in lines["garbage"]
    assert "model.onnx" in lines["garbage"]
    assert "python_directories" in lines["echo"]


def test_check_of_one_model(sluice_command: Command, bad: Path) -> None:
    rows = sluice_command.json("check", "-r", str(bad), "--workers", "1", "tagger")
    assert [(row["name"], row["ok"]) for row in rows] == [("tagger", True)]
    rows = sluice_command.json("check", "-r", str(bad), "--workers", "1", "nothing", code=1)
    assert [(row["name"], row["ok"]) for row in rows] == [("nothing", False)]


def test_models_are_listed_unloaded_and_loaded(sluice_command: Command, server: Server) -> None:
    def states() -> dict[str, str]:
        rows = sluice_command.json("models", "list", "--url", server.http)
        return {row["name"]: row["state"] for row in rows}

    assert set(states().values()) == {"READY"}
    shown = sluice_command("models", "unload", "half", "--url", server.http)
    assert shown.returncode == 0, shown.stderr
    assert ["half", "1", "UNAVAILABLE", "unloaded"] in [line.split() for line in shown.stdout.splitlines()]
    assert states()["half"] == "UNAVAILABLE"
    listed = sluice_command("models", "list", "--ready", SLUICE_URL=server.http)
    assert "half" not in listed.stdout
    assert sluice_command("models", "load", "half", "--url", server.http).returncode == 0
    assert states()["half"] == "READY"
    missing = sluice_command("models", "load", "nothing", "--url", server.http)
    assert missing.returncode == 1
    assert "'nothing'" in missing.stderr


def test_infer_with_typed_values(sluice_command: Command, server: Server) -> None:
    answer = sluice_command.json("infer", "tagger", "-i", "input_ids=[1,2,3]", "-o", "total", "--url", server.http)
    assert (answer["model_name"], answer["model_version"]) == ("tagger", "1")
    assert answer["outputs"] == [{"name": "total", "datatype": "INT64", "shape": [1, 1], "data": [12]}]
    shown = sluice_command("infer", "tagger", "-i", "input_ids=[[1,2],[3,4]]", "--url", server.http)
    assert shown.returncode == 0
    assert "tokens  INT64  [2, 2]" in shown.stdout


def test_infer_what_json_cannot_say(sluice_command: Command, server: Server) -> None:
    half = sluice_command.json("infer", "half", "-i", "INPUT0=[[0.5,-2]]", "--url", server.http)
    assert half["outputs"][0]["data"] == [0.5, -2]
    words = sluice_command.json("infer", "words", "-i", 'INPUT0=[["grüße","x"]]', "--url", server.http)
    assert words["outputs"][0]["data"] == ["grüße", "x"]


def test_infer_from_a_file(sluice_command: Command, server: Server) -> None:
    request = {"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 2], "data": [5, 6]}]}
    result = sluice_command("infer", "tagger", "-f", "-", "--json", "--url", server.http, stdin=json.dumps(request))
    assert json.loads(result.stdout)["outputs"][0]["data"] == [10, 12]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("tagger", "-i", "nothing=[1]"), "no input 'nothing'"),
        (("tagger", "-i", 'input_ids=["a"]'), "expected int, got str"),
        (("nothing", "-i", "x=1"), "'nothing'"),
        (("tagger", "--version", "9", "-i", "input_ids=[1]"), "version 9"),
    ],
)
def test_infer_says_what_is_wrong(
    sluice_command: Command, server: Server, words: tuple[str, ...], complaint: str
) -> None:
    result = sluice_command("infer", *words, "--url", server.http)
    assert result.returncode == 1
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr


def test_no_server(sluice_command: Command, server: Server) -> None:
    for address in ("127.0.0.1:1", server.grpc):
        result = sluice_command("models", "list", "--url", f"http://{address}")
        assert result.returncode == 1
        assert address in result.stderr
        assert "Traceback" not in result.stderr


def test_version(sluice_command: Command) -> None:
    versions = sluice_command.json("version")
    assert versions["sluice"] == sluice.__version__
    assert "CPUExecutionProvider" in versions["providers"]
    assert sluice.__version__ in sluice_command("version").stdout


def test_config_shows_what_serve_would_use(sluice_command: Command) -> None:
    (sluice_command.directory / "sluice.toml").write_text("[server]\nhttp_port = 1234\ngrpc_port = 1235\n")
    result = sluice_command("config", "--http-port", "4321", "--json", SLUICE_SERVER__GRPC_PORT="5678")
    shown = json.loads(result.stdout)["server"]
    assert shown["http_port"]["value"] == 4321
    assert "--http-port" in shown["http_port"]["origin"]
    assert shown["metrics_port"]["value"] == 8002


def test_a_bad_configuration_stops_the_start(sluice_command: Command) -> None:
    (sluice_command.directory / "sluice.toml").write_text("[server]\n\nhttp_port = 123456\n")
    result = sluice_command("serve")
    assert result.returncode != 0
    assert "sluice.toml" in result.stderr
    assert "http_port" in result.stderr
    assert "3" in result.stderr
    assert "Traceback" not in result.stderr


def test_what_serve_prints_works(server: Server) -> None:
    printed = "\n".join(server.printed)
    for name in ("tagger", "unmasked", "half", "words"):
        assert name in printed
    assert server.http in printed
