"""Asks an MLflow model registry, through MLflow's own library, for a version's files and for what is known of it."""

from __future__ import annotations

import importlib
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sluice.errors import ModelError, system_reason
from sluice.store.contents import name_of_file
from sluice.store.download import Rules
from sluice.store.manifest import TASKS
from sluice.store.package import Progress
from sluice.store.redaction import shown

_MLMODEL = "MLmodel"
_LARGEST_MLMODEL = 16 << 20  # bytes; it may hold an example
# What MLflow puts beside a model for itself, and what nobody shall run.
_LEFT_OUT = re.compile(
    r"MLmodel|registered_model_meta|conda\.yaml|python_env\.yaml|requirements\.txt|constraints\.txt"
    r"|(serving_)?input_example.*|metadata/.*|.*\.(py|pkl|pickle|cloudpickle)"
)
_MOST_TOLD = 100  # metrics, and tags, that go into the manifest
_LONGEST_TAG = 200
_GLANCE = 0.2  # seconds between two looks at a file that is being downloaded
_HINT = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, say who asks"
_STATUS = re.compile(r"error code (\d{3})")
REGISTRY = "mlflow.registry"  # the metric that says which registry it was


@dataclass(frozen=True)
class Asked:
    """Which version of which model."""

    name: str
    number: str  # or "latest"; "" if an alias is said
    alias: str
    run: str  # the run that it must be of; "" = any

    @property
    def shown(self) -> str:
        return f"mlflow://models:/{self.name}{f'@{self.alias}' if self.alias else f'/{self.number}'}"


@dataclass(frozen=True)
class Remote:
    """A file of a version in the registry."""

    name: str  # in the version made of it
    path: str  # there
    size: int | None  # None: not told


class Registry:
    """A model registry, asked through MLflow's own library."""

    def __init__(self, asked: Asked, place: str, rules: Rules) -> None:
        self.asked = asked
        self.place = place
        _settle(rules)
        self._mlflow: Any = importlib.import_module("mlflow")
        self._yaml: Any = importlib.import_module("yaml")
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self._artifacts: Any = None  # where the version's files are
        with self._clear():
            self._client = self._mlflow.MlflowClient()

    def version(self) -> Any:
        """What the number or alias stands for."""
        asked = self.asked
        with self._clear():
            if asked.alias:
                version = self._client.get_model_version_by_alias(asked.name, asked.alias)
            elif asked.number == "latest":
                version = self._latest()
            else:
                version = self._client.get_model_version(asked.name, asked.number)
        if version is None:
            raise ModelError(f"{asked.shown}: there is no such model, or it has no version")
        if version.status != "READY":
            raise ModelError(f"{asked.shown}: version {version.version} is not ready there: {version.status}")
        if asked.run and asked.run != version.run_id:
            raise ModelError(f"{asked.shown}: version {version.version} is not of the run {asked.run}")
        return version

    def _latest(self) -> Any:
        quote = '"' if "'" in self.asked.name else "'"
        found = self._client.search_model_versions(
            f"name={quote}{self.asked.name}{quote}", max_results=1, order_by=["version_number DESC"]
        )
        return found[0] if found else None

    def said(self, version: Any) -> dict[str, Any]:
        """What the registry knows of it, as the manifest shall say it."""
        run = version.run_id or ""
        source = f"mlflow://models:/{version.name}/{version.version}{f'#run={run}' if run else ''}"
        told: dict[str, Any] = {"source": source}
        metrics: dict[str, float | str] = {"mlflow.registry": shown(self.place)}
        tags = {key: text for key, value in version.tags.items() if (text := _line(value)) and _line(key) == key}
        for key, text in _some(tags):
            if key in ("licence", "license"):
                told["licence"] = text
            elif key == "task" and text in TASKS:
                told["task"] = text
            elif not key.startswith("mlflow."):
                metrics[f"mlflow.tag.{key}"] = text
        for key, value in _some(self._metrics(run)):
            if _line(key) == key and abs(value) < float("inf"):
                metrics[f"mlflow.metric.{key}"] = value
        return told | {"metrics": metrics}

    def _metrics(self, run: str) -> dict[str, float]:
        """Of the run that logged it; a run that is gone, or not for us, has none."""
        if run:
            with suppress(self._mlflow.exceptions.MlflowException):
                return dict(self._client.get_run(run).data.metrics)
        return {}

    def files(self, version: Any, place: Path) -> list[Remote]:
        """What its ONNX flavour is made of."""
        with self._clear():
            uri = self._client.get_model_version_download_uri(version.name, version.version)
            self._artifacts = self._mlflow.tracking.artifact_utils.get_artifact_repository(uri)
            listed = {each.path: each.file_size for each in _listed(self._artifacts, "")}
        if _MLMODEL not in listed or (listed[_MLMODEL] or 0) > _LARGEST_MLMODEL:
            raise ModelError(f"{self.asked.shown}: has no {_MLMODEL} file, or one that is too large")
        graph = self._graph(self._downloaded(Remote(_MLMODEL, _MLMODEL, listed[_MLMODEL]), place))
        base = PurePosixPath(graph).parent
        names = {path: str(PurePosixPath(path).relative_to(base)) for path in listed if _is_below(path, base)}
        names = {path: name for path, name in names.items() if not _LEFT_OUT.fullmatch(name)}
        if graph not in names:
            raise ModelError(f"{self.asked.shown}: {_MLMODEL} names {graph!r}, which is not there")
        return [Remote("model.onnx" if path == graph else name, path, listed[path]) for path, name in names.items()]

    def download(self, remote: Remote, place: Path, progress: Progress) -> Path:
        with _watched(place / remote.path, remote.size or 0, progress):
            return self._downloaded(remote, place)

    def _graph(self, path: Path) -> str:
        """The file of the ONNX flavour."""
        try:
            document = self._yaml.safe_load(path.read_text(encoding="utf-8"))
            flavours = dict(document["flavors"])
        except (self._yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, ValueError) as error:
            raise ModelError(f"{self.asked.shown}: {_MLMODEL} cannot be read: {type(error).__name__}") from error
        flavour = flavours.get("onnx")
        if flavour is None:
            raise ModelError(
                f"{self.asked.shown}: has no ONNX flavour, but {', '.join(map(str, flavours)) or 'none'}; "
                "log the model with mlflow.onnx.log_model"
            )
        try:
            return name_of_file(str(flavour.get("data", "model.onnx")))
        except (ValueError, AttributeError) as error:
            raise ModelError(f"{self.asked.shown}: {_MLMODEL}: flavors.onnx.data: {error}") from error

    def _downloaded(self, remote: Remote, place: Path) -> Path:
        try:
            name_of_file(remote.path)
        except ValueError as error:
            raise ModelError(f"{self.asked.shown}: {error}") from error
        if (size := remote.size or 0) > (free := shutil.disk_usage(place).free):
            raise ModelError(f"{place}: {remote.path!r} has {size} bytes, and {free} are free on the disk")
        with self._clear():
            self._artifacts.download_artifacts(remote.path, str(place))
        there = place / remote.path
        if there.is_symlink() or not there.is_file():
            raise ModelError(f"{self.asked.shown}: {remote.path!r} is not a file there")
        if remote.size is not None and (found := there.stat().st_size) != remote.size:
            raise ModelError(f"{self.asked.shown}: {remote.path!r} came with {found} bytes of {remote.size}")
        return there

    @contextmanager
    def _clear(self) -> Iterator[None]:
        """Errors of the library, which may tell addresses with passwords, in our words."""
        where = self.asked.shown
        try:
            yield
        except ModelError:
            raise
        except self._mlflow.exceptions.MlflowException as error:
            raise ModelError(f"{where}: {_why(error, shown(self.place))}") from error
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            raise ModelError(
                f"{where}: the files lie where MLflow needs the package {package!r}; install it"
            ) from error
        except OSError as error:
            answer = getattr(getattr(error, "response", None), "status_code", None)
            why = f"the server says {answer}" if answer else type(error).__name__
            why = system_reason(error) if error.errno else why
            raise ModelError(f"{where}: cannot be downloaded: {why}") from error


