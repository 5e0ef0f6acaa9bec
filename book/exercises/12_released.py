"""Exercises of chapter 12."""

import copy
import re

import numpy as np
import torch

from tinyperceiver.checkpoints.released import PEER_NAMES
from tinyperceiver.teaching.released import (
    check_arguments_of,
    check_compare_settings,
    check_compare_weights,
    check_own_name,
    check_which_pairing,
)


# %% arguments_of: From the card to the call
# Write `arguments_of(card, length, config)`. `card` is a row of the model card as a dict:
# `top_k`, `top_p`, `temperature`, `prefix` and `latents`, None where it says "–". `length` is
# how many tokens the prompt has, `config` the model's `PerceiverConfig`. Return two things: how
# many of the prompt's *last* tokens to give to the model, and a dict of the arguments with which
# `generate` then draws, without those that the card leaves out. Latents come first: as many as the card
# says, but no more than the model takes and the prompt has. The prefix gets what the card
# says, no more than the model takes, of what is left.
# %% stub
def arguments_of(card, length, config):
    pass  # your code


# %% check
check_arguments_of(arguments_of)


# %% solution
def arguments_of(card, length, config):
    latents = min(card["latents"], config.max_latents, length)
    prefix = min(card["prefix"], config.max_prefix_len, length - latents)
    arguments = {"do_sample": True, "num_latents": latents}
    for name in ("temperature", "top_k", "top_p"):
        if card[name] is not None:
            arguments[name] = card[name]
    return prefix + latents, arguments


# %% mistake: do_sample
def arguments_of(card, length, config):
    latents = min(card["latents"], config.max_latents, length)
    prefix = min(card["prefix"], config.max_prefix_len, length - latents)
    names = ("temperature", "top_k", "top_p")
    given = {name: card[name] for name in names if card[name] is not None}
    return prefix + latents, given | {"num_latents": latents}


# %% mistake: longer than this model takes
def arguments_of(card, length, config):
    latents = min(card["latents"], config.max_latents, length)
    prefix = min(card["prefix"], length - latents)
    names = ("temperature", "top_k", "top_p")
    given = {name: card[name] for name in names if card[name] is not None}
    return prefix + latents, given | {"num_latents": latents, "do_sample": True}


# %% mistake: the prefix alone
def arguments_of(card, length, config):
    latents = min(card["latents"], config.max_latents, length)
    count = min(card["prefix"], config.max_prefix_len, length)
    names = ("temperature", "top_k", "top_p")
    given = {name: card[name] for name in names if card[name] is not None}
    return count, given | {"num_latents": latents, "do_sample": True}


# %% mistake: there cannot be
def arguments_of(card, length, config):
    latents = min(card["latents"], config.max_latents)
    count = min(length, min(card["prefix"], config.max_prefix_len) + latents)
    names = ("temperature", "top_k", "top_p")
    given = {name: card[name] for name in names if card[name] is not None}
    return count, given | {"num_latents": latents, "do_sample": True}


# %% mistake: the card leaves out
def arguments_of(card, length, config):
    latents = min(card["latents"], config.max_latents, length)
    prefix = min(card["prefix"], config.max_prefix_len, length - latents)
    given = {name: card[name] for name in ("temperature", "top_k", "top_p")}
    return prefix + latents, given | {"num_latents": latents, "do_sample": True}


# %% compare_weights: What is wrong with this file?
# Write `compare_weights(expected, stored)`. Both are dicts of name to tensor: what a model
# needs, and what a file holds. Return a list of sentences, sorted by name, [] if names and
# shapes agree. The sentences are `"a (2, 3) is missing"`, `"a (2, 3) is surplus"` and, of a
# name that both have, `"a is (3, 2), not (2, 3)"`, where (2, 3) is expected. Shapes are those
# of `tuple(tensor.shape)`; values do not count.
# %% stub
def compare_weights(expected, stored):
    pass  # your code


# %% check
check_compare_weights(compare_weights)


# %% solution
def compare_weights(expected, stored):
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


# %% mistake: you do not say: c (5, 5) is surplus
def compare_weights(expected, stored):
    sentences = []
    for name, tensor in sorted(expected.items()):
        right = tuple(tensor.shape)
        if name not in stored:
            sentences.append(f"{name} {right} is missing")
        elif (found := tuple(stored[name].shape)) != right:
            sentences.append(f"{name} is {found}, not {right}")
    return sentences


# %% mistake: you do not say: a is (3, 2), not (2, 3)
def compare_weights(expected, stored):
    sentences = []
    for name in sorted(expected.keys() | stored.keys()):
        if name not in stored:
            sentences.append(f"{name} {tuple(expected[name].shape)} is missing")
        elif name not in expected:
            sentences.append(f"{name} {tuple(stored[name].shape)} is surplus")
        elif stored[name].numel() != expected[name].numel():
            shapes = tuple(stored[name].shape), tuple(expected[name].shape)
            sentences.append(f"{name} is {shapes[0]}, not {shapes[1]}")
    return sentences


