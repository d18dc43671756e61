"""Fixtures for every test."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from servers import Server, StartServer, end, launch

# Shared and slow machines are no bug of what is tested.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start servers that live as long as the test."""
    servers: list[Server] = []

    def start(repository: Path, *flags: str, environment: dict[str, str] | None = None) -> Server:
        server = launch(repository, tmp_path / f"server{len(servers)}.log", *flags, environment=environment)
        servers.append(server)
        return server

    yield start
    for server in servers:
        end(server)
