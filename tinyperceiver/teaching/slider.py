"""Figures that readers move: every state is drawn in Python, a script only exchanges them.

A figure is a function from the values of its sliders to HTML. It is called for every
combination; the page carries the first state whole, and of the others what differs.
"""

import html
import json
import re
from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinyperceiver.teaching.style import interactive

if TYPE_CHECKING:
    from IPython.display import HTML


class Slider(NamedTuple):
    """One control. `values` go to the function that draws, under `name`."""

    name: str
    label: str
    values: Sequence
    at: int = 0  # the place in `values` where it begins
    texts: Sequence[str] = ()  # what is shown of each value; as it is by default


def slider_figure(
    name: str,
    draw: Callable[..., str | None],
    sliders: Sequence[Slider],
    caption: str = "",
) -> "HTML":
    """A figure with sliders over states that are all drawn beforehand.

    Args:
        name: of the element, once on a page: letters and hyphens.
        draw: called with a value of each slider by name; returns HTML, with the same tags and
            attributes for all values, of which only the contents differ: let one `<path>` draw
            what varies in number. None where a combination does not exist: the last slider
            then ends before it; the first always exists.
        sliders: few and short, for their combinations are multiplied. A part that hangs on
            one or two of them is stored for these alone.
        caption: what to try; HTML.

    Raises:
        ValueError: two states have not the same tags and attributes.
    """
    first = draw(**{slider.name: slider.values[slider.at] for slider in sliders})
    states = states_of(draw, sliders)
    payload = json.dumps(states, separators=(",", ":"), ensure_ascii=False)
    controls = "".join(map(_control, sliders))
    # "</script>" in it would end the script.
    script = "const states = " + payload.replace("</", r"<\/") + ";\n" + SCRIPT
    return interactive(name, first, controls, script, caption)


def states_of(draw: Callable[..., str | None], sliders: Sequence[Slider]) -> dict:
    """All states of a figure, for its script.

    Returns:
        `parts`: the HTML in pieces, each either a text that is the same in all states, or
        `[shape, texts]`: the values of the sliders that it hangs on, 1 for the others, and
        its texts with the last slider the fastest. `ends`: likewise, how many values the last
        slider has.
    """
    shape = [len(slider.values) for slider in sliders]
    names = [slider.name for slider in sliders]
    drawn = [
        draw(**dict(zip(names, values, strict=True)))
        for values in product(*(slider.values for slider in sliders))
    ]
    exists = np.array([state is not None for state in drawn]).reshape(shape)
    pieces = [None if state is None else re.split('([<>"])', state) for state in drawn]
    for place, state in enumerate(pieces):  # never shown, and easily compressed
        pieces[place] = pieces[place - 1] if state is None else state
    lengths = {len(state) for state in pieces}
    if len(lengths) > 1:
        raise ValueError(
            f"states must have the same tags and attributes, and these have {sorted(lengths)} "
            "pieces: draw what varies in number as one path"
        )
    parts = []
    for texts in zip(*pieces, strict=True):
        part = _column(np.array(texts, dtype=object).reshape(shape))
        if isinstance(part, str) and parts and isinstance(parts[-1], str):
            parts[-1] += part
        else:
            parts.append(part)
    return {"parts": parts, "ends": _column(exists.sum(-1, keepdims=True))}


def _column(values: np.ndarray):
    """One piece over all states: without the sliders that it does not hang on."""
    for axis in range(values.ndim):
        one = values.take([0], axis)
        if (values == one).all():
            values = one
    return values.item() if values.size == 1 else [values.shape, values.ravel().tolist()]


def _control(slider: Slider) -> str:
    texts = [str(text) for text in slider.texts or slider.values]
    return (
        '<label style="display:flex;gap:.6em;align-items:center;max-width:30em">'
        f'<span style="flex:0 0 6.5em">{html.escape(slider.label)}</span>'
        f'<input type="range" min="0" max="{len(texts) - 1}" value="{slider.at}" '
        f"data-texts='{html.escape(json.dumps(texts), quote=True)}' "
        'style="flex:1;min-width:0">'
        f'<output style="flex:0 1 {max(map(len, texts)) + 1}ch">{texts[slider.at]}</output>'
        "</label>"
    )


SCRIPT = """
const inputs = [...controls.querySelectorAll("input")];
const at = (part, state) => {
  if (!Array.isArray(part)) return part;
  const [shape, texts] = part;
  return texts[shape.reduce((sum, size, k) => sum * size + (size > 1 ? state[k] : 0), 0)];
};
// Only what differs is touched: screen readers then read out what is new.
const mend = (old, now) => {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== now.data) old.data = now.data;
    return;
  }
  for (const { name, value } of now.attributes)
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const [before, after] = [old.childNodes, now.childNodes];
  if (before.length === after.length) before.forEach((node, k) => mend(node, after[k]));
  else old.replaceChildren(...after);
};
const update = () => {
  const state = inputs.map(input => Number(input.value)), last = inputs.length - 1;
  inputs[last].max = at(states.ends, state) - 1;
  state[last] = Number(inputs[last].value);
  const now = document.createElement("div");
  now.className = picture.className;
  now.innerHTML = states.parts.map(part => at(part, state)).join("");
  mend(picture, now);
  inputs.forEach((input, k) => {
    const text = JSON.parse(input.dataset.texts)[state[k]];
    input.nextElementSibling.value = text;
    input.setAttribute("aria-valuetext", text);
  });
};
controls.addEventListener("input", update);
update();  // a browser may have kept the sliders of an earlier visit
"""
