"""Chapter 7, the decoder stack: weights to load, figures, and checkers of its exercises."""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tinyperceiver.model.config import PRESETS, PerceiverConfig
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.music.vocabulary import PAD
from tinyperceiver.teaching.checking import Mistake, checker
from tinyperceiver.teaching.measuring import tiny_weights
from tinyperceiver.teaching.style import BLUE, GREEN, GREY, INK, ORANGE, PINK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Case",
    "check_count_parameters",
    "check_design",
    "check_inputs_and_targets",
    "check_post_norm_layer",
    "check_stop_early",
    "draw_agreement",
    "draw_gelu",
    "draw_journey",
    "draw_kept",
    "draw_layer",
    "draw_leak",
    "draw_losses",
    "draw_padding",
    "draw_parameters",
    "draw_stack",
    "reference_cases",
    "reference_continuations",
    "reference_loss",
    "reference_settings",
    "reference_tensors",
]


# What ships with the package


class Case(NamedTuple):
    """A window, and what the library that trained the released model made of it."""

    tokens: Tensor  # (B, n)
    prefix_len: int  # m
    pad_mask: Tensor  # (B, n), True at padding
    logits: Tensor  # (B, l, V)


def _assets():
    return resources.files("tinyperceiver") / "assets"


def _answers() -> dict[str, np.ndarray]:
    with (_assets() / "reference" / "cases.npz").open("rb") as file:
        return dict(np.load(file))


def reference_settings() -> dict:
    """The fields of `PerceiverConfig` of the small reference model."""
    text = (_assets() / "reference" / "hub" / "config.json").read_text(encoding="utf-8")
    known = {field.name for field in fields(PerceiverConfig)}
    settings = json.loads(text)["model_config"]
    return {name: value for name, value in settings.items() if name in known}


def reference_tensors() -> dict[str, Tensor]:
    """The weights of the small reference model, under the names of its library."""
    with (_assets() / "reference" / "hub" / "pytorch_model.bin").open("rb") as file:
        return torch.load(file, weights_only=True)


def reference_cases() -> list[Case]:
    """Windows of the small reference model, with and without padding."""
    found, cases = _answers(), []
    while (name := f"forward{len(cases)}") + ".tokens" in found:
        tokens, prefix_len, pad_mask, logits = (
            torch.from_numpy(found[f"{name}.{field}"]) for field in Case._fields
        )
        cases.append(Case(tokens.long(), prefix_len.item(), pad_mask, logits))
    return cases


def reference_loss() -> tuple[Tensor, float]:
    """Tokens, (B, n + 1), and the loss of their last `max_latents`, in nats a token."""
    found = _answers()
    return torch.from_numpy(found["loss.tokens"]).long(), float(found["loss.value"])


def reference_continuations() -> Iterator[tuple[Tensor, int, Tensor]]:
    """Prompt, latents at first, and the prompt with the likeliest tokens after it."""
    found = _answers()
    for i in range(sum(name.endswith(".prompt") for name in found)):
        prompt, output = (
            torch.from_numpy(found[f"greedy{i}.{part}"]).long()
            for part in ("prompt", "output")
        )
        yield prompt, int(found[f"greedy{i}.num_latents"]), output


# Figures


def draw_gelu() -> "Figure":
    """GELU beside ReLU, and how far the approximation by tanh is from the exact one."""
    import matplotlib.pyplot as plt

    x = torch.linspace(-4, 4, 401, dtype=torch.float64)
    exact = nn.functional.gelu(x)
    fig, (left, right) = plt.subplots(1, 2, figsize=(6.4, 2.5))
    left.plot(x, x.relu(), color=GREY, linestyle="--")
    left.plot(x, exact, color=BLUE, linestyle="-")
    left.text(1.3, 1.9, "ReLU", color=GREY, ha="right")
    left.text(1.6, 0.8, "GELU", color=BLUE)
    left.set(title="what goes in, what comes out", xlabel="x")
    difference = nn.functional.gelu(x, approximate="tanh") - exact
    right.plot(x, 1000 * difference, color=PINK, linestyle="-")
    right.axhline(0, color=INK, linewidth=0.6)
    right.set(title="approximation − exact, × 1000", xlabel="x")
    return fig


