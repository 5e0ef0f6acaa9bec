"""What chapter 8 needs beside the data module: recorded counts, pictures, checkers."""

import builtins
import html
import json
from collections.abc import Callable
from typing import TYPE_CHECKING
from unittest.mock import patch

import numpy as np

from tinyperceiver.dataset.token_file import END
from tinyperceiver.dataset.windows import IGNORED, Batch, Windows
from tinyperceiver.music.vocabulary import NOTE_OFF, NUM_EVENTS, TIME_SHIFT, VELOCITY
from tinyperceiver.teaching.checking import Mistake, checker
from tinyperceiver.teaching.records import recorded_numbers
from tinyperceiver.teaching.style import BLUE, GREY, ORANGE, PINK, interactive

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.figure import Figure

__all__ = [
    "check_held_out",
    "check_pieces_of",
    "check_rows_of_step",
    "check_vary_touch",
    "check_where",
    "draw_batch",
    "draw_coverage",
    "draw_drift",
    "draw_durations",
    "draw_leak",
    "draw_lengths",
    "draw_music",
    "draw_wobble",
    "explore_windows",
    "recorded_statistics",
]

RECORD = "runs/giantmidi/statistics.json"
BLACK_KEYS = (1, 3, 6, 8, 10)  # of the twelve of an octave
LOWEST, HIGHEST = 21, 108  # keys of a piano
BIN = 8  # tokens of a step in a picture


# The recorded counts


def recorded_statistics() -> dict:
    """What `scripts/count_dataset.py` counted."""
    return recorded_numbers(RECORD)


# Figures


