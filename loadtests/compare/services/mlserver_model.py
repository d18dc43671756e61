"""MLServer's adapter: a custom runtime.

Its adaptive batching joins requests along the first axis and needs the others equal. A text's ids travel as one element
of a BYTES tensor, as strings do for its own language runtimes, and are padded here, where the batch is known.
"""

from embedder import Embedder, ids
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class EmbedderRuntime(MLModel):
    async def load(self):
        self._embed = Embedder()
        return True

    async def predict(self, payload):
        rows = self._embed([ids(text) for text in payload.inputs[0].data.root])
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("embedding", rows)])
