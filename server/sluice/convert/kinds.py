"""Tells what kind of thing a source is, by what it holds: the one place that knows all of them."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sluice.convert import said_inputs
from sluice.convert.importer import check_names, import_model, need_extra
from sluice.convert.making import Convertible, Progress
from sluice.errors import ModelError

ALLOW = "--allow-code"
_FACTORY = re.compile(r"(.+):([A-Za-z_]\w*)")
_PICKLES = (".joblib", ".pkl", ".pickle")


@dataclass(frozen=True)
class Wishes:
    """What is said beside the source."""

    inputs: Sequence[str] = ()
    allow_code: bool = False
    tokenizer: Path | None = None


def import_source(
    text: str, wishes: Wishes, repository: Path, name: str, version: str, progress: Progress | None = None
) -> Path:
    """Import what the command line calls `text`, whatever it is; returns the version's directory."""
    check_names(name, version)
    need_extra()
    return import_model(recognise(text, wishes), repository, name, version, progress)


def recognise(text: str, wishes: Wishes) -> Convertible:
    """What lies at a path, or a factory's `FILE.py:FUNCTION`; ModelError if it is nothing that can be imported."""
    path = Path(text)
    if path.is_dir():
        return _directory(path, wishes)
    if path.is_file():
        return _file(path, wishes)
    if "://" in text:
        raise ModelError(f"{text}: is an address; `sluice pull` brings what is there, and converts hf://")
    factory = _FACTORY.fullmatch(text)
    if factory is None:
        raise ModelError(f"{text}: there is no such file or directory")
    _code(wishes, text, "is code, which is run to get the model")
    from sluice.convert.torch_factory import Factory

    return Factory(factory[1], factory[2], _inputs(wishes), wishes.tokenizer)


def _directory(path: Path, wishes: Wishes) -> Convertible:
    from sluice.convert.graph_file import GraphFile, find_graph
    from sluice.convert.pretrained import Pretrained
    from sluice.convert.source import has_weights, read_source

    _nothing_more(wishes, path)
    graph = None if has_weights(path) else find_graph(path)
    return Pretrained(read_source(path)) if graph is None else GraphFile(graph, path)


def _file(path: Path, wishes: Wishes) -> Convertible:
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        from sluice.convert.graph_file import GraphFile

        _nothing_more(wishes, path)
        return GraphFile(path)
    if suffix in (".json", ".ubj", ".txt"):
        from sluice.convert.boosters import Boosted

        _nothing_more(wishes, path)
        return Boosted(path)
    if suffix == ".skops":
        from sluice.convert.estimators import Estimator

        _nothing_more(wishes, path)
        return Estimator(path, wishes.allow_code)
    if suffix in _PICKLES:
        from sluice.convert.estimators import Estimator

        _nothing_more(wishes, path)
        _code(wishes, str(path), "is a pickle, which runs code when it is read")
        return Estimator(path, True)
    return _program(path, wishes)


def _program(path: Path, wishes: Wishes) -> Convertible:
    """PyTorch's archives are zips; what is in them tells which of its formats it is."""
    names = _members(path)
    if not names and _begins_as_zip(path):
        raise ModelError(f"{path}: is damaged, or was not brought here as a whole")
    if any("/code/" in name for name in names) and any(name.endswith("constants.pkl") for name in names):
        from sluice.convert.torch_program import Scripted

        _code(wishes, str(path), "is a TorchScript program, which is code")
        return Scripted(path, _inputs(wishes), wishes.tokenizer)
    if any(name.endswith(("serialized_exported_program.json", "archive_format")) for name in names):
        from sluice.convert.torch_program import Exported

        _code(wishes, str(path), "is an exported program, whose reading can run code")
        return Exported(path, _inputs(wishes), wishes.tokenizer)
    if any(name.endswith("data.pkl") for name in names) or path.suffix in (".pt", ".pth", ".bin"):
        hint = "write a function that makes the model with them, and import that as FILE.py:FUNCTION"
        raise ModelError(f"{path}: holds weights or a pickled object, and no program; {hint}")
    raise ModelError(f"{path}: is of no kind that can be imported; docs/import.md lists them")


def _begins_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\3\4"


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return []


def _inputs(wishes: Wishes) -> tuple[said_inputs.SaidInput, ...]:
    return said_inputs.parse(wishes.inputs)


def _code(wishes: Wishes, source: str, why: str) -> None:
    if not wishes.allow_code:
        raise ModelError(
            f"{source}: {why}: say {ALLOW} if you would run any program that comes from where it comes from"
        )


def _nothing_more(wishes: Wishes, path: Path) -> None:
    if wishes.inputs:
        raise ModelError(f"{path}: tells its inputs itself; --input is for programs of PyTorch")
    if wishes.tokenizer:
        raise ModelError(f"{path}: --tokenizer is for programs of PyTorch")
