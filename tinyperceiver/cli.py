"""The command line: `tinyperceiver COMMAND`; `tinyperceiver --help` lists the commands."""

import io
import os
import secrets
import shlex
import sys
import traceback
from pathlib import Path
from typing import Annotated, Literal

import typer

from tinyperceiver.files import whole_file

app = typer.Typer(
    name="tinyperceiver",
    help="Continue piano music with a Perceiver AR, and hear it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

MidiFile = Annotated[
    str,
    typer.Argument(
        help="A MIDI file, or the name of a shipped piece: bach-prelude, mozart-sonata, "
        "schubert-lindenbaum, chopin-mazurka or joplin-maple-leaf-rag.",
        metavar="MIDI",
        show_default=False,
    ),
]
SoundFont = Annotated[
    Path | None,
    typer.Option(help="Sound font to play with (.sf2).", show_default="General MIDI"),
]


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


@app.command()
def generate(
    prompt: MidiFile,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="MIDI file to write.", show_default=False),
    ],
    wav: Annotated[
        Path | None, typer.Option(help="Write the sound to this file, too.")
    ] = None,
    checkpoint: Annotated[
        str,
        typer.Option(
            help="'tiny', which is shipped; a folder; or a model id on the hub."
        ),
    ] = "tiny",
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit on the hub.")
    ] = None,
    max_new_tokens: Annotated[
        int,
        typer.Option(
            min=1,
            max=1_000_000,
            help="Length of the continuation. A second has about 37 tokens.",
        ),
    ] = 512,
    prompt_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Continue from the first so many tokens of the prompt only."
        ),
    ] = None,
    num_latents: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many of the prompt's last tokens are latents.",
            show_default="64",
        ),
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="Below 1 plays safe, above 1 takes risks.")
    ] = 1.0,
    top_k: Annotated[
        int | None, typer.Option(help="Choose among the k likeliest tokens.")
    ] = None,
    top_p: Annotated[
        float,
        typer.Option(
            help="Choose among the likeliest tokens of this total probability."
        ),
    ] = 0.95,
    min_p: Annotated[
        float | None,
        typer.Option(
            help="Choose among tokens at least this share as likely as the likeliest."
        ),
    ] = None,
    grammar: Annotated[
        bool,
        typer.Option("--grammar", help="Choose only what can be played."),
    ] = False,
    window: Annotated[
        Literal["slide", "refill"],
        typer.Option(help="What happens when the latents are full."),
    ] = "slide",
    precision: Annotated[
        Literal["float32", "half", "int8", "int4"],
        typer.Option(
            help="Bits of the weights: fewer are faster and less exact. int8 and int4 are "
            "for CPUs, half is for GPUs."
        ),
    ] = "float32",
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**63 - 1,
            help="The same seed gives the same music.",
            show_default="random",
        ),
    ] = None,
    greedy: Annotated[
        bool,
        typer.Option(
            "--greedy",
            help="Always take the likeliest token: temperature, top-k, top-p, min-p and "
            "seed do nothing.",
        ),
    ] = False,
    only_new: Annotated[
        bool,
        typer.Option("--only-new", help="Leave the prompt out of what is written."),
    ] = False,
    soundfont: SoundFont = None,
) -> None:
    """Continue the piano performance in a MIDI file.

    \b
    tinyperceiver generate mozart-sonata -o out.mid --wav out.wav --seed 1
    tinyperceiver generate prompt.mid -o out.mid --temperature 0.9 --max-new-tokens 2000
    tinyperceiver generate prompt.mid -o out.mid --checkpoint krasserm/perceiver-ar-sam-giant-midi
    """
    import torch

    from tinyperceiver import PerceiverAR, decode_midi
    from tinyperceiver.pipeline import decodable, encode_prompt

    _check_writable(output, {".mid", ".midi"})
    if wav is not None:
        _check_writable(wav, {".wav", ".mp3"})
        _check_sound(soundfont)
    elif soundfont is not None:
        raise ValueError("--soundfont has no effect without --wav")
    midi = _read_music(prompt)
    model = PerceiverAR.from_pretrained(checkpoint, revision)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    tokens = encode_prompt(model, midi)[:prompt_tokens]
    if not tokens:
        raise ValueError(f"{prompt} has no notes to continue")

    # The model reads the end of a prompt that is longer than its window.
    num_latents = num_latents or min(64, model.config.max_latents)
    read = tokens[-min(len(tokens), model.config.max_prefix_len + num_latents) :]
    sampling = {}
    if not greedy:
        seed = secrets.randbelow(2**32) if seed is None else seed
        generator = torch.Generator().manual_seed(seed)
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p}
        sampling |= {"top_k": top_k, "min_p": min_p, "generator": generator}
    output_tokens = model.generate(
        torch.tensor([read]),
        max_new_tokens=max_new_tokens,
        num_latents=num_latents,
        grammar=grammar,
        window=window,
        precision=precision,
        progress=True,
        **sampling,
    )
    new = output_tokens[0, len(read) :].tolist()
    music = decode_midi(decodable(tokens, new) if only_new else tokens + new)
    _write_midi(output, music)
    if wav is not None:
        _write_sound(wav, music, soundfont)
    chance = "" if greedy else f", seed {seed}"
    print(
        f"{output}: {music.get_end_time():.1f} s, {max_new_tokens} new tokens{chance}"
    )


