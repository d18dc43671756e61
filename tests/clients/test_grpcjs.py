"""Node.js's gRPC client, which shares no code with any other and knows the service from `protos/` alone."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import checks
import pytest

SCRIPT = checks.HERE / "grpcjs" / "checks.mjs"
PACKAGES = SCRIPT.parent / "node_modules"

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not PACKAGES.exists(),
    reason="Node.js or its gRPC client is not installed: `make clients` installs the latter and runs this",
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[checks.Outcomes]:
    directory: Path = tmp_path_factory.mktemp("grpcjs")
    with checks.outcomes(directory, "node", str(SCRIPT.with_name("run.mjs"))) as found:
        yield found


@pytest.mark.parametrize("name", checks.names(SCRIPT))
def test_grpcjs_client(name: str, outcomes: checks.Outcomes) -> None:
    assert outcomes[name] == ""
