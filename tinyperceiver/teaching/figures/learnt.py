"""Chapter 10: what was measured of the trained model, and of what it plays."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinyperceiver.music.tokenizer import decode_midi
from tinyperceiver.music.vocabulary import NOTE_OFF, TIME_SHIFT, VELOCITY
from tinyperceiver.sound.roll import piano_roll
from tinyperceiver.teaching.drawing import (
    LATENTS,
    PREFIX,
    Look,
    boundary,
    legend_below,
    panels,
    segments,
    table,
    ticks,
    with_errors,
)
from tinyperceiver.teaching.measuring import NUMBERS, PROFILE_SECONDS
from tinyperceiver.teaching.music import KINDS, played
from tinyperceiver.teaching.style import BLUE, GREEN, GREY, INK, ORANGE, PINK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Who plays, in the record -> what a picture calls it, and how it looks.
PLAYERS = {
    "real": ("real", Look(INK, "o", "-")),
    "model": ("network", Look(BLUE, "s", "--")),
    "order 3": ("order 3", Look(ORANGE, "^", "-.")),
    "model, every token": ("network without top_p", Look(GREEN, "D", ":")),
}


def draw_windows(by_window: np.ndarray) -> "Figure":
    """Nats of each window by order 3 (across) and by the model (up): (windows, 2)."""
    model, order_3 = np.asarray(by_window).T
    low = min(model.min(), order_3.min()) - 0.1
    high = max(model.max(), order_3.max()) + 0.1
    middle, means = (low + high) / 2, (order_3.mean(), model.mean())
    fig, ax = panels(4.2)
    ax.plot([low, high], [low, high], ":", color=GREY)
    ax.text(middle - 0.08, middle, "no better ", ha="right")
    ax.plot(order_3, model, "o", color=BLUE, ms=4, alpha=0.6, mew=0)
    ax.plot(*means, "D", color=ORANGE, ms=8)
    line = {"arrowstyle": "-", "color": INK}
    place = {"xytext": (48, -40), "textcoords": "offset points"}
    ax.annotate("the means", means, **place, arrowprops=line)
    ax.set(xlabel="order 3, nats per token", ylabel="network, nats per token")
    ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    return fig


def draw_kinds(kinds: dict[str, dict[str, float]]) -> "Figure":
    """Nats by kind of token: bars as wide as the kind's share, so that areas are nats."""
    order_3, model, width = (
        np.array([kind[name] for kind in kinds.values()]) for name in ("order 3", "model", "share")
    )
    left = np.cumsum(width) - width
    middles = left + width / 2
    fig, ax = panels(3.0)
    where = {"width": width, "align": "edge", "lw": 1.2}
    ax.bar(left, order_3, fill=False, ec=GREY, ls="--", label="order 3", **where)
    ax.bar(left, model, color=BLUE, alpha=0.75, label="network", **where)
    for x, above, inside in zip(middles, order_3, model, strict=True):
        ax.text(x, inside / 2, f"{inside:.2f}", ha="center")
        ax.text(x, above + 0.08, f"{above:.2f}", ha="center")
    ax.set(xlim=(0, width.sum()), ylim=(0, order_3.max() + 0.5))
    ax.set(xlabel="as wide as the share of the tokens", ylabel="nats per token")
    ax.set_xticks(middles, list(kinds))
    ax.tick_params(axis="x", length=0)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def draw_two_surprises(
    tokens: Sequence[int], by_model: np.ndarray, by_table: np.ndarray
) -> "Figure":
    """A piano roll, and below it what each key that goes down costs: NaN is left out."""
    music = played(tokens)
    at, costs = music.start, by_model[music.place]
    fig, (roll, below) = panels(4.2, 2, 1, sharex=True, height_ratios=[3, 2])
    piano_roll(decode_midi(list(tokens)), roll)
    roll.set_xlabel("")
    below.plot(at, by_table[music.place], "x", color=ORANGE, ms=4, label="order 3")
    lines = segments((at, 0 * costs), (at, costs))
    below.plot(*lines, "-", color=BLUE, lw=1.2, label="network")
    below.set(xlabel="seconds", ylabel="nats of note on", ylim=(0, None))
    below.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def draw_context(context: dict) -> "Figure":
    """Nats of the same targets against the tokens of context, with two standard errors."""
    fig, ax = panels(3.2)
    for name, label, look in (
        ("as_latents", "as latents, for all layers", LATENTS._replace(marker="o")),
        ("as_prefix", "as prefix, for layer 1", PREFIX._replace(marker="s")),
    ):
        rows = np.array(context[name])
        rows = rows[np.unique(rows[:, 0], return_index=True)[1]]
        # The error of the gain: what windows have in common says nothing of the context.
        nats = rows[0, 1] - rows[:, 3]
        with_errors(ax, rows[:, 0], nats, look, label, yerr=rows[:, 4])
    ax.set_xscale("symlog", linthresh=16, linscale=0.6)
    ticks(ax.xaxis, [row[0] for row in context["as_prefix"]])
    ax.set(xlabel="tokens of context before the latents", ylabel="nats per token")
    ax.legend()
    return fig


