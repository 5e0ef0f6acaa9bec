"""Chapter 7: the exercises on the decoder stack."""

import copy
from dataclasses import replace
from unittest import mock

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tinyperceiver.model.config import PRESETS, PerceiverConfig
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.music.pieces import load_piece
from tinyperceiver.music.tokenizer import encode_midi
from tinyperceiver.music.vocabulary import PAD
from tinyperceiver.teaching.checking import Case, Mistake, exercise, refuse, same
from tinyperceiver.teaching.measuring import tiny_weights

__all__ = ["count_parameters", "design", "inputs_and_targets", "post_norm_layer", "stop_early"]


def _counted(num_layers):
    return f"{num_layers} self-attention layer{'s' * (num_layers != 1)}"


def _parameters(config):
    with torch.device("meta"):
        return PerceiverAR(config).num_parameters


def _miscounted(got, expected, config):
    side = "few" if got < expected else "many"
    return (
        f"for D = {config.num_channels}, V = {config.vocab_size} and "
        f"{_counted(config.num_self_attention_layers)} you find {got:,}, which is "
        f"{abs(got - expected):,} too {side}."
    )


_SMALL = PerceiverConfig(num_channels=64, num_heads=4, num_self_attention_layers=3)


@exercise(
    "Count without building",
    cases=[
        (_SMALL,),
        (replace(_SMALL, vocab_size=100),),
        (replace(_SMALL, num_self_attention_layers=0),),
        Case(
            replace(_SMALL, cross_attention_widening_factor=2),
            wrong="It was right until the two MLPs differ in width: the hybrid layer's takes "
            "cross_attention_widening_factor, the others' take self_attention_widening_factor.",
        ),
    ],
    returns="a number of parameters, an int",
    about=_miscounted,
    wrong="Compare part by part with what `account(config)` counts.",
    praise="Six shapes agree, the last with 134,840,832.",
)
def count_parameters(config):
    """
    Write `count_parameters(config)`: the number of parameters of a `PerceiverAR` of that shape, an
    `int`, from the fields of the configuration alone: arithmetic, no model. You need `vocab_size`,
    `num_channels`, `num_self_attention_layers` and the two widening factors; a square product has
    $D^2$ numbers, a norm $2D$. One product has a bias: see chapter 6.
    """
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


count_parameters.mistakes |= {
    "That is V · D: the embedding is counted twice. The output reuses it and adds nothing.": {
        "return embedding": "return 2 * embedding"
    },
    "Your V is not this model's `vocab_size`, {config.vocab_size}.": {"config.vocab_size": "389"},
    "That is D: one bias is missing. Of all products only the output projection of one attention "
    "layer has a bias.": {"D + 2 * D  #": "2 * D  #"},
    "That is 2 D: one norm is missing. Look at what stands before the prefix and before the "
    "logits.": {"layer + 2 * D": "layer"},
    "That is D for each norm. A norm has two numbers a channel, a factor and an offset.": {
        "return embedding": "return -(2 * config.num_self_attention_layers + 4) * D + embedding"
    },
}
count_parameters.caught |= {
    "the two MLPs differ": {"config.cross": "config.self"},
    "`account(config)` counts": {"hybrid = 4": "hybrid = 3"},
    "an int": {"return embedding": "return 1.0 * embedding"},
    "builds a model": lambda config: PerceiverAR(config).num_parameters,
}


@count_parameters.judge
def _(answer):
    def no_model(*args, **kwargs):
        raise Mistake(
            "this builds a model and lets it count. Here the fields of the configuration must do: "
            "multiply and add."
        )

    for config in (PRESETS["tiny"], PRESETS["released"]):
        right = _parameters(config)
        with mock.patch.object(nn.Module, "__init__", no_model):
            found = count_parameters.expect(answer(config), right)
        refuse({_miscounted(found, right, config): found != right})


def _layers():
    for _ in range(3):
        attention, mlp = nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 6), nn.GELU())
        norms = nn.LayerNorm(6), nn.LayerNorm(6)
        for norm in norms:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        yield 3 * torch.randn(2, 5, 6), attention, mlp, *norms


