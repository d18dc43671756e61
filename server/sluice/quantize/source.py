"""The version that is to be made smaller: its model with all weights, its files, and what its manifest says."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from sluice.errors import ModelError
from sluice.evaluation.runner import Allowed, trusted
from sluice.store import encrypted, manifest
from sluice.store.contents import files_of
from sluice.store.manifest import Manifest
from sluice.store.repository import VersionFiles

RECORD, PICTURE = "quantize.json", "quantize.svg"
# What tells how the parent was made, and would tell lies about its child.
_OF_THE_PARENT = {RECORD, PICTURE, "import.json"}


@dataclass(frozen=True, slots=True)
class Origin:
    files: VersionFiles
    manifest: Manifest  # the one that would be sealed, if it is not
    model: ModelProto  # with its weights
    size: int  # of the model's file and those of its weights
    others: tuple[str, ...]  # files that its child has as well

    @property
    def name(self) -> str:
        return f"{self.files.model}/{self.files.version}"


def read(files: VersionFiles) -> Origin:
    """ModelError if a server would not load it, or it is no ONNX model of 32-bit floats."""
    if files.backend != "onnxruntime":
        raise ModelError(
            f"{files.model}/{files.version}: only ONNX models can be quantized, not one of '{files.backend}'"
        )
    if encrypted.header_of(files.path, files.directory, files.path.name) is not None:
        how = "`sluice decrypt` it, quantize what comes of it, and encrypt that"
        raise ModelError(f"{files.model}/{files.version}: is encrypted; {how}")
    sealed = trusted(files, Allowed())
    try:
        model = onnx.load(str(files.path), load_external_data=False)
        data = {_location(tensor) for tensor in model.graph.initializer} - {""}
        onnx.load_external_data_for_model(model, str(files.path.parent))
    except (DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{files.model}/{files.version}/{files.path.name}: cannot be read as ONNX: {error}") from error
    own = {files.path, *(files.path.parent / name for name in data)}
    known = {path.relative_to(files.directory).as_posix() for path in own}
    return Origin(
        files,
        sealed or manifest.examine(files.directory),
        model,
        sum(path.stat().st_size for path in own),
        tuple(name for name in files_of(files.directory) if name not in known | _OF_THE_PARENT),
    )


def _location(tensor: onnx.TensorProto) -> str:
    """The file that holds its numbers; "" = the model's own."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return ""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
