"""Chapter 12: the exercises on the released checkpoint."""

import copy
import functools
import math
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from tinyperceiver.checkpoints.released import PEER_NAMES, PEER_SPEEDS, peer_name
from tinyperceiver.model.config import PRESETS, PerceiverConfig
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.teaching.checking import Case, Mistake, exercise

__all__ = [
    "arguments_of",
    "compare_settings",
    "compare_weights",
    "own_name",
    "which_pairing",
]

_CARD = {"top_k": None, "top_p": 0.95, "temperature": 1.0, "prefix": 4096, "latents": 1}


def _calls():
    """Rows of the card, lengths of prompts, and models."""
    tiny, released = PRESETS["tiny"], PRESETS["released"]
    top_k = _CARD | {"top_k": 15, "top_p": None, "latents": 16}
    many = _CARD | {"temperature": 0.95, "latents": 64}
    yield _CARD | {"prefix": 1024}, 5000, released
    yield top_k, 5000, released
    yield _CARD, 5000, tiny
    for length in (5000, 300, 40):
        yield many, length, tiny
    yield many, 5000, replace(tiny, max_latents=48)


@exercise(
    "From the card to the call",
    cases=_calls,
    returns="two things: a number of tokens, and a dict",
    about=lambda got, expected, card, length, config: (
        f"prefix {card['prefix']}, latents {card['latents']}, a prompt of {length} tokens, a model "
        f"for {config.max_prefix_len} + {config.max_latents}:"
    ),
    wrong="it should be {expected}, and is {got}.",
    praise="Seven settings and prompts fit their models, with 40 tokens and with 5,000.",
)
def arguments_of(card, length, config):
    """
    Write `arguments_of(card, length, config)`. `card` is a row of the model card as a dict:
    `top_k`, `top_p`, `temperature`, `prefix` and `latents`, None where it says "–". `length` is how
    many tokens the prompt has, `config` the model's `PerceiverConfig`. Return two things: how many
    of the prompt's *last* tokens to give to the model, and a dict of the arguments with which
    `generate` then draws, without those that the card leaves out. Latents come first: as many as
    the card says, but no more than the model takes and the prompt has. The prefix gets what the
    card says, no more than the model takes, of what is left.
    """
    latents = min(card["latents"], config.max_latents, length)
    prefix = min(card["prefix"], config.max_prefix_len, length - latents)
    arguments = {"do_sample": True, "num_latents": latents}
    for name in ("temperature", "top_k", "top_p"):
        if card[name] is not None:
            arguments[name] = card[name]
    return prefix + latents, arguments


arguments_of.mistakes |= {
    "without do_sample=True nothing is drawn, and top_k, top_p and temperature are refused.": {
        '"do_sample": True, ': ""
    },
    "a setting that the card leaves out ('–') is still there.": {"card[name] is not None": "True"},
    "{got[0]} tokens are the prefix alone. The latents are tokens of the prompt, too, its last "
    "ones.": {"length - latents": "length", "prefix + latents": "prefix"},
}


@arguments_of.diagnose
def _(got, expected, card, length, config):
    told, latents = got[0], got[1].get("num_latents", 0)
    right = expected[1]["num_latents"]
    if length < latents:
        return f"num_latents is {latents}. More latents than the prompt has tokens there cannot be."
    if latents != right:
        return f"num_latents should be {right}, not {latents}."
    if told - latents > config.max_prefix_len:
        return (
            f"{told} tokens leave a prefix of {told - latents}, which is longer than this model "
            "takes."
        )


arguments_of.caught |= {
    "longer than this model takes": {"config.max_prefix_len, ": ""},
    "there cannot be": {"config.max_latents, length": "config.max_latents"},
    "num_latents should be 48": {"config.max_latents, ": ""},
}


def _files():
    """What a model needs, and what a file holds."""
    a, b, square = torch.zeros(2, 3), torch.ones(4), torch.zeros(5, 5)
    yield {"a": a, "b": b}, {"a": a.clone(), "b": b.clone()}
    yield {"a": a, "b": b}, {"b": b, "a": a}
    yield {"a": a, "b": b}, {"a": a}
    yield {"a": a}, {"a": a, "c": square}
    yield {"a": a}, {"a": a.T}
    yield {"b": b}, {"b": b + 1}
    yield {"d": b[:1]}, {"d": torch.tensor(1.0)}
    yield {"z": a, "a": a, "m": b}, {"z": a.T, "n": b, "c": b}


def _both(got, right, *files):
    shapes = (
        ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        for tensors in files
    )
    return "expected {}, stored {}:".format(*shapes)


