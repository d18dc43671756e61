"""Reads Triton's `config.pbtxt`, or the same as JSON from a load request.

A part of it is one of three things: said in our own terms, noted as without effect (`_IGNORED`), or refused because the
model would answer wrongly or not at all without it (`_REFUSED`). Nothing is dropped silently.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from google.protobuf import json_format, text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from sluice.errors import ModelError
from sluice.pb import model_config_pb2 as pb
from sluice.spec import BYTES
from sluice.store.reading import backend, complaint, did_you_mean, read_labels, read_text, relative
from sluice.store.settings import Said, VersionPolicy, WarmUp, WarmUpInput

REQUEST = "the load request's config"

_PLATFORMS = {"onnxruntime_onnx": "onnxruntime", "onnxruntime": "onnxruntime", "python": "python"}
_REFUSED = {
    "ensemble_scheduling": "ensembles are not served here; serve their models and chain them in the client",
    "sequence_batching": "models that keep a state between requests are not served here",
    "batch_input": "inputs made from the batch are not supported; requests bring every input",
    "batch_output": "outputs scattered over the batch are not supported",
}
_IGNORED = {
    "optimization": "the backend's own defaults are used",
    "runtime": "the backend has one runtime",
    "cc_model_filenames": "one file serves every device",
    "metric_tags": "metrics carry the model and version",
    "model_metrics": "every model has the same metrics",
    "model_operations": "libraries of custom operators are not loaded",
    "model_repository_agents": "the files are loaded as they are",
}
_IGNORED_BATCHING = {
    "preferred_batch_size": "not needed: batches are formed from what waits",
    "max_queue_delay_microseconds": "not needed: no request waits for others to come",
    "preserve_ordering": "each request is answered when it is done",
    "priority_queue_policy": "every priority has the default queue policy",
}
_IGNORED_INSTANCE = {
    "rate_limiter": "each worker runs one batch at a time",
    "secondary_devices": "a worker has one device",
    "host_policy": "the operating system places the workers",
    "profile": "only TensorRT has profiles",
}


def read(path: Path) -> Said:
    """What `config.pbtxt` says; ModelError names file, line and field of the first thing wrong."""
    file = f"{path.parent.name}/{path.name}"
    text = read_text(path, file)
    config = pb.ModelConfig()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as error:
        why = re.sub(r"^\d+:\d+ : ", "", str(error))
        raise complaint(file, error.GetLine(), "", _unknown_field(why) or why) from error
    except (RecursionError, ValueError) as error:
        raise complaint(file, None, "", f"cannot be parsed: {error}") from error
    text = re.sub(r"#.*", "", text)
    says_rows = _line(text, "max_batch_size") is not None
    return _Config(file, text, path.parent, config, says_rows).said()


def read_json(config: str, directory: Path) -> Said:
    """What the JSON form of a configuration says about the model in `directory`."""
    message = pb.ModelConfig()
    try:
        document = json.loads(config)
        if not isinstance(document, dict):
            raise complaint(REQUEST, None, "", "must be a JSON object")
        json.dumps(document, ensure_ascii=False).encode()  # halves of characters, at which protobuf itself breaks
        json_format.ParseDict(document, message)
    except json_format.ParseError as error:
        why = " ".join(str(error).split())
        raise complaint(REQUEST, None, "", _unknown_field(why) or why) from error
    except (RecursionError, ValueError) as error:
        raise complaint(REQUEST, None, "", f"not valid JSON: {error}") from error
    says_rows = "max_batch_size" in document or "maxBatchSize" in document
    return _Config(REQUEST, "", directory, message, says_rows).said()


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON with the proto's names; unlike json_format's, its 64-bit integers are numbers."""
    result: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value_field = field.message_type.fields_by_name["value"]
            result[field.name] = {str(key): _plain_value(value_field, value[key]) for key in sorted(value)}
        elif field.is_repeated:
            result[field.name] = [_plain_value(field, item) for item in value]
        else:
            result[field.name] = _plain_value(field, value)
    return result


