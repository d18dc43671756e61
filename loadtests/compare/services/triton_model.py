"""Triton's adapter: a model of its Python backend, copied into its repository as model.py."""

import triton_python_backend_utils as pb_utils
from embedder import Embedder


class TritonPythonModel:
    def initialize(self, args):
        self._embed = Embedder()

    def execute(self, requests):
        """One answer for each request; with dynamic batching there are as many as share a batch."""
        tensors = [pb_utils.get_input_tensor_by_name(request, "input_ids") for request in requests]
        rows = self._embed([tensor.as_numpy().ravel() for tensor in tensors])
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("embedding", rows[number : number + 1])])
            for number in range(len(requests))
        ]
