"""Chapter 13, faster than it plays: recorded runs, figures, and checkers of exercises."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tinyperceiver.model.config import PRESETS, PerceiverConfig
from tinyperceiver.music.pieces import load_piece
from tinyperceiver.music.tokenizer import encode_midi
from tinyperceiver.teaching.checking import Mistake, checker
from tinyperceiver.teaching.records import recorded_numbers
from tinyperceiver.teaching.style import BLUE, GREEN, GREY, INK, ORANGE, PINK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "MUSIC",
    "check_compare",
    "check_floor_ms",
    "check_guess",
    "check_roofline_ms",
    "check_to_int8",
    "draw_batches",
    "draw_graph",
    "draw_race",
    "draw_rates",
    "draw_roofline",
    "draw_shares",
    "draw_waterfall",
    "recorded_nats",
    "recorded_speed",
]

MUSIC = 36.7  # tokens in a second of music, in 310 recordings of GiantMIDI-Piano
COLORS = (BLUE, ORANGE, GREEN, PINK)


# What was recorded


def recorded_speed() -> dict:
    """What `benchmarks/generation.py` measured, side by side with the peer."""
    return recorded_numbers("runs/speed/generation.json")


def recorded_nats() -> dict:
    """Held-out nats per token in each precision, from `benchmarks/precision.py`."""
    return recorded_numbers("runs/tiny/precision.json")


# Figures


def draw_graph() -> "Figure":
    """What a decoding step's graph takes and gives, and what its caller does."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    fig, ax = plt.subplots(figsize=(6.4, 3.1))
    ax.set(xlim=(0, 10), ylim=(0, 5))
    ax.axis("off")

    def box(x: float, y: float, half_height: float, text: str, color: str) -> None:
        low = (x - 1.3, y - half_height)
        style = {"boxstyle": "round,pad=0.1", "edgecolor": INK}
        ax.add_patch(FancyBboxPatch(low, 2.6, 2 * half_height, fc=color, **style))
        ax.text(x, y, text, ha="center", va="center")

    def arrow(start: tuple, end: tuple, **style: object) -> None:
        style = {"arrowstyle": "-|>", "color": INK, "lw": 1.2} | style
        ax.annotate("", end, start, arrowprops=style)

    taken = {4.0: "tokens, positions", 2.5: "masks", 1.0: "rings of keys\nand values"}
    given = {4.0: "logits", 1.0: "new keys\nand values"}
    box(5, 2.5, 1.0, "the graph\nand its weights", BLUE + "55")
    for y, text in taken.items():
        box(1.45, y, 0.35, text, "none")
        arrow((2.85, y), (3.6, 2.5 + 0.4 * (y - 2.5)))
    for y, text in given.items():
        box(8.55, y, 0.35, text, "none")
        arrow((6.4, 2.5 + 0.4 * (y - 2.5)), (7.15, y))
    dashed = {"ls": "--", "color": ORANGE}
    arrow((8.2, 4.45), (1.8, 4.45), connectionstyle="arc3,rad=0.05", **dashed)
    arrow((8.2, 0.55), (1.8, 0.55), connectionstyle="arc3,rad=-0.05", **dashed)
    ax.text(5, 4.7, "choose a token", ha="center", color=ORANGE)
    ax.text(5, 0.3, "write them into the rings", ha="center", va="top", color=ORANGE)
    return fig


def draw_race(due: Sequence[float], rates: Sequence[float]) -> "Figure":
    """When each token is due in the music, and when it comes at some rates.

    due: seconds of music before each token. rates: tokens a second, slowest first.
    """
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 3.0))
    count = len(due)
    ax.plot(due, range(count), color=INK, lw=2.4)
    ax.text(due[-1], count, " due in the music", ha="center", va="bottom")
    for rate, dash, color in zip(rates, ("--", ":", "-."), COLORS[1:], strict=False):
        end = min(count / rate, 2.6 * due[-1])
        ax.plot([0, end], [0, end * rate], ls=dash, color=color)
        at = 0.62 * end
        ax.text(at, at * rate, f"  {rate:.0f} a second", va="top", color=color)
    ax.set(xlabel="seconds since the first token", ylabel="tokens", ylim=(0, None))
    ax.set_xlim(0, None)
    ax.margins(y=0.12)
    return fig