@exercise(
    "The other order",
    cases=_layers,
    returns="a tensor like what it reads, (B, l, D)",
    wrong="the numbers are others. After the attention and after the MLP: add what it read, then "
    "normalise the sum.",
    praise="Three random layers agree: branch, sum, norm, twice.",
)
def post_norm_layer(x, attention, mlp, norm_1, norm_2):
    """
    Write the layer of the first Transformer: `post_norm_layer(x, attention, mlp, norm_1, norm_2)`.
    `x` is `(B, l, D)`, so is what you return; the other four are modules from `(B, l, D)` to
    `(B, l, D)`, and neither `attention` nor `mlp` has a norm of its own here. Attention reads `x`;
    the *sum* of `x` and what attention returns goes through `norm_1`. The MLP reads the result; the
    sum of that result and what the MLP returns goes through `norm_2`.
    """
    # The norm stands on the stream itself: from here on nobody sees the old x.
    x = norm_1(x + attention(x))
    return norm_2(x + mlp(x))


post_norm_layer.mistakes |= {
    "this is pre-norm, the chapter's layer: its norms stand before attention and MLP. Here they "
    "come after the sum.": {
        "norm_1(x + attention(x))": "x + attention(norm_1(x))",
        "norm_2(x + mlp(x))": "x + mlp(norm_2(x))",
    },
    "a residual is missing: what the MLP read is not added to what it returns.": {"x + mlp": "mlp"},
    "both residuals are missing: what a branch read is not added to what it returns.": {
        "x + attention": "attention",
        "x + mlp": "mlp",
    },
    "each norm is inside the branch: the sum itself is never normalised. Add first, then "
    "normalise.": {
        "norm_1(x + attention(x))": "x + norm_1(attention(x))",
        "norm_2(x + mlp(x))": "x + norm_2(mlp(x))",
    },
    "the MLP reads x. It comes second: it reads what norm_1 has returned.": {
        "x = norm_1": "old, x = x, norm_1",
        "mlp(x)": "mlp(old)",
    },
    "the two norms are exchanged: norm_1 stands first.": {
        "= norm_1": "= norm_2",
        "return norm_2": "return norm_1",
    },
    "norm_1 is used twice, the other norm never.": {"return norm_2": "return norm_1"},
    "norm_2 is used twice, the other norm never.": {"= norm_1": "= norm_2"},
    "the second sum takes x from before norm_1. What the MLP returns is added to what the MLP "
    "read.": {"= norm_1(x + attention(x))": "= x + attention(x)", "mlp(x)": "mlp(norm_1(x))"},
    "the second sum takes x itself: what the attention found is lost to all but the MLP. Add to "
    "what the MLP read.": {"x = norm_1": "old, x = x, norm_1", "x + mlp": "old + mlp"},
    "the second sum is returned without its norm, norm_2.": {"return norm_2": "return "},
    "there is no norm at all.": {"= norm_1": "= ", "return norm_2": "return "},
    "the first sum goes on without its norm, norm_1.": {"= norm_1": "= "},
    "the MLP is missing.": {"x + mlp(x)": "x"},
    "the MLP is missing, and norm_2 with it.": {"norm_2(x + mlp(x))": "x"},
}
post_norm_layer.caught |= {"the numbers are others": {"x + attention": "x - attention"}}


def _rows():
    rows = torch.arange(PAD - 2 * 9, PAD).reshape(2, 9)  # the last is no padding yet
    padded = torch.tensor([[PAD, PAD, PAD, 5, 6, 0, 8], [1, 2, 3, 4, 5, 6, 7]])
    return [(rows, 3), (rows, 8), (padded, 5), (rows, 1)]


