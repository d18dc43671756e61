"""One server with a model of each task."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import texts
from servers import Server, end, launch


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("texts")
    started = launch(texts.all_of_them(place / "models"), place / "server.log", "--workers", "1")
    yield started
    end(started)