# %% mistake: the order of a dict
def compare_weights(expected, stored):
    sentences = []
    for (name, a), (other, b) in zip(expected.items(), stored.items(), strict=False):
        if name != other:
            sentences += [f"{name} {tuple(a.shape)} is missing"]
            sentences += [f"{other} {tuple(b.shape)} is surplus"]
    return sorted(sentences)


# %% mistake: not sorted by name
def compare_weights(expected, stored):
    def shape(tensor):
        return tuple(tensor.shape)

    missing = [n for n in expected if n not in stored]
    surplus = [n for n in stored if n not in expected]
    both = [n for n in expected if n in stored]
    return [
        *(f"{n} {shape(expected[n])} is missing" for n in missing),
        *(f"{n} {shape(stored[n])} is surplus" for n in surplus),
        *(
            f"{n} is {shape(stored[n])}, not {shape(expected[n])}"
            for n in both
            if shape(stored[n]) != shape(expected[n])
        ),
    ]


# %% own_name: The map, backwards
# Write `own_name(stored)`: our name of a tensor, a string, from its name in one of the peer's
# files. On the hub names begin with `backend_model.`, in a training checkpoint with `model.`;
# both must do. Return `""` for the `inv_freq` that we compute ourselves. A name that means
# nothing to us must raise a `KeyError`. `PEER_NAMES` is at hand. A model may have more than
# ten layers.
# %% stub
def own_name(stored):
    pass  # your code


# %% check
check_own_name(own_name)


# %% solution
def own_name(stored):
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


# %% mistake: the other prefix
def own_name(stored):
    name = stored.removeprefix("backend_model.")
    if name.endswith("inv_freq"):
        return ""
    module, _, kind = name.rpartition(".")
    number = re.search(r"self_attention\.(\d+)\.", module)
    if number:
        module = module.replace(number[1], "{i}", 1)
    backwards = {theirs: ours for ours, theirs in PEER_NAMES.items()}
    ours = backwards.get(module, module)
    return f"{ours.replace('{i}', number[1] if number else '')}.{kind}"


# %% mistake: layer 10 has two
def own_name(stored):
    name = re.sub(r"^(backend_)?model\.", "", stored)
    if name.endswith("inv_freq"):
        return ""
    module, _, kind = name.rpartition(".")
    number = re.search(r"self_attention\.(\d)", module)
    module = re.sub(r"(?<=self_attention\.)\d+", "{i}", module)
    backwards = {theirs: ours for ours, theirs in PEER_NAMES.items()}
    return f"{backwards[module].replace('{i}', number[1] if number else '')}.{kind}"


# %% mistake: 1 and 3 the products
def own_name(stored):
    name = re.sub(r"^(backend_)?model\.", "", stored)
    if name.endswith("inv_freq"):
        return ""
    module, _, kind = name.rpartition(".")
    number = re.search(r"self_attention\.(\d+)\.", module)
    module = re.sub(r"(?<=self_attention\.)\d+", "{i}", module)
    backwards = {theirs: ours for ours, theirs in PEER_NAMES.items()}
    ours = backwards[module].replace("{i}", number[1] if number else "")
    exchanged = {"up": "down", "down": "up"}
    return re.sub(r"\b(up|down)$", lambda part: exchanged[part[0]], ours) + "." + kind


# %% mistake: must raise a KeyError
def own_name(stored):
    name = re.sub(r"^(backend_)?model\.", "", stored)
    if name.endswith("inv_freq"):
        return ""
    module, _, kind = name.rpartition(".")
    number = re.search(r"self_attention\.(\d+)\.", module)
    module = re.sub(r"(?<=self_attention\.)\d+", "{i}", module)
    backwards = {theirs: ours for ours, theirs in PEER_NAMES.items()}
    ours = backwards.get(module, module)
    return f"{ours.replace('{i}', number[1] if number else '')}.{kind}"


# %% mistake: return '' for it
def own_name(stored):
    name = re.sub(r"^(backend_)?model\.", "", stored)
    module, _, kind = name.rpartition(".")
    number = re.search(r"self_attention\.(\d+)\.", module)
    module = re.sub(r"(?<=self_attention\.)\d+", "{i}", module)
    backwards = {theirs: ours for ours, theirs in PEER_NAMES.items()}
    backwards["input_adapter.frq_pos_encoding"] = "speeds"
    return f"{backwards[module].replace('{i}', number[1] if number else '')}.{kind}"


