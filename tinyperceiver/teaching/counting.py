"""What chapter 3 needs beside the models that it counts: pictures, results, checkers."""

import html
import json
from importlib import resources
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from tinyperceiver.music.ngrams import NGramModel
from tinyperceiver.music.pieces import PIECES, load_piece
from tinyperceiver.music.tokenizer import decode_midi, encode_midi
from tinyperceiver.music.vocabulary import (
    NOTE_OFF,
    NUM_EVENTS,
    STEPS_PER_SECOND,
    TIME_SHIFT,
    VELOCITY,
)
from tinyperceiver.sound.roll import piano_roll
from tinyperceiver.teaching.checking import Mistake, checker
from tinyperceiver.teaching.music import EDGES, KINDS, name_of
from tinyperceiver.teaching.style import BLUE, GREY, ORANGE, PINK, interactive, shades

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.figure import Figure

__all__ = [
    "bigram_counts",
    "check_bigram_table",
    "check_my_bigrams",
    "check_perplexity",
    "check_sample_at",
    "check_smoothed",
    "draw_bigrams",
    "draw_orders",
    "draw_price",
    "draw_sparsity",
    "draw_surprise",
    "longest_copy",
    "next_token",
    "recorded_run",
]

# The recorded run


def recorded_run() -> dict:
    """What `scripts/count_ngrams.py` measured on GiantMIDI-Piano."""
    file = resources.files("tinyperceiver") / "assets" / "ngrams" / "results.json"
    return json.loads(file.read_text(encoding="utf-8"))


def bigram_counts() -> np.ndarray:
    """How often token b follows token a in its training part: (388, 388), [a, b]."""
    path = resources.files("tinyperceiver") / "assets" / "ngrams" / "bigrams.npz"
    with path.open("rb") as file, np.load(file) as arrays:
        return arrays["counts"].astype(np.int64)


def longest_copy(
    tokens: list[int], pieces: dict[str, np.ndarray]
) -> tuple[int, int, str]:
    """The longest run of `tokens` that stands in a piece: place, length, the piece's name."""
    text = "".join(map(chr, tokens))
    place, best, source = 0, 0, ""
    for name, piece in pieces.items():
        whole = "".join(map(chr, piece))
        start = 0
        while start + best < len(text):
            if text[start : start + best + 1] in whole:
                place, best, source = start, best + 1, name
            else:
                start += 1
    return place, best, source


# Figures


def draw_price(share: np.ndarray) -> "Figure":
    """-ln p against p, and what three tokens of known probability cost.

    Args:
        share: probabilities of the loaded die, (388,).
    """
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots()
    p = np.concatenate([np.geomspace(3e-4, 0.01, 40), np.linspace(0.01, 1, 200)])
    ax.plot(p, -np.log(p), "-", color=BLUE)
    marks = (
        (1 / NUM_EVENTS, "fair die: any token, p = 1/388"),
        (
            share[TIME_SHIFT],
            f"loaded die: wait 10 ms, p = {100 * share[TIME_SHIFT]:.1f} %",
        ),
        (1.0, "sure and right"),
    )
    for at, says in marks:
        cost = -np.log(at) + 0.0  # no "-0"
        ax.plot(at, cost, "o", color=ORANGE, ms=6, clip_on=False)
        is_last = at == 1
        ax.annotate(
            f"{says}: {cost:.2f}",
            (at, cost),
            xytext=(0, 12) if is_last else (12, 2),
            textcoords="offset points",
            ha="right" if is_last else "left",
        )
    ax.set(
        xlabel="probability p that you gave", ylabel="price, nats", xlim=(-0.01, 1.02)
    )
    ax.set_ylim(0, 8.2)
    return fig


