"""A wall clock that jumps decides nothing: what must wait, end or expire asks a clock that only goes forward."""

import ast
from pathlib import Path

import sluice

PACKAGE = Path(sluice.__file__).parent

# Where the time of day is what is wanted.
SHOWN = {
    "frontends/http/exchange.py": "the Date header",
    "store/aliases.py": "when a version was promoted",
    "store/encrypting.py": "when a version was encrypted",
    "store/manifest.py": "when a version was sealed",
    "telemetry/record.py": "when a model was last used, in Triton's statistics",
}
WALL = {("time", name) for name in ("time", "time_ns", "localtime", "gmtime", "ctime", "strftime")} | {
    (name, call) for name in ("datetime", "date") for call in ("now", "utcnow", "today")
}


def test_nothing_reads_the_wall_clock_but_to_show_it() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                assert not {("time", alias.name) for alias in node.names} & WALL, path
            if isinstance(node, ast.Attribute) and (ast.unparse(node.value), node.attr) in WALL:
                found.add(path.relative_to(PACKAGE).as_posix())
    assert found == set(SHOWN)
