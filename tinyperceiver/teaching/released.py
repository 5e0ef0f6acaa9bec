"""Chapter 12, the released checkpoint: files to load, figures, checkers of its exercises."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tinyperceiver.checkpoints.released import PEER_SPEEDS, peer_name
from tinyperceiver.model.config import PRESETS, PerceiverConfig
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.teaching.checking import Mistake, checker
from tinyperceiver.teaching.style import BLUE, GREEN, GREY, INK, ORANGE, PINK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "check_arguments_of",
    "check_compare_settings",
    "check_compare_weights",
    "check_own_name",
    "check_which_pairing",
    "draw_faults",
    "draw_key_map",
    "draw_prompts",
    "is_attended",
    "reference_folder",
]


def reference_folder() -> Path:
    """The small reference model in the files of its library, as on the hub."""
    return Path(str(resources.files("tinyperceiver"))) / "assets" / "reference" / "hub"


def is_attended() -> bool:
    """Whether somebody runs this notebook: a front end that could answer a question.

    It is none where a program runs all cells, to test them or to make a page of them.
    """
    try:
        from IPython import get_ipython

        return bool(get_ipython().get_parent()["content"]["allow_stdin"])
    except (ImportError, AttributeError, KeyError, TypeError):
        return False


# Figures


def draw_key_map(
    rows: Sequence[tuple[str, str, str]], title: tuple[str, str]
) -> "Figure":
    """Names of ours and of the peer's, joined by lines, each side in its own order.

    rows: ours, theirs, shape; in the order of ours. title: what both begin with.
    """
    import matplotlib.pyplot as plt

    step, height = 0.27, 0.27 * len(rows) + 0.75
    fig = plt.figure(figsize=(6.4, height), layout="none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 6.4), ylim=(0, height))
    ax.axis("off")
    top = height - 0.62
    theirs = sorted(other for _, other, _ in rows)
    mono = {"family": "monospace", "fontsize": 9, "va": "center"}
    ax.text(0.05, height - 0.2, title[0], fontsize=10, va="center")
    ax.text(4.13, height - 0.2, title[1], fontsize=10, va="center")
    for i, (own, other, shape) in enumerate(rows):
        y, their_y = top - step * i, top - step * theirs.index(other)
        color = ORANGE if "prefix" in own else BLUE
        ax.text(0.05, y, own, **mono)
        ax.text(3.16, y, shape, fontsize=9, va="center", ha="right", color=GREY)
        look = {"color": color, "linewidth": 1.3, "linestyle": "-"}
        ax.plot([3.23, 4.05], [y, their_y], **look | {"alpha": 0.9})
        ax.plot([3.23, 4.05], [y, their_y], "o", color=color, markersize=3)
        ax.text(4.13, their_y, other, **mono)
    return fig


def draw_faults(found: dict[str, tuple[float, int, float]], asked: int) -> "Figure":
    """What three judges say of each fault: logits, continuations, loss.

    Args:
        found: by fault, the largest difference of a logit, tokens of the continuations
            before the first that differs, and the difference of the loss.
        asked: tokens of all continuations.
    """
    import matplotlib.pyplot as plt

    names = list(found)[::-1]
    height = 0.33 * len(names) + 1.0
    fig, axes = plt.subplots(1, 3, figsize=(6.4, height), sharey=True)
    titles = "logits: off by", f"greedy: right\nof {asked} tokens", "loss: off by"
    for which, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        for y, name in enumerate(names):
            value, color = abs(found[name][which]), GREEN if name == "none" else PINK
            marker = "o" if name == "none" else "X"
            value = value if which == 1 else max(value, 2e-7)
            ax.plot(value, y, marker, color=color, markersize=7)
        ax.set_title(title)
        ax.set_ylim(-0.6, len(names) - 0.4)
        ax.grid(axis="y", color=GREY, alpha=0.3, linewidth=0.6)
        if which != 1:
            ax.axvline(5e-5, color=INK, linewidth=0.9, linestyle="--")
            ax.set(xscale="log", xlim=(1e-7, 60))
            ax.set_xticks([1e-6, 1e-3, 1], ["$10^{-6}$", "$10^{-3}$", "1"])
            ax.minorticks_off()
    axes[0].set_yticks(range(len(names)), names)
    axes[1].set_xlim(-0.06 * asked, 1.06 * asked)
    return fig


def draw_prompts(rows: Sequence[tuple[str, int, int, int]]) -> "Figure":
    """What a model reads of each prompt, and how much it adds.

    rows: name, tokens of prefix, latents at first, new tokens.
    """
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 0.36 * len(rows) + 1.0))
    for y, (_, m, l, new) in enumerate(rows):
        wide = {"height": 0.55, "fill": False, "linewidth": 1.4}
        ax.barh(y, m, edgecolor=ORANGE, hatch="//", **wide)
        ax.barh(y, l, left=m, height=0.55, color=BLUE)
        ax.barh(y, new, left=m + l, edgecolor=BLUE, linestyle="--", **wide)
        ax.text(m + l + new + 12, y, f"{l} + {new}", va="center", fontsize=9)
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows])
    ax.invert_yaxis()
    ax.set(xlabel="tokens")
    ax.set_xlim(0, 1.17 * max(m + l + new for _, m, l, new in rows))
    return fig


# Exercises


CARD = {"top_k": None, "top_p": 0.95, "temperature": 1.0, "prefix": 4096, "latents": 1}


@checker
def check_arguments_of(answer: Callable) -> str:
    tiny, released = PRESETS["tiny"], PRESETS["released"]
    narrow = replace(tiny, max_latents=48)
    top_k = CARD | {"top_k": 15, "top_p": None, "latents": 16}
    many = CARD | {"temperature": 0.95, "latents": 64}
    short = CARD | {"prefix": 1024}
    cases = [
        (short, 5000, released, 1025, 1),
        (top_k, 5000, released, 4112, 16),
        (CARD, 5000, tiny, 1025, 1),
        (many, 5000, tiny, 1088, 64),
        (many, 300, tiny, 300, 64),
        (many, 40, tiny, 40, 40),
        (many, 5000, narrow, 2048, 48),
    ]
    for card, length, config, count, num_latents in cases:
        found = answer(card, length, config)
        case = (
            f"prefix {card['prefix']}, latents {card['latents']}, a prompt of {length} "
            f"tokens, a model for {config.max_prefix_len} + {config.max_latents}"
        )
        is_pair = isinstance(found, tuple) and len(found) == 2
        if not is_pair or not isinstance(found[1], dict):
            raise Mistake("return two things: a number of tokens, and a dict.")
        told, arguments = found
        if not arguments.get("do_sample"):
            raise Mistake(
                "without do_sample=True nothing is drawn, and top_k, top_p and "
                "temperature are refused."
            )
        if None in arguments.values():
            raise Mistake("a setting that the card leaves out ('–') is still there.")
        told_latents = arguments.get("num_latents")
        if told_latents != num_latents and length < card["latents"] == told_latents:
            raise Mistake(
                f"{case}: num_latents is {told_latents}. More latents than the prompt "
                "has tokens there cannot be."
            )
        if told_latents != num_latents:
            raise Mistake(
                f"{case}: num_latents should be {num_latents}, not {told_latents}."
            )
        if told == min(card["prefix"], length, config.max_prefix_len) != count:
            raise Mistake(
                f"{case}: {told} tokens are the prefix alone. The latents are tokens of "
                "the prompt, too, its last ones."
            )
        if isinstance(told, int) and told - num_latents > config.max_prefix_len:
            raise Mistake(
                f"{case}: {told} tokens leave a prefix of {told - num_latents}, which "
                "is longer than this model takes."
            )
        if told != count:
            raise Mistake(f"{case}: the model should get {count} tokens, not {told}.")
        names = {"do_sample", "temperature", "num_latents"}
        names |= {name for name in ("top_k", "top_p") if card[name] is not None}
        if wrong := sorted(names ^ arguments.keys()):
            raise Mistake(f"{case}: missing or surplus: {', '.join(wrong)}.")
        for name in names - {"do_sample", "num_latents"}:
            if arguments[name] != card[name]:
                raise Mistake(
                    f"{case}: {name} is {arguments[name]}, the card says {card[name]}."
                )
    return "Seven settings and prompts fit their models, with 40 tokens and with 5,000."


@checker
def check_compare_weights(answer: Callable) -> str:
    a, b, square = torch.zeros(2, 3), torch.ones(4), torch.zeros(5, 5)
    cases = [
        ({"a": a, "b": b}, {"a": a.clone(), "b": b.clone()}, []),
        ({"a": a, "b": b}, {"b": b, "a": a}, []),
        ({"a": a, "b": b}, {"a": a}, ["b (4,) is missing"]),
        ({"a": a}, {"a": a, "c": square}, ["c (5, 5) is surplus"]),
        ({"a": a}, {"a": a.T}, ["a is (3, 2), not (2, 3)"]),
        ({"b": b}, {"b": b + 1}, []),
        ({"d": b[:1]}, {"d": torch.tensor(1.0)}, ["d is (), not (1,)"]),
        (
            {"z": a, "a": a, "m": b},
            {"z": a.T, "n": b, "c": b},
            ["a (2, 3) is missing", "c (4,) is surplus", "m (4,) is missing",
             "n (4,) is surplus", "z is (3, 2), not (2, 3)"],
        ),
    ]  # fmt: skip
    for expected, stored, right in cases:
        found = answer(expected, stored)
        if not isinstance(found, list) or not all(isinstance(s, str) for s in found):
            raise Mistake("return a list of strings, [] if nothing is wrong.")
        if found == right:
            continue
        both = f"expected {_shapes(expected)}, stored {_shapes(stored)}"
        if not right and expected.keys() == stored.keys():
            order = list(expected) != list(stored)
            why = "the order of a dict" if order else "values"
            raise Mistake(
                f"{both}: nothing is wrong, and you say {found}. Names and shapes "
                f"count, {why} do not."
            )
        if sorted(found) == right:
            raise Mistake(f"{both}: all is said, but not sorted by name.")
        if set(found) < set(right):
            left_out = ", ".join(s for s in right if s not in found)
            raise Mistake(f"{both}: you do not say: {left_out}.")
        raise Mistake(f"{both}: you say {found}, which should be {right}.")
    return "Eight pairs of files, and each fault is named, in words and in order."


def _shapes(tensors: dict[str, Tensor]) -> str:
    return ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())


@checker
def check_own_name(answer: Callable) -> str:
    with torch.device("meta"):
        own_names = PerceiverAR(
            PerceiverConfig(num_channels=16, num_self_attention_layers=12)
        ).state_dict()
    for prefix in ("backend_model.", "model."):
        for own in own_names:
            stored = prefix + peer_name(own)
            try:
                found = answer(stored)
            except KeyError as error:
                raise Mistake(
                    f"{stored!r} is one of the names, and raises KeyError({error})."
                ) from None
            if found == own:
                continue
            said = f"{stored!r} is {own!r}; you say {found!r}."
            if not isinstance(found, str):
                raise Mistake(f"a name is a string. {said}")
            if prefix == "model." and answer("backend_" + stored) == own:
                raise Mistake(
                    f"right for the hub, but not for the other prefix: {said}"
                )
            if "layers.10" in own and answer(stored.replace(".10.", ".3.")) == (
                own.replace(".10.", ".3.")
            ):
                raise Mistake(f"right with one digit; layer 10 has two: {said}")
            if ".mlp." in own:
                raise Mistake(
                    f"{said} In their MLP number 0 is the norm, 1 and 3 the products in "
                    "their order."
                )
            if "norm" in own and "hybrid" in own:
                raise Mistake(f"{said} Whose norm is q_norm, the prefix's?")
            raise Mistake(said)
        if answer(prefix + PEER_SPEEDS) != "":
            raise Mistake(
                f"{prefix + PEER_SPEEDS!r} is no weight of ours: return '' for it."
            )
    strangers = (
        "self_attention.0.0.module.gate.weight",
        "lm_head.weight",
        "out_norm.gain",
        "other.inv_freq",
    )
    for unknown in strangers:
        try:
            found = answer("backend_model." + unknown)
        except KeyError:
            continue
        raise Mistake(
            f"{unknown!r} means nothing to us, and you make {found!r} of it. A name that "
            "is not known must raise a KeyError: who passes it on, hides a fault."
        )
    return (
        f"{len(own_names)} names under two prefixes, twelve layers; strangers refused."
    )


def _small(seed: int) -> PerceiverAR:
    torch.manual_seed(seed)
    model = PerceiverAR(
        PerceiverConfig(
            max_seq_len=24,
            max_latents=12,
            num_channels=32,
            num_heads=2,
            num_self_attention_layers=2,
            init_scale=0.3,
        )
    ).eval()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight, 1, 0.3)
    return model


def _pair_halves(model: PerceiverAR) -> PerceiverAR:
    """A model that answers as this one would with pairs (i, i + d / 2)."""
    model = copy.deepcopy(model)
    d = model.config.num_channels // model.config.num_heads
    order = torch.arange(d).view(2, -1).T.flatten()
    for layer in (model.hybrid_layer, model.layers[0]):
        heads = layer.attention.attention
        for product in (heads.query, heads.key):
            rows = product.weight.data.unflatten(0, (-1, d))
            product.weight.data = rows[:, order].flatten(0, 1)
    return model


@checker
def check_which_pairing(answer: Callable) -> str:
    for seed in range(3):
        model = _small(seed)
        halves, other, both = _pair_halves(model), copy.deepcopy(model), None
        other.layers[1].mlp.gelu = nn.GELU("tanh")
        both = _pair_halves(other)
        suspects = {"interleaved": [model], "halves": [halves], "other": [other, both]}
        for right, those in suspects.items():
            for suspect in those:
                lengths = []

                def ask(tokens, prefix_len, suspect=suspect, lengths=lengths):
                    lengths.append(tokens.size(1))
                    with torch.inference_mode():
                        return suspect(tokens, prefix_len).clone()

                found = answer(ask, model)
                if found == right:
                    continue
                if found not in suspects:
                    raise Mistake(
                        "return one of 'interleaved', 'halves' and 'other', "
                        f"not {found!r}."
                    )
                if not lengths:
                    raise Mistake("the stranger is never asked: call ask(...).")
                if max(lengths) == 1:
                    raise Mistake(
                        "you ask about windows of one token. It looks at itself alone, "
                        "at distance 0, where nothing is turned."
                    )
                if right == "other":
                    raise Mistake(
                        f"one of its GELUs is approximate, and you say {found!r}. Its "
                        "likeliest tokens may well be the right ones: compare the "
                        "logits themselves, closely."
                    )
                if right == "halves" and found == "other":
                    raise Mistake(
                        "its pairs are (i, i + d / 2), and you say 'other'. Give your "
                        "copy that pairing wherever queries and keys are turned: in "
                        "the hybrid layer and in layers[0], within each head."
                    )
                raise Mistake(f"it is {right!r}, and you say {found!r}.")
    return "Twelve strangers, told apart by their logits; two were off by a GELU."


@checker
def check_compare_settings(answer: Callable) -> str:
    settings = {"cold": {"temperature": 0.8}, "warm": {"temperature": 1.2, "top_k": 15}}
    for three in (settings, settings | {"plain": {}}):
        calls = {}

        def write(seed, *, temperature=1.0, top_k=None, calls=calls):
            key = (temperature, top_k)
            if seed in calls.setdefault(key, []):
                raise Mistake(
                    f"seed {seed} is used twice for one setting: a copy is no new take."
                )
            calls[key].append(seed)
            return _fake_take(seed, *key)

        found = answer(write, _mean_of, three)
        if not isinstance(found, dict) or found.keys() != three.keys():
            raise Mistake("return a dict with the names of `settings`.")
        seeds = [
            calls.get((options.get("temperature", 1.0), options.get("top_k")), [])
            for options in three.values()
        ]
        if min(map(len, seeds)) < 4:
            raise Mistake(
                f"{min(map(len, seeds))} takes of a setting are too few to know how far "
                "they scatter: write at least four."
            )
        if len({frozenset(own) for own in seeds}) > 1:
            raise Mistake(
                "each setting has seeds of its own. Give all the same seeds, so that "
                "they differ in the setting alone."
            )
        for (name, options), own in zip(three.items(), seeds, strict=True):
            key = options.get("temperature", 1.0), options.get("top_k")
            values = torch.tensor([_mean_of(_fake_take(seed, *key)) for seed in own])
            mean, deviation = values.mean().item(), values.std().item()
            try:
                told, error = (float(value) for value in found[name])
            except (TypeError, ValueError):
                raise Mistake(
                    f"{name!r} should be two numbers, the mean and its standard error; "
                    f"it is {found[name]!r}."
                ) from None
            if not math.isclose(told, mean, rel_tol=1e-4):
                raise Mistake(f"{name!r}: the mean is {mean:.4f}, not {told:.4f}.")
            count = len(own)
            if math.isclose(error, deviation, rel_tol=1e-4):
                raise Mistake(
                    f"{error:.4f} is how far single takes scatter. The standard error "
                    "says how far their mean does: less, the more takes there are."
                )
            biased = deviation * math.sqrt((count - 1) / count) / math.sqrt(count)
            if math.isclose(error, biased, rel_tol=1e-4):
                raise Mistake(
                    f"the standard error is a little small: of {count} takes the mean "
                    f"was computed, too, so divide by {count - 1} within the deviation."
                )
            if not math.isclose(error, deviation / math.sqrt(count), rel_tol=1e-4):
                raise Mistake(
                    f"{name!r}: the standard error is {deviation / math.sqrt(count):.4f}, "
                    f"not {error:.4f}."
                )
    return f"Each setting was heard {len(seeds[0])} times, with the same seeds."


def _fake_take(seed: int, temperature: float, top_k: int | None) -> list[int]:
    random = torch.Generator().manual_seed(1000 * seed + round(100 * temperature))
    return torch.randint(top_k or 388, (20,), generator=random).tolist()


def _mean_of(tokens: Sequence[int]) -> float:
    return sum(tokens) / len(tokens)
