"""A model that can be broken and mended while it is served."""

from pathlib import Path

SOURCE = """
from pathlib import Path


class Model:
    def load(self, directory, parameters):
        self.broken = Path(parameters["broken"])
        self.factor = int(parameters["factor"])

    def run(self, inputs):
        if self.broken.exists():
            raise RuntimeError("it is broken")
        return {"y": inputs["x"] * self.factor}
"""


def breakable(repository: Path, name: str, broken: Path, factor: int = 1, more: str = "", version: str = "1") -> Path:
    """x [batch, n] INT64 -> y = x × factor; raises while the file `broken` exists."""
    directory = repository / name
    (directory / version).mkdir(parents=True, exist_ok=True)
    (directory / version / "model.py").write_text(SOURCE)
    (directory / "model.toml").write_text(
        f"""{more}
[[input]]
name = "x"
datatype = "INT64"
shape = [-1, -1]
batch_axis = 0
[[output]]
name = "y"
datatype = "INT64"
shape = [-1, -1]
batch_axis = 0
[parameters]
broken = "{broken}"
factor = {factor}
"""
    )
    return directory
