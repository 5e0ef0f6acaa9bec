"""`tinyperceiver prepare`: MIDI files become tokens to train on."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Processes at work.", show_default="one a core"),
]


def giantmidi(
    source: Annotated[
        str,
        typer.Option(
            help="A zip, a folder, or the address of a zip.",
            show_default="the zip of the released model's data",
        ),
    ] = "",
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path(
        "data/giantmidi"
    ),
    workers: Workers = None,
    accept: Annotated[
        bool,
        typer.Option(
            "--accept", help="Agree to the dataset's licence without being asked."
        ),
    ] = False,
    dask: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Work on a Dask cluster: address of its scheduler, as tcp://host:8786. "
            "Start its workers with --nthreads 1.",
        ),
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(help="The hash that the zip must have.")
    ] = None,
) -> None:
    """Prepare GiantMIDI-Piano: fetch it, tokenize it, and split it.

    Shows the licence and asks once whether you agree. train/ and valid/ of a
    zip or folder are read as they are; of a flat one, 2 % of the recordings
    become valid. Files that cannot be read are left out, and listed in
    manifest.json with the reason.

    If the command is interrupted, run it again: it continues where it stopped.

    \b
    tinyperceiver prepare giantmidi
    tinyperceiver prepare giantmidi --source giantmidi-piano.zip --accept
    """
    from tinyperceiver import prepare_giantmidi
    from tinyperceiver.dataset.prepare import GIANTMIDI_URL

    with _resumable():
        manifest = prepare_giantmidi(
            source or GIANTMIDI_URL,
            out,
            workers=workers,
            accept=accept,
            dask=dask,
            sha256=sha256,
        )
    _print_prepared(out, manifest)


def folder(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder with MIDI files, in it or in its sub-folders; or a zip.",
            metavar="PATH",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write.", show_default="data/ and the name of PATH"
        ),
    ] = None,
    workers: Workers = None,
) -> None:
    """Prepare your own MIDI files: tokenize them, and hold some music out.

    A tenth of the recordings, and at least two, is held out to measure on. With
    fewer than ten recordings, the last fifth of each is held out instead. If the
    folder has train/ and valid/ in it, they are the split. Files that cannot be
    read are left out, and listed in manifest.json with the reason.

    If the command is interrupted, run it again: it continues where it stopped.

    \b
    tinyperceiver prepare folder my-midi
    tinyperceiver prepare folder my-midi --out data/mine
    """
    from tinyperceiver import prepare_folder

    source = source.expanduser()
    out = out or Path("data") / source.resolve().name.removesuffix(".zip")
    with _resumable():
        manifest = prepare_folder(source, out, workers=workers)
    _print_prepared(out, manifest)
    print(
        f"to fine-tune the shipped model: tinyperceiver train --from tiny --data {out}"
    )


@contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print("stopped: the same command continues where it stopped", file=sys.stderr)
        raise


def _print_prepared(out: Path, manifest: dict) -> None:
    for found in manifest["splits"].values():
        minutes = found["seconds"] / 60
        time = (
            f"{minutes:.1f} minutes" if minutes < 60 else f"{minutes / 60:,.1f} hours"
        )
        print(
            f"{out / found['file']}: {found['pieces']:,} pieces, {found['tokens']:,} tokens, {time}"
        )
        if not found["pieces"]:
            print(f"{out / found['file']} is empty: `train` needs pieces in both")
    if manifest["cut"]:
        print("there are few recordings: the last fifth of each is held out")
    skipped = manifest["skipped"]
    for piece in skipped[:10]:
        print(f"left out: {piece['name']}: {piece['reason']}")
    if len(skipped) > 10:
        print(f"and {len(skipped) - 10:,} more, see {out / 'manifest.json'}")