def draw_lengths(tokens_of_each: list[int], windows: dict[str, int]) -> "Figure":
    """How many recordings are how long, in tokens; `windows`: name -> length to mark."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 2.7))
    edges = np.geomspace(500, 200_000, 53)
    ax.hist(tokens_of_each, edges, color=BLUE, alpha=0.8)
    ax.set(
        xscale="log", xlabel="tokens of a recording (log scale)", ylabel="recordings"
    )
    ticks = (1000, 10_000, 100_000)
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    top = ax.get_ylim()[1]
    ax.set_ylim(0, 1.3 * top)
    for name, length in windows.items():
        is_last = length == max(windows.values())
        ax.axvline(length, color=ORANGE, ls="--", lw=1.3)
        side, at = ("left", length * 1.06) if is_last else ("right", length / 1.06)
        ax.text(at, 1.27 * top, f"{name}, {length:,}", ha=side, va="top")
    ax.set_xlim(200, 200_000)
    return fig


def draw_music(recordings: dict) -> "Figure":
    """Keys, velocities and notes a second: `recordings` of `recorded_statistics()`."""
    import matplotlib.pyplot as plt

    events = np.array(recordings["events"])
    fig, axes = plt.subplot_mosaic("kk;vn", figsize=(6.4, 4.4))
    ax, keys = axes["k"], np.arange(LOWEST, HIGHEST + 1)
    share = 100 * events[keys] / events[:NOTE_OFF].sum()
    black = np.isin(keys % 12, BLACK_KEYS)
    ax.bar(keys[~black], share[~black], width=0.8, color=BLUE, label="white keys")
    ax.bar(
        keys[black],
        share[black],
        width=0.8,
        color="none",
        edgecolor=GREY,
        hatch="////",
        label="black keys",
    )
    ax.set(xlim=(LOWEST - 1, HIGHEST + 1), ylabel="% of the notes")
    ax.set_xticks(range(24, 109, 12), [f"C{octave}" for octave in range(1, 9)])
    ax.legend(loc="upper right")
    ax.set_title("which keys", loc="left")
    ax = axes["v"]
    touch = 100 * events[VELOCITY:] / events[VELOCITY:].sum()
    ax.bar(np.arange(32) * 4 + 2, touch, width=3.4, color=BLUE)
    ax.set(xlabel="velocity", ylabel="% of the tokens", xlim=(0, 128))
    ax.set_xticks(range(0, 129, 32))
    ax.set_title("how hard", loc="left")
    ax = axes["n"]
    density = np.divide(recordings["notes_of_each"], recordings["seconds_of_each"])
    ax.hist(density, np.arange(0, 26), color=BLUE)
    ax.set(xlabel="notes a second", ylabel="recordings", xlim=(0, 25))
    ax.set_title("how many", loc="left")
    return fig


def draw_durations(files: dict) -> "Figure":
    """How long keys are down: `files` of `recorded_statistics()`."""
    import matplotlib.pyplot as plt

    edges, counts = np.array(files["duration_edges"]), np.array(files["durations"])
    share = 100 * counts / files["notes"]
    fig, ax = plt.subplots(figsize=(6.4, 2.5))
    short = edges[1:] < 0.03
    for part, color, hatch in ((~short, BLUE, None), (short, PINK, "////")):
        ax.bar(
            edges[:-1][part],
            share[part],
            np.diff(edges)[part],
            align="edge",
            color=color if hatch is None else "none",
            edgecolor=color,
            hatch=hatch,
            lw=0.6,
        )
    ax.set(
        xscale="log", xlabel="a key is down for (log scale)", ylabel="% of the notes"
    )
    ticks = {
        0.005: "5 ms",
        0.015: "15 ms",
        0.05: "50 ms",
        0.15: "150 ms",
        0.5: "500 ms",
    }
    ticks |= {1.5: "1.5 s", 5: "5 s", 15: "15 s"}
    ax.set_xticks(list(ticks), ticks.values())
    ax.minorticks_off()
    ax.set_xlim(0.0036, 21)
    ax.annotate(
        "below 29 ms",
        (0.01, share[short].max()),
        xytext=(0, 24),
        textcoords="offset points",
        ha="center",
        arrowprops={"arrowstyle": "-", "color": GREY},
    )
    return fig


def draw_leak(orders: list[int], panels: dict[str, dict[str, list[float]]]) -> "Figure":
    """Nats per token by order of a counted model, for each way to split, a panel each.

    panels: title -> split -> nats of each order.
    """
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(panels), figsize=(6.4, 3.2), sharey=True)
    looks = (BLUE, "-", "o"), (ORANGE, "--", "s"), (PINK, ":", "^")
    for ax, (title, splits) in zip(axes, panels.items(), strict=True):
        for (name, nats), (color, dash, marker) in zip(
            splits.items(), looks, strict=True
        ):
            ax.plot(orders, nats, dash, color=color, marker=marker, ms=4.5, label=name)
        ax.set(xlabel="order of the model", xticks=orders, title=title)
    axes[0].set(ylabel="nats per token, “held out”", ylim=(0, 6.2))
    axes[-1].legend(loc="lower left")
    return fig


def draw_coverage(counts: dict[str, dict[str, np.ndarray]]) -> "Figure":
    """How often each token was a target: way to draw -> piece -> counts, (length,)."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(
        len(counts),
        1,
        figsize=(6.4, 1.35 * len(counts) + 0.5),
        sharex=True,
        sharey=True,
    )
    mean = np.mean(np.concatenate(list(next(iter(counts.values())).values())))
    for ax, (way, pieces) in zip(axes, counts.items(), strict=True):
        begin = 0
        for name, count in pieces.items():
            edges = np.arange(0, len(count) - BIN // 2, BIN)  # or a page has megabytes
            level = [count[edge : edge + BIN].mean() / mean for edge in edges]
            ax.stairs(
                level, begin + np.append(edges, len(count)), fill=True, color=BLUE
            )
            ax.axvline(begin, color=GREY, lw=0.8)
            if ax is axes[0]:
                middle = begin + len(count) / 2
                ax.text(middle, 3.75, name.split("-")[0], ha="center", va="top")
            begin += len(count)
        ax.axhline(1, color=GREY, lw=1, ls=":")
        ax.set_title(way, loc="left", pad=4)
        ax.set(ylim=(0, 3.75), yticks=[0, 1, 2, 3], xlim=(0, begin))
    axes[len(axes) // 2].set_ylabel("times a target, 1 = the average")
    axes[-1].set_xlabel("tokens of the five pieces, one after the other")
    return fig


def draw_batch(batch: Batch) -> "Figure":
    """What each position of a batch is: padding, prefix, latent, latent without a target."""
    import matplotlib.pyplot as plt

    rows, n = batch.tokens.shape
    fig, ax = plt.subplots(figsize=(6.4, 0.36 * rows + 1.3))
    is_pad = np.zeros((rows, n), dtype=bool)
    if batch.pad_mask is not None:
        is_pad = batch.pad_mask.numpy()
    lacks_target = (batch.targets == IGNORED).numpy()
    looks = {
        "padding": ("none", GREY, ".."),
        "prefix": (ORANGE, ORANGE, None),
        "latents": (BLUE, BLUE, None),
        "latents without a target": ("none", BLUE, "////"),
    }
    for row in range(rows):
        pads, known = int(is_pad[row].sum()), int((~lacks_target[row]).sum())
        m = batch.prefix_len
        parts = (0, pads), (pads, m - pads), (m, known), (m + known, n - m - known)
        for (start, length), (name, look) in zip(parts, looks.items(), strict=True):
            fill, edge, hatch = look
            ax.barh(
                row,
                length,
                left=start,
                height=0.72,
                color=fill,
                edgecolor=edge,
                hatch=hatch,
                lw=0.8,
                label=name if row == 0 else None,
            )
    ax.invert_yaxis()
    ax.set(xlabel="position in the window", ylabel="row", yticks=range(rows))
    ax.set_xlim(0, n)
    ax.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1), columnspacing=1.2)
    return fig


