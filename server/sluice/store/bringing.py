"""Brings what models lack of what their `[source]` says while a server starts, each by a `sluice pull` of its own.

It is another process so that it can be ended at any moment, and what it needs to download and convert is not held by a
server that lives for months.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from dataclasses import replace
from pathlib import Path

from sluice.store import placing, repository
from sluice.store.origin import Origin
from sluice.store.redaction import redacted
from sluice.store.repository import Finding

log = logging.getLogger("sluice.store")

_AT_A_TIME = 4
_ERROR = "error: "


def lacks(origin: Origin, model: Path) -> bool:
    """Whether the model's directory is without the version that the origin names, or without any."""
    if origin.version:
        return not (model / origin.version).is_dir()
    return not any(placing.versions(model))


class Bringing:
    def __init__(self, models: Path) -> None:
        self._models = models
        self._turns = asyncio.Semaphore(_AT_A_TIME)
        self._running: set[Process] = set()

    def lacks(self, finding: Finding) -> bool:
        origin = finding.settings.origin if finding.settings is not None else None
        return origin is not None and lacks(origin, self._models / finding.name)

    async def bring(self, finding: Finding) -> Finding:
        """The model with what it lacked; or with the reason why it still does."""
        assert finding.settings is not None
        assert finding.settings.origin is not None
        origin = finding.settings.origin
        async with self._turns:
            log.info("model '%s': is brought from %s", finding.name, origin.shown)
            reason = await self._pull(finding.name)
        if not reason:
            return await asyncio.to_thread(repository.find, self._models, finding.name)
        others = [problem for problem in finding.problems if problem[0] not in ("", origin.version)]
        problem = (origin.version, f"cannot be brought from {origin.shown}: {reason}")
        return replace(finding, problems=(*others, problem))

    async def _pull(self, name: str) -> str:
        """Why it could not be; empty if it could."""
        # -P: the directory the server was started in must not shadow any module.
        command = (sys.executable, "-P", "-m", "sluice.cli.main", "pull", name, "--missing")
        try:
            process = await asyncio.create_subprocess_exec(
                *command, "--repository", str(self._models), stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
            )
        except OSError as error:
            return f"the system gives no process: {error.strerror}"
        self._running.add(process)
        try:
            _, said = await process.communicate()
        finally:
            self._running.discard(process)
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode == 0:
            return ""
        lines = said.decode(errors="replace").splitlines()
        told = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
        return redacted("; ".join(told) or _ending(process.returncode or 0, lines))

    def kill(self) -> None:
        """End what is being done, at once."""
        for process in self._running:
            process.kill()


def _ending(code: int, lines: list[str]) -> str:
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    return f"`sluice pull` {how}{f': {lines[-1]}' if lines else ''}"