@exercise(
    "What it reads, what it is asked",
    cases=_rows,
    returns="two tensors of integers, torch.long as `tokens` is: what the model reads, (B, n), and "
    "its targets, (B, l)",
    wrong="the tokens that the model reads are changed on the way.",
    praise="Four windows agree, one of them with padding: n tokens in, l targets.",
)
def inputs_and_targets(tokens, num_latents):
    """
    Write `inputs_and_targets(tokens, num_latents)`. `tokens`, `(B, n + 1)`, are rows of a piece,
    some with padding (`PAD`, 388) on their left. Return two tensors of the type of `tokens`: what
    the model reads, `(B, n)`, and the targets of its latents, `(B, l)` with `l = num_latents`. In
    training a piece may be shorter than $l$: where a target is padding, write -100, which
    `cross_entropy` leaves out.
    """
    # Nobody is left to foretell what follows the last token.
    inputs = tokens[:, :-1]
    # The last latent is token n - 1 and foretells token n, the last of the row.
    targets = tokens[:, -num_latents:]
    return inputs, targets.masked_fill(targets == PAD, -100)


inputs_and_targets.mistakes |= {
    "of {tokens.shape[1]} tokens the model reads {got[0].shape[1]}. It reads all that have a token "
    "after them to be foretold.": {"tokens[:, :-1]": "tokens"},
    "the model reads from the second token on: the first is lost, and the last, which has no "
    "target, is read.": {"tokens[:, :-1]": "tokens[:, 1:]"},
    "targets of shape {got[1].shape}, but {num_latents} latents: only latents have logits, the "
    "prefix foretells nothing.": {"tokens[:, -num_latents:]": "tokens[:, 1:]"},
    "each latent is asked for its own token, which it can read. Its target is the next one.": {
        "tokens[:, -num_latents:]": "inputs[:, -num_latents:]"
    },
    "a target is padding, 388, which the model would learn to write. Put -100 there: cross_entropy "
    "leaves it out.": {".masked_fill(targets == PAD, -100)": ""},
}
inputs_and_targets.caught |= {
    "as if it were padding, token 5": {"targets == PAD": "inputs[:, -num_latents:] == PAD"},
    "as if it were padding, token 378": {"targets == PAD": "targets >= PAD - 10"},
    "has become -1": {"-100": "-1"},
    "two tensors of integers": {"return inputs": "return inputs.float()"},
    "not the last tokens": {"tokens[:, -num_latents:]": "tokens[:, -num_latents:].flip(1)"},
    "changed on the way": {"return inputs": "return inputs.flip(1)"},
}


@inputs_and_targets.diagnose
def _(got, expected, tokens, num_latents):
    targets, real = got[1], expected[1] != -100
    right = tokens[:, -num_latents:]
    if (gone := real & (targets == -100)).any():
        return (
            f"a real token is left out as if it were padding, token {right[gone][0]}. Only a "
            f"target that is itself {PAD} becomes -100."
        )
    if not torch.equal(targets[real], right[real]):
        return "the targets are not the last tokens, in their order."
    if (targets[~real] != -100).any():
        return (
            f"a target that is padding has become {targets[~real][0]}. The number that "
            "cross_entropy leaves out is -100."
        )


@exercise("What does each layer add?", returns="a model")
def stop_early(model, depth):
    """
    All layers write into one stream, and the output can read the stream at any height. Write
    `stop_early(model, depth)`: a new `PerceiverAR`, in evaluation mode, with copies of the weights
    of `model` and only the first `depth` of its self-attention layers. `model` stays as it is. The
    checker then lets the trained `tiny` guess after 0, 1, … 5 layers: which layer helps most?
    (`replace(config, field=value)` copies a frozen dataclass with one field changed;
    `load_state_dict(weights, strict=False)` takes what it has a place for.)
    """
    config = replace(model.config, num_self_attention_layers=depth)
    short = PerceiverAR(config)
    # Not strict: the weights of the layers above find no place, and need none.
    short.load_state_dict(model.state_dict(), strict=False)
    return short.eval()