def draw_drift(seconds: np.ndarray, errors: dict[str, np.ndarray]) -> "Figure":
    """How far each event is from where it should be, in ms, against its time."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 2.5))
    for (name, error), (color, dash) in zip(
        errors.items(), ((PINK, "--"), (BLUE, "-")), strict=True
    ):
        ax.plot(seconds, error, dash, color=color, lw=1.5, label=name)
    ax.axhspan(-5, 5, color=GREY, alpha=0.25, lw=0)
    ax.set(xlabel="seconds of the piece", ylabel="late (+), early (−), ms")
    ax.legend(loc="best")
    return fig


def draw_wobble(wobble: dict) -> "Figure":
    """The same model measured on other random windows: `wobble` of the recorded counts."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 2.3))
    sizes = list(wobble["nats"])
    for row, size in enumerate(sizes):
        nats = np.array(wobble["nats"][size])
        ax.plot(nats, np.full(len(nats), row), "o", color=BLUE, ms=5, alpha=0.6)
        spread = f"standard deviation {nats.std(ddof=1):.2f}"
        ax.text(nats.mean(), row - 0.28, spread, ha="center", va="bottom")
    ax.set_yticks(range(len(sizes)), [f"{size} windows" for size in sizes])
    ax.set(ylim=(len(sizes) - 0.6, -0.75), xlabel="nats per token")
    return fig


def explore_windows(
    windows: Windows, names: list[str], num_steps: int, num_rows: int
) -> "HTML":
    """Where the rows of each step fall in the pieces: a slider over the steps.

    Args:
        windows: of few and short pieces, without augmentation.
        names: of the pieces, in order.
    """
    pieces = [windows.data[i].tolist() for i in range(len(windows.data))]
    steps = [
        _places(windows[step, range(num_rows)], pieces) for step in range(num_steps)
    ]
    longest = max(map(len, pieces))
    scale = 500 / longest
    high = 12 * num_rows + 8
    bars = "".join(
        f'<text x="0" y="{i * (high + 20) + 14}">{html.escape(name)}, '
        f"{len(piece):,} tokens</text>"
        f'<rect x="0" y="{i * (high + 20) + 20}" width="{len(piece) * scale:.1f}" '
        f'height="{high}" fill="none" stroke="currentColor" stroke-opacity=".5"/>'
        for i, (name, piece) in enumerate(zip(names, pieces, strict=True))
    )
    prefix, latents = _paths(steps[0], scale, high)
    tall = len(pieces) * (high + 20) + 4
    picture = (
        f'<svg role="img" aria-label="Five pieces as bars, and in them the windows of a '
        f'step: prefix and latents of each row" viewBox="0 0 510 {tall}" '
        'style="display:block;width:100%;max-width:640px" fill="currentColor" '
        f'font-size="13">{bars}'
        f'<path class="prefix" fill="none" stroke="{ORANGE}" stroke-width="2" d="{prefix}"/>'
        f'<path class="latents" fill="{BLUE}" d="{latents}"/></svg>'
        '<p class="says" aria-live="polite" style="margin:.3em 0;min-height:3.2em">'
        f"{html.escape(_says(0, steps[0], names))}</p>"
    )
    controls = (
        f'<label>step: <input type="range" min="0" max="{num_steps - 1}" step="1" '
        'value="0" style="width:16em;max-width:70%"></label> <output>0</output>'
    )
    states = [
        [*_paths(step, scale, high), _says(i, step, names)]
        for i, step in enumerate(steps)
    ]
    data = json.dumps(states, separators=(",", ":"), ensure_ascii=False)
    return interactive(
        "windows-of-a-step",
        picture,
        controls,
        f"const states = {data};\n{_EXPLORE}",
        "Move through the steps, forwards and backwards: each is what it is, whatever "
        "came before. Outlined: prefix. Filled: latents. The rows of a step share a "
        "prefix length.",
    )


