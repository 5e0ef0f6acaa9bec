"""Training on Lightning Fabric: one loop for a CPU, a GPU, several GPUs or machines.

Axis letters: B batch, n tokens in the window, m prefix, l latents, V vocabulary.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import MISSING, asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from tinyperceiver.data import (
    Batch,
    TokenFile,
    Windows,
    fixed_windows,
    targets_without_replacement,
)
from tinyperceiver.files import alone_in
from tinyperceiver.generation import generate
from tinyperceiver.model import PRESETS, DecoderLayer, PerceiverAR, PerceiverConfig
from tinyperceiver.tokenizer import decode_midi

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = [
    "RUNS",
    "Stage",
    "TrainingConfig",
    "TrainingError",
    "learning_rate_at",
    "make_fabric",
    "make_optimizers",
    "nats_per_token",
    "sum_of_losses",
    "train",
    "training_step",
]

SPLITS = "train", "valid"
# In the folder of a run.
STATE, CONFIG, LOG, SPEED = "last.ckpt", "config.json", "log.jsonl", "speed.jsonl"
SAMPLE_PROMPT, SAMPLE_TOKENS = 256, 512
# A model may differ in these from the one it starts from: they change neither the shape
# nor the meaning of a weight.
FREE = (
    "max_seq_len",
    "max_latents",
    "cross_attention_dropout",
    "post_attention_dropout",
    "residual_dropout",
    "init_scale",
)


class TrainingError(RuntimeError):
    """Training cannot begin or go on. Says where it stands, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Some steps of training with equally many latents in each window."""

    steps: int
    num_latents: int  # l
    max_prefix_len: int  # each step draws a prefix length m from 0 to this
    batch_size: int  # windows per step, over all processes


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A run of training: with the data, all that its result depends on.

    But for rounding, and for what dropout draws: both also depend on the device, and on
    how the windows of a step are shared out among processes and turns.

    Raises:
        ValueError: a field is out of range, named with its value.
    """

    model: PerceiverConfig
    stages: tuple[Stage, ...]  # one after the other: windows may grow
    optimizer: str = "adamw"  # or "muon": Muon for the matrices of the layers
    learning_rate: float = 2e-4  # after the warm-up
    warmup_steps: int = 200  # the rate rises from 0 along a line
    schedule: str = "cosine"  # then it falls; or "trapezoid": flat, then a line to 0
    decay_fraction: float = 0.45  # of all steps are on that line of the trapezoid
    weight_decay: float = 0.01  # of matrices; norms and biases are free of it
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW
    max_norm: float = 0.5  # longer gradients of an optimizer are cut to this length
    replacement: bool = True  # False: no target again before each has come once
    transpose: int = 0  # most semitones by which a window is moved
    stretch: float = 0.0  # most by which its time is stretched or shortened
    seed: int = 0
    precision: str = "32-true"  # or "bf16-mixed" or "16-mixed"
    validate_every: int = 1000  # steps
    num_windows: int = 64  # to validate on
    save_every: int = 1000  # steps

    def __post_init__(self) -> None:
        positive = ("learning_rate", "max_norm")
        counts = ("validate_every", "num_windows", "save_every")
        for name in positive + counts:
            value = getattr(self, name)
            types = int if name in counts else (int, float)
            if not isinstance(value, types) or not value > 0:
                kind = "a whole number >= 1" if name in counts else "positive"
                raise ValueError(f"{name} must be {kind}, not {value!r}")
        for name in ("warmup_steps", "weight_decay", "transpose", "stretch", "seed"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not value >= 0:
                raise ValueError(f"{name} must be 0 or more, not {value!r}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in 0 ... 1, not {self.betas}")
        if self.stretch >= 1:
            raise ValueError(f"stretch must be less than 1, not {self.stretch}")
        for name, choices in (
            ("optimizer", ("adamw", "muon")),
            ("schedule", ("cosine", "trapezoid")),
            ("replacement", (True, False)),
            ("precision", ("32-true", "bf16-mixed", "16-mixed")),
        ):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(str, choices))}, not {value!r}"
                )
        fraction = self.decay_fraction
        if not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
            raise ValueError(
                f"decay_fraction must be above 0 and at most 1, not {self.decay_fraction}"
            )
        if self.stretch and not self.replacement:
            raise ValueError(
                f"stretch is {self.stretch}, which needs replacement: a stretched window "
                f"has more targets than its place, or fewer"
            )
        if self.optimizer == "muon" and self.precision == "16-mixed":
            raise ValueError(
                "optimizer muon does not work with precision 16-mixed, which adapts its "
                "loss scale to one optimizer: use bf16-mixed or 32-true"
            )
        if not self.stages:
            raise ValueError("stages must name at least one stage")
        for i, stage in enumerate(self.stages):
            for name, value in vars(stage).items():
                least = 0 if name == "max_prefix_len" else 1
                if not isinstance(value, int) or value < least:
                    raise ValueError(
                        f"stages[{i}].{name} must be a whole number >= {least}, not "
                        f"{value!r}"
                    )
            for name, most in (
                ("num_latents", self.model.max_latents),
                ("max_prefix_len", self.model.max_prefix_len),
            ):
                if getattr(stage, name) > most:
                    raise ValueError(
                        f"stages[{i}].{name} is {getattr(stage, name)}, but the model "
                        f"takes at most {most}"
                    )

    @property
    def steps(self) -> int:
        """Steps of all stages together."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        """The stage that step 0, 1, ... belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                break
            step -= stage.steps
        return stage

    def to_json(self) -> dict:
        """The same as plain dictionaries and lists."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, settings: dict) -> "TrainingConfig":
        """Back from `to_json`, or from a file that someone wrote.

        Raises:
            ValueError: a field is missing, unknown or out of range.
        """
        settings = _fields_of(cls, settings, "the configuration")
        model = _fields_of(PerceiverConfig, settings["model"], "model")
        if not isinstance(settings["stages"], list):
            raise ValueError(f"stages must be a list, not {settings['stages']!r}")
        stages = tuple(
            Stage(**_fields_of(Stage, stage, f"stages[{i}]"))
            for i, stage in enumerate(settings["stages"])
        )
        try:
            settings["betas"] = tuple(settings.get("betas", cls.betas))
            settings |= {"model": PerceiverConfig(**model), "stages": stages}
            return cls(**settings)
        except TypeError as error:
            raise ValueError(f"this is no training configuration: {error}") from error


def _fields_of(kind: type, settings: object, what: str) -> dict:
    if not isinstance(settings, dict):
        raise ValueError(f"{what} must be an object of named fields, not {settings!r}")
    known = {field.name: field.default for field in fields(kind)}
    if unknown := settings.keys() - known.keys():
        raise ValueError(f"{what} has unknown fields: {', '.join(sorted(unknown))}")
    required = {name for name, default in known.items() if default is MISSING}
    if missing := required - settings.keys():
        raise ValueError(f"{what} lacks fields: {', '.join(sorted(missing))}")
    return dict(settings)


# Name -> run. "released" is what was published of the training of the released model,
# "tiny" the run whose checkpoint ships with the package, "small" the run of the next one:
# see book/runs.
RUNS = {
    "released": TrainingConfig(
        model=PRESETS["released"],
        stages=(
            Stage(steps=20_000, num_latents=2048, max_prefix_len=4096, batch_size=32),
        ),
    ),
    "tiny": TrainingConfig(
        model=PRESETS["tiny"],
        # 4,096 targets a step. Many cheap steps first: attention costs less on short
        # windows, and there is enough to learn from them.
        stages=(
            Stage(steps=2000, num_latents=256, max_prefix_len=0, batch_size=16),
            Stage(steps=4000, num_latents=256, max_prefix_len=256, batch_size=16),
            Stage(steps=3000, num_latents=512, max_prefix_len=512, batch_size=8),
            Stage(steps=2000, num_latents=1024, max_prefix_len=1024, batch_size=4),
        ),
        learning_rate=1.5e-3,
        weight_decay=0.05,
        betas=(0.9, 0.98),
        max_norm=1.0,
        precision="bf16-mixed",
        validate_every=500,
        save_every=250,
    ),
    "small": TrainingConfig(
        model=PRESETS["small"],
        # 8,192 targets a step, 418 million in all: 75 million about 5.6 times each.
        stages=(
            Stage(steps=10_000, num_latents=256, max_prefix_len=256, batch_size=32),
            Stage(steps=15_000, num_latents=512, max_prefix_len=512, batch_size=16),
            Stage(steps=26_000, num_latents=1024, max_prefix_len=1024, batch_size=8),
        ),
        optimizer="muon",
        learning_rate=4e-3,
        schedule="trapezoid",
        weight_decay=0.05,
        betas=(0.9, 0.98),
        max_norm=1.0,
        replacement=False,
        precision="bf16-mixed",
        save_every=200,
    ),
}


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Rate of step 0, 1, ...: a line up to the full rate, then down to 0.

    The cosine falls from the end of the warm-up on. The trapezoid stays at the full
    rate and falls along a line over the last `decay_fraction` of all steps.

    Sources: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983, equation 5,
    without restarts; Hägele et al. 2024, https://arxiv.org/abs/2405.18392, section 3.
    """
    rise = (step + 1) / max(config.warmup_steps, 1)
    if config.schedule == "trapezoid":
        fall = (config.steps - step) / (config.decay_fraction * config.steps)
        return config.learning_rate * min(rise, fall, 1)
    if step < config.warmup_steps:
        return config.learning_rate * rise
    share = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.learning_rate * (1 + math.cos(math.pi * share)) / 2


