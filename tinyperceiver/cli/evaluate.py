"""`tinyperceiver evaluate`: nats per token on held-out music."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from tinyperceiver.cli.options import Model
from tinyperceiver.cli.refusals import CommandError


def evaluate(
    model: Model,
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder with valid.bin, from `prepare`; or a token file (.bin).",
            show_default=False,
        ),
    ],
    windows: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many windows to measure on.",
            show_default="all, up to 64",
        ),
    ] = None,
    prefix: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Tokens before the latents of each window.",
            show_default="512, or fewer where pieces are short",
        ),
    ] = None,
    num_latents: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Latents of each window: after each of them the model predicts a token.",
            show_default="512, or fewer where pieces are short",
        ),
    ] = None,
) -> None:
    """Measure how well a model predicts music.

    The result is in nats per token, on music that was held out of the training.
    Fewer nats are better. Two models can be compared if they are measured on the
    same windows of the same data.

    \b
    tinyperceiver evaluate tiny data/my-midi
    tinyperceiver evaluate runs/my-midi/best data/my-midi
    """
    import torch

    from tinyperceiver import PerceiverAR, TokenFile
    from tinyperceiver import evaluate as evaluate_model

    held_out = TokenFile(data / "valid.bin" if data.is_dir() else data)
    loaded = PerceiverAR.from_pretrained(model)
    for option, value, most in (
        ("--prefix", prefix, loaded.config.max_prefix_len),
        ("--num-latents", num_latents, loaded.config.max_latents),
    ):
        if value is not None and value > most:
            raise CommandError(
                f"{option} is {value}, and this model takes at most {most}"
            )
    loaded.to("cuda" if torch.cuda.is_available() else "cpu")
    found = evaluate_model(
        loaded,
        held_out,
        num_windows=windows,
        prefix_len=prefix,
        num_latents=num_latents,
        progress=sys.stderr.isatty(),
    )
    spread = "no standard error: all windows are from one piece"
    if found.pieces > 1:
        spread = f"standard error {found.error:.3f}, by piece"
    print(
        f"{found.nats:.3f} nats per token ({spread})\n"
        f"measured on {found.tokens:,} tokens: the last {found.num_latents} of each of "
        f"{found.windows} windows of {found.prefix_len + found.num_latents}, from "
        f"{found.pieces} of {len(held_out)} pieces"
    )
