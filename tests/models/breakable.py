"""A model that can be broken and mended while it is served."""

from pathlib import Path

import graphs

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
    parameters = f'[parameters]\nbroken = "{broken}"\nfactor = {factor}\n'
    return graphs.python_model(repository, name, SOURCE, more, parameters, version)