def _plain_value(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    return value


def _unknown_field(why: str) -> str:
    match = re.search(r'Message type "([\w.]+)" has no field named "([^"]+)"', why)
    if match is None:
        return ""
    descriptor = _descriptors(pb.ModelConfig.DESCRIPTOR).get(match[1], pb.ModelConfig.DESCRIPTOR)
    return f"unknown field '{match[2]}'; {did_you_mean(match[2], descriptor.fields_by_name)}"


def _descriptors(root: Any) -> dict[str, Any]:
    found, waiting = {root.full_name: root}, [root]
    while waiting:
        for field in waiting.pop().fields:
            if field.message_type is not None and field.message_type.full_name not in found:
                found[field.message_type.full_name] = field.message_type
                waiting.append(field.message_type)
    return found


@dataclass(frozen=True, slots=True)
class _Config:
    file: str
    text: str  # to find lines in; "" = there are none
    directory: Path
    config: pb.ModelConfig
    says_rows: bool  # max_batch_size is there, even as 0

    def said(self) -> Said:
        config, notes = self.config, list[str]()
        self._refuse()
        notes += self._ignored(config, _IGNORED, "")
        if config.response_cache.enable:
            notes.append(self._note("response_cache", "answers are not cached"))
        said: Said = {"triton": plain(config), **self._backend(), **self._policy()}
        if config.max_batch_size or self.says_rows:
            said["max_batch_rows"] = config.max_batch_size
        elif config.input:
            said["max_batch_rows"] = 0
            notes.append(self._note("max_batch_size", "is missing, which says that the dims have no batch axis"))
        said["inputs"] = self._tensors(config.input, "input", notes)
        said["outputs"] = self._tensors(config.output, "output", notes)
        said.update(self._instances(notes))
        said.update(self._batching(notes))
        if config.model_warmup:
            said["warm_up"] = tuple(self._warm_up(sample) for sample in config.model_warmup)
        if config.parameters:
            said["parameters"] = {key: config.parameters[key].string_value for key in sorted(config.parameters)}
        said["notes"] = tuple(notes)
        return said

    def _refuse(self) -> None:
        config = self.config
        if config.name and config.name != self.directory.name:
            raise self._error(
                "name",
                f"'{config.name}' is not the directory's name '{self.directory.name}'; leave it out or rename one",
            )
        if config.platform == "ensemble":
            raise self._error("platform", _REFUSED["ensemble_scheduling"])
        for field, _ in config.ListFields():
            if field.name in _REFUSED:
                raise self._error(field.name, _REFUSED[field.name])
        if config.model_transaction_policy.decoupled:
            raise self._error("decoupled", "models that answer a request several times are not served here")
        if config.max_batch_size < 0:
            raise self._error("max_batch_size", f"must be at least 0, not {config.max_batch_size}")

    def _backend(self) -> Said:
        said: Said = {}
        field = "backend" if self.config.backend else "platform"
        name = self.config.backend or self.config.platform
        try:
            if name:
                said["backend"] = backend(_PLATFORMS.get(name, name))
            field = "default_model_filename"
            if self.config.default_model_filename:
                said["filename"] = relative(self.config.default_model_filename)
        except ValueError as error:
            raise self._error(field, str(error)) from error
        return said

    def _policy(self) -> Said:
        policy = self.config.version_policy
        choice = policy.WhichOneof("policy_choice")
        if choice is None:
            return {}
        if choice == "specific":
            if not policy.specific.versions:
                raise self._error("specific", "must list at least one version")
            return {"version_policy": VersionPolicy("specific", versions=tuple(map(str, policy.specific.versions)))}
        if choice == "all":
            return {"version_policy": VersionPolicy("all")}
        return {"version_policy": VersionPolicy("latest", count=max(1, policy.latest.num_versions))}

    def _tensors(
        self, tensors: Iterable[pb.ModelInput] | Iterable[pb.ModelOutput], side: str, notes: list[str]
    ) -> dict[str, dict[str, Any]]:
        result: dict[str, dict[str, Any]] = {}
        for tensor in tensors:
            if not tensor.name:
                raise self._error(side, "name is missing")
            if tensor.name in result:
                raise self._error(side, f"'{tensor.name}' is described twice", tensor.name)
            result[tensor.name] = self._tensor(tensor, side, notes)
        return result

    def _tensor(self, tensor: pb.ModelInput | pb.ModelOutput, side: str, notes: list[str]) -> dict[str, Any]:
        where, said = f"{side} '{tensor.name}'", dict[str, Any]()
        if tensor.data_type:
            said["datatype"] = self._datatype(tensor.data_type, where)
        dims = tuple(tensor.dims)
        if tensor.HasField("reshape") and tuple(tensor.reshape.shape) != dims:
            dims = tuple(tensor.reshape.shape)
            notes.append(self._note(f"{where}: reshape", f"tensors are sent in the model's own shape {list(dims)}"))
        if any(size < -1 for size in dims):
            raise self._error(
                "dims", f"{where}: sizes must be at least 0, or -1 for any, not {list(dims)}", tensor.name
            )
        if dims or tensor.HasField("reshape"):
            said["shape"] = dims
            said["reshape_batch"] = self.config.max_batch_size > 0
        if isinstance(tensor, pb.ModelOutput):
            if tensor.label_filename:
                try:
                    said["labels"] = read_labels(self.directory, tensor.label_filename)
                except ValueError as error:
                    raise self._error("label_filename", str(error), tensor.name) from error
        else:
            if tensor.allow_ragged_batch:
                notes.append(self._note(f"{where}: allow_ragged_batch", "lengths are mixed by padding"))
            if tensor.optional:
                why = "only attention masks and segment ids may be left out, or inputs with a `fill` in model.toml"
                notes.append(self._note(f"{where}: optional", why))
        return said

    def _instances(self, notes: list[str]) -> Said:
        """Ours is one worker per GPU, and on the CPU as many as are said; a copy per GPU is what Triton counts."""
        count, gpus = 0, dict[int, None]()
        for group in self.config.instance_group:
            notes += self._ignored(group, _IGNORED_INSTANCE, "instance_group: ")
            if group.passive:
                notes.append(self._note("instance_group: passive", "such groups are left out"))
                continue
            gpus.update(dict.fromkeys(group.gpus))
            if group.kind == pb.ModelInstanceGroup.KIND_GPU or group.gpus:
                if group.count > 1:
                    notes.append(self._note("instance_group: count", "each GPU has one worker"))
            else:
                count += max(0, group.count)
        return {"instances": 0 if gpus else count, "gpus": tuple(gpus)} if self.config.instance_group else {}

    def _batching(self, notes: list[str]) -> Said:
        batching, said = self.config.dynamic_batching, dict[str, Any]()
        notes += self._ignored(batching, _IGNORED_BATCHING, "dynamic_batching: ")
        if batching.priority_levels:
            said["priority_levels"] = batching.priority_levels
        if batching.default_priority_level:
            said["default_priority"] = batching.default_priority_level
        policy = batching.default_queue_policy
        if policy.timeout_action == pb.ModelQueuePolicy.DELAY:
            why = "requests that waited too long are refused, not delayed"
            notes.append(self._note("dynamic_batching: timeout_action", why))
        if policy.max_queue_size:
            said["max_queue"] = policy.max_queue_size
        if policy.default_timeout_microseconds:
            said["queue_timeout"] = policy.default_timeout_microseconds / 1e6
        return said

    def _warm_up(self, sample: pb.ModelWarmup) -> WarmUp:
        where, inputs = f"model_warmup '{sample.name}'", []
        for name in sorted(sample.inputs):
            said = sample.inputs[name]
            if not said.data_type or any(size < 0 for size in said.dims):
                raise self._error(
                    "model_warmup", f"{where}: input '{name}' needs a data_type and dims of at least 0", name
                )
            try:
                file = relative(said.input_data_file) if said.input_data_file else ""
            except ValueError as error:
                raise self._error("input_data_file", f"{where}: {error}", name) from error
            datatype = self._datatype(said.data_type, f"{where}: input '{name}'")
            source: Literal["zero", "random", "file"] = "file" if file else "random" if said.random_data else "zero"
            inputs.append(WarmUpInput(name, datatype, tuple(said.dims), source, file))
        return WarmUp(sample.name, tuple(inputs), max(1, sample.batch_size), max(1, sample.count))

    def _datatype(self, number: int, where: str) -> str:
        if number not in pb.DataType.values():  # proto3 keeps the numbers it does not know
            raise self._error("data_type", f"{where}: unknown data type {number}")
        return datatype(pb.DataType.Name(number))

    def _ignored(self, message: Message, ignored: dict[str, str], prefix: str) -> list[str]:
        return [
            self._note(prefix + field.name, ignored[field.name])
            for field, _ in message.ListFields()
            if field.name in ignored
        ]

    def _note(self, field: str, why: str) -> str:
        """Without the model's name, which whoever logs it says."""
        return f"{self.file.rpartition('/')[2]}: {field}: {why}"

    def _error(self, field: str, why: str, tensor: str = "") -> ModelError:
        """Points at the field, or at the name of the tensor it belongs to, since such fields occur many times."""
        line = _line_of(self.text, rf"[\"']{re.escape(tensor)}[\"']") if tensor else _line(self.text, field)
        return complaint(self.file, line, field, why)


def datatype(type_name: str) -> str:
    """The protocol's name of Triton's `TYPE_…`."""
    return BYTES if type_name == "TYPE_STRING" else type_name.removeprefix("TYPE_")


def _line(text: str, field: str) -> int | None:
    return _line_of(text, rf"(?<![\w\"']){re.escape(field)}\s*[:{{\[<]")


def _line_of(text: str, pattern: str) -> int | None:
    match = re.search(pattern, text)
    return text.count("\n", 0, match.start()) + 1 if match else None