def draw_bigrams(counts: np.ndarray) -> "Figure":
    """Probability of the next token (across) after each token (down), log scale."""
    import matplotlib.pyplot as plt

    total = counts.sum(1, keepdims=True)
    share = counts / np.maximum(total, 1)
    fig, ax = plt.subplots(figsize=(6.4, 5.9))
    depth = np.clip(1 + np.log10(np.maximum(share, 1e-12)) / 4, 0, 1)  # 0 at 1e-4
    picture = ax.imshow(depth, cmap=shades(BLUE), vmin=0, vmax=1, interpolation="none")
    for edge in EDGES[1:-1]:
        ax.axhline(edge - 0.5, color=GREY, lw=0.8, ls="--")
        ax.axvline(edge - 0.5, color=GREY, lw=0.8, ls="--")
    middles = [(a + b) / 2 for a, b in pairwise(EDGES)]
    ax.set_xticks(middles, KINDS)
    ax.set_yticks(middles, KINDS, rotation=90, va="center")
    ax.tick_params(length=0)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set(xlabel="the next token", ylabel="the token before it")
    ax.spines[:].set_visible(True)
    bar = fig.colorbar(picture, ax=ax, shrink=0.6, aspect=25, pad=0.02)
    bar.set_ticks(
        np.linspace(0, 1, 5), labels=["≤ 0.01 %", "0.1 %", "1 %", "10 %", "100 %"]
    )
    return fig


def draw_sparsity(orders: list[dict]) -> "Figure":
    """Runs that are possible, that occur, that occur twice; and what held-out music meets."""
    import matplotlib.pyplot as plt

    fig, (left, right) = plt.subplots(1, 2, figsize=(6.4, 2.9))
    n = [result["order"] for result in orders]
    distinct = np.array([result["distinct"] for result in orders])
    once = np.array([result["once"] for result in orders])
    lines = (
        ("possible", [NUM_EVENTS**k for k in n], GREY, "o", ":"),
        ("that occur", distinct, BLUE, "s", "-"),
        ("that occur again", distinct - once, ORANGE, "^", "--"),
    )
    for label, values, color, marker, dash in lines:
        left.semilogy(n, values, dash, color=color, marker=marker, ms=4, label=label)
    left.set(xlabel="n", ylabel="different runs of n tokens", xticks=n)
    left.legend(loc="upper left")
    seen = [100 * result["valid_seen"] for result in orders]
    bars = right.bar(n, seen, color=BLUE, width=0.65)
    right.bar_label(bars, [f"{share:.4g}" for share in seen], fontsize=9)
    right.set(
        xlabel="n", ylabel="held-out runs seen before, %", xticks=n, ylim=(0, 112)
    )
    return fig


def draw_orders(small: list[tuple[float, float]], orders: list[dict]) -> "Figure":
    """Nats per token by order, on the music counted and on music held out.

    Args:
        small: train and held-out nats of orders 1, 2, ... on the five pieces.
        orders: those of the recorded run.
    """
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(6.4, 3.0), sharey=True)
    large = [(result["train"], result["valid"]) for result in orders]
    titles = ("five pieces", "GiantMIDI-Piano")
    for ax, curves, title in zip(axes, (small, large), titles, strict=True):
        n = range(1, len(curves) + 1)
        train, held_out = zip(*curves, strict=True)
        ax.plot(n, held_out, "-", color=BLUE, marker="o", ms=4, label="held out")
        ax.plot(n, train, "--", color=ORANGE, marker="s", ms=4, label="counted")
        best = int(np.argmin(held_out))
        ax.annotate(
            f"{held_out[best]:.2f}",
            (best + 1, held_out[best]),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
        )
        ax.axhline(np.log(NUM_EVENTS), color=GREY, lw=1, ls=":")
        ax.set(title=title, xlabel="order", xticks=list(n), ylim=(0, 6.4))
    axes[0].text(1, np.log(NUM_EVENTS) - 0.1, "a uniform guess", va="top", fontsize=9)
    axes[0].set_ylabel("nats per token")
    axes[0].legend(loc="lower left")
    return fig


def draw_surprise(tokens: list[int], nats: np.ndarray) -> "Figure":
    """A piano roll, and below it what each key that goes down costs to foretell."""
    import matplotlib.pyplot as plt

    ids, nats = np.array(tokens), np.asarray(nats)
    is_shift = (ids >= TIME_SHIFT) & (ids < VELOCITY)
    steps = np.where(is_shift, ids - TIME_SHIFT + 1, 0)
    time = np.cumsum(steps) / STEPS_PER_SECOND
    on = np.flatnonzero(ids < NOTE_OFF)
    top = on[np.argsort(-nats[on])[:8]]
    fig, (roll, below) = plt.subplots(
        2, 1, figsize=(6.4, 4.2), sharex=True, height_ratios=[3, 2]
    )
    piano_roll(decode_midi(tokens), roll)
    roll.plot(time[top], ids[top], "v", color=PINK, ms=6)
    roll.set_xlabel("")
    below.vlines(time[on], 0, nats[on], color=BLUE, lw=1)
    below.plot(time[top], nats[top], "v", color=PINK, ms=6)
    mean = nats[on].mean()
    below.axhline(mean, color=GREY, lw=1, ls="--")
    below.set(xlabel="seconds", ylabel="nats of note on", ylim=(0, None))
    return fig