def draw_journey(journeys: dict[str, tuple[list[float], list[float]]]) -> "Figure":
    """How large rows are after each layer, and how different from each other.

    Args:
        journeys: by wiring, size and difference after each layer.
    """
    import matplotlib.pyplot as plt

    looks = dict(
        zip(
            journeys,
            (
                (GREY, "-", "s"),
                (PINK, "--", "^"),
                (ORANGE, "-.", "v"),
                (GREEN, ":", "D"),
                (BLUE, "-", "o"),
            ),
            strict=False,
        )
    )
    fig, axes = plt.subplots(1, 2, figsize=(6.4, 3.5))
    titles = "size of a row", "difference between rows,\nas a share of their size"
    for which, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        for name, journey in journeys.items():
            color, line, marker = looks[name]
            layers = range(1, len(journey[which]) + 1)
            look = {"color": color, "linestyle": line, "marker": marker}
            ax.plot(
                layers, journey[which], markersize=4, markevery=3, label=name, **look
            )
        ax.set(
            yscale="log", xlabel="after layer", title=title, xticks=[1, 5, 10, 15, 19]
        )
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncol=5, columnspacing=1.2)
    return fig


def _box(
    ax: "Axes", x: float, y: float, width: float, height: float, text: str, color: str
) -> None:
    from matplotlib.patches import FancyBboxPatch

    shape = "round,pad=0,rounding_size=0.08"
    look = {"edgecolor": color, "linewidth": 1.5}
    box = FancyBboxPatch((x, y), width, height, boxstyle=shape, fill=False, **look)
    ax.add_patch(box)
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9.5)


def _arrow(
    ax: "Axes", start: tuple, end: tuple, color: str = INK, width: float = 1.2
) -> None:
    look = {"arrowstyle": "-|>", "color": color, "linewidth": width, "shrinkA": 0}
    ax.annotate("", end, start, arrowprops=look | {"shrinkB": 0, "mutation_scale": 11})


