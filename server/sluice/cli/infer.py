"""`sluice infer`: one request to a running server, from the command line."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sluice.cli.client import DEFAULT_URL, Client, Url, model_path
from sluice.cli.console import CommandError, print_json
from sluice.cli.options import Json


def infer(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts, for a model that reads them.")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", "-i", metavar="NAME=VALUE", help="A tensor in JSON, as input_ids=[[101,102]]. Repeatable."
        ),
    ] = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option(
            "--output", "-o", metavar="NAME", help="An output to return; the model's default ones if not given."
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", metavar="FILE", help="A whole request in JSON; - reads standard input."),
    ] = None,
    version: Annotated[str, typer.Option(help="Version of the model; the server chooses if not given.")] = "",
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds to wait for the answer.")] = 60.0,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Send one request to a running server and print the outputs, or what the model says to texts.

    Shapes are taken from the values, datatypes from the server; a batch axis that was left out is added.
    """
    from sluice.cli import tensors

    client, path = Client(url, timeout), model_path(model, version)
    if texts:
        if inputs or outputs or file is not None:
            raise typer.BadParameter("texts are the whole request: leave out --input, --output and --file")
        _read_texts(client, f"{model}/{version}" if version else model, texts, as_json)
        return
    if file is not None:
        if inputs or outputs:
            raise typer.BadParameter("--file holds the whole request: leave out --input and --output")
        document, binary = _read(file), b""
    else:
        document, binary = _build(inputs or [], outputs or [], client.get(path).json)
    reply = client.post(f"{path}/infer", document, binary)
    try:
        answer = {**reply.json, "outputs": tensors.decode(reply.json["outputs"], reply.binary)}
        if as_json:
            print_json(answer)
        else:
            print("\n\n".join(tensors.readable(output) for output in answer["outputs"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CommandError(f"the server's answer is no inference response: {error}") from error


def _read_texts(client: Client, model: str, texts: list[str], as_json: bool) -> None:
    answer = client.post("v1/inference", {"model_id": model, "input": texts}).json
    if as_json:
        print_json(answer)
        return
    try:
        for text, said in zip(texts, answer["output"], strict=True):
            print(f"{text}\n{_said(said)}\n")
    except (KeyError, TypeError, ValueError) as error:
        raise CommandError(f"the server's answer is none to texts: {error}") from error


def _said(value: Any) -> str:
    """An answer in few words: numbers shortened, and a line for each class or named part of the text."""
    if isinstance(value, list) and value and all(isinstance(one, int | float) for one in value):
        first = ", ".join(f"{one:.4g}" for one in value[:6])
        return f"  {len(value)} numbers: {first}{', …' if len(value) > 6 else ''}"
    if isinstance(value, list):
        return "\n".join("  " + ", ".join(f"{key} {_short(one)}" for key, one in item.items()) for item in value)
    return f"  {_short(value)}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _build(inputs: list[str], outputs: list[str], metadata: Any) -> tuple[dict[str, Any], bytes]:
    """The request's JSON and the bytes after it."""
    from sluice.cli import tensors

    try:
        model = str(metadata["name"])
        ports = {str(port["name"]): port for port in metadata["inputs"]}
        takes = ", ".join(f"{name} ({port['datatype']} {port['shape']})" for name, port in ports.items())
        datatypes = {str(port["name"]): str(port["datatype"]) for port in metadata["outputs"]}
    except (KeyError, TypeError) as error:
        raise CommandError(f"the server's metadata of the model lacks {error}", "is this a Sluice server?") from error
    if not inputs:
        raise CommandError(f"'{model}' needs inputs", f"give them with --input NAME=VALUE: {takes}")
    encoded = []
    for given in inputs:
        name, equals, text = given.partition("=")
        if not equals:
            raise typer.BadParameter(f"'{given}' is not of the form NAME=VALUE", param_hint="--input")
        if name not in ports:
            raise CommandError(f"'{model}' has no input '{name}'", f"it takes {takes}")
        encoded.append(tensors.encode(name, text, ports[name]))
    document: dict[str, Any] = {"inputs": [each.document for each in encoded]}
    if outputs:
        document["outputs"] = [
            {"name": name, "parameters": {"binary_data": datatypes.get(name) in tensors.BINARY_ONLY}}
            for name in outputs
        ]
    elif tensors.BINARY_ONLY.intersection(datatypes.values()):
        document["parameters"] = {"binary_data_output": True}
    return document, b"".join(each.binary for each in encoded)


def _read(file: str) -> dict[str, Any]:
    name = "standard input" if file == "-" else file
    try:
        document = json.loads(sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not UTF-8
        raise CommandError(f"{name}: not JSON: {error}") from error
    if not isinstance(document, dict):
        raise CommandError(f"{name}: a request is a JSON object")
    return document