_EXPLORE = """
const slider = controls.querySelector("input");
function update() {
  const [prefix, latents, says] = states[slider.value];
  picture.querySelector(".prefix").setAttribute("d", prefix);
  picture.querySelector(".latents").setAttribute("d", latents);
  picture.querySelector(".says").textContent = says;
  controls.querySelector("output").textContent = slider.value;
}
slider.addEventListener("input", update);
update();
"""


def _places(batch: Batch, pieces: list[list[int]]) -> list[tuple[int, int, int, int]]:
    """Piece, start, prefix and latents of each row, found again by their tokens."""
    texts = ["".join(map(chr, piece)) for piece in pieces]
    found = []
    for row, tokens in enumerate(batch.tokens.tolist()):
        pads = 0 if batch.pad_mask is None else int(batch.pad_mask[row].sum())
        known = int((batch.targets[row] != IGNORED).sum())
        m = batch.prefix_len - pads
        text = "".join(map(chr, tokens[pads : batch.prefix_len + known]))
        piece = next(i for i, whole in enumerate(texts) if text in whole)
        found.append((piece, texts[piece].index(text), m, known))
    return found


def _paths(places: list[tuple], scale: float, high: int) -> tuple[str, str]:
    """The boxes of the prefixes, and those of the latents."""
    prefix = latents = ""
    for row, (piece, start, m, known) in enumerate(places):
        y = piece * (high + 20) + 25 + 12 * row
        x, middle = start * scale, (start + m) * scale
        if m:
            wide = middle - x
            prefix += f"M{x:.1f} {y + 1}h{wide:.1f}v7h{-wide:.1f}z"
        latents += f"M{middle:.1f} {y}h{known * scale:.1f}v9h{-known * scale:.1f}z"
    return prefix, latents


def _says(step: int, places: list[tuple], names: list[str]) -> str:
    prefix = max(m for _, _, m, _ in places)
    rows = "; ".join(
        f"row {row}: {names[piece]} from token {start}"
        for row, (piece, start, _, _) in enumerate(places)
    )
    return f"Step {step}: a prefix of {prefix} tokens; {rows}."


# Checkers of exercises


def _as_list(found: object, name: str, what: str) -> list:
    try:
        return list(found)
    except TypeError:
        kind = type(found).__name__
        raise Mistake(f"{name} should return {what}, not a {kind}.") from None


class _NoLoop(np.ndarray):
    """An array that tells who goes through it token by token."""

    def __iter__(self) -> None:
        raise Mistake(LOOP)

    def tolist(self) -> None:
        raise Mistake(
            "of a file of 60,000 tokens you make a Python list of all: many times the "
            "memory, and a step for each token. Let NumPy find all -1 at once."
        )

    def __getitem__(self, key):
        found = np.asarray(self)[key]
        if np.ndim(found):
            return found.view(_NoLoop)
        _NoLoop.asked += 1
        if _NoLoop.asked > 1000:  # there are 60 pieces
            raise Mistake(LOOP)
        return found

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        plain = [np.asarray(each) for each in inputs]
        return getattr(ufunc, method)(*plain, **kwargs)


LOOP = (
    "of a file of 60,000 tokens you look at one after the other. Let NumPy find all -1 at "
    "once, and cut there."
)


@checker
def check_pieces_of(pieces_of: Callable) -> str:
    cases = (
        [[5, 6, 7], [8], [9, 10]],
        [[300, 60, 188]],
        [[1, 2], [3, 4], [5, 6], [7, 8]],
        [[0, 0, 0, 0], [387]],
    )
    for pieces in cases:
        tokens = np.array([t for piece in pieces for t in (*piece, END)], dtype="<i2")
        found = pieces_of(tokens)
        if not isinstance(found, list):
            kind = type(found).__name__
            raise Mistake(f"pieces_of should return a list of arrays, not a {kind}.")
        for i, piece in enumerate(found):
            if not isinstance(piece, np.ndarray):
                kind = type(piece).__name__
                raise Mistake(f"piece {i} should be an array, not a {kind}.")
            if np.ndim(piece) != 1:
                raise Mistake(
                    f"piece {i} has {np.ndim(piece)} dimensions; each should be an array "
                    "of one, its token ids."
                )
            if piece.dtype.kind not in "iu":
                raise Mistake(
                    f"piece {i} is of {piece.dtype}, and a token id is an integer."
                )
        found = [[int(token) for token in piece] for piece in found]
        where = f"of {tokens.tolist()} you made {found}"
        if found == pieces:
            continue
        if found == [*pieces, []]:
            raise Mistake(
                f"{where}: the last -1 ends a piece, it does not begin one. There is no "
                "empty piece after it."
            )
        if found == pieces[:-1]:
            raise Mistake(
                f"{where}: the last piece is missing. A -1 stands after each piece, not "
                "between them."
            )
        if any(END in piece for piece in found):
            raise Mistake(
                f"{where}: the -1 is still in them. It is no event, and no embedding has a "
                "row for it (or the last row, which is worse)."
            )
        if [piece[:-1] for piece in pieces] == found:
            raise Mistake(f"{where}: the last token before each -1 is lost.")
        if found and found[0] == pieces[0] and len(found) == len(pieces):
            raise Mistake(
                f"{where}: the first piece is right and a later one is not. Where does "
                "a piece begin, measured from the -1 before it?"
            )
        raise Mistake(f"{where}, where {pieces} was wanted.")
    whole = np.arange(60_000, dtype=np.int32).astype("<i2") % 300
    whole[::1000], whole[-1] = END, END
    _NoLoop.asked = 0
    found = pieces_of(whole[1:].view(_NoLoop))
    return f"And a file of {len(whole):,} tokens falls into {len(found)} pieces."


