"""Exercises of chapter 7."""

from dataclasses import replace

import torch

from tinyperceiver.model.attention import CausalSelfAttention
from tinyperceiver.model.config import PerceiverConfig
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.music.vocabulary import PAD
from tinyperceiver.teaching.decoder import (
    check_count_parameters,
    check_design,
    check_inputs_and_targets,
    check_post_norm_layer,
    check_stop_early,
)


# %% count_parameters: Count without building
# Write `count_parameters(config)`: the number of parameters of a `PerceiverAR` of that
# shape, an `int`, from the fields of the configuration alone: arithmetic, no model. You need
# `vocab_size`, `num_channels`, `num_self_attention_layers` and the two widening factors; a
# square product has $D^2$ numbers, a norm $2D$. One product has a bias: see chapter 6.
# %% stub
def count_parameters(config):
    pass  # your code


# %% check
check_count_parameters(count_parameters)


# %% solution
def count_parameters(config):
    D = config.num_channels
    # Four square products and a norm; two products and a norm.
    hybrid = 4 * D**2 + 2 * D
    hybrid += D + 2 * D  # a bias and the prefix's own norm, which no other layer has
    hybrid += 2 * config.cross_attention_widening_factor * D**2 + 2 * D
    layer = 4 * D**2 + 2 * D
    layer += 2 * config.self_attention_widening_factor * D**2 + 2 * D
    # The embedding once: the output reuses it.
    embedding = config.vocab_size * D
    return embedding + hybrid + config.num_self_attention_layers * layer + 2 * D


# %% mistake: counted twice
def count_parameters(config):
    D, wide = config.num_channels, config.self_attention_widening_factor
    layer = (4 + 2 * wide) * D**2 + 4 * D
    first = (4 + 2 * config.cross_attention_widening_factor) * D**2 + 7 * D
    layers = config.num_self_attention_layers * layer
    return 2 * config.vocab_size * D + first + layers + 2 * D


# %% mistake: one bias is missing
def count_parameters(config):
    D, wide = config.num_channels, config.self_attention_widening_factor
    layer = (4 + 2 * wide) * D**2 + 4 * D
    first = (4 + 2 * config.cross_attention_widening_factor) * D**2 + 6 * D
    layers = config.num_self_attention_layers * layer
    return config.vocab_size * D + first + layers + 2 * D


# %% mistake: one norm is missing
def count_parameters(config):
    D, wide = config.num_channels, config.self_attention_widening_factor
    layer = (4 + 2 * wide) * D**2 + 4 * D
    first = (4 + 2 * config.cross_attention_widening_factor) * D**2 + 5 * D
    layers = config.num_self_attention_layers * layer
    return config.vocab_size * D + first + layers + 2 * D


# %% mistake: the two MLPs differ in width
def count_parameters(config):
    D, wide = config.num_channels, config.self_attention_widening_factor
    layer = (4 + 2 * wide) * D**2 + 4 * D
    layers = (config.num_self_attention_layers + 1) * layer
    return config.vocab_size * D + layers + 5 * D


# %% mistake: D for each norm
def count_parameters(config):
    D, wide = config.num_channels, config.self_attention_widening_factor
    layer = (4 + 2 * wide) * D**2 + 2 * D
    first = (4 + 2 * config.cross_attention_widening_factor) * D**2 + 4 * D
    layers = config.num_self_attention_layers * layer
    return config.vocab_size * D + first + layers + D


# %% mistake: is not this model's
def count_parameters(config):
    D, wide = config.num_channels, config.self_attention_widening_factor
    layer = (4 + 2 * wide) * D**2 + 4 * D
    first = (4 + 2 * config.cross_attention_widening_factor) * D**2 + 7 * D
    layers = config.num_self_attention_layers * layer
    return 389 * D + first + layers + 2 * D


# %% mistake: builds a model
def count_parameters(config):
    return sum(p.numel() for p in PerceiverAR(config).parameters())


# %% post_norm_layer: The other order
# Write the layer of the first Transformer: `post_norm_layer(x, attention, mlp, norm_1, norm_2)`.
# `x` is `(B, l, D)`, so is what you return; the other four are modules from `(B, l, D)` to
# `(B, l, D)`, and neither `attention` nor `mlp` has a norm of its own here. Attention reads `x`; the
# *sum* of `x` and what attention returns goes through `norm_1`. The MLP reads the result; the sum
# of that result and what the MLP returns goes through `norm_2`.
# %% stub
def post_norm_layer(x, attention, mlp, norm_1, norm_2):
    pass  # your code


# %% check
check_post_norm_layer(post_norm_layer)


# %% solution
def post_norm_layer(x, attention, mlp, norm_1, norm_2):
    # The norm stands on the stream itself: from here on nobody sees the old x.
    x = norm_1(x + attention(x))
    return norm_2(x + mlp(x))


# %% mistake: pre-norm
def post_norm_layer(x, attention, mlp, norm_1, norm_2):
    x = x + attention(norm_1(x))
    return x + mlp(norm_2(x))