def make_optimizers(
    model: nn.Module, config: TrainingConfig
) -> list[torch.optim.Optimizer]:
    """Make AdamW, or Muon for the matrices of the layers and AdamW for the rest.

    Only matrices decay: a norm's scale has no reason to shrink.

    Sources: Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101; Jordan et al.
    2024, https://kellerjordan.github.io/posts/muon. Muon's steps are made as long as
    AdamW's, so that both take one rate: Liu et al. 2025,
    https://arxiv.org/abs/2502.16982, section 2.2.

    Returns:
        AdamW, and after it Muon where `config` asks for it.
    """
    of_layers, matrices, others = [], [], []
    for module in model.modules():
        # By kind, not by shape: FSDP lays all parameters out in one dimension.
        is_layers = isinstance(module, nn.Linear) and config.optimizer == "muon"
        is_matrix = isinstance(module, (nn.Linear, nn.Embedding))
        for name, parameter in module.named_parameters(recurse=False):
            if not is_matrix or name != "weight":
                others.append(parameter)
            else:
                (of_layers if is_layers else matrices).append(parameter)
    adamw = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=config.betas,
        # All parameters in one pass over memory. With float16, gradients must be scaled
        # back before they are cut, which the fused one leaves for later.
        fused=config.precision != "16-mixed",
    )
    if config.optimizer == "adamw":
        return [adamw]
    muon = torch.optim.Muon(
        of_layers,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        momentum=0.95,
        adjust_lr_fn="match_rms_adamw",
    )
    return [adamw, muon]


