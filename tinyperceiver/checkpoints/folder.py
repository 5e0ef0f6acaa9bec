"""The files of a checkpoint: read with care, and replaced whole."""

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tinyperceiver.files.errors import TinyperceiverError
from tinyperceiver.files.whole import put_in_place, sha256_of, staged
from tinyperceiver.model.config import PerceiverConfig

__all__ = [
    "CONFIG",
    "OWN_REQUIRED",
    "PICKLE",
    "WEIGHTS",
    "CheckpointError",
    "find_own_weights",
    "hash_of",
    "make_config",
    "read_json",
    "read_pickle",
    "read_safetensors",
    "write_checkpoint",
]

OWN_REQUIRED = {"format": "tinyperceiver-1"}

CONFIG, WEIGHTS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"


class CheckpointError(TinyperceiverError, ValueError):
    """Raised if a checkpoint cannot be read, converted or written; says what to do."""


def write_checkpoint(
    folder: Path,
    tensors: dict[str, torch.Tensor],
    make_settings: Callable[[str], dict],
) -> None:
    """Write config.json and model.safetensors, in the place of what stood there.

    Args:
        folder: made if it is not there.
        tensors: by the names that they get in the file; contiguous, on the CPU.
        make_settings: what config.json holds, given the SHA-256 of the weights.

    Raises:
        CheckpointError: the folder can't be written; it is then as it was.
    """
    config, weights = folder / CONFIG, folder / WEIGHTS
    is_new, before = not folder.exists(), None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = _finish_interrupted_save(folder)
        save_file(tensors, staged(weights), metadata={"format": "pt"})
        settings = make_settings(hash_of(staged(weights)))
        staged(config).write_text(
            json.dumps(settings, indent=2) + "\n", encoding="utf-8"
        )
        # Safetensors gives it to its owner only.
        shutil.copymode(staged(config), staged(weights))
        # With its config.json the new one counts: find_own_weights.
        put_in_place((staged(config), config), (staged(weights), weights))
    except BaseException as error:
        with suppress(OSError):
            if _bytes_of(config) == before:
                staged(weights).unlink(missing_ok=True)
            staged(config).unlink(missing_ok=True)
            if is_new:
                folder.rmdir()
        if isinstance(error, (OSError, SafetensorError)):
            raise CheckpointError(f"{folder} could not be written: {error}") from error
        raise


def make_config(
    settings: dict, source: str | Path, required: dict, ignored: set[str]
) -> PerceiverConfig:
    """Make a model's shape from what a file says; unknown or missing fields are refused."""
    known = {field.name for field in fields(PerceiverConfig)}
    for name, value in required.items():
        given = settings.get(name)
        if type(given) is not type(value) or given != value:
            raise CheckpointError(
                f"{source}: {name} is {given!r}; only {value!r} is supported"
            )
    if unknown := settings.keys() - known - required.keys() - ignored:
        raise CheckpointError(
            f"{source} has configuration fields unknown to this version, which may mean another "
            f"model: {', '.join(sorted(map(str, unknown)))}"
        )
    if missing := known - settings.keys():
        raise CheckpointError(
            f"{source} lacks configuration fields: {', '.join(sorted(missing))}"
        )
    try:
        return PerceiverConfig(**{name: settings[name] for name in known})
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{source} has an impossible configuration: {error}"
        ) from error


def read_json(path: Path) -> dict:
    """Read config.json; CheckpointError names the file if it cannot be used."""
    try:
        settings = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path.parent} holds no checkpoint: {CONFIG} is missing"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return settings


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a file by name; CheckpointError if it is damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is truncated or no safetensors file: fetch it again ({error})"
        ) from error


def read_pickle(path: Path, source: str | Path | None = None) -> object:
    """Read a file of PyTorch's own format, which must hold nothing but tensors and numbers."""
    source = source or path
    is_zip = zipfile.is_zipfile(path)
    try:
        # Mapped, a file is read tensor by tensor, as they are used. Files before 2020 can't be.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except OSError as error:
        raise CheckpointError(f"{source} can't be read: {error}") from error
    except Exception as error:
        # PyTorch's own message advises to read the file with weights_only=False: not repeated.
        if found := re.search(r"(?:GLOBAL|Unsupported class) (\S+)", str(error)):
            raise CheckpointError(
                f"{source} holds a Python object ({found[1]}); reading it could run code, so it is "
                f"refused. If you trust the file: where its library is installed, load it with "
                f"weights_only=False and torch.save only its `state_dict` and, as plain numbers, "
                f"its `hyper_parameters`; then use that file"
            ) from None
        with open(path, "rb") as file:
            cut = file.read(4) == b"PK\x03\x04" and not is_zip
        reason = (
            "it is truncated"
            if cut
            else "it is damaged, or no file of tensors by PyTorch"
        )
        raise CheckpointError(
            f"{source} can't be read: {reason}. Fetch it again"
        ) from None


def find_own_weights(folder: Path, settings: dict) -> Path:
    """The file that config.json means, by its hash.

    Two files can't be replaced in one step. A save replaces config.json first; if it is killed
    then, the weights still have their staged name, complete, and are found by it.
    """
    weights, recorded = folder / WEIGHTS, settings.get("weights_sha256")
    for path in (weights, staged(weights)):
        if path.exists() and hash_of(path) == recorded:
            return path
    if weights.exists():
        raise CheckpointError(
            f"{weights} has the SHA-256 {hash_of(weights)}, not {recorded} as {CONFIG} records: it "
            f"is damaged or of another checkpoint; fetch or save it again"
        )
    return weights


def _finish_interrupted_save(folder: Path) -> bytes | None:
    """Give weights that a killed save left staged their name; return config.json as it is."""
    weights = folder / WEIGHTS
    if staged(weights).exists():
        with suppress(CheckpointError):
            if find_own_weights(folder, read_json(folder / CONFIG)) != weights:
                put_in_place((staged(weights), weights))
    return _bytes_of(folder / CONFIG)


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal; CheckpointError if it cannot be read."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error
