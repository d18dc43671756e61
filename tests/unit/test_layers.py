"""The layer rule: a module imports only from layers below its own, and siblings never import each other."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sluice

PACKAGE = Path(sluice.__file__).parent

# From the top down. A name stands for a module or a folder; those on one line never import each other.
LAYERS: list[set[str]] = [
    {"cli"},
    {"app", "bench", "convert", "quantize", "simulation"},
    {"evaluation"},
    {"frontends"},
    {"engine"},
    {"catalog"},
    {"tracking"},
    {"following", "inventory"},
    {"versions", "replacing"},
    {"loading"},
    {"workers"},
    {"admission", "classification", "reuse", "text"},
    {"scheduler", "store", "backends", "vitals"},
    {"health", "pressure", "telemetry"},
    {"config", "encryption"},
    {"request", "spec", "errors", "pb", "charts", "plain"},
]
HEIGHT = {name: height for height, names in enumerate(reversed(LAYERS)) for name in names}
# The nouns lean on one another: errors is below spec, spec below request.
NOUNS = {"request": {"spec", "errors"}, "spec": {"errors"}}


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "sluice" else {node.module}
            )
    return {name for name in found if name.split(".")[0] == "sluice"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_below(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for module in imports_of(path):
        other = part_of(module)
        if other in ("", own, "__version__"):
            continue
        allowed = HEIGHT[other] < HEIGHT[own] or other in NOUNS.get(own, set())
        assert allowed, f"{own} must not import {module}"


def test_every_part_of_the_package_has_a_layer() -> None:
    parts = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts - {"__init__", "__pycache__", "py.typed"} == set(HEIGHT)


@pytest.mark.parametrize(("more", "parts"), [("", set()), (", sluice.backends.decrypted", {"encryption"})])
def test_a_worker_process_loads_nothing_above_workers(more: str, parts: set[str]) -> None:
    program = f"import sys, sluice.workers.child, sluice.backends.ort{more}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    found = {part_of(name) for name in loaded if name.startswith("sluice.")}
    assert found == {"workers", "backends", "request", "spec", "errors"} | parts
    foreign = {"asyncio", "grpc", "uvicorn", "starlette", "uvloop", "pydantic", "prometheus_client", "torch", "google"}
    assert not foreign & {name.split(".")[0] for name in loaded}
