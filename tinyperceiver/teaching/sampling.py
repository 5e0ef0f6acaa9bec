"""Chapter 11: how the next token is chosen, and what a window does while music is written."""

import html
import json
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tinyperceiver.music.pieces import PIECES, load_piece
from tinyperceiver.music.tokenizer import encode_midi
from tinyperceiver.music.vocabulary import NOTE_OFF, NUM_EVENTS, TIME_SHIFT, VELOCITY
from tinyperceiver.teaching.checking import Mistake, checker
from tinyperceiver.teaching.music import name_of
from tinyperceiver.teaching.records import recorded_numbers
from tinyperceiver.teaching.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PINK,
    interactive,
    numbers_url,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECORD = "runs/tiny/windows.json"


# What was recorded


def measured_windows() -> dict:
    """What `scripts/measure_windows.py` measured of the model that ships."""
    return recorded_numbers(RECORD)


# Figures


def draw_temperatures(
    logits: Tensor, temperatures: Sequence[float], most: int = 24
) -> "Figure":
    """Probabilities of the likeliest tokens at several temperatures: logits (V,)."""
    import matplotlib.pyplot as plt

    order = logits.argsort(descending=True)[:most]
    fig, ax = plt.subplots(figsize=(6.4, 3.4))
    looks = ((GREEN, "^", ":"), (BLUE, "o", "-"), (PINK, "s", "--"))
    for temperature, (color, marker, dashes) in zip(temperatures, looks, strict=True):
        p = (logits / temperature).softmax(-1)[order]
        rest = 1 - float(p.sum())
        label = f"T = {temperature:g}, {rest:.0%} elsewhere"
        ax.plot(p, color=color, marker=marker, ms=4, ls=dashes, label=label)
    names = [name_of(int(token)) for token in order]
    ax.set_xticks(range(most), names, rotation=60, ha="right", rotation_mode="anchor")
    ax.set(ylabel="probability", ylim=(0, None))
    ax.legend()
    return fig


