"""What the fields of requests mean: by name, or by `Body.name` where a name means different things."""

from __future__ import annotations

from typing import Any

MEANINGS = {
    # texts
    "model": "A model, as `minilm`, `minilm/2` or `minilm/staging`; not needed where only one does such a thing.",
    "EmbeddingsBody.model": "A model, as `minilm`, `minilm/2` or `minilm/staging`.",
    "model_id": "A model, as `minilm`, `minilm/2` or `minilm/staging`.",
    "EmbeddingsBody.input": "A text, texts, the tokens of one text, or of several; up to 2048.",
    "InferenceBody.input": "A text, a pair of texts, or a list of either.",
    "EmbedBody.inputs": "A text, texts, the tokens of one text, or of several; up to 2048.",
    "PredictBody.inputs": "A text; a pair of texts as a list; or several, each a list of one text or two.",
    "TokenizeBody.inputs": "A text or texts.",
    "SimilarityBody.inputs": "The sentence and those to compare it with.",
    "source_sentence": "What the others are compared with.",
    "sentences": "The others.",
    "Pipeline.inputs": "Whatever the model reads: a text, texts, a pair, or a sentence and others.",
    "encoding_format": "Numbers, or base64 of float32 in little-endian order.",
    "dimensions": "Keep only the first ones, and make the vector a unit vector again.",
    "user": "Taken and not used.",
    "prompt_name": "Which of the model's prompts is put before each text.",
    "truncate": "Whether a text that is too long is cut instead of being refused.",
    "EmbeddingsBody.truncate": "The end of a too long text that is cut, not refused; true is the right one.",
    "InferenceParameters.truncate": "As for `/v1/embeddings`.",
    "truncation_direction": "The end that goes; else as the model's settings say, or the right one.",
    "normalize": "Whether vectors are made unit vectors; else as the model's settings say.",
    "raw_scores": "Give scores as the model computed them, without softmax or sigmoid.",
    "aggregation_strategy": "How tokens are joined to named parts, as in transformers' pipelines.",
    "function_to_apply": "What makes scores of what the model computed; else what fits it.",
    "top_k": "How many classes, the best; else all.",
    "query": "What is asked.",
    "texts": "What might answer it; up to 2048.",
    "documents": "What might answer it, texts or objects with one; up to 2048. They are cut if they are too long.",
    "return_text": "Whether the texts come back with their scores.",
    "return_documents": "Whether the documents come back with their scores.",
    "top_n": "How many, the best; else all.",
    "max_tokens_per_doc": "Taken and not used: documents are cut to what the model reads.",
    "text_1": "A text, to go with each of the others; or as many as there are others.",
    "text_2": "The others.",
    "truncate_prompt_tokens": "If there is a number, texts are cut to what the model reads instead of being refused.",
    "add_special_tokens": "Whether the tokens that the model was trained with stand around the text.",
    "ids": "The tokens of a text, or of several.",
    "skip_special_tokens": "Leave out the tokens that are not of the text.",
    "InferenceBody.parameters": "How it is to be done; what does not apply to the model's task is ignored.",
    "SimilarityBody.parameters": "How it is to be done.",
    "Pipeline.parameters": "How it is to be done: `function_to_apply`, `top_k`, `aggregation_strategy`.",
    "text": "The text, or the first of a pair.",
    "Document.text": "The document's text.",
    "text_pair": "The second text of a pair.",
    # tensors
    "InferRequest.inputs": "The model's own tensors; or `text`, and `text_pair` for pairs, of the datatype BYTES.",
    "outputs": "Which outputs are wanted; else all that are given by default.",
    "id": "Comes back with the answer, and stands in the log.",
    "InferRequest.parameters": "`binary_data_output`, `timeout` in microseconds, `priority`, `truncate`.",
    "Input.name": "The tensor's name.",
    "OutputBody.name": "The tensor's name.",
    "datatype": "As FP32, INT64 or BYTES.",
    "shape": "Its size along each axis.",
    "data": "Its elements in row-major order, flat or nested.",
    "Input.parameters": "`binary_data_size`, or `shared_memory_region` with its size and offset.",
    "OutputBody.parameters": "`binary_data`, `classification`, or `shared_memory_region` with its size and offset.",
    # operation
    "ready": "Only the versions that are ready.",
    "LoadBody.parameters": "`config`, to be used instead of that on disk, and files as `file:<path>` in base64.",
    "UnloadBody.parameters": "How it is to be done.",
    "unload_dependents": "Also unload the models that need this one.",
    "version": "A number, or another alias.",
    "by": "Who does it; the header `sluice-by` has the word over it.",
    "reason": "Why.",
    "key": "The name of the POSIX shared memory object.",
    "byte_size": "How much of it.",
    "offset": "From where.",
}


def explain(components: dict[str, Any], bodies: set[str]) -> None:
    """Add the meaning of each field to the schemas of these bodies and of what they consist of."""
    for body in bodies:
        properties = components[body].get("properties", {})
        for name, schema in properties.items():
            meaning = MEANINGS.get(f"{body}.{name}") or MEANINGS.get(name)
            if meaning is not None and "description" not in schema:
                schema["description"] = meaning