@stop_early.judge
@torch.no_grad()
def _(answer):
    config = replace(
        PRESETS["tiny"], num_channels=32, num_self_attention_layers=3, max_seq_len=24,
        max_latents=8, init_scale=0.3,
    )  # fmt: skip
    model = PerceiverAR(config).eval()
    nn.init.normal_(model.norm.weight)
    tokens = torch.randint(388, (2, 20))
    for depth in (1, 0, 2, 3):
        given = _seen_by_answer(copy.deepcopy(model))
        try:
            short = answer(given, depth)
        except RuntimeError as error:
            if "size mismatch" not in str(error):
                raise
            raise Mistake(
                "the weights do not fit the new model. Take its shape from `model.config`; the "
                "trained model is not the only one to be cut."
            ) from error
        _judge_cut(stop_early.expect(short, nn.Module()), depth, given, model)
        right = copy.deepcopy(model)
        right.layers = right.layers[:depth]
        last = copy.deepcopy(model)
        last.layers = last.layers[3 - depth :]
        found, expected, of_last = (part(tokens, 12) for part in (short, right, last))
        is_right = same(found, expected)
        refuse(
            {
                f"the logits are of type {found.dtype}, those of `model` of type {expected.dtype}. "
                "A copy keeps the type.": found.dtype != expected.dtype,
                f"it has {_counted(depth)}, but its config still says "
                f"{short.config.num_self_attention_layers}.": is_right
                and short.config.num_self_attention_layers != depth,
                "these are the last layers. Stopping early keeps the first.": not is_right
                and same(found, of_last),
                "the weights are fresh random ones: the new model must take those of the old, by "
                "name.": not torch.equal(short.embedding.weight, model.embedding.weight),
                f"with {depth} layers the logits are not those of the first {depth} layers, the "
                "norm and the embedding.": not is_right,
            }
        )
    return f"Mozart's next token costs the trained model {_nats_by_depth(answer)}."


def _judge_cut(short, depth, given, model):
    """Judge a model that was cut, and what has become of the one that was given, of 3 layers."""
    layers, old = len(getattr(short, "layers", [])), given.state_dict().values()
    own, its = ({p.data_ptr() for p in part.parameters()} for part in (short, given))
    refuse(
        {
            f"you have cut `model` itself: {len(given.layers)} of its 3 layers are left. Make a "
            "new model.": len(given.layers) != 3,
            "`model.config` is no longer what it was. Give the new shape to the new model "
            "alone.": given.config != model.config,
            "`model` can no longer be trained: some of its parameters are frozen.": not all(
                p.requires_grad for p in given.parameters()
            ),
            f"asked for {_counted(depth)}, the model has {layers}.": layers != depth,
            "`model` no longer has the weights that it had.": not all(
                map(torch.equal, model.state_dict().values(), old)
            ),
            "the new model is in training mode: it wants eval().": short.training,
            "the old model is in training mode: it wants eval().": given.training,
            "both models hold the same tensors, so that training one would change the other. Copy "
            "them: load_state_dict does.": bool(own & its),
        }
    )


def _seen_by_answer(model):
    """Let the answer have `model` itself: what it does to it can then be seen.

    An answer gets deep copies, so this model passes for its own copy, once.
    """

    def once(memo):
        del model.__deepcopy__
        return model

    model.__deepcopy__ = once
    return model


def _nats_by_depth(answer):
    """What the shipped model expects of a piece, when stopped after 0, 1, ... layers."""
    model = PerceiverAR(PRESETS["tiny"]).eval()
    model.load_state_dict(tiny_weights())
    tokens = torch.tensor([encode_midi(load_piece("mozart-sonata"))[:513]])
    found = []
    for depth in range(6):
        logits = answer(model, depth)(tokens[:, :-1], 256)
        nats = cross_entropy(logits[0], tokens[0, -256:]).item()
        found.append(f"{nats:.2f} nats after {depth}")
    return ", ".join(found)


