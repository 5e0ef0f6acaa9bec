"""Checkpoints: from the hub, from a training run, from our own folders; and back to disk.

Three layouts hold the same weights:

- the hub's, of the library that trained the released model (the peer, perceiver-io 0.11):
  config.json with a `model_config`, and model.safetensors or pytorch_model.bin;
- that library's Lightning training checkpoint: one pickled file, see `convert_checkpoint`;
- ours: config.json, marked with a `format`, and model.safetensors with our names.

A pickled file can run code when it is read. It is only ever read with
`weights_only=True`.
"""

import json
import os
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tinyperceiver.files import sha256_of
from tinyperceiver.model import PerceiverAR, PerceiverConfig

__all__ = [
    "PEER_NAMES",
    "CheckpointError",
    "convert_checkpoint",
    "find_folder",
    "from_pretrained",
    "peer_config",
    "peer_name",
    "peer_tensors",
    "save_pretrained",
    "write_checkpoint",
]

# Our modules and the peer's, in two columns. In the hub's layout "backend_model."
# stands before the peer's names, in a training checkpoint "model."; .weight and .bias
# are called alike.
_TABLE = """
embedding                               input_adapter.txt_embedding
hybrid_layer.attention.norm             cross_attention.0.module.q_norm
hybrid_layer.attention.prefix_norm      cross_attention.0.module.kv_norm
hybrid_layer.attention.attention.query  cross_attention.0.module.attention.q_proj
hybrid_layer.attention.attention.key    cross_attention.0.module.attention.k_proj
hybrid_layer.attention.attention.value  cross_attention.0.module.attention.v_proj
hybrid_layer.attention.attention.output cross_attention.0.module.attention.o_proj
hybrid_layer.mlp.norm                   cross_attention.1.module.0
hybrid_layer.mlp.up                     cross_attention.1.module.1
hybrid_layer.mlp.down                   cross_attention.1.module.3
layers.{i}.attention.norm               self_attention.{i}.0.module.norm
layers.{i}.attention.attention.query    self_attention.{i}.0.module.attention.q_proj
layers.{i}.attention.attention.key      self_attention.{i}.0.module.attention.k_proj
layers.{i}.attention.attention.value    self_attention.{i}.0.module.attention.v_proj
layers.{i}.attention.attention.output   self_attention.{i}.0.module.attention.o_proj
layers.{i}.mlp.norm                     self_attention.{i}.1.module.0
layers.{i}.mlp.up                       self_attention.{i}.1.module.1
layers.{i}.mlp.down                     self_attention.{i}.1.module.3
norm                                    out_norm
"""
PEER_NAMES = dict(row.split() for row in _TABLE.strip().splitlines())
# Of the rotation; we compute them.
PEER_SPEEDS = "input_adapter.frq_pos_encoding.inv_freq"

# What else the peer's configuration holds: what only one value is built for, and what changes no
# answer of the model.
REQUIRED = {"abs_pos_emb": False, "output_bias": False, "output_norm": True}
IGNORED = {
    "activation_checkpointing",
    "activation_offloading",
    "max_heads_parallel",
    "params",
    "validation_sample_prompt",
    "validation_sample_record",
}
HUB_REQUIRED = REQUIRED | {"model_type": "perceiver-ar-symbolic-audio-model"}
OWN_REQUIRED = {"format": "tinyperceiver-1"}

CONFIG, WEIGHTS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
SHIPPED = {"tiny": Path(__file__).parent / "assets" / "tiny"}


class CheckpointError(ValueError):
    """A checkpoint cannot be read, converted or written; says which, why, and what to do."""


def peer_name(name: str) -> str:
    """The peer's name of our parameter, "layers.2.mlp.up.weight" or another."""
    module, _, kind = name.rpartition(".")
    index = re.search(r"\d+", module)
    if index is None:
        return f"{PEER_NAMES[module]}.{kind}"
    module = module.replace(index[0], "{i}", 1)
    return f"{PEER_NAMES[module].format(i=index[0])}.{kind}"


def peer_config(settings: dict, source: str | Path) -> PerceiverConfig:
    """Our configuration from the peer's; `source` is what an error names."""
    return _make_config(settings, source, REQUIRED, IGNORED)