@exercise(
    "What is wrong with this file?",
    cases=_files,
    returns="a list of strings, [] if nothing is wrong",
    about=_both,
    wrong="you say {got}, which should be {expected}.",
    praise="Eight pairs of files, and each fault is named, in words and in order.",
)
def compare_weights(expected, stored):
    """
    Write `compare_weights(expected, stored)`. Both are dicts of name to tensor: what a model needs,
    and what a file holds. Return a list of sentences, sorted by name, [] if names and shapes agree.
    The sentences are `"a (2, 3) is missing"`, `"a (2, 3) is surplus"` and, of a name that both
    have, `"a is (3, 2), not (2, 3)"`, where (2, 3) is expected. Shapes are those of
    `tuple(tensor.shape)`; values do not count.
    """
    sentences = []
    for name in sorted(expected.keys() | stored.keys()):
        right, found = (
            tuple(tensors[name].shape) if name in tensors else None
            for tensors in (expected, stored)
        )
        # None is for an absent tensor: () is the shape of a single number.
        if found is None:
            sentences.append(f"{name} {right} is missing")
        elif right is None:
            sentences.append(f"{name} {found} is surplus")
        elif found != right:
            sentences.append(f"{name} is {found}, not {right}")
    return sentences


@compare_weights.diagnose
def _(got, right, expected, stored):
    if not all(isinstance(sentence, str) for sentence in got):
        return "return a list of strings, [] if nothing is wrong."
    if not right and expected.keys() == stored.keys():
        why = "the order of a dict" if list(expected) != list(stored) else "values"
        return f"nothing is wrong, and you say {got}. Names and shapes count, {why} do not."
    if sorted(got) == right:
        return "all is said, but not sorted by name."
    if set(got) < set(right):
        return f"you do not say: {', '.join(s for s in right if s not in got)}."


compare_weights.caught |= {
    "you do not say: c (5, 5) is surplus": {"expected.keys() | stored.keys()": "expected"},
    "you do not say: a is (3, 2), not (2, 3)": {
        "elif found != right": "elif math.prod(found) != math.prod(right)"
    },
    "not sorted by name": {
        "sorted(expected.keys() | stored.keys())": "[*stored, *(n for n in expected if n not in "
        "stored)]"
    },
    "values do not": {"elif found != right": "elif not torch.equal(stored[name], expected[name])"},
}


@compare_weights.catch("the order of a dict")
def _(expected, stored):
    pairs = zip(expected, stored, strict=False)
    return [f"{name} {tuple(expected[name].shape)} is missing" for name, b in pairs if name != b]


@functools.cache
def _own_names() -> list[str]:
    config = PerceiverConfig(num_channels=16, num_self_attention_layers=12)
    with torch.device("meta"):
        return list(PerceiverAR(config).state_dict())


def _names():
    """Names in a file, and what a wrong answer did not think of."""
    for prefix in ("backend_model.", "model."):
        for own in _own_names():
            hint = (
                "It is right for the hub, but not for the other prefix."
                if prefix == "model."
                else "Right with one digit; layer 10 has two."
                if "layers.10" in own
                else "In their MLP number 0 is the norm, 1 and 3 the products in their order."
                if ".mlp." in own
                else "Whose norm is q_norm, the prefix's?"
                if "norm" in own and "hybrid" in own
                else ""
            )
            yield Case(prefix + peer_name(own), wrong=hint)
        yield Case(prefix + PEER_SPEEDS, wrong="It is no weight of ours: return '' for it.")


@exercise(
    "The map, backwards",
    cases=_names,
    returns="a name, a string",
    about="{stored!r} is {expected!r}; you say {got!r}.",
)
def own_name(stored):
    """
    Write `own_name(stored)`: our name of a tensor, a string, from its name in one of the peer's
    files. On the hub names begin with `backend_model.`, in a training checkpoint with `model.`;
    both must do. Return `""` for the `inv_freq` that we compute ourselves. A name that means
    nothing to us must raise a `KeyError`. `PEER_NAMES` is at hand. A model may have more than ten
    layers.
    """
    # Only at the beginning: "model." stands inside of "backend_model." as well.
    name = re.sub(r"^(backend_)?model\.", "", stored)
    if name == "input_adapter.frq_pos_encoding.inv_freq":
        return ""
    module, _, kind = name.rpartition(".")
    if kind not in ("weight", "bias"):
        raise KeyError(stored)
    number = re.match(r"self_attention\.(\d+)\.", module)
    if number:  # only the first number is a layer's; in an MLP there are others
        module = module.replace(number[1], "{i}", 1)
    backwards = {theirs: ours for ours, theirs in PEER_NAMES.items()}
    ours = backwards[module]  # raises a KeyError for a stranger
    return f"{ours.format(i=number[1]) if number else ours}.{kind}"


