"""LangChain, LlamaIndex, Cohere's client and others that ask for embeddings and ranks of texts."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import checks
import pytest
import texts

INTERPRETER = checks.HERE.parents[1] / ".venvs" / "texts" / "bin" / "python"
SCRIPT = checks.HERE / "texts_checks.py"

pytestmark = pytest.mark.skipif(
    not INTERPRETER.exists(),
    reason="LangChain and the others are not installed: `make clients` does that and runs this",
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[checks.Outcomes]:
    directory: Path = tmp_path_factory.mktemp("texts")
    with checks.serving(texts.all_of_them(directory / "models"), directory) as server:
        yield checks.run([str(INTERPRETER), str(SCRIPT), server.http], directory, server)


@pytest.mark.parametrize("name", checks.names(SCRIPT))
def test_text_client(name: str, outcomes: checks.Outcomes) -> None:
    assert outcomes[name] == ""


BLOCKS = re.findall(r"^```python\n(.*?)^```", (checks.HERE.parents[1] / "docs" / "texts.md").read_text(), re.M | re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split()[1])
def test_the_page_s_examples(block: str, tmp_path: Path) -> None:
    texts.embedder(tmp_path / "models", "minilm")
    texts.reranker(tmp_path / "models")
    with checks.serving(tmp_path / "models", tmp_path) as server:
        script = block.replace("http://127.0.0.1:8000", server.http)
        done = subprocess.run(
            [str(INTERPRETER), "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=checks.PATIENCE
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("2", "4")
