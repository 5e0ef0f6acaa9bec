"""`tinyperceiver generate`: continue a performance."""

import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tinyperceiver.cli.music_files import (
    check_sound,
    check_writable,
    numbered,
    read_piano,
    write_midi,
    write_sound,
)
from tinyperceiver.cli.options import (
    MUSIC,
    Checkpoint,
    Revision,
    SoundFont,
    complete_music,
)
from tinyperceiver.cli.refusals import CommandError, refusing

if TYPE_CHECKING:
    from tinyperceiver import PerceiverAR


def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(
            help=f"{MUSIC} Without it, the music begins from nothing.",
            metavar="MIDI",
            show_default=False,
            autocompletion=complete_music,
        ),
    ] = None,
    *,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="MIDI file to write.", show_default=False),
    ],
    takes: Annotated[
        int,
        typer.Option(
            min=1,
            max=1000,
            help="Write so many continuations, each with a seed of its own. Their files "
            "get numbers: -o out.mid writes out-1.mid, out-2.mid and so on.",
        ),
    ] = 1,
    wav: Annotated[
        Path | None, typer.Option(help="Write the sound to this file, too.")
    ] = None,
    checkpoint: Checkpoint = "tiny",
    revision: Revision = None,
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
    """Continue a MIDI file, or begin from nothing.

    The model continues a piano performance. Without a MIDI file it begins one
    itself. If you stop it with Ctrl-C, it writes what it has so far.

    \b
    tinyperceiver generate mozart-sonata -o out.mid --wav out.wav --seed 1
    tinyperceiver generate piece.mid -o out.mid --takes 3 --temperature 0.9
    tinyperceiver generate -o out.mid --grammar
    tinyperceiver generate piece.mid -o out.mid \\
        --checkpoint krasserm/perceiver-ar-sam-giant-midi
    """
    import torch

    from tinyperceiver import decode_midi
    from tinyperceiver.generation.arguments import check_prompt
    from tinyperceiver.music.prompts import encode_prompt, opening, state_after

    outputs, wavs = numbered(output, takes), numbered(wav, takes)
    _check_files(prompt, outputs, wavs, soundfont)
    if prompt is None and prompt_tokens is not None:
        raise CommandError("--prompt-tokens has no effect without a MIDI file")
    sampling = {}
    if not greedy:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p}
        sampling |= {"top_k": top_k, "min_p": min_p}
        _check_sampling(sampling)
    elif takes > 1:
        raise CommandError("--greedy gives the same music each time: leave out --takes")
    midi = None if prompt is None else read_piano(prompt)
    model = _load_model(checkpoint, revision, precision)
    if midi is None:
        tokens = opening(model.config.vocab_size)
    else:
        tokens = encode_prompt(midi, model.config.vocab_size)[:prompt_tokens]
        if not tokens:
            raise CommandError(f"{prompt} has no notes to continue")

    # The model reads the end of a prompt that is longer than its window.
    num_latents = num_latents or min(64, model.config.max_latents)
    read = tokens[-min(len(tokens), model.config.max_prefix_len + num_latents) :]
    with refusing():
        check_prompt(model, torch.tensor([read]), num_latents, None)
    heard = state_after(tokens) if only_new else tokens
    seed = secrets.randbelow(2**32) if seed is None else seed
    for take, (path, sound) in enumerate(zip(outputs, wavs, strict=True)):
        chance = "" if greedy else f", seed {seed + take}"
        if not greedy:
            sampling["generator"] = torch.Generator().manual_seed(seed + take)
        stream = model.stream(
            read,
            max_new_tokens=max_new_tokens,
            num_latents=num_latents,
            grammar=grammar,
            window=window,
            precision=precision,
            **sampling,
        )
        new, is_stopped = _collect(stream, max_new_tokens)
        music = decode_midi(heard + new)
        write_midi(path, music)
        if sound is not None and not is_stopped:
            write_sound(sound, music, soundfont)
        print(f"{path}: {music.get_end_time():.1f} s, {len(new)} new tokens{chance}")
        if is_stopped:
            print(
                f"stopped after {len(new)} of {max_new_tokens} tokens", file=sys.stderr
            )
            raise typer.Exit(130)


def _check_files(
    prompt: str | None,
    outputs: list[Path],
    wavs: list[Path | None],
    soundfont: Path | None,
) -> None:
    """Before the work, not after it: can everything be written?"""
    for path in outputs:
        check_writable(path, {".mid", ".midi"})
        is_prompt = prompt is not None and path.exists() and Path(prompt).exists()
        if is_prompt and path.samefile(prompt):
            raise CommandError(
                f"{path} is the file to continue, and would be overwritten: give --output "
                f"another name"
            )
    for path in filter(None, wavs):
        check_writable(path, {".wav", ".mp3"})
    if wavs[0] is not None:
        check_sound(soundfont)
    elif soundfont is not None:
        raise CommandError("--soundfont has no effect without --wav")


def _check_sampling(sampling: dict) -> None:
    from tinyperceiver.generation.arguments import check_sampling

    if sampling["temperature"] == 0:
        raise CommandError(
            "--temperature must be above 0; to take the likeliest token each time, give "
            "--greedy"
        )
    with refusing():
        check_sampling(**sampling)


def _load_model(checkpoint: str, revision: str | None, precision: str) -> "PerceiverAR":
    """The model on this machine's GPU, if there is one; refuse what it cannot do there."""
    import torch

    from tinyperceiver import PerceiverAR
    from tinyperceiver.engines.choice import precisions_of

    model = PerceiverAR.from_pretrained(checkpoint, revision)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    if precision not in (possible := precisions_of(model)):
        device = model.embedding.weight.device.type
        raise CommandError(
            f"--precision {precision} is not for this machine's {device}; choose "
            f"{' or '.join(possible)}"
        )
    return model


def _collect(stream: Iterator[int], count: int) -> tuple[list[int], bool]:
    """The tokens of a stream, with a bar in a terminal, and whether Ctrl-C stopped it."""
    from tqdm import tqdm

    new = []
    try:
        for token in tqdm(stream, total=count, unit=" tokens", disable=None):
            new.append(token)
    except KeyboardInterrupt:
        return new, True
    return new, False
