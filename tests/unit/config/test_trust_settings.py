"""Settings of signatures, as they are written."""

import base64
from pathlib import Path

import pytest

from sluice.cli.main import main
from sluice.config.sources import load
from sluice.errors import ConfigError


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def complaint(text: str, **environment: str) -> str:
    Path("sluice.toml").write_text(f"[models]\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        load(None, environment, {})
    return caught.value.message


def test_keys_for_all_for_a_model_and_for_a_source() -> None:
    Path("sluice.toml").write_text('[models]\nsignatures = "require"\n')
    keys = "keys/all.pem, minilm=keys/a.pem, hf://acme/ = keys/b.pem"
    models = load(None, {"SLUICE_MODELS__TRUSTED_KEYS": keys}, {}).settings.models
    assert models.keys == [
        ("", Path("keys/all.pem")),
        ("minilm", Path("keys/a.pem")),
        ("hf://acme/", Path("keys/b.pem")),
    ]
    assert models.signatures_wanted_by == "signatures"


def test_what_makes_no_sense() -> None:
    assert "sluice.toml:2: models.signatures must be 'off', 'warn' or 'require'" in complaint("signatures = 'on'")
    assert "sluice.toml:2: models.approval must be of 'signed' and 'evaluated', not ['paid']" in complaint(
        "approval = ['paid']"
    )
    for entry in ("=keys/a.pem", "minilm=", " "):
        assert "sluice.toml:2: models.trusted_keys expected" in complaint(f"trusted_keys = ['{entry}']")


@pytest.mark.parametrize("text", ["signatures = 'warn'", "signatures = 'require'", "approval = ['signed']"])
def test_who_asks_for_signatures_says_whose(text: str) -> None:
    name = text.partition(" ")[0]
    assert complaint(text) == (
        f"sluice.toml:2: models.{name} asks for signatures, but models.trusted_keys names nobody who may sign"
    )
    load(None, {"SLUICE_MODELS__TRUSTED_KEYS": "a.pem"}, {})


def test_an_evaluation_needs_no_keys() -> None:
    Path("sluice.toml").write_text('[models]\napproval = ["evaluated"]\n')
    assert load(None, {}, {}).settings.models.approval == ["evaluated"]


KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.mark.parametrize("key", [KEY, KEY.rstrip("="), bytes(range(32)).hex(), f"{KEY},{KEY}"])
def test_a_key_in_place_of_its_file_is_not_shown(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    for given in (f"key_file = '{key}'", f"key_file = ['{key}']"):
        told = complaint(given)
        assert told.startswith("sluice.toml:2: models.key_file must be the path of a file")
        assert key not in told
    Path("sluice.toml").unlink()
    with pytest.raises(ConfigError) as caught:
        load(None, {"SLUICE_MODELS__KEY_FILE": key}, {})
    assert key not in caught.value.message
    assert main(["config", "--key-file", key]) != 0
    said = capsys.readouterr()
    assert key not in said.out + said.err
    Path(KEY).write_text("it happens to be called so")
    assert load(None, {"SLUICE_MODELS__KEY_FILE": KEY}, {}).settings.models.key_file == Path(KEY)