def next_token(counts: np.ndarray) -> "HTML":
    """The bigram table row by row: choose a token, see what comes after it.

    Args:
        counts: how often b followed a, (388, 388), [a, b]. Tokens that never come are
            left out.
    """
    totals = counts.sum(1)
    p = counts / np.maximum(totals, 1)[:, None]
    known = [a for a in range(NUM_EVENTS) if totals[a]]
    rows = {}
    for a in known:
        likely = np.flatnonzero(p[a] >= 0.003)
        rows[a] = [[int(b), round(1000 * float(p[a, b]))] for b in likely]
    names = [name_of(token) for token in range(NUM_EVENTS)]
    first = TIME_SHIFT + 9  # wait 100 ms
    boxes = "".join(
        f'<text x="{12 + 320 * (i % 2)}" y="{16 + 128 * (i // 2)}">{kind}</text>'
        f'<line x1="{12 + 320 * (i % 2)}" x2="{308 + 320 * (i % 2)}" '
        f'y1="{120 + 128 * (i // 2)}" y2="{120 + 128 * (i // 2)}" stroke="currentColor"/>'
        for i, kind in enumerate(KINDS)
    )
    picture = (
        '<svg role="img" aria-label="Four bar charts: the probability of each next token, '
        'by kind of event" viewBox="0 0 640 256" '
        'style="display:block;width:100%;max-width:640px;min-width:min(640px,30em)" '
        f'fill="currentColor" font-size="16">{boxes}'
        f'<path class="bars" fill="{BLUE}" d="{_bars(rows[first])}"/></svg>'
        f'<p class="says" aria-live="polite" style="margin:.3em 0;min-height:3.2em">'
        f"{html.escape(_sentence(first, int(totals[first]), rows[first]))}</p>"
    )
    options = "".join(f"<option>{kind}</option>" for kind in KINDS)
    controls = (
        f"<label>the token before: <select>{options}</select></label> "
        '<label>which: <input type="range" min="0" step="1" style="width:14em;max-width:70%">'
        "</label> <output></output>"
    )
    data = json.dumps(
        {
            "rows": {a: [n for pair in row for n in pair] for a, row in rows.items()},
            "totals": {a: int(totals[a]) for a in known},
            "names": names,
            "edges": EDGES,
            "first": first,
        },
        separators=(",", ":"),
        ensure_ascii=False,
    )
    return interactive(
        "next-token",
        picture,
        controls,
        f"const data = {data};\n{_NEXT_TOKEN}",
        "Choose a kind, then move along the keys, waits or velocities. The highest bar "
        "fills its chart, and all four share its scale; bars below 0.3 % are left out.",
    )


def _bars(row: list[list]) -> str:
    """The path of all bars of a row; the script below draws the same."""
    most = max(share for _, share in row)
    path = ""
    for token, share in row:
        kind = max(i for i, edge in enumerate(EDGES[:-1]) if token >= edge)
        wide = 296 / (EDGES[kind + 1] - EDGES[kind])
        x = 12 + 320 * (kind % 2) + (token - EDGES[kind]) * wide
        high = 96 * share / most
        path += f"M{x:.1f} {120 + 128 * (kind // 2)}v{-high:.1f}h{wide:.1f}v{high:.1f}z"
    return path


def _sentence(token: int, total: int, row: list[list]) -> str:
    best = sorted(row, key=lambda pair: -pair[1])[:4]
    then = ", ".join(f"{name_of(b)} ({share / 10:.1f} %)" for b, share in best)
    return f"After {name_of(token)}, met {total:,} times, most often: {then}."