@app.command()
def render(
    midi: MidiFile,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Sound file to write, .wav or .mp3.",
            show_default=False,
        ),
    ],
    soundfont: SoundFont = None,
) -> None:
    """Turn a MIDI file into sound.

    \b
    tinyperceiver render piece.mid -o piece.mp3
    """
    from tinyperceiver import synthesizer

    _check_writable(output, {".wav", ".mp3"})
    _check_sound(soundfont)
    music = _read_music(midi)
    _write_sound(output, music, soundfont)
    print(f"{output}: {music.get_end_time():.1f} s of music, played by {synthesizer()}")


@app.command()
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
    """Convert a training checkpoint of perceiver-io into a folder that --checkpoint takes.

    \b
    tinyperceiver convert "epoch=027-val_loss=1.944.ckpt" -o released
    """
    from tinyperceiver import convert_checkpoint

    model = convert_checkpoint(output, checkpoint, push_to_hub or False, sha256=sha256)
    print(f"{output}: {model.num_parameters:,} parameters")


@app.command()
def export(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="'tiny', which is shipped; a folder; or a model id on the hub.",
            metavar="MODEL",
        ),
    ],
    output: Annotated[
        Path, typer.Argument(help="File to write, .onnx.", metavar="OUT")
    ],
    bits: Annotated[
        int,
        typer.Option(
            help="Bits of a weight, 32, 16, 8 or 4: fewer make a smaller file, which "
            "is less exact."
        ),
    ] = 32,
    attention_weights: Annotated[
        bool,
        typer.Option(
            "--attention-weights",
            help="Also output the attention weights of the first layer.",
        ),
    ] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit on the hub.")
    ] = None,
) -> None:
    """Write a model as one ONNX file, which plays without Python and PyTorch.

    The page "The model in one file" of the book describes the file.

    \b
    tinyperceiver export tiny tiny.onnx
    tinyperceiver export krasserm/perceiver-ar-sam-giant-midi released.onnx --bits 8
    """
    from tinyperceiver import PerceiverAR, export_onnx

    _check_writable(output, {".onnx"})
    model = PerceiverAR.from_pretrained(checkpoint, revision)
    export_onnx(model, output, bits, attention_weights)
    size = output.stat().st_size
    print(f"{output}: {model.num_parameters:,} parameters, {size / 1e6:.1f} MB")


prepare = typer.Typer(
    help="Turn MIDI files into tokens to train on.", no_args_is_help=True
)
app.add_typer(prepare, name="prepare")
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Processes at work.", show_default="one a core"),
]