_LOAD = "short.load_state_dict(model.state_dict(), strict=False)"
stop_early.caught |= {
    "fresh random": {_LOAD: ""},
    "the model has 3": lambda model, depth: model,
    "training mode": {".eval()": ""},
    "no longer what it was": {"config = replace": "config = model.config = replace"},
    "no longer be trained": {"model.state_dict()": "model.requires_grad_(False).state_dict()"},
    "of type torch.float64": {"short.eval()": "short.double().eval()"},
    "do not fit": {"replace(model.config, ": "PerceiverConfig(num_channels=256, num_heads=4, "},
    "config still says": {
        "PerceiverAR(config)": "copy.deepcopy(model)",
        _LOAD: "short.layers = short.layers[:depth]",
    },
    "these are the last layers": {
        "PerceiverAR(config)": "copy.deepcopy(model)",
        _LOAD: "short.layers = short.layers[len(short.layers) - depth :]",
    },
    "cut `model` itself": {
        "PerceiverAR(config)": "model",
        _LOAD: "model.layers = model.layers[:depth]",
    },
    "hold the same tensors": {
        _LOAD: "short.embedding, short.norm = model.embedding, model.norm\n"
        "    short.hybrid_layer, short.layers = model.hybrid_layer, model.layers[:depth]"
    },
    "it should return a model": {"return short.eval()": "return short.state_dict()"},
}


@exercise("A model for your budget")
def design(budget):
    """
    *Open.* Write `design(budget)`: a `PerceiverConfig` with at most `budget` parameters and at
    least 90 % of them, for any budget from 3 to 135 million. Leave vocabulary and window as they
    are. Keep to three rules of thumb: heads of 32 to 128 channels; $L \\ge 4$ self-attention
    layers; and $16 L \\le D \\le 128 L$ channels. Several shapes fit, and no arithmetic says which
    is the best: training does. The solution folded below stays near the released model's $D / L$.
    """
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
        num_channels=D,
        num_heads=D // 64,
        num_self_attention_layers=layers,
    )


@design.judge
def _(answer):
    shown, shapes = (3_000_000, 20_000_000, 134_840_832), []
    others = (3_700_000, 7_000_000, 45_000_000, 90_000_000)
    for budget in (*shown, *others):
        config = answer(budget)
        # In the chapter it is the reader's own class.
        kind = type(config).__name__
        refuse({f"return a PerceiverConfig; this is a {kind}.": kind != "PerceiverConfig"})
        count, layers = _parameters(config), config.num_self_attention_layers
        D, d = config.num_channels, config.num_channels // config.num_heads
        window = config.vocab_size, config.max_seq_len, config.max_latents
        refuse(
            {
                "leave the vocabulary and the window as the released model has.": window
                != (389, 6144, 2048),
                f"over the budget: {count:,} parameters where {budget:,} are allowed. The largest "
                "part is 12 D² for each self-attention layer.": count > budget,
                f"too shallow: {_counted(layers)} for {D} channels. Here every 128 channels want a "
                "layer, and 4 layers are the least.": layers < 4 or 128 * layers < D,
                f"too narrow: {D} channels for {layers} self-attention layers. Give each layer at "
                "least 16 channels.": layers > D // 16,
                f"budget unused: {count:,} parameters of {budget:,}, {count / budget:.0%}. Spend "
                "at least 90 % of every budget.": count < 0.9 * budget,
                f"heads of {d} channels: choose H so that d is 32 to 128.": not 32 <= d <= 128,
            }
        )
        if budget in shown:
            shapes.append(f"D = {D} with {layers} layers ({count / budget:.1%} of {budget:,})")
    return "; ".join(shapes) + f"; {len(others)} other budgets are met, too."


def _fixed(channels, heads, layers):
    return lambda budget: PerceiverConfig(
        num_channels=channels, num_heads=heads, num_self_attention_layers=layers
    )


design.caught |= {
    "over the budget": _fixed(512, 8, 12),
    "budget unused": _fixed(192, 3, 5),
    "too shallow": _fixed(256, 4, 1),
    "too narrow": _fixed(96, 1, 18),
    "return a PerceiverConfig": lambda budget: budget,
    "heads of 16 channels": {"D // 64": "D // 16"},
    "the vocabulary and the window": {"num_channels=D": "vocab_size=388, num_channels=D"},
}


@design.catch("of 3,700,000")
def _(budget):
    channels, layers = (160, 8) if budget < 1e7 else (384, 10) if budget < 1e8 else (768, 18)
    return _fixed(channels, channels // 32, layers)(budget)