def sum_of_losses(model: nn.Module, batch: Batch) -> Tensor:
    """Nats, summed over the targets of `batch`; ignored ones add nothing."""
    logits = model(batch.tokens, batch.prefix_len, batch.pad_mask)  # (B, l, V)
    return cross_entropy(
        logits.float().flatten(0, 1), batch.targets.flatten(), reduction="sum"
    )


@torch.no_grad()
def nats_per_token(model: nn.Module, batch: Batch, rows_at_once: int = 8) -> float:
    """Mean nats of the targets of `batch`, by a model in eval mode."""
    parts = batch.split(rows_at_once)
    total = sum(sum_of_losses(model, part).double() for part in parts)
    return (total / (batch.targets >= 0).sum()).item()


class Progress(NamedTuple):
    """What a step of training saw."""

    loss: float  # nats per token, before the step
    norm: float  # length of the gradient, before it is cut
    tokens: int  # targets, over all processes


def training_step(
    fabric: "Fabric",
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    batches: list[Batch],
    max_norm: float,
) -> Progress:
    """Change the weights once, by what one process's share of a step's windows says.

    Args:
        model, optimizers: set up by `fabric`.
        batches: the share, in as many turns as memory asks for.
        max_norm: a longer gradient of an optimizer's weights is cut to this length.

    Raises:
        FloatingPointError: loss or gradient is not finite; the weights are as before.
    """
    # Places, not targets: no process need know how many targets the others have. A step
    # with few targets weighs less; where pieces are long, hardly any place lacks one.
    places = sum(batch.targets.numel() for batch in batches)
    total = torch.zeros(2, dtype=torch.float64, device=fabric.device)
    for turn, batch in enumerate(batches, start=1):
        batch = fabric.to_device(batch)
        # Processes average their gradients once, after the last turn; those that hold
        # parts of a model (FSDP) each time, so that none needs room for all of them.
        waits = turn < len(batches) and not _is_sharded(fabric)
        with fabric.no_backward_sync(model, enabled=waits):
            loss = sum_of_losses(model, batch)
            fabric.backward(loss / places)
        total += torch.stack((loss.detach(), (batch.targets >= 0).sum()))
    norms = [
        fabric.clip_gradients(
            model, optimizer, max_norm=max_norm, error_if_nonfinite=False
        )
        for optimizer in optimizers
    ]
    norm = torch.stack(norms).norm()
    loss, tokens = fabric.all_reduce(total, reduce_op="sum").tolist()
    # Float16 alone has a state, its scale: overflow is expected, and the step left out.
    is_scaled = bool(fabric.strategy.precision.state_dict())
    if not math.isfinite(loss) or not (is_scaled or norm.isfinite()):
        raise FloatingPointError(
            f"loss {loss / max(tokens, 1)}, length of gradient {norm}"
        )
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return Progress(loss / max(tokens, 1), norm.item(), int(tokens))


