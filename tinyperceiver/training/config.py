"""What a run of training does: its model, stages, optimizer and schedule."""

import json
import math
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from tinyperceiver.files.errors import TinyperceiverError
from tinyperceiver.model.config import PRESETS, PerceiverConfig

__all__ = ["RUNS", "Stage", "TrainingConfig", "TrainingError", "learning_rate_at"]


class TrainingError(TinyperceiverError, RuntimeError):
    """Raised if training cannot begin or continue; says why, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Some steps of training with the same number of latents in each window."""

    steps: int  # number of steps
    num_latents: int  # l, latents of each window
    max_prefix_len: int  # each step draws a prefix length m from 0 to this
    batch_size: int  # windows of a step, of all processes together


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The settings of a training run.

    Together with the data they determine its result. Only rounding and the draws of
    dropout also depend on the device, and on how the windows of a step are split among
    processes and micro-batches.

    Raises:
        ValueError: a field is out of range; the message names it and its value.
    """

    model: PerceiverConfig  # shape of the model
    stages: tuple[Stage, ...]  # one after the other, so windows may grow
    optimizer: str = "adamw"  # or "muon", which uses Muon for the layers' matrices
    learning_rate: float = 2e-4  # highest rate, after the warm-up
    warmup_steps: int = 200  # steps in which the rate rises linearly from 0
    schedule: str = "cosine"  # or "trapezoid": constant, then linearly down to 0
    decay_fraction: float = 0.45  # fraction of steps in which the trapezoid falls
    weight_decay: float = 0.01  # of matrices only, not of norms and biases
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW
    max_norm: float = 0.5  # longer gradients of an optimizer are cut to this length
    replacement: bool = True  # False: every target comes once before any comes twice
    transpose: int = 0  # a window is moved by at most so many semitones
    stretch: float = 0.0  # its time is changed by at most this fraction
    seed: int = 0  # of weights and windows
    precision: str = "32-true"  # or "bf16-mixed" or "16-mixed"
    validate_every: int = 1000  # steps between measurements of the held-out loss
    num_windows: int = 64  # windows to measure it on
    save_every: int = 1000  # steps between saves

    def __post_init__(self) -> None:
        for name in ("learning_rate", "max_norm"):
            if not (_is_number(value := getattr(self, name)) and value > 0):
                raise ValueError(f"{name} must be a positive number, not {value!r}")
        for name in ("weight_decay", "stretch"):
            if not (_is_number(value := getattr(self, name)) and value >= 0):
                raise ValueError(f"{name} must be a number >= 0, not {value!r}")
        for name in ("validate_every", "num_windows", "save_every"):
            _check_whole(name, getattr(self, name), 1)
        for name in ("warmup_steps", "transpose", "seed"):
            _check_whole(name, getattr(self, name), 0)
        if len(self.betas) != 2 or not all(
            _is_number(beta) and 0 <= beta < 1 for beta in self.betas
        ):
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
        if not (_is_number(fraction) and 0 < fraction <= 1):
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
                _check_whole(f"stages[{i}].{name}", value, least)
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
        """Number of steps of all stages together."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        """Return the stage that `step`, 0, 1, ..., belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                break
            step -= stage.steps
        return stage

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain dictionaries and lists."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> "TrainingConfig":
        """Make a configuration from `settings`, as `to_json` returns them.

        Returns:
            The configuration.

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


def _is_number(value: object) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _check_whole(name: str, value: object, least: int) -> None:
    if not (_is_number(value) and isinstance(value, int) and value >= least):
        raise ValueError(f"{name} must be a whole number >= {least}, not {value!r}")


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
    """Return the learning rate of `step`, 0, 1, ...: it rises, then falls to 0.

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
