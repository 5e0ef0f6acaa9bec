"""`tinyperceiver generate`: continue a performance."""

import secrets
from pathlib import Path
from typing import Annotated, Literal

import typer

from tinyperceiver.cli.music_files import (
    check_sound,
    check_writable,
    read_music,
    write_midi,
    write_sound,
)
from tinyperceiver.cli.options import Checkpoint, MidiFile, Revision, SoundFont
from tinyperceiver.cli.refusals import CommandError, refusing


def generate(
    prompt: MidiFile,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="MIDI file to write.", show_default=False),
    ],
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
    """Continue the piano performance in a MIDI file.

    \b
    tinyperceiver generate mozart-sonata -o out.mid --wav out.wav --seed 1
    tinyperceiver generate prompt.mid -o out.mid --temperature 0.9 --max-new-tokens 2000
    tinyperceiver generate prompt.mid -o out.mid --checkpoint krasserm/perceiver-ar-sam-giant-midi
    """
    import torch

    from tinyperceiver import PerceiverAR, decode_midi
    from tinyperceiver.engines.choice import precisions_of
    from tinyperceiver.generation.arguments import check_prompt, check_sampling
    from tinyperceiver.music.prompts import decodable, encode_prompt

    check_writable(output, {".mid", ".midi"})
    if wav is not None:
        check_writable(wav, {".wav", ".mp3"})
        check_sound(soundfont)
    elif soundfont is not None:
        raise CommandError("--soundfont has no effect without --wav")
    if not greedy:
        with refusing():
            check_sampling(True, temperature, top_k, top_p, min_p)
    midi = read_music(prompt)
    model = PerceiverAR.from_pretrained(checkpoint, revision)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    tokens = encode_prompt(midi, model.config.vocab_size)[:prompt_tokens]
    if not tokens:
        raise CommandError(f"{prompt} has no notes to continue")

    # The model reads the end of a prompt that is longer than its window.
    num_latents = num_latents or min(64, model.config.max_latents)
    read = tokens[-min(len(tokens), model.config.max_prefix_len + num_latents) :]
    with refusing():
        check_prompt(model, torch.tensor([read]), num_latents, None)
    if precision not in (possible := precisions_of(model)):
        raise CommandError(
            f"--precision {precision} is not for this machine's "
            f"{model.embedding.weight.device.type}: choose {' or '.join(possible)}"
        )
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
    write_midi(output, music)
    if wav is not None:
        write_sound(wav, music, soundfont)
    chance = "" if greedy else f", seed {seed}"
    print(
        f"{output}: {music.get_end_time():.1f} s, {max_new_tokens} new tokens{chance}"
    )