def train(
    config: TrainingConfig,
    data: str | os.PathLike,
    out: str | os.PathLike,
    *,
    initial_model: PerceiverAR | None = None,
    fabric: "Fabric | None" = None,
    rows_at_once: int = 8,
    checkpoint_activations: bool = False,
    compile: bool = False,
    stop_after: int | None = None,
) -> PerceiverAR:
    """Train a model, or go on with a run that was stopped.

    Args:
        config: what to train, on which windows, for how long.
        data: folder with train.bin and valid.bin, from `tinyperceiver prepare`.
        out: folder of the run. One that was stopped goes on from its last save, and
            ends, on the same CPUs and threads with the same options, in the same bits
            as if nothing had happened.
        initial_model: weights to start from, instead of random ones. They are measured
            before the first step, and `out`/best holds them until a step is better. A
            resumed run may leave them out; other weights are refused.
        fabric: where to run, from `make_fabric`; by default the best device there is.
        rows_at_once: windows that a process computes together; a step's batch_size is
            shared out among processes, and gone through in as many turns as it takes.
            The result is the same but for rounding, and for what dropout draws.
        checkpoint_activations: compute activations twice instead of keeping them.
        compile: let torch.compile make faster code of the layers after the hybrid one;
            needs a compiler.
        stop_after: pause when this many steps are done.

    Returns:
        The model as trained so far, in eval mode. At the end `out`/model holds it, and
        `out`/best the one with the lowest held-out loss in the last stage, for
        `from_pretrained`.

    Raises:
        TrainingError: `out` holds another run, `initial_model` has another shape, the
            loss is no longer finite, or memory is short.
        DataError: a token file is unfit.
    """
    out = Path(out)
    fabric = fabric or make_fabric(config.precision)
    fabric.launch()
    train_data, valid_data = (TokenFile(Path(data) / f"{s}.bin") for s in SPLITS)
    _check_run(fabric, config, (train_data, valid_data), out, initial_model)

    torch.manual_seed(config.seed)
    model = PerceiverAR(config.model)
    if initial_model is not None:
        model.load_state_dict(initial_model.state_dict())
    if checkpoint_activations:
        _checkpoint_activations(model)
    if compile:
        # Not the hybrid layer: its prefix has another length at each step.
        for layer in model.layers:
            layer.compile()
    model = fabric.setup_module(model)
    optimizers = [fabric.setup_optimizers(o) for o in make_optimizers(model, config)]
    state = {"model": model, "step": 0, "scaler": {}, "best": math.inf}
    state |= {"window": (0, 0)}
    state |= zip(("optimizer", "muon"), optimizers, strict=False)
    _load_state(fabric, state, out)

    last = config.steps if stop_after is None else min(stop_after, config.steps)
    steps = range(state["step"], last)
    journal = _Journal(fabric, out, steps)
    with journal, _explained(state, out, rows_at_once, config):
        if initial_model is not None and not (out / STATE).exists():
            _validate(fabric, config, state, valid_data, out, journal, rows_at_once)
        for step, batches in _batches(config, fabric, train_data, steps, rows_at_once):
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate_at(step, config)
            # Dropout depends on the step alone, too: a resumed run drops the same.
            torch.manual_seed(_seed_of(config.seed, step, fabric.global_rank))
            progress = training_step(
                fabric, model, optimizers, batches, config.max_norm
            )
            state["step"] = step + 1
            journal.write_step(step + 1, progress, learning_rate_at(step, config))
            if (step + 1) % config.validate_every == 0 or step + 1 == config.steps:
                _validate(fabric, config, state, valid_data, out, journal, rows_at_once)
            elif (step + 1) % config.save_every == 0 or step + 1 == last:
                _save_state(fabric, state, out)
    model = _saved_model(fabric, config, out / STATE)
    if state["step"] == config.steps and fabric.is_global_zero:
        model.save_pretrained(out / "model")
    return model


