"""Chapter 9, training: what was recorded, figures, and checkers of its exercises."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode

from tinyperceiver.model.config import PRESETS
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.teaching.checking import Mistake, checker
from tinyperceiver.teaching.records import recorded_file
from tinyperceiver.teaching.style import BLUE, GREEN, GREY, INK, ORANGE, PINK
from tinyperceiver.training.config import TrainingConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Run",
    "bytes_kept",
    "check_clip",
    "check_gradients_in_turns",
    "check_mean_nats",
    "check_plan_run",
    "check_rate_at",
    "draw_bugs",
    "draw_formats",
    "draw_norms",
    "draw_parting",
    "draw_processes",
    "draw_rates",
    "draw_recorded",
    "draw_schedule",
    "read_run",
    "recorded_file",
]

# Recorded runs


def _records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Run(NamedTuple):
    """What the log of a run says; steps count from 1."""

    config: TrainingConfig
    steps: np.ndarray  # (S,)
    loss: np.ndarray  # nats per token of each step, (S,)
    norm: np.ndarray  # length of each step's gradient, (S,)
    rate: np.ndarray  # learning rate of each step, (S,)
    held_out: np.ndarray  # step, tokens in the window, nats per token: (validations, 3)
    speed: np.ndarray  # step, tokens per second since the record before: (., 2)
    sessions: int  # the first, and each time that it went on
    seconds: float  # all sessions together
    tokens: int  # predicted


def read_run(folder: str) -> Run:
    """The record of a run, named from the book's folder; see `recorded_file`."""
    config, log, speed = (
        recorded_file(f"{folder}/{name}")
        for name in ("config.json", "log.jsonl", "speed.jsonl")
    )
    settings = json.loads(config.read_text(encoding="utf-8"))["config"]
    records = _records(log)
    steps = [r for r in records if "loss" in r]
    held_out = [
        (r["step"], r["window"], r["held_out"]) for r in records if "held_out" in r
    ]
    # A session that went on begins its clock anew.
    spans, sessions, seconds, before = [], 1, 0.0, (0.0, 0)
    for record in _records(speed):
        now = record["seconds"], record["tokens"]
        if now[0] < before[0]:
            before = (0.0, 0)
            sessions += 1
        seconds += now[0] - before[0]
        if now[0] > before[0]:
            pace = (now[1] - before[1]) / (now[0] - before[0])
            spans.append((record["step"], pace))
        before = now
    return Run(
        TrainingConfig.from_json(settings),
        *(
            np.array([r[name] for r in steps])
            for name in ("step", "loss", "gradient_norm", "learning_rate")
        ),
        np.array(held_out).reshape(-1, 3),
        np.array(spans).reshape(-1, 2),
        sessions,
        seconds,
        sum(r["tokens"] for r in steps),
    )


def bytes_kept(model: nn.Module, loss_of: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass, the weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            # Views of one storage count once; it is held, so that none takes its place.
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of()
    del loss
    return sum(storage.nbytes() for storage in kept.values())


# Figures

LOOKS = ((BLUE, "-"), (PINK, "--"), (ORANGE, "-."), (GREEN, ":"))


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of each value and those before it, `width` at most."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _plot_losses(ax: "Axes", curves: dict[str, Sequence], top: float) -> None:
    for (name, losses), (color, line) in zip(curves.items(), LOOKS, strict=False):
        steps = np.arange(1, len(losses) + 1)
        ax.plot(steps, losses, color=color, linestyle=line, label=name)
    ax.axhline(math.log(389), color=GREY, linewidth=1)
    ax.set(xlabel="step", ylim=(0, top))
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))


