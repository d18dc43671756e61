"""Looks through a model repository: which models and versions are there, and what is wrong with the others.

    <repository>/<model>/<version>/model.onnx        the version's file, or model.py
    <repository>/<model>/config.pbtxt, model.toml    what the operator says; model.toml has the last word
    <repository>/<model>/aliases.toml                names of versions, which are served whatever the policy says

A finding is made for every directory: whatever is wrong in one becomes a problem with its reason, and the others are
found all the same. Nothing is loaded here.
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sluice.errors import ModelError, UnknownModel
from sluice.store import aliases, pbtxt, toml
from sluice.store.contents import files_of
from sluice.store.settings import BACKENDS, ModelSettings, combine

_NAME = re.compile(r"\w[\w.+@:=~ -]*(?<! )")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_TEMPORARY = re.compile(r"\..*|.*~|.*\.(tmp|part|partial|swp)|lost\+found|__pycache__")
_ELSEWHERE = {
    "model.plan": "tensorrt",
    "model.pt": "pytorch",
    "model.savedmodel": "tensorflow",
    "model.graphdef": "tensorflow",
    "model.xml": "openvino",
    "model.dali": "dali",
}


@dataclass(frozen=True)
class VersionFiles:
    """One version as it lies on disk."""

    model: str
    version: str
    directory: Path  # the version's
    path: Path  # the model file
    backend: str
    settings: ModelSettings

    def size(self) -> int:
        """Bytes of its files; 0 if they cannot be read."""
        try:
            return sum((self.directory / name).stat().st_size for name in files_of(self.directory))
        except (ModelError, OSError):
            return 0


@dataclass(frozen=True)
class Finding:
    """What one model's directory holds."""

    name: str
    settings: ModelSettings | None  # None: they could not be read
    versions: tuple[VersionFiles, ...]  # those to be served, in ascending order
    problems: tuple[tuple[str, str], ...]  # (version, reason); version "" = the whole model
    aliases: Mapping[str, str] = field(default_factory=dict)  # what each stands for


def scan(repository: Path) -> list[Finding]:
    """Every model in the repository, by name; only a repository that cannot be read is an error."""
    try:
        directories = sorted(path for path in repository.iterdir() if os.path.isdir(path))  # which never raises
    except OSError as error:
        raise ModelError(f"the model repository {repository} cannot be read: {error.strerror}") from error
    return [_examine(repository, path, None) for path in directories if not _TEMPORARY.fullmatch(path.name)]


def is_name(name: str) -> bool:
    """Whether a model may be called so."""
    return bool(_NAME.fullmatch(name)) and not _TEMPORARY.fullmatch(name)


def printable(name: str) -> str:
    """The name of a directory as it can be told: bytes that are no UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def is_number(name: str) -> bool:
    """Whether a version's directory may be called so."""
    return bool(_VERSION.fullmatch(name))


def find(
    repository: Path, name: str, config: str | None = None, also: str = "", unfinished: Collection[str] = ()
) -> Finding:
    """One model. `config`, from a load request, stands in for config.pbtxt and has the last word over model.toml.
    The version `also` is among those found, whatever the policy says; the `unfinished` are as if they were not there.
    """
    directory = repository / name
    if not is_name(name) or not os.path.isdir(directory):  # isdir never raises
        raise UnknownModel(f"Request for unknown model: '{name}' is not found")
    return _examine(repository, directory, config, also, unfinished)


def left_without(directory: Path, alias: str) -> list[str]:
    """The versions of a model that would be served if it had no such alias."""
    finding = _examine(directory.parent, directory, None, without=alias)
    return [files.version for files in finding.versions]


def _examine(
    repository: Path,
    directory: Path,
    config: str | None,
    also: str = "",
    unfinished: Collection[str] = (),
    without: str = "",
) -> Finding:
    name = directory.name
    if not _NAME.fullmatch(name):
        shown = printable(name)
        why = "a model's name is made of letters, digits and . _ - + @ : = ~; rename the directory"
        return Finding(shown, None, (), (("", f"'{shown}': {why}"),))
    try:
        settings = _settings(directory, config)
    except ModelError as error:
        return Finding(name, None, (), (("", error.message),))
    versions: list[VersionFiles] = []
    problems: list[tuple[str, str]] = []
    try:
        found = [number for number in _versions(directory, settings) if number not in unfinished]
        named = {alias: number for alias, number in aliases.read(directory).items() if alias != without}
        wanted, problems = _choose(directory, found, settings)
        problems += [problem for problem in _missing(directory, found, named) if problem[0] not in dict(problems)]
        problems = [problem for problem in problems if problem[0] not in unfinished]
        wanted = [number for number in found if number in wanted or number in named.values() or number == also]
    except (ModelError, OSError) as error:
        return Finding(name, settings, (), (("", _reason(error, directory)),))
    for version in wanted:
        try:
            versions.append(_version(repository, directory / version, settings))
        except (ModelError, OSError) as error:
            problems.append((version, _reason(error, directory)))
    return Finding(name, settings, tuple(versions), tuple(problems), named)


