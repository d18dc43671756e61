"""Generates the message classes in server/sluice/pb from the definitions beside this file (`make protos`)."""

from __future__ import annotations

import re
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

SOURCES = Path(__file__).resolve().parent
TARGET = SOURCES.parent / "server" / "sluice" / "pb"
NAMES = ("health", "inference", "model_config")

# protoc writes modules that import each other from the top level and register in protobuf's default pool.
SIBLING = re.compile(r"^import (\w+_pb2) as (\w+)$", re.MULTILINE)
TOP_LEVEL = re.compile(r"(BuildTopDescriptorsAndMessages\(DESCRIPTOR, )'(\w+)'")
DEFAULT_POOL = "_descriptor_pool.Default()"
POOL_IMPORT = "from google.protobuf import descriptor_pool as _descriptor_pool\n"


def generate(target: Path) -> None:
    """Writes `<name>_pb2.py` and `.pyi` for every definition into `target`."""
    with tempfile.TemporaryDirectory() as scratch:
        status = protoc.main(
            [
                "protoc",
                f"--proto_path={SOURCES}",
                f"--proto_path={files('grpc_tools') / '_proto'}",
                f"--python_out={scratch}",
                f"--pyi_out={scratch}",
                *(f"{name}.proto" for name in NAMES),
            ]
        )
        if status != 0:
            raise SystemExit(status)
        for path in sorted(Path(scratch).iterdir()):
            (target / path.name).write_text(_adapt(path.read_text(), module=path.suffix == ".py"))


def _adapt(source: str, *, module: bool) -> str:
    source = SIBLING.sub(r"from sluice.pb import \1 as \2", source)
    if not module:
        return source
    if source.count(POOL_IMPORT) != 1 or source.count(DEFAULT_POOL) != 1:
        raise SystemExit("protoc's output has changed: no single place where the descriptor pool is named")
    source = TOP_LEVEL.sub(r"\1'sluice.pb.\2'", source)
    return source.replace(POOL_IMPORT, "from sluice.pb.pool import POOL as _POOL\n").replace(DEFAULT_POOL, "_POOL")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
