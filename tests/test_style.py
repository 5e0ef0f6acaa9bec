"""The book's pictures: texts for those who do not see them, and colours for everybody."""

import itertools
import re

import matplotlib
import numpy as np
import pytest
from conftest import linear, luminance

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from tinyperceiver.teaching.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PINK,
    interactive,
    shades,
    show,
    use_style,
)


@pytest.fixture(autouse=True)
def own_style():
    with matplotlib.rc_context():
        use_style()
        yield
    plt.close("all")


def drawn(alt: str = "A line that rises from 0 to 9.") -> str:
    fig, ax = plt.subplots()
    ax.plot(range(10))
    ax.set(title="Rising", xlabel="time (seconds)")
    ax.imshow(np.eye(2), cmap=shades(), extent=(0, 1, 0, 1))
    return show(fig, alt, "Look at <b>nothing</b>.").data


def test_a_figure_takes_the_colour_of_the_text_around_it():
    page = drawn()
    assert "currentColor" in page and INK not in page
    assert "Rising" in re.sub(r"<[^>]*>", "", page), "text stays text"
    assert 'role="img" aria-label="A line that rises from 0 to 9."' in page
    assert "Look at <b>nothing</b>." in page
    fills = set(re.findall(r"fill: (#\w+)", page))
    assert "#ffffff" not in fills, "something white lies behind"
    style = re.search(r'<svg [^>]*style="([^"]*)"', page)[1]
    assert "min-width:min(614px,30em);height:auto;" in style, "on a phone it scrolls"
    assert not plt.get_fignums(), "the inline backend would show it a second time"


def test_figures_are_the_same_every_time_and_share_no_names_with_others():
    assert drawn() == drawn()
    one, other = (set(re.findall(r'\bid="([^"]+)"', drawn(alt))) for alt in ("One.", "Other."))
    assert one and not one & other


def test_a_text_is_escaped_and_must_not_be_missing():
    assert 'aria-label="a &lt; b, &quot;c&quot;"' in drawn('a < b, "c"')
    fig, _ = plt.subplots()
    with pytest.raises(ValueError, match="alt must say"):
        show(fig, " ")


def test_an_interactive_picture_hides_its_controls_until_its_script_runs():
    page = interactive("a-b", "<svg></svg>", "<input>", "controls.x = 1;", "Try it.").data
    assert re.search(r'<div class="controls" hidden[^>]*><input></div>', page)
    assert page.index("<svg>") < page.index("controls.hidden = false") < page.index("controls.x")
    assert page.count('id="a-b"') == 1 and "Try it." in page
    assert "http" not in page
    with pytest.raises(ValueError, match="small letters"):
        interactive('a"b', "", "", "")


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, from 1 to 21."""
    lights = sorted(map(luminance, (one, other)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


@pytest.mark.parametrize("color", [BLUE, ORANGE, GREEN, PINK, GREY])
def test_colours_stand_out_from_light_and_dark_pages(color):
    assert contrast(color, "#ffffff") >= 3 and contrast(color, "#121212") >= 3


# Machado, Oliveira and Fernandes 2009, "A Physiologically-based Model for Simulation of Color
# Vision Deficiency": the complete forms, in linear RGB.
VISION = {
    "full": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB: distances of 2 are hardly seen, of 10 at once."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.clip(to_xyz @ rgb, 1e-6, None) / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
def test_colours_differ_for_all_kinds_of_colour_vision(vision):
    seen = {c: lab(np.clip(VISION[vision] @ linear(c), 0, 1)) for c in (BLUE, ORANGE, GREEN, PINK)}
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) >= 15, (one, other)
    assert np.linalg.norm(seen[BLUE] - seen[ORANGE]) >= 50, "prefix and latents"
