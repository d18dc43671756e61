"""Every setting of the server, in frozen sections; a component is given its section, never the whole."""

import math
import os
import re
from collections.abc import Hashable
from itertools import combinations
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

# The validation context of what only one source says: how settings go together shows when all of them are there.
ONE_SOURCE = {"source": "one"}

# The type of an error whose input may be a secret.
UNSHOWN = "unshown"
# What a key of encrypted models looks like, in hexadecimal or base64; as a path it may have lost a slash or two.
_KEY = re.compile(r"[0-9A-Fa-f]{64}|[A-Za-z0-9+/_-]{41,43}=?")


def _weight(entry: str) -> tuple[Hashable, float]:
    name, separator, text = entry.rpartition("=")
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not separator or not name or not 0 < weight < math.inf:
        raise ValueError(f"expected name=weight with a weight above 0, got '{entry}'")
    return name, weight


def _trusted_key(entry: str) -> tuple[str, Path]:
    """Whom it may sign for, "" = all, and the file. A model or the beginning of a source stands before the last "="."""
    scope, equals, path = (part.strip() for part in entry.rpartition("="))
    if not path:
        raise ValueError(f"expected the file of a key, after name= or source= if it is for these only, got '{entry}'")
    if equals and not scope:
        raise ValueError(f"expected the name of a model or the beginning of a source before =, got '{entry}'")
    return scope, Path(path)


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Server(Section):
    """Where the server listens and what it lets in."""

    host: str = Field(
        default="127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 for every interface."
    )
    http_port: int = Field(default=8000, ge=0, le=65535, description="HTTP port; 0 picks a free one.")
    grpc_port: int = Field(default=8001, ge=0, le=65535, description="gRPC port; 0 picks a free one.")
    metrics_port: int = Field(default=8002, ge=0, le=65535, description="Prometheus metrics port; 0 picks a free one.")
    listen_early: bool = Field(
        default=True,
        description="Listen while models load, saying that nothing is ready; off: only once ready, for balancers"
        " that do not ask.",
    )
    max_message_bytes: int = Field(
        default=64 << 20, ge=1024, description="Largest request on either protocol, before and after decompression."
    )
    max_header_bytes: int = Field(default=64 << 10, ge=1024, description="Largest HTTP header block or gRPC metadata.")
    header_timeout: float = Field(
        default=10.0, gt=0, description="Seconds an HTTP client may take to send its headers."
    )
    body_timeout: float = Field(default=30.0, gt=0, description="Seconds an HTTP body may stand still.")
    max_connections: int = Field(
        default=8_000,
        ge=1,
        description="Most open connections of each protocol; beyond it silent HTTP ones make room, else new ones are "
        "refused.",
    )
    memory_budget: int = Field(
        default=0, ge=0, description="Most bytes the server and its workers may hold; 0 = what the container may."
    )
    keep_alive: float = Field(default=75.0, gt=0, description="Seconds an idle HTTP connection is kept open.")
    shared_memory: bool = Field(default=True, description="Let clients register system shared memory regions.")

    @model_validator(mode="after")
    def _ports_differ(self, info: ValidationInfo) -> Self:
        if info.context == ONE_SOURCE:
            return self
        for one, other in combinations(("http_port", "grpc_port", "metrics_port"), 2):
            port = getattr(self, one)
            if port and port == getattr(self, other):
                text = f"server.{one} and server.{other} must differ, but both are {port}"
                raise PydanticCustomError("conflict", "{text}", {"text": text, "keys": (one, other)})
        return self


