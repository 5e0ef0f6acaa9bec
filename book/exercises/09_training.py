"""Exercises of chapter 9."""

import math

import torch
from torch.nn.functional import cross_entropy

from tinyperceiver.model.config import PerceiverConfig
from tinyperceiver.teaching.training import (
    check_clip,
    check_gradients_in_turns,
    check_mean_nats,
    check_plan_run,
    check_rate_at,
)
from tinyperceiver.training.config import Stage, TrainingConfig


# %% mean_nats: The loss, without cross_entropy
# Write `mean_nats(logits, targets)`. `logits`, `(B, l, V)`, are a model's scores, `targets`,
# `(B, l)`, the ids of the tokens that came, or -100 where there is none. Return the mean nats per
# target, one number. Leave `cross_entropy` and `nll_loss` aside; `log_softmax` is allowed. Logits
# may be as large as 2000.
# %% stub
def mean_nats(logits, targets):
    pass  # your code


# %% check
check_mean_nats(mean_nats)


# %% solution
def mean_nats(logits, targets):
    log_p = logits.log_softmax(-1)  # not log(softmax): exp overflows, log(0) is -inf
    real = targets >= 0
    # Choose the real places first: -100 is an index too, from the end.
    chosen = log_p[real].gather(1, targets[real][:, None])  # (targets, 1)
    return -chosen.mean()


# %% mistake: you divide by all
def mean_nats(logits, targets):
    log_p = logits.log_softmax(-1)
    real = targets >= 0
    return -log_p[real].gather(1, targets[real][:, None]).sum() / targets.numel()


# %% mistake: the softmax is missing
def mean_nats(logits, targets):
    real = targets >= 0
    return -logits[real].gather(1, targets[real][:, None]).mean()


# %% mistake: the hundredth token from the end
def mean_nats(logits, targets):
    log_p = logits.log_softmax(-1)
    return -log_p.gather(2, targets.remainder(389)[..., None]).mean()


# %% mistake: you leave out a target with the id 0
def mean_nats(logits, targets):
    log_p = logits.log_softmax(-1)
    real = targets > 0
    return -log_p[real].gather(1, targets[real][:, None]).mean()


# %% mistake: the sign is turned round
def mean_nats(logits, targets):
    real = targets >= 0
    return logits.log_softmax(-1)[real].gather(1, targets[real][:, None]).mean()


# %% mistake: exp gave 0
def mean_nats(logits, targets):
    log_p = logits.softmax(-1).log()
    real = targets >= 0
    return -log_p[real].gather(1, targets[real][:, None]).mean()


# %% mistake: what you are asked to write
def mean_nats(logits, targets):
    return cross_entropy(logits.flatten(0, 1), targets.flatten())


# %% mistake: exp overflows
def mean_nats(logits, targets):
    p = logits.exp() / logits.exp().sum(-1, keepdim=True)
    real = targets >= 0
    return -p[real].gather(1, targets[real][:, None]).log().mean()


# %% rate_at: Up and down
# Write `rate_at(step, peak, warmup, steps)`: the learning rate of step 0, 1, ..., `steps` - 1, a
# float. It rises in equal parts during the first `warmup` steps, to `peak` in the last of them.
# Then it follows half a cosine, from `peak` in step `warmup` to 0 in step `steps`, which is never
# taken. `import math` is done.
# %% stub
def rate_at(step, peak, warmup, steps):
    pass  # your code


# %% check
check_rate_at(rate_at)


# %% solution
def rate_at(step, peak, warmup, steps):
    if step < warmup:
        # + 1: a step with the rate 0 would be work for nothing.
        return peak * (step + 1) / warmup
    # The cosine begins where the line ends, not in step 0.
    share = (step - warmup) / (steps - warmup)
    return peak * (1 + math.cos(math.pi * share)) / 2


# %% mistake: computes a gradient and changes nothing
def rate_at(step, peak, warmup, steps):
    if step < warmup:
        return peak * step / warmup
    return peak * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


# %% mistake: the cosine must begin
def rate_at(step, peak, warmup, steps):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1 + math.cos(math.pi * step / steps)) / 2


# %% mistake: which is never taken
def rate_at(step, peak, warmup, steps):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1 + math.cos(math.pi * (step - warmup) / (steps - 1 - warmup))) / 2


# %% mistake: below 0
def rate_at(step, peak, warmup, steps):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * math.cos(math.pi * (step - warmup) / (steps - warmup))


# %% mistake: not a cosine between
def rate_at(step, peak, warmup, steps):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1 - (step - warmup) / (steps - warmup))


# %% clip: A gradient on a leash
# Write `clip(gradients, max_norm)`. `gradients` is a list of tensors of any shapes, one for each
# parameter. Together they are one long vector. Return a list of new tensors of the same shapes:
# the same vector if its length is at most `max_norm`, else one of length `max_norm` in the same
# direction.
# %% stub
def clip(gradients, max_norm):
    pass  # your code


