"""`sluice pull`: brings versions into the repository from a path, an address, or where their `model.toml` says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sluice.cli.console import CommandError, print_error, terminal
from sluice.cli.importing import steps
from sluice.cli.packages import needs
from sluice.cli.progress import progress
from sluice.errors import SluiceError

if TYPE_CHECKING:
    from sluice.store.origin import Origin

_SOURCE = (
    "A version's directory, a package, or an ONNX file: a path, or an address at https://, http://, s3://, gs:// "
    "or az://; hf://ORGANISATION/NAME, mlflow://models:/NAME@ALIAS, oci://REGISTRY/REPOSITORY:TAG; "
    "or the name of a model whose model.toml says its \\[source]."
)


@dataclass(frozen=True)
class _Job:
    """One version to bring."""

    source: str
    name: str | None  # None: as its source calls it
    number: str | None  # None: the next that is free


@dataclass(frozen=True)
class _Means:
    repository: Path
    offline: bool
    timeout: float


def pull(
    source: Annotated[str | None, typer.Argument(metavar="SOURCE", help=_SOURCE, show_default=False)] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every model of the repository whose model.toml says its \\[source].")
    ] = False,
    missing: Annotated[
        bool, typer.Option("--missing", help="Of these models only those that lack what their \\[source] says.")
    ] = False,
    name: Annotated[
        str | None, typer.Option("--name", help="What the model is called here.", show_default="as its source says")
    ] = None,
    number: Annotated[
        str | None, typer.Option("--as", metavar="N", help="Version to create.", show_default="the next that is free")
    ] = None,
    repository: Annotated[Path, typer.Option("--repository", "-r", help="Directory of models.")] = Path("models"),
    offline: Annotated[bool, typer.Option("--offline", help="Take what the cache has, and ask nobody.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the next byte.")] = 30.0,
) -> None:
    """Bring a version into the repository; what is there already is kept."""
    means = _Means(repository, offline, timeout)
    if everything:
        _pull_all(source, name, number, missing, means)
        return
    if source is None:
        raise CommandError(
            "say what to pull", "a path or an address, a model with a [source], or --all for all of them"
        )
    origin = _origin(source, repository)
    if origin is None:
        if missing:
            raise CommandError("--missing is for models with a [source]", "without it, what is there already is found")
        _bring(_Job(source, name, number), means)
    elif name is not None:
        raise CommandError(f"{source} is a model here, and keeps its name", "pull from its address to have it twice")
    else:
        for job in _wanted(source, origin, missing, number, means):
            _bring(job, means)


def _pull_all(source: str | None, name: str | None, number: str | None, missing: bool, means: _Means) -> None:
    """One after another; what is wrong with one stops no other."""
    from sluice.store import repository

    if source is not None or name is not None or number is not None:
        raise CommandError("--all is every model with a [source]", "leave out SOURCE, --name and --as")
    failed = False
    for finding in repository.scan(means.repository):
        try:
            if finding.settings is None:
                raise CommandError("; ".join(reason for _, reason in finding.problems))
            if finding.settings.origin is not None:
                for job in _wanted(finding.name, finding.settings.origin, missing, None, means):
                    _bring(job, means)
        except SluiceError as error:
            failed = True
            print_error(error)
    if failed:
        raise typer.Exit(1)


def _origin(source: str, models: Path) -> Origin | None:
    """What the `model.toml` of a model called so says; None for a path or an address."""
    from sluice.store import repository

    if not repository.is_name(source) or not (models / source / "model.toml").is_file():
        return None
    finding = repository.find(models, source)
    if finding.settings is None:
        raise CommandError("; ".join(reason for _, reason in finding.problems))
    if finding.settings.origin is None and not Path(source).exists():
        raise CommandError(
            f"{models / source}/model.toml does not say where its versions come from",
            'it would as [source] with from = "https://…"',
        )
    return finding.settings.origin


def _wanted(name: str, origin: Origin, missing: bool, number: str | None, means: _Means) -> Iterator[_Job]:
    from sluice.store.bringing import lacks

    if (missing or (origin.version and number is None)) and not lacks(origin, means.repository / name):
        print(f"{name} {'has a version' if not origin.version else f'has version {origin.version}'}, nothing to do")
    else:
        yield _Job(origin.source, name, number or origin.version or None)


def _bring(job: _Job, means: _Means) -> None:
    if job.source.startswith("hf://"):
        _pull_from_hub(job, means)
        return
    from sluice.store.blobs import Cache
    from sluice.store.download import Rules
    from sluice.store.sources import Means, Wanted, pull

    with needs("mlflow"), progress() as report:
        wanted = Wanted(means.repository, job.name, job.number)
        done = pull(job.source, wanted, Means(Cache.usual(), means.offline, Rules(timeout=means.timeout), report))
    told = f"{done.manifest.name} {done.manifest.version}"
    print(f"{told} is {done.told}")


def _pull_from_hub(job: _Job, means: _Means) -> None:
    with needs("onnx", "safetensors", "tokenizers", "onnxruntime", "huggingface_hub"):
        from sluice.convert.hub import Hub, pull

        with steps() as report:
            hub = Hub(means.offline, terminal(stderr=True).is_terminal, means.timeout)
            done = pull(job.source, means.repository, job.name, job.number, hub, report)
    print(f"{job.source} is {f'in {done.directory}' if done.is_new else f'already in {done.directory}, nothing to do'}")