# %% which_pairing: A stranger's pairs
# Somebody has put the same weights into a program of their own, and you get nothing but its
# answers: `ask(tokens, prefix_len)` takes token ids, `(B, n)`, and returns logits,
# `(B, l, V)`. `model` is your own, a small one with those weights (the window is 24 tokens, at
# most 12 of them latents and 12 prefix). Write `which_pairing(ask, model)`: `"interleaved"` if
# the stranger turns the pairs (0, 1), (2, 3), … as we do; `"halves"` if it turns (0, d/2),
# (1, d/2 + 1), …; `"other"` if it does not compute the same in either case. The function
# `pair_halves` above may help. Logits that differ by less than 0.00001 are equal here.
# %% stub
def which_pairing(ask, model):
    pass  # your code


# %% check
check_which_pairing(which_pairing)


# %% solution
def which_pairing(ask, model):
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


# %% mistake: windows of one token
def which_pairing(ask, model):
    tokens = torch.tensor([[60]])
    with torch.inference_mode():
        is_same = torch.allclose(ask(tokens, 0), model(tokens, 0), atol=1e-5)
    return "interleaved" if is_same else "halves"


# %% mistake: likeliest tokens may well be
def which_pairing(ask, model):
    tokens = torch.arange(24)[None]
    with torch.inference_mode():
        logits = ask(tokens, 12)
        is_same = torch.equal(logits.argmax(-1), model(tokens, 12).argmax(-1))
    return "interleaved" if is_same else "halves"


# %% mistake: and in layers[0]
def which_pairing(ask, model):
    d = model.config.num_channels // model.config.num_heads
    order = torch.arange(d).view(2, -1).T.flatten()
    halves = copy.deepcopy(model)
    heads = halves.hybrid_layer.attention.attention
    for product in (heads.query, heads.key):
        rows = product.weight.data.unflatten(0, (-1, d))
        product.weight.data = rows[:, order].flatten(0, 1)
    tokens = torch.arange(24)[None]
    with torch.inference_mode():
        for name, mine in (("interleaved", model), ("halves", halves)):
            if (ask(tokens, 12) - mine(tokens, 12)).abs().max() < 1e-5:
                return name
    return "other"


# %% mistake: never asked
def which_pairing(ask, model):
    return "halves"


# %% compare_settings: Three settings, your prompt
# *Open.* One take of each setting proves nothing. Write
# `compare_settings(write, measure, settings)`. `write(seed, **setting)` returns the tokens of a
# take; `measure(tokens)` makes one number of them; `settings` is a dict of name to setting,
# itself a dict of arguments. Return a dict of name to `(mean, standard error)`, over at least
# four takes of each setting, with the same seeds for all. (The standard error is the standard
# deviation of the values, computed with n - 1, divided by the square root of n.) Then use it: a
# `write` that continues a prompt of yours, a `measure` such as an entry of
# `numbers_of(prompt + take, len(prompt))`, and three settings of which you expect a difference. Say
# beforehand which.
# %% stub
def compare_settings(write, measure, settings):
    pass  # your code


# %% check
check_compare_settings(compare_settings)


# %% solution
def compare_settings(write, measure, settings):
    found = {}
    for name, setting in settings.items():
        values = [measure(write(seed, **setting)) for seed in range(6)]
        error = np.std(values, ddof=1) / np.sqrt(len(values))
        found[name] = (float(np.mean(values)), float(error))
    return found


# %% mistake: same seeds
def compare_settings(write, measure, settings):
    found = {}
    for i, (name, setting) in enumerate(settings.items()):
        values = [measure(write(10 * i + j, **setting)) for j in range(6)]
        found[name] = np.mean(values), np.std(values, ddof=1) / np.sqrt(6)
    return found


# %% mistake: too few
def compare_settings(write, measure, settings):
    return {name: (measure(write(0, **each)), 0.0) for name, each in settings.items()}


# %% mistake: how far single takes scatter
def compare_settings(write, measure, settings):
    found = {}
    for name, setting in settings.items():
        values = [measure(write(seed, **setting)) for seed in range(6)]
        found[name] = np.mean(values), np.std(values, ddof=1)
    return found


# %% mistake: a little small
def compare_settings(write, measure, settings):
    found = {}
    for name, setting in settings.items():
        values = [measure(write(seed, **setting)) for seed in range(6)]
        found[name] = np.mean(values), np.std(values) / np.sqrt(6)
    return found


# %% mistake: a copy is no new take
def compare_settings(write, measure, settings):
    found = {}
    for name, setting in settings.items():
        values = [measure(write(0, **setting)) for _ in range(6)]
        found[name] = np.mean(values), np.std(values, ddof=1) / np.sqrt(6)
    return found
