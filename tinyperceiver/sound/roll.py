"""The piano roll: a performance as a picture."""

from typing import TYPE_CHECKING, NamedTuple

from tinyperceiver.music.midi import instruments_of
from tinyperceiver.music.pedal_intervals import pedal_intervals

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pretty_midi import PrettyMIDI

__all__ = ["BLUE", "ORANGE", "Roll", "octaves", "piano_roll", "roll_of"]

# Both stand out from white and from black, and differ in lightness, not in hue alone.
BLUE, ORANGE = "#1c78c8", "#d97b0b"


class Roll(NamedTuple):
    """The contents of a piano roll, in seconds and MIDI pitches."""

    # Start, end, pitch, colour, opacity.
    bars: list[tuple[float, float, int, str, float]]
    pedal: list[tuple[float, float]]
    low: int
    high: int
    seconds: float
    split: float | None  # None if it lies outside
    text: str  # for those who do not see it


def roll_of(midi: "PrettyMIDI", split: float | None) -> Roll:
    """Collect what a piano roll shows: notes, pedal and axes."""
    from pretty_midi import note_number_to_name

    parts = [part for part in instruments_of(midi) if not part.is_drum]
    notes = sorted(
        (note.start, note.end, note.pitch, note.velocity)
        for part in parts
        for note in part.notes
    )
    if not all(0 <= value < float("inf") for note in notes for value in note):
        raise ValueError(
            "midi holds a note whose start, end, pitch or velocity is below 0 or NaN"
        )
    if split is not None and not 0 <= split < float("inf"):
        raise ValueError(f"split must be a time in seconds, 0 or later, not {split!r}")
    if not notes:
        return Roll([], [], 59, 73, 1.0, None, "Piano roll without notes.")
    seconds = max(end for _, end, _, _ in notes) or 1.0
    split = None if split is None or split >= seconds else split
    # Bars end a hair early, or repeated notes would run together.
    gap = 0.0015 * seconds
    bars, later = [], 0
    for start, end, pitch, velocity in notes:
        is_later = split is not None and start >= split
        later += is_later
        color = BLUE if split is None or is_later else ORANGE
        opacity = round(0.4 + 0.6 * velocity / 127, 2)
        bars.append((start, max(end - gap, start + gap), pitch, color, opacity))
    pedal = sorted(interval for part in parts for interval in pedal_intervals(part))
    low, high = min(note[2] for note in notes), max(note[2] for note in notes)
    loud = sorted(note[3] for note in notes)
    text = (
        f"Piano roll: {len(notes)} notes from {note_number_to_name(low)} to "
        f"{note_number_to_name(high)} in {seconds:.1f} seconds, velocities {loud[0]} to "
        f"{loud[-1]}, the pedal pressed {len(pedal)} times."
    )
    if split is not None:
        text += f" {later} notes, from {split:.1f} seconds on, are a continuation."
    # At least an octave, so that a C is in sight.
    spare = max(0, 14 - (high - low)) // 2 + 2
    return Roll(bars, pedal, low - spare, high + spare, seconds, split, text)


def octaves(roll: Roll) -> dict[int, str]:
    """Return the keys C in a range, which are labelled."""
    return {
        c: f"C{c // 12 - 1}" for c in range(-(-roll.low // 12) * 12, roll.high + 1, 12)
    }


def piano_roll(
    midi: "PrettyMIDI", ax: "Axes | None" = None, *, split: float | None = None
) -> "Axes":
    """Draw pitch over time: velocity as density, the sustain pedal as a strip below.

    Colours are told apart without colour vision, in grey, and on dark backgrounds; text and lines
    take matplotlib's colours. Drums are left out.

    Args:
        midi: the music.
        ax: where to draw; None for a new figure.
        split: when a continuation begins, in seconds: what comes before is orange, as
            prefixes are in the book, and the continuation blue, as latents.

    Returns:
        The axes.

    Raises:
        ValueError: `split` is no time, or a note is not MIDI.
    """
    import matplotlib.pyplot as plt
    from matplotlib.collections import PolyCollection

    roll = roll_of(midi, split)
    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 2.6), layout="constrained")
    ink, bottom, ticks = plt.rcParams["text.color"], roll.low, octaves(roll)
    ax.hlines(list(ticks), 0, roll.seconds, colors=ink, alpha=0.2, lw=0.6, zorder=1)
    boxes = [
        (
            (start, pitch - 0.42),
            (start, pitch + 0.42),
            (end, pitch + 0.42),
            (end, pitch - 0.42),
        )
        for start, end, pitch, _, _ in roll.bars
    ]
    shades = [bar[3:] for bar in roll.bars]
    ax.add_collection(PolyCollection(boxes, facecolors=shades, linewidth=0, zorder=2))
    if roll.pedal:
        bottom = roll.low - 5
        widths = [(down, up - down) for down, up in roll.pedal]
        ax.broken_barh(widths, (bottom, 2), facecolors=ink, alpha=0.55, lw=0)
        ticks = {bottom + 1: "pedal", **ticks}
    if roll.split is not None:
        ax.axvline(roll.split, color=ink, lw=1, ls="--")
        place = {
            "transform": ax.get_xaxis_transform(),
            "va": "bottom",
            "clip_on": False,
        }
        ax.text(roll.split, 1.0, "continuation →", fontweight="bold", **place)
    if not roll.bars:
        ax.text(0.5, 0.5, "no notes", transform=ax.transAxes, ha="center", va="center")
    ax.set(
        xlim=(0, roll.seconds), ylim=(bottom - 0.5, roll.high), xlabel="time (seconds)"
    )
    ax.set_yticks(list(ticks), list(ticks.values()))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax
