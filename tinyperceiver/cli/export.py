"""`tinyperceiver export`: a model as one ONNX file."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from tinyperceiver.cli.music_files import check_writable
from tinyperceiver.cli.options import Model, Revision


def export(
    checkpoint: Model,
    output: Annotated[
        Path, typer.Argument(help="File to write, .onnx.", metavar="OUT")
    ],
    bits: Annotated[
        Literal["32", "16", "8", "4"],
        typer.Option(
            help="Bits of a weight. Fewer bits make a smaller and less exact file."
        ),
    ] = "32",
    attention_weights: Annotated[
        bool,
        typer.Option(
            "--attention-weights",
            help="Also output the attention weights of the first layer.",
        ),
    ] = False,
    revision: Revision = None,
) -> None:
    """Write a model as one ONNX file.

    ONNX Runtime plays it without Python and PyTorch. The page "The model in one
    file" of the book describes the file.

    \b
    tinyperceiver export tiny tiny.onnx
    tinyperceiver export runs/my-midi/best mine.onnx --bits 8
    """
    from tinyperceiver import PerceiverAR, export_onnx

    check_writable(output, {".onnx"})
    model = PerceiverAR.from_pretrained(checkpoint, revision)
    export_onnx(model, output, int(bits), attention_weights)
    size = output.stat().st_size
    print(f"{output}: {model.num_parameters:,} parameters, {size / 1e6:.1f} MB")