def _canvas(width: float, height: float) -> tuple["Figure", "Axes"]:
    """Axes without axes, where a unit is an inch."""
    import matplotlib.pyplot as plt

    fig = plt.figure(figsize=(width, height), layout="none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    return fig, ax


def draw_layer() -> "Figure":
    """One layer: the stream along the bottom, what is added to it above."""
    fig, ax = _canvas(6.4, 3.0)
    stream, top = 0.55, 1.75
    _arrow(ax, (0.1, stream), (6.3, stream), BLUE, 3)
    ax.text(0.1, stream - 0.36, "x, (B, l, D)", fontsize=9.5)
    ax.text(6.3, stream - 0.36, "x, (B, l, D)", fontsize=9.5, ha="right")
    ax.text(3.2, stream - 0.36, "residual stream", fontsize=9.5, ha="center")
    branches = (
        (0.7, [(0.55, "norm"), (0.95, "attention")]),
        (3.1, [(0.55, "norm"), (0.5, "up"), (0.55, "GELU"), (0.6, "down")]),
    )
    for start, parts in branches:
        ax.plot([start, start], [stream, top], "-", color=INK, linewidth=1.2)
        x = start
        for width, name in parts:
            _arrow(ax, (x, top), (x + 0.13, top))
            _box(ax, x + 0.13, top - 0.2, width, 0.4, name, INK)
            x += 0.13 + width
        ax.plot([x, x + 0.15], [top, top], "-", color=INK, linewidth=1.2)
        _arrow(ax, (x + 0.15, top), (x + 0.15, stream + 0.11))
        ax.plot(x + 0.15, stream, "o", color=BLUE, markersize=13)
        ax.text(x + 0.15, stream - 0.015, "+", ha="center", va="center", fontsize=12)
    _arrow(ax, (1.85, 2.6), (1.85, top + 0.21), ORANGE, 1.6)
    ax.text(
        0.1, 2.74, "hybrid layer only: prefix, (B, m, D)", fontsize=9.5, color=ORANGE
    )
    ax.text(4.48, 2.2, "(B, l, 4 D)", fontsize=9.5, ha="center")
    ax.text(2.3, 1.1, "dropout", fontsize=9, ha="right", alpha=0.8)
    ax.text(5.73, 1.1, "dropout", fontsize=9, ha="right", alpha=0.8)
    return fig


def draw_stack(config: PerceiverConfig) -> "Figure":
    """The whole model from tokens to logits, with shapes of a full window."""
    from matplotlib.patches import Rectangle

    fig, ax = _canvas(6.4, 4.7)
    m, l, D = config.max_prefix_len, config.max_latents, config.num_channels
    left, middle, right = 0.15, 2.15, 4.15  # prefix from left, latents from middle
    for x, color, hatch in ((left, ORANGE, "//"), (middle, BLUE, "")):
        for row, size in ((0.45, 0.2), (1.1, 0.32)):
            for i in range(8):
                place = (x + 0.25 * i, row)
                look = {"edgecolor": color, "linewidth": 1.2, "hatch": hatch}
                ax.add_patch(Rectangle(place, 0.2, size, fill=False, **look))
    ax.text(left, 0.14, "prefix", color=ORANGE, fontsize=10)
    ax.text(middle, 0.14, "latents", color=BLUE, fontsize=10)
    last = config.num_self_attention_layers
    rotating = config.num_rotary_layers
    rows = (
        (1.75, left, "hybrid layer"),
        (2.4, middle, f"self-attention layer 1 to {rotating}" if rotating > 1 else
         "self-attention layer 1"),
        (3.05, middle, f"layers {rotating + 1} to {last}"),
        (3.7, middle, r"norm, then $E^\top$"),
    )  # fmt: skip
    for y, x, name in rows:
        _box(ax, x, y, right - 0.05 - x, 0.36, name, INK)
    for y in (0.7, 1.47, 2.16, 2.81, 3.46, 4.11):
        _arrow(ax, (3.12, y), (3.12, y + 0.24), BLUE, 2.2)
    for y in (0.7, 1.47):
        _arrow(ax, (1.12, y), (1.12, y + 0.24), ORANGE, 2.2)
    ax.text(1.12, 2.5, "the prefix ends here", color=ORANGE, fontsize=9.5, ha="center")
    ax.text(2.98, 0.78, "embedding $E$", fontsize=9.5, ha="right")
    notes = (
        (0.47, f"tokens, (B, {m + l:,})"),
        (1.18, f"(B, {m + l:,}, {D})"),
        (1.85, f"(B, {l:,}, {D}), rotates"),
        (2.5, f"(B, {l:,}, {D}), rotates"),
        (3.15, f"(B, {l:,}, {D})"),
        (4.4, f"logits, (B, {l:,}, {config.vocab_size})"),
    )
    for y, text in notes:
        ax.text(right + 0.1, y, text, fontsize=9.5)
    return fig


def _token(ax: "Axes", x: float, y: float, text: str, color: str, **look) -> None:
    """A small box for a token, with its number."""
    from matplotlib.patches import Rectangle

    look = {"edgecolor": color, "linewidth": 1.4, "fill": False} | look
    ax.add_patch(Rectangle((x, y), 0.4, 0.34, **look))
    ax.text(x + 0.2, y + 0.165, text, ha="center", va="center", fontsize=10)


def draw_padding(position: Tensor, pads: Tensor, num_latents: int) -> "Figure":
    """Rows of a batch with padding on the left, each token with its position."""
    B, n = pads.shape
    fig, ax = _canvas(6.4, 0.5 * B + 0.5)
    for row in range(B):
        y = 0.5 * (B - 1 - row) + 0.12
        ax.text(0.2, y + 0.17, f"row {row}", va="center", fontsize=10)
        for place in range(n):
            x = 1.1 + 0.5 * place + (0.15 if place >= n - num_latents else 0)
            if pads[row, place]:
                _token(ax, x, y, "pad", GREY, linestyle="--")
            else:
                color = BLUE if place >= n - num_latents else ORANGE
                _token(ax, x, y, str(position[row, place].item()), color)
        count = n - int(pads[row].sum())
        ax.text(1.45 + 0.5 * n, y + 0.17, f"{count} tokens", va="center", fontsize=10)
    top = 0.5 * B + 0.16
    ax.text(1.1, top, "prefix", color=ORANGE, fontsize=10)
    ax.text(1.25 + 0.5 * (n - num_latents), top, "latents", color=BLUE, fontsize=10)
    return fig


def draw_kept(kept: list[int], prefix_len: int, num_latents: int) -> "Figure":
    """A prefix of which some is left out, and two ways to number the rest."""
    n = prefix_len + num_latents
    read = [*kept, *range(prefix_len, n)]
    fig, ax = _canvas(6.4, 2.05)
    rows = (
        (1.15, "all places", range(n)),
        (0.65, "numbered before", read),
        (0.15, "numbered after", range(len(read))),
    )
    for y, name, numbers in rows:
        ax.text(0.05, y + 0.17, name, va="center", fontsize=10)
        places = range(n) if len(numbers) == n else read
        for place, number in zip(places, numbers, strict=True):
            x = 1.4 + 0.475 * place + (0.12 if place >= prefix_len else 0)
            color = BLUE if place >= prefix_len else ORANGE
            left_out = place not in read
            look = {"linestyle": "--"} if left_out else {}
            _token(ax, x, y, str(number), GREY if left_out else color, **look)
    ax.text(1.4, 1.66, "prefix", color=ORANGE, fontsize=10)
    ax.text(1.52 + 0.475 * prefix_len, 1.66, "latents", color=BLUE, fontsize=10)
    return fig


def draw_parameters(parts: dict[str, int]) -> "Figure":
    """A bar for each part of a model, with the number and share of its parameters."""
    import matplotlib.pyplot as plt

    total = sum(parts.values())
    fig, ax = plt.subplots(figsize=(6.4, 0.42 * len(parts) + 0.5))
    bars = ax.barh(list(parts), list(parts.values()), color=BLUE, height=0.62)
    labels = [f" {n:,}  ({n / total:.1%})" for n in parts.values()]
    ax.bar_label(bars, labels, padding=2, fontsize=9.5)
    ax.set(xlim=(0, 1.45 * max(parts.values())), xticks=[])
    ax.spines[["bottom", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0, labelsize=9.5)
    ax.invert_yaxis()
    return fig


def draw_agreement(
    cases: list[Case], first: list[Tensor], final: list[Tensor]
) -> "Figure":
    """Our logits over the reference's, and the largest difference in each case."""
    import matplotlib.pyplot as plt

    fig, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.1))
    padded = [i for i, case in enumerate(cases) if case.pad_mask.any()]
    look = {"linestyle": "", "markersize": 4, "markerfacecolor": "none"}
    for name, answers, color, marker in (
        ("first version", first, ORANGE, "v"),
        ("package", final, BLUE, "o"),
    ):
        rows = [(i, cases[i].pad_mask.any(dim=1)) for i in padded]
        x = torch.cat([cases[i].logits[which].flatten()[::97] for i, which in rows])
        y = torch.cat([answers[i][which].flatten()[::97] for i, which in rows])
        left.plot(x, y, marker=marker, color=color, label=name, **look)
        worst = [
            (ours - case.logits).abs().max()
            for ours, case in zip(answers, cases, strict=True)
        ]
        right.plot(worst, marker=marker, color=color, **look | {"markersize": 7})
    left.set(xlabel="logits of the reference", ylabel="ours")
    left.set_title("rows with padding")
    left.legend(loc="upper left", handletextpad=0.1)
    right.axhline(1e-5, color=INK, linewidth=1, linestyle="--")
    right.text(2.5, 1.8e-5, "$10^{-5}$", ha="center", fontsize=9.5)
    names = [f"{i}\npads" if i in padded else f"{i}" for i in range(len(cases))]
    right.set(yscale="log", ylim=(3e-7, 40), title="largest difference", xlabel="case")
    right.set_xticks(range(len(cases)), names)
    right.set_xlim(-0.5, len(cases) - 0.5)
    return fig


