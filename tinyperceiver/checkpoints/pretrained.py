"""Checkpoints: from the hub, from a training run, from our own folders; and back to disk.

Three layouts hold the same weights:

- the hub's, of the library that trained the released model (the peer, perceiver-io 0.11):
  config.json with a `model_config`, and model.safetensors or pytorch_model.bin;
- that library's Lightning training checkpoint: one pickled file, see `convert_checkpoint`;
- ours: config.json, marked with a `format`, and model.safetensors with our names. Its
  `model_type` is for Transformers; folders from before we wrote it load all the same.

A pickled file can run code when it is read. It is only ever read with
`weights_only=True`.
"""

import os
import re
from dataclasses import asdict
from pathlib import Path

import torch

from tinyperceiver.checkpoints.folder import (
    CONFIG,
    OWN_REQUIRED,
    PICKLE,
    WEIGHTS,
    CheckpointError,
    find_own_weights,
    make_config,
    read_json,
    read_pickle,
    read_safetensors,
    write_checkpoint,
)
from tinyperceiver.checkpoints.hub import fetch_from_hub
from tinyperceiver.checkpoints.released import (
    HUB_PREFIX,
    HUB_REQUIRED,
    MODEL_TYPE,
    PEER_SPEEDS,
    check_speeds,
    peer_config,
    peer_name,
)
from tinyperceiver.files.errors import did_you_mean
from tinyperceiver.model.config import PerceiverConfig
from tinyperceiver.model.perceiver_ar import PerceiverAR

__all__ = [
    "SHIPPED",
    "build_model",
    "find_folder",
    "from_pretrained",
    "save_pretrained",
]

SHIPPED = {"tiny": Path(__file__).parents[1] / "assets" / "tiny"}


