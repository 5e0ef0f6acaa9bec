"""Takes: music that a model has written, how it was asked to, and a page of them.

The studio makes them in a notebook; `studio_grid` shows recorded ones without a kernel.
"""

import html
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tinyperceiver.audio import play
from tinyperceiver.model import PerceiverAR
from tinyperceiver.pipeline import decodable
from tinyperceiver.tokenizer import (
    NUM_EVENTS,
    STEPS_PER_SECOND,
    TIME_SHIFT,
    VELOCITY,
    decode_midi,
)

if TYPE_CHECKING:
    from IPython.display import HTML
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
    "studio_grid",
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
    before = list(tokens[:first])
    velocities = [token for token in before if VELOCITY <= token < NUM_EVENTS]
    return [*(decodable(before, []) or velocities[-1:]), *tokens[first:]]


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
        """HTML: roll, player with playhead, and links; `file` is the files' name."""
        start = max(self.split - LEAD_IN, 0)
        settings = {"split": self.split, "playhead": start, "downloads": file}
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


# Without a kernel


def read_takes(path: str | os.PathLike) -> list[Take]:
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


_CHOOSE = """
const root = document.getElementById("%s");
const picture = root.querySelector(".picture");
const controls = root.querySelector(".controls");
const inputs = [...controls.querySelectorAll("input, select")];
const show = () => {
  const choice = inputs.map((input) => Number(input.value)).join();
  for (const take of picture.children) {
    take.hidden = take.dataset.choice !== choice;
    if (take.hidden) take.querySelector("audio")?.pause();
  }
  for (const input of inputs.filter((input) => input.type === "range")) {
    const text = input.dataset.values.split("|")[input.value];
    input.nextElementSibling.textContent = text;
    input.setAttribute("aria-valuetext", text);
  }
};
controls.addEventListener("input", show);
controls.hidden = false;
show();
"""


def studio_grid(takes: Sequence[Take], element: str = "studio-takes") -> "HTML":
    """Takes on a page, to be chosen by sliders: with sound, without kernel and network.

    Args:
        takes: one for each combination of those settings in which they differ; prompts
            count as a setting. The first is shown where scripts are off.
        element: its name, once on a page: letters, digits and hyphens.

    Returns:
        An output to display: the last value of a cell.

    Raises:
        ValueError: there are no takes, or a combination is missing or there twice.
    """
    from IPython.display import HTML

    rows = [{"prompt": take.name} | take.settings for take in takes]
    names = rows[0].keys() if rows else ()
    if not rows or any(row.keys() != names for row in rows):
        raise ValueError("there must be takes, and all with the same settings")
    axes = {name: sorted({row[name] for row in rows}, key=_order) for name in names}
    axes = {name: values for name, values in axes.items() if len(values) > 1}
    places = [tuple(axes[name].index(row[name]) for name in axes) for row in rows]
    whole = itertools.product(*(range(len(values)) for values in axes.values()))
    if sorted(places) != list(whole):
        wanted = " x ".join(f"{len(v)} {LABELS.get(k, k)}" for k, v in axes.items())
        raise ValueError(
            f"there must be one take for each combination ({wanted or 'one in all'}), "
            f"not {len(takes)} that leave some out or come twice"
        )
    players = (
        f'<div data-choice="{",".join(map(str, place))}"{" hidden" * bool(i)}>'
        f"{take.player(f'{element}-{i + 1}')}</div>"
        for i, (take, place) in enumerate(zip(takes, places, strict=True))
    )
    first = dict(zip(axes, places[0], strict=True))
    controls = (_control(key, axes[key], first[key]) for key in axes)
    return HTML(
        f'<div class="tinyperceiver-interactive" id="{element}" style="max-width:54em">'
        f'<div class="controls" hidden>{"".join(controls)}</div>'
        f'<div class="picture">{"".join(players)}</div></div>'
        f"<script>(() => {{{_CHOOSE % element}}})();</script>"
    )


def _order(value: float | str | None) -> tuple:
    return value is None, value if value is not None else 0


def _control(key: str, values: list, chosen: int) -> str:
    """A slider for numbers, else a list; its values are places among `values`."""
    label = LABELS.get(key, key)
    if not all(isinstance(value, (int, float)) for value in values):
        options = "".join(
            f'<option value="{i}"{" selected" * (i == chosen)}>{html.escape(str(v))}'
            for i, v in enumerate(values)
        )
        inner = f"<select>{options}</select>"
    else:
        texts = html.escape("|".join(map(str, values)))
        inner = (
            f'<input type="range" min="0" max="{len(values) - 1}" value="{chosen}" '
            f'data-values="{texts}"> <output></output>'
        )
    style = "display:inline-block;margin:.2em 1.5em .2em 0"
    return f'<label style="{style}">{label} {inner}</label>'