def draw_leak(change: Tensor, prefix_len: int) -> "Figure":
    """Which logits change with which token: `change` is (n, l), by changed token."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgb

    n = len(change)
    fig, ax = plt.subplots(figsize=(6.4, 3.0))
    weak, strong = (*to_rgb(BLUE), 0.25), (*to_rgb(BLUE), 1.0)
    cmap = LinearSegmentedColormap.from_list("change", [weak, strong])
    cmap.set_bad((0, 0, 0, 0))
    seen = np.ma.masked_less(change.T.double().numpy(), 1e-9)
    norm = LogNorm(seen.min(), seen.max())
    edges = np.arange(n + 1) - 0.5, np.arange(prefix_len, n + 1) - 0.5
    drawn = ax.pcolormesh(*edges, seen, cmap=cmap, norm=norm, edgecolor="none")
    ax.axvline(prefix_len - 0.5, color=ORANGE, linestyle="--")
    ax.text(prefix_len - 0.7, prefix_len - 0.8, "prefix ", color=ORANGE, ha="right")
    ax.text(prefix_len - 0.3, prefix_len - 0.8, " latents", color=BLUE)
    ax.set(xlabel="position of the changed token", ylabel="logits at position")
    ax.set(aspect="equal", xticks=range(0, n, 2), yticks=range(prefix_len, n, 2))
    ax.set_ylim(n - 0.5, prefix_len - 0.5)
    ax.xaxis.set_inverted(False)
    bar = fig.colorbar(drawn, ax=ax, shrink=0.8)
    steps = [
        step for step in (0.1, 0.2, 0.5, 1, 2, 5) if seen.min() < step < seen.max()
    ]
    bar.set_ticks(steps, labels=[f"{step:g}" for step in steps], minor=False)
    bar.ax.minorticks_off()
    bar.set_label("largest change of a logit")
    return fig


def draw_losses(losses: dict[str, list[float]]) -> "Figure":
    """Training losses, by what the model was asked for."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 2.7))
    for (name, values), color, line in zip(
        losses.items(), (PINK, BLUE), ("--", "-"), strict=True
    ):
        ax.plot(range(1, len(values) + 1), values, color=color, linestyle=line)
        ax.text(len(values) + 1, max(values[-1], 0.3), name, color=color, va="center")
    ax.set(xlabel="training step", ylabel="loss, nats a token", ylim=(0, None))
    ax.set_xlim(0, 1.32 * len(values))
    ax.set_xticks(range(0, len(values) + 1, 10))
    return fig


