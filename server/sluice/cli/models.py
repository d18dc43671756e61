"""`sluice models`: what a running server serves, loading and unloading it, and what a repository's versions are."""

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from sluice.cli import manifests, promote
from sluice.cli.client import DEFAULT_URL, Client, Url
from sluice.cli.console import CommandError, print_json, print_table
from sluice.cli.options import Command, Group, Json

Name = Annotated[str, typer.Argument(help="The model's name.")]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds to wait for the server's answer.")]

app = typer.Typer(
    cls=Group, help="List, load and unload a server's models; show and compare versions.", no_args_is_help=True
)


@app.command("list", cls=Command)
def list_models(
    ready: Annotated[bool, typer.Option("--ready", help="Only models that are ready.")] = False,
    url: Url = DEFAULT_URL,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """List every model and version with its state and, if it is not served, the reason."""
    _print_index(_index(Client(url, timeout), ready), as_json)


@app.command("load", cls=Command)
def load_model(
    name: Name,
    config_file: Annotated[
        Path | None, typer.Option("--config-file", help="A configuration to use instead of the repository's.")
    ] = None,
    url: Url = DEFAULT_URL,
    timeout: Timeout = 600.0,
    as_json: Json = False,
) -> None:
    """Load a model, or load it anew; returns when it is ready."""
    client = Client(url, timeout)
    parameters = {"config": _text(config_file)} if config_file else {}
    client.post(f"v2/repository/models/{quote(name, safe='')}/load", {"parameters": parameters})
    _print_index([row for row in _index(client) if row.get("name") == name], as_json)


@app.command("unload", cls=Command)
def unload_model(
    name: Name,
    dependents: Annotated[bool, typer.Option("--dependents", help="Unload the models that use it, too.")] = False,
    url: Url = DEFAULT_URL,
    timeout: Timeout = 600.0,
    as_json: Json = False,
) -> None:
    """Unload a model: it takes no more requests, and finishes those it has."""
    client = Client(url, timeout)
    parameters = {"unload_dependents": dependents}
    client.post(f"v2/repository/models/{quote(name, safe='')}/unload", {"parameters": parameters})
    _print_index([row for row in _index(client) if row.get("name") == name], as_json)


app.command("show", cls=Command)(manifests.show)
app.command("diff", cls=Command)(manifests.diff)
app.command("unalias", cls=Command)(promote.unalias)
app.command("history", cls=Command)(promote.history)


def _index(client: Client, ready: bool = False) -> list[dict[str, Any]]:
    rows = client.post("v2/repository/index", {"ready": ready}).json
    if not isinstance(rows, list):
        raise CommandError("the server's index is no list", "is this a Sluice server?")
    return rows


def _print_index(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
    elif rows:
        columns = ("name", "version", "state", "reason")
        print_table(("model", *columns[1:]), [[str(row.get(column, "")) for column in columns] for row in rows])
    else:
        print("no models")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CommandError(f"{path}: not UTF-8 text") from error