def draw_positions(positions: dict) -> "Figure":
    """Nats by position among the latents, with and without a prefix; and the gain."""
    at = np.array(positions["after"])
    gain, error = np.array(positions["gain"]).T
    fig, (above, below) = panels(4.2, 2, 1, sharex=True, height_ratios=[3, 2])
    above.plot(at, positions["no prefix"], "-", color=BLUE, label="no prefix")
    above.plot(at, positions["full prefix"], "--", color=ORANGE, label="longest prefix")
    above.set(ylabel="nats per token")
    above.legend()
    below.fill_between(at, gain - 2 * error, gain + 2 * error, color=GREEN, alpha=0.3)
    below.plot(at, gain, "-", color=GREEN)
    below.axhline(0, color=GREY, lw=1, ls=":")
    below.set(xlabel="position among the latents", ylabel="gain, nats")
    return fig


def draw_contents(gains: dict[str, dict[str, Sequence[float]]]) -> "Figure":
    """What prefixes of several contents gain over none, by kind: mean, standard error."""
    rows = np.arange(len(gains))
    looks = (
        Look(INK, "o", ""),
        Look(PINK, "s", ""),
        Look(GREEN, "^", ""),
        Look(GREY, "D", ""),
    )
    fig, ax = panels(4.4)
    for k, (kind, look) in enumerate(zip(KINDS, looks, strict=True)):
        mean, error = np.array([by_kind[kind] for by_kind in gains.values()]).T
        with_errors(ax, mean, rows + 0.18 * (k - 1.5), look, kind, xerr=error)
    for y in rows[1:]:
        ax.axhline(y - 0.5, color=GREY, lw=0.5, ls="-", alpha=0.5)
    ax.axvline(0, color=INK, lw=1, ls="-")
    ax.set_yticks(rows, list(gains))
    ax.set(ylim=(len(gains) - 0.5, -0.5), xlabel="nats gained over no prefix")
    legend_below(fig)
    return fig


def draw_attention(
    tokens: Sequence[int], weights: np.ndarray, prefix_len: int, seconds: float = 10
) -> "Figure":
    """Where the heads look: at the notes of a window, marks as large as the weights.

    Args:
        tokens: the window, (n,) ids.
        weights: of its last latent, (H, n). What lies on a velocity counts for its
            note.
        seconds: how much of the window's end is drawn.
    """
    ids, music, heads = np.asarray(tokens), played(tokens), len(weights)
    is_wait, end = (ids >= TIME_SHIFT) & (ids < VELOCITY), music.clock[-1]
    size = 1.4 * heads + 0.6
    fig, axes = panels(size, heads, 1, sharex=True, sharey=True, squeeze=False)
    for h, ax in enumerate(axes[:, 0]):
        notes = segments((music.start, music.pitch), (music.end, music.pitch))
        ax.plot(*notes, "-", color=GREY, lw=1, alpha=0.6)
        _mark_weights(ax, ids, weights[h], prefix_len, end - seconds)
        boundary(ax, music.clock[prefix_len])
        ax.set_ylabel(f"head {h}", rotation=0, ha="right", va="center")
        ax.set(yticks=[], xlim=(end - seconds, end + 0.3))
        ax.set_ylim(music.pitch.min() - 15, music.pitch.max() + 6)
        parts = weights[h, :prefix_len].sum(), weights[h, is_wait].sum()
        says = "{:.0%} of its weight on the prefix; {:.0%} on waits".format(*parts)
        ax.set_title(says, fontsize=9, loc="left")
    axes[-1, 0].set_xlabel("seconds")
    return fig


def _mark_weights(
    ax: "Axes", ids: np.ndarray, weight: np.ndarray, prefix_len: int, begin: float
) -> None:
    """A mark for each token after `begin`, in seconds, as large as its weight: (n,) both."""
    music, place = played(ids), np.arange(len(ids))
    is_on, is_wait = ids < NOTE_OFF, (ids >= TIME_SHIFT) & (ids < VELOCITY)
    # A note also gets what lies on the velocity before it.
    touch = np.where(ids >= VELOCITY, weight, 0)
    weight = weight + np.where(is_on, np.append(0, touch[:-1]), 0)
    # Waits have no pitch: their row is below all notes.
    pitch = np.where(is_wait, music.pitch.min() - 8, ids % NOTE_OFF)
    time = music.clock[:-1]
    is_seen = (weight > 0.003) & (time > begin)
    is_lift = (ids >= NOTE_OFF) & (ids < TIME_SHIFT)
    for kind, marker in ((is_on, "o"), (is_lift, "X"), (is_wait, "^")):
        for part, look in (
            (place < prefix_len, PREFIX),
            (place >= prefix_len, LATENTS),
        ):
            some = kind & part & is_seen
            ax.scatter(
                time[some], pitch[some], s=900 * weight[some], color=look.color,
                marker=marker, alpha=0.75, lw=0, zorder=3,
            )  # fmt: skip