# Exercises


def _counted(num_layers: int) -> str:
    return f"{num_layers} self-attention layer" + "s" * (num_layers != 1)


def _parameters(config: PerceiverConfig) -> int:
    with torch.device("meta"):
        return PerceiverAR(config).num_parameters


def _no_model(*args, **kwargs) -> None:
    raise Mistake(
        "this builds a model and lets it count. Here the fields of the configuration "
        "must do: multiply and add."
    )


@checker
def check_count_parameters(answer: Callable) -> str:
    small = PerceiverConfig(num_channels=64, num_heads=4, num_self_attention_layers=3)
    configs = [
        small,
        replace(small, vocab_size=100),
        replace(small, num_self_attention_layers=0),
        replace(small, cross_attention_widening_factor=2),
        PRESETS["tiny"],
        PRESETS["released"],
    ]
    for config in configs:
        right = _parameters(config)
        with mock.patch.object(nn.Module, "__init__", _no_model):
            found = answer(config)
        if isinstance(found, bool) or not isinstance(found, int):
            kind = type(found).__name__
            raise Mistake(f"a number of parameters is an int; this is of type {kind}.")
        D, missing = config.num_channels, right - found
        if missing == 0:
            continue
        if missing == -config.vocab_size * D:
            raise Mistake(
                f"{-missing:,} too many, which is V · D: the embedding is counted "
                "twice. The output reuses it and adds nothing."
            )
        if missing == (config.vocab_size - 389) * D:
            raise Mistake(
                f"{abs(missing):,} off: your V is not this model's `vocab_size`, "
                f"{config.vocab_size}."
            )
        if missing == D:
            raise Mistake(
                f"{D} too few, which is D: one bias is missing. Of all products only "
                "the output projection of one attention layer has a bias."
            )
        if missing == (2 * config.num_self_attention_layers + 4) * D:
            raise Mistake(
                f"{missing} too few, which is D for each norm. A norm has two numbers a "
                "channel, a factor and an offset."
            )
        if missing == 2 * D:
            raise Mistake(
                f"{2 * D} too few, which is 2 D: one norm is missing. Look at what "
                "stands before the prefix and before the logits."
            )
        if (
            config.cross_attention_widening_factor
            != config.self_attention_widening_factor
        ):
            raise Mistake(
                "right until the two MLPs differ in width: the hybrid layer's takes "
                "cross_attention_widening_factor, the others' take "
                "self_attention_widening_factor."
            )
        side = "few" if missing > 0 else "many"
        raise Mistake(
            f"for D = {D}, V = {config.vocab_size} and "
            f"{_counted(config.num_self_attention_layers)} you find "
            f"{found:,}, which is {abs(missing):,} too {side}. Compare part by part with "
            "what `account(config)` counts."
        )
    return "Six shapes agree, the last with 134,840,832."