def draw_bugs(
    one_batch: dict[str, list[float]], new_batches: dict[str, list[float]]
) -> "Figure":
    """Losses by step and by what is wrong: on one batch, and on a new one each step.

    New batches differ, and so do their losses: each is drawn as a mean with those before.
    """
    import matplotlib.pyplot as plt

    new_batches = {
        name: _smooth(np.array(losses), 10) for name, losses in new_batches.items()
    }
    fig, axes = plt.subplots(1, 2, figsize=(6.4, 4.0), sharey=True)
    for ax, curves in zip(axes, (one_batch, new_batches), strict=True):
        _plot_losses(ax, curves, 7.5)
        ax.text(
            len(curves["right"]), 6.08, "ln 389", color=GREY, fontsize=9, ha="right"
        )
    axes[0].set(title="the same batch every step", ylabel="loss, nats per token")
    axes[1].set(title="a new batch every step")
    return fig


def draw_rates(losses: dict[str, list[float]]) -> "Figure":
    """Losses by step, by the schedule of the learning rate."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 2.9))
    for (name, values), (color, line) in zip(losses.items(), LOOKS, strict=False):
        steps = np.arange(1, len(values) + 1)
        ax.plot(steps, values, color=color, linestyle=line, label=name)
    ax.set(xlabel="step", ylabel="loss, nats per token")
    ax.set_ylim(None, 8)
    ax.legend(loc="upper right")
    return fig


def draw_schedule(rates: list[float], run: Run) -> "Figure":
    """The learning rate of each step, planned and logged, with the end of the warm-up."""
    import matplotlib.pyplot as plt

    warmup = run.config.warmup_steps
    fig, ax = plt.subplots(figsize=(6.4, 2.4))
    ax.plot(np.arange(1, len(rates) + 1), rates, color=BLUE, label="planned")
    ax.plot(run.steps, run.rate, color=ORANGE, linestyle="--", label="logged")
    ax.axvline(warmup, color=GREY, linestyle=":", linewidth=1.2)
    ax.text(
        warmup + 0.01 * len(rates),
        0.08 * max(rates),
        f"warm-up ends: step {warmup:,}",
        fontsize=9,
    )
    ax.set(xlabel="step", ylabel="learning rate", ylim=(0, 1.1 * max(rates)))
    ax.ticklabel_format(axis="y", scilimits=(0, 0))
    ax.legend(loc="upper right")
    return fig


def _mark_stages(run: Run, *axes: "Axes") -> None:
    """Dotted lines where windows grow."""
    ends = np.cumsum([stage.steps for stage in run.config.stages])[:-1]
    for end in ends[ends < run.steps[-1]]:
        for ax in axes:
            ax.axvline(end, color=GREY, linestyle=":", linewidth=1.2)


def draw_norms(run: Run) -> "Figure":
    """The length of the gradient by step, and the bound."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 2.6))
    # A page does not need thousands of dots; none that is cut is left out.
    is_cut = run.norm > run.config.max_norm
    some = is_cut | (np.arange(len(run.steps)) % max(1, len(run.steps) // 600) == 0)
    ax.plot(run.steps[some], run.norm[some], ".", color=BLUE, markersize=2.5)
    ax.axhline(run.config.max_norm, color=ORANGE, linestyle="--")
    _mark_stages(run, ax)
    ax.set(xlabel="step", ylabel="length of the gradient", yscale="log")
    ax.set_yticks([0.5, 1, 2, 4], labels=["0.5", "1", "2", "4"])
    ax.minorticks_off()
    return fig


def draw_formats() -> "Figure":
    """Sign, exponent and mantissa of the three formats, bit by bit."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    fig = plt.figure(figsize=(6.4, 1.9), layout="none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 6.4), ylim=(0, 1.9))
    ax.axis("off")
    width = 0.163
    formats = (("float32", 8, 23), ("bfloat16", 8, 7), ("float16", 5, 10))
    for row, (name, exponent, mantissa) in enumerate(formats):
        y = 1.2 - 0.5 * row
        ax.text(0.05, y + 0.14, name, va="center", fontsize=10)
        kinds = ((GREY, 1, ".."), (ORANGE, exponent, "//"), (BLUE, mantissa, ""))
        bit = 0
        for color, count, hatch in kinds:
            for _ in range(count):
                place = (0.9 + width * bit, y)
                look = {"edgecolor": color, "linewidth": 1.1, "hatch": hatch}
                ax.add_patch(Rectangle(place, 0.13, 0.28, fill=False, **look))
                bit += 1
        ax.text(
            0.95 + width * bit,
            y + 0.14,
            "" if bit > 30 else f"{exponent} exponent, {mantissa} mantissa",
            va="center",
            fontsize=9.5,
        )
    ax.text(0.9, 1.66, "sign,", color=GREY, fontsize=9.5)
    ax.text(1.25, 1.66, "8 bits of exponent,", color=ORANGE, fontsize=9.5)
    ax.text(2.6, 1.66, "23 of mantissa", color=BLUE, fontsize=9.5)
    return fig


def draw_parting(run: Run, best_count: float | None) -> "Figure":
    """A small run: loss on the training pieces and held-out loss, which part.

    `best_count` is what the best n-gram pays for the same tokens of Mozart.
    """
    import matplotlib.pyplot as plt

    steps, _, held_out = run.held_out.T
    trained = _smooth(run.loss, 10)
    fig, ax = plt.subplots(figsize=(6.4, 3.0))
    ax.plot(run.steps, trained, color=ORANGE, linestyle="--")
    ax.plot(steps, held_out, color=BLUE, linestyle="-", marker="o")
    whose = "held out"
    names = [(trained[-1], "training pieces", ORANGE)]
    if best_count is not None:
        ax.plot(run.steps[[0, -1]], [best_count] * 2, color=GREY, linestyle=":")
        whose = "Mozart, held out"
        names.append((best_count, "Mozart, best n-gram", GREY))
    names.append((held_out[-1], whose, BLUE))
    gap, lowest_free = 0.045 * (run.loss.max() - trained.min()), -np.inf
    for y, text, color in sorted(names):
        lowest_free = max(y, lowest_free + gap)  # names must not overlap
        ax.text(run.steps[-1] * 1.02, lowest_free, text, color=color, va="center",
                fontsize=9.5)  # fmt: skip
        lowest_free += gap
    lowest = held_out.argmin()
    ax.plot(steps[lowest], held_out[lowest], "o", color=INK, markersize=9,
            fillstyle="none")  # fmt: skip
    ax.set(xlabel="step", ylabel="loss, nats per token", xlim=(0, 1.35 * run.steps[-1]))
    return fig


def draw_recorded(run: Run) -> "Figure":
    """A run's losses, learning rate and pace by step, with its stages."""
    import matplotlib.pyplot as plt

    fig, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(6.4, 6.2), sharex=True, height_ratios=(3, 1, 1)
    )
    # A page does not need thousands of points.
    some = slice(None, None, max(1, len(run.steps) // 400))
    top.plot(run.steps[some], _smooth(run.loss, 100)[some], color=ORANGE, linestyle="--",
             linewidth=1.2, label="training, mean of 100 steps")  # fmt: skip
    windows = run.held_out[:, 1]
    for i, window in enumerate(dict.fromkeys(windows)):
        part = run.held_out[windows == window]
        top.plot(part[:, 0], part[:, 2], color=BLUE, linestyle="-", marker="os^D"[i % 4],
                 markersize=4, label=f"held out, window {window:,.0f}")  # fmt: skip
    top.set(ylabel="nats per token")
    low = min(run.held_out[:, 2].min(initial=9), _smooth(run.loss, 100).min())
    top.set_ylim(low - 0.1, min(low + 1.5, 6.1))
    top.legend(loc="upper right")
    middle.plot(run.steps[some], 1000 * run.rate[some], color=GREEN, linestyle="-")
    middle.set(ylabel="rate × 1000", ylim=(0, None))
    pace = _smooth(run.speed[:, 1], 50)[some]
    bottom.plot(run.speed[some, 0], pace, color=PINK, linestyle="-")
    bottom.set(ylabel="tokens/s", xlabel="step", ylim=(0, None))
    _mark_stages(run, top, middle, bottom)
    fig.align_ylabels()
    return fig


def draw_processes() -> "Figure":
    """One step on two processes: whole models, half the rows each, one average."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyBboxPatch, Rectangle

    fig = plt.figure(figsize=(6.4, 2.9), layout="none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 6.4), ylim=(0, 2.9))
    ax.axis("off")

    def box(x: float, y: float, width: float, text: str, color: str) -> None:
        shape = "round,pad=0,rounding_size=0.08"
        look = {"edgecolor": color, "linewidth": 1.5, "fill": False}
        ax.add_patch(FancyBboxPatch((x, y), width, 0.46, boxstyle=shape, **look))
        ax.text(x + width / 2, y + 0.22, text, ha="center", va="center", fontsize=9.5)

    def arrow(start: tuple, end: tuple) -> None:
        look = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.2}
        look |= {"shrinkA": 0, "shrinkB": 0, "mutation_scale": 11}
        ax.annotate("", end, start, arrowprops=look)

    for row in range(8):
        y = 2.4 - 0.26 * row - (0.2 if row > 3 else 0)
        color, hatch = (ORANGE, "//") if row < 4 else (PINK, "")
        look = {"edgecolor": color, "linewidth": 1.2, "hatch": hatch, "fill": False}
        ax.add_patch(Rectangle((0.1, y), 0.75, 0.18, **look))
    ax.text(0.1, 2.68, "8 windows", fontsize=9.5)
    for rank, y in ((0, 1.84), (1, 0.6)):
        arrow((0.95, y + 0.23), (1.3, y + 0.23))
        box(1.35, y, 1.05, "whole model", BLUE)
        ax.text(1.35, y + 0.56, f"process {rank}", fontsize=9.5)
        arrow((2.4, y + 0.23), (2.72, y + 0.23))
        box(2.76, y, 0.85, "gradient", INK)
        arrow((3.61, y + 0.23), (3.95, 1.53 if rank == 0 else 1.37))
        arrow((4.75, 1.53 if rank == 0 else 1.37), (5.08, y + 0.23))
        box(5.12, y, 1.2, "the same step", BLUE)
    box(3.93, 1.22, 0.84, "average", GREEN)
    ax.text(4.35, 0.72, "the only message", ha="center", fontsize=9)
    return fig


# Exercises


def _number(found: object, what: str) -> float:
    """`found` as a float, if it is one number."""
    if isinstance(found, (Tensor, np.ndarray)) and math.prod(found.shape) == 1:
        found = found.item()
    if isinstance(found, bool) or not isinstance(found, (int, float, np.number)):
        raise Mistake(f"{what} is one number; this is of type {type(found).__name__}.")
    return float(found)


def _flat(found: Sequence[Tensor]) -> Tensor:
    """All numbers in one vector of float32; formats with fewer bits are refused."""
    if short := {f.dtype for f in found} - {torch.float32, torch.float64}:
        raise Mistake(f"your tensors are of {short.pop()}; float32 is asked for.")
    return torch.cat([f.detach().flatten().float() for f in found])


class _Called(TorchFunctionMode):
    """Notes the names of the functions of PyTorch that are called in its block."""

    def __init__(self) -> None:
        super().__init__()
        self.names = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.add(func.__name__)
        return func(*args, **(kwargs or {}))


@checker
def check_mean_nats(answer: Callable) -> str:
    torch.manual_seed(0)
    logits = 3 * torch.randn(3, 6, 389)
    targets = torch.randint(1, 388, (3, 6))
    targets[1, 3] = 0  # a token like any other
    some = targets.clone()
    some[0, 2:] = some[2, 5:] = -100
    for asked in (targets, some):
        with _Called() as called:
            found = _number(answer(logits, asked), "a mean")
        if used := {"cross_entropy", "nll_loss", "CrossEntropyLoss"} & called.names:
            raise Mistake(
                f"you call {min(used)}, which is what you are asked to write. "
                "log_softmax and indexing are enough."
            )
        real = asked >= 0
        losses = cross_entropy(logits[real], asked[real], reduction="none")
        right = losses.mean().item()
        if math.isclose(found, right, rel_tol=1e-4):
            continue
        if math.isclose(found, -right, rel_tol=1e-4):
            raise Mistake("the sign is turned round: surprise is *minus* a logarithm.")
        if math.isclose(found, losses.sum().item(), rel_tol=1e-4):
            raise Mistake("this is the sum. Nats per token want it divided.")
        if math.isclose(found, right / math.log(2), rel_tol=1e-4):
            raise Mistake("these are bits. A nat takes the natural logarithm.")
        if math.isclose(found, losses.sum().item() / asked.numel(), rel_tol=1e-4):
            raise Mistake(
                f"you divide by all {asked.numel()} places, but only {int(real.sum())} "
                "have a target. Padding would make the model look better than it is."
            )
        if math.isclose(found, losses[asked[real] > 0].mean().item(), rel_tol=1e-4):
            raise Mistake(
                "you leave out a target with the id 0, a token like any other. Only -100 "
                "means that there is none."
            )
        rows = [
            cross_entropy(row[t >= 0], t[t >= 0])
            for row, t in zip(logits, asked, strict=True)
        ]
        if math.isclose(found, torch.stack(rows).mean().item(), rel_tol=1e-4):
            raise Mistake(
                "this is a mean of the rows' means, in which a row with two targets "
                "weighs as much as one with six. Each target weighs the same."
            )
        if math.isclose(found, -logits[real].gather(
            1, asked[real][:, None]).mean().item(), rel_tol=1e-4):  # fmt: skip
            raise Mistake(
                "a logit is not the logarithm of a probability yet: the softmax is "
                "missing."
            )
        wrong = logits.gather(2, asked.remainder(389)[..., None])[..., 0]
        wrong = (logits.logsumexp(-1) - wrong).mean().item()
        if math.isclose(found, wrong, rel_tol=1e-4):
            raise Mistake(
                "a place with -100 has no target: as an index it means the hundredth "
                "token from the end, and you took the loss of that."
            )
        kind = "no padding" if asked is targets else "five places without a target"
        raise Mistake(f"with {kind} you find {found:.4f} nats; it is {right:.4f}.")
    big = torch.full((1, 2, 389), -2000.0)
    big[..., 7] = 2000.0
    found = _number(answer(big, torch.tensor([[7, 7]])), "a mean")
    if not math.isfinite(found) or abs(found) > 1e-3:
        raise Mistake(
            f"for a model that is sure and right, with logits of ±2000, you find {found}: "
            "exp overflows. Use log_softmax or logsumexp."
        )
    found = _number(answer(big, torch.tensor([[9, 9]])), "a mean")
    if not math.isclose(found, 4000, rel_tol=1e-4):
        raise Mistake(
            f"a target that the model all but excludes, 4,000 below the likeliest token, "
            f"costs 4,000 nats; you find {found}. exp gave 0, and its logarithm is no "
            "number: log_softmax never leaves the logarithms."
        )
    return f"With 13 targets in 18 places: {right:.4f} nats per token."


@checker
def check_rate_at(answer: Callable) -> str:
    for peak, warmup, steps in ((1.5e-3, 200, 11_000), (2e-4, 10, 110)):

        def rate(
            step: int,
            peak: float = peak,
            warmup: int = warmup,
            steps: int = steps,
        ) -> float:
            return _number(answer(step, peak, warmup, steps), "a learning rate")

        def near(found: float, right: float, peak: float = peak) -> bool:
            return abs(found - right) < 1e-6 * peak

        if near(rate(0), 0):
            raise Mistake(
                "step 0 has the rate 0: it computes a gradient and changes nothing. "
                "The line begins at peak / warmup."
            )
        if not near(rate(0), peak / warmup):
            raise Mistake(
                f"step 0 of a warm-up of {warmup} has the rate {peak / warmup:.2e}, not "
                f"{rate(0):.2e}."
            )
        half = warmup // 2
        if not near(rate(half - 1), peak / 2):
            raise Mistake(
                f"half-way up, in step {half - 1}, the rate is half the peak."
            )
        if not near(rate(warmup), peak):
            raise Mistake(
                f"in step {warmup}, the first after the warm-up, the rate is "
                f"{rate(warmup) / peak:.2%} of the peak: the cosine must begin there, "
                "with all of it, and not in step 0."
            )
        if not near(rate(warmup - 1), peak):
            raise Mistake("the last step of the warm-up has the full rate already.")
        middle = (warmup + steps) // 2
        if rate(steps - 1) < 0:
            raise Mistake("the rate falls below 0: that would climb. Half a cosine.")
        if rate(steps - 1) > 0.05 * peak:
            raise Mistake(
                f"the last step still has the rate {rate(steps - 1):.2e}. The cosine "
                "should have come to nearly nothing by then."
            )
        least = peak * (1 - math.cos(math.pi / (steps - warmup))) / 2
        if rate(steps - 1) < least / 2:
            raise Mistake(
                f"the last step, {steps - 1}, has the rate 0 and changes nothing. The 0 "
                f"belongs to step {steps}, which is never taken."
            )
        if not near(rate(middle), peak / 2):
            raise Mistake(
                f"half-way down, in step {middle}, the rate should be 50 % of the peak, "
                f"not {rate(middle) / peak:.3%}."
            )
        quarter = warmup + (steps - warmup) // 4
        if not near(rate(quarter), peak * (1 + math.sqrt(0.5)) / 2):
            raise Mistake("right at the ends and the middle, but not a cosine between.")
    return "Up along a line, down along half a cosine, for 110 steps and for 11,000."


class _Shared(list):
    """A list that a checker's copy shares, so that it sees what becomes of it."""

    def __deepcopy__(self, memo: dict) -> "_Shared":
        return self


@checker
def check_clip(answer: Callable) -> str:
    torch.manual_seed(0)
    short = [torch.randn(4, 3) * 0.01, torch.randn(5) * 0.01]
    long = [torch.randn(4, 3), 10 * torch.randn(5), torch.zeros(2)]
    for given, most in ((long, 1.0), (long, 0.5), (short, 1.0)):
        norm = torch.cat([g.flatten() for g in given]).norm().item()
        mine = _Shared(g.clone() for g in given)
        found = answer(mine, most)
        if len(mine) != len(given) or not all(map(torch.equal, mine, given)):
            raise Mistake(
                "the gradients you were given have changed: an operation worked in "
                "place, such as mul_ or *=. Leave them as they are."
            )
        if (
            not isinstance(found, (list, tuple))
            or len(found) != len(given)
            or any(not isinstance(f, Tensor) for f in found)
            or any(f.shape != g.shape for f, g in zip(found, given, strict=True))
        ):
            raise Mistake("return a list of tensors, of the shapes of those given.")
        if any(f.data_ptr() == g.data_ptr() for f, g in zip(found, mine, strict=True)):
            raise Mistake(
                f"at length {norm:.3f} and a bound of {most} you hand back the tensors "
                "you were given. Return new ones: the caller may change either."
            )
        flat = _flat(found)
        whole = torch.cat([g.flatten() for g in given])
        right = whole * min(1.0, most / norm)
        if torch.allclose(flat, right, atol=1e-5):
            continue
        if torch.allclose(flat, whole * most / norm, atol=1e-5):
            raise Mistake(
                f"a gradient of length {norm:.3f} was made longer. One that is short "
                "enough stays as it is."
            )
        each = [g * min(1.0, most / max(g.norm().item(), 1e-12)) for g in given]
        if torch.allclose(flat, torch.cat([g.flatten() for g in each]), atol=1e-5):
            raise Mistake(
                "each tensor is cut by itself, which turns the gradient: it points "
                "elsewhere. There is one length, of all numbers together."
            )
        if torch.allclose(flat, whole.clamp(-most, most), atol=1e-5):
            raise Mistake(
                "single numbers are clamped, which turns the gradient. Divide all of "
                "them by the same number."
            )
        if flat.isnan().any():
            raise Mistake("there are NaNs: some tensor of zeros was divided by 0.")
        if math.isclose(flat.norm().item(), min(norm, most), rel_tol=1e-4):
            raise Mistake(
                "the length is right, but the vector points elsewhere. Every number keeps "
                "its sign and its share of the whole."
            )
        raise Mistake(
            f"length {norm:.3f}, at most {most}: yours has length {flat.norm():.3f}; "
            f"it should be {min(norm, most):.3f}, in the same direction."
        )
    return f"Length {norm:.3f} stays; longer ones are cut, and point where they did."


class _UsedModel(PerceiverAR):
    """A small model whose copies have gradients of an earlier step, all 1."""

    def __deepcopy__(self, memo: dict) -> "_UsedModel":
        model = _UsedModel(self.config)
        model.load_state_dict(self.state_dict())
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        return model.eval()


def _small_model() -> PerceiverAR:
    from dataclasses import replace

    torch.manual_seed(0)
    shape = replace(
        PRESETS["tiny"], num_channels=32, num_self_attention_layers=1, init_scale=0.2
    )
    return _UsedModel(shape).eval()


@checker
def check_gradients_in_turns(answer: Callable) -> str:
    from tinyperceiver.dataset.windows import Batch

    model = _small_model()
    tokens = torch.randint(388, (6, 12))
    targets = torch.randint(1, 388, (6, 8))
    targets[2, 3] = 0  # a token like any other
    targets[0, 1:] = targets[1, 2:] = -100  # two short pieces, both in the first turn
    whole = Batch(tokens, targets, None, 4)

    def gradients(parts: list[tuple[Batch, float]]) -> Tensor:
        model.zero_grad()
        for part, weight in parts:
            logits = model(part.tokens, part.prefix_len)
            (
                cross_entropy(
                    logits.flatten(0, 1), part.targets.flatten(), reduction="sum"
                )
                * weight
            ).backward()
        found = torch.cat([p.grad.flatten() for p in model.parameters()])
        model.zero_grad()
        return found

    for rows in (2, 4, 6):
        turns = whole.split(rows)
        count = [int((turn.targets >= 0).sum()) for turn in turns]
        right = gradients([(turn, 1 / sum(count)) for turn in turns])
        found = answer(model, turns)
        if not isinstance(found, (list, tuple)) or not all(
            isinstance(f, Tensor) for f in found
        ):
            raise Mistake("return a list of tensors, one for each parameter.")
        shapes = [p.shape for p in model.parameters()]
        if [f.shape for f in found] != shapes:
            raise Mistake("the shapes, or the order, are not those of the parameters.")
        flat = _flat(found)

        def is_it(other: Tensor, flat: Tensor = flat) -> bool:
            return torch.allclose(flat, other, atol=1e-6, rtol=1e-4)

        if is_it(right):
            continue
        if is_it(right + 1):
            raise Mistake(
                "the model came with gradients of an earlier step, and yours were added "
                "to them. Zero them once, before the first turn."
            )
        n = len(turns)
        if is_it(gradients([(turns[-1], 1 / count[-1])])) or is_it(
            gradients([(turns[-1], 1 / sum(count))])
        ):
            raise Mistake(
                "only the last turn is left: the gradients of the others were zeroed, "
                "or overwritten, on the way."
            )
        means = [(t, 1 / c) for t, c in zip(turns, count, strict=True)]
        if is_it(gradients([(t, w / n) for t, w in means])):
            raise Mistake(
                f"this is a mean of means: turns of {count} targets weigh the same. Each "
                "target should."
            )
        if is_it(gradients(means)):
            raise Mistake(
                f"the means of {n} turns are added up: with more turns the step would "
                "be longer. Divide by the targets of all turns."
            )
        if is_it(gradients([(t, 1.0) for t in turns])):
            raise Mistake(
                "this is the gradient of the sum. Divide by the number of targets."
            )
        with_0 = sum(count) - 1
        no_0 = [
            t._replace(targets=t.targets.where(t.targets != 0, -100)) for t in turns
        ]
        if is_it(gradients([(t, 1 / with_0) for t in turns])) or is_it(
            gradients([(t, 1 / with_0) for t in no_0])
        ):
            raise Mistake(
                "you leave out a target with the id 0, a token like any other. Only -100 "
                "means that there is none."
            )
        places = targets.numel()
        if is_it(gradients([(t, 1 / places) for t in turns])):
            raise Mistake(
                f"you divide by all {places} places; {sum(count)} have a target. That is "
                "what training_step does, so as not to count across processes; here all "
                "turns are at hand, and the task is the mean over targets."
            )
        raise Mistake(f"in turns of {rows} rows the gradient is another one.")
    return "Six rows at once, in two turns and in three: one gradient."


@checker
def check_plan_run(answer: Callable) -> str:
    plans = []
    for hours, pace in ((1.0, 5_000.0), (10.0, 5_000.0), (24.0, 60_000.0)):
        unit = "hour" if hours == 1 else "hours"
        what = f"for {hours:g} {unit} at {pace:,.0f} tokens a second"
        plan = answer(hours, pace)
        if not isinstance(plan, TrainingConfig):
            kind = type(plan).__name__
            raise Mistake(f"return a TrainingConfig; this is a {kind}.")
        budget = int(hours * 3600 * pace)
        tokens = sum(s.steps * s.batch_size * s.num_latents for s in plan.stages)
        if tokens > budget:
            raise Mistake(
                f"{what} there are {budget:,} predicted tokens; the plan takes "
                f"{tokens:,}. Only latents predict: steps x windows x latents."
            )
        if tokens < 0.9 * budget:
            raise Mistake(
                f"{what} the plan uses {tokens / budget:.0%} of the {budget:,} predicted "
                "tokens. The prefix predicts nothing and is not counted."
            )
        sizes = [s.num_latents + s.max_prefix_len for s in plan.stages]
        if len(sizes) < 2 or sorted(sizes) != sizes or sizes[0] == sizes[-1]:
            raise Mistake(f"windows should grow from stage to stage, not {sizes}.")
        if sizes[-1] != plan.model.max_seq_len:
            raise Mistake(
                f"the last stage has windows of {sizes[-1]}, but the model is to be used "
                f"with {plan.model.max_seq_len}: what it never met it cannot do."
            )
        if min(s.steps for s in plan.stages) < 0.1 * plan.steps:
            raise Mistake(
                f"{what} the stages have {[s.steps for s in plan.stages]} steps: each "
                "should have a tenth of them at least, or its windows are hardly met."
            )
        per_step = [s.num_latents * s.batch_size for s in plan.stages]
        if max(per_step) > 2 * min(per_step):
            raise Mistake(
                f"predicted tokens in a step: {per_step}. Keep them within a factor of "
                "2, or the same learning rate means something else in each stage."
            )
        if not 0 < plan.warmup_steps <= 0.1 * plan.steps:
            raise Mistake(
                f"a warm-up of {plan.warmup_steps} of {plan.steps} steps: take some, and "
                "at most a tenth."
            )
        with torch.device("meta"):
            count = PerceiverAR(plan.model).num_parameters
        if count > tokens:
            raise Mistake(
                f"{what} the model has {count:,} parameters for {tokens:,} predicted "
                "tokens: more weights than answers to learn them from. Take at most one "
                "parameter for each token."
            )
        plans.append((count, plan.steps))
    (least, _), (most, steps) = plans[0], plans[-1]
    if most <= least:
        raise Mistake(
            "a day at 60,000 tokens a second gets the model of an hour at 5,000, or a "
            f"smaller one: {most:,} parameters, and {least:,} for the hour."
        )
    return (
        f"From {least:,} parameters in an hour to {most:,}, {steps:,} steps, in a day."
    )
