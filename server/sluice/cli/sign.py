"""`sluice sign`: writes who vouches for a version, with a private key or a certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sluice.cli.console import CommandError
from sluice.cli.places import version_directory


def sign(
    target: Annotated[str, typer.Argument(metavar="NAME|PATH", help="A model, NAME/N, or a version's directory.")],
    key: Annotated[Path, typer.Option("--key", help="The private key, in PEM, of the curve P-256, P-384 or P-521.")],
    certificate: Annotated[
        Path | None,
        typer.Option(help="The key's certificate, if others shall know it by that; its chain may follow in the file."),
    ] = None,
    chain: Annotated[
        list[Path] | None,
        typer.Option(help="Certificates between that one and its authority's. Repeatable."),
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="What the key is locked with, if not to be asked for.", show_default=False)
    ] = None,
    repository: Annotated[Path, typer.Option("--repository", "-r", help="Directory of models.")] = Path("models"),
) -> None:
    """Sign a sealed version, its files and its manifest; whoever has the public key can tell that it is yours."""
    from sluice.store import signing

    if chain and certificate is None:
        raise CommandError("--chain says who certified a certificate: name that with --certificate")
    directory = version_directory(target, repository)
    identity = signing.Identity(
        key.read_bytes(),
        certificate.read_bytes() if certificate else b"",
        b"".join(path.read_bytes() for path in chain or ()),
        password_file.read_bytes().rstrip(b"\r\n") if password_file else None,
        str(key),
    )
    if identity.is_locked and identity.password is None:
        identity = identity.unlocked_with(typer.prompt(f"Password of {key}", hide_input=True, err=True))
    signature = signing.sign(directory, identity)
    print(f"{directory} is signed by {signature.signer}, {len(signature.digests)} files")