class Models(Section):
    """Which models are served."""

    repository: Path = Field(default=Path("models"), description="Directory of models: <name>/<version>/model.onnx.")
    load: list[str] = Field(default=["*"], description='Models loaded at the start; ["*"] = all, [] = none.')
    pull: Literal["off", "missing"] = Field(
        default="off",
        description="missing = bring what models lack of what their `[source]` says before they load at the start.",
    )
    control: bool = Field(default=True, description="Let clients load and unload models through the API.")
    watch: float = Field(
        default=0.0,
        ge=0,
        description="Seconds between two looks whether models changed on disk, to follow what has come to rest;"
        " 0 = only when told to.",
    )
    replace: Literal["auto", "beside", "in-turn"] = Field(
        default="auto",
        description="How a new version takes the place of an old one: beside it, worker by worker in its place, or auto"
        " = beside if memory has room for both.",
    )
    python_directories: list[Path] = Field(
        default=[],
        description="Directories whose models may bring Python code (model.py); none by default.",
        json_schema_extra={"flag": "--python-directory"},
    )
    pickle_directories: list[Path] = Field(
        default=[],
        description="Directories whose models may bring pickles, which run code when they are read; none by default.",
        json_schema_extra={"flag": "--pickle-directory"},
    )
    key_file: Path | None = Field(
        default=None, description="File of the keys of encrypted models, beside those in SLUICE_MODEL_KEY."
    )
    signatures: Literal["off", "warn", "require"] = Field(
        default="off",
        description="Versions without a valid signature of a trusted key: off = nobody looks, warn = the log says so, "
        "require = they are not served.",
    )
    trusted_keys: list[str] = Field(
        default=[],
        description="Public keys, or certificates of authorities, whose signatures count; for one model as "
        '"name=file", for what came from somewhere as "hf://acme/=file".',
        json_schema_extra={"flag": "--trusted-key"},
    )
    approval: list[str] = Field(
        default=[],
        description='What a version must be before it becomes production, of "signed" and "evaluated".',
    )

    @field_validator("key_file", mode="before")
    @classmethod
    def _key_file_is_no_key(cls, value: object) -> object:
        """A key in its file's place must not be printed, as settings are."""
        if value is not None and not isinstance(value, str | Path):
            raise PydanticCustomError(UNSHOWN, "must be the path of a file")
        text = str(value or "")
        if any(map(_KEY.fullmatch, re.split(r"[\s,]+", text))) and not os.path.exists(text):
            raise PydanticCustomError(
                UNSHOWN,
                "must be the path of a file, which holds the keys: it looks like a key itself, and there is no such "
                "file; a key may be in SLUICE_MODEL_KEY",
            )
        return value

    @field_validator("approval")
    @classmethod
    def _rules_are_known(cls, value: list[str]) -> list[str]:
        if not {*value} <= {"signed", "evaluated"}:
            raise ValueError("must be of 'signed' and 'evaluated'")
        return value

    @field_validator("trusted_keys")
    @classmethod
    def _keys_are_files(cls, value: list[str]) -> list[str]:
        for entry in value:
            _trusted_key(entry)
        return value

    @model_validator(mode="after")
    def _somebody_is_trusted(self, info: ValidationInfo) -> Self:
        asked = self.signatures_wanted_by
        if info.context != ONE_SOURCE and asked and not self.trusted_keys:
            text = f"models.{asked} asks for signatures, but models.trusted_keys names nobody who may sign"
            raise PydanticCustomError("conflict", "{text}", {"text": text, "keys": (asked, "trusted_keys")})
        return self

    @property
    def signatures_wanted_by(self) -> str:
        """The setting that asks for signatures; "" if none does."""
        return "signatures" if self.signatures != "off" else "approval" if "signed" in self.approval else ""

    @property
    def hashes_anew(self) -> bool:
        """Whether somebody who can write into the files shall not be believed: what they are is read at each load."""
        return self.signatures == "require" or bool(self.approval)

    @property
    def keys(self) -> list[tuple[str, Path]]:
        """Files of trusted keys, each with whom it may sign for: a model, the beginning of a source, or "" = all."""
        return [_trusted_key(entry) for entry in self.trusted_keys]


class Workers(Section):
    """The processes that compute."""

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="What the workers compute on.")
    count: int = Field(
        default=0,
        ge=0,
        description="Number of worker processes; 0 = one per core or GPU.",
        json_schema_extra={"flag": "--workers"},
    )
    threads: int = Field(default=1, ge=1, description="Compute threads of each CPU worker.")
    start_timeout: float = Field(default=60.0, gt=0, description="Seconds a worker process may take to start.")
    load_timeout: float = Field(default=600.0, gt=0, description="Seconds a worker may take to load one version.")
    compute_timeout: float = Field(
        default=60.0,
        gt=0,
        description="Most seconds a batch may compute, whatever was predicted.",
    )
    hang_timeout: float = Field(
        default=5.0,
        gt=0,
        description="Seconds a batch may compute, however short it was predicted to be, before its worker is taken for "
        "hung and replaced; one that is predicted to take long gets twenty times that.",
    )
    standby: bool = Field(
        default=False, description="Keep a second process of each worker warm, to take over when the first dies."
    )
    max_memory: int = Field(
        default=0, ge=0, description="Bytes a worker may hold before it is replaced by a fresh one; 0 = no bound."
    )


