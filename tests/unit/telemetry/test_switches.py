"""Trace and log settings: Triton's names, our checks, real effects."""

import logging

import pytest

from sluice.errors import InvalidRequest, SluiceError, Unsupported
from sluice.telemetry.switches import TRACE_DEFAULTS, LogValue, Switches


@pytest.fixture
def logger() -> logging.Logger:
    logger = logging.Logger("sluice-under-test")
    logger.setLevel(logging.INFO)
    return logger


@pytest.fixture
def switches(logger: logging.Logger) -> Switches:
    return Switches(logger)


def test_log_settings_start_from_the_configured_level(logger: logging.Logger) -> None:
    assert Switches(logger).log() == {
        "log_file": "",
        "log_info": True,
        "log_warning": True,
        "log_error": True,
        "log_verbose_level": 0,
        "log_format": "default",
    }
    logger.setLevel(logging.ERROR)
    assert [Switches(logger).log()[name] for name in ("log_info", "log_warning", "log_error")] == [False, False, True]
    logger.setLevel(logging.DEBUG)
    assert Switches(logger).log()["log_verbose_level"] == 1


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({"log_verbose_level": 2}, logging.DEBUG),
        ({"log_verbose_level": 0}, logging.INFO),
        ({"log_info": False}, logging.WARNING),
        ({"log_info": False, "log_verbose_level": 1}, logging.WARNING),
        ({"log_warning": False}, logging.ERROR),
        ({"log_format": "ISO8601", "log_file": ""}, logging.INFO),
    ],
)
def test_log_changes_move_the_level(
    switches: Switches, logger: logging.Logger, changes: dict[str, LogValue], level: int
) -> None:
    assert switches.update_log(changes) == {**Switches(logger).log(), **switches.log(), **changes}
    assert logger.level == level


def test_all_off_silences_even_critical(switches: Switches, logger: logging.Logger) -> None:
    switches.update_log({"log_error": False})
    assert not logger.isEnabledFor(logging.CRITICAL)
    switches.update_log({"log_error": True})
    assert logger.level == logging.INFO


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("log_info", 1, InvalidRequest),
        ("log_error", "true", InvalidRequest),
        ("log_verbose_level", True, InvalidRequest),
        ("log_verbose_level", -1, InvalidRequest),
        ("log_verbose_level", "1", InvalidRequest),
        ("log_format", "fancy", InvalidRequest),
        ("log_format", 3, InvalidRequest),
        ("log_file", "/tmp/x", Unsupported),
        ("log_colour", True, InvalidRequest),
    ],
)
def test_refused_log_changes_name_the_setting_and_change_nothing(
    switches: Switches, logger: logging.Logger, name: str, value: LogValue, error: type[SluiceError]
) -> None:
    before = switches.log()
    with pytest.raises(error, match=name):
        switches.update_log({"log_verbose_level": 1, name: value})
    assert switches.log() == before
    assert logger.level == logging.INFO


def test_trace_defaults(switches: Switches) -> None:
    assert switches.trace() == switches.trace("m") == TRACE_DEFAULTS
    assert not switches.tracing


def test_models_inherit_the_servers_trace_settings(switches: Switches) -> None:
    switches.update_trace({"trace_rate": ["5"]})
    effective = switches.update_trace({"trace_count": ["7"]}, "m")

    assert (effective["trace_rate"], effective["trace_count"]) == (["5"], ["7"])
    assert switches.trace()["trace_count"] == ["-1"]
    switches.update_trace({"trace_rate": ["6"]})
    assert switches.trace("m")["trace_rate"] == ["6"]


@pytest.mark.parametrize("cleared", [None, []])
def test_clearing_goes_back_to_the_inherited_value(switches: Switches, cleared: list[str] | None) -> None:
    switches.update_trace({"trace_rate": ["5"]})
    switches.update_trace({"trace_rate": ["9"]}, "m")

    assert switches.update_trace({"trace_rate": cleared}, "m")["trace_rate"] == ["5"]
    assert switches.update_trace({"trace_rate": cleared})["trace_rate"] == TRACE_DEFAULTS["trace_rate"]


@pytest.mark.parametrize(
    ("name", "values", "error"),
    [
        ("trace_level", ["LOUD"], InvalidRequest),
        ("trace_level", ["OFF", "TIMESTAMPS"], InvalidRequest),
        ("trace_rate", ["-1"], InvalidRequest),
        ("trace_rate", ["many"], InvalidRequest),
        ("trace_rate", ["1", "2"], InvalidRequest),
        ("trace_rate", ["99999999999"], InvalidRequest),
        ("trace_count", ["-2"], InvalidRequest),
        ("log_frequency", ["1.5"], InvalidRequest),
        ("trace_mode", ["zipkin"], InvalidRequest),
        ("trace_mode", ["opentelemetry"], Unsupported),
        ("trace_file", ["/tmp/trace.json"], Unsupported),
        ("trace_depth", ["1"], InvalidRequest),
        ("trace_depth", None, InvalidRequest),
    ],
)
def test_refused_trace_changes_name_the_setting_and_change_nothing(
    switches: Switches, name: str, values: list[str] | None, error: type[SluiceError]
) -> None:
    with pytest.raises(error, match=name):
        switches.update_trace({"trace_level": ["TIMESTAMPS"], name: values})
    assert switches.trace() == TRACE_DEFAULTS
    assert not switches.tracing


def test_answers_are_copies(switches: Switches) -> None:
    switches.trace()["trace_level"].append("TENSORS")
    switches.log()["log_info"] = False

    assert switches.trace()["trace_level"] == ["OFF"]
    assert switches.log()["log_info"] is True


def sampled(switches: Switches, model: str, requests: int) -> int:
    return sum(bool(switches.sample(model)) for _ in range(requests))


def test_sampling_follows_rate_and_count(switches: Switches) -> None:
    switches.update_trace({"trace_level": ["TIMESTAMPS"], "trace_rate": ["3"], "trace_count": ["2"]})

    assert switches.tracing
    assert [bool(switches.sample("m")) for _ in range(9)] == [False, False, True, False, False, True, *[False] * 3]
    switches.update_trace({"trace_count": ["-1"]})
    assert sampled(switches, "m", 9) == 3
    switches.update_trace({"trace_rate": ["0"]})
    assert sampled(switches, "m", 9) == 0


def test_one_model_can_be_traced_alone(switches: Switches) -> None:
    switches.update_trace({"trace_level": ["TIMESTAMPS"], "trace_rate": ["1"]}, "m")

    assert sampled(switches, "m", 4) == 4
    assert sampled(switches, "other", 4) == 0
    switches.update_trace({"trace_level": None, "trace_rate": None}, "m")
    assert not switches.tracing
    assert sampled(switches, "m", 4) == 0
