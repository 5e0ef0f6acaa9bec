"""Takes: music that a model has written, and how it was asked to."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.music.prompts import decodable, state_after
from tinyperceiver.music.tokenizer import decode_midi
from tinyperceiver.music.vocabulary import (
    STEPS_PER_SECOND,
    TIME_SHIFT,
    VELOCITY,
)
from tinyperceiver.sound.player import play
from tinyperceiver.sound.synthesis import has_synthesizer

if TYPE_CHECKING:
    from pretty_midi import PrettyMIDI

__all__ = [
    "LABELS",
    "LEAD_IN",
    "Take",
    "continuation",
    "fitting",
    "last_seconds",
    "read_takes",
    "seconds_of",
]

# Setting -> how a reader sees it, in the order of the panel.
LABELS = {
    "temperature": "temperature",
    "top_p": "top-p",
    "top_k": "top-k",
    "min_p": "min-p",
    "prefix_len": "prefix",
    "num_latents": "latents",
    "max_new_tokens": "length",
    "seed": "seed",
    "grammar": "grammar",
    "precision": "precision",
}
# What does nothing is not named.
OFF = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "grammar": False, "precision": "float32"}
LEAD_IN = 3.0  # seconds of a prompt that are heard before what follows it


def seconds_of(tokens: Sequence[int]) -> float:
    """How long tokens last."""
    shifts = (t - TIME_SHIFT + 1 for t in tokens if TIME_SHIFT <= t < VELOCITY)
    return sum(shifts) / STEPS_PER_SECOND


def last_seconds(tokens: Sequence[int], seconds: float) -> list[int]:
    """The end of a piece that lasts so long, and before it what sets its velocity."""
    first = len(tokens)
    while first and seconds_of(tokens[first:]) < seconds:
        first -= 1
    return [*state_after(list(tokens[:first])), *tokens[first:]]


@dataclass(frozen=True)
class Take:
    """Music that a model has written, and how."""

    name: str  # of the prompt
    prompt: list[int]  # tokens that are heard before what is new
    new: list[int]  # tokens that the model has written
    settings: dict  # names as in `LABELS`

    @property
    def midi(self) -> "PrettyMIDI":
        """Prompt and continuation."""
        return decode_midi([*self.prompt, *self.new])

    @property
    def split(self) -> float:
        """When the continuation begins, in seconds."""
        return seconds_of(self.prompt)

    @property
    def title(self) -> str:
        """Prompt, settings and length, in words."""
        words = [
            f"{LABELS.get(name, name)} {value:g}"
            if isinstance(value, float)
            else f"{LABELS.get(name, name)} {value}"
            for name, value in self.settings.items()
            if value != OFF.get(name) and name != "max_new_tokens"
        ]
        length = f"{len(self.new)} tokens, {seconds_of(self.new):.1f} s"
        return f"{self.name}: {', '.join(words)}; {length}"

    def player(self, file: str) -> str:
        """HTML: roll, player with playhead, and links; `file` is the files' name.

        Where there is no synthesizer, it is the roll and a link to the MIDI file.
        """
        settings = {"split": self.split, "downloads": file, "sound": has_synthesizer()}
        settings["playhead"] = max(self.split - LEAD_IN, 0)
        return play(self.midi, title=self.title, **settings).data


def continuation(
    model: PerceiverAR, tokens: Sequence[int], settings: Mapping
) -> tuple[list[int], Iterator[int]]:
    """What the model adds to a prompt, token by token.

    Args:
        model: any `PerceiverAR`.
        tokens: the whole prompt, (length,). The model sees the end of it: `prefix_len` +
            `num_latents` tokens, or what there is.
        settings: a value for each name in `LABELS`; top_k 0 and min_p 0 mean off.

    Returns:
        The part that it sees, as `decode_midi` reads it, and the tokens as they come.

    Raises:
        ValueError: as `PerceiverAR.stream`.
    """
    settings = fitting(len(tokens), settings)
    begin = len(tokens) - settings["prefix_len"] - settings["num_latents"]
    same = [
        "num_latents",
        "max_new_tokens",
        "temperature",
        "top_p",
        "grammar",
        "precision",
    ]
    stream = model.stream(
        torch.tensor(tokens[begin:]),
        do_sample=True,
        top_k=settings["top_k"] or None,
        min_p=settings["min_p"] or None,
        generator=torch.Generator().manual_seed(settings["seed"]),
        **{name: settings[name] for name in same},
    )
    return decodable(list(tokens[:begin]), list(tokens[begin:])), stream


def fitting(length: int, settings: Mapping) -> dict:
    """Settings of which a prompt of so many tokens can fill the window: latents first."""
    num_latents = min(settings["num_latents"], length)
    prefix_len = min(settings["prefix_len"], length - num_latents)
    return {**settings, "prefix_len": prefix_len, "num_latents": num_latents}


def read_takes(path: str | os.PathLike[str]) -> list[Take]:
    """The takes that `scripts/record_takes.py` has written.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such a file; names it.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))["takes"]
        return [Take(**row) for row in rows]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{os.fspath(path)!r} holds no takes ({error!r}): write it with "
            "scripts/record_takes.py"
        ) from error