def make_fabric(
    precision: str = "32-true",
    *,
    accelerator: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
) -> "Fabric":
    """A `Fabric` to train on: https://lightning.ai/docs/fabric/stable/api/fabric_args.html.

    Args:
        precision: "32-true", or products in fewer bits: "bf16-mixed", "16-mixed".
        accelerator: "cpu", "gpu", or "auto" for the best there is.
        devices: GPUs of each machine, or processes on its CPU.
        num_nodes: machines.
        strategy: "ddp", each process with a whole model; "fsdp", each with a part of
            it, on GPUs only; or "auto".
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import FSDPStrategy

    if strategy == "fsdp":
        strategy = FSDPStrategy(auto_wrap_policy={DecoderLayer}, state_dict_type="full")
    return Fabric(
        precision=precision,
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=strategy,
    )


def _batches(
    config: TrainingConfig,
    fabric: "Fabric",
    data: TokenFile,
    steps: range,
    rows_at_once: int,
) -> Iterator[tuple[int, list[Batch]]]:
    """Each of `steps` with the batches that this process computes of it."""
    targets, begin = None, 0
    if not config.replacement:
        sizes = [(s.steps, s.batch_size, s.num_latents) for s in config.stages]
        targets = targets_without_replacement(data, sizes, seed=config.seed)
    for stage in config.stages:
        here = range(max(begin, steps.start), min(begin + stage.steps, steps.stop))
        begin += stage.steps
        if not here:
            continue
        share = stage.batch_size // fabric.world_size
        rows = range(fabric.global_rank * share, (fabric.global_rank + 1) * share)
        turns = [rows[i : i + rows_at_once] for i in range(0, share, rows_at_once)]
        windows = Windows(
            data,
            stage.num_latents,
            stage.max_prefix_len,
            seed=config.seed,
            transpose=config.transpose,
            stretch=config.stretch,
            targets=targets,
        )
        on_gpu = fabric.device.type == "cuda"
        loader = DataLoader(
            windows,
            batch_size=None,  # an item is a batch already
            sampler=[(step, turn) for step in here for turn in turns],
            num_workers=2 if on_gpu else 0,
            pin_memory=on_gpu,
        )
        items = iter(loader)
        for step in here:
            yield step, [next(items) for _ in turns]


def _validate(
    fabric: "Fabric",
    config: TrainingConfig,
    state: dict,
    data: TokenFile,
    out: Path,
    journal: "_Journal",
    rows_at_once: int,
) -> None:
    """Measure held-out nats, save, and write a sample and what is best so far."""
    model, step = state["model"], state["step"]
    stage = config.stage_at(max(step - 1, 0))
    fixed = fixed_windows(
        data, config.num_windows, stage.max_prefix_len, stage.num_latents
    )
    drawn = Windows(data, stage.num_latents, stage.max_prefix_len, seed=config.seed)
    model.eval()
    held_out, held_out_random = (
        nats_per_token(model, fabric.to_device(batch), rows_at_once)
        for batch in (fixed, drawn[0, range(config.num_windows)])
    )
    model.train()
    journal.write_validation(
        step, stage.max_prefix_len + stage.num_latents, held_out, held_out_random
    )
    # Other windows, other nats: a stage begins anew.
    is_best = (stage.num_latents, stage.max_prefix_len) != state["window"] or (
        held_out < state["best"]
    )
    if is_best:
        state["best"] = held_out
        state["window"] = stage.num_latents, stage.max_prefix_len
    # Committed last: a run killed in between measures and samples again.
    _write_state(fabric, state, out)
    if fabric.is_global_zero:
        whole = _saved_model(fabric, config, _staged(out / STATE))
        _write_sample(whole, data, out / "samples" / f"step-{step:06}.mid")
        if is_best:
            whole.save_pretrained(out / "best")
    _commit_state(fabric, out)


def _write_sample(model: PerceiverAR, data: TokenFile, path: Path) -> None:
    """Continue the first held-out piece that is long enough; always the same draw."""
    longest = int(data.lengths.argmax())
    piece = next((p for p in data if len(p) >= SAMPLE_PROMPT), data[longest])
    prompt = torch.from_numpy(piece[:SAMPLE_PROMPT].astype("int64"))[None]
    config = model.config
    prompt = prompt[:, : config.max_seq_len // 2]
    output = generate(
        model,
        prompt,
        max_new_tokens=SAMPLE_TOKENS,
        # What is no latent must fit into the prefix.
        num_latents=max(
            min(config.max_latents, 64), prompt.shape[1] - config.max_prefix_len
        ),
        do_sample=True,
        top_p=0.95,
        generator=torch.Generator().manual_seed(0),
    )
    path.parent.mkdir(exist_ok=True)
    decode_midi(output[0].cpu()).write(str(path))


def _check_run(
    fabric: "Fabric",
    config: TrainingConfig,
    data: tuple[TokenFile, ...],
    out: Path,
    initial_model: PerceiverAR | None,
) -> None:
    """Refuse at once what would fail hours later, and a folder of another run."""
    if initial_model is not None:
        for name, given in vars(initial_model.config).items():
            wanted = getattr(config.model, name)
            if given != wanted and name not in FREE:
                raise TrainingError(
                    f"the model to start from has {name} = {given}, but the configuration "
                    f"asks for {wanted}"
                )
    for tokens in data:
        if (highest := tokens.tokens.max()) >= config.model.vocab_size:
            raise TrainingError(
                f"{tokens.path} holds token {highest}; the model knows 0 ... "
                f"{config.model.vocab_size - 1}"
            )
    if config.optimizer == "muon" and _is_sharded(fabric):
        raise TrainingError(
            "optimizer muon needs whole matrices, and FSDP gives each process a part of "
            "each: use the strategy ddp, or the optimizer adamw"
        )
    for i, stage in enumerate(config.stages):
        if stage.batch_size % fabric.world_size:
            raise TrainingError(
                f"stages[{i}].batch_size is {stage.batch_size}, which "
                f"{fabric.world_size} processes cannot share out evenly"
            )
        size = stage.max_prefix_len, stage.num_latents
        fixed_windows(data[1], config.num_windows, *size)
    digests = {d.path.name: hashlib.sha256(d.tokens).hexdigest() for d in data}
    if initial_model is not None:
        digests["initial_weights"] = _digest_of(initial_model)
    run = {"config": config.to_json(), "data": digests}
    path = out / CONFIG
    if fabric.is_global_zero and not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        _staged(path).write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
        os.replace(_staged(path), path)
    fabric.barrier()
    if not path.exists():
        raise TrainingError(
            f"process {fabric.global_rank} does not see {path}, which process 0 wrote: "
            f"all machines must share this folder"
        )
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        # What a later version adds to a configuration had its default then.
        before["config"] = TrainingConfig.from_json(before["config"]).to_json()
        if initial_model is None and (out / STATE).exists():
            # The save holds what they became, so they need not be fetched again.
            before["data"].pop("initial_weights", None)
        different = sorted(
            name
            for part in run
            for name in run[part] | before[part]
            if run[part].get(name) != before[part].get(name)
        )
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} is not of a run of training: {error}") from error
    if different:
        raise TrainingError(
            f"{out} holds a run with other {', '.join(different)}: name another "
            f"folder, or remove this one to begin again"
        )
    fabric.barrier()


def _digest_of(model: PerceiverAR) -> str:
    """The SHA-256 of a model's weights as float32, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy())
    return digest.hexdigest()