# %% check
check_clip(clip)


# %% solution
def clip(gradients, max_norm):
    # The length of the whole, by Pythagoras, from the lengths of its parts.
    norm = torch.stack([g.norm() for g in gradients]).norm()
    # At most 1: what is short enough must not be made longer.
    factor = min(1.0, (max_norm / norm).item())
    return [g * factor for g in gradients]


# %% mistake: worked in place
def clip(gradients, max_norm):
    norm = torch.stack([g.norm() for g in gradients]).norm()
    return [g.mul_(min(1.0, (max_norm / norm).item())) for g in gradients]


# %% mistake: hand back the tensors
def clip(gradients, max_norm):
    norm = torch.stack([g.norm() for g in gradients]).norm()
    if norm <= max_norm:
        return gradients
    return [g * max_norm / norm for g in gradients]


# %% mistake: each tensor is cut by itself
def clip(gradients, max_norm):
    return [g * min(1.0, (max_norm / g.norm()).item()) for g in gradients]


# %% mistake: single numbers are clamped
def clip(gradients, max_norm):
    return [g.clamp(-max_norm, max_norm) for g in gradients]


# %% mistake: float32 is asked for
def clip(gradients, max_norm):
    norm = torch.stack([g.norm() for g in gradients]).norm()
    return [(g * min(1.0, (max_norm / norm).item())).half() for g in gradients]


# %% mistake: points elsewhere
def clip(gradients, max_norm):
    norm = torch.stack([g.norm() for g in gradients]).norm()
    return [-g * min(1.0, (max_norm / norm).item()) for g in gradients]


# %% mistake: was made longer
def clip(gradients, max_norm):
    norm = torch.stack([g.norm() for g in gradients]).norm()
    return [g * max_norm / norm for g in gradients]


# %% gradients_in_turns: Many turns, one gradient
# Write `gradients_in_turns(model, turns)`. `turns` is a list of `Batch`; some of their targets are
# -100. `model(batch.tokens, batch.prefix_len)` gives logits, `(B, l, V)`. Return a list of tensors,
# one for each of `model.parameters()`: the gradient of the mean loss of all targets together, as if
# the turns were one batch. (By targets, not by places: here all turns are at hand.) The model may come
# with gradients of an earlier step; what you leave in it does not matter.
# `cross_entropy(..., reduction="sum")` leaves out -100 by itself.
# %% stub
def gradients_in_turns(model, turns):
    pass  # your code


# %% check
check_gradients_in_turns(gradients_in_turns)


# %% solution
def gradients_in_turns(model, turns):
    # Known before the first turn, so that each can be divided by it.
    count = sum((turn.targets >= 0).sum() for turn in turns)
    model.zero_grad()  # once: backward() adds to what is there
    for turn in turns:
        logits = model(turn.tokens, turn.prefix_len)  # (B, l, V)
        loss = cross_entropy(
            logits.flatten(0, 1), turn.targets.flatten(), reduction="sum"
        )
        (loss / count).backward()  # frees this turn's activations
    return [p.grad for p in model.parameters()]


# %% mistake: a mean of means
def gradients_in_turns(model, turns):
    model.zero_grad()
    for turn in turns:
        logits = model(turn.tokens, turn.prefix_len)
        loss = cross_entropy(logits.flatten(0, 1), turn.targets.flatten())
        (loss / len(turns)).backward()
    return [p.grad for p in model.parameters()]


# %% mistake: gradients of an earlier step
def gradients_in_turns(model, turns):
    count = sum((turn.targets >= 0).sum() for turn in turns)
    for turn in turns:
        logits = model(turn.tokens, turn.prefix_len)
        loss = cross_entropy(
            logits.flatten(0, 1), turn.targets.flatten(), reduction="sum"
        )
        (loss / count).backward()
    return [p.grad for p in model.parameters()]


# %% mistake: so as not to count across processes
def gradients_in_turns(model, turns):
    places = sum(turn.targets.numel() for turn in turns)
    model.zero_grad()
    for turn in turns:
        logits = model(turn.tokens, turn.prefix_len)
        loss = cross_entropy(
            logits.flatten(0, 1), turn.targets.flatten(), reduction="sum"
        )
        (loss / places).backward()
    return [p.grad for p in model.parameters()]


# %% mistake: you leave out a target with the id 0
def gradients_in_turns(model, turns):
    count = sum((turn.targets > 0).sum() for turn in turns)
    model.zero_grad()
    for turn in turns:
        logits = model(turn.tokens, turn.prefix_len)
        loss = cross_entropy(
            logits.flatten(0, 1), turn.targets.flatten(), reduction="sum"
        )
        (loss / count).backward()
    return [p.grad for p in model.parameters()]


