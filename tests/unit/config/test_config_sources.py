"""Where settings come from, who wins, and what is said about bad ones."""

from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from sluice.config.fields import MASK, fields
from sluice.config.settings import Section, Settings
from sluice.config.sources import load, load_as
from sluice.errors import ConfigError


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, name: str = "sluice.toml") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def complaint(file: str | None = None, **environment: str) -> str:
    path = write(file) if file is not None else None
    with pytest.raises(ConfigError) as caught:
        load(path, environment, {})
    return caught.value.message


def test_without_any_source_everything_is_default() -> None:
    loaded = load(None, {}, {})
    assert loaded.settings == Settings()
    assert set(loaded.origins.values()) == {"default"}
    assert set(loaded.origins) == {field.name for field in fields(Settings)}
    assert loaded.file is None


def test_each_source_is_stronger_than_the_one_before() -> None:
    write("[server]\nhost = 'file'\nhttp_port = 1\ngrpc_port = 1\n\n[log]\nlevel = 'debug'\n")
    environment = {"SLUICE_SERVER__HTTP_PORT": "2", "SLUICE_SERVER__GRPC_PORT": "2", "OTHER": "x"}
    loaded = load(None, environment, {"server.grpc_port": 3})
    server = loaded.settings.server
    assert (server.host, server.http_port, server.grpc_port, server.metrics_port) == ("file", 2, 3, 8002)
    assert loaded.settings.log.level == "debug"
    assert loaded.file == Path("sluice.toml")
    assert loaded.origins["server.host"] == "sluice.toml:2"
    assert loaded.origins["server.http_port"] == "SLUICE_SERVER__HTTP_PORT"
    assert loaded.origins["server.grpc_port"] == "--grpc-port"
    assert loaded.origins["server.metrics_port"] == "default"
    assert loaded.origins["log.level"] == "sluice.toml:7"


def test_the_named_file_is_read_instead_of_the_one_in_the_working_directory() -> None:
    write("[server]\nhttp_port = 1\n")
    flag, variable = (
        write("[server]\nhttp_port = 2\n", "flag.toml"),
        write("[server]\nhttp_port = 3\n", "variable.toml"),
    )
    assert load(flag, {"SLUICE_CONFIG": str(variable)}, {}).settings.server.http_port == 2
    assert load(None, {"SLUICE_CONFIG": str(variable)}, {}).origins["server.http_port"] == "variable.toml:2"
    assert load(None, {"SLUICE_CONFIG": ""}, {}).settings.server.http_port == 1


def test_settings_are_frozen() -> None:
    settings = load(None, {}, {}).settings
    with pytest.raises(ValueError, match="frozen"):
        settings.server.host = "elsewhere"


@pytest.mark.parametrize(
    ("text", "expected"),
    [('["a", "b,c"]', ["a", "b,c"]), ("a, b ,c", ["a", "b", "c"]), ("", []), ("[]", []), ("*", ["*"])],
)
def test_lists_from_the_environment(text: str, expected: list[str]) -> None:
    assert load(None, {"SLUICE_MODELS__LOAD": text}, {}).settings.models.load == expected


@pytest.mark.parametrize(("text", "expected"), [("false", False), ("0", False), ("on", True), ("TRUE", True)])
def test_switches_from_the_environment(text: str, expected: bool) -> None:
    assert load(None, {"SLUICE_MODELS__CONTROL": text}, {}).settings.models.control is expected


def test_paths_and_whole_numbers_for_seconds_from_a_file() -> None:
    path = write("models.repository = 'here'\nmodels.python_directories = ['a']\nshutdown = { lame_duck = 1 }")
    settings = load(path, {}, {}).settings
    assert settings.models.repository == Path("here")
    assert settings.models.python_directories == [Path("a")]
    assert settings.shutdown.lame_duck == 1.0