class _Bytes(bytes):
    """Bytes whose `hash` can be salted anew, as in another process."""

    salt = 0

    def __hash__(self) -> int:
        return hash((self.salt, bytes(self)))


@checker
def check_held_out(held_out: Callable) -> str:
    _Bytes.salt = 0
    # Files of MIDI begin alike, and end alike, too.
    head, tail = b"MThd" + bytes(200), bytes(100) + b"\xff\x2f\x00"
    files = {
        f"{i:04}, a recording.mid": _Bytes(head + b"%d" % (i * i) + tail)
        for i in range(3000)
    }
    names = set(files)

    def ask(files: dict, share: float) -> set:
        found = held_out(files, share)
        if not isinstance(found, set | frozenset):
            kind = type(found).__name__
            raise Mistake(f"held_out should return a set of names, not a {kind}.")
        if not found <= set(files):
            stray = repr(min(found - set(files), key=repr))[:30]
            raise Mistake(f"you hold out the name of a file, not {stray}….")
        return found

    found = ask(files, 0.1)
    _Bytes.salt = 1
    again = ask(files, 0.1)
    if again != found:
        raise Mistake(
            f"in another process {len(again ^ found)} of {len(files):,} files would be on the "
            "other side. Python's `hash` is salted; a generator without a seed is no better."
        )
    part = len(found) / len(files)
    if part in (0, 1):
        raise Mistake(
            f"of {len(files):,} files, at a share of 0.1, {part:.0%} are held out. They begin "
            "with the same 200 bytes and end alike, as MIDI files do: is all of a file hashed, "
            "and read as a number from 0 to 1?"
        )
    if part > 0.8:
        raise Mistake(
            f"of {len(files):,} files, at a share of 0.1, {part:.0%} are held out: you return "
            "the files to train on."
        )
    if not 0.07 < part < 0.13:
        raise Mistake(
            f"of {len(files):,} files, at a share of 0.1, {part:.1%} are held out."
        )
    copies = {f"copy of {name}": data for name, data in files.items()}
    both = ask(files | copies, 0.1)
    apart = [name for name in files if (name in both) != (f"copy of {name}" in both)]
    if apart:
        raise Mistake(
            f"each file has a copy under another name, and {len(apart):,} of {len(files):,} "
            "copies are on the other side. What do two copies have in common, if not the "
            "name?"
        )
    stay, go = sorted(found), sorted(names - found)
    for few in (stay[1:] + go, stay + go[::2], stay[:3], go[:3], go + stay[:1]):
        part_of = {name: files[name] for name in few}
        moved = (ask(part_of, 0.1) ^ found) & set(few)
        if moved:
            raise Mistake(
                f"of the files {len(few):,} are kept, and {len(moved)} of those change sides. "
                "Whether a file is held out should depend on its own bytes, and on no other "
                "file."
            )
    for rest in (files, copies):  # of each pair one name is withdrawn
        moved = ask(rest, 0.1) ^ (both & set(rest))
        if moved:
            raise Mistake(
                f"{min(moved)!r} stands on one side alone, and on the other beside a copy "
                f"({len(moved)} of {len(rest):,} do so): the name of a copy has a say. Only "
                "the bytes should."
            )
    backwards = ask(dict(reversed(files.items())), 0.1)
    if backwards != found:
        raise Mistake("the same files in another order give another split.")
    for smaller, larger in ((0.1, 0.15), (0.15, 0.2), (0.2, 0.3), (0.3, 0.7)):
        if not ask(files, smaller) <= ask(files, larger):
            raise Mistake(
                f"at a share of {larger} some are trained on that were held out at "
                f"{smaller}. Compare one number of each file with the share."
            )
    none, every = ask(files, 0.0), ask(files, 1.0)
    if none or every != names:
        raise Mistake(
            f"at a share of 0, {len(none)} files are held out, at 1, {len(every):,} of "
            f"{len(files):,}. Is your number between 0 and 1?"
        )
    many = len(ask(files, 0.7)) / len(files)
    if not 0.66 < many < 0.74:
        raise Mistake(
            f"at a share of 0.7, {many:.1%} are held out, though at 0.1 it is {part:.1%}: is "
            "your number fine enough, and any as likely as any other?"
        )
    return f"{part:.1%} of {len(files):,} files at a share of 10 %, copies always together."