_NEXT_TOKEN = """
const [kind, which] = [controls.querySelector("select"), controls.querySelector("input")];
const known = Object.keys(data.totals).map(Number);
const of = (k) => known.filter((t) => t >= data.edges[k] && t < data.edges[k + 1]);
function draw() {
  const token = of(kind.selectedIndex)[+which.value], flat = data.rows[token];
  const row = flat.filter((_, i) => i % 2 == 0).map((next, i) => [next, flat[2 * i + 1]]);
  const most = Math.max(...row.map((pair) => pair[1]));
  let path = "";
  for (const [next, share] of row) {
    let k = 3;
    while (next < data.edges[k]) k--;
    const wide = 296 / (data.edges[k + 1] - data.edges[k]);
    const x = 12 + 320 * (k % 2) + (next - data.edges[k]) * wide, high = 96 * share / most;
    const foot = 120 + 128 * (k >> 1);
    path += `M${x.toFixed(1)} ${foot}v${(-high).toFixed(1)}h${wide.toFixed(1)}` +
      `v${high.toFixed(1)}z`;
  }
  picture.querySelector(".bars").setAttribute("d", path);
  const best = [...row].sort((a, b) => b[1] - a[1]).slice(0, 4);
  const then = best.map(([b, p]) => `${data.names[b]} (${(p / 10).toFixed(1)} %)`).join(", ");
  const total = data.totals[token].toLocaleString("en-US");
  picture.querySelector(".says").textContent =
    `After ${data.names[token]}, met ${total} times, most often: ${then}.`;
  controls.querySelector("output").textContent = data.names[token];
  which.setAttribute("aria-valuetext", data.names[token]);
}
function choose(token) {
  const tokens = of(kind.selectedIndex);
  which.max = tokens.length - 1;
  which.value = token === undefined ? tokens.length >> 1 : tokens.indexOf(token);
  draw();
}
kind.addEventListener("change", () => choose());
which.addEventListener("input", draw);
kind.selectedIndex = data.edges.findLastIndex((edge) => edge <= data.first);
choose(data.first);
"""


# Checkers of the exercises


