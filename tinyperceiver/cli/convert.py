"""`tinyperceiver convert`: the released library's training checkpoints."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A Lightning training checkpoint: path or http(s) address."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder to write.", show_default=False),
    ],
    sha256: Annotated[
        str | None, typer.Option(help="The hash that the file must have.")
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(help="Upload the result under this model id, too.")
    ] = None,
) -> None:
    """Convert a perceiver-io training checkpoint.

    The result is a folder that --checkpoint takes.

    \b
    tinyperceiver convert "epoch=027-val_loss=1.944.ckpt" -o released
    """
    from tinyperceiver import convert_checkpoint

    model = convert_checkpoint(output, checkpoint, push_to_hub or False, sha256=sha256)
    print(f"{output}: {model.num_parameters:,} parameters")