@checker
def check_where(where: Callable) -> str:
    cases = (
        ([10, 4, 9], 3),
        ([3, 2, 8], 4),
        ([5, 5, 5], 4),
        ([2, 30, 1, 7], 6),
        ([6], 2),
    )
    asked = 0
    for lengths, n in cases:
        right = [(p, s) for p, long in enumerate(lengths) for s in range(long - n)]
        found = []
        for number in range(len(right)):
            try:
                pair = where(number, lengths, n)
            except Mistake:  # it returns nothing
                if not asked:
                    raise
                break
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise Mistake(
                    "where should return a tuple of two integers, a piece and a start, not "
                    f"{pair!r}."
                )
            found.append((int(pair[0]), int(pair[1])))
            asked += 1
        if found == right:
            continue
        in_pieces = f"in pieces of {lengths} tokens, with n = {n},"
        known = right[: len(found)]
        if found == known:
            raise Mistake(
                f"{in_pieces} there are {len(right)} windows, numbered from 0, and of number "
                f"{len(found)} you return nothing. Does your count miss a window, or a piece?"
            )
        if found == [(start, piece) for piece, start in known]:
            raise Mistake(
                f"{in_pieces} you say {found[-1]} of number {len(found) - 1}: a start and a "
                "piece. It should be the other way round."
            )
        wrong = [
            pair for pair, wanted in zip(found, known, strict=True) if pair != wanted
        ]
        at_ends = len(wrong) < len(lengths) and all(
            0 <= piece < len(lengths) and start == max(lengths[piece] - n, 0)
            for piece, start in wrong
        )
        if at_ends:
            raise Mistake(
                f"{in_pieces} all windows are right but the first ones of a piece: "
                f"{wrong[0]} is still in the piece before. Where `searchsorted` finds an "
                "equal number, which side do you want?"
            )
        for number, ((piece, start), wanted) in enumerate(
            zip(found, known, strict=True)
        ):
            if (piece, start) == wanted:
                continue
            says = (
                f"in pieces of {lengths} tokens, number {number} of the windows of {n} + 1 is "
                f"piece {wanted[0]} from token {wanted[1]}, and you say ({piece}, {start})"
            )
            if not 0 <= piece < len(lengths):
                raise Mistake(f"{says}: there is no such piece.")
            if lengths[piece] <= n:
                raise Mistake(f"{says}: that piece is too short for any window.")
            if start < 0:
                raise Mistake(f"{says}: a window can't start before its piece does.")
            if start + n == lengths[piece]:
                raise Mistake(
                    f"{says}: there is room for the {n} tokens, and none for the next one, "
                    "which is a target. How many windows has a piece?"
                )
            if start + n > lengths[piece]:
                raise Mistake(f"{says}: the window reaches beyond its piece.")
            lacking = sum(max(n - long, 0) for long in lengths[:piece])
            if piece == wanted[0] and start == wanted[1] + lacking > wanted[1]:
                raise Mistake(
                    f"{says}: a piece before it, with fewer than {n} tokens, has no window, "
                    "and not fewer than none."
                )
            if (piece, start) > wanted:
                raise Mistake(
                    f"{says}: one of the windows before it is not counted. How many has a "
                    f"piece of {lengths[wanted[0]]} tokens?"
                )
            raise Mistake(f"{says}.")
    return f"{asked} windows of five collections, and each is in one piece."


