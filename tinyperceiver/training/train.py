"""Training on Lightning Fabric: one loop for a CPU, a GPU, several GPUs or machines.

Axis letters: B batch, n tokens in the window, m prefix, l latents, V vocabulary.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader

from tinyperceiver.dataset.token_file import TokenFile
from tinyperceiver.dataset.windows import (
    Batch,
    Windows,
    fixed_windows,
    targets_without_replacement,
)
from tinyperceiver.files.whole import staged
from tinyperceiver.generation.generate import generate
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.music.tokenizer import decode_midi
from tinyperceiver.training.config import (
    TrainingConfig,
    TrainingError,
    learning_rate_at,
)
from tinyperceiver.training.devices import checkpoint_activations_of, make_fabric
from tinyperceiver.training.journal import Journal
from tinyperceiver.training.run_folder import (
    STATE,
    check_run,
    check_work,
    commit_state,
    load_state,
    lock_run,
    save_state,
    saved_model,
    write_state,
)
from tinyperceiver.training.step import make_optimizers, nats_per_token, training_step

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["train"]

SPLITS = "train", "valid"
SAMPLE_PROMPT, SAMPLE_TOKENS = 256, 512


def train(
    config: TrainingConfig,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    initial_model: PerceiverAR | None = None,
    fabric: "Fabric | None" = None,
    rows_at_once: int = 8,
    checkpoint_activations: bool = False,
    compile: bool = False,
    stop_after: int | None = None,
) -> PerceiverAR:
    """Train a model, or continue a run that was stopped.

    Args:
        config: what to train, on which windows, for how long.
        data: folder with train.bin and valid.bin, from `tinyperceiver prepare`.
        out: folder of the run. A run that was stopped continues from its last save. On
            the same CPUs and threads, with the same options, its result is the same to
            the bit as without the stop.
        initial_model: weights to start from, instead of random ones. They are measured
            before the first step, and `out`/best holds them until a step is better. A
            resumed run may leave them out; other weights are refused.
        fabric: where to run, from `make_fabric`; by default the best device there is.
        rows_at_once: windows that a process computes together, a micro-batch. The
            batch_size of a step is split among processes and micro-batches. The result
            is the same except for rounding and the draws of dropout.
        checkpoint_activations: compute activations twice instead of keeping them.
        compile: let torch.compile make faster code of the layers after the hybrid one;
            needs a compiler.
        stop_after: pause when this many steps are done.

    Returns:
        The model as trained so far, in eval mode. At the end `out`/model holds it, and
        `out`/best the one with the lowest held-out loss in the last stage, for
        `from_pretrained`.

    Raises:
        TrainingError: another run is at work in `out`, or `out` holds the files of one,
            `initial_model` has another shape, the loss is no longer finite, or memory
            or room on the disk is short.
        DataError: a token file is unfit.
    """
    out = Path(out)
    fabric = fabric or make_fabric(config.precision)
    fabric.launch()
    train_data, valid_data = (TokenFile(Path(data) / f"{s}.bin") for s in SPLITS)
    check_work(fabric, config, (train_data, valid_data), initial_model)
    state = {"step": 0, "scaler": {}, "best": math.inf, "window": (0, 0)}
    with _explained(state, out, rows_at_once, config), lock_run(fabric, out):
        check_run(fabric, config, (train_data, valid_data), out, initial_model)

        torch.manual_seed(config.seed)
        model = PerceiverAR(config.model)
        if initial_model is not None:
            model.load_state_dict(initial_model.state_dict())
        if checkpoint_activations:
            checkpoint_activations_of(model)
        if compile:
            # Not the hybrid layer: its prefix has another length at each step.
            for layer in model.layers:
                layer.compile()
        model = fabric.setup_module(model)
        optimizers = [
            fabric.setup_optimizers(o) for o in make_optimizers(model, config)
        ]
        state["model"] = model
        state |= zip(("optimizer", "muon"), optimizers, strict=False)
        load_state(fabric, state, out)

        last = config.steps if stop_after is None else min(stop_after, config.steps)
        steps = range(state["step"], last)
        with Journal(fabric, out, steps) as journal:
            validate = partial(
                _validate, fabric, config, state, valid_data, out, journal, rows_at_once
            )
            if initial_model is not None and not (out / STATE).exists():
                validate()
            for step, batches in _batches(
                config, fabric, train_data, steps, rows_at_once
            ):
                rate = learning_rate_at(step, config)
                for optimizer in optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                # Dropout depends on the step alone, too: a resumed run drops the same.
                torch.manual_seed(_seed_of(config.seed, step, fabric.global_rank))
                progress = training_step(
                    fabric, model, optimizers, batches, config.max_norm
                )
                state["step"] = step + 1
                journal.write_step(step + 1, progress, rate)
                if (step + 1) % config.validate_every == 0 or step + 1 == config.steps:
                    validate()
                elif (step + 1) % config.save_every == 0 or step + 1 == last:
                    save_state(fabric, state, out)
        model = saved_model(fabric, config, out / STATE)
        if state["step"] == config.steps and fabric.is_global_zero:
            model.save_pretrained(out / "model")
    return model


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
            padding=config.model.padding,
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
    journal: "Journal",
    rows_at_once: int,
) -> None:
    """Measure held-out nats, save, and write a sample and what is best so far."""
    model, step = state["model"], state["step"]
    stage = config.stage_at(max(step - 1, 0))
    fixed = fixed_windows(
        data, config.num_windows, stage.max_prefix_len, stage.num_latents
    )
    drawn = Windows(
        data,
        stage.num_latents,
        stage.max_prefix_len,
        seed=config.seed,
        padding=config.model.padding,
    )
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
    write_state(fabric, state, out)
    if fabric.is_global_zero:
        whole = saved_model(fabric, config, staged(out / STATE))
        _write_sample(whole, data, out / "samples" / f"step-{step:06}.mid")
        if is_best:
            whole.save_pretrained(out / "best")
    commit_state(fabric, out)


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


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


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
    except OSError as error:
        raise TrainingError(
            f"step {state['step'] + 1}: {error.filename or out} cannot be written: "
            f"{error.strerror or error}. Make room, then run the same command again: it "
            f"continues from the last save"
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
