"""Chapter 9: the exercises on the loss, the learning rate, gradients and a plan."""

import math
from dataclasses import replace

import torch
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode

from tinyperceiver.dataset.windows import Batch
from tinyperceiver.model.config import PRESETS, PerceiverConfig
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.teaching.checking import Case, Mistake, exercise, same
from tinyperceiver.training.config import Stage, TrainingConfig

__all__ = ["clip", "gradients_in_turns", "mean_nats", "plan_run", "rate_at"]


def _scores():
    """Logits, (B, l, V), and targets, (B, l)."""
    logits = 3 * torch.randn(3, 6, 389)
    targets = torch.randint(1, 388, (3, 6))
    targets[1, 3] = 0  # a token like any other
    some = targets.clone()
    some[0, 2:] = some[2, 5:] = -100
    wrong = "with {kind} you find {got:.4f} nats; it is {expected:.4f}."
    yield Case(logits, targets, kind="no padding", wrong=wrong)
    yield Case(logits, some, kind="five places without a target", wrong=wrong)
    sure = torch.full((1, 2, 389), -2000.0)
    sure[..., 7] = 2000.0
    for target, wrong in (
        (7, "for a model that is sure and right, with logits of ±2000, you find {got}, not 0."),
        (
            9,
            "a target 4,000 below the likeliest token costs 4,000 nats; you find {got}. Stay among "
            "the logarithms.",
        ),
    ):
        yield Case(sure, torch.full((1, 2), target), wrong=wrong)


@exercise(
    "The loss, without cross_entropy",
    cases=_scores,
    returns="one number, a mean",
    praise="With 13 targets in 18 places: 11.0248 nats per token.",
    tolerance=1e-4,
)
def mean_nats(logits, targets):
    """
    Write `mean_nats(logits, targets)`. `logits`, `(B, l, V)`, are a model's scores, `targets`,
    `(B, l)`, the ids of the tokens that came, or -100 where there is none. Return the mean nats per
    target, one number. Leave `cross_entropy` and `nll_loss` aside; `log_softmax` is allowed. Logits
    may be as large as 2000.
    """
    log_p = logits.log_softmax(-1)  # not log(softmax): exp overflows, log(0) is -inf
    real = targets >= 0
    # Choose the real places first: -100 is an index too, from the end.
    chosen = log_p[real].gather(1, targets[real][:, None])  # (targets, 1)
    return -chosen.mean()


mean_nats.mistakes |= {
    "the sign is turned round: surprise is *minus* a logarithm.": {"-chosen": "chosen"},
    "this is the sum. Nats per token want it divided.": {"chosen.mean()": "chosen.sum()"},
    "these are bits. A nat takes the natural logarithm.": {"mean()": "mean() / math.log(2)"},
    "you divide by all 18 places, but only 13 have a target. Padding would make the model look "
    "better than it is.": {"chosen.mean()": "chosen.sum() / targets.numel()"},
    "you leave out a target with the id 0, a token like any other. Only -100 means that there is "
    "none.": {">= 0": "> 0"},
    "this is a mean of the rows' means, in which a row with two targets weighs as much as one with "
    "six. Each target weighs the same.": lambda logits, targets: (
        sum(mean_nats.solution(logits[i : i + 1], row[None]) for i, row in enumerate(targets))
        / len(targets)
    ),
    "a logit is not the logarithm of a probability yet: the softmax is missing.": {
        ".log_softmax(-1)": ""
    },
    "a place with -100 has no target: as an index it means the hundredth token from the end, and "
    "you took the loss of that.": {"real =": "targets = targets % 389\n    real ="},
    "for a model that is sure and right, with logits of ±2000, you find {got}: exp overflows. Use "
    "log_softmax or logsumexp.": {"log_softmax(-1)": "exp().div(logits.exp().sum(-1, True)).log()"},
    "a target that the model all but excludes, 4,000 below the likeliest token, costs 4,000 nats; "
    "you find {got}. exp gave 0, and its logarithm is no number: log_softmax never leaves the "
    "logarithms.": {"log_softmax(-1)": "softmax(-1).log()"},
}


