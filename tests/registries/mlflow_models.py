"""Registers models of many kinds; run in the environment that has MLflow."""

import json
import sys
from pathlib import Path

import mlflow
import numpy as np
import onnx
from mlflow import MlflowClient
from onnx import TensorProto, helper, numpy_helper


def graph(factor: float, size: int = 4) -> onnx.ModelProto:
    """Multiplies by the factor."""
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    shape: list[str | int | None] = ["batch", size]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    weights = numpy_helper.from_array(np.full(size, factor, np.float32), "factor")
    made = helper.make_graph([node], "test", ports[:1], ports[1:], [weights])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


class Twice(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def predict(self, context: object, model_input: list[float]) -> list[float]:
        return [2 * each for each in model_input]


def main(place: str) -> None:
    client = MlflowClient()
    runs = []
    with mlflow.start_run() as run:
        runs.append(run.info.run_id)
        mlflow.log_metrics({"accuracy": 0.93, "lost": float("nan")})
        mlflow.onnx.log_model(graph(2), name="model", pip_requirements=["onnx"], registered_model_name="net")
    client.update_model_version("net", "1", "Doubles *everything*.")
    for key, value in {"licence": "Apache-2.0", "task": "other", "team": "search", "mlflow.x": "y"}.items():
        client.set_model_version_tag("net", "1", key, value)
    client.set_registered_model_alias("net", "champion", "1")
    with mlflow.start_run() as run:
        runs.append(run.info.run_id)
        mlflow.onnx.log_model(
            graph(3, 5000),
            name="model",
            pip_requirements=["onnx"],
            registered_model_name="net",
            save_as_external_data=True,
        )
    with mlflow.start_run():
        mlflow.pyfunc.log_model(
            name="model", python_model=Twice(), pip_requirements=[], registered_model_name="pickled"
        )
    client.create_registered_model("empty")
    Path(place).write_text(json.dumps(runs))


if __name__ == "__main__":
    main(sys.argv[1])
