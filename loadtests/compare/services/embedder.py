"""What every peer's adapter shares: the model in onnxruntime, one thread, and the padding of a batch.

An adapter runs in its peer's own environment and is told what to do by the variables read here.
"""

import json
import os

import numpy as np
import onnxruntime

MODEL = os.environ.get("COMPARE_MODEL", "")
PORT = int(os.environ.get("COMPARE_PORT", "0"))
WORKERS = int(os.environ.get("COMPARE_WORKERS", "1"))
# What the peer's dynamic batching is set to; null when it is off.
BATCHING = json.loads(os.environ.get("COMPARE_BATCHING", "null"))


class Embedder:
    """Token ids of one or several texts to their embeddings."""

    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
        # the pooled embedding, not every token's state
        self._outputs = [port.name for port in self._session.get_outputs() if len(port.shape) == 2]

    def __call__(self, texts):
        """Rows × width, for a list of one-dimensional arrays of token ids, padded to the longest."""
        shape = (len(texts), max(map(len, texts)))
        ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros(shape, np.int64)}
        return self._session.run(self._outputs, feed)[0]


def ids(body):
    """The token ids of a binary body."""
    return np.frombuffer(body, "<i8")