@own_name.judge
def _(answer):
    for unknown in (
        "self_attention.0.0.module.gate.weight",
        "lm_head.weight",
        "out_norm.gain",
        "other.inv_freq",
    ):
        try:
            found = answer("backend_model." + unknown)
        except KeyError:
            continue
        raise Mistake(
            f"{unknown!r} means nothing to us, and you make {found!r} of it. A name that is not "
            "known must raise a KeyError: who passes it on, hides a fault."
        )
    return f"{len(_own_names())} names under two prefixes, twelve layers; strangers refused."


own_name.caught |= {
    "the other prefix": {
        "(backend_)?": "backend_",
        "backwards[module]": "backwards.get(module, module)",
    },
    "layer 10 has two": {"i=number[1]": "i=number[1][0]"},
    "1 and 3 the products": {
        "= backwards[module]": "= backwards[module].replace('mlp.up', 'mlp.down')"
    },
    "must raise a KeyError": {"backwards[module]": "backwards.get(module, module)"},
    "return '' for it": {'return ""': 'return "speeds"'},
}


# Twelve strangers: three models, their pairs either way, their GELU either way


def _small(seed: int) -> PerceiverAR:
    torch.manual_seed(seed)
    sizes = {"max_seq_len": 24, "max_latents": 12, "num_channels": 32, "num_heads": 2}
    model = PerceiverAR(PerceiverConfig(**sizes, num_self_attention_layers=2, init_scale=0.3))
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight, 1, 0.3)
    return model.eval()


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


