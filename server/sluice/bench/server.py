"""What a server says about itself: a model's inputs, its statistics, and its padding if it counts that."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc

from sluice.bench.address import Address
from sluice.bench.bodies import Input, model_path
from sluice.bench.traffic import BenchError
from sluice.pb import inference_pb2

SERVICE = "/inference.GRPCInferenceService"
_SECONDS = 10.0
_METRIC = re.compile(r"^(sluice_tokens|sluice_padding_tokens)_total\{(.*)\} ([^ ]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Counters:
    """A model's counters at one moment; the difference of two belongs to what ran between them."""

    batches: Mapping[int, int] = field(default_factory=dict)  # executions by number of rows
    tokens: float = 0.0
    padding: float = 0.0

    def since(self, before: Counters) -> Counters:
        batches = {rows: count - before.batches.get(rows, 0) for rows, count in sorted(self.batches.items())}
        return Counters(
            {rows: count for rows, count in batches.items() if count > 0},
            self.tokens - before.tokens,
            self.padding - before.padding,
        )

    @property
    def padding_share(self) -> float | None:
        """Of what was computed; None when the server does not count it."""
        total = self.tokens + self.padding
        return self.padding / total if total > 0 else None


@dataclass(frozen=True, slots=True)
class Model:
    """A model of a server, asked over the protocol under test."""

    server: Address
    name: str
    version: str = ""
    metrics_url: str = ""  # a Prometheus page with Sluice's metrics; "" = none

    def inputs(self) -> list[Input]:
        """From the model's metadata."""
        if self.server.grpc:
            request = inference_pb2.ModelMetadataRequest(name=self.name, version=self.version)
            reply = self._call("ModelMetadata", request, inference_pb2.ModelMetadataResponse)
            return [Input(each.name, each.datatype, tuple(each.shape)) for each in reply.inputs]
        document = self._get(model_path(self.name, self.version))
        try:
            return [
                Input(str(each["name"]), str(each["datatype"]), tuple(int(size) for size in each["shape"]))
                for each in document["inputs"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise BenchError(f"{self.server.netloc}: the metadata of '{self.name}' is not the protocol's") from error

    def counters(self) -> Counters | None:
        """From the statistics extension and the metrics page; None when the server has neither."""
        try:
            batches = self._batches()
        except BenchError:
            batches = None
        tokens = self._tokens()
        if batches is None and tokens is None:
            return None
        return Counters(batches or {}, *(tokens or (0.0, 0.0)))

    def _batches(self) -> dict[int, int]:
        found: dict[int, int] = {}
        if self.server.grpc:
            request = inference_pb2.ModelStatisticsRequest(name=self.name, version=self.version)
            reply = self._call("ModelStatistics", request, inference_pb2.ModelStatisticsResponse)
            rows = [
                (each.batch_size, each.compute_infer.count) for one in reply.model_stats for each in one.batch_stats
            ]
        else:
            document = self._get(f"{model_path(self.name, self.version)}/stats")
            try:
                rows = [
                    (int(each["batch_size"]), int(each["compute_infer"]["count"]))
                    for one in document["model_stats"]
                    for each in one["batch_stats"]
                ]
            except (KeyError, TypeError, ValueError) as error:
                raise BenchError(f"{self.server.netloc}: its statistics are not the protocol's") from error
        for size, count in rows:
            found[size] = found.get(size, 0) + count
        return found

    def _tokens(self) -> tuple[float, float] | None:
        if not self.metrics_url:
            return None
        try:
            with urllib.request.urlopen(self.metrics_url, timeout=_SECONDS) as reply:  # noqa: S310 - the user's URL
                text = reply.read().decode()
        except (OSError, ValueError) as error:
            raise BenchError(f"{self.metrics_url}: {error}") from error
        sums = {"sluice_tokens": 0.0, "sluice_padding_tokens": 0.0}
        for name, labels, value in _METRIC.findall(text):
            if f'model="{self.name}"' in labels and (not self.version or f'version="{self.version}"' in labels):
                sums[name] += float(value)
        return sums["sluice_tokens"], sums["sluice_padding_tokens"]

    def _call(self, method: str, request: Any, reply: Any) -> Any:
        credentials = grpc.ssl_channel_credentials() if self.server.secure else None
        channel = (
            grpc.secure_channel(self.server.netloc, credentials)
            if credentials
            else grpc.insecure_channel(self.server.netloc)
        )
        with channel:
            call = channel.unary_unary(
                f"{SERVICE}/{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=reply.FromString,
            )
            try:
                return call(request, timeout=_SECONDS)
            except grpc.RpcError as error:
                raise BenchError(f"{self.server.netloc}: {method}: {error.code().name}: {error.details()}") from error

    def _get(self, path: str) -> Any:
        scheme = "https" if self.server.secure else "http"
        url = f"{scheme}://{self.server.netloc}{self.server.base}{path}"
        try:
            with urllib.request.urlopen(url, timeout=_SECONDS) as reply:  # noqa: S310 - the scheme is ours
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                raise BenchError(f"{url}: HTTP {error.code}: {error.read(300).decode(errors='replace')}") from error
        except (OSError, ValueError) as error:
            raise BenchError(f"{url}: {error}") from error