@checker
def check_post_norm_layer(answer: Callable) -> str:
    for seed in range(3):
        torch.manual_seed(seed)
        attention, mlp = nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 6), nn.GELU())
        norm_1, norm_2 = nn.LayerNorm(6), nn.LayerNorm(6)
        for norm in (norm_1, norm_2):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        x = 3 * torch.randn(2, 5, 6)
        middle = norm_1(x + attention(x))
        right = norm_2(middle + mlp(middle))
        once = x + attention(x)
        swapped = norm_2(once)
        found = answer(x, attention, mlp, norm_1, norm_2)
        if not isinstance(found, Tensor) or found.shape != x.shape:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found)
            raise Mistake(f"a layer returns what it reads, (B, l, D); this is {shape}.")

        def is_it(other: Tensor, found: Tensor = found) -> bool:
            return torch.allclose(found, other, atol=1e-5)

        pre = x + attention(norm_1(x))
        if is_it(right):
            continue
        if is_it(pre + mlp(norm_2(pre))):
            raise Mistake(
                "this is pre-norm, the chapter's layer: its norms stand before "
                "attention and MLP. Here they come after the sum."
            )
        bare = norm_1(attention(x))
        if is_it(norm_2(mlp(bare))) or is_it(norm_2(mlp(middle))):
            raise Mistake(
                "a residual is missing: what a branch read is not added to it."
            )
        outside = x + norm_1(attention(x))
        if is_it(outside + norm_2(mlp(outside))):
            raise Mistake(
                "each norm is inside the branch: the sum itself is never normalised. "
                "Add first, then normalise."
            )
        if is_it(norm_2(middle + mlp(x))):
            raise Mistake(
                "the MLP reads x. It comes second: it reads what norm_1 has returned."
            )
        if is_it(norm_1(swapped + mlp(swapped))):
            raise Mistake("the two norms are exchanged: norm_1 stands first.")
        for norm, used in ((norm_1, middle), (norm_2, swapped)):
            if is_it(norm(used + mlp(used))):
                which = "norm_1" if norm is norm_1 else "norm_2"
                raise Mistake(f"{which} is used twice, the other norm never.")
        if is_it(norm_2(once + mlp(middle))):
            raise Mistake(
                "the second sum takes x from before norm_1. What the MLP returns is "
                "added to what the MLP read."
            )
        if is_it(norm_2(x + mlp(middle))):
            raise Mistake(
                "the second sum takes x itself: what the attention found is lost to "
                "all but the MLP. Add to what the MLP read."
            )
        if is_it(middle + mlp(middle)):
            raise Mistake("the second sum is returned without its norm, norm_2.")
        if is_it(once + mlp(once)):
            raise Mistake("there is no norm at all.")
        if is_it(norm_2(once + mlp(once))):
            raise Mistake("the first sum goes on without its norm, norm_1.")
        if is_it(middle) or is_it(norm_2(middle)):
            raise Mistake("the MLP is missing.")
        raise Mistake(
            "the numbers are others. After the attention and after the MLP: add what "
            "it read, then normalise the sum."
        )
    return "Three random layers agree: branch, sum, norm, twice."