def from_pretrained(
    cls: type[PerceiverAR],
    name_or_path: str | os.PathLike[str],
    revision: str | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> PerceiverAR:
    """Load a model of class `cls`: see `UserMethods.from_pretrained`."""
    folder = find_folder(
        name_or_path,
        revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        token=token,
    )
    source, settings = folder / CONFIG, read_json(folder / CONFIG)
    if "format" in settings:
        others = {"model_type", "weights_sha256"}
        config = make_config(settings, source, OWN_REQUIRED, others)
        weights, prefix = find_own_weights(folder, settings), None
    elif isinstance(settings.get("model_config"), dict):
        peer_settings = settings["model_config"] | {
            "model_type": settings.get("model_type")
        }
        config = peer_config(peer_settings, source, HUB_REQUIRED)
        weights = folder / (WEIGHTS if (folder / WEIGHTS).exists() else PICKLE)
        prefix = HUB_PREFIX
    elif (folder / "best" / CONFIG).exists():
        raise CheckpointError(
            f"{folder} is the folder of a run of training: its models are {folder / 'best'} "
            f"and, when it is finished, {folder / 'model'}"
        )
    else:
        raise CheckpointError(
            f"{source} describes no Perceiver AR: no `format`, no `model_config`"
        )
    if not weights.exists():
        raise CheckpointError(
            f"{folder} holds no weights ({WEIGHTS} or, from the hub, {PICKLE})"
        )
    tensors = (
        read_pickle(weights) if weights.name == PICKLE else read_safetensors(weights)
    )
    return build_model(
        cls, config, tensors, weights, prefix=prefix, device=device, dtype=dtype
    )


def find_folder(
    name_or_path: str | os.PathLike[str],
    revision: str | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """Where a checkpoint lies on this machine; what is on the hub is downloaded.

    Arguments and errors are those of `from_pretrained`.
    """
    folder = SHIPPED.get(name_or_path) or Path(name_or_path).expanduser()
    is_path = isinstance(name_or_path, os.PathLike) or re.match(
        r"[./~]|.*\\|.*/.*/", name_or_path
    )
    if folder.is_dir() and revision is not None:
        raise CheckpointError(
            f"{folder} is a folder: revision={revision!r} is for a hub id only"
        )
    if folder.is_dir():
        return folder
    if is_path or folder.is_file() or name_or_path in SHIPPED:
        best = folder.parent / "best"
        if folder.is_file() and (best / CONFIG).exists():
            raise CheckpointError(
                f"{folder} is a file of a run of training, not a folder with a model: "
                f"give {best}"
            )
        raise CheckpointError(
            f"{folder} is not a folder with a checkpoint (convert_checkpoint makes one from a "
            f"training checkpoint)"
        )
    if "/" not in name_or_path:  # ids on the hub have an owner: nothing to ask it
        folders = (path.name for path in Path().iterdir() if path.is_dir())
        raise CheckpointError(
            f"no model is called {name_or_path!r}: it is no folder here, and a model id on "
            f"the hub has the form owner/name{did_you_mean(name_or_path, [*SHIPPED, *folders])}"
        )
    options = {
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
        "token": token,
    }
    return fetch_from_hub(name_or_path, revision, options)


def save_pretrained(
    model: PerceiverAR,
    folder: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
) -> Path:
    """Save a model in our layout: see `UserMethods.save_pretrained`."""
    folder = Path(folder).expanduser()
    tensors = {}
    for name, tensor in model.state_dict().items():
        tensors[name] = tensor.detach().to("cpu", dtype or tensor.dtype).contiguous()
        if not torch.equal(tensors[name].isfinite(), tensor.detach().cpu().isfinite()):
            raise CheckpointError(
                f"{name} has values beyond the range of {dtype}: use another"
            )
    settings = OWN_REQUIRED | {"model_type": MODEL_TYPE} | asdict(model.config)
    write_checkpoint(
        folder, tensors, lambda digest: settings | {"weights_sha256": digest}
    )
    return folder


def build_model(
    cls: type[PerceiverAR],
    config: PerceiverConfig,
    tensors: object,
    source: str | Path,
    *,
    prefix: str | None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> PerceiverAR:
    """A model from tensors under our names or, with a prefix, under the peer's."""
    if not isinstance(tensors, dict) or not all(map(torch.is_tensor, tensors.values())):
        raise CheckpointError(f"{source} holds something else than tensors by name")
    # Before that costs time and memory.
    if config.num_self_attention_layers > len(tensors):
        raise CheckpointError(
            f"{source} holds {len(tensors)} tensors, too few for num_self_attention_layers = "
            f"{config.num_self_attention_layers}"
        )
    try:
        # Shapes only: no memory, no initial values to throw away.
        with torch.device("meta"):
            model = cls(config)
    except (OverflowError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"{source}: no model can have this shape: {error}"
        ) from error
    stored = {
        own: own if prefix is None else prefix + peer_name(own)
        for own in model.state_dict()
    }
    shapes = {
        stored[own]: tuple(value.shape) for own, value in model.state_dict().items()
    }
    tensors = dict(tensors)
    speeds = None if prefix is None else tensors.pop(prefix + PEER_SPEEDS, None)
    problems = [
        f"{name} {shapes[name]} is missing" for name in shapes.keys() - tensors.keys()
    ]
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        if name not in shapes:
            problems.append(f"{name} {shape} is surplus")
        elif shape != shapes[name]:
            problems.append(f"{name} {shape} should be {shapes[name]}")
        elif (
            not tensor.is_floating_point()
            or tensor.layout != torch.strided
            or tensor.is_meta
        ):
            problems.append(f"{name} holds no floating-point numbers ({tensor.dtype})")
    if problems:
        more = f"; and {len(problems) - 12} more" if len(problems) > 12 else ""
        listed = "; ".join(sorted(problems)[:12])
        raise CheckpointError(
            f"{source} does not fit its configuration: {listed}{more}"
        )
    if speeds is not None:
        check_speeds(speeds, config, source)
    # Copied, since the file can be replaced or removed while the model lives.
    copies = {
        own: torch.empty(shapes[name], dtype=dtype, device=device).copy_(tensors[name])
        for own, name in stored.items()
    }
    model.load_state_dict(copies, assign=True)
    return model.eval()
