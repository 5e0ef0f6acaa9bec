"""Fine-tuning: a short run of training that starts from a trained model."""

from tinyperceiver.dataset.token_file import TokenFile
from tinyperceiver.model.config import PerceiverConfig
from tinyperceiver.training.config import Stage, TrainingConfig
from tinyperceiver.training.evaluate import Gain, fit_windows

__all__ = ["describe_gain", "finetuning_config"]

TARGETS = 2048  # tokens predicted in each step
EPOCHS = 3
LEAST_STEPS, MOST_STEPS = 50, 500
VALIDATIONS = 4
MOST_WINDOWS = 32  # a validation is to take seconds


def finetuning_config(
    model: PerceiverConfig, train: TokenFile, valid: TokenFile
) -> TrainingConfig:
    """Choose the settings of a short run that fine-tunes a model on a small collection.

    The windows are those that `fit_windows` chooses for the held-out music. The run goes
    through the training music about three times, and moves each window by up to five
    semitones, so that the model does not learn the pieces by heart.

    Args:
        model: the shape of the trained model.
        train, valid: the music to train on, and the held-out music.

    Returns:
        The settings, for `train`.

    Raises:
        DataError: the held-out pieces are too short to measure on.
    """
    num_windows, prefix_len, num_latents = fit_windows(model, valid)
    batch_size = max(1, TARGETS // num_latents)
    wanted = round(EPOCHS * int(train.lengths.sum()) / (batch_size * num_latents))
    stage = Stage(
        steps=min(max(wanted, LEAST_STEPS), MOST_STEPS),
        num_latents=num_latents,
        max_prefix_len=prefix_len,
        batch_size=batch_size,
    )
    validate_every = -(-stage.steps // VALIDATIONS)
    return TrainingConfig(
        model=model,
        stages=(stage,),
        learning_rate=1e-4,
        warmup_steps=stage.steps // 5,
        weight_decay=0.05,
        betas=(0.9, 0.98),
        max_norm=1.0,
        replacement=False,
        transpose=5,
        validate_every=validate_every,
        num_windows=min(num_windows, MOST_WINDOWS),
        save_every=validate_every,
    )


def describe_gain(gain: Gain) -> str:
    """Say in a sentence what fine-tuning gained on held-out music."""
    before = f"held out: {gain.before:.3f} nats per token before"
    if gain.difference <= 0:
        return (
            f"{before}, and not less after ({gain.after:.3f}): this run has improved "
            f"nothing. More pieces would help"
        )
    less = f"{before}, {gain.after:.3f} after: {gain.difference:.3f} less"
    if gain.pieces == 1:
        return f"{less}, on one piece; hold out more to know how sure that is"
    less = f"{less}, with a standard error of {gain.error:.3f} by piece"
    if gain.difference < 2 * gain.error:
        return (
            f"{less}. That may be chance, because it is less than two standard errors: "
            f"hold out more pieces to know"
        )
    return less