@checker
def check_inputs_and_targets(answer: Callable) -> str:
    rows = torch.arange(388 - 2 * 9, 388).reshape(2, 9)  # the last is no padding yet
    padded = torch.tensor([[388, 388, 388, 5, 6, 0, 8], [1, 2, 3, 4, 5, 6, 7]])
    for tokens, num_latents in ((rows, 3), (rows, 8), (padded, 5), (rows, 1)):
        found = answer(tokens, num_latents)
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise Mistake("return two tensors: what the model reads, and its targets.")
        inputs, targets = found
        if any(
            not isinstance(part, Tensor) or part.dtype != torch.long for part in found
        ):
            raise Mistake("both are tensors of integers, torch.long as `tokens` is.")
        if inputs.ndim != 2 or targets.ndim != 2:
            raise Mistake("both have two axes: rows, then places.")
        if inputs.shape != tokens[:, 1:].shape:
            raise Mistake(
                f"of {tokens.size(1)} tokens the model reads {inputs.size(1)}. It reads "
                "all that have a token after them to be foretold."
            )
        if torch.equal(inputs, tokens[:, 1:]):
            raise Mistake(
                "the model reads from the second token on: the first is lost, and the "
                "last, which has no target, is read."
            )
        if targets.shape == inputs.shape != tokens[:, :num_latents].shape:
            raise Mistake(
                f"targets of shape {tuple(targets.shape)}, but {num_latents} latents: "
                "only latents have logits, the prefix foretells nothing."
            )
        if targets.shape != tokens[:, :num_latents].shape:
            raise Mistake(
                f"targets of shape {tuple(targets.shape)}; {num_latents} latents in "
                f"each of {len(tokens)} rows want ({len(tokens)}, {num_latents})."
            )
        right = tokens[:, -num_latents:]
        own = tokens[:, -num_latents - 1 : -1]
        real = right != 388
        if torch.equal(targets[real], own[real]):
            raise Mistake(
                "each latent is asked for its own token, which it can read. Its target "
                "is the next one."
            )
        if (gone := real & (targets == -100)).any():
            raise Mistake(
                f"a real token is left out as if it were padding, token "
                f"{right[gone][0].item()}. Only a target that is itself {PAD} becomes -100."
            )
        if not torch.equal(targets[real], right[real]):
            raise Mistake("the targets are not the last tokens, in their order.")
        if (targets[~real] == 388).any():
            raise Mistake(
                "a target is padding, 388, which the model would learn to write. "
                "Put -100 there: cross_entropy leaves it out."
            )
        if (targets[~real] != -100).any():
            raise Mistake(
                f"a target that is padding has become {targets[~real][0].item()}. The "
                "number that cross_entropy leaves out is -100."
            )
        if not torch.equal(inputs, tokens[:, :-1]):
            raise Mistake("the tokens that the model reads are changed on the way.")
    return "Four windows agree, one of them with padding: n tokens in, l targets."


@checker
def check_stop_early(answer: Callable) -> str:
    torch.manual_seed(0)
    config = replace(
        PRESETS["tiny"],
        num_channels=32,
        num_self_attention_layers=3,
        max_seq_len=24,
        max_latents=8,
        init_scale=0.3,
    )
    model = PerceiverAR(config).eval()
    nn.init.normal_(model.norm.weight)
    tokens = torch.randint(388, (2, 20))
    with torch.no_grad():
        for depth in (1, 0, 2, 3):
            given = _seen_by_answer(copy.deepcopy(model))
            try:
                short = answer(given, depth)
            except RuntimeError as error:
                if "size mismatch" not in str(error):
                    raise
                raise Mistake(
                    "the weights do not fit the new model. Take its shape from "
                    "`model.config`; the trained model is not the only one to be cut."
                ) from error
            if not isinstance(short, nn.Module):
                kind = type(short).__name__
                raise Mistake(f"return a model; this is a {kind}.")
            if len(given.layers) != 3:
                raise Mistake(
                    f"you have cut `model` itself: {len(given.layers)} of its 3 layers "
                    "are left. Make a new model."
                )
            if given.config != config:
                raise Mistake(
                    "`model.config` is no longer what it was. Give the new shape to the "
                    "new model alone."
                )
            if not all(p.requires_grad for p in given.parameters()):
                raise Mistake(
                    "`model` can no longer be trained: some of its parameters are frozen."
                )
            if len(getattr(short, "layers", [])) != depth:
                raise Mistake(
                    f"asked for {_counted(depth)}, the model has "
                    f"{len(getattr(short, 'layers', []))}."
                )
            before, after = model.state_dict(), given.state_dict()
            if not all(torch.equal(before[name], after[name]) for name in before):
                raise Mistake("`model` no longer has the weights that it had.")
            if short.training or given.training:
                which = "new" if short.training else "old"
                raise Mistake(
                    f"the {which} model is in training mode: it wants eval()."
                )
            own = {p.data_ptr() for p in short.parameters()}
            if own & {p.data_ptr() for p in given.parameters()}:
                raise Mistake(
                    "both models hold the same tensors, so that training one would "
                    "change the other. Copy them: load_state_dict does."
                )
            right = copy.deepcopy(model)
            right.layers = right.layers[:depth]
            expected, found = right(tokens, 12), short(tokens, 12)
            if found.dtype != expected.dtype:
                raise Mistake(
                    f"the logits are of type {found.dtype}, those of `model` of type "
                    f"{expected.dtype}. A copy keeps the type."
                )
            if torch.allclose(found, expected, atol=1e-5):
                if short.config.num_self_attention_layers == depth:
                    continue
                raise Mistake(
                    f"it has {_counted(depth)}, but its config still says "
                    f"{short.config.num_self_attention_layers}."
                )
            right.layers = copy.deepcopy(model).layers[3 - depth :]
            if torch.allclose(found, right(tokens, 12), atol=1e-5):
                raise Mistake(
                    "these are the last layers. Stopping early keeps the first."
                )
            if not torch.equal(short.embedding.weight, model.embedding.weight):
                raise Mistake(
                    "the weights are fresh random ones: the new model must take those "
                    "of the old, by name."
                )
            raise Mistake(
                f"with {depth} layers the logits are not those of the first {depth} "
                "layers, the norm and the embedding."
            )
        return f"Mozart's next token costs the trained model {_nats_by_depth(answer)}."