def draw_shares(rows: dict[str, dict[str, float]]) -> "Figure":
    """What the time of a token is made of: a bar for each row.

    rows: name -> (kind -> milliseconds), the kinds in the same order.
    """
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 1.15 + 0.5 * len(rows)))
    hatches = ("", "///", "...")
    for y, shares in enumerate(rows.values()):
        left = 0.0
        for i, (kind, ms) in enumerate(shares.items()):
            ax.barh(
                y,
                ms,
                left=left,
                height=0.62,
                color=COLORS[i],
                alpha=0.75,
                hatch=hatches[i % 3],
                edgecolor=INK,
                lw=0.6,
                label=None if y else kind,
            )
            left += ms
        ax.text(left, y, f" {left:.0f} ms", va="center")
    _deadline(ax, vertical=True)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.invert_yaxis()
    ax.set(xlabel="milliseconds a token")
    ax.margins(x=0.12)
    ax.legend(loc="lower center", bbox_to_anchor=(0.45, 1.02), ncols=3)
    return fig


def draw_roofline(
    bandwidth: float, peak: float, points: dict[int, tuple[float, float]]
) -> "Figure":
    """The roof of a machine, and products of R rows under it.

    bandwidth in GB/s, peak in G operations/s; points: R -> (operations a byte, G
    operations/s).
    """
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 3.4))
    ridge = peak / bandwidth
    low, high = 0.25, 4 * max(x for x, _ in points.values())
    ax.plot([low, ridge, high], [low * bandwidth, peak, peak], color=INK, lw=2.2)
    ax.axvline(ridge, color=GREY, ls=":", lw=1.2)
    ax.text(0.55 * ridge, 0.62 * peak, "as memory reads ", ha="right")
    ax.text(math.sqrt(ridge * high), 1.15 * peak, "as cores compute", ha="center")
    bottom = low * bandwidth / 2
    ax.text(1.08 * ridge, 1.1 * bottom, "the ridge", color=GREY)
    for rows, (x, y) in points.items():
        ax.plot(x, y, "o", color=BLUE, ms=7)
        name = f"{rows:,} row" + "s" * (rows > 1)
        ax.annotate(name, (x, y), (6, -13), textcoords="offset points")
    lowest = min(y for _, y in points.values())
    ax.set(
        xscale="log",
        yscale="log",
        xlim=(low, high),
        ylim=(min(bottom, 0.6 * lowest), 2.2 * peak),
        xlabel="operations for each byte that is read or written",
        ylabel="G operations a second",
    )
    ax.minorticks_off()
    return fig


def draw_waterfall(steps: dict[str, float], floor: float) -> "Figure":
    """Milliseconds of a token, from way to way; steps: name -> milliseconds."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 3.0))
    before = None
    for x, ms in enumerate(steps.values()):
        last = x == len(steps) - 1
        ax.bar(x, ms, width=0.62, color=BLUE, alpha=0.75, edgecolor=INK, lw=0.6)
        label = f"{ms:.0f} ms\n{1000 / ms:.0f} a second"
        # Off the dashed line.
        above = ms if ms > 1400 / MUSIC else max(ms, 1050 / MUSIC)
        ax.text(x, above, label, ha="center", va="bottom", fontsize=9)
        if before is not None:
            gone = before - ms
            ax.bar(x, gone, bottom=ms, width=0.62, color="none", edgecolor=GREY, ls=":")
        before = ms
        if last:
            ax.hlines(floor, x - 0.42, x + 0.42, color=ORANGE, lw=2.4)
            ax.text(x + 0.45, floor, "its floor", color=ORANGE, va="center")
    _deadline(ax)
    ax.set_xticks(range(len(steps)), list(steps))
    ax.set_xlim(-0.5, len(steps) + 0.25)
    ax.set(ylabel="milliseconds a token", ylim=(0, 1.28 * max(steps.values())))
    return fig


def draw_rates(rates: dict[str, dict[str, float]], floors: dict) -> "Figure":
    """Tokens a second: groups of bars, over each what the floor would allow.

    rates: group -> (name -> tokens a second); floors: the same of the floors, for
    those that have one.
    """
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 3.2))
    names = list(next(iter(rates.values())))
    width = 0.8 / len(rates)
    for i, (group, by_name) in enumerate(rates.items()):
        for x, name in enumerate(names):
            at = x + (i - (len(rates) - 1) / 2) * width
            rate, floor = by_name[name], floors[group].get(name)
            ax.bar(
                at,
                rate,
                width=0.9 * width,
                color=COLORS[i],
                alpha=0.75,
                hatch="///" if i else "",
                edgecolor=INK,
                lw=0.6,
                label=None if x else group,
            )
            ax.text(at, rate, f"{rate:.0f}", ha="center", va="bottom", fontsize=9)
            if floor:
                ax.hlines(floor, at - 0.45 * width, at + 0.45 * width, color=INK, lw=2)
    ax.axhline(MUSIC, color=PINK, ls="--", lw=1.4)
    ax.text(-0.5, MUSIC, "music", color=PINK, va="bottom")
    ax.set_xticks(range(len(names)), names)
    ax.set_xlim(-0.55, len(names) - 0.45)
    ax.set(ylabel="tokens a second")
    ax.legend(loc="upper left")
    return fig


def draw_batches(batches: Sequence[int], rates: dict[str, list[float]]) -> "Figure":
    """Tokens a second of all rows against the number of rows."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 2.8))
    for (name, values), marker in zip(rates.items(), "osD^", strict=False):
        ax.plot(batches, values, marker=marker, ms=5, label=name)
    alone = [MUSIC * rows for rows in batches]
    ax.plot(batches, alone, color=GREY, ls=":", lw=1.2, label="music for all rows")
    ax.set(xscale="log", yscale="log", xlabel="rows $B$", ylabel="tokens a second")
    ax.set_xticks(batches, [str(rows) for rows in batches])
    ax.minorticks_off()
    ax.legend()
    return fig