@checker
def check_rows_of_step(rows_of_step: Callable) -> str:
    def ask(seed: int, step: int, rows: range, most: int = 10_000) -> list[int]:
        found = _as_list(rows_of_step(seed, step, rows, most), "rows_of_step", "a list")
        if len(found) != len(rows):
            raise Mistake(f"{len(rows)} rows were asked for, and {len(found)} came.")
        for place in found:
            if np.ndim(place) or isinstance(place, str):
                kind = type(place).__name__
                raise Mistake(
                    f"rows_of_step should return a list of integers, and yours holds a "
                    f"{kind}, {place!r}."
                )
            if int(place) != place or not 0 <= place < most:
                raise Mistake(f"{place} is none of the places 0 ... {most - 1}.")
        return [int(place) for place in found]

    whole = ask(0, 5, range(8))
    if ask(0, 5, range(8)) != whole:
        raise Mistake(
            "the same seed, step and rows give other places the second time: something "
            "else has a say. A generator that goes on from call to call?"
        )
    with patch.object(builtins, "hash", _salted_hash):
        elsewhere = ask(0, 5, range(8))
    if elsewhere != whole:
        raise Mistake(
            f"one process draws {whole}, and the same rows in another process would be "
            f"{elsewhere}. Python's `hash` of text is salted."
        )
    if len(set(whole)) == 1:
        raise Mistake("all rows of a step get the same place: the row has no say.")
    if ask(0, 6, range(8)) == whole:
        raise Mistake("steps 5 and 6 are the same: the step has no say.")
    if ask(1, 5, range(8)) == whole:
        raise Mistake("seeds 0 and 1 are the same: the seed has no say.")
    halves = ask(0, 5, range(4)) + ask(0, 5, range(4, 8))
    if halves != whole:
        raise Mistake(
            f"one process draws {whole} for rows 0 to 7, two with four rows each {halves}. A "
            "row's place depends on which rows were drawn before it, or on where it stands in "
            "`rows`."
        )
    grid = np.array([ask(0, step, range(8)) for step in range(40)])
    if (grid[1:, :-1] == grid[:-1, 1:]).mean() > 0.5:
        raise Mistake(
            "row 1 of a step is row 0 of the next. Sums collide: 5 + 1 = 6 + 0. NumPy takes "
            "several numbers as one seed."
        )
    other = np.array([ask(1, step, range(8)) for step in range(40)])
    if (other[:-1] == grid[1:]).mean() > 0.5 or (
        other[:, :-1] == grid[:, 1:]
    ).mean() > 0.5:
        raise Mistake("seed 1 is seed 0, moved by one. Sums collide: 0 + 6 = 1 + 5.")
    if len(np.unique(grid)) < 0.9 * grid.size:
        raise Mistake(
            f"of {grid.size} places in 40 steps only {len(np.unique(grid))} are different: "
            "different steps and rows share a seed."
        )
    many = 2**40  # by chance no two places are the same
    for one, other in _pairs_to_tell_apart():
        places = [
            ask(*each[:2], range(each[2], each[2] + 1), many) for each in (one, other)
        ]
        if places[0] == places[1]:
            raise Mistake(
                f"(seed, step, row) {one} and {other} get the same place: made into one "
                "number, they collide. NumPy takes several numbers as one seed."
            )
    few = [place for step in range(40) for place in ask(0, step, range(8), 3)]
    if set(few) != {0, 1, 2}:
        raise Mistake(
            f"of 3 places, 0, 1 and 2, only {sorted(set(few))} are drawn in 40 steps."
        )
    bound = _bound_places(ask)
    if len(bound) == 3:
        raise Mistake(
            "from one place follow those of the next row, the next step and the next seed: "
            "that is arithmetic, and no chance."
        )
    for pair, (place, follower) in bound.items():
        raise Mistake(
            f"of 10 places, {pair}: where the one falls, the other follows. If it is "
            f"{place}, the other is {follower}. Draw each for itself."
        )
    spread = np.histogram(grid, 4, (0, 10_000))[0] / grid.size
    if spread.min() < 0.12:
        raise Mistake(
            f"the quarters of the places get {np.round(spread, 2).tolist()} of the draws."
        )
    return f"{grid.size} places drawn, {len(np.unique(grid))} of them different."


def _salted_hash(thing: object, real: Callable = hash) -> int:
    """What `hash` may give in another process: of text, something else."""
    parts = thing if isinstance(thing, tuple) else (thing,)
    has_text = any(isinstance(part, str | bytes) for part in parts)
    return real(("salt", thing)) if has_text else real(thing)


