"""KServe's Python client, which speaks both protocols."""

from collections.abc import Iterator
from pathlib import Path

import checks
import pytest

INTERPRETER = checks.HERE.parents[1] / ".venvs" / "kserve" / "bin" / "python"
SCRIPT = checks.HERE / "kserve_checks.py"

pytestmark = pytest.mark.skipif(
    not INTERPRETER.exists(), reason="KServe's client is not installed: `make clients` does that and runs this"
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[checks.Outcomes]:
    directory: Path = tmp_path_factory.mktemp("kserve")
    with checks.outcomes(directory, str(INTERPRETER), str(SCRIPT)) as found:
        yield found


@pytest.mark.parametrize("name", checks.names(SCRIPT))
def test_kserve_client(name: str, outcomes: checks.Outcomes) -> None:
    assert outcomes[name] == ""