class _Called(TorchFunctionMode):
    """Notes the names of the functions of PyTorch that are called in its block."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.add(func.__name__)
        return func(*args, **(kwargs or {}))


@mean_nats.judge
def _(answer):
    with _Called() as called:
        answer(torch.zeros(1, 2, 389), torch.tensor([[1, -100]]))
    if used := {"cross_entropy", "nll_loss"} & called.names:
        raise Mistake(
            f"you call {min(used)}, which is what you are asked to write. log_softmax and indexing "
            "are enough."
        )


mean_nats.caught |= {
    "what you are asked to write": lambda logits, targets: cross_entropy(
        logits.flatten(0, 1), targets.flatten()
    ),
}


def _steps():
    for peak, warmup, steps in ((1.5e-3, 200, 11_000), (2e-4, 10, 110)):
        for step, hint in (
            (0, ""),
            (warmup // 2 - 1, " Half-way up it is half the peak."),
            (warmup - 1, " The last step of the warm-up has the full rate already."),
            (warmup, " It is the first after the warm-up, and the cosine begins at the peak."),
            (steps - 1, " The cosine should have come to nearly nothing by then."),
            ((warmup + steps) // 2, " Half-way down it is half the peak."),
            (warmup + (steps - warmup) // 4, ""),
        ):
            yield Case(step, peak, warmup, steps, hint=hint)


@exercise(
    "Up and down",
    cases=_steps,
    returns="a learning rate, one number",
    wrong="step {step} of {steps:,}, with a warm-up of {warmup} to {peak}, has the rate "
    "{expected:.3g}, not {got:.3g}.{hint}",
    praise="Up along a line, down along half a cosine, for 110 steps and for 11,000.",
)
def rate_at(step, peak, warmup, steps):
    """
    Write `rate_at(step, peak, warmup, steps)`: the learning rate of step 0, 1, ..., `steps` - 1, a
    float. It rises in equal parts during the first `warmup` steps, to `peak` in the last of them.
    Then it follows half a cosine, from `peak` in step `warmup` to 0 in step `steps`, which is never
    taken. `import math` is done.
    """
    if step < warmup:
        # + 1: a step with the rate 0 would be work for nothing.
        return peak * (step + 1) / warmup
    # The cosine begins where the line ends, not in step 0.
    share = (step - warmup) / (steps - warmup)
    return peak * (1 + math.cos(math.pi * share)) / 2


rate_at.mistakes |= {
    "step 0 has the rate 0: it computes a gradient and changes nothing. The line begins at peak / "
    "warmup.": {"(step + 1)": "step"},
    "in step {step}, the first after the warm-up, the rate is {got:.6g}, not {peak}: the cosine "
    "must begin there, with all of it, and not in step 0.": {
        "(step - warmup) / (steps - warmup)": "step / steps"
    },
    "the last step, {step}, has the rate 0 and changes nothing. The 0 belongs to step {steps}, "
    "which is never taken.": {"(steps - warmup)": "(steps - 1 - warmup)"},
    "the rate falls below 0: that would climb. Half a cosine.": {
        "(1 + math.cos(math.pi * share)) / 2": "math.cos(math.pi * share)"
    },
    "right at the ends and the middle, but not a cosine between.": {
        "(1 + math.cos(math.pi * share)) / 2": "(1 - share)"
    },
}


def _short_floats(tensors):
    """What to say of tensors with fewer bits than float32."""
    if short := {tensor.dtype for tensor in tensors} - {torch.float32, torch.float64}:
        return f"your tensors are of {short.pop()}; float32 is asked for."


def _flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def _gradients():
    short = [torch.randn(4, 3) * 0.01, torch.randn(5) * 0.01]
    long = [torch.randn(4, 3), 10 * torch.randn(5), torch.zeros(2)]
    for gradients, most in ((long, 1.0), (long, 0.5), (short, 1.0)):
        yield Case(gradients, most, length=_flat(gradients).norm().item())


@exercise(
    "A gradient on a leash",
    cases=_gradients,
    returns="a list of tensors, of the shapes of those given",
    praise="Length 0.040 stays; longer ones are cut, and point where they did.",
)
def clip(gradients, max_norm):
    """
    Write `clip(gradients, max_norm)`. `gradients` is a list of tensors of any shapes, one for each
    parameter. Together they are one long vector. Return a list of new tensors of the same shapes:
    the same vector if its length is at most `max_norm`, else one of length `max_norm` in the same
    direction.
    """
    # The length of the whole, by Pythagoras, from the lengths of its parts.
    norm = torch.stack([g.norm() for g in gradients]).norm()
    # At most 1: what is short enough must not be made longer.
    factor = min(1.0, (max_norm / norm).item())
    return [g * factor for g in gradients]


clip.mistakes |= {
    "a gradient of length {length:.3f} was made longer. One that is short enough stays as it is.": {
        "min(1.0, (max_norm / norm).item())": "(max_norm / norm).item()"
    },
    "each tensor is cut by itself, which turns the gradient: it points elsewhere. There is one "
    "length, of all numbers together.": {
        "g * factor": "g * min(1.0, (max_norm / g.norm()).item())"
    },
    "single numbers are clamped, which turns the gradient. Divide all of them by one number.": {
        "g * factor": "g.clamp(-max_norm, max_norm)"
    },
}
clip.caught |= {
    "there are NaNs": {"g * factor": "g / g.norm() * min(g.norm(), max_norm)"},
    "float32 is asked for": {"g * factor": "(g * factor).half()"},
    "points elsewhere. Every": {"g * factor": "-g * factor"},
    "yours has length": {"g * factor": "g * factor / 2"},
    "worked in place": {"g * factor": "g.mul_(factor)"},
    "hand back the tensors": {"return [": "return gradients if factor == 1 else ["},
}


@clip.diagnose
def _(got, expected, gradients, max_norm):
    if len(got) != len(gradients):
        return f"{len(gradients)} tensors were given, and {len(got)} came."
    flat, right = _flat(got), _flat(expected)
    if flat.isnan().any():
        return "there are NaNs: some tensor of zeros was divided by 0."
    if short := _short_floats(got):
        return short
    if same(flat.norm(), right.norm(), 1e-4):
        return (
            "the length is right, but the vector points elsewhere. Every number keeps its sign and "
            "its share of the whole."
        )
    return (
        f"length {_flat(gradients).norm():.3f}, at most {max_norm}: yours has length "
        f"{flat.norm():.3f}; it should be {right.norm():.3f}, in the same direction."
    )


class _Shared(list):
    """A list that the copy for an answer shares, to see what becomes of it."""

    def __deepcopy__(self, memo):
        return self


@clip.judge
def _(answer):
    for gradients in ([torch.ones(3), 2 * torch.ones(2, 2)], [0.1 * torch.ones(3)]):
        mine = _Shared(g.clone() for g in gradients)
        found = answer(mine, 1.0)
        if not same(list(mine), gradients):
            raise Mistake(
                "the gradients you were given have changed: an operation worked in place, such as "
                "mul_ or *=. Leave them as they are."
            )
        if any(f.data_ptr() == g.data_ptr() for f, g in zip(found, mine, strict=True)):
            raise Mistake(
                f"at length {_flat(gradients).norm():.3f} and a bound of 1.0 you hand back the "
                "tensors you were given. Return new ones: the caller may change either."
            )


class _UsedModel(PerceiverAR):
    """A small model whose copies have gradients of an earlier step, all 1."""

    def __deepcopy__(self, memo):
        model = _UsedModel(self.config)
        model.load_state_dict(self.state_dict())
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        return model.eval()


def _turns():
    small = {"num_channels": 32, "num_self_attention_layers": 1, "init_scale": 0.2}
    model = _UsedModel(replace(PRESETS["tiny"], **small)).eval()
    targets = torch.randint(1, 388, (6, 8))
    targets[2, 3] = 0  # a token like any other
    targets[0, 1:] = targets[1, 2:] = -100  # two short pieces, both in the first turn
    whole = Batch(torch.randint(388, (6, 12)), targets, None, 4)
    for rows in (2, 4, 6):
        turns = whole.split(rows)
        counts = [int((turn.targets >= 0).sum()) for turn in turns]
        yield Case(model, turns, rows=rows, counts=counts)


@exercise(
    "Many turns, one gradient",
    cases=_turns,
    returns="a list of tensors, one for each parameter",
    wrong="in turns of {rows} rows the gradient is another one.",
    praise="Six rows at once, in two turns and in three: one gradient.",
    tolerance=1e-4,
)
def gradients_in_turns(model, turns):
    """
    Write `gradients_in_turns(model, turns)`. `turns` is a list of `Batch`; some of their targets
    are -100. `model(batch.tokens, batch.prefix_len)` gives logits, `(B, l, V)`. Return a list of
    tensors, one for each of `model.parameters()`: the gradient of the mean loss of all targets
    together, as if the turns were one batch. (By targets, not by places: here all turns are at
    hand.) The model may come with gradients of an earlier step; what you leave in it does not
    matter. `cross_entropy(..., reduction="sum")` leaves out -100 by itself.
    """
    # Known before the first turn, so that each can be divided by it.
    count = sum((turn.targets >= 0).sum() for turn in turns)
    model.zero_grad()  # once: backward() adds to what is there
    for turn in turns:
        logits = model(turn.tokens, turn.prefix_len)  # (B, l, V)
        targets = turn.targets.flatten()
        loss = cross_entropy(logits.flatten(0, 1), targets, reduction="sum")
        (loss / count).backward()  # frees this turn's activations
    return [p.grad for p in model.parameters()]


_ONLY_LAST = {
    "model.zero_grad()  # once": "pass  # once",
    "logits =": "model.zero_grad()\n        logits =",
}
gradients_in_turns.mistakes |= {
    "the model came with gradients of an earlier step, and yours were added to them. Zero them "
    "once, before the first turn.": {"model.zero_grad()": "pass"},
    "only the last turn is left: the gradients of the others were zeroed, or overwritten, on the "
    "way.": _ONLY_LAST,
    "only the last turn is left, and its mean: the gradients of the others were zeroed, or "
    "overwritten, on the way.": _ONLY_LAST | {'reduction="sum"': "", "/ count": "/ 1"},
    "this is a mean of means: turns of {counts} targets weigh the same. Each target should.": {
        'reduction="sum"': "",
        "/ count": "/ len(turns)",
    },
    "the means of the turns are added up: with more turns the step would be longer. Divide by the "
    "targets of all turns.": {'reduction="sum"': "", "/ count": "/ 1"},
    "this is the gradient of the sum. Divide by the number of targets.": {"/ count": "/ 1"},
    "you leave out a target with the id 0, a token like any other. Only -100 means that there is "
    "none.": {">= 0": "> 0"},
    "a target with the id 0 is left out, a token like any other. Only -100 means that there is "
    "none.": {
        ">= 0": "> 0",
        "turn.targets.flatten()": "turn.targets.where(turn.targets > 0, -100).flatten()",
    },
    "you divide by all 48 places; 35 have a target. That is what training_step does, so as not to "
    "count across processes; here all turns are at hand, and the task is the mean over targets.": {
        "(turn.targets >= 0).sum()": "turn.targets.numel()"
    },
}


@gradients_in_turns.diagnose
def _(got, expected, model, turns):
    return _short_floats(got)


gradients_in_turns.caught |= {
    "float32 is asked for": {"[p.grad": "[p.grad.bfloat16()"},
    "in turns of 2 rows": {"[p.grad": "[-p.grad"},
}


@exercise("A run for your budget", returns="a TrainingConfig")
def plan_run(hours, tokens_per_second):
    """
    *Open.* Write `plan_run(hours, tokens_per_second)`: a `TrainingConfig` (it must have `model` and
    `stages`) for a machine that predicts so many tokens a second. (Measure yours: it changes with
    the model.) Predicted tokens, steps x windows x latents, must be at most what the time allows
    and at least 90 % of it. Two stages or more,
    `Stage(steps=..., num_latents=..., max_prefix_len=..., batch_size=...)`, each a tenth of the
    steps at least; windows (`num_latents + max_prefix_len`) grow, to the model's `max_seq_len` in
    the last. (A model's longest prefix is `max_seq_len - max_latents`.) Each step predicts about as
    many tokens as every other, within a factor of 2. Some warm-up, at most a tenth of the steps. At
    most one parameter for each predicted token; and a day at 60,000 tokens a second gets a larger
    model than an hour at 5,000.
    """
    budget = int(hours * 3600 * tokens_per_second)
    # Some ten tokens for each parameter; a layer has about 12 D^2 of them.
    D, layers = 128, 3
    while 12 * (layers + 2) * (D + 64) ** 2 < budget / 10 and D < 768:
        D, layers = D + 64, layers + 1
    model = PerceiverConfig(
        max_seq_len=2048,
        max_latents=1024,
        num_channels=D,
        num_heads=D // 64,
        num_self_attention_layers=layers,
    )
    # 4,096 tokens in every step: half of the steps on short windows, the cheapest.
    steps = budget // 4096
    short, middle = steps // 2, steps * 3 // 10
    return TrainingConfig(
        model=model,
        stages=(
            Stage(steps=short, num_latents=256, max_prefix_len=256, batch_size=16),
            Stage(steps=middle, num_latents=512, max_prefix_len=512, batch_size=8),
            Stage(
                steps=steps - short - middle,
                num_latents=1024,
                max_prefix_len=1024,
                batch_size=4,
            ),
        ),
        learning_rate=1e-3,
        warmup_steps=min(200, steps // 20),
    )


@plan_run.judge
def _(answer):
    found = []
    for hours, pace in ((1.0, 5_000.0), (10.0, 5_000.0), (24.0, 60_000.0)):
        plan = plan_run.expect(answer(hours, pace), plan_run.solution(hours, pace))
        unit = "hour" if hours == 1 else "hours"
        what = f"for {hours:g} {unit} at {pace:,.0f} tokens a second"
        found.append((_judge_plan(plan, what, int(hours * 3600 * pace)), plan.steps))
    (least, _), (most, steps) = found[0], found[-1]
    if most <= least:
        raise Mistake(
            "a day at 60,000 tokens a second gets the model of an hour at 5,000, or a smaller one: "
            f"{most:,} parameters, and {least:,} for the hour."
        )
    return f"From {least:,} parameters in an hour to {most:,}, {steps:,} steps, in a day."


def _judge_plan(plan, what, budget):
    """Judge a plan for so many predicted tokens; returns the parameters of its model."""
    tokens = sum(s.steps * s.batch_size * s.num_latents for s in plan.stages)
    if tokens > budget:
        raise Mistake(
            f"{what} there are {budget:,} predicted tokens; the plan takes {tokens:,}. Only "
            "latents predict: steps x windows x latents."
        )
    if tokens < 0.9 * budget:
        raise Mistake(
            f"{what} the plan uses {tokens / budget:.0%} of the {budget:,} predicted tokens. The "
            "prefix predicts nothing and is not counted."
        )
    sizes = [s.num_latents + s.max_prefix_len for s in plan.stages]
    if sorted(sizes) != sizes or sizes[0] == sizes[-1]:
        raise Mistake(f"windows should grow from stage to stage, not {sizes}.")
    if sizes[-1] != plan.model.max_seq_len:
        raise Mistake(
            f"the last stage has windows of {sizes[-1]}, but the model is to be used with "
            f"{plan.model.max_seq_len}: what it never met it cannot do."
        )
    if min(s.steps for s in plan.stages) < 0.1 * plan.steps:
        raise Mistake(
            f"{what} the stages have {[s.steps for s in plan.stages]} steps: each should have a "
            "tenth of them at least, or its windows are hardly met."
        )
    per_step = [s.num_latents * s.batch_size for s in plan.stages]
    if max(per_step) > 2 * min(per_step):
        raise Mistake(
            f"predicted tokens in a step: {per_step}. Keep them within a factor of 2, or the same "
            "learning rate means something else in each stage."
        )
    if not 0 < plan.warmup_steps <= 0.1 * plan.steps:
        raise Mistake(
            f"a warm-up of {plan.warmup_steps} of {plan.steps} steps: take some, and at most a "
            "tenth."
        )
    with torch.device("meta"):
        count = PerceiverAR(plan.model).num_parameters
    if count > tokens:
        raise Mistake(
            f"{what} the model has {count:,} parameters for {tokens:,} predicted tokens: more "
            "weights than answers to learn them from. Take at most one parameter for each token."
        )
    return count


plan_run.caught |= {
    "Only latents predict": {"budget // 4096": "budget // 4000"},
    "The prefix predicts nothing": {"budget // 4096": "budget // 8192"},
    "windows should grow": {
        "num_latents=256, max_prefix_len=256, batch_size=16": "num_latents=1024, "
        "max_prefix_len=1024, batch_size=4"
    },
    "a tenth of them at least": {"short, middle = steps // 2": "short, middle = 5"},
    "what it never met": {"max_seq_len=2048": "max_seq_len=4096"},
    "within a factor of 2": {
        "batch_size=16": "batch_size=20",
        "batch_size=4,": "batch_size=1,",
    },
    "take some, and at most": {"steps // 20": "0"},
    "gets the model of an hour": {"D < 768": "D < 0"},
    "at most one parameter": {"D, layers = 128, 3": "D, layers = 768, 3"},
}
