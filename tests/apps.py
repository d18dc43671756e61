"""A whole server inside the test's own process, without front ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sluice.app import App
from sluice.config.settings import Settings


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[App]:
    """Its workers run, and what the settings name is loaded, until the end of the block."""
    app = App(settings)
    try:
        await app.pool.start()
        await app.catalog.load_all()
        yield app
    finally:
        await app.close()