def _load_state(fabric: "Fabric", state: dict, out: Path) -> None:
    if (out / STATE).exists():
        fabric.load(out / STATE, state, weights_only=True)
        fabric.strategy.precision.load_state_dict(state["scaler"])


def _save_state(fabric: "Fabric", state: dict, out: Path) -> None:
    """Save all that the rest of the run depends on; a kill leaves the last save whole."""
    _write_state(fabric, state, out)
    _commit_state(fabric, out)


def _write_state(fabric: "Fabric", state: dict, out: Path) -> None:
    state["scaler"] = fabric.strategy.precision.state_dict()
    fabric.save(_staged(out / STATE), state)
    fabric.barrier()


def _commit_state(fabric: "Fabric", out: Path) -> None:
    if fabric.is_global_zero:
        with open(_staged(out / STATE), "rb+") as file:
            os.fsync(file.fileno())
        os.replace(_staged(out / STATE), out / STATE)
    fabric.barrier()


def _saved_model(fabric: "Fabric", config: TrainingConfig, path: Path) -> PerceiverAR:
    saved = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    model = PerceiverAR(config.model)
    model.load_state_dict(saved["model"])
    # One that is sharded may be too large for a GPU.
    return model.to("cpu" if _is_sharded(fabric) else fabric.device).eval()