def _bound_places(ask: Callable) -> dict[str, tuple[int, int]]:
    """Which draws follow from others: what -> a place of 0 ... 9, and what follows."""
    draws = {
        "rows 0 and 1 of a step": [
            ask(seed, step, range(2), 10) for seed in range(16) for step in range(16)
        ],
        "the same row of steps 0 and 1": [
            pair
            for seed in range(32)
            for pair in zip(*(ask(seed, i, range(8), 10) for i in (0, 1)), strict=True)
        ],
        "the same row of seeds 0 and 1": [
            pair
            for step in range(32)
            for pair in zip(*(ask(i, step, range(8), 10) for i in (0, 1)), strict=True)
        ],
    }
    bound = {}
    for what, pairs in draws.items():
        counts = np.zeros((10, 10), dtype=int)
        np.add.at(counts, tuple(np.transpose(pairs)), 1)
        # By chance the most frequent of ten followers has a quarter of the draws.
        if counts.max(axis=1).sum() > len(pairs) / 2:
            place = int(counts.max(axis=1).argmax())
            bound[what] = place, int(counts[place].argmax())
    return bound


def _pairs_to_tell_apart() -> list[tuple[tuple[int, int, int], ...]]:
    """Triples that stand for one number if they are written or added together."""
    sizes = [10**k for k in range(1, 7)] + [2**k for k in range(1, 21)]
    pairs = [
        ((0, 1, 11), (0, 11, 1)),
        ((1, 11, 0), (11, 1, 0)),
        ((1, 12, 3), (1, 1, 23)),
    ]
    pairs += [((0, 1, 0), (0, 0, size)) for size in sizes]
    return pairs + [((1, 0, 0), (0, size, 0)) for size in sizes]


@checker
def check_vary_touch(vary_touch: Callable) -> str:
    soft, loud = VELOCITY + 1, NUM_EVENTS - 1
    phrases = (
        [370, 60, 305, 188, 372, 64, 300, 192, 366, 55, 260, 183],
        [soft + 1, 60, 305, 188, loud - 1, 64, 300, 192],
        [soft, 60, 300, 188, soft + 9, 62, 300, 190],
        [loud, 60, 300, 188, loud - 9, 62, 300, 190],
        [60, 305, 188],
    )
    shifts = []
    for phrase in phrases:
        phrase = np.array(phrase)
        seen = set()
        for seed in range(40):
            found = vary_touch(phrase, np.random.default_rng(seed))
            if not isinstance(found, np.ndarray):
                kind = type(found).__name__
                raise Mistake(f"vary_touch should return an array, not a {kind}.")
            if found.shape != phrase.shape or found.dtype.kind not in "iu":
                raise Mistake(
                    f"{len(phrase)} token ids went in, and an array of {found.dtype}, "
                    f"{found.shape}, came out. No token is added or lost."
                )
            again = np.asarray(vary_touch(phrase, np.random.default_rng(seed)))
            if not np.array_equal(found, again):
                raise Mistake(
                    "with the same generator it comes out otherwise the second time. Draw from "
                    "`rng` and from nothing else."
                )
            is_touch = phrase >= VELOCITY
            changed = np.flatnonzero((found != phrase) & ~is_touch)
            if len(changed):
                kind = "key" if phrase[changed[0]] < TIME_SHIFT else "wait"
                raise Mistake(
                    f"token {phrase[changed[0]]}, a {kind}, became {found[changed[0]]}. Only "
                    "velocities change."
                )
            touch, was = found[is_touch], phrase[is_touch]
            if (touch > loud).any():
                raise Mistake(
                    f"a velocity became {touch.max()}, which is no event: the loudest "
                    f"is {loud}."
                )
            if (touch < VELOCITY).any():
                raise Mistake(
                    f"a velocity became {touch.min()}, which is a wait: the softest is {soft}."
                )
            if (touch == VELOCITY).any():
                raise Mistake(
                    f"a velocity became {VELOCITY}, which decodes to 0; and a note-on with the "
                    f"velocity 0 is a note-off (chapter 1). The softest is {soft}."
                )
            steps = set((touch - was).tolist())
            if len(steps) > 1:
                raise Mistake(
                    f"{was.tolist()} became {touch.tolist()}: velocities moved by different "
                    "amounts, so an accent may become an echo. Move all of a window alike, "
                    "as far as all can go."
                )
            seen |= steps
        shifts.append(seen)
    if shifts[0] == {0}:
        raise Mistake("40 generators, and the touch never changes.")
    if len(shifts[0]) < 3 or not min(shifts[0]) < 0 < max(shifts[0]):
        raise Mistake(
            f"40 generators moved a phrase by {sorted(shifts[0])} bins. It should become "
            "louder and softer, by different amounts."
        )
    if max(map(abs, shifts[0])) > 8:
        raise Mistake(
            f"a phrase moved by {max(map(abs, shifts[0]))} bins of 4, where 8 is the most."
        )
    return f"A phrase moved by {min(shifts[0])} to {max(shifts[0])} bins, its accents kept."