BAD_FILES = {
    "range": (
        "\n[server]\n\nhttp_port = 70000",
        "sluice.toml:4: server.http_port must be less than or equal to 65535, not 70000",
    ),
    "type": ("[server]\nhttp_port = 'x'", "sluice.toml:2: server.http_port must be a valid integer, not 'x'"),
    "no lax types": ("[server]\nhttp_port = true", "sluice.toml:2: server.http_port must be a valid integer, not true"),
    "choice": (
        "[log]\nlevel = 'loud'",
        "sluice.toml:2: log.level must be 'debug', 'info', 'warning' or 'error', not 'loud'",
    ),
    "list": ("[models]\nload = [\n 'a',\n 5]", "sluice.toml:2: models.load must be a valid string, not 5"),
    "infinite": ("[server]\nkeep_alive = inf", "sluice.toml:2: server.keep_alive must be a finite number, not inf"),
    "date": (
        "[server]\nhttp_port = 2020-01-01",
        "sluice.toml:2: server.http_port must be a valid integer, not '2020-01-01'",
    ),
    "key": ("[server]\nhttp_prt = 1", "sluice.toml:2: there is no setting server.http_prt; did you mean http_port?"),
    "misplaced": (
        "[server]\nlevel = 'info'",
        "sluice.toml:2: there is no setting server.level; level belongs in [log]",
    ),
    "top level": ("http_port = 1", "sluice.toml:1: there is no section [http_port]; http_port belongs in [server]"),
    "section": ("\n[sever]\n", "sluice.toml:2: there is no section [sever]; did you mean server?"),
    "no table": ("server = 5", "sluice.toml:1: server is a section: write [server] and its settings below it"),
    "several tables": ("[[server]]", "sluice.toml:1: server is a section: write [server] and its settings below it"),
    "syntax": ("[server]\nhost = \n", "sluice.toml:2: Invalid value (column 8)"),
    "unfinished": ('[server]\n\nhost = "', "sluice.toml:3: Unterminated string (at the end of the file)"),
}


