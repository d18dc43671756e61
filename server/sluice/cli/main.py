"""The `sluice` command: its subcommands, and one place where errors become a line and an exit code."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from sluice.cli import (
    bench,
    cache,
    check,
    config,
    encrypt,
    evaluate,
    importing,
    infer,
    models,
    pack,
    promote,
    pull,
    quantize,
    seal,
    serve,
    sign,
    simulate,
    status,
    verify,
    version,
)
from sluice.cli.console import print_error
from sluice.cli.options import Command, Group, with_settings
from sluice.errors import SluiceError

INTERRUPTED = 130

_ALL = ("server", "models", "workers", "scheduler", "response_cache", "health", "shutdown", "log")
_DIRECTORIES = ("models.repository", "models.python_directories", "models.pickle_directories")
_EVALUATE = (*_DIRECTORIES, "models.key_file")
_TRUST = ("models.signatures", "models.trusted_keys")
_CHECK = (*_DIRECTORIES, *_TRUST, "models.key_file", "workers", "scheduler", "log")
_ENCRYPT = ("models.repository", "models.key_file")
_VERIFY = ("models.repository", *_TRUST)

app = typer.Typer(
    name="sluice",
    cls=Group,
    help="An inference server for models whose inputs differ in length.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        version.version()
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", help="The same as `sluice version`.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


app.command("serve", cls=Command)(with_settings(serve.serve, _ALL))
app.command("import", cls=Command)(importing.import_model)
app.command("pull", cls=Command)(pull.pull)
app.command("seal", cls=Command)(seal.seal)
app.command("encrypt", cls=Command)(with_settings(encrypt.encrypt, _ENCRYPT))
app.command("decrypt", cls=Command)(with_settings(encrypt.decrypt, _ENCRYPT))
app.command("quantize", cls=Command)(quantize.quantize)
app.command("pack", cls=Command)(pack.pack)
app.command("unpack", cls=Command)(pack.unpack)
app.command("sign", cls=Command)(sign.sign)
app.command("verify", cls=Command)(with_settings(verify.verify, _VERIFY))
app.add_typer(cache.app, name="cache")
app.command("check", cls=Command)(with_settings(check.check, _CHECK))
app.command("evaluate", cls=Command)(with_settings(evaluate.evaluate, _EVALUATE))
app.add_typer(models.app, name="models")
app.command("promote", cls=Command)(promote.promote)
app.command("rollback", cls=Command)(promote.rollback)
app.command("status", cls=Command)(status.status)
app.command("infer", cls=Command)(infer.infer)
app.command("bench", cls=Command)(bench.bench)
app.add_typer(simulate.app, name="simulate")
app.command("config", cls=Command)(with_settings(config.config, _ALL))
app.command("version", cls=Command)(version.version)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command: 0 done, 1 it failed, 2 it was called wrongly, 130 interrupted."""
    try:
        code = app(args=arguments, prog_name="sluice", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except typer.TyperException as error:  # the command line itself makes no sense
        return _usage(error)
    except SluiceError as error:
        print_error(error)
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror or error}", file=sys.stderr)
        return 1
    finally:
        _flush()


def _usage(error: typer.TyperException) -> int:
    if message := error.format_message():  # empty after help was printed for a bare command
        print(f"error: {message}", file=sys.stderr)
        command = getattr(getattr(error, "ctx", None), "command_path", "sluice")
        print(f"hint: `{command} --help` explains its use", file=sys.stderr)
    return error.exit_code


def _flush() -> None:
    """A reader that went away (as in `sluice config | head`) is no error of ours."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
