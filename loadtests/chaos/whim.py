"""The Python model that misbehaves: y = 3x + 1, unless a row or a file tells it otherwise.

It is copied into the repository as model.py and runs inside the workers. A row is [mark, serial, order, values…]; its
order is a fault that this request always causes. A file in the `armed` directory is one that happens once, to whichever
batch comes first. Everything it does is a line in the `witness` file, with the process and the monotonic time, which
all processes of a machine share; so the harness knows which worker computed what, and when.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

MARK = 1 << 40
ORDERS = ("fine", "raise", "exit", "crash", "hang", "spin", "out-of-memory", "device", "hog", "hold")
HOG_BYTES = 300 << 20
HOG_SECONDS = 4.0


class Model:
    """One life of it in one worker."""

    def load(self, directory: Path, parameters: dict[str, str]) -> None:
        self.armed = parameters["armed"]
        self.witness = os.open(parameters["witness"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self.hogs: list[bytearray] = []

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        x = inputs["x"]
        if x.shape[1] < 3 or not (x[:, 0] == MARK).all():
            self.say("warm", ())
            return {"y": x * 3 + 1}
        serials = x[:, 1].tolist()
        self.say("run", serials)
        for row in x[x[:, 2] > 0]:
            self.misbehave(ORDERS[int(row[2])], [int(row[1])])
        for name in os.listdir(self.armed):
            try:
                os.unlink(os.path.join(self.armed, name))
            except FileNotFoundError:
                continue  # another worker was first
            self.misbehave(name.partition(".")[0], serials)
        return {"y": x * 3 + 1}

    def say(self, what: str, serials: Any) -> None:
        text = f"{os.getpid()} {time.monotonic():.6f} {what} {','.join(map(str, serials))}\n"
        os.write(self.witness, text.encode())

    def misbehave(self, order: str, serials: list[int]) -> None:
        self.say(order, serials)
        if order == "raise":
            raise ValueError("it was told to raise")
        if order == "out-of-memory":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 0 bytes free)")
        if order == "device":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if order == "exit":
            os._exit(3)
        if order == "crash":
            import ctypes

            ctypes.string_at(0)
        if order == "hog":
            self.hogs.append(bytearray(os.urandom(1 << 20) * (HOG_BYTES >> 20)))
            threading.Timer(HOG_SECONDS, self.hogs.clear).start()
        while order in ("hang", "hold"):
            time.sleep(60)
        while order == "spin":
            pass

    def close(self) -> None:
        os.close(self.witness)