# %% mistake: only the last turn is left
def gradients_in_turns(model, turns):
    count = sum((turn.targets >= 0).sum() for turn in turns)
    for turn in turns:
        model.zero_grad()
        logits = model(turn.tokens, turn.prefix_len)
        loss = cross_entropy(
            logits.flatten(0, 1), turn.targets.flatten(), reduction="sum"
        )
        (loss / count).backward()
    return [p.grad for p in model.parameters()]


# %% mistake: are added up
def gradients_in_turns(model, turns):
    model.zero_grad()
    for turn in turns:
        logits = model(turn.tokens, turn.prefix_len)
        cross_entropy(logits.flatten(0, 1), turn.targets.flatten()).backward()
    return [p.grad for p in model.parameters()]


# %% plan_run: A run for your budget
# *Open.* Write `plan_run(hours, tokens_per_second)`: a `TrainingConfig` (it must have `model` and
# `stages`) for a machine that predicts so many tokens a second. (Measure yours: it changes with the
# model.) Predicted tokens, steps x windows x latents, must be at most what the time
# allows and at least 90 % of it. Two stages or more,
# `Stage(steps=..., num_latents=..., max_prefix_len=..., batch_size=...)`, each a tenth of the steps at
# least; windows (`num_latents + max_prefix_len`) grow, to the model's `max_seq_len` in the last. (A
# model's longest prefix is `max_seq_len - max_latents`.) Each step predicts about as many tokens as
# every other, within a factor of 2. Some warm-up, at most a tenth of the steps. At most one parameter
# for each predicted token; and a day at 60,000 tokens a second gets a larger model than an hour at
# 5,000.
# %% stub
def plan_run(hours, tokens_per_second):
    pass  # your code


# %% check
check_plan_run(plan_run)


# %% solution
def plan_run(hours, tokens_per_second):
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


# %% mistake: Only latents predict
def plan_run(hours, tokens_per_second):
    model = PerceiverConfig(max_seq_len=1024, max_latents=512, num_channels=128)
    steps = int(hours * 3600 * tokens_per_second) // 4096
    stage = Stage(steps=steps // 2, num_latents=256, max_prefix_len=256, batch_size=16)
    last = Stage(steps=steps, num_latents=512, max_prefix_len=512, batch_size=8)
    return TrainingConfig(model=model, stages=(stage, last))


# %% mistake: The prefix predicts nothing
def plan_run(hours, tokens_per_second):
    model = PerceiverConfig(max_seq_len=1024, max_latents=512, num_channels=128)
    steps = int(hours * 3600 * tokens_per_second) // 8192
    stage = Stage(steps=steps // 2, num_latents=256, max_prefix_len=256, batch_size=16)
    last = Stage(steps=steps // 2, num_latents=512, max_prefix_len=512, batch_size=8)
    return TrainingConfig(model=model, stages=(stage, last))


# %% mistake: windows should grow
def plan_run(hours, tokens_per_second):
    model = PerceiverConfig(max_seq_len=1024, max_latents=512, num_channels=128)
    steps = int(hours * 3600 * tokens_per_second) // 4096
    stage = Stage(steps=steps, num_latents=512, max_prefix_len=512, batch_size=8)
    return TrainingConfig(model=model, stages=(stage,))


# %% mistake: a tenth of them at least
def plan_run(hours, tokens_per_second):
    model = PerceiverConfig(max_seq_len=1024, max_latents=512, num_channels=128)
    steps = int(hours * 3600 * tokens_per_second) // 4096
    stage = Stage(steps=5, num_latents=256, max_prefix_len=256, batch_size=16)
    last = Stage(steps=steps - 5, num_latents=512, max_prefix_len=512, batch_size=8)
    return TrainingConfig(model=model, stages=(stage, last), warmup_steps=100)


# %% mistake: what it never met
def plan_run(hours, tokens_per_second):
    model = PerceiverConfig(max_seq_len=2048, max_latents=1024, num_channels=128)
    steps = int(hours * 3600 * tokens_per_second) // 4096
    stage = Stage(steps=steps // 2, num_latents=256, max_prefix_len=256, batch_size=16)
    last = Stage(steps=steps // 2, num_latents=512, max_prefix_len=512, batch_size=8)
    return TrainingConfig(model=model, stages=(stage, last))


# %% mistake: gets the model of an hour
def plan_run(hours, tokens_per_second):
    model = PerceiverConfig(
        max_seq_len=1024, max_latents=512, num_channels=128, num_self_attention_layers=2
    )
    steps = int(hours * 3600 * tokens_per_second) // 4096
    stage = Stage(steps=steps // 2, num_latents=256, max_prefix_len=256, batch_size=16)
    last = Stage(
        steps=steps - steps // 2, num_latents=512, max_prefix_len=512, batch_size=8
    )
    return TrainingConfig(model=model, stages=(stage, last), warmup_steps=200)
