"""Commands that need no running server, and how every command reports errors."""

import json
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sluice.cli.main import main
from sluice.config.fields import fields
from sluice.config.reference import reference
from sluice.config.settings import Settings
from sluice.errors import ModelError


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for variable in ("SLUICE_CONFIG", "SLUICE_URL"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def test_config_prints_a_file_that_means_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    Path("sluice.toml").write_text('[server]\nhost = "::1"\n', encoding="utf-8")
    assert main(["config", "--workers", "3", "--load", "a", "--load", "b", "--no-control"]) == 0
    printed = capsys.readouterr().out
    by_key = {line.split(" = ")[0]: line for line in printed.splitlines() if " = " in line}
    assert by_key["host"].split() == ["host", "=", '"::1"', "#", "sluice.toml:2"]
    assert by_key["count"].split() == ["count", "=", "3", "#", "--workers"]
    assert by_key["load"].endswith("# --load")
    assert by_key["http_port"].endswith("# default")
    Path("copy.toml").write_text(printed, encoding="utf-8")
    assert main(["config", "--config", "copy.toml", "--json"]) == 0
    copied = json.loads(capsys.readouterr().out)
    assert copied["server"]["host"] == {"value": "::1", "origin": "copy.toml:2"}
    assert copied["workers"]["count"]["value"] == 3
    assert copied["models"]["load"]["value"] == ["a", "b"]
    assert copied["models"]["control"]["value"] is False


def test_config_prints_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--reference"]) == 0
    assert capsys.readouterr().out == reference()


def test_config_names_the_variable(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_LOG__LEVEL", "debug")
    assert main(["config", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["log"]["level"] == {"value": "debug", "origin": "SLUICE_LOG__LEVEL"}


def test_every_setting_has_a_flag_on_serve(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["serve", "--help"]) == 0
    text = capsys.readouterr().out
    for each in fields(Settings):
        assert f"{each.flag} " in text
        assert f"[default: {each.default_text}]" in text


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["config", "--http-port", "70000"], 1, "error: --http-port: server.http_port must be less than"),
        (["config", "--config", "missing.toml"], 1, "error: missing.toml: there is no such configuration file"),
        (["config", "--workers", "many"], 2, "error: Invalid value for '--workers'"),
        (["config", "--nope"], 2, "error: No such option"),
        (["frobnicate"], 2, "error: No such command 'frobnicate'"),
        (["models", "load"], 2, "error: Missing argument"),
        (["import", "missing", "--name", "m"], 1, "error: missing: there is no such file or directory"),
        (["import", ".", "--name", "m", "--version", "one"], 1, "error: version: 'one' must be a whole number"),
        (["import", ".", "--name", "../m"], 1, "error: name: '../m' must be"),
        (["infer", "m", "--file", "f", "--input", "a=1"], 2, "error: Invalid value"),
        (["infer", "m", "--file", "missing.json"], 1, "error: missing.json: No such file or directory"),
    ],
)
def test_errors_are_one_line_and_a_hint(
    arguments: list[str], code: int, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    first, *rest = printed.err.splitlines()
    assert first.startswith(error)
    assert all(line.startswith("hint: ") for line in rest)
    assert len(rest) <= 1


def test_a_bare_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    printed = capsys.readouterr()
    assert "serve" in printed.out + printed.err
    assert "error" not in printed.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == 0
    versions = json.loads(capsys.readouterr().out)
    assert set(versions) == {"sluice", "python", "onnxruntime", "numpy", "grpcio", "providers"}
    assert versions["python"].startswith("3.")
    assert main(["version"]) == 0
    printed = capsys.readouterr().out
    assert f"sluice       {versions['sluice']}" in printed
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("words", [["models", "unload"], ["models"], ["config"], []])
def test_help_names_no_type_for_flags(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--help"]) == 0
    printed = capsys.readouterr().out
    assert "--help" in printed
    assert "bool" not in printed


@dataclass
class Row:
    name: str
    version: str
    state: str
    reason: str


@dataclass
class Announcement:
    http: str = "http://127.0.0.1:8000"
    grpc: str = "127.0.0.1:8001"
    metrics: str = "http://127.0.0.1:8002/metrics"
    models: list[Row] = field(default_factory=list)
    curl: str = ""


@dataclass
class CheckRow:
    name: str
    version: str
    ok: bool
    reason: str
    seconds: float
    padding: str


def stand_in(monkeypatch: pytest.MonkeyPatch, module: str, **members: Any) -> None:
    """Puts a small module where the command will look for a large one that starts processes."""
    replacement = types.ModuleType(module)
    vars(replacement).update(members)
    monkeypatch.setitem(sys.modules, module, replacement)


def test_serve_announces_what_it_serves(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []
    curl = 'curl -s http://127.0.0.1:8000/v2/models/a/infer -d \'{"inputs": [' + "1, " * 100 + "1]}'"

    def serve(settings: Settings, announce: Callable[[Announcement], None]) -> int:
        seen.append(settings)
        rows = [Row("a", "1", "READY", ""), Row("b", "2", "UNAVAILABLE", "[red]no model.onnx[/red]")]
        announce(Announcement(models=rows, curl=curl))
        return 7

    stand_in(monkeypatch, "sluice.app", serve=serve)
    assert main(["serve", "-r", "here", "--http-port", "0", "--log-level", "debug", "--lame-duck", "0.5"]) == 7
    assert seen[0].models.repository == Path("here")
    assert (seen[0].server.http_port, seen[0].log.level, seen[0].shutdown.lame_duck) == (0, "debug", 0.5)
    lines = capsys.readouterr().out.splitlines()
    assert curl in lines
    assert [line.split() for line in lines if line.startswith(("a ", "b "))] == [
        ["a", "1", "READY"],
        ["b", "2", "UNAVAILABLE", "[red]no", "model.onnx[/red]"],
    ]
    assert "HTTP     http://127.0.0.1:8000" in lines


def test_serve_says_when_there_is_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(settings: Settings, announce: Callable[[Announcement], None]) -> int:
        announce(Announcement())
        return 0

    stand_in(monkeypatch, "sluice.app", serve=serve)
    assert main(["serve"]) == 0
    assert "No models yet." in capsys.readouterr().out


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_check_reports_each_version(
    ok: bool, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [CheckRow("a", "1", True, "", 0.25, "any"), CheckRow("b", "1", ok, "" if ok else "bad file", 0.5, "equal")]

    async def check(settings: Settings, names: list[str]) -> list[CheckRow]:
        assert names == ["a", "b"]
        return rows

    stand_in(monkeypatch, "sluice.app", check=check)
    assert main(["check", "-r", "here", "a", "b", "--json"]) == code
    assert [row["ok"] for row in json.loads(capsys.readouterr().out)] == [True, ok]
    assert main(["check", "a", "b"]) == code
    table = capsys.readouterr().out
    assert ("bad file" in table) is not ok
    assert "0.25" in table
    assert not [line for line in table.splitlines() if line != line.rstrip()]


def test_an_error_of_ours_is_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(settings: Settings, names: list[str]) -> list[CheckRow]:
        raise ModelError("'a': broken")

    stand_in(monkeypatch, "sluice.app", check=check)
    assert main(["check"]) == 1
    assert "error: 'a': broken" in capsys.readouterr().err


def tuple_of(*values: object) -> tuple[object, ...]:
    return values


def test_a_missing_package_is_named_with_what_brings_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def import_source(*arguments: object) -> None:
        raise ModuleNotFoundError("No module named 'onnx'", name="onnx.helper")

    stand_in(monkeypatch, "sluice.convert.demo", demo_source=lambda: Path())
    stand_in(monkeypatch, "sluice.convert.kinds", import_source=import_source, Wishes=tuple_of)
    assert main(["import", "demo", "--name", "m"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: the package 'onnx' is not installed",
        "hint: pip install 'sluice[import]'",
    ]


def test_import_says_what_it_does_once_a_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def import_source(
        source: str,
        wishes: tuple[object, ...],
        repository: Path,
        name: str,
        version: str,
        progress: Callable[[str, int, int], None],
    ) -> Path:
        assert (source, repository, name, version) == ("demo files", Path("there"), "m", "2")
        assert wishes == ((), False, None)
        for done in range(3):
            progress("layers", done, 2)
        progress("check", 0, 1)
        return repository / name / version

    stand_in(monkeypatch, "sluice.convert.demo", demo_source=lambda: Path("demo files"))
    stand_in(monkeypatch, "sluice.convert.kinds", import_source=import_source, Wishes=tuple_of)
    assert main(["import", "demo", "--name", "m", "-r", "there", "--version", "2"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "m version 2 is in there/m/2\n"
    assert printed.err == "layers\ncheck\n"
    Path("there/m/2").mkdir(parents=True)
    assert main(["import", "demo", "--name", "m", "-r", "there", "--version", "2"]) == 0
    assert capsys.readouterr().out == "m version 2 is already in there/m/2, nothing to do\n"


def test_an_interrupt_exits_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(settings: Settings, names: list[str]) -> list[CheckRow]:
        signal.raise_signal(signal.SIGINT)
        return []

    stand_in(monkeypatch, "sluice.app", check=check)
    assert main(["check"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_the_command_is_installed_and_starts_without_heavy_imports() -> None:
    code = (
        "import sys, sluice.cli.main as m; m.main(['config']); "
        "heavy = {'numpy', 'grpc', 'onnxruntime', 'starlette', 'uvicorn', 'onnx'} & {*sys.modules}; "
        "sys.exit(','.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    script = Path(sys.executable).with_name("sluice")
    done = subprocess.run(
        [script, "models", "list", "--url", "nonsense://x"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: --url: 'nonsense://x' is no HTTP address")


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = "import sluice.cli.main as m, sys; sys.exit(m.main(['config', '--reference']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)
    assert errors == b""
