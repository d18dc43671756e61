"""`sluice pull`: brings a version into the repository from a path or an address."""

from pathlib import Path
from typing import Annotated

import typer

from sluice.cli.console import terminal
from sluice.cli.importing import steps
from sluice.cli.packages import needs
from sluice.cli.progress import progress

_SOURCE = (
    "A version's directory, a package, or an ONNX file: a path, or an address at https://, http://, s3://, gs:// "
    "or az://; or hf://ORGANISATION/NAME."
)


def pull(
    source: Annotated[str, typer.Argument(help=_SOURCE)],
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
    from sluice.store.blobs import Cache
    from sluice.store.download import Rules
    from sluice.store.sources import Means, Wanted, pull

    if source.startswith("hf://"):
        _pull_from_hub(source, repository, name, number, offline, timeout)
        return
    with progress() as report:
        means = Means(Cache.usual(), offline, Rules(timeout=timeout), report)
        done = pull(source, Wanted(repository, name, number), means)
    told = f"{done.manifest.name} {done.manifest.version}"
    print(f"{told} is {f'in {done.directory}' if done.is_new else f'already in {done.directory}, nothing to do'}")


def _pull_from_hub(
    source: str, repository: Path, name: str | None, number: str | None, offline: bool, timeout: float
) -> None:  # fmt: skip
    with needs("onnx", "safetensors", "tokenizers", "onnxruntime", "huggingface_hub"):
        from sluice.convert.hub import Hub, pull

        with steps() as report:
            hub = Hub(offline, terminal(stderr=True).is_terminal, timeout)
            done = pull(source, repository, name, number, hub, report)
    print(f"{source} is {f'in {done.directory}' if done.is_new else f'already in {done.directory}, nothing to do'}")