def _deadline(ax: "Axes", vertical: bool = False) -> None:
    """A line where a token takes as long as its music."""
    ms = 1000 / MUSIC
    draw = ax.axvline if vertical else ax.axhline
    draw(ms, color=PINK, ls="--", lw=1.4)
    if vertical:
        ax.text(ms, 1.0, " music", color=PINK, transform=ax.get_xaxis_transform())
    else:
        at = ax.get_yaxis_transform()
        ax.text(1.0, ms, "music", color=PINK, transform=at, ha="right", va="bottom")


# Checkers of the exercises


def _number(value: object, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        kind = type(value).__name__
        raise Mistake(f"{what} should be a number, not a {kind}.") from None
    if not math.isfinite(number):
        raise Mistake(f"{what} is {number}.")
    return number


def _close(a: float, b: float, share: float = 1e-3) -> bool:
    return math.isclose(a, b, rel_tol=share)


@checker
def check_floor_ms(answer: Callable) -> str:
    """Exercise 1: milliseconds in which a step can be read."""
    odd = PerceiverConfig(
        vocab_size=100,
        max_seq_len=512,
        max_latents=128,
        num_channels=64,
        num_heads=4,
        num_self_attention_layers=3,
        cross_attention_widening_factor=2,
        self_attention_widening_factor=3,
    )
    for config, n, l, bits, bandwidth in (
        (PRESETS["released"], 4096, 1024, 32, 32.0),
        (PRESETS["released"], 4096, 1024, 8, 32.0),
        (PRESETS["released"], 6144, 1, 16, 20.0),
        (odd, 300, 70, 16, 0.5),
    ):
        D, L = config.num_channels, config.num_self_attention_layers
        hybrid = (4 + 2 * config.cross_attention_widening_factor) * D**2
        other = (4 + 2 * config.self_attention_widening_factor) * D**2
        table = 4 * config.vocab_size * D
        products = (hybrid + L * other) * bits / 8
        held = 4 * 2 * D * (n + L * l)

        def ms(count: float, bandwidth: float = bandwidth) -> float:
            return count / bandwidth / 1e6

        name = "the released shape" if config is not odd else "another shape"
        where = f"{name}, n = {n:,}, l = {l:,}, {bits} bits, {bandwidth:g} GB/s"
        found = _number(answer(config, n, l, bits, bandwidth), f"{where}: the floor")
        right = ms(products + table + held)
        if _close(found, right):
            continue
        wrong = (
            (ms(products * 8 + table + held), "bits are counted as bytes."),
            (ms(products + held), "the embedding is read too, for the logits."),
            (
                ms(products + table * bits / 32 + held),
                "the embedding stays in float32, whatever the bits of the products.",
            ),
            (
                ms(products + table + held * bits / 32),
                "keys and values stay in float32, whatever the bits of the products.",
            ),
            (
                ms(products + table + held / 2),
                "half of what is held is missing: keys *and* values are read.",
            ),
            (
                ms(products + table + 4 * 2 * D * n * (L + 1)),
                "only the hybrid layer holds all n positions; the others hold latents.",
            ),
            (
                ms(products + table + 4 * 2 * D * L * l),
                "what the hybrid layer holds is missing: all n positions.",
            ),
            (
                ms(products - hybrid * bits / 8 + table + held),
                "the hybrid layer has products, too: there are L + 1 layers.",
            ),
            (ms(products + table), "keys and values are read, too."),
        )
        for value, says in wrong:
            if _close(found, value):
                raise Mistake(f"{where}: {says}")
        for factor in (1000, 1e-3, 1e6, 1e-6):
            if _close(found, right * factor):
                raise Mistake(
                    f"{where}: {found:.3g} is off by a power of ten. Milliseconds; "
                    "and a GB is 1e9 bytes."
                )
        if _close(found, right, 0.08) and ms(products + table + held) > found:
            raise Mistake(
                f"{where}: {found:.2f} ms is near {right:.2f}, but not it. GB is 1e9 bytes, "
                "not 2**30."
            )
        raise Mistake(f"{where}: it should be {right:.3g} ms, not {found:.3g}.")
    full = PRESETS["released"]
    grown = answer(full, 6144, 2048, 8, 32.0) / answer(full, 4096, 1, 8, 32.0)
    return (
        f"With 8 bits a full window costs {grown:.1f} times what a step from one latent costs: "
        "few bits make keys and values the larger part."
    )


@checker
def check_roofline_ms(answer: Callable) -> str:
    """Exercise 2: the least time of a product, by the roofline."""
    for rows, inputs, outputs, bits, bandwidth, peak in (
        (1, 768, 3072, 32, 32.0, 150.0),
        (1024, 768, 3072, 32, 32.0, 150.0),
        (1, 3072, 768, 8, 32.0, 400.0),
        (512, 3072, 768, 16, 10.0, 2000.0),
        (8, 768, 768, 32, 32.0, 150.0),
    ):
        weight = inputs * outputs * bits / 8
        around = 4 * rows * (inputs + outputs)
        computing = 2 * rows * inputs * outputs / peak / 1e6
        reading = (weight + around) / bandwidth / 1e6
        right = max(computing, reading)
        where = f"{rows} rows, {inputs} to {outputs}, {bits} bits"
        found = _number(
            answer(rows, inputs, outputs, bits, bandwidth, peak), f"{where}: the time"
        )
        if _close(found, right):
            continue
        bare = weight / bandwidth / 1e6
        wrong = (
            (
                computing + reading,
                "you add the two; while a machine computes it reads on, and the longer of the "
                "two decides.",
            ),
            (min(computing, reading), "you take the shorter of the two times."),
            (
                max(computing / 2, reading),
                "each weight costs two operations a row, a multiplication and an addition.",
            ),
            (
                max(computing / rows, reading),
                "the operations grow with the number of rows.",
            ),
            (max(computing, bare), "what goes in and what comes out is moved, too."),
            (
                max(computing, rows * bare + around / bandwidth / 1e6),
                "the weights are read once for all rows: that is the point of many rows.",
            ),
        )
        for value, says in wrong:
            if _close(found, value):
                raise Mistake(f"{where}: {says}")
        raise Mistake(f"{where}: it should be {right:.4g} ms, not {found:.4g}.")

    def bound(rows: int) -> bool:
        one, two = (answer(r, 768, 3072, 32, 32.0, 150.0) for r in (rows, 2 * rows))
        return two > 1.9 * one

    first = next(rows for rows in range(1, 200) if bound(rows))
    return (
        f"At 32 GB/s and 150 G operations a second a row costs its full price from {first} "
        "rows on; before that rows are nearly free."
    )


@checker
def check_to_int8(answer: Callable) -> str:
    """Exercise 3: a weight in 8 bits, a scale for each output."""
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(6, 40, generator=generator)
    uneven = plain * torch.logspace(-3, 2, 6)[:, None]
    empty = plain.clone()
    empty[2] = 0
    worst = 0.0
    for name, weight in (("even", plain), ("uneven", uneven), ("empty", empty)):
        result = answer(weight)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise Mistake("return two tensors, (rounded, scale).")
        rounded, scale = result
        if not isinstance(rounded, Tensor) or rounded.dtype != torch.int8:
            raise Mistake("the first of the two should be a tensor of `torch.int8`.")
        if not isinstance(scale, Tensor) or rounded.shape != weight.shape:
            raise Mistake(
                f"for a weight of {tuple(weight.shape)} return integers of that shape and a "
                "tensor of scales."
            )
        if scale.shape == weight.shape[1:]:
            raise Mistake(
                "there is a scale for each input; a column of the weight. Each output, a row, "
                "needs its own."
            )
        if scale.numel() == 1:
            raise Mistake(
                "there is one scale for all; where rows differ in size the small ones lose "
                "all their bits. Each output, a row, needs its own."
            )
        if name == "uneven" and len(scale) > 1 and (scale == scale[0]).all():
            raise Mistake(
                "all scales are equal; where rows differ in size the small ones lose all their "
                "bits. Each output, a row, needs its own."
            )
        if scale.shape != (len(weight),):
            raise Mistake(
                f"scale should be of shape ({len(weight)},), not {tuple(scale.shape)}."
            )
        if not (rounded.float() * scale[:, None]).isfinite().all():
            raise Mistake(
                "a row of zeros gives NaN: its largest number is 0, by which nothing can be "
                "divided."
            )
        again = rounded.float() * scale.float()[:, None]
        error = (again - weight).abs().amax(dim=1)  # (out)
        largest = weight.abs().amax(dim=1)
        step = largest / 127
        if (error > 1.5 * step + 1e-9).any():
            row = int((error / step.clamp(min=1e-12)).argmax())
            if (rounded[row].sign() != weight[row].sign())[
                weight[row].abs() > 0.9 * largest[row]
            ].any():
                raise Mistake(
                    "the largest weight of a row changes its sign: 128 does not fit into "
                    "int8, which ends at 127, and wraps to -128."
                )
            raise Mistake(
                f"row {row} of the {name} weight is off by {error[row]:.2g}, where its "
                f"numbers reach {largest[row]:.2g}."
            )
        if (error > 0.75 * step + 1e-9).any():
            raise Mistake(
                "some weights are off by nearly a whole step of the grid: `.to(torch.int8)` "
                "cuts off what follows the point. Round first."
            )
        if (error > 0.502 * step + 1e-9).any():
            raise Mistake(
                "the grid is coarser than it could be: let the largest weight of a row be "
                "127, the last number of int8."
            )
        live = largest > 0
        worst = max(worst, float((error / largest.clamp(min=1e-12))[live].max()))
    return (
        f"No weight is off by more than {worst:.2%} of the largest in its row; half a step of "
        "1/127 would be 0.39%."
    )


class _Machine:
    """A clock and two works whose times are known: a machine for checkers to tamper with."""

    def __init__(self, slowdown: Callable[[float, int], float]) -> None:
        self.now, self.calls, self.slowdown, self.order = 0.0, {}, slowdown, []

    def work(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            count = self.calls[name] = self.calls.get(name, 0) + 1
            self.order.append(name)
            self.now += seconds * self.slowdown(self.now, count)

        return run

    def works(self) -> dict[str, Callable[[], None]]:
        return {"new": self.work("new", 1.0), "old": self.work("old", 1.25)}


@checker
def check_compare(answer: Callable) -> str:
    """Exercise 4: an honest comparison on machines that disturb it."""

    def ratio_on(slowdown: Callable, rounds: int = 21) -> tuple[float, _Machine, dict]:
        machine = _Machine(slowdown)
        # A bound method would be copied with its machine, as arguments are.
        found = answer(machine.works(), rounds, lambda: machine.now)
        if not isinstance(found, dict) or set(found) != {"new", "old"}:
            raise Mistake("return a dict from each name to its seconds.")
        found = {name: _number(value, f"{name!r}") for name, value in found.items()}
        if min(found.values()) <= 0:
            raise Mistake(
                "a time is not positive: ask the clock before and after a call."
            )
        return found["old"] / found["new"], machine, found

    ratio, machine, found = ratio_on(lambda now, count: 1.0)
    if not _close(ratio, 1.25):
        raise Mistake(
            f"on a quiet machine the old way takes 1.25 times as long as the new one; you "
            f"find {ratio:.3f}. The clock must enclose one work and nothing else."
        )
    if not _close(found["new"], 1.0):
        raise Mistake(
            f"one call of the new work takes 1 second, and you say {found['new']:.3g}: "
            "give the time of one call."
        )
    slow_start = ratio_on(lambda now, count: 30.0 if count == 1 else 1.0, rounds=2)[2]
    if not _close(slow_start["new"], 1.0, 0.02):
        raise Mistake(
            f"where every first call is slow, two rounds give {slow_start['new']:.1f} seconds "
            "for a call of 1 second: the first call, which warms up, must not count."
        )
    rounds = 21
    machine = ratio_on(lambda now, count: 1.0, rounds)[1]
    if machine.calls["new"] < rounds + 1:
        raise Mistake(
            f"{rounds} calls of each are to count, and one more must not; you make "
            f"{machine.calls['new']} in all."
        )
    # Another programme starts after a while and stays.
    ratio, machine, _ = ratio_on(lambda now, count: 1.0 if now < 26 else 3.0)
    half = len(machine.order) // 2
    if len(set(machine.order[:half])) == 1:
        raise Mistake(
            f"you measure one work after the other. On a machine that became busy half-way "
            f"the new way seems {ratio:.2f} times as fast, and it is 1.25: let them take turns."
        )
    if not 1.15 < ratio < 1.4:
        raise Mistake(
            f"on a machine that became busy half-way you find {ratio:.2f}, not about 1.25."
        )
    # One call in nine is held up.
    held_up = {"new": 0}

    def hiccup(now: float, count: int) -> float:
        held_up["new"] += 1
        return 20.0 if held_up["new"] % 9 == 4 else 1.0

    ratio, *_ = ratio_on(hiccup)
    if not _close(ratio, 1.25, 0.02):
        raise Mistake(
            f"where one call in nine is held up you find {ratio:.2f}, not 1.25: a mean believes "
            "every accident, a median does not."
        )
    _, machine, found = ratio_on(lambda now, count: 0.2 if count == 8 else 1.0)
    if found["new"] < 0.9:
        raise Mistake(
            "a single call that seems too fast decides: the least of the times is one "
            "measurement, and it may be the wrong one. Take the median."
        )
    return "It finds 1.25 on a quiet machine, a cold one, a busy one and a nervous one."


GUESSES = 4  # tokens that are guessed at a time


@checker
def check_guess(answer: Callable) -> str:
    """Exercise 5: tokens guessed without a model, and how many would be kept."""
    kept = rounds = 0
    for name in ("joplin-maple-leaf-rag", "bach-prelude", "mozart-sonata"):
        tokens = encode_midi(load_piece(name))[:900]
        place = 64
        while place < len(tokens) - GUESSES:
            guess = answer(tokens[:place], GUESSES)
            if isinstance(guess, Tensor):
                guess = guess.tolist()
            if not isinstance(guess, (list, tuple)):
                raise Mistake(f"return a list of {GUESSES} token ids.")
            guess = list(guess)
            if len(guess) != GUESSES:
                raise Mistake(
                    f"return {GUESSES} token ids when asked for {GUESSES}, not {len(guess)}."
                )
            if any(
                isinstance(t, bool) or not isinstance(t, int) or not 0 <= t < 388
                for t in guess
            ):
                raise Mistake(f"{guess} are not token ids, whole numbers 0 to 387.")
            agreed = 0
            while agreed < GUESSES and guess[agreed] == tokens[place + agreed]:
                agreed += 1
            kept, rounds, place = kept + agreed, rounds + 1, place + agreed + 1
    mean = kept / rounds
    if mean < 0.02:
        raise Mistake(
            f"almost none of your guesses are right ({mean:.2f} tokens each time). Are they "
            "what comes *after* the given tokens? And is the run that you look for so long that "
            "it hardly ever came before?"
        )
    if mean < 0.25:
        raise Mistake(
            f"each guess of {GUESSES} is right for {mean:.2f} tokens on average; 0.25 can be "
            "reached. Music repeats itself: where did the last few tokens stand before, and "
            "what came then?"
        )
    return (
        f"Each guess is right for {mean:.2f} tokens on average: with a model that agreed with "
        f"the composers, one reading of its weights would give {1 + mean:.2f} tokens."
    )