def _is_sharded(fabric: "Fabric") -> bool:
    from lightning_fabric.strategies import FSDPStrategy

    return isinstance(fabric.strategy, FSDPStrategy)


def _staged(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def _checkpoint_activations(model: PerceiverAR) -> None:
    """Keep only what enters a layer; compute the rest again when gradients need it.

    Source: Chen et al. 2016, https://arxiv.org/abs/1604.06174.
    """
    for layer in (model.hybrid_layer, *model.layers):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def _explained(
    state: dict, out: Path, rows_at_once: int, config: TrainingConfig
) -> Iterator[None]:
    """Say where a run stands that cannot go on, and what to do."""
    try:
        yield
    except FloatingPointError as error:
        saved = "nothing is saved"
        if (out / STATE).exists():
            saved = f"the last save is in {out / STATE}"
        remedies = "a lower learning_rate or a longer warm-up"
        if config.precision != "32-true":
            remedies = f"float32, {remedies}"
        raise TrainingError(
            f"step {state['step'] + 1} is not finite ({error}); {saved}. Try {remedies}"
        ) from error
    except (RuntimeError, MemoryError) as error:
        is_full = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
        if not (is_full or "can't allocate memory" in str(error)):
            raise
        raise TrainingError(
            f"out of memory in step {state['step'] + 1}. The same result, but for rounding "
            f"and what dropout draws, needs less with fewer rows_at_once (now "
            f"{rows_at_once}) or with checkpoint_activations; another result with a "
            f"precision of 16 bits (now {config.precision}), fewer "
            f"latents, a shorter prefix or a smaller model"
        ) from error


class _Journal:
    """The progress bar and log of a run, written by its first process.

    What LOG says depends on the run alone; the speed of this machine stands in SPEED.
    """

    def __init__(self, fabric: "Fabric", out: Path, steps: range) -> None:
        self.out = out
        self.is_open = fabric.is_global_zero
        if not self.is_open:
            return
        self.stack = ExitStack()
        try:
            self.stack.enter_context(alone_in(out))
        except RuntimeError as error:
            raise TrainingError(str(error)) from error
        self._forget_after(steps.start)
        self.board = None
        with suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(out / "tensorboard", purge_step=steps.start + 1)
            self.stack.callback(self.board.close)
        self.bar = tqdm(
            total=steps.stop, initial=steps.start, unit="step", dynamic_ncols=True
        )
        self.stack.callback(self.bar.close)
        self.begin, self.tokens = time.monotonic(), 0

    def _forget_after(self, step: int) -> None:
        """Leave out what a killed run wrote after its last save."""
        path = self.out / LOG
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = (line for line in lines if line.endswith("\n"))
            last = step if (self.out / STATE).exists() else -1
            kept = (line for line in whole if json.loads(line)["step"] <= last)
            _staged(path).write_text("".join(kept), encoding="utf-8")
            os.replace(_staged(path), path)

    def write_step(self, step: int, progress: Progress, rate: float) -> None:
        if not self.is_open:
            return
        record = {"loss": progress.loss, "gradient_norm": progress.norm}
        record |= {"learning_rate": rate, "tokens": progress.tokens}
        self._write(LOG, {"step": step} | record)
        self.tokens += progress.tokens
        seconds = time.monotonic() - self.begin
        self._write(SPEED, {"step": step, "seconds": seconds, "tokens": self.tokens})
        speed = f"{self.tokens / seconds:,.0f}"
        self.bar.update()
        self.bar.set_postfix(loss=f"{progress.loss:.3f}", tokens_per_s=speed)
        self._plot(step, record)

    def write_validation(
        self, step: int, window: int, held_out: float, held_out_random: float
    ) -> None:
        if self.is_open:
            record = {"held_out": held_out, "held_out_random": held_out_random}
            self._write(LOG, {"step": step, "window": window} | record)
            self.bar.write(f"step {step}: {held_out:.4f} nats per held-out token")
            self._plot(step, record)

    def _write(self, name: str, record: dict) -> None:
        with open(self.out / name, "a", encoding="utf-8") as file:
            print(json.dumps(record), file=file)

    def _plot(self, step: int, record: dict) -> None:
        if self.board:
            for name, value in record.items():
                self.board.add_scalar(name, value, step)

    def __enter__(self) -> "_Journal":
        return self

    def __exit__(self, *error: object) -> None:
        if self.is_open:
            self.stack.close()
