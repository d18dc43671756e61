"""Trace and log settings that clients may change while serving, under Triton's names.

Both are held as the protocol shows them and checked before anything changes, so that a refused change leaves all as it
was. A model's trace settings are those said about it, over the server's, over the defaults.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sluice.errors import InvalidRequest, Unsupported

LogValue = bool | int | str

TRACE_DEFAULTS: dict[str, list[str]] = {
    "trace_file": [""],
    "trace_level": ["OFF"],
    "trace_rate": ["1000"],
    "trace_count": ["-1"],
    "log_frequency": ["0"],
    "trace_mode": ["triton"],
}
_TRACE_LEVELS = frozenset({"OFF", "TIMESTAMPS", "TENSORS"})
_LOG_FORMATS = frozenset({"default", "ISO8601"})
_SILENT = logging.CRITICAL + 1


@dataclass(slots=True)
class _Plan:
    """Which requests of a model, or of all models without settings of their own, are traced."""

    levels: frozenset[str]
    rate: int
    left: int  # -1 = without end
    seen: int = 0

    def take(self) -> frozenset[str]:
        if not self.levels or self.rate == 0 or self.left == 0:
            return frozenset()
        self.seen += 1
        if self.seen % self.rate:
            return frozenset()
        if self.left > 0:
            self.left -= 1
        return self.levels


class Switches:
    """The settings and their effects: the level of the given logger, and which requests are traced."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logging.getLogger("sluice") if logger is None else logger
        level = self._logger.getEffectiveLevel()
        self._log: dict[str, LogValue] = {
            "log_file": "",
            "log_info": level <= logging.INFO,
            "log_warning": level <= logging.WARNING,
            "log_error": level <= logging.ERROR,
            "log_verbose_level": 1 if level <= logging.DEBUG else 0,
            "log_format": "default",
        }
        self._trace: dict[str, dict[str, list[str]]] = {"": {}}  # by model; "" = the server's
        self._plans: dict[str, _Plan] = {}
        self.tracing = False  # whether any request may have to be traced

    def log(self) -> dict[str, LogValue]:
        return dict(self._log)

    def update_log(self, changes: Mapping[str, LogValue]) -> dict[str, LogValue]:
        """Change the log settings; nothing that is switched off is printed, nor anything less severe."""
        for name, value in changes.items():
            _check_log(name, value)
        self._log.update(changes)
        self._logger.setLevel(self._log_level())
        return self.log()

    def trace(self, model: str = "") -> dict[str, list[str]]:
        """The settings in effect for a model, or the server's."""
        effective = {**TRACE_DEFAULTS, **self._trace[""], **self._trace.get(model, {})}
        return {name: list(values) for name, values in effective.items()}

    def update_trace(self, changes: Mapping[str, list[str] | None], model: str = "") -> dict[str, list[str]]:
        """Change the server's or one model's settings; None or an empty list goes back to the inherited value."""
        for name, values in changes.items():
            _check_trace(name, values)
        settings = self._trace.setdefault(model, {})
        for name, values in changes.items():
            if values:
                settings[name] = list(values)
            else:
                settings.pop(name, None)
        if model and not settings:
            del self._trace[model]
        if model:
            self._plans.pop(model, None)
        else:
            self._plans.clear()
        self.tracing = any(self.trace(name)["trace_level"] != ["OFF"] for name in self._trace)
        return self.trace(model)

    def sample(self, model: str) -> frozenset[str]:
        """The levels at which the model's request that just ended is traced; empty for most."""
        scope = model if model in self._trace else ""
        plan = self._plans.get(scope)
        if plan is None:
            plan = self._plans[scope] = self._plan(scope)
        return plan.take()

    def _plan(self, scope: str) -> _Plan:
        settings = self.trace(scope)
        (rate,), (count,) = settings["trace_rate"], settings["trace_count"]
        return _Plan(frozenset(settings["trace_level"]) - {"OFF"}, int(rate), int(count))

    def _log_level(self) -> int:
        if not self._log["log_error"]:
            return _SILENT
        if not self._log["log_warning"]:
            return logging.ERROR
        if not self._log["log_info"]:
            return logging.WARNING
        return logging.DEBUG if self._log["log_verbose_level"] else logging.INFO


def _check_log(name: str, value: LogValue) -> None:
    if name in ("log_info", "log_warning", "log_error"):
        if not isinstance(value, bool):
            raise InvalidRequest(f"log setting '{name}' must be true or false, not {value!r}")
    elif name == "log_verbose_level":
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
            raise InvalidRequest(f"log setting '{name}' must be an integer from 0 to {2**32 - 1}, not {value!r}")
    elif name == "log_format":
        if value not in _LOG_FORMATS:
            raise InvalidRequest(f"log setting '{name}' must be 'default' or 'ISO8601', not {value!r}")
    elif name == "log_file":
        if value != "":
            raise Unsupported("log setting 'log_file' cannot be changed: logs go to standard error")
    else:
        raise InvalidRequest(f"unknown log setting '{name}'")


def _check_trace(name: str, values: list[str] | None) -> None:
    check = _TRACE_CHECKS.get(name)
    if check is None:
        raise InvalidRequest(f"unknown trace setting '{name}'")
    if not values:
        return
    if name != "trace_level" and len(values) != 1:
        raise InvalidRequest(f"trace setting '{name}' takes one value, not {len(values)}")
    check(name, values)


def _check_levels(name: str, values: list[str]) -> None:
    if unknown := sorted(set(values) - _TRACE_LEVELS):
        raise InvalidRequest(f"trace setting '{name}' must be of OFF, TIMESTAMPS, TENSORS, not '{unknown[0]}'")
    if "OFF" in values and len(values) > 1:
        raise InvalidRequest(f"trace setting '{name}' allows no other level beside OFF")


def _integer_from(least: int) -> Callable[[str, list[str]], None]:
    def check(name: str, values: list[str]) -> None:
        try:
            fits = least <= int(values[0]) < 2**32
        except ValueError:
            fits = False
        if not fits:
            raise InvalidRequest(f"trace setting '{name}' must be an integer from {least}, not '{values[0]}'")

    return check


def _check_file(name: str, values: list[str]) -> None:
    if values != [""]:
        raise Unsupported(f"trace setting '{name}' cannot be changed: traces go to the log")


def _check_mode(name: str, values: list[str]) -> None:
    if values == ["opentelemetry"]:
        raise Unsupported(f"trace setting '{name}': opentelemetry is not served, only triton")
    if values != ["triton"]:
        raise InvalidRequest(f"trace setting '{name}' must be 'triton' or 'opentelemetry', not '{values[0]}'")


_TRACE_CHECKS: dict[str, Callable[[str, list[str]], None]] = {
    "trace_file": _check_file,
    "trace_level": _check_levels,
    "trace_rate": _integer_from(0),
    "trace_count": _integer_from(-1),
    "log_frequency": _integer_from(0),
    "trace_mode": _check_mode,
}