def peer_tensors(
    state: dict[str, torch.Tensor], config: PerceiverConfig
) -> dict[str, torch.Tensor]:
    """A model's `state_dict` by the names of the hub's layout, contiguous and on the CPU."""
    tensors = {peer_name(name): tensor for name, tensor in state.items()}
    tensors[PEER_SPEEDS] = _peer_speeds(config)
    return {
        "backend_model." + name: tensor.detach().cpu().contiguous()
        for name, tensor in tensors.items()
    }


def from_pretrained(
    cls: type[PerceiverAR],
    name_or_path: str | os.PathLike,
    revision: str | None = None,
    *,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> PerceiverAR:
    """Load a model in eval mode; called as `PerceiverAR.from_pretrained(...)`.

    Args:
        name_or_path: "tiny", the checkpoint that ships with the package (it goes before a folder
            or a hub model of that name: write "./tiny" or "owner/tiny" for those); or a folder in
            the hub's layout or ours; or else a model id on the Hugging Face hub.
        revision: branch, tag or commit on the hub.
        cache_dir, local_files_only, token: as in `huggingface_hub.hf_hub_download`, whose settings
            HF_HOME, HF_HUB_OFFLINE and HF_ENDPOINT are honoured.
        device: where the weights go.
        dtype: what they are converted to, in whatever precision they are stored.

    Raises:
        CheckpointError: nothing by this name, or it is damaged, incomplete or another model.
    """
    folder = find_folder(
        name_or_path,
        revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        token=token,
    )
    source, settings = folder / CONFIG, _read_json(folder / CONFIG)
    if "format" in settings:
        config = _make_config(settings, source, OWN_REQUIRED, {"weights_sha256"})
        weights, prefix = _find_own_weights(folder, settings), None
    elif isinstance(settings.get("model_config"), dict):
        peer_settings = settings["model_config"] | {
            "model_type": settings.get("model_type")
        }
        config = _make_config(peer_settings, source, HUB_REQUIRED, IGNORED)
        weights = folder / (WEIGHTS if (folder / WEIGHTS).exists() else PICKLE)
        prefix = "backend_model."
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
        _read_pickle(weights) if weights.name == PICKLE else _read_safetensors(weights)
    )
    return _build(
        cls, config, tensors, weights, prefix=prefix, device=device, dtype=dtype
    )


