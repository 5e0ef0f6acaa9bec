"""The folder of a run: what it holds, and how an interrupted run is resumed."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tinyperceiver.dataset.token_file import TokenFile
from tinyperceiver.dataset.windows import fixed_windows
from tinyperceiver.files.whole import (
    FolderError,
    alone_in,
    make_folder,
    put_in_place,
    staged,
)
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.training.config import TrainingConfig, TrainingError
from tinyperceiver.training.devices import is_sharded

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = [
    "LOG",
    "SPEED",
    "STATE",
    "check_run",
    "check_work",
    "commit_state",
    "load_state",
    "lock_run",
    "save_state",
    "saved_model",
    "write_state",
]

# In the folder of a run.
STATE, CONFIG, LOG, SPEED = "last.ckpt", "config.json", "log.jsonl", "speed.jsonl"
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


def check_work(
    fabric: "Fabric",
    config: TrainingConfig,
    data: tuple[TokenFile, ...],
    initial_model: PerceiverAR | None,
) -> None:
    """Refuse at once what would fail hours later.

    That is what model, tokens, processes and configuration cannot do together.
    """
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
    if config.optimizer == "muon" and is_sharded(fabric):
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


@contextmanager
def lock_run(fabric: "Fabric", out: Path) -> Iterator[None]:
    """Make the folder of a run, and keep other runs out of it.

    Raises:
        TrainingError: another run is at work in `out`, or it cannot be written to.
    """
    with ExitStack() as stack:
        refusal = None
        if fabric.is_global_zero:
            try:
                make_folder(out)
                stack.enter_context(alone_in(out))
            except FolderError as error:
                refusal = str(error)
            except OSError as error:
                refusal = f"{out} cannot be locked: {error}; name another folder"
        # All processes hear of it: the others would wait for the first one without end.
        if refusal := fabric.broadcast(refusal):
            raise TrainingError(refusal)
        yield


def check_run(
    fabric: "Fabric",
    config: TrainingConfig,
    data: tuple[TokenFile, ...],
    out: Path,
    initial_model: PerceiverAR | None,
) -> None:
    """Refuse a folder of another run; a new folder gets the record of this one."""
    digests = {d.path.name: hashlib.sha256(d.tokens).hexdigest() for d in data}
    if initial_model is not None:
        digests["initial_weights"] = _digest_of(initial_model)
    run = {"config": config.to_json(), "data": digests}
    path = out / CONFIG
    if fabric.is_global_zero and not path.exists():
        staged(path).write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
        put_in_place((staged(path), path))
    fabric.barrier()
    if not path.exists():
        raise TrainingError(
            f"process {fabric.global_rank} does not see {path}, which process 0 wrote: "
            f"all machines must share this folder"
        )
    if different := _differences(run, path):
        raise TrainingError(
            f"{out} holds another run: {'; '.join(different)}. Name another folder, or "
            f"continue that run with its own settings and data"
        )
    fabric.barrier()


def _differences(run: dict, path: Path) -> list[str]:
    """What differs between this run and the one that `path` records, in words."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        # What a later version adds to a configuration had its default then.
        before["config"] = TrainingConfig.from_json(before["config"]).to_json()
        is_resumed = "initial_weights" not in run["data"]
        if is_resumed and (path.parent / STATE).exists():
            # The save holds what they became, so they need not be fetched again.
            before["data"].pop("initial_weights", None)
        then, now = before["config"], run["config"]
        found = [
            f"{name} was {json.dumps(then.get(name))} and is {json.dumps(now.get(name))}"
            for name in sorted(now | then)
            if now.get(name) != then.get(name)
        ]
        then, now = before["data"], run["data"]
        changed = [
            name for name in sorted(now | then) if now.get(name) != then.get(name)
        ]
        return found + [f"its {name} was another" for name in changed]
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} is not of a run of training: {error}") from error


def _digest_of(model: PerceiverAR) -> str:
    """The SHA-256 of a model's weights as float32, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy())
    return digest.hexdigest()


def load_state(fabric: "Fabric", state: dict, out: Path) -> None:
    """Continue from the last save of the run, if there is one."""
    if (out / STATE).exists():
        try:
            fabric.load(out / STATE, state, weights_only=True)
        except Exception as error:  # PyTorch's reader raises many kinds
            raise TrainingError(
                f"{out / STATE} is damaged, so the run cannot be resumed from it: delete this "
                f"file to begin the run again, or name another folder"
            ) from error
        fabric.strategy.precision.load_state_dict(state["scaler"])


def save_state(fabric: "Fabric", state: dict, out: Path) -> None:
    """Save all that the rest of the run depends on; a kill leaves the last save whole."""
    write_state(fabric, state, out)
    commit_state(fabric, out)


def write_state(fabric: "Fabric", state: dict, out: Path) -> None:
    """Write a save next to the last one; `commit_state` puts it in that one's place."""
    state["scaler"] = fabric.strategy.precision.state_dict()
    fabric.save(staged(out / STATE), state)
    fabric.barrier()


def commit_state(fabric: "Fabric", out: Path) -> None:
    """Put the save that `write_state` wrote in the place of the last one."""
    if fabric.is_global_zero:
        put_in_place((staged(out / STATE), out / STATE))
    fabric.barrier()


def saved_model(fabric: "Fabric", config: TrainingConfig, path: Path) -> PerceiverAR:
    """Load the model of a save, in eval mode."""
    saved = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    model = PerceiverAR(config.model)
    model.load_state_dict(saved["model"])
    # One that is sharded may be too large for a GPU.
    return model.to("cpu" if is_sharded(fabric) else fabric.device).eval()