def _reason(error: ModelError | OSError, directory: Path) -> str:
    if isinstance(error, ModelError):
        return error.message
    return f"{error.filename or directory} cannot be read: {error.strerror}"


def _settings(directory: Path, config: str | None) -> ModelSettings:
    own, triton = directory / "model.toml", directory / "config.pbtxt"
    said = toml.read(own) if os.path.lexists(own) else {}
    if config is not None:
        return combine(directory.name, said, pbtxt.read_json(config, directory))
    return combine(directory.name, pbtxt.read(triton) if os.path.lexists(triton) else {}, said)


def _versions(directory: Path, settings: ModelSettings) -> list[str]:
    """The version directories, in ascending order."""
    names = [path.name for path in directory.iterdir() if _VERSION.fullmatch(path.name) and path.is_dir()]
    if not names:
        stray = next((file for file in BACKENDS.values() if (directory / file).exists()), None)
        hint = f"move {stray} into {directory.name}/1/" if stray else f"put the model at {directory.name}/1/model.onnx"
        if settings.origin is not None and not stray:
            hint = f"`sluice pull {directory.name}` brings one from {settings.origin.shown}"
        raise ModelError(f"{directory.name}: there is no version directory (1, 2, …); {hint}")
    return sorted(names, key=int)


def _choose(directory: Path, found: list[str], settings: ModelSettings) -> tuple[list[str], list[tuple[str, str]]]:
    """The versions that the policy wants, and a problem for each it wants in vain."""
    policy = settings.version_policy
    if policy.kind == "all":
        return found, []
    if policy.kind == "latest":
        return found[-policy.count :], []
    missing = sorted(set(policy.versions) - set(found), key=int)
    why = f"the version policy asks for it, but there is no directory {directory.name}"
    return (
        [version for version in found if version in policy.versions],
        [(version, f"{why}/{version}; there are {', '.join(found)}") for version in missing],
    )


def _missing(directory: Path, found: list[str], named: Mapping[str, str]) -> list[tuple[str, str]]:
    """A problem for each version that has an alias and is not there. One that is only the way back may go."""
    place = f"{directory.name}/{aliases.ALIASES}"
    return [
        (number, f"{place}: {alias} is version {number}, which is not there; there are {', '.join(found)}")
        for alias, number in named.items()
        if number not in found and alias != aliases.PREVIOUS
    ]


def _version(repository: Path, directory: Path, settings: ModelSettings) -> VersionFiles:
    backend, path = _model_file(directory, settings)
    if path.is_dir():  # a graph whose weights lie in files of their own may be a directory with the graph inside
        path = path / path.name
    try:
        real, root = path.resolve(strict=True), repository.resolve()
    except RuntimeError as error:  # links in a circle, before Python 3.13
        raise ModelError(f"{_shown(path)}: its links lead in a circle") from error
    except FileNotFoundError as error:
        raise ModelError(f"{_shown(path)}: there is no such file, or its link leads nowhere") from error
    if not real.is_relative_to(root):
        raise ModelError(f"{_shown(path)}: its link leads out of the repository, to {real}; put the file itself there")
    if not real.is_file():
        raise ModelError(f"{_shown(path)}: is not a file")
    return VersionFiles(directory.parent.name, directory.name, directory, path, backend, settings)


def _model_file(directory: Path, settings: ModelSettings) -> tuple[str, Path]:
    """The backend and its file: as the settings say, else the first backend whose usual file is there."""
    if settings.filename:
        by_suffix = {Path(file).suffix: backend for backend, file in BACKENDS.items()}
        backend = settings.backend or by_suffix.get(Path(settings.filename).suffix, "")
        if not backend:
            raise ModelError(f"{_shown(directory / settings.filename)}: say its backend, one of {', '.join(BACKENDS)}")
        return backend, directory / settings.filename
    usual = {settings.backend: BACKENDS[settings.backend]} if settings.backend else BACKENDS
    for backend, file in usual.items():
        if os.path.lexists(directory / file):
            return backend, directory / file
    there = sorted(path.name for path in directory.iterdir() if not _TEMPORARY.fullmatch(path.name))
    raise ModelError(_nothing_found(directory, usual.values(), there))


def _nothing_found(directory: Path, wanted: Iterable[str], there: list[str]) -> str:
    place = f"{directory.parent.name}/{directory.name}"
    wanted = " or ".join(wanted)
    foreign = next((file for file in there if file in _ELSEWHERE), None)
    if foreign:
        return f"{place}/{foreign}: backend '{_ELSEWHERE[foreign]}' is not available here; convert the model to ONNX"
    graphs = [file for file in there if file.endswith(".onnx")]
    if graphs:
        return (
            f"{place}: no {wanted}; rename {graphs[0]}, or name it as `filename` in {directory.parent.name}/model.toml"
        )
    return f"{place}: no {wanted}; it holds {', '.join(there[:5]) if there else 'nothing'}"


def _shown(path: Path) -> str:
    return "/".join(path.parts[-3:])