def find_folder(
    name_or_path: str | os.PathLike,
    revision: str | None = None,
    *,
    cache_dir: str | os.PathLike | None = None,
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
        raise CheckpointError(
            f"{folder} is not a folder with a checkpoint (convert_checkpoint makes one from a "
            f"training checkpoint)"
        )
    options = {
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
        "token": token,
    }
    return _fetch_from_hub(name_or_path, revision, options)


def save_pretrained(
    self: PerceiverAR, folder: str | os.PathLike, *, dtype: torch.dtype | None = None
) -> Path:
    """Save a model in our layout; called as `model.save_pretrained(folder)`.

    A folder that holds a checkpoint holds, at any moment, the whole old or the whole new one, even
    if the process is killed.

    Args:
        folder: made if it is not there; other files in it are left alone.
        dtype: how to store the weights, e.g. `torch.bfloat16`; by default as they are.

    Returns:
        The folder.

    Raises:
        CheckpointError: the folder can't be written, or `dtype` can't hold a weight.
    """
    folder = Path(folder).expanduser()
    tensors = {}
    for name, tensor in self.state_dict().items():
        tensors[name] = tensor.detach().to("cpu", dtype or tensor.dtype).contiguous()
        if not torch.equal(tensors[name].isfinite(), tensor.detach().cpu().isfinite()):
            raise CheckpointError(
                f"{name} has values beyond the range of {dtype}: use another"
            )
    write_checkpoint(
        folder,
        tensors,
        lambda digest: OWN_REQUIRED | asdict(self.config) | {"weights_sha256": digest},
    )
    return folder


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
        save_file(tensors, _staged(weights), metadata={"format": "pt"})
        settings = make_settings(_sha256(_staged(weights)))
        _staged(config).write_text(
            json.dumps(settings, indent=2) + "\n", encoding="utf-8"
        )
        # Safetensors gives it to its owner only.
        shutil.copymode(_staged(config), _staged(weights))
        for path in (_staged(weights), _staged(config)):
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        # From here on the new one counts: _find_own_weights.
        os.replace(_staged(config), config)
        os.replace(_staged(weights), weights)
    except BaseException as error:
        with suppress(OSError):
            if _bytes_of(config) == before:
                _staged(weights).unlink(missing_ok=True)
            _staged(config).unlink(missing_ok=True)
            if is_new:
                folder.rmdir()
        if isinstance(error, (OSError, SafetensorError)):
            raise CheckpointError(f"{folder} could not be written: {error}") from error
        raise


def convert_checkpoint(
    save_dir: str | os.PathLike,
    ckpt_url: str | os.PathLike,
    push_to_hub: bool | str = False,
    *,
    sha256: str | None = None,
    dtype: torch.dtype | None = None,
    token: str | bool | None = None,
) -> PerceiverAR:
    """Convert a Lightning training checkpoint of the peer to our layout.

    Args:
        save_dir: folder for the result; not touched if the checkpoint is not sound.
        ckpt_url: path of the checkpoint, or its http(s) address. A download needs room in the
            system's folder for temporary files (TMPDIR chooses another).
        push_to_hub: upload the result to the hub: a model id, or True for the name of `save_dir`
            among your own models.
        sha256: the hash that the file must have, in hexadecimal.
        dtype: how to store the weights, e.g. `torch.bfloat16`; by default as float32.
        token: for the upload; by default the one that you are logged in with.

    Returns:
        The model, in eval mode, float32.

    Raises:
        CheckpointError: no such file, a broken transfer, another hash, not a training checkpoint of
            this model, or a failed upload (then `save_dir` is written).
    """
    source = str(ckpt_url)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(ckpt_url).expanduser()
        if re.match("https?://", source):
            path = Path(temporary) / "training.ckpt"
            _download(source, path)
        elif not path.is_file():
            raise CheckpointError(f"{source} is neither a file nor an http(s) address")
        if sha256 is not None and (found := _sha256(path)) != sha256.lower():
            raise CheckpointError(
                f"{source} has the SHA-256 {found}, not {sha256}: damaged, or another file"
            )
        model = _convert(_read_pickle(path, source), source)
    folder = save_pretrained(model, save_dir, dtype=dtype)
    if push_to_hub:
        name = folder.resolve().name if push_to_hub is True else push_to_hub
        _push_to_hub(folder, name, token)
    return model


def _convert(checkpoint: object, source: str) -> PerceiverAR:
    parts = checkpoint if isinstance(checkpoint, dict) else {}
    settings, tensors = parts.get("hyper_parameters"), parts.get("state_dict")
    if not isinstance(settings, dict) or not isinstance(tensors, dict):
        raise CheckpointError(
            f"{source} is no Lightning training checkpoint: no `state_dict` with "
            f"`hyper_parameters` (from_pretrained loads a folder as it is on the hub)"
        )
    config = peer_config(settings, source)
    return _build(PerceiverAR, config, tensors, source, prefix="model.")


def _build(
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
        _check_speeds(speeds, config, source)
    # Copied, since the file can be replaced or removed while the model lives.
    copies = {
        own: torch.empty(shapes[name], dtype=dtype, device=device).copy_(tensors[name])
        for own, name in stored.items()
    }
    model.load_state_dict(copies, assign=True)
    return model.eval()


def _peer_speeds(config: PerceiverConfig) -> torch.Tensor:
    """Radians per token of each pair of channels, (d / 2), to the bit as the peer's."""
    head_dim = config.num_channels // config.num_heads
    return 1 / 10_000.0 ** (torch.arange(0, head_dim, 2) / head_dim)


def _check_speeds(
    speeds: torch.Tensor, config: PerceiverConfig, source: str | Path
) -> None:
    """Refuse weights trained with another rotation than ours: they would load, but not play."""
    expected = _peer_speeds(config)
    precision = torch.finfo(speeds.dtype).eps if speeds.is_floating_point() else 0
    if speeds.shape != expected.shape or not torch.allclose(
        speeds.float(), expected, rtol=max(1e-5, precision), atol=0
    ):
        raise CheckpointError(
            f"{source} was trained with another rotary embedding: {PEER_SPEEDS} "
            f"{tuple(speeds.shape)} is not 10000 ** (-i / {len(expected)}), i < {len(expected)}"
        )


def _make_config(
    settings: dict, source: str | Path, required: dict, ignored: set[str]
) -> PerceiverConfig:
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
    # The released configuration is older than this field; it was trained with 1.
    settings = {"num_self_attention_rotary_layers": 1} | settings
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


def _read_json(path: Path) -> dict:
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


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is truncated or no safetensors file: fetch it again ({error})"
        ) from error


def _read_pickle(path: Path, source: str | Path | None = None) -> object:
    source = source or path
    if torch.__version__ < (2, 10):
        warnings.warn(
            f"torch {torch.__version__} reads {source}. Before 2.10 torch.load(weights_only=True) "
            f"had holes: update, or read only pickled files that you trust",
            stacklevel=3,
        )
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


def _find_own_weights(folder: Path, settings: dict) -> Path:
    """The file that config.json means, by its hash.

    Two files can't be replaced in one step. A save replaces config.json first; if it is killed
    then, the weights still have their staged name, complete, and are found by it.
    """
    weights, recorded = folder / WEIGHTS, settings.get("weights_sha256")
    for path in (weights, _staged(weights)):
        if path.exists() and _sha256(path) == recorded:
            return path
    if weights.exists():
        raise CheckpointError(
            f"{weights} has the SHA-256 {_sha256(weights)}, not {recorded} as {CONFIG} records: it "
            f"is damaged or of another checkpoint; fetch or save it again"
        )
    return weights


def _finish_interrupted_save(folder: Path) -> bytes | None:
    """Give weights that a killed save left staged their name; return config.json as it is."""
    staged = _staged(folder / WEIGHTS)
    if staged.exists():
        with suppress(CheckpointError):
            if _find_own_weights(folder, _read_json(folder / CONFIG)) == staged:
                os.replace(staged, folder / WEIGHTS)
    return _bytes_of(folder / CONFIG)


def _staged(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _reason(error: Exception) -> str:
    return str(error).split("\n")[0] or type(error).__name__


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error


def _fetch_from_hub(name: str, revision: str | None, options: dict) -> Path:
    """Download config.json and one file of weights; return their folder in the cache."""
    from huggingface_hub import errors, hf_hub_download

    try:
        folder = Path(
            hf_hub_download(name, CONFIG, revision=revision, **options)
        ).parent
        if not any((folder / weights).exists() for weights in (WEIGHTS, PICKLE)):
            # Both files from one, even if the branch moves on meanwhile.
            commit = folder.name
            try:
                hf_hub_download(name, WEIGHTS, revision=commit, **options)
            except errors.EntryNotFoundError:
                hf_hub_download(name, PICKLE, revision=commit, **options)
        return folder
    except errors.RepositoryNotFoundError as error:
        reason, cause = (
            "no such model, or a private one: check the name, or pass `token`",
            error,
        )
    except errors.RevisionNotFoundError as error:
        reason, cause = f"it has no revision {revision!r}", error
    except errors.LocalEntryNotFoundError as error:
        reason, cause = (
            "it is not in the cache, and the hub is switched off or out of reach",
            error,
        )
    except errors.EntryNotFoundError as error:
        reason, cause = f"it lacks {CONFIG}, or both {WEIGHTS} and {PICKLE}", error
    # Of the network libraries below, which differ between versions.
    except Exception as error:
        reason, cause = f"{_reason(error)}; try again", error
    raise CheckpointError(
        f"{name!r}: no such folder, and not from the hub: {reason}"
    ) from cause


def _push_to_hub(folder: Path, name: str, token: str | bool | None) -> None:
    from huggingface_hub import HfApi

    try:
        api = HfApi(token=token)
        name = api.create_repo(name, exist_ok=True).repo_id
        patterns = [CONFIG, WEIGHTS, "README.md"]
        api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=patterns)
    except Exception as error:
        raise CheckpointError(
            f"{folder} is written, but its upload to {name!r} failed: {_reason(error)}. Log in "
            f"with `hf auth login` or pass `token`, and upload the folder"
        ) from error


def _download(url: str, path: Path) -> None:
    from http.client import HTTPException
    from urllib.request import urlopen

    from tqdm.auto import tqdm

    try:
        with urlopen(url, timeout=60) as response, open(path, "wb") as file:
            announced = response.headers["Content-Length"]
            total = None if announced is None else int(announced)
            with tqdm(
                total=total, unit="B", unit_scale=True, desc=url.split("/")[-1]
            ) as bar:
                while chunk := response.read(1 << 20):
                    bar.update(file.write(chunk))
    except (OSError, HTTPException, ValueError) as error:
        raise CheckpointError(
            f"{url} could not be downloaded: {_reason(error)}"
        ) from error
    if total is not None and path.stat().st_size != total:
        raise CheckpointError(
            f"{url}: the transfer broke off after {path.stat().st_size:,} of {total:,} bytes. Try "
            f"again"
        )


PerceiverAR.from_pretrained = classmethod(from_pretrained)
PerceiverAR.save_pretrained = save_pretrained
