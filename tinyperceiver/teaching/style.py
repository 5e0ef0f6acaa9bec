"""How the book's pictures look: colours, fonts, and the way they get onto a page.

A picture is an SVG inside the page. What is drawn in matplotlib's text colour takes the
colour of the text around it, and nothing is drawn behind: light and dark are both right.
"""

import base64
import html
import io
import re
from typing import TYPE_CHECKING

import numpy as np

from tinyperceiver.sound.roll import BLUE as BLUE
from tinyperceiver.sound.roll import ORANGE as ORANGE

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Told apart without colour vision, and at least 3:1 on white and on the dark page.
GREEN, PINK, GREY = "#00a653", "#d94180", "#808080"
INK = "#010203"  # stands for the colour of the text around the picture

STYLE = {
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "font.size": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "figure.figsize": (6.4, 2.8),
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",
    "mathtext.fontset": "dejavusans",
}
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def use_style() -> None:
    """Let matplotlib draw as the book does, from here on."""
    import matplotlib.pyplot as plt
    from cycler import cycler

    plt.rcParams.update(STYLE)
    # Lines differ in dashes too, for those who print in grey.
    dashes = cycler(linestyle=["-", "--", "-.", ":"])
    plt.rcParams["axes.prop_cycle"] = cycler(color=[BLUE, ORANGE, GREEN, PINK]) + dashes


def shades(color: str = BLUE) -> "Colormap":
    """A colormap from nothing, whatever lies below, to `color`: for values from 0 up."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    ends = [(*to_rgb(color), 0.0), (*to_rgb(color), 1.0)]
    return LinearSegmentedColormap.from_list(f"shades of {color}", ends)


def show(fig: "Figure", alt: str, caption: str = "") -> "HTML":
    """A matplotlib figure as an output of the page's own colours; `fig` is closed.

    Args:
        fig: drawn after `use_style`. At 6.4 inches it is as wide as the text of a page.
        alt: what it shows, in words, for those who do not see it.
        caption: what to look at; HTML.
    """
    from IPython.display import HTML

    return HTML(_framed("tinyperceiver-figure", svg_of(fig, alt), caption))


def svg_of(fig: "Figure", alt: str) -> str:
    """A matplotlib figure as an inline SVG of the page's own colours; `fig` is closed."""
    import matplotlib.pyplot as plt

    if not alt.strip():
        raise ValueError("alt must say what the figure shows")
    buffer = io.StringIO()
    # Names inside the drawing come from the salt: two figures of a page must not share.
    with plt.rc_context({"svg.hashsalt": alt}):
        fig.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(fig)
    svg = buffer.getvalue()
    # Its style sheet would reach the whole page, and its groups' names come twice.
    clutter = r"<metadata>.*?</metadata>|<!--.*?-->|<defs>\s*<style.*?</defs>|(?<=<g) id=\"[^\"]*\""
    svg = re.sub(clutter, "", svg, flags=re.DOTALL)
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"(?:'DejaVu Sans'|&quot;DejaVu Sans&quot;)[^;\"]*?sans-serif", FONTS, svg)
    svg = re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    width, height = (round(96 * inches) for inches in fig.get_size_inches())
    style = (
        f"display:block;width:100%;max-width:{width}px;min-width:min({width}px,30em);"
        "height:auto;stroke-linejoin:round;stroke-linecap:butt"
    )
    head = (
        f'<svg role="img" aria-label="{html.escape(alt, quote=True)}" '
        f'style="{style}" viewBox="0 0 {0.75 * width:g} {0.75 * height:g}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    )
    return head + svg[svg.index(">", svg.index("<svg")) :]


def interactive(name: str, picture: str, controls: str, script: str, caption: str = "") -> "HTML":
    """A picture that moves where scripts run, and stands still where they do not.

    It needs no kernel and no network, and works in the built page, in notebooks and on
    Colab. Where scripts are off, the controls stay hidden and `picture` is all there is.

    Args:
        name: of the element, once on a page: letters and hyphens.
        picture: HTML of the first state, with a text for those who do not see it.
        controls: HTML, such as `<label>` around `<input type="range">`: the browser's
            own controls work with a keyboard and say what they are.
        script: JavaScript. `root` is the element that holds everything, `picture` and
            `controls` the two parts.
        caption: what to try; HTML.

    Returns:
        An output to display: the last value of a cell.
    """
    from IPython.display import HTML

    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise ValueError(f"name must be small letters, digits and hyphens, not {name!r}")
    inner = (
        f'<div class="picture">{picture}</div>'
        f'<div class="controls" hidden style="margin:.4em 0">{controls}</div>'
    )
    start = (
        f'const root = document.getElementById("{name}");\n'
        'const picture = root.querySelector(".picture");\n'
        'const controls = root.querySelector(".controls");\n'
        "controls.hidden = false;\n"
    )
    framed = _framed("tinyperceiver-interactive", inner, caption, name)
    return HTML(f"{framed}<script>(() => {{\n{start}{script}\n}})();</script>")


def numbers_url(values: np.ndarray) -> str:
    """Numbers of a model as a data URL, for the script of an interactive picture.

    Processors round differently, so a model's numbers differ in their last digits, and
    however they are written as text, some of them change. The notebooks' test compares
    text, so it leaves data URLs out. What a reader is told in words is compared; write a
    test for the rest that allows for the rounding.

    Args:
        values: of any shape.

    Returns:
        `data:` with the values as float32, little endian, row by row, in base64.
    """
    content = base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode()
    return f"data:application/octet-stream;base64,{content}"


def _framed(kind: str, inner: str, caption: str, name: str = "") -> str:
    identity = f' id="{name}"' if name else ""
    below = f'<p style="font-size:.9em;opacity:.85;margin:.3em 0">{caption}</p>' if caption else ""
    scroll = "overflow-x:auto;max-width:100%"
    return f'<div class="{kind}"{identity} style="{scroll};margin:.5em 0">{inner}{below}</div>'


def is_attended() -> bool:
    """Whether somebody runs this notebook: a front end that could answer a question.

    It is none where a program runs all cells, to test them or to make a page of them.
    """
    try:
        from IPython import get_ipython

        return bool(get_ipython().get_parent()["content"]["allow_stdin"])
    except (ImportError, AttributeError, KeyError, TypeError):
        return False
