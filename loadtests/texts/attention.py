"""How long an event loop keeps others waiting: processes that listen to a metronome, and the metronome.

`served REPOSITORY` is a whole server in this process, `idle` nothing but an event loop, which shows what the machine
itself makes everybody wait for, and `beat PORT …` sends the time to each of these ports a thousand times a second. A
listener notes for each beat how late it took notice, and how much CPU each callback of its event loop used, which other
processes on the machine do not add to; asyncio's own loop can be made to tell, uvloop cannot. It prints its ports as a
line of JSON, and answers each line on its input with what it noted since the last one; it ends when its input does.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

BEAT = 0.001
_STAMP = struct.Struct("<d")


class Listener:
    """Notes how late beats are heard."""

    def __init__(self) -> None:
        self.late: list[float] = []  # seconds
        self.used: list[float] = []  # seconds of CPU of each callback
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]

    def hear(self) -> None:
        """All beats that wait."""
        while True:
            try:
                data = self.socket.recv(_STAMP.size)
            except BlockingIOError:
                return
            self.late.append(time.monotonic() - _STAMP.unpack(data)[0])

    def time_callbacks(self) -> None:
        """From now on, of every event loop of this process."""
        kind: Any = asyncio.Handle
        run = kind._run

        def timed(handle: asyncio.Handle) -> None:
            began = time.thread_time()
            run(handle)
            self.used.append(time.thread_time() - began)

        kind._run = timed

    def noted(self) -> dict[str, list[float]]:
        found = {"late": self.late, "used": self.used}
        self.late, self.used = [], []
        return found


async def listen(repository: Path | None) -> None:
    loop = asyncio.get_running_loop()
    listener = Listener()
    loop.add_reader(listener.socket.fileno(), listener.hear)
    ports = {"beat": listener.port}
    app = None
    if repository is not None:
        from sluice.app import App
        from sluice.config.settings import Models, Server, Settings

        server = Server(http_port=0, grpc_port=0, metrics_port=0)
        app = App(Settings(models=Models(repository=repository), server=server))
        announcement = await app.start()
        ports["http"] = int(announcement.http.rpartition(":")[2])
    listener.time_callbacks()
    print(json.dumps(ports), flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(listener.noted()), flush=True)
        listener.noted()  # writing that was no work of the server's
    if app is not None:
        await app.stop(0)


def beat(ports: list[int]) -> None:
    """Until its input ends, which is looked for in a thread."""
    import threading

    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        while not ended.is_set():
            time.sleep(BEAT)
            for port in ports:
                sender.sendto(_STAMP.pack(time.monotonic()), ("127.0.0.1", port))


def main(kind: str, *arguments: str) -> None:
    if kind == "beat":
        beat([int(one) for one in arguments])
    else:
        asyncio.run(listen(Path(arguments[0]) if kind == "served" else None))


if __name__ == "__main__":
    main(*sys.argv[1:])