@prepare.command()
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

    A run that was broken off is gone on with by the next one.

    \b
    tinyperceiver prepare giantmidi
    tinyperceiver prepare giantmidi --source giantmidi-piano.zip --out data/giantmidi --accept
    """
    from tinyperceiver import prepare_giantmidi
    from tinyperceiver.prepare import GIANTMIDI_URL

    manifest = prepare_giantmidi(
        source or GIANTMIDI_URL,
        out,
        workers=workers,
        accept=accept,
        dask=dask,
        sha256=sha256,
        progress=True,
    )
    _print_prepared(out, manifest)


@prepare.command()
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
    manifest = prepare_folder(source, out, workers=workers, progress=True)
    _print_prepared(out, manifest)
    print(
        f"to fine-tune the shipped model: tinyperceiver train --from tiny --data {out}"
    )


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
        # A name in a folder may be any bytes.
        name = piece["name"].encode("utf-8", "backslashreplace").decode()
        print(f"left out: {name}: {piece['reason']}")
    if len(skipped) > 10:
        print(f"and {len(skipped) - 10:,} more, see {out / 'manifest.json'}")


@app.command()
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="'tiny', which is shipped; a folder; or a model id on the hub.",
            show_default=False,
        ),
    ],
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
    """Measure how well a model predicts held-out music, in nats per token.

    Fewer nats are better. Two models can be compared if they are measured on
    the same windows of the same data.

    \b
    tinyperceiver evaluate tiny data/my-midi
    tinyperceiver evaluate runs/my-midi/best data/my-midi
    """
    import torch

    from tinyperceiver import PerceiverAR, TokenFile
    from tinyperceiver import evaluate as evaluate_model

    held_out = TokenFile(data / "valid.bin" if data.is_dir() else data)
    loaded = PerceiverAR.from_pretrained(model)
    loaded.to("cuda" if torch.cuda.is_available() else "cpu")
    found = evaluate_model(
        loaded,
        held_out,
        num_windows=windows,
        prefix_len=prefix,
        num_latents=num_latents,
        progress=True,
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


@app.command()
def train(
    config: Annotated[
        str | None,
        typer.Option(
            help="A named run ('tiny' is the shipped model's, 'small' that of the next one, "
            "'released' the published one), "
            "or a JSON file like the one that --show prints.",
            show_default="with --from: a short run that suits model and data",
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Fine-tune this model, instead of starting from random weights: 'tiny', which "
            "is shipped; a folder; or a model id on the hub.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path,
        typer.Option(help="Folder with train.bin and valid.bin, from `prepare`."),
    ] = Path("data/giantmidi"),
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run; one that was stopped goes on from its last save.",
            show_default="runs/ and the name of --config or, without it, of --data",
        ),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the configuration and stop.")
    ] = False,
    precision: Annotated[
        str | None,
        typer.Option(
            help="32-true, bf16-mixed or 16-mixed.", show_default="as in --config"
        ),
    ] = None,
    rows_at_once: Annotated[
        int,
        typer.Option(
            min=1,
            help="Windows computed together by a process: fewer need less memory.",
        ),
    ] = 8,
    checkpoint_activations: Annotated[
        bool,
        typer.Option(
            "--checkpoint-activations", help="Compute more, keep less in memory."
        ),
    ] = False,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the model first (torch.compile).")
    ] = False,
    accelerator: Annotated[str, typer.Option(help="cpu, gpu or auto.")] = "auto",
    devices: Annotated[
        int, typer.Option(min=1, help="GPUs of each machine, or processes on its CPU.")
    ] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    strategy: Annotated[
        str, typer.Option(help="auto, ddp, or fsdp for models larger than a GPU.")
    ] = "auto",
    stop_after: Annotated[
        int | None, typer.Option(min=1, help="Pause when this many steps are done.")
    ] = None,
) -> None:
    """Train a Perceiver AR on prepared tokens, or fine-tune one that is trained.

    \b
    tinyperceiver train --from tiny --data data/my-midi
    tinyperceiver train --config tiny --data data/giantmidi
    tinyperceiver train --config released --precision bf16-mixed --devices 2
    torchrun --nnodes 2 --node-rank 0 --nproc-per-node 4 --master-addr HOST -m tinyperceiver \\
        train --config released --devices 4 --nodes 2
    """
    import json
    from dataclasses import replace

    from tinyperceiver import PerceiverAR, TokenFile
    from tinyperceiver.finetuning import describe_gain, finetuning_config
    from tinyperceiver.training import (
        RUNS,
        TrainingConfig,
        TrainingError,
        make_fabric,
    )
    from tinyperceiver.training import train as train_model

    initial_model = None
    if config is None:
        if start is None:
            raise ValueError(
                "give --from MODEL to fine-tune a model, or --config NAME to train a new one"
            )
        splits = [TokenFile(data / f"{split}.bin") for split in ("train", "valid")]
        initial_model = PerceiverAR.from_pretrained(start)
        name, run = (
            data.resolve().name,
            finetuning_config(initial_model.config, *splits),
        )
    elif config in RUNS:
        name, run = config, RUNS[config]
    else:
        path = Path(config)
        if not path.is_file():
            raise ValueError(
                f"--config {config} is neither a file nor one of {', '.join(RUNS)}"
            )
        name = path.stem
        try:
            run = TrainingConfig.from_json(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    if start is not None and initial_model is None:
        initial_model = PerceiverAR.from_pretrained(start)
    _check_choice("--accelerator", accelerator, ("auto", "cpu", "gpu", "cuda", "mps"))
    _check_choice("--strategy", strategy, ("auto", "ddp", "fsdp"))
    if nodes > 1 and not {"MASTER_ADDR", "SLURM_NTASKS"} & os.environ.keys():
        raise ValueError(
            "--nodes is for several machines: start torchrun on each of them, as --help shows"
        )
    if precision is not None:
        run = replace(run, precision=precision)
    if show:
        print(json.dumps(run.to_json(), indent=2))
        return
    out = out or Path("runs") / name
    fabric = make_fabric(
        run.precision,
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=strategy,
    )
    try:
        model = train_model(
            run,
            data,
            out,
            initial_model=initial_model,
            fabric=fabric,
            rows_at_once=rows_at_once,
            checkpoint_activations=checkpoint_activations,
            compile=compile,
            stop_after=stop_after,
        )
    except TrainingError:
        raise
    except KeyboardInterrupt:
        print(f"stopped: the same command goes on from the last save in {out}")
        raise
    except RuntimeError:  # from a GPU or the network between machines: where, and why?
        traceback.print_exc()
        raise
    if fabric.is_global_zero:
        size = f"{model.num_parameters:,} parameters"
        if (out / "model").exists():
            best = f"{out / 'best'} has the lowest held-out loss"
            print(f"{out / 'model'}: {size}, all {run.steps:,} steps; {best}")
            if start is not None:
                print(describe_gain(out))
            print(
                f"hear it: tinyperceiver generate piece.mid -o out.mid "
                f"--checkpoint {shlex.quote(str(out / 'best'))}"
            )
        else:
            print(
                f"{out}: {size}, paused after {stop_after:,} of {run.steps:,} steps; "
                f"the same command without --stop-after continues"
            )


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{option} must be {' or '.join(choices)}, not {value!r}")


def _read_music(name: str):
    from tinyperceiver import PIECES, load_piece, read_midi

    return load_piece(name) if name in PIECES else read_midi(name)


def _check_sound(soundfont: Path | None) -> None:
    """Before the work, not after it: is there a synthesizer, and can it read the sound font?"""
    from pretty_midi import PrettyMIDI

    from tinyperceiver import render, synthesizer

    synthesizer()
    render(PrettyMIDI(), soundfont=soundfont)


def _check_writable(path: Path, endings: set[str]) -> None:
    """Before the work, too."""
    if path.suffix.lower() not in endings:
        raise ValueError(f"{path} must end in {' or '.join(sorted(endings))}")
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(
            f"{path} cannot be written: its folder must exist, and not be a file's"
        )
    for place in (path.parent, path):
        if place.exists() and not os.access(place, os.W_OK):
            raise ValueError(f"{path} cannot be written: no permission for {place}")


def _write_midi(path: Path, music) -> None:
    buffer = io.BytesIO()
    music.write(buffer)
    with whole_file(path) as file:
        file.write(buffer.getvalue())


def _write_sound(path: Path, music, soundfont: Path | None) -> None:
    from tinyperceiver import mp3_bytes, render, wav_bytes

    if path.suffix.lower() == ".mp3":
        data = mp3_bytes(render(music, 22_050, soundfont))
    else:
        data = wav_bytes(render(music, soundfont=soundfont))
    with whole_file(path) as file:
        file.write(data)


def main() -> None:
    """Run the command line; errors that a user can mend are one line, and exit with 1."""
    try:
        app()
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"tinyperceiver: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit(130)