def _number(value, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        kind = type(value).__name__
        raise Mistake(f"{name} should be one number, not a {kind}.") from error


def _table(value, shape: tuple[int, ...], name: str) -> np.ndarray:
    try:
        table = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise Mistake(f"{name} should be an array of numbers.") from error
    if table.shape != shape:
        raise Mistake(f"{name} should have the shape {shape}, not {table.shape}.")
    if not np.isfinite(table).all():
        raise Mistake(f"{name} holds something that is no number: was there a 0 / 0?")
    return table


@checker
def check_perplexity(answer) -> str:
    """Exercise 1: perplexity of a sequence from the probabilities of its tokens."""
    cases = [[0.25, 0.25, 0.25], [1.0], [0.5, 0.125], [0.9, 0.01, 0.3, 0.3]]
    for p in cases:
        p = np.array(p)
        found = _number(answer(p), "perplexity")
        nats = -np.log(p)
        right = np.exp(nats.mean())
        wrong = (
            (nats.mean(), "these are nats per token: perplexity is one step more"),
            (np.exp(nats.sum()), "you sum the nats of all tokens; take them per token"),
            (
                np.exp(-nats.mean()),
                "the sign is turned round: a good guess costs little",
            ),
            (
                1 / p.mean(),
                "you average probabilities; average the surprises, their logs",
            ),
            ((1 / p).mean(), "you average 1 / p; average the surprises, their logs"),
            (2 ** nats.mean(), "natural logarithms want e as their base, not 2"),
            (
                np.exp(nats.mean() / np.log(2)),
                "log2 goes with 2 **, and np.log with exp",
            ),
        )
        if not np.isclose(found, right, rtol=1e-5):
            for value, message in wrong:
                if np.isclose(found, value, rtol=1e-5):
                    raise Mistake(f"for p = {p.tolist()}, {message}.")
            raise Mistake(f"p = {p.tolist()} should give {right:.7g}, not {found:.7g}.")
    rare = np.array([0.5, 1e-9])
    found, right = _number(answer(rare), "perplexity"), np.exp(-np.log(rare).mean())
    if not np.isclose(found, right, rtol=1e-4):
        raise Mistake(
            f"p = {rare.tolist()} should give {right:.5g}, not {found:.5g}. There is no "
            "highest price: take the logarithm of p as it is, however small."
        )
    found = _number(answer(np.full(1000, 1 / NUM_EVENTS)), "perplexity")
    if not np.isclose(found, NUM_EVENTS, rtol=1e-4):
        says = f"1,000 tokens of p = 1/388 should give 388, not {found:.7g}."
        if np.isfinite(found) and found > 0:
            raise Mistake(says)
        raise Mistake(
            f"{says} A product of so "
            "many probabilities is below the smallest float, and comes out as 0: add up logs."
        )
    return "Four tokens of p = 1/4 are as hard to guess as a draw from 4: 4.00."


@checker
def check_bigram_table(answer) -> str:
    """Exercise 2: probabilities of the next token, from counts within the pieces."""
    cases = [
        ([[0, 1, 2, 3, 0, 1, 3], [3, 3, 2]], 4),
        ([[0, 1, 1], [2, 0]], 3),
        ([[1, 1, 1, 0], [1], [2, 1]], 4),
    ]
    for pieces, size in cases:
        arrays = [np.array(piece) for piece in pieces]
        found = _table(answer(arrays, size), (size, size), "the table")
        exact = _pairs(pieces, size)
        if np.allclose(found, exact) and not np.allclose(exact.sum(1), 1):
            raise Mistake("these are counts: divide each row by its sum.")
        right = _rows_to_one(exact)
        if np.allclose(found, right):
            continue
        across = _pairs([[token for piece in pieces for token in piece]], size)
        if np.allclose(found, _rows_to_one(across)) or np.allclose(found, across):
            raise Mistake(
                "you count across pieces: the first token of a piece does not follow the "
                "last of the piece before it."
            )
        if np.allclose(found, _rows_to_one(exact.T)) or np.allclose(found, right.T):
            raise Mistake("rows and columns are exchanged: row a holds what follows a.")
        if np.allclose(found, exact / exact.sum()):
            raise Mistake(
                "the whole table sums to 1; each row that occurs should, on its own."
            )
        if np.allclose(found, _rows_to_one(np.minimum(exact, 1))):
            raise Mistake(
                "a pair that comes twice counts once with you: `table[a, b] += 1` with "
                "arrays of indices adds only once for equal indices; see `np.add.at`."
            )
        if np.allclose(found, exact / np.maximum(exact.sum(1), 1)):
            raise Mistake(
                "the totals of the rows lie across the columns: entry [a, b] is divided by "
                f"the total of b. They must stand as a column, ({size}, 1)."
            )
        if np.allclose(found, exact / np.maximum(exact.sum(0), 1)):
            raise Mistake("the columns sum to 1: each row that occurs should.")
        if np.allclose(found, _rows_to_one(exact + 1)):
            raise Mistake("you smooth: leave at 0 what was not met.")
        met = np.bincount(np.concatenate(arrays), minlength=size)[:, None]
        if np.allclose(found, exact / np.maximum(met, 1)):
            raise Mistake(
                "you divide by how often a token occurs, and the last of a piece has no "
                "follower: divide by how often one follows."
            )
        missed = _rows_to_one(_pairs([piece[:-1] for piece in pieces], size))
        if np.allclose(found, missed):
            raise Mistake("off by one: the last token of each piece is never counted.")
        raise Mistake(
            f"{pieces} should give\n{right.round(3)},\nnot\n{found.round(3)}."
        )
    return "Rows of tokens that occur sum to 1, the others to 0; pieces are kept apart."


def _pairs(pieces: list[list[int]], size: int) -> np.ndarray:
    counts = np.zeros((size, size))
    for piece in pieces:
        for a, b in pairwise(piece):
            counts[a, b] += 1
    return counts


def _rows_to_one(counts: np.ndarray) -> np.ndarray:
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


@checker
def check_smoothed(answer) -> str:
    """Exercise 3: one row of counts and the probabilities of a shorter context, mixed."""
    cases = [
        ([3, 1, 1, 0, 0, 0, 0], [0.3, 0.2, 0.2, 0.1, 0.1, 0.05, 0.05]),
        ([0, 0, 0, 0], [0.4, 0.3, 0.2, 0.1]),
        ([0, 7, 0], [0.2, 0.2, 0.6]),
        ([1, 1, 1, 1], [0.7, 0.1, 0.1, 0.1]),
    ]
    for counts, shorter in cases:
        c, q = np.array(counts), np.array(shorter)
        new, total, size = (c > 0).sum(), c.sum(), len(c)
        try:
            found = _table(answer(c, q), (size,), "the result")
        except Mistake:
            if total:
                raise
            raise Mistake(
                "no count at all: then nothing is known but `shorter`."
            ) from None
        right = (c + new * q) / (total + new) if total else q
        if np.allclose(found, right, atol=1e-12):
            continue
        if not total:
            what = "gives zeros with you" if not found.any() else "changes `shorter`"
            raise Mistake(
                f"no count at all {what}: then nothing is known but `shorter`."
            )
        if np.allclose(found, (c * (total - new) / total + new * q) / total):
            raise Mistake(
                "your share of invented visits is u / c. They are u among c + u visits."
            )
        unmet = q * (c == 0)
        if unmet.any():
            only = (c + new * unmet / unmet.sum()) / (total + new)
            if np.allclose(found, only):
                raise Mistake(
                    "you share out only among the tokens never met. In the formula all get "
                    "their part of the invented visits, the met ones too."
                )
        for times, says in (
            ((c == 1).sum(), "the tokens met exactly once"),
            ((c == 0).sum(), "the tokens that were not met"),
            (1, "one invented visit, whatever the context"),
        ):
            if np.allclose(found, (c + times * q) / (total + times)):
                raise Mistake(
                    f"your u is {times} for counts {counts}: {says}. It should be the number "
                    "of different tokens that were met."
                )
        if np.allclose(found, (c + new * q) / total):
            raise Mistake(
                f"your probabilities sum to {found.sum():.3g}: the invented visits must go "
                "into the denominator too."
            )
        if np.allclose(found, c / total):
            raise Mistake(
                "a token that was never met still gets 0: nothing is mixed in."
            )
        if np.allclose(found, (c + new / size) / (total + new)):
            raise Mistake("you share out evenly: share as `shorter` says.")
        if np.allclose(found, (c + size * q) / (total + size)):
            raise Mistake(
                "u counts the different tokens that were met, not all there are."
            )
        if np.allclose(found, (c + total * q) / (2 * total)):
            raise Mistake(
                "u counts different tokens: a token met three times counts once."
            )
        raise Mistake(
            f"counts {counts} and shorter {shorter} should give {right.round(4).tolist()}, "
            f"not {found.round(4).tolist()}."
        )
    return "It sums to 1, gives nobody 0, and leaves `shorter` alone where nothing is known."


@checker
def check_sample_at(answer) -> str:
    """Exercise 4: a draw at a temperature."""
    p = np.array([0.5, 0.3, 0.15, 0.05, 0.0])
    draws = 4000
    for temperature in (1.0, 0.5, 2.0, 0.2):
        rng = np.random.default_rng(3)
        found = [answer(p, temperature, rng) for _ in range(2)]
        if not all(np.ndim(value) == 0 for value in found):
            raise Mistake("one draw is one token id, not an array.")
        if not all(np.asarray(value).dtype.kind in "iu" for value in found):
            raise Mistake("a token id is an integer.")
        # The generator goes on from draw to draw; a fixed seed inside would not.
        state = [
            answer(p, temperature, np.random.default_rng(seed)) for seed in range(40)
        ]
        if len(set(map(int, state))) == 1:
            raise Mistake(
                "40 generators with different seeds give the same token: draw with `rng`, "
                "and do not take the likeliest."
            )
        again = [
            answer(p, temperature, np.random.default_rng(seed)) for seed in range(40)
        ]
        if again != state:
            raise Mistake(
                "the same `rng` gives other tokens the second time: draw with `rng`, not with "
                "a generator of your own."
            )
        drawn = [
            int(answer(p, temperature, np.random.default_rng([s, 7])))
            for s in range(draws)
        ]
        if min(drawn) < 0 or max(drawn) >= len(p):
            raise Mistake(f"token ids are 0 ... {len(p) - 1} here, not {max(drawn)}.")
        share = np.bincount(drawn, minlength=len(p)) / draws

        def at(exponent, p=p):
            weights = np.where(p > 0, p, 0) ** exponent * (p > 0)
            return weights / weights.sum()

        def near(expected, share=share):
            return np.abs(share - expected).max() < 0.035

        if near(at(1 / temperature)):
            continue
        if temperature != 1 and near(at(1)):
            raise Mistake(
                f"T = {temperature} changes nothing: the draws are those of p."
            )
        if near(at(temperature)):
            raise Mistake(
                "the temperature works the wrong way round: a low one should favour what is "
                "likely."
            )
        soft = np.exp(p / temperature)
        if near(soft / soft.sum()):
            raise Mistake(
                "you divide probabilities by T; it is their logarithms that are divided."
            )
        raise Mistake(
            f"{draws} draws at T = {temperature} came out as {share.round(2).tolist()}; "
            f"expected were {at(1 / temperature).round(2).tolist()}."
        )
    two = np.zeros(100)
    two[[3, 70]] = 0.5
    hot = [answer(two, 5.0, np.random.default_rng(seed)) for seed in range(40)]
    if not {int(token) for token in hot} <= {3, 70}:
        raise Mistake(
            "at T = 5 tokens of probability 0 are drawn. What is added to 0 before a "
            "logarithm grows with T; 0 must stay 0."
        )
    tiny = (
        "0.01 ** 200 is below the smallest float, and 0 / 0 no number. Make the largest "
        "weight 1 before."
    )

    def drawn_cold(p, draws):
        with np.errstate(all="ignore"):
            try:
                return [
                    int(answer(p, 0.005, np.random.default_rng(seed)))
                    for seed in range(draws)
                ]
            except ValueError as error:
                raise Mistake(f"at T = 0.005 you stop with {error!r}: {tiny}") from None

    cold = drawn_cold(np.full(100, 0.01), 40)
    if len(set(cold)) == 1:
        raise Mistake(
            "at T = 0.005 you draw the same of 100 equally likely tokens 40 times. At a low "
            "T several likeliest tokens still come alike. If you do not leave out the draw "
            f"there, look at your weights: {tiny}"
        )
    if len(set(cold)) < 20:
        raise Mistake("at T = 0.005, 100 equally likely tokens are not drawn alike.")
    # The likeliest has 99.99 % at T = 0.005 and 90 % at 0.01.
    uneven = np.full(100, 1.0)
    uneven[[5, 6]], uneven[41] = 0, 1.07
    cold = drawn_cold(uneven / uneven.sum(), 200)
    if {5, 6} & set(cold):
        raise Mistake(f"at T = 0.005 tokens of probability 0 are drawn: {tiny}")
    if cold.count(41) < 195:
        raise Mistake(
            f"at T = 0.005 a token of p = 0.0109 among others of 0.0102 was drawn "
            f"{cold.count(41)} times of 200, and should come nearly always. Do you change T, "
            f"or the weights? If not: {tiny}"
        )
    return "4,000 draws at T = 0.5 took the likeliest token more often than at 1, as they should."


@checker
def check_my_bigrams(answer) -> str:
    """Exercise 5, open: smoothed bigrams that beat Witten and Bell on the five pieces."""
    pieces = [np.array(encode_midi(load_piece(name))) for name in PIECES]
    mine, theirs, tables = [], [], []
    for held_out, piece in enumerate(pieces):
        train = [other for i, other in enumerate(pieces) if i != held_out]
        p = _table(
            answer(train, NUM_EVENTS), (NUM_EVENTS, NUM_EVENTS), "what you return"
        )
        sums = p.sum(1)
        if not np.allclose(sums, 1, atol=1e-6):
            worst = int(np.abs(sums - 1).argmax())
            raise Mistake(
                f"the probabilities after token {worst} sum to {sums[worst]:.4g}. Every row "
                "must sum to 1, also that of a token that was never met."
            )
        if p.min() < 0:
            raise Mistake(
                "there is a probability below 0: do not take more than is there."
            )
        at = p[piece[:-1], piece[1:]]
        if not at.all():
            raise Mistake(
                f"{(at == 0).sum()} tokens of a held-out piece got the probability 0, which "
                "costs infinitely many nats."
            )
        mine.append(-np.log(at))
        tables.append(p)
        theirs.append(NGramModel(2, NUM_EVENTS).fit(train).nats(piece)[1:])
    mine, theirs = np.concatenate(mine).mean(), np.concatenate(theirs).mean()
    if all(np.array_equal(p, tables[0]) for p in tables):
        raise Mistake(
            "you return the same table whichever four pieces you get: count `pieces`, and "
            "nothing else."
        )
    if mine < 4.2:
        raise Mistake(
            f"{mine:.3f} nats is too good to be true of four pieces: did you use anything but "
            "`pieces`? What is measured must not have been counted."
        )
    if mine >= theirs:
        raise Mistake(
            f"{mine:.3f} nats per token on held-out pieces; Witten and Bell have {theirs:.3f}."
        )
    return (
        f"{mine:.3f} nats per token on held-out pieces, Witten and Bell {theirs:.3f}."
    )
