"""Writes sentences of real English as JSON lines: what the Python library's own docstrings say.

They are on every machine that runs this, in the same words for the same Python, and of lengths as people write:
`python -m loadtests.english build/texts.jsonl --count 1200`.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

_SHORTEST, _LONGEST = 12, 2400  # letters
_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    texts = sorted(set(docstrings(Path(sysconfig.get_paths()["stdlib"]))))
    random.Random(arguments.seed).shuffle(texts)
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    with arguments.file.open("w", encoding="utf-8") as file:
        for text in texts[: arguments.count]:
            file.write(json.dumps(text, ensure_ascii=False) + "\n")
    print(f"{min(arguments.count, len(texts))} of {len(texts)} texts are in {arguments.file}")


def docstrings(library: Path) -> Iterator[str]:
    """Of every module, class and function, with its line breaks taken out."""
    for path in sorted(library.rglob("*.py")):
        if _SKIPPED & set(path.relative_to(library).parts):
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = " ".join((ast.get_docstring(node) or "").split())
                if _SHORTEST <= len(text) <= _LONGEST:
                    yield text


if __name__ == "__main__":
    main()
