"""Recorded takes on a page without a kernel, to be chosen by their settings."""

import html
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tinyperceiver.studio.takes import LABELS, Take

if TYPE_CHECKING:
    from IPython.display import HTML

__all__ = ["studio_grid"]

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