# %% mistake: a residual is missing
def post_norm_layer(x, attention, mlp, norm_1, norm_2):
    x = norm_1(x + attention(x))
    return norm_2(mlp(x))


# %% mistake: inside the branch
def post_norm_layer(x, attention, mlp, norm_1, norm_2):
    x = x + norm_1(attention(x))
    return x + norm_2(mlp(x))


# %% mistake: the MLP reads x
def post_norm_layer(x, attention, mlp, norm_1, norm_2):
    return norm_2(norm_1(x + attention(x)) + mlp(x))


# %% mistake: exchanged
def post_norm_layer(x, attention, mlp, norm_1, norm_2):
    x = norm_2(x + attention(x))
    return norm_1(x + mlp(x))


# %% mistake: from before norm_1
def post_norm_layer(x, attention, mlp, norm_1, norm_2):
    x = x + attention(x)
    return norm_2(x + mlp(norm_1(x)))


# %% mistake: x itself
def post_norm_layer(x, attention, mlp, norm_1, norm_2):
    middle = norm_1(x + attention(x))
    return norm_2(x + mlp(middle))


# %% mistake: without its norm, norm_2
def post_norm_layer(x, attention, mlp, norm_1, norm_2):
    x = norm_1(x + attention(x))
    return x + mlp(x)


# %% mistake: twice
def post_norm_layer(x, attention, mlp, norm_1, norm_2):
    x = norm_1(x + attention(x))
    return norm_1(x + mlp(x))


# %% mistake: the MLP is missing
def post_norm_layer(x, attention, mlp, norm_1, norm_2):
    return norm_2(norm_1(x + attention(x)))


# %% mistake: no norm at all
def post_norm_layer(x, attention, mlp, norm_1, norm_2):
    x = x + attention(x)
    return x + mlp(x)


# %% inputs_and_targets: What it reads, what it is asked
# Write `inputs_and_targets(tokens, num_latents)`. `tokens`, `(B, n + 1)`, are rows of a piece,
# some with padding (`PAD`, 388) on their left. Return two tensors of the type of `tokens`: what
# the model reads, `(B, n)`, and the targets of its latents, `(B, l)` with `l = num_latents`. In
# training a piece may be shorter than $l$: where a target is padding, write -100, which
# `cross_entropy` leaves out.
# %% stub
def inputs_and_targets(tokens, num_latents):
    pass  # your code


# %% check
check_inputs_and_targets(inputs_and_targets)


# %% solution
def inputs_and_targets(tokens, num_latents):
    # Nobody is left to foretell what follows the last token.
    inputs = tokens[:, :-1]
    # The last latent is token n - 1 and foretells token n, the last of the row.
    targets = tokens[:, -num_latents:]
    return inputs, targets.masked_fill(targets == PAD, -100)


# %% mistake: own token
def inputs_and_targets(tokens, num_latents):
    inputs = tokens[:, :-1]
    targets = inputs[:, -num_latents:]
    return inputs, targets.masked_fill(targets == PAD, -100)


# %% mistake: a real token is left out
def inputs_and_targets(tokens, num_latents):
    inputs, targets = tokens[:, :-1], tokens[:, -num_latents:]
    return inputs, targets.masked_fill(inputs[:, -num_latents:] == PAD, -100)


# %% mistake: as if it were padding
def inputs_and_targets(tokens, num_latents):
    targets = tokens[:, -num_latents:]
    return tokens[:, :-1], targets.masked_fill(targets >= PAD - 10, -100)


# %% mistake: the prefix foretells nothing
def inputs_and_targets(tokens, num_latents):
    targets = tokens[:, 1:]
    return tokens[:, :-1], targets.masked_fill(targets == PAD, -100)


# %% mistake: a target is padding
def inputs_and_targets(tokens, num_latents):
    return tokens[:, :-1], tokens[:, -num_latents:]


# %% mistake: of 9 tokens the model reads 9
def inputs_and_targets(tokens, num_latents):
    return tokens, tokens[:, -num_latents:]


# %% mistake: has become -1
def inputs_and_targets(tokens, num_latents):
    targets = tokens[:, -num_latents:]
    return tokens[:, :-1], targets.masked_fill(targets == PAD, -1)


# %% mistake: tensors of integers
def inputs_and_targets(tokens, num_latents):
    targets = tokens[:, -num_latents:]
    return tokens[:, :-1].float(), targets.masked_fill(targets == PAD, -100)


# %% stop_early: What does each layer add?
# All layers write into one stream, and the output can read the stream at any height. Write
# `stop_early(model, depth)`: a new `PerceiverAR`, in evaluation mode, with copies of the weights
# of `model` and only the first `depth` of its self-attention layers. `model` stays as it is. The
# checker then lets the trained `tiny` guess after 0, 1, … 5 layers: which layer helps most?
# (`replace(config, field=value)` copies a frozen dataclass with one field changed;
# `load_state_dict(weights, strict=False)` takes what it has a place for.)
# %% stub
def stop_early(model, depth):
    pass  # your code


