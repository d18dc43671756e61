import json
from pathlib import Path

import pytest

from sluice.errors import ModelError, UnknownModel
from sluice.store.repository import Finding, find, scan


def _put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _versions(finding: Finding) -> list[str]:
    return [files.version for files in finding.versions]


def _only_problem(finding: Finding) -> str:
    ((_, reason),) = finding.problems
    return reason


def test_an_ordinary_model_needs_no_configuration(tmp_path: Path) -> None:
    path = _put(tmp_path / "minilm/1/model.onnx")
    (finding,) = scan(tmp_path)
    assert finding.problems == ()
    (files,) = finding.versions
    assert (files.model, files.version, files.backend) == ("minilm", "1", "onnxruntime")
    assert (files.directory, files.path) == (path.parent, path)
    assert files.settings == finding.settings
    assert find(tmp_path, "minilm") == finding


def test_the_latest_version_is_the_largest_number(tmp_path: Path) -> None:
    for version in ("2", "9", "10"):
        _put(tmp_path / f"m/{version}/model.onnx")
    assert _versions(find(tmp_path, "m")) == ["10"]


def test_what_is_no_version_is_ignored(tmp_path: Path) -> None:
    for version in ("1", "0", "01", "v2", ".3", "4.tmp", "-5", "٣"):
        _put(tmp_path / f"m/{version}/model.onnx")
    _put(tmp_path / "m/7")
    _put(tmp_path / "m/model.toml", '[versions]\npolicy = "all"')
    finding = find(tmp_path, "m")
    assert _versions(finding) == ["1"]
    assert finding.problems == ()


@pytest.mark.parametrize(
    ("policy", "versions", "missing"),
    [
        ("count = 2", ["3", "10"], []),
        ("count = 9", ["1", "2", "3", "10"], []),
        ('policy = "all"', ["1", "2", "3", "10"], []),
        ("versions = [1, 10]", ["1", "10"], []),
        ('policy = "specific"\nversions = ["2", 4]', ["2"], ["4"]),
    ],
)
def test_version_policies(tmp_path: Path, policy: str, versions: list[str], missing: list[str]) -> None:
    for version in ("1", "2", "3", "10"):
        _put(tmp_path / f"m/{version}/model.onnx")
    _put(tmp_path / "m/model.toml", f"[versions]\n{policy}")
    finding = find(tmp_path, "m")
    assert _versions(finding) == versions
    assert [version for version, _ in finding.problems] == missing
    for _, reason in finding.problems:
        assert "no directory m/4" in reason


def test_a_bad_model_never_stops_the_others(tmp_path: Path) -> None:
    _put(tmp_path / "good/1/model.onnx")
    _put(tmp_path / "toml/model.toml", "max_queue =")
    _put(tmp_path / "pbtxt/config.pbtxt", "max_batch_size: x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop/1").symlink_to("1")
    _put(tmp_path / "no\nline/1/model.onnx")
    (tmp_path / b"caf\xe9".decode("utf-8", "surrogateescape")).mkdir()
    _put(tmp_path / "README.md")
    _put(tmp_path / ".git/1/model.onnx")
    findings = {finding.name: finding for finding in scan(tmp_path)}
    assert [name for name, finding in findings.items() if not finding.problems] == ["good"]
    assert len(findings) == 7
    for finding in findings.values():
        for _, reason in finding.problems:
            reason.encode()  # a reason can be sent to clients, whatever the directory is called


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "m: there is no version directory (1, 2, …); put the model at m/1/model.onnx"),
        ({"model.onnx": ""}, "move model.onnx into m/1/"),
        ({"model.toml": "[source]\nfrom = 'https://h/x?k=1'"}, "`sluice pull m` brings one from https://h/x"),
        ({"1/README": ""}, "m/1: no model.onnx or model.py; it holds README"),
        ({"1/minilm.onnx": ""}, "rename minilm.onnx, or name it as `filename` in m/model.toml"),
        ({"1/model.plan": ""}, "m/1/model.plan: backend 'tensorrt' is not available here"),
        ({"1/model.pt": ""}, "backend 'pytorch' is not available here"),
        ({"1/model.onnx": "", "model.toml": 'backend = "python"'}, "m/1: no model.py; rename model.onnx"),
        ({"1/model.onnx": "", "model.toml": 'filename = "other.onnx"'}, "m/1/other.onnx: there is no such file"),
        ({"1/model.bin": "", "model.toml": 'filename = "model.bin"'}, "m/1/model.bin: say its backend"),
        ({"1/model.onnx": "", "model.toml": 'filename = "../../x"'}, "m/model.toml, line 1: filename: must be a file"),
        ({"1/model.onnx": "", "config.pbtxt": 'backend: "tensorrt"'}, "m/config.pbtxt, line 1: backend: backend 'tens"),
        ({"1/model.onnx": "", "config.pbtxt": 'name: "n"'}, "'n' is not the directory's name 'm'"),
        ({"1/model.onnx/x": ""}, "there is no such file"),
        ({"1/model.onnx/model.onnx/x": ""}, "is not a file"),
    ],
)
def test_a_problem_says_what_to_do(tmp_path: Path, files: dict[str, str], reason: str) -> None:
    (tmp_path / "m").mkdir()
    for file, text in files.items():
        _put(tmp_path / "m" / file, text)
    finding = find(tmp_path, "m")
    assert finding.versions == ()
    assert reason in _only_problem(finding)


