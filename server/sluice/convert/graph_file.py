"""An ONNX file, or a directory with one, as a thing to be imported: it is copied with its weights and texts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sluice.convert import making
from sluice.convert.architecture import FAMILIES
from sluice.convert.making import Made, Progress
from sluice.convert.settings_file import HEADING, labels_table, text_of
from sluice.convert.source import TEXT_FILES, inside, read_object
from sluice.errors import ModelError
from sluice.store import graph_inspection

_FOLDER = "onnx"  # where the Hugging Face Hub has graphs
_CONFIG = "config.json"
_TASKS = {"ForSequenceClassification": "classification", "ForTokenClassification": "token-classification"}


@dataclass(frozen=True)
class GraphFile:
    """`path` is the ONNX file; `directory` is where texts that belong to it are, if it was named by that."""

    path: Path
    directory: Path | None = None
    said: tuple[str, ...] = ()

    @property
    def place(self) -> Path:
        return self.directory or self.path

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path, *self._weights.values(), *self._texts, *([self._config] if self._config else []))

    @property
    def _texts(self) -> tuple[Path, ...]:
        if self.directory is None:
            return ()
        return tuple(path for name in TEXT_FILES if (path := self.directory / name).is_file())

    @property
    def _config(self) -> Path | None:
        path = self.directory / _CONFIG if self.directory else None
        return path if path and path.is_file() else None

    def make(self, staging: Path, progress: Progress) -> Made:
        weights = self._weights
        copies = [(self.path, making.MODEL), *((path, name) for name, path in weights.items())]
        copies += [(path, path.name) for path in self._texts]
        for number, (path, name) in enumerate(copies):
            progress("copy", number, len(copies))
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, staging / name)
        progress("copy", len(copies), len(copies))
        progress("check", 0, 1)
        graph_inspection.inspect(staging / making.MODEL, staging, self.path.name)
        session = making.start(staging / making.MODEL)
        progress("check", 1, 1)
        return self._told([port.name for port in session.get_outputs()])

    @cached_property
    def _weights(self) -> dict[str, Path]:
        """The files with external data, by what the graph calls them."""
        import onnx

        try:
            model = onnx.load(self.path, load_external_data=False)
        except Exception as error:  # protobuf's are no others' errors
            raise ModelError(f"{self.path}: is not an ONNX model: {making.first_line(error)}") from error
        names = dict.fromkeys(name for tensor in _tensors(model) if (name := _location(tensor)))
        taken = next((name for name in names if os.path.normpath(name) == making.MODEL), None)
        if taken:
            raise ModelError(f"{self.path}: its weights lie in a file called {taken}, which is to be the model's name")
        return {name: inside(self.path.parent, name) for name in names}

    def _told(self, outputs: list[str]) -> Made:
        """What `config.json` beside the graph says, of which the graph itself says nothing."""
        if self._config is None:
            return Made()
        config = read_object(self._config)
        architecture = str((config.get("architectures") or [""])[0])
        task = next((task for suffix, task in _TASKS.items() if architecture.endswith(suffix)), "other")
        return Made(task, _settings(config, outputs, task))


def _settings(config: dict[str, Any], outputs: list[str], task: str) -> str:
    lines = []
    positions, pad = config.get("max_position_embeddings"), config.get("pad_token_id")
    family = FAMILIES.get(str(config.get("model_type")))
    if isinstance(positions, int) and positions > 0 and family is not None:
        behind = (pad if isinstance(pad, int) else family.pad) + 1 if family.positions_skip_padding else 0
        lines += [f"max_length = {positions - behind}", ""]
    labels = config.get("id2label")
    if task != "other" and isinstance(labels, dict) and "logits" in outputs:
        names = [labels.get(str(number)) for number in range(len(labels))]
        if all(isinstance(name, str) for name in names):
            lines += labels_table("logits", tuple(map(str, names)))
    return text_of([HEADING, *lines]) if lines else ""


def find_graph(directory: Path) -> Path | None:
    """The ONNX file of a directory: the usual one, else the only one, at its top or below `onnx/`."""
    for folder in (directory, directory / _FOLDER):
        graphs = sorted(path for path in folder.glob("*.onnx") if path.is_file())
        usual = [path for path in graphs if path.name == making.MODEL]
        if usual or len(graphs) == 1:
            return (usual or graphs)[0]
        if graphs:
            names = ", ".join(path.name for path in graphs)
            raise ModelError(f"{folder}: has more than one ONNX file; name one of them: {names}")
    return None


def _location(tensor: Any) -> str:
    return next((each.value for each in tensor.external_data if each.key == "location"), "")


def _tensors(model: Any) -> Iterator[Any]:
    """Every constant of a model, also those of graphs within graphs."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for graph in (attribute.g, *attribute.graphs):
                yield from _of_graph(graph)
