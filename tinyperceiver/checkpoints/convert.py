"""Convert a training checkpoint of the released model's library."""

import os
import re
from pathlib import Path

import torch

from tinyperceiver.checkpoints.folder import CheckpointError, hash_of, read_pickle
from tinyperceiver.checkpoints.hub import upload_to_hub
from tinyperceiver.checkpoints.pretrained import build_model, save_pretrained
from tinyperceiver.checkpoints.released import peer_config
from tinyperceiver.files.download import DownloadError, download
from tinyperceiver.model.perceiver_ar import PerceiverAR

__all__ = ["convert_checkpoint"]


def convert_checkpoint(
    save_dir: str | os.PathLike[str],
    ckpt_url: str | os.PathLike[str],
    push_to_hub: bool | str = False,
    *,
    sha256: str | None = None,
    dtype: torch.dtype | None = None,
    token: str | bool | None = None,
) -> PerceiverAR:
    """Convert a Lightning training checkpoint of perceiver-io to our layout.

    Args:
        save_dir: folder for the result; not changed if the checkpoint is not valid.
        ckpt_url: path of the checkpoint, or its http(s) address. A download lies beside
            `save_dir` until it is converted; one that broke off goes on from there in a later call.
        push_to_hub: upload the result to the hub: a model id, or True for the name of `save_dir`
            among your own models.
        sha256: the hash that the file must have, in hexadecimal.
        dtype: how to store the weights, e.g. `torch.bfloat16`; by default as float32.
        token: for the upload; by default the one that you are logged in with.

    Returns:
        The model, in eval mode, float32.

    Raises:
        CheckpointError: no such file, a failed download, another hash, not a training checkpoint of
            this model, or a failed upload (then `save_dir` is written).
    """
    source, path = str(ckpt_url), Path(ckpt_url).expanduser()
    is_remote = re.match("https?://", source)
    if is_remote:
        path = _download(source, Path(save_dir), sha256)
    elif not path.is_file():
        raise CheckpointError(f"{source} is neither a file nor an http(s) address")
    elif sha256 is not None and (found := hash_of(path)) != sha256.lower():
        raise CheckpointError(
            f"{source} has the SHA-256 {found}, not {sha256}: damaged, or another file"
        )
    try:
        model = _convert(read_pickle(path, source), source)
    finally:
        if is_remote:
            path.unlink()
    folder = save_pretrained(model, save_dir, dtype=dtype)
    if push_to_hub:
        name = folder.resolve().name if push_to_hub is True else push_to_hub
        upload_to_hub(folder, name, token)
    return model


def _download(url: str, save_dir: Path, sha256: str | None) -> Path:
    """Fetch a checkpoint to a file beside `save_dir`."""
    folder = save_dir.expanduser().absolute()
    try:
        return download(url, folder.with_name(f"{folder.name}.download"), sha256)
    except DownloadError as error:
        raise CheckpointError(str(error)) from error


def _convert(checkpoint: object, source: str) -> PerceiverAR:
    parts = checkpoint if isinstance(checkpoint, dict) else {}
    settings, tensors = parts.get("hyper_parameters"), parts.get("state_dict")
    if not isinstance(settings, dict) or not isinstance(tensors, dict):
        raise CheckpointError(
            f"{source} is no Lightning training checkpoint: no `state_dict` with "
            f"`hyper_parameters` (from_pretrained loads a folder as it is on the hub)"
        )
    config = peer_config(settings, source)
    return build_model(PerceiverAR, config, tensors, source, prefix="model.")