def test_backends_by_file(tmp_path: Path) -> None:
    _put(tmp_path / "code/1/model.py")
    _put(tmp_path / "both/1/model.py")
    _put(tmp_path / "both/1/model.onnx")
    _put(tmp_path / "named/1/net.py")
    _put(tmp_path / "named/model.toml", 'filename = "net.py"')
    _put(tmp_path / "split/1/model.onnx/model.onnx")
    found = {finding.name: finding.versions[0] for finding in scan(tmp_path)}
    assert {name: files.backend for name, files in found.items()} == {
        "both": "onnxruntime",
        "code": "python",
        "named": "python",
        "split": "onnxruntime",
    }
    assert found["named"].path == tmp_path / "named/1/net.py"
    assert found["split"].path == tmp_path / "split/1/model.onnx/model.onnx"


def test_links_may_stay_in_the_repository_but_not_leave_it(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    inside, outside = _put(repository / "a/1/model.onnx"), _put(tmp_path / "secret/1/model.onnx")
    for name, target in (("same", inside), ("file", outside)):
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "1/model.onnx").symlink_to(target)
    (repository / "version").mkdir()
    (repository / "version/1").symlink_to(outside.parent)
    (repository / "whole").symlink_to(outside.parents[1])
    (repository / "nowhere/1").mkdir(parents=True)
    (repository / "nowhere/1/model.onnx").symlink_to("missing")
    findings = {finding.name: finding for finding in scan(repository)}
    assert [name for name, finding in findings.items() if finding.versions] == ["a", "same"]
    for name in ("file", "version", "whole"):
        assert "leads out of the repository" in _only_problem(findings[name])
    assert "leads nowhere" in _only_problem(findings["nowhere"])
    (tmp_path / "alias").symlink_to(repository)
    assert _versions(find(tmp_path / "alias", "a")) == ["1"]


@pytest.mark.parametrize(
    "name",
    ["missing", "", ".", "..", "../models", "a/../a", "a/1", "/etc", "a\0", "a" * 300, ".hidden", "a ", "\ud800"],
)
def test_unknown_names(tmp_path: Path, name: str) -> None:
    _put(tmp_path / "models/a/1/model.onnx")
    _put(tmp_path / "models/.hidden/1/model.onnx")
    with pytest.raises(UnknownModel, match="unknown model"):
        find(tmp_path / "models", name)


def test_a_repository_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        scan(tmp_path / "models")
    with pytest.raises(UnknownModel):
        find(tmp_path / "models", "m")


def test_model_toml_has_the_last_word_over_config_pbtxt(tmp_path: Path) -> None:
    _put(tmp_path / "m/1/model.onnx")
    _put(
        tmp_path / "m/config.pbtxt",
        """max_batch_size: 8
        input { name: "x" data_type: TYPE_FP32 dims: [3] }
        parameters { key: "a" value { string_value: "1" } }
        parameters { key: "b" value { string_value: "1" } }
        optimization { priority: PRIORITY_MAX }""",
    )
    _put(
        tmp_path / "m/model.toml",
        """max_batch_rows = 4
        [[input]]
        name = "x"
        pad = 1
        [parameters]
        b = 2""",
    )
    settings = find(tmp_path, "m").settings
    assert settings is not None
    assert settings.max_batch_rows == 4
    (x,) = settings.inputs
    assert (x.datatype, x.shape, x.reshape_batch, x.pad) == ("FP32", (3,), True, 1)
    assert settings.parameters == {"a": "1", "b": "2"}
    assert len(settings.notes) == 1


def test_a_load_request_replaces_config_pbtxt_and_has_the_last_word(tmp_path: Path) -> None:
    for version in ("1", "2"):
        _put(tmp_path / f"m/{version}/model.onnx")
    _put(tmp_path / "m/config.pbtxt", "this is not read {")
    _put(tmp_path / "m/model.toml", "max_batch_rows = 4\nmax_queue = 5")
    finding = find(tmp_path, "m", json.dumps({"max_batch_size": 2, "version_policy": {"all": {}}}))
    assert _versions(finding) == ["1", "2"]
    assert finding.settings is not None
    assert (finding.settings.max_batch_rows, finding.settings.max_queue) == (2, 5)


@pytest.mark.parametrize("config", ["", "{", "[]", '{"nam": "m"}', '{"name": 1}', '{"name": "other"}', "[" * 100_000])
def test_a_bad_load_request_is_a_problem_with_its_reason(tmp_path: Path, config: str) -> None:
    _put(tmp_path / "m/1/model.onnx")
    finding = find(tmp_path, "m", config)
    assert finding.versions == ()
    assert "the load request's config" in _only_problem(finding)


def test_a_default_priority_beyond_the_levels(tmp_path: Path) -> None:
    _put(tmp_path / "m/1/model.onnx")
    _put(tmp_path / "m/model.toml", "priority_levels = 2")
    finding = find(tmp_path, "m")
    assert finding.settings is not None
    assert finding.settings.default_priority == 1
    _put(tmp_path / "m/model.toml", "priority_levels = 2\ndefault_priority = 3")
    assert "default_priority: 3 is beyond the 2 priority_levels" in _only_problem(find(tmp_path, "m"))


@pytest.mark.parametrize("file", ["aliases.toml", "model.toml", "config.pbtxt"])
@pytest.mark.parametrize("value", ["1" * 5000, "[" * 50_000, f"0x{'f' * 5000}"], ids=["long", "deep", "hexadecimal"])
def test_nothing_in_a_file_of_one_model_stops_the_others(tmp_path: Path, file: str, value: str) -> None:
    for name in ("bad", "good"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.onnx").write_bytes(b"")
    key = {"aliases.toml": "production =", "model.toml": "max_queue =", "config.pbtxt": "max_batch_size:"}[file]
    (tmp_path / "bad" / file).write_text(f"{key} {value}")
    bad, good = scan(tmp_path)
    assert [found.version for found in good.versions] == ["1"]
    assert not bad.versions
    assert bad.problems[0][1].startswith(f"bad/{file}")