@pytest.mark.parametrize(("text", "expected"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_reported_with_its_line(text: str, expected: str) -> None:
    assert complaint(text) == expected


def test_a_bad_value_is_found_even_where_a_stronger_source_hides_it() -> None:
    message = complaint("[server]\nhttp_port = -1", SLUICE_SERVER__HTTP_PORT="80")
    assert message.startswith("sluice.toml:2: server.http_port")


def test_all_problems_are_reported_at_once() -> None:
    lines = complaint("[server]\nhttp_port = -1\ngrpc_port = -1", SLUICE_LOG__LEVEL="loud").splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["sluice.toml:2", "sluice.toml:3", "SLUICE_LOG__LEVEL"]


def test_no_port_is_given_twice() -> None:
    both = "server.http_port and server.grpc_port must differ, but both are"
    assert complaint("[server]\ngrpc_port = 9\nhttp_port = 9") == f"sluice.toml:3, sluice.toml:2: {both} 9"
    assert complaint("[server]\nhttp_port = 8001") == f"sluice.toml:2: {both} 8001"
    with pytest.raises(ConfigError) as caught:
        load(None, {"SLUICE_SERVER__METRICS_PORT": "77"}, {"server.grpc_port": 77})
    message = "server.grpc_port and server.metrics_port must differ, but both are 77"
    assert caught.value.message == f"--grpc-port, SLUICE_SERVER__METRICS_PORT: {message}"


def test_free_ports_may_be_asked_for_all_at_once() -> None:
    path = write("[server]\nhttp_port = 0\ngrpc_port = 0\nmetrics_port = 0")
    assert load(path, {}, {}).settings.server.grpc_port == 0


def test_ports_of_different_sources_may_change_places() -> None:
    path = write("[server]\nhttp_port = 8001")
    assert load(path, {}, {"server.grpc_port": 8000}).settings.server.http_port == 8001


def test_unreadable_files() -> None:
    with pytest.raises(ConfigError, match=r"^missing\.toml: there is no such configuration file$"):
        load(Path("missing.toml"), {}, {})
    with pytest.raises(ConfigError, match=r"^missing\.toml: there is no such"):
        load(None, {"SLUICE_CONFIG": "missing.toml"}, {})
    Path("directory").mkdir()
    with pytest.raises(ConfigError, match=r"^directory: cannot be read: Is a directory"):
        load(Path("directory"), {}, {})
    Path("sluice.toml").mkdir()
    with pytest.raises(ConfigError, match=r"^sluice\.toml: cannot be read: Is a directory"):
        load(None, {}, {})
    Path("latin.toml").write_bytes(b"a = '\xe9'")
    with pytest.raises(ConfigError, match=r"^latin\.toml: not UTF-8 text \(byte 5\)$"):
        load(Path("latin.toml"), {}, {})


def test_a_bad_variable_is_named() -> None:
    assert complaint(SLUICE_SERVER__HTTP_PORT="many") == (
        "SLUICE_SERVER__HTTP_PORT: server.http_port must be a valid integer, not 'many'"
    )
    assert complaint(SLUICE_MODELS__LOAD='["a"').startswith("SLUICE_MODELS__LOAD: models.load is no valid JSON list: ")


def test_an_unknown_variable_is_named_with_the_one_it_may_mean() -> None:
    assert complaint(SLUICE_SERVER_HTTP_PORT="80") == (
        "SLUICE_SERVER_HTTP_PORT: there is no setting of that name; did you mean SLUICE_SERVER__HTTP_PORT?"
    )
    assert complaint(SLUICE_SERVER__TEAPOT_PORT="80").startswith("SLUICE_SERVER__TEAPOT_PORT: there is no setting")


def test_variables_that_kubernetes_sets_for_a_service_called_sluice_are_no_settings() -> None:
    environment = {
        "SLUICE_SERVICE_HOST": "10.0.0.1",
        "SLUICE_SERVICE_PORT": "8000",
        "SLUICE_SERVICE_PORT_GRPC": "8001",
        "SLUICE_PORT": "tcp://10.0.0.1:8000",
        "SLUICE_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "SLUICE_PORT_8000_TCP_PROTO": "tcp",
        "SLUICE_PORT_8000_TCP_PORT": "8000",
        "SLUICE_PORT_8000_TCP_ADDR": "10.0.0.1",
        "SLUICE_URL": "http://127.0.0.1:8000",
        "SLUICE_CACHE": "/var/cache/sluice",
        "SLUICE_CACHE_LIMIT": "20GB",
    }
    assert load(None, environment, {}).settings == Settings()


def test_a_bad_flag_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^--workers: workers\.count must be greater than or equal to 0, not -1$"):
        load(None, {}, {"workers.count": -1})
    with pytest.raises(ConfigError, match=r"did you mean workers\.count"):
        load(None, {}, {"workers.cont": 1})


class Vault(Section):
    token: SecretStr | None = None
    password: str = Field(default="", max_length=8, json_schema_extra={"secret": True})
    size: int = 1


class WithSecrets(Section):
    vault: Vault = Vault()


def test_secrets_are_masked_but_reach_the_settings() -> None:
    path = write("[vault]\npassword = 'opensesa'\n")
    loaded = load_as(WithSecrets, path, {"SLUICE_VAULT__TOKEN": "hunter2"}, {})
    assert loaded.settings.vault.password == "opensesa"
    assert loaded.settings.vault.token is not None
    assert loaded.settings.vault.token.get_secret_value() == "hunter2"
    shown = {each.field.name: (each.value, each.origin) for each in loaded.shown()}
    assert shown == {
        "vault.token": (MASK, "SLUICE_VAULT__TOKEN"),
        "vault.password": (MASK, "sluice.toml:2"),
        "vault.size": (1, "default"),
    }


def test_an_unset_secret_shows_that_it_is_unset() -> None:
    shown = {each.field.key: each.value for each in load_as(WithSecrets, None, {}, {}).shown()}
    assert shown == {"token": None, "password": "", "size": 1}


def test_a_bad_secret_is_not_printed() -> None:
    with pytest.raises(ConfigError) as caught:
        load_as(WithSecrets, None, {"SLUICE_VAULT__PASSWORD": "too-long-a-secret"}, {})
    assert caught.value.message == "SLUICE_VAULT__PASSWORD: vault.password must have at most 8 characters"


def test_every_flag_and_variable_is_its_own() -> None:
    everything = list(fields(Settings))
    assert len({field.flag for field in everything}) == len(everything)
    assert len({field.variable for field in everything}) == len(everything)


def test_tenants_have_weights() -> None:
    scheduler = load(None, {"SLUICE_SCHEDULER__TENANT_WEIGHTS": '["gold=3", "a=b=0.5"]'}, {}).settings.scheduler
    assert scheduler.shares == {"gold": 3.0, "a=b": 0.5}
    assert load(write('[scheduler]\ntenant_header = "X-Team"'), {}, {}).settings.scheduler.tenant_header == "x-team"


@pytest.mark.parametrize("wrong", ["gold", "gold=", "=1", "gold=0", "gold=-1", "gold=inf", "gold=much"])
def test_a_weight_is_a_positive_number(wrong: str) -> None:
    assert f"expected name=weight with a weight above 0, got '{wrong}'" in complaint(
        f'[scheduler]\ntenant_weights = ["{wrong}"]'
    )


def test_a_tenant_header_is_a_header() -> None:
    assert "expected a header name" in complaint('[scheduler]\ntenant_header = "not: one"')


@pytest.mark.parametrize(
    ("value", "why"), [("1" * 5000, "a number beyond 64 bits"), ("[" * 50_000, "nested too deeply")]
)
def test_a_file_that_no_reader_should_have_to_take(tmp_path: Path, value: str, why: str) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(f"[server]\nhttp_port = {value}\n")
    with pytest.raises(ConfigError, match=rf"odd\.toml: .*{why}"):
        load(path, {}, {})