def draw_walk(steps: Sequence[tuple[int, int, int]]) -> "Figure":
    """A row for each step: the window's first token, its prefix and its latents."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 0.5 + 0.17 * len(steps)))
    for y, (first, prefix, latents) in enumerate(steps):
        box = {"height": 0.8, "edgecolor": INK, "linewidth": 0.5}
        for t in range(first + prefix + latents):
            if t < first:
                ax.plot(t, y, ".", color=GREY, ms=3)
            elif t < first + prefix:
                ax.barh(y, 1, left=t - 0.5, color=ORANGE, hatch="///", **box)
            else:
                ax.barh(y, 1, left=t - 0.5, color=BLUE, **box)
    ax.invert_yaxis()
    ends = [sum(step) for step in steps]
    ax.set(xlim=(-0.8, max(ends) + 7), xlabel="token", ylabel="tokens added")
    ax.set_yticks(range(0, len(steps), 4))
    notes, before = [], None
    for y, now in enumerate(steps):
        if before is not None:
            kind = (
                "latents grow" if now[2] > before[2] else
                "read again" if now[2] < before[2] else
                "prefix grows" if now[1] > before[1] else
                "the window slides"
            )  # fmt: skip
            if not notes or notes[-1][1] != kind:
                notes.append((y, kind))
        before = now
    for y, kind in notes:
        ax.text(ends[y] - 0.3, y, kind, va="center", fontsize=9)
    return fig


def draw_memory(
    back: Sequence[int], changes: dict[str, Sequence[float]], edges: dict[str, int]
) -> "Figure":
    """How much the logits change with a token so far back; a logarithmic scale.

    back: tokens back. changes: label -> the change for each; zeros are drawn at the
    bottom. edges: label -> tokens back where a line is drawn.
    """
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 3.2))
    floor = 1e-13
    looks = ((BLUE, "o"), (ORANGE, "x"))
    for (label, change), (color, marker) in zip(changes.items(), looks, strict=True):
        ax.plot(back, np.maximum(change, floor), marker, color=color, ms=4, label=label)
    for label, at in edges.items():
        ax.axvline(at - 0.5, color=GREY, lw=1, ls=":")
        ax.text(at - 0.8, 1e-8, label, rotation=90, ha="right", va="top", fontsize=9)
    ax.set_yscale("log")
    ax.set_yticks([1e-12, 1e-9, 1e-6, 1e-3, 1])
    ax.text(0, floor * 2.5, "zero:", fontsize=9, va="bottom")
    ax.set(xlabel="tokens back", ylabel="change of the logits", ylim=(floor / 4, 60))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return fig


def draw_policies(walk: dict) -> "Figure":
    """Nats above those of refilling, by tokens since window and latents were full."""
    import matplotlib.pyplot as plt

    edges = np.array(walk["edges"])
    fig, ax = plt.subplots(figsize=(6.4, 3.4))
    looks = (
        ("slide less refill", 1, "slide", ORANGE, "s--"),
        ("slide, renormed less refill", 1, "slide, renormed", PINK, "^-."),
        ("refill less fresh", -1, "afresh for each token", BLUE, "o:"),
    )
    for shift, (name, sign, label, color, style) in zip(
        (0, 0, 0.12), looks, strict=True
    ):
        rows = walk["difference"][name]
        bins = [(i, *pair) for i, pair in enumerate(rows) if pair is not None]
        at, mean, error = np.array(bins).T
        ax.errorbar(
            at + shift, sign * mean, 2 * error, fmt=style, color=color, ms=5, capsize=3,
            label=label,
        )  # fmt: skip
    ax.axhline(0, color=GREY, lw=1, ls=":")
    names = ["0", *(f"{a:,}\N{EN DASH}{b:,}" for a, b in pairwise(edges[1:]))]
    ax.set_xticks(
        range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor"
    )
    ax.set(
        xlabel="tokens since window and latents were full",
        ylabel="nats per token above refill",
    )
    ax.set_yticks([0, 0.05, 0.1, 0.15])
    ax.legend()
    return fig


# An interactive picture: what filters leave

TOP_K = (1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 100, NUM_EVENTS)  # the last keeps all
BARS = 40


def filter_board(contexts: dict[str, Tensor]) -> "HTML":  # noqa: F821
    """Sliders over real distributions of the next token.

    Args:
        contexts: name -> logits of the next token, (V,).
    """
    rows = torch.stack([z[:NUM_EVENTS] for z in contexts.values()]).numpy()
    path, outline, sentence = _board(rows[0])
    picture = (
        '<svg role="img" aria-label="Bars: the probabilities of the forty likeliest tokens. '
        'Filled: after the filters. Outlined: before." viewBox="0 0 640 200" '
        'style="display:block;width:100%;max-width:640px;min-width:min(640px,30em)" '
        'fill="currentColor" font-size="15">'
        '<line x1="8" x2="632" y1="176" y2="176" stroke="currentColor"/>'
        '<text x="8" y="194">likeliest</text>'
        f'<text x="632" y="194" text-anchor="end">number {BARS}</text>'
        f'<path class="now" fill="{BLUE}" d="{path}"/>'
        '<path class="before" fill="none" stroke="currentColor" stroke-dasharray="3 2" '
        f'd="{outline}"/></svg>'
        '<p class="says" aria-live="polite" style="margin:.3em 0;min-height:4.6em">'
        f"{html.escape(sentence)}</p>"
    )
    options = "".join(f"<option>{html.escape(name)}</option>" for name in contexts)
    row = 'style="display:block;margin:.2em 0"'
    slide = 'type="range" style="width:12em;max-width:45%;vertical-align:middle"'
    controls = (
        f"<label {row}>after: <select>{options}</select></label>"
        f'<label {row}>temperature <input {slide} name="t" min="0.1" max="3" step="0.05" '
        'value="1"> <output></output></label>'
        f'<label {row}>top-k <input {slide} name="k" min="0" max="{len(TOP_K) - 1}" step="1" '
        f'value="{len(TOP_K) - 1}"> <output></output></label>'
        f'<label {row}>top-p <input {slide} name="p" min="0.05" max="1" step="0.01" '
        'value="1"> <output></output></label>'
        f'<label {row}>min-p <input {slide} name="m" min="0" max="0.5" step="0.01" '
        'value="0"> <output></output></label>'
    )
    data = json.dumps(
        {
            "logits": numbers_url(rows),
            "names": [name_of(token) for token in range(NUM_EVENTS)],
            "topK": TOP_K,
            "bars": BARS,
        },
        separators=(",", ":"),
        ensure_ascii=False,
    )
    return interactive(
        "filter-board",
        picture,
        controls,
        f"const data = {data};\n{_FILTER_BOARD}",
        "Dashed: the model's own distribution. Filled: what is left to draw from. Turn one "
        "knob at a time, then choose another context and see which knob follows it.",
    )


def _board(logits: np.ndarray) -> tuple[str, str, str]:
    """The first state of the picture, at temperature 1 and without filters."""
    z = logits.astype(np.float64)
    p = np.exp(z - z.max())
    p /= p.sum()
    order = np.argsort(-z, kind="stable")
    high = p[order[0]]
    path = "".join(_bar(i, p[token] / high) for i, token in enumerate(order[:BARS]))
    best = ", ".join(f"{name_of(int(b))} ({100 * p[b]:.1f} %)" for b in order[:3])
    nats = float(-(p * np.log(p)).sum())
    sentence = (
        f"{len(z)} of {NUM_EVENTS} tokens are left, which had 100.0 % of the probability. A draw "
        f"surprises by {nats:.2f} nats on average. Likeliest: {best}."
    )
    return path, path, sentence


def _bar(place: int, share: float) -> str:
    tall = min(share, 1) * 160
    return f"M{8 + 15.6 * place:.1f} 176v{-tall:.1f}h12v{tall:.1f}z"


_FILTER_BOARD = """
const [context, says] = [controls.querySelector("select"), picture.querySelector(".says")];
const bytes = Uint8Array.from(atob(data.logits.split(",")[1]), (c) => c.charCodeAt(0));
const V = data.names.length, contexts = [...new Float32Array(bytes.buffer)];
const knob = (name) => controls.querySelector(`input[name=${name}]`);
const softmax = (z) => {
  const high = Math.max(...z), e = z.map((x) => Math.exp(x - high));
  const sum = e.reduce((a, b) => a + b, 0);
  return e.map((x) => x / sum);
};
function bar(place, share) {
  const tall = Math.min(share, 1) * 160;
  return `M${(8 + 15.6 * place).toFixed(1)} 176v${(-tall).toFixed(1)}h12v${tall.toFixed(1)}z`;
}
function draw() {
  const logits = contexts.slice(V * context.selectedIndex, V * (context.selectedIndex + 1));
  const order = logits.map((_, i) => i).sort((a, b) => logits[b] - logits[a] || a - b);
  const before = softmax(logits);
  const T = +knob("t").value, k = data.topK[+knob("k").value];
  const topP = +knob("p").value, minP = +knob("m").value;
  let z = logits.map((x) => x / T);
  const drop = (isOut) => { z = z.map((x, i) => isOut(x, i) ? -Infinity : x); };
  const kth = z[order[Math.min(k, order.length) - 1]];
  drop((x) => x < kth);
  if (topP < 1) {
    const p = softmax(z), out = new Set();
    let sum = 0;
    for (const i of order) { if (sum >= topP) out.add(i); sum += p[i]; }
    drop((_, i) => out.has(i));
  }
  if (minP > 0) { const least = z[order[0]] + Math.log(minP); drop((x) => x < least); }
  const p = softmax(z), left = order.filter((i) => z[i] > -Infinity), high = before[order[0]];
  const most = Math.max(high, p[order[0]]);
  const shown = order.slice(0, data.bars);
  const path = (q) => shown.map((t, i) => q[t] > 0 ? bar(i, q[t] / most) : "").join("");
  picture.querySelector(".now").setAttribute("d", path(p));
  picture.querySelector(".before").setAttribute("d", path(before));
  const had = 100 * left.reduce((sum, i) => sum + before[i], 0);
  const nats = left.reduce((sum, i) => sum - p[i] * Math.log(p[i]), 0);
  const best = left.slice(0, 3).map((t) => `${data.names[t]} (${(100 * p[t]).toFixed(1)} %)`);
  says.textContent = `${left.length} of ${z.length} tokens are left, which had ` +
    `${had.toFixed(1)} % of the probability. A draw surprises by ${Math.abs(nats).toFixed(2)} ` +
    `nats on average. Likeliest: ${best.join(", ")}.`;
  const words = { t: T.toFixed(2), k: k < z.length ? `${k}` : "off",
    p: topP < 1 ? topP.toFixed(2) : "off", m: minP > 0 ? minP.toFixed(2) : "off" };
  for (const [name, text] of Object.entries(words)) {
    knob(name).nextElementSibling.textContent = text;
    knob(name).setAttribute("aria-valuetext", text);
  }
}
controls.addEventListener("input", draw);
draw();
"""


# Checkers of the exercises


def _pair(value, name: str) -> tuple[int, int]:
    try:
        latents, prefix = (int(part) for part in value)
    except (TypeError, ValueError):
        raise Mistake(
            f"{name} is {value!r}, not a pair of numbers: latents, prefix."
        ) from None
    return latents, prefix


@checker
def check_window_after(answer: Callable) -> str:
    """Exercise 1: latents and prefix after some tokens, while the window slides."""
    from tinyperceiver.model.config import PRESETS, PerceiverConfig

    small = PerceiverConfig(
        vocab_size=389, max_seq_len=96, max_latents=32, num_channels=64, num_heads=4,
        num_self_attention_layers=3,
    )  # fmt: skip
    asked = 0
    for config in (small, PRESETS["tiny"], PRESETS["released"]):
        window, full = config.max_seq_len, config.max_latents
        most = config.max_prefix_len
        for n, first in (
            (1, 1),
            (40, 8),
            (90, 30),
            (window, full),
            (most, 1),
            (20, 32),
        ):
            if n - first > most or first > full:
                continue
            for k in (0, 1, full - first, full - first + 1, full, window, 3 * window):
                if k < 0:
                    continue
                case = (
                    f"{n} tokens, num_latents {first}, window {window}/{full}, k = {k}"
                )
                found = _pair(answer(n, first, config, k), f"the answer for {case}")
                start = min(first, n)
                latents = min(start + k, full)
                prefix = min(n + k - latents, most)
                if found == (latents, prefix):
                    asked += 1
                    continue
                if found == (prefix, latents):
                    raise Mistake(f"for {case}: latents come first, then the prefix.")
                if k == 0 and found[0] > n:
                    raise Mistake(
                        f"for {case}: {found[0]} latents of {n} tokens. A prompt has no more "
                        "latents than tokens."
                    )
                if found == (latents, n - start):
                    raise Mistake(
                        f"for {case}: {found[1]} tokens of prefix. When the latents are full, "
                        "what was the oldest latent has to go somewhere."
                    )
                if found == (start + k, n - start):
                    raise Mistake(
                        f"for {case}: {found[0]} latents, and {full} are the most."
                    )
                if found[1] > most:
                    raise Mistake(
                        f"for {case}: a prefix of {found[1]}, and {most} are the most: then the "
                        "left-most token leaves."
                    )
                if found[0] < latents and found[0] + found[1] == latents + prefix:
                    raise Mistake(
                        f"for {case}: the window is right and the parts are not. Which grows "
                        "first, the latents or the prefix?"
                    )
                raise Mistake(
                    f"for {case}: you say {found}, and it is {(latents, prefix)}."
                )
    return f"{asked} windows of three models."


def _kept(answer: Callable, logits: Tensor, *args) -> Tensor:
    found = answer(logits, *args)
    if not isinstance(found, Tensor):
        raise Mistake(f"it returns a {type(found).__name__}, not a tensor of logits.")
    if found.shape != logits.shape:
        raise Mistake(
            f"logits of shape {tuple(logits.shape)} come back as {tuple(found.shape)}: every "
            "token keeps its place."
        )
    if found.isnan().any():
        raise Mistake("there is NaN among the logits: is 0 times infinity somewhere?")
    is_kept = found > float("-inf")
    if not torch.equal(found[is_kept], logits[is_kept]):
        raise Mistake("logits that stay must stay as they are; the others are -inf.")
    return is_kept


@checker
def check_keep_typical(answer: Callable) -> str:
    """Exercise 2: tokens whose surprise is near the average one."""
    p = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05])
    shuffled = torch.tensor([3, 0, 4, 1, 2])
    random = torch.Generator().manual_seed(0)
    cases = [(p.log()[shuffled], x) for x in (0.1, 0.3, 0.5, 0.9, 0.99)]
    cases += [
        (3 * torch.randn(50, generator=random) + 7, share)
        for share in (0.2, 0.5, 0.8, 0.95)
    ]
    for logits, share in cases:
        found = _kept(answer, logits, share)
        q = logits.softmax(-1)
        surprise = -q.log()
        mean = (q * surprise).sum()
        right = _nearest((surprise - mean).abs(), q, share)
        if torch.equal(found, right):
            continue
        what = f"for probabilities {[round(x, 2) for x in q.tolist()[:5]]} ... and p = {share}"
        if torch.equal(found, _nearest(-q, q, share)):
            raise Mistake(
                f"{what}: that is top-p, which begins with the likeliest. Begin with the token "
                "whose surprise is nearest to the mean surprise."
            )
        if torch.equal(found, _nearest((surprise - surprise.mean()).abs(), q, share)):
            raise Mistake(
                f"{what}: the mean surprise is weighted: a token counts by its probability."
            )
        if not found.any():
            raise Mistake(
                f"{what}: nothing is kept. The token that crosses p belongs to the set."
            )
        if (found & ~right).sum() == 0:
            raise Mistake(
                f"{what}: the tokens kept have {q[found].sum():.2f} together, less than p. The "
                "one that crosses p belongs to the set."
            )
        if torch.equal(found, _nearest((logits - mean).abs(), q, share)):
            raise Mistake(
                f"{what}: logits are no log-probabilities before log_softmax."
            )
        raise Mistake(
            f"{what}: {int(found.sum())} tokens are kept, and it should be {int(right.sum())}."
        )
    with_hole = torch.tensor([2.0, float("-inf"), 1.0, 0.0])
    if _kept(answer, with_hole, 0.9)[1]:
        raise Mistake("a token that was forbidden before, with -inf, is allowed again.")
    holes = 3 * torch.randn(12, generator=random)
    holes[[1, 4, 9]] = float("-inf")
    q = holes.softmax(-1)
    surprise = -holes.log_softmax(-1)
    mean = (q * surprise.clamp(max=1e9)).sum()
    if not torch.equal(
        _kept(answer, holes, 0.5), _nearest((surprise - mean).abs(), q, 0.5)
    ):
        raise Mistake(
            "where some logits are -inf already, others are kept than without these tokens: 0 "
            "times infinity is NaN, and they must add nothing to the mean surprise."
        )
    flat = torch.stack((cases[-1][0], cases[-1][0] / 3))
    if not torch.equal(_kept(answer, flat, 0.5)[1], _kept(answer, flat[1], 0.5)):
        raise Mistake(
            "a row gets another result among others than alone: each has a mean of its own."
        )
    both = torch.stack((cases[0][0], cases[0][0].flip(0)))
    if not torch.equal(
        _kept(answer, both, 0.5)[1].flip(0), _kept(answer, both[0], 0.5)
    ):
        raise Mistake(
            "rows of (B, V) must be filtered each by itself: use the last axis."
        )
    sure = torch.tensor([0.9, 0.05, 0.05]).log()
    lost = not _kept(answer, cases[0][0], 0.1)[shuffled.argsort()[0]]
    assert lost and _kept(answer, sure, 0.5)[0]
    return "Five shuffled probabilities and fifty random ones; the likeliest may be left out."


def _nearest(order_by: Tensor, p: Tensor, share: float) -> Tensor:
    order = order_by.argsort(stable=True)
    before = p[order].cumsum(-1) - p[order]
    kept = torch.zeros_like(p, dtype=torch.bool)
    kept[order[before < share - 1e-6]] = True
    return kept


@checker
def check_few_keys(answer: Callable) -> str:
    """Exercise 3: a grammar's mask for a player with few fingers."""
    velocity, strokes = slice(VELOCITY, NUM_EVENTS), slice(0, NOTE_OFF)
    for keys, most in (
        ((), 2),
        ((60,), 2),
        ((60, 64), 2),
        ((60, 64, 67), 2),
        ((40, 50, 60), 4),
    ):
        is_down = np.zeros(NOTE_OFF, dtype=bool)
        is_down[list(keys)] = True
        allowed = np.zeros(NUM_EVENTS + 1, dtype=bool)
        allowed[strokes] = ~is_down
        allowed[NOTE_OFF:TIME_SHIFT] = is_down
        allowed[TIME_SHIFT:NUM_EVENTS] = True
        given = allowed.copy()
        found = answer(given, is_down, most)
        case = f"with {len(keys)} keys down and at most {most}"
        if not isinstance(found, np.ndarray) or found.dtype != bool:
            raise Mistake("return an array of bool, as `allowed` is.")
        if found.shape != allowed.shape:
            raise Mistake(f"the shape is {found.shape}, not {allowed.shape}.")
        full = len(keys) >= most
        if not full and not np.array_equal(found, allowed):
            raise Mistake(
                f"{case}, there is room for one more: nothing more is forbidden."
            )
        if full and found[strokes].any():
            raise Mistake(f"{case}, a key may still be struck.")
        if full and found[velocity].any():
            raise Mistake(
                f"{case}, a velocity may be written. After it only a stroke is allowed, and "
                "none is: dead end."
            )
        if full and not np.array_equal(
            found[NOTE_OFF:VELOCITY], allowed[NOTE_OFF:VELOCITY]
        ):
            raise Mistake(
                f"{case}, waits and releases that were allowed no longer are."
            )
        if found[NUM_EVENTS]:
            raise Mistake("padding is allowed, which was not: only take away.")
        after = np.zeros_like(allowed)
        after[strokes] = ~is_down  # after a velocity
        found = answer(after.copy(), is_down, most)
        if not full and not np.array_equal(found, after):
            raise Mistake(
                f"{case}, after a velocity, something else than a stroke is allowed."
            )
    return "Five hands; a full one may wait and release, and writes no velocity."