def draw_distances(shares: np.ndarray, edges: Sequence[int]) -> "Figure":
    """Share of each head's weight by distance: (H, groups), groups ending at `edges`."""
    fig, ax = panels(2.9)
    texts = [[f"{100 * share:.0f}" for share in row] for row in shares]
    picture = table(ax, shares, texts)
    lows = [0, *(edge + 1 for edge in edges[:-1])]
    labels = [
        f"{low:,}" if low == high else f"{low:,}–{high:,}"
        for low, high in zip(lows, edges, strict=True)
    ]
    ax.set_xticks(range(len(edges)), labels, rotation=35, ha="right")
    ax.set_yticks(range(len(shares)), [f"head {h}" for h in range(len(shares))])
    ax.set(xlabel="tokens back")
    fig.colorbar(picture, ax=ax, pad=0.02, label="share of the weight")
    return fig


def draw_numbers(numbers: dict[str, dict[str, Sequence[float]]]) -> "Figure":
    """Each number of `NUMBERS`, by who played: median, middle half, and middle 90 %."""
    players = [player for player in PLAYERS if player in numbers]
    looks = dict(PLAYERS[player] for player in players)
    fig, axes = panels(3.9, 2, 4)
    for ax, (name, unit) in zip(axes.flat, NUMBERS.items(), strict=True):
        for x, (player, look) in enumerate(zip(players, looks.values(), strict=True)):
            low, first, middle, third, high = np.percentile(
                numbers[player][name], [5, 25, 50, 75, 95]
            )
            ax.plot([x, x], [low, high], "-", color=look.color, lw=1)
            ax.plot([x, x], [first, third], "-", color=look.color, lw=4, alpha=0.5)
            ax.plot(x, middle, look.marker, color=look.color, ms=6)
        ax.set_title(name)
        top = ax.get_ylim()[1]
        ax.set(xlim=(-0.6, len(looks) - 0.4), ylim=(-0.05 * top, top), xticks=[])
        ax.set_xlabel(unit, fontsize=9)
    legend_below(fig, {name: look._replace(dash="-") for name, look in looks.items()})
    return fig


def draw_copies(copies: dict[str, Sequence[int]], bar: int = 64) -> "Figure":
    """Longest run shared with the training data, one dot a continuation; and the bar."""
    players = list(PLAYERS)
    rows = sorted(copies, key=lambda row: players.index(row.partition(",")[0]))
    rng = np.random.default_rng(0)
    fig, ax = panels(2.7)
    for y, row in enumerate(rows):
        _, look = PLAYERS[row.partition(",")[0]]
        beside = y + rng.uniform(-0.25, 0.25, len(copies[row]))
        dots = {"color": look.color, "ms": 4, "alpha": 0.55, "mew": 0}
        ax.plot(copies[row], beside, look.marker, **dots)
    boundary(ax, bar)
    ax.text(bar, -0.5, f"{bar}, the bar ", ha="right", va="center")
    ax.set_xscale("log", base=2)
    most = max(64, *map(max, copies.values()))
    ticks(ax.xaxis, [tick for tick in (4, 8, 16, 32, 64, 128, 256, 512) if tick <= most])
    ax.set_yticks(range(len(rows)), [row.replace("model", "network") for row in rows])
    ax.set(xlabel="tokens in a row", ylim=(len(copies) - 0.4, -0.6))
    return fig


def draw_form(form: dict) -> "Figure":
    """Likeness of pitches against the time between: played and real."""
    chance = form["other pieces"]
    fig, ax = panels(3.1)
    players = ("real", "model", "model, every token")
    for shift, player in zip((-0.3, 0.0, 0.3), players, strict=True):
        label, look = PLAYERS[player]
        mean, error = np.array(form["likeness"][player]).T
        lags = PROFILE_SECONDS * np.arange(1, len(mean) + 1)
        with_errors(ax, lags + shift, mean, look, label, yerr=error)
    ax.axhline(chance, color=GREY, lw=1, ls=":")
    text = {"ha": "right", "va": "bottom", "fontsize": 9}
    ax.text(lags[-1], chance, "two different pieces", **text)
    ax.set(xlabel="seconds between", ylabel="likeness", ylim=(min(chance, 0) - 0.05, 1))
    ax.legend()
    return fig
