"""The same texts, the same answers as transformers' pipelines and sentence-transformers give."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers import Server, end, launch

from sluice.convert.importer import import_directory

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STRATEGIES = ("none", "simple", "first", "average", "max")


def make() -> Any:
    """The script that made the expected answers; it imports torch only when it runs."""
    source = (HERE / "make_golden_texts.py").read_text(encoding="utf-8")
    constants: dict[str, Any] = {}
    for name in ("TEXTS", "PAIRS"):
        begin = source.index(f"{name} = (")
        exec(source[begin : source.index("\n)", begin) + 2], constants)
    return constants


TEXTS, PAIRS = (make()[name] for name in ("TEXTS", "PAIRS"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("golden")
    for name in ("ner", "classes", "cross"):
        import_directory(HERE / "golden" / name, place / "models", name)
    settings = place / "models" / "cross" / "model.toml"
    if "task" not in tomllib.loads(settings.read_text()).get("text", {}):
        settings.write_text(settings.read_text() + '\n[text]\ntask = "rerank"\n')
    shutil.copytree(ROOT / "models" / "minilm", place / "models" / "minilm")
    started = launch(place / "models", place / "server.log", "--workers", "1")
    yield started
    end(started)


def expected(name: str) -> Any:
    return json.loads((HERE / "golden" / name / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_named_parts(server: Server, strategy: str) -> None:
    for text, wanted in zip(TEXTS, expected("ner")[strategy], strict=True):
        body = {"inputs": text, "model": "ner", "aggregation_strategy": strategy}
        status, found = server.request("POST", "/predict", body)
        assert status == 200, found
        assert [{**one, "score": 0} for one in found] == [{**one, "score": 0} for one in wanted]
        np.testing.assert_allclose([one["score"] for one in found], [one["score"] for one in wanted], rtol=1e-4)


def test_classes(server: Server) -> None:
    for text, wanted in zip(TEXTS, expected("classes")["texts"], strict=True):
        _, found = server.request("POST", "/predict", {"inputs": text, "model": "classes"})
        assert [one["label"] for one in found] == [one["label"] for one in wanted]
        np.testing.assert_allclose([one["score"] for one in found], [one["score"] for one in wanted], rtol=1e-4)


def test_scores_of_pairs(server: Server) -> None:
    wanted = expected("cross")
    body: dict[str, Any] = {"text_1": [one for one, _ in PAIRS], "text_2": [other for _, other in PAIRS]}
    _, found = server.request("POST", "/score", {**body, "model": "cross"})
    np.testing.assert_allclose([one["score"] for one in found["data"]], wanted["scores"], rtol=1e-4)
    query = PAIRS[0][0]
    body = {"query": query, "texts": [other for one, other in PAIRS if one == query], "raw_scores": True}
    _, ranked = server.request("POST", "/rerank", {**body, "model": "cross"})
    by_index = {one["index"]: one["score"] for one in ranked}
    np.testing.assert_allclose([by_index[0], by_index[1]], wanted["logits"][:2], rtol=1e-4)


def test_embeddings(server: Server) -> None:
    """The demo model's, by sentence-transformers; the texts are those of the importer's golden files."""
    source = (ROOT / "tests" / "models" / "make_golden.py").read_text(encoding="utf-8")
    begin = source.index("TEXTS = (")
    constants: dict[str, Any] = {}
    exec(source[begin : source.index("\n)", begin) + 2], constants)
    wanted = np.load(ROOT / "tests" / "models" / "golden" / "minilm" / "expected.npz")
    _, found = server.request("POST", "/embed", {"inputs": list(constants["TEXTS"]), "model": "minilm"})
    name = next(one for one in wanted.files if one.endswith("embedding"))
    np.testing.assert_allclose(found, wanted[name], atol=2e-6)