# %% check
check_stop_early(stop_early)


# %% solution
def stop_early(model, depth):
    config = replace(model.config, num_self_attention_layers=depth)
    short = PerceiverAR(config)
    # Not strict: the weights of the layers above find no place, and need none.
    short.load_state_dict(model.state_dict(), strict=False)
    return short.eval()


# %% mistake: fresh random
def stop_early(model, depth):
    config = replace(model.config, num_self_attention_layers=depth)
    return PerceiverAR(config).eval()


# %% mistake: these are the last layers
def stop_early(model, depth):
    import copy

    short = copy.deepcopy(model)
    short.layers = short.layers[len(short.layers) - depth :]
    return short


# %% mistake: the model has 3
def stop_early(model, depth):
    return model


# %% mistake: cut `model` itself
def stop_early(model, depth):
    model.layers = model.layers[:depth]
    return model.eval()


# %% mistake: training mode
def stop_early(model, depth):
    short = PerceiverAR(replace(model.config, num_self_attention_layers=depth))
    short.load_state_dict(model.state_dict(), strict=False)
    return short


# %% mistake: hold the same tensors
def stop_early(model, depth):
    short = PerceiverAR(replace(model.config, num_self_attention_layers=depth))
    short.embedding, short.norm = model.embedding, model.norm
    short.hybrid_layer, short.layers = model.hybrid_layer, model.layers[:depth]
    return short.eval()


# %% mistake: config still says
def stop_early(model, depth):
    import copy

    short = copy.deepcopy(model)
    short.layers = short.layers[:depth]
    return short


# %% mistake: no longer what it was
def stop_early(model, depth):
    model.config = replace(model.config, num_self_attention_layers=depth)
    short = PerceiverAR(model.config)
    short.load_state_dict(model.state_dict(), strict=False)
    return short.eval()


# %% mistake: no longer be trained
def stop_early(model, depth):
    short = PerceiverAR(replace(model.config, num_self_attention_layers=depth))
    short.load_state_dict(model.requires_grad_(False).state_dict(), strict=False)
    return short.eval()


# %% mistake: of type torch.float64
def stop_early(model, depth):
    short = PerceiverAR(replace(model.config, num_self_attention_layers=depth))
    short.load_state_dict(model.state_dict(), strict=False)
    return short.double().eval()


# %% mistake: do not fit
def stop_early(model, depth):
    config = PerceiverConfig(
        num_channels=256, num_heads=4, num_self_attention_layers=depth
    )
    short = PerceiverAR(config)
    short.load_state_dict(model.state_dict(), strict=False)
    return short.eval()


# %% design: A model for your budget
# *Open.* Write `design(budget)`: a `PerceiverConfig` with at most `budget` parameters and at
# least 90 % of them, for any budget from 3 to 135 million. Leave vocabulary and window as they
# are. Keep to three rules of thumb: heads of 32 to 128 channels; $L \ge 4$ self-attention layers;
# and $16 L \le D \le 128 L$ channels. Several shapes fit, and no arithmetic says which is the best:
# training does. The solution folded below stays near the released model's $D / L$.
# %% stub
def design(budget):
    pass  # your code


# %% check
check_design(design)


# %% solution
def design(budget):
    fitting = []
    for D in range(64, 1025, 64):
        layer = 12 * D**2 + 4 * D
        # Embedding, hybrid layer and last norm come first; layers take what is left.
        base = 389 * D + layer + 3 * D + 2 * D
        layers = (budget - base) // layer
        in_shape = layers >= 4 and 16 * layers <= D <= 128 * layers
        if in_shape and base + layers * layer >= 0.9 * budget:
            # The released model has about 43 channels for each layer: stay near.
            fitting.append((abs(D / layers - 43), D, layers))
    _, D, layers = min(fitting)
    return PerceiverConfig(
        num_channels=D, num_heads=D // 64, num_self_attention_layers=layers
    )


# %% mistake: over the budget
def design(budget):
    D = 64 * max(4, round((budget / 120) ** 0.5 / 64))
    return PerceiverConfig(
        num_channels=D, num_heads=D // 64, num_self_attention_layers=12
    )


# %% mistake: budget unused
def design(budget):
    return PerceiverConfig(num_channels=192, num_heads=3, num_self_attention_layers=5)


# %% mistake: of 3,700,000
def design(budget):
    D, layers = (160, 8) if budget < 1e7 else (384, 10) if budget < 1e8 else (768, 18)
    return PerceiverConfig(
        num_channels=D, num_heads=D // 32, num_self_attention_layers=layers
    )


# %% mistake: too shallow
def design(budget):
    D = 2 * int((budget / 30) ** 0.5 / 2) - 8
    return PerceiverConfig(num_channels=D, num_heads=1, num_self_attention_layers=1)
