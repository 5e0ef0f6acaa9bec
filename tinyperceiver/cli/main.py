"""The command line: `tinyperceiver COMMAND`; `tinyperceiver --help` lists the commands."""

import errno
import io
import sys
from typing import Annotated

import typer

from tinyperceiver.cli.convert import convert
from tinyperceiver.cli.evaluate import evaluate
from tinyperceiver.cli.export import export
from tinyperceiver.cli.generate import generate
from tinyperceiver.cli.options import SHIPPED_PIECES
from tinyperceiver.cli.prepare import folder, giantmidi
from tinyperceiver.cli.render import render
from tinyperceiver.cli.train import train
from tinyperceiver.files.errors import TinyperceiverError

__all__ = ["app", "main"]

app = typer.Typer(
    name="tinyperceiver",
    help="Continue piano music with a Perceiver AR, and hear it.",
    no_args_is_help=True,
    rich_markup_mode=None,  # its tables cut the names of options in narrow terminals
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
prepare = typer.Typer(
    help="Turn MIDI files into tokens to train on.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for command in (generate, render):
    app.command(epilog=SHIPPED_PIECES)(command)
for command in (convert, export):
    app.command()(command)
app.add_typer(prepare, name="prepare")
for command in (giantmidi, folder):
    prepare.command()(command)
for command in (evaluate, train):
    app.command()(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        from tinyperceiver import __version__

        print(f"tinyperceiver {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    """Continue piano music with a Perceiver AR, and hear it."""


def main() -> None:
    """Run the command line.

    What a user can put right is said in one line, with exit code 1: the package's own
    errors, and files that cannot be read or written. Any other exception is a mistake in
    the program, and keeps its traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The name of a file may be any bytes, also some that cannot be printed.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except TinyperceiverError as error:
        sys.exit(f"tinyperceiver: {' '.join(str(error).split())}")
    except OSError as error:
        if error.filename is None:
            raise
        remedy = "; make room, then run the same command again"
        remedy *= error.errno in (errno.ENOSPC, errno.EDQUOT)
        sys.exit(f"tinyperceiver: {error.filename}: {error.strerror}{remedy}")
    except KeyboardInterrupt:
        sys.exit(130)