@cache
def _asked() -> tuple[Tensor, Tensor]:
    """Logits before tokens of the shipped pieces, without padding, and these tokens."""
    from tinyperceiver.model.perceiver_ar import PerceiverAR

    model = PerceiverAR.from_pretrained("tiny")
    rows, targets = [], []
    for name in PIECES:
        tokens = torch.tensor(encode_midi(load_piece(name))[:513])
        with torch.inference_mode():
            rows.append(model(tokens[None, :-1], 0)[0, 128:, :NUM_EVENTS])
        targets.append(tokens[129:])
    return torch.cat(rows).clone(), torch.cat(targets)


@checker
def check_my_filter(answer: Callable) -> str:
    """Exercise 4, open: few tokens left, and seldom the real one among those cut."""
    logits, targets = _asked()
    kept = _kept(answer, logits)
    best = logits.argmax(-1, keepdim=True)
    if not torch.equal(_kept(answer, logits[:1]), kept[:1]):
        raise Mistake("a row's result depends on the other rows of the batch.")
    if not kept.gather(1, best).all():
        raise Mistake(
            "somewhere the likeliest token is cut: a filter cuts the tail, and something "
            "must be left to draw from."
        )
    forbidden = 1 - kept.gather(1, targets[:, None]).double().mean().item()
    left = kept.sum(-1).double().mean().item()
    if forbidden > 0.03:
        raise Mistake(
            f"{forbidden:.2%} of the composers' tokens are cut, more than 3 %; {left:.2f} "
            "tokens are left on average."
        )
    if left > 11.8:
        raise Mistake(
            f"{left:.2f} tokens are left on average, more than 11.8; {forbidden:.2%} of the "
            "composers' are cut. Where the model is sure, what do rare tokens cost you? And "
            "where it is not?"
        )
    return f"{left:.1f} tokens are left on average, and {forbidden:.1%} of the composers' are cut."