def _seen_by_answer(model: PerceiverAR) -> PerceiverAR:
    """Let the answer have `model` itself: what it does to it can then be seen.

    An answer gets deep copies, so this model passes for its own copy, once.
    """

    def once(memo: dict) -> PerceiverAR:
        del model.__deepcopy__
        return model

    model.__deepcopy__ = once
    return model


def _nats_by_depth(stop_early: Callable) -> str:
    """What the shipped model expects of a piece, when stopped after 0, 1, ... layers."""
    from tinyperceiver.music.pieces import load_piece
    from tinyperceiver.music.tokenizer import encode_midi

    model = PerceiverAR(PRESETS["tiny"]).eval()
    model.load_state_dict(tiny_weights())
    tokens = torch.tensor([encode_midi(load_piece("mozart-sonata"))[:513]])
    found = []
    for depth in range(6):
        logits = stop_early(model, depth)(tokens[:, :-1], 256)
        nats = cross_entropy(logits[0], tokens[0, -256:]).item()
        found.append(f"{nats:.2f} nats after {depth}")
    return ", ".join(found)


@checker
def check_design(answer: Callable) -> str:
    shown, shapes = (3_000_000, 20_000_000, 134_840_832), []
    others = (3_700_000, 7_000_000, 45_000_000, 90_000_000)
    for budget in (*shown, *others):
        config = answer(budget)
        # In the chapter it is the reader's own class.
        if type(config).__name__ != "PerceiverConfig":
            kind = type(config).__name__
            raise Mistake(f"return a PerceiverConfig; this is a {kind}.")
        count, layers = _parameters(config), config.num_self_attention_layers
        D, d = config.num_channels, config.num_channels // config.num_heads
        if (config.vocab_size, config.max_seq_len, config.max_latents) != (
            389,
            6144,
            2048,
        ):
            raise Mistake(
                "leave the vocabulary and the window as the released model has."
            )
        if count > budget:
            raise Mistake(
                f"over the budget: {count:,} parameters where {budget:,} are allowed. "
                "The largest part is 12 D² for each self-attention layer."
            )
        if layers < 4 or 128 * layers < D:
            raise Mistake(
                f"too shallow: {_counted(layers)} for {D} channels. Here "
                "every 128 channels want a layer, and 4 layers are the least."
            )
        if layers > D // 16:
            raise Mistake(
                f"too narrow: {D} channels for {layers} self-attention layers. Give "
                "each layer at least 16 channels."
            )
        if count < 0.9 * budget:
            raise Mistake(
                f"budget unused: {count:,} parameters of {budget:,}, {count / budget:.0%}. "
                "Spend at least 90 % of every budget."
            )
        if not 32 <= d <= 128:
            raise Mistake(f"heads of {d} channels: choose H so that d is 32 to 128.")
        if budget in shown:
            shapes.append(
                f"D = {D} with {layers} layers ({count / budget:.1%} of {budget:,})"
            )
    return "; ".join(shapes) + f"; {len(others)} other budgets are met, too."