class Scheduler(Section):
    """The latency wanted, and limits of queues and batches; a model's own settings override them."""

    target_latency: float = Field(
        default=0.0,
        ge=0,
        description="Seconds in which requests shall be answered; 0 = ten times what the longest takes alone.",
    )
    max_batch_rows: int = Field(
        default=0, ge=0, description="Most rows in one batch; 0 = by device (64 on CPU, 512 on a GPU)."
    )
    max_batch_tokens: int = Field(
        default=0, ge=0, description="Most padded tokens in one batch; 0 = by device (1024 on CPU, 65536 on a GPU)."
    )
    max_batch_bytes: int = Field(default=64 << 20, ge=1024, description="Most bytes of input in one batch.")
    max_queue: int = Field(default=1024, ge=1, description="Most requests waiting for one version.")
    queue_timeout: float = Field(
        default=0.0, ge=0, description="Seconds a request may wait in the queue; 0 = no limit."
    )
    quarantine: float = Field(
        default=300.0,
        ge=0,
        description="Seconds for which a request that killed workers is refused when it is sent again; 0 = never.",
    )
    tenant_header: str = Field(
        default="x-tenant",
        description="Header or metadata key that names the tenant a request belongs to; empty = all are one tenant.",
    )
    tenant_weights: list[str] = Field(
        default=[],
        description='Shares of tenants under overload, as "name=weight"; others weigh 1.',
        json_schema_extra={"flag": "--tenant-weight"},
    )

    @field_validator("tenant_header")
    @classmethod
    def _header_is_a_name(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z0-9_.-]*", value.lower()):
            raise ValueError("expected a header name of letters, digits, '-', '_' and '.'")
        return value.lower()

    @field_validator("tenant_weights")
    @classmethod
    def _weights_are_numbers(cls, value: list[str]) -> list[str]:
        for entry in value:
            _weight(entry)
        return value

    @property
    def shares(self) -> dict[Hashable, float]:
        """The tenants' weights by name."""
        return dict(map(_weight, self.tenant_weights))


class ResponseCache(Section):
    """Answers that are used again for identical requests."""

    bytes: int = Field(
        default=0,
        ge=0,
        description="Bytes of answers kept in memory; 0 = every request is computed.",
        json_schema_extra={"flag": "--response-cache"},
    )
    ttl: float = Field(
        default=300.0,
        gt=0,
        description="Seconds for which an answer is used again.",
        json_schema_extra={"flag": "--response-cache-ttl"},
    )
    redis: str = Field(
        default="",
        description="Redis in which replicas share answers of sealed versions, as redis://host:6379/0; empty = none.",
        json_schema_extra={"flag": "--response-cache-redis", "secret": True},
    )
    across_tenants: bool = Field(
        default=False,
        description="Answer a tenant with what was computed for another.",
        json_schema_extra={"flag": "--response-cache-across-tenants"},
    )

    @field_validator("redis")
    @classmethod
    def _redis_without_secrets(cls, value: str) -> str:
        if value and not re.match(r"(redis|rediss|unix)://", value):
            raise ValueError("expected redis://host:port/number, rediss://… or unix://path")
        if "@" in value or "password=" in value:
            raise ValueError("names and passwords belong into REDIS_USERNAME and REDIS_PASSWORD")
        return value


class Health(Section):
    """When the server calls itself ready."""

    ready_share: float = Field(
        default=0.5, gt=0, le=1, description="Share of a model's workers that must hold it for the server to be ready."
    )
    probe_interval: float = Field(
        default=10.0,
        ge=0,
        description="Seconds without work after which a worker must prove with a tiny batch that it can; 0 = never.",
    )


class Shutdown(Section):
    """How the server stops."""

    lame_duck: float = Field(
        default=5.0, ge=0, description="Seconds to keep serving, unready, after SIGTERM (none after an interrupt)."
    )
    drain_timeout: float = Field(default=30.0, ge=0, description="Seconds accepted requests may take to finish.")


class Log(Section):
    """What is written to standard error."""

    format: Literal["auto", "human", "json"] = Field(
        default="auto", description="auto = human on a terminal, else JSON.", json_schema_extra={"flag": "--log-format"}
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug adds a line per request.", json_schema_extra={"flag": "--log-level"}
    )


class Settings(Section):
    """The whole configuration."""

    server: Server = Server()
    models: Models = Models()
    workers: Workers = Workers()
    scheduler: Scheduler = Scheduler()
    response_cache: ResponseCache = ResponseCache()
    health: Health = Health()
    shutdown: Shutdown = Shutdown()
    log: Log = Log()