@exercise(
    "A stranger's pairs",
    returns="one of 'interleaved', 'halves' and 'other'",
    praise="Twelve strangers, told apart by their logits; two were off by a GELU.",
)
def which_pairing(ask, model):
    """
    Somebody has put the same weights into a program of their own, and you get nothing but its
    answers: `ask(tokens, prefix_len)` takes token ids, `(B, n)`, and returns logits, `(B, l, V)`.
    `model` is your own, a small one with those weights (the window is 24 tokens, at most 12 of them
    latents and 12 prefix). Write `which_pairing(ask, model)`: `"interleaved"` if the stranger turns
    the pairs (0, 1), (2, 3), … as we do; `"halves"` if it turns (0, d/2), (1, d/2 + 1), …;
    `"other"` if it does not compute the same in either case. The function `pair_halves` above may
    help. Logits that differ by less than 0.00001 are equal here.
    """
    d = model.config.num_channels // model.config.num_heads
    order = torch.arange(d).view(2, -1).T.flatten()
    halves = copy.deepcopy(model)  # the model itself stays as it is
    for layer in (halves.hybrid_layer, halves.layers[0]):  # where there is a rotation
        heads = layer.attention.attention
        for product in (heads.query, heads.key):
            rows = product.weight.data.unflatten(0, (-1, d))  # (H, d, D)
            product.weight.data = rows[:, order].flatten(0, 1)
    # Many tokens: at distance 0 nothing is turned.
    tokens = torch.randint(388, (1, 24), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for name, mine in (("interleaved", model), ("halves", halves)):
            if (ask(tokens, 12) - mine(tokens, 12)).abs().max() < 1e-5:
                return name
    return "other"


@which_pairing.judge
def _(answer):
    for seed in range(3):
        model = _small(seed)
        other = copy.deepcopy(model)
        other.layers[1].mlp.gelu = nn.GELU("tanh")
        for right, suspect in (
            ("interleaved", model),
            ("halves", _pair_halves(model)),
            ("other", other),
            ("other", _pair_halves(other)),
        ):
            lengths = []

            @torch.inference_mode()
            def ask(tokens, prefix_len, suspect=suspect, lengths=lengths):
                lengths.append(tokens.size(1))
                return suspect(tokens, prefix_len).clone()

            found = which_pairing.expect(answer(ask, model), right)
            if found == right:
                continue
            if found not in ("interleaved", "halves", "other"):
                raise Mistake(f"return one of 'interleaved', 'halves' and 'other', not {found!r}.")
            if not lengths:
                raise Mistake("the stranger is never asked: call ask(...).")
            if max(lengths) == 1:
                raise Mistake(
                    "you ask about windows of one token. It looks at itself alone, at distance 0, "
                    "where nothing is turned."
                )
            if right == "other":
                raise Mistake(
                    f"one of its GELUs is approximate, and you say {found!r}. Its likeliest tokens "
                    "may well be the right ones: compare the logits themselves, closely."
                )
            if (right, found) == ("halves", "other"):
                raise Mistake(
                    "its pairs are (i, i + d / 2), and you say 'other'. Give your copy that "
                    "pairing wherever queries and keys are turned: in the hybrid layer and in "
                    "layers[0], within each head."
                )
            raise Mistake(f"it is {right!r}, and you say {found!r}.")


which_pairing.caught |= {
    "windows of one token": {
        "(1, 24)": "(1, 1)",
        "ask(tokens, 12)": "ask(tokens, 0)",
        "mine(tokens, 12)": "mine(tokens, 0)",
    },
    "likeliest tokens may well be": {"1e-5": "1e-1"},
    "and in layers[0]": {"(halves.hybrid_layer, halves.layers[0])": "(halves.hybrid_layer,)"},
    "never asked": lambda ask, model: "halves",
}


@exercise("Three settings, your prompt", returns="a dict with the names of `settings`")
def compare_settings(write, measure, settings):
    """
    *Open.* One take of each setting proves nothing. Write
    `compare_settings(write, measure, settings)`. `write(seed, **setting)` returns the tokens of a
    take; `measure(tokens)` makes one number of them; `settings` is a dict of name to setting,
    itself a dict of arguments. Return a dict of name to `(mean, standard error)`, over at least
    four takes of each setting, with the same seeds for all. (The standard error is the standard
    deviation of the values, computed with n - 1, divided by the square root of n.) Then use it: a
    `write` that continues a prompt of yours, a `measure` such as an entry of
    `numbers_of(prompt + take, len(prompt))`, and three settings of which you expect a difference.
    Say beforehand which.
    """
    found = {}
    for name, setting in settings.items():
        values = [measure(write(seed, **setting)) for seed in range(6)]
        error = np.std(values, ddof=1) / np.sqrt(len(values))
        found[name] = (float(np.mean(values)), float(error))
    return found


@compare_settings.judge
def _(answer):
    settings = {"cold": {"temperature": 0.8}, "warm": {"temperature": 1.2, "top_k": 15}}
    for three in (settings, settings | {"plain": {}}):
        seeds = {tuple(setting.items()): [] for setting in three.values()}

        def write(seed, seeds=seeds, **setting):
            used = seeds.setdefault(tuple(setting.items()), [])
            if seed in used:
                raise Mistake(f"seed {seed} is used twice for one setting: a copy is no new take.")
            used.append(seed)
            return _fake_take(seed, **setting)

        example = dict.fromkeys(three, (0.0, 0.0))
        found = compare_settings.expect(answer(write, _mean_of, three), example)
        if found.keys() != three.keys():
            raise Mistake("return a dict with the names of `settings`.")
        if (fewest := min(map(len, seeds.values()))) < 4:
            raise Mistake(
                f"{fewest} takes of a setting are too few to know how far they scatter: write at "
                "least four."
            )
        if len({frozenset(own) for own in seeds.values()}) > 1:
            raise Mistake(
                "each setting has seeds of its own. Give all the same seeds, so that they differ "
                "in the setting alone."
            )
        for (name, setting), own in zip(three.items(), seeds.values(), strict=True):
            _judge_error(
                name, *found[name], [_mean_of(_fake_take(seed, **setting)) for seed in own]
            )
    return f"Each setting was heard {len(own)} times, with the same seeds."


def _judge_error(name, told, error, values):
    """Judge the mean and the standard error that an answer tells of a setting's values."""
    count, mean, deviation = len(values), np.mean(values), np.std(values, ddof=1)
    if not math.isclose(told, mean, rel_tol=1e-4):
        raise Mistake(f"{name!r}: the mean is {mean:.4f}, not {told:.4f}.")
    if math.isclose(error, deviation, rel_tol=1e-4):
        raise Mistake(
            f"{error:.4f} is how far single takes scatter. The standard error says how far their "
            "mean does: less, the more takes there are."
        )
    if math.isclose(error, np.std(values) / math.sqrt(count), rel_tol=1e-4):
        raise Mistake(
            f"the standard error is a little small: of {count} takes the mean was computed, too, "
            f"so divide by {count - 1} within the deviation."
        )
    if not math.isclose(error, deviation / math.sqrt(count), rel_tol=1e-4):
        raise Mistake(
            f"{name!r}: the standard error is {deviation / math.sqrt(count):.4f}, not {error:.4f}."
        )


def _fake_take(seed: int, temperature: float = 1.0, top_k: int = 388) -> list[int]:
    random = torch.Generator().manual_seed(1000 * seed + round(100 * temperature))
    return torch.randint(top_k, (20,), generator=random).tolist()


def _mean_of(tokens: Sequence[int]) -> float:
    return sum(tokens) / len(tokens)


compare_settings.caught |= {
    "same seeds": {"in range(6)": "in range(10 * len(found), 10 * len(found) + 6)"},
    "too few": {"range(6)": "range(3)"},
    "how far single takes scatter": {" / np.sqrt(len(values))": ""},
    "a little small": {", ddof=1": ""},
    "a copy is no new take": {"write(seed": "write(0"},
    "the mean is": {"np.mean": "np.median"},
    "the standard error is": {"np.sqrt(len(values))": "len(values)"},
}