def _settle(rules: Rules) -> None:
    """How the library asks, unless the environment says so: no longer than others here, and without telling on us."""
    usual = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(1, round(rules.timeout))),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(rules.attempts - 1),
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    for name, value in usual.items():
        os.environ.setdefault(name, value)


def _why(error: Any, place: str) -> str:
    code = str(getattr(error, "error_code", ""))
    status = found[1] if (found := _STATUS.search(str(error))) else ""
    if code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # an alias that is not there is the latter
        return "there is no such model, version or alias"
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED") or status in ("401", "403"):
        return f"{place} does not let us; {_HINT}"
    if "failed with exception" in str(error):
        return f"{place} does not answer"
    if status:
        return f"{place} says {status}"
    return f"{place} does not answer as it should ({code or type(error).__name__})"


def _listed(artifacts: Any, path: str) -> Iterator[Any]:
    """Every file below."""
    for each in artifacts.list_artifacts(path or None):
        if each.is_dir:
            yield from _listed(artifacts, each.path)
        else:
            yield each


def _is_below(path: str, base: PurePosixPath) -> bool:
    return PurePosixPath(path).is_relative_to(base)


def _line(value: Any) -> str:
    """A text in one line, and not too long of one."""
    text = " ".join(str(value).split())[:_LONGEST_TAG]
    return text if text.isprintable() else ""


def _some(told: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return sorted(told.items())[:_MOST_TOLD]


@contextmanager
def _watched(path: Path, total: int, progress: Progress) -> Iterator[None]:
    """Reports how much of the file is there while the library downloads it."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_GLANCE):
            with suppress(OSError):
                progress("download", path.stat().st_size, total)

    watcher = threading.Thread(target=watch, daemon=True, name="sluice-watch")
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
