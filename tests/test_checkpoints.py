"""Checkpoints: equal to the peer's answers, safe to save, clear when something is wrong."""

import base64
import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN, REFERENCE
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from tinyperceiver.checkpoints import folder as files
from tinyperceiver.checkpoints import pretrained
from tinyperceiver.checkpoints.convert import convert_checkpoint
from tinyperceiver.checkpoints.folder import CheckpointError
from tinyperceiver.checkpoints.released import PEER_NAMES, PEER_SPEEDS, peer_name
from tinyperceiver.files import download as downloads
from tinyperceiver.model.config import PRESETS, PerceiverConfig
from tinyperceiver.model.perceiver_ar import PerceiverAR

pytestmark = pytest.mark.numeric

HUB, TRAINING = REFERENCE / "hub", GOLDEN / "small" / "training.ckpt"
CASES = np.load(REFERENCE / "cases.npz")
SMALL = PerceiverConfig(
    vocab_size=11,
    max_seq_len=8,
    max_latents=4,
    num_channels=8,
    num_heads=2,
    num_self_attention_layers=1,
)


def same_weights(one: PerceiverAR, other: PerceiverAR) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a
    )


def small_model(seed: int) -> PerceiverAR:
    torch.manual_seed(seed)
    return PerceiverAR(SMALL).eval()


def hub_tensors() -> dict[str, torch.Tensor]:
    return torch.load(HUB / "pytorch_model.bin", weights_only=True)


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    """A copy of the golden hub folder, to be damaged."""
    return Path(shutil.copytree(HUB, tmp_path / "hub"))


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    return small_model(0).save_pretrained(tmp_path / "own")


def edit_json(path: Path, **changes) -> None:
    """Change fields of config.json, inside `model_config` where it has one; ... removes one."""
    settings = json.loads(path.read_text())
    inner = settings.get("model_config", settings)
    for name, value in changes.items():
        where = settings if name in settings else inner
        where[name] = value
        if value is ...:
            del where[name]
    path.write_text(json.dumps(settings))


# The peer's answers.


def through_bin(tmp_path: Path) -> PerceiverAR:
    return PerceiverAR.from_pretrained(HUB)


def through_safetensors(tmp_path: Path) -> PerceiverAR:
    shutil.copy(HUB / "config.json", tmp_path)
    save_file(hub_tensors(), tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"not to be touched: safetensors is preferred")
    return PerceiverAR.from_pretrained(str(tmp_path))


def through_training(tmp_path: Path) -> PerceiverAR:
    return convert_checkpoint(tmp_path / "out", TRAINING)


def through_own(tmp_path: Path) -> PerceiverAR:
    convert_checkpoint(tmp_path / "out", TRAINING)
    return PerceiverAR.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("load", [through_bin, through_safetensors, through_training, through_own])
@torch.no_grad()
def test_equals_the_peer(load, tmp_path):
    model = load(tmp_path)
    assert not model.training
    for i in range(6):
        logits = model(
            torch.from_numpy(CASES[f"forward{i}.tokens"]),
            int(CASES[f"forward{i}.prefix_len"]),
            torch.from_numpy(CASES[f"forward{i}.pad_mask"]),
        )
        expected = torch.from_numpy(CASES[f"forward{i}.logits"])
        assert logits.shape == expected.shape
        assert (logits - expected).abs().max() < 1e-4
    tokens = torch.from_numpy(CASES["loss.tokens"]).long()
    logits = model(tokens[:, :-1], 64)
    loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:][:, -32:].flatten())
    assert abs(loss.item() - CASES["loss.value"].item()) < 1e-5
    assert same_weights(model, through_bin(tmp_path))


def test_peer_names_cover_the_checkpoint_one_to_one():
    assert len(set(PEER_NAMES.values())) == len(PEER_NAMES)
    model = PerceiverAR.from_pretrained(HUB)
    peers = {"backend_model." + peer_name(name) for name in model.state_dict()}
    assert peers | {"backend_model." + PEER_SPEEDS} == set(hub_tensors())
    assert len(peers) == len(model.state_dict())
    assert peer_name("layers.12.mlp.up.weight") == "self_attention.12.1.module.1.weight"
    with torch.device("meta"):
        assert len(PerceiverAR(PRESETS["released"]).state_dict()) + 1 == 197


def test_absent_rotary_layers_field_means_one(hub_folder):
    assert "num_self_attention_rotary_layers" not in (hub_folder / "config.json").read_text()
    assert PerceiverAR.from_pretrained(hub_folder).config.num_self_attention_rotary_layers == 1
    edit_json(hub_folder / "config.json", num_self_attention_rotary_layers=-1)
    assert PerceiverAR.from_pretrained(hub_folder).config.num_self_attention_rotary_layers == -1


# What loading gives.


def test_loaded_model_stands_alone(hub_folder):
    """Trainable, the random state untouched, no tie to the file that it came from."""
    state = torch.get_rng_state()
    model = PerceiverAR.from_pretrained(hub_folder)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad and p.is_leaf and p.is_contiguous() for p in model.parameters())
    path = hub_folder / "pytorch_model.bin"
    before = path.read_bytes()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert path.read_bytes() == before
    path.write_bytes(b"\xff" * len(before))
    assert all((parameter == 0).all() for parameter in model.parameters())


def test_dtype_and_device_are_as_asked(own_folder):
    for folder in (HUB, own_folder):
        model = PerceiverAR.from_pretrained(folder, dtype=torch.bfloat16, device="cpu")
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    stored = PerceiverAR.from_pretrained(HUB).embedding.weight
    assert torch.equal(
        PerceiverAR.from_pretrained(HUB, dtype=torch.bfloat16).embedding.weight, stored.bfloat16()
    )


def test_sixteen_bit_hub_weights_load_as_float32(hub_folder):
    (hub_folder / "pytorch_model.bin").unlink()
    half = {name: tensor.bfloat16() for name, tensor in hub_tensors().items()}
    save_file(half, hub_folder / "model.safetensors")
    model, exact = PerceiverAR.from_pretrained(hub_folder), PerceiverAR.from_pretrained(HUB)
    assert model.norm.weight.dtype == torch.float32
    assert torch.equal(model.embedding.weight, exact.embedding.weight.bfloat16().float())


def test_a_file_from_before_zip_loads(hub_folder):
    torch.save(
        hub_tensors(), hub_folder / "pytorch_model.bin", _use_new_zipfile_serialization=False
    )
    assert same_weights(PerceiverAR.from_pretrained(hub_folder), PerceiverAR.from_pretrained(HUB))


def test_tiny_is_the_shipped_folder_and_goes_first(tmp_path, monkeypatch, own_folder):
    assert pretrained.SHIPPED["tiny"] == Path(pretrained.__file__).parents[1] / "assets" / "tiny"
    monkeypatch.setitem(pretrained.SHIPPED, "tiny", own_folder)
    monkeypatch.chdir(tmp_path)
    Path("tiny").mkdir()
    assert same_weights(PerceiverAR.from_pretrained("tiny"), small_model(0))
    with pytest.raises(CheckpointError, match=r"tiny holds no checkpoint: config.json is missing"):
        PerceiverAR.from_pretrained("./tiny")


# Saving.


def test_round_trip_is_exact(tmp_path):
    model = PerceiverAR.from_pretrained(HUB)
    folder = model.save_pretrained(tmp_path / "new" / "folder")
    assert folder == tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    again = PerceiverAR.from_pretrained(folder)
    assert again.config == model.config and same_weights(again, model)
    settings = json.loads((folder / "config.json").read_text())
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert settings == {
        "format": "tinyperceiver-1",
        "model_type": "perceiver-ar-symbolic-audio-model",
        **asdict(model.config),
        "weights_sha256": digest,
    }
    other = tmp_path / "other"
    other.touch()  # what the umask gives
    modes = {path.stat().st_mode for path in (other, *folder.iterdir())}
    assert len(modes) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_storage_is_within_rounding(tmp_path, dtype):
    model = PerceiverAR.from_pretrained(HUB)
    size = (model.save_pretrained(tmp_path / "32") / "model.safetensors").stat().st_size
    folder = model.save_pretrained(tmp_path / "16", dtype=dtype)
    assert (folder / "model.safetensors").stat().st_size < 0.52 * size
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {dtype}
    again = PerceiverAR.from_pretrained(folder)
    smallest = torch.finfo(dtype).smallest_normal
    for name, tensor in again.state_dict().items():
        exact = model.state_dict()[name]
        assert tensor.dtype == torch.float32
        error = (tensor - exact).abs()
        assert (error <= torch.finfo(dtype).eps / 2 * exact.abs().clamp(min=smallest)).all()
    assert model.embedding.weight.dtype == torch.float32  # left as it was
    assert not same_weights(again, model)


def test_float16_refuses_what_it_cannot_hold(tmp_path):
    model = small_model(0)
    with torch.no_grad():
        model.norm.bias[0] = 1e5
    with pytest.raises(CheckpointError, match=r"norm.bias .* range of torch.float16"):
        model.save_pretrained(tmp_path / "out", dtype=torch.float16)
    assert not (tmp_path / "out").exists()
    assert PerceiverAR.from_pretrained(
        model.save_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    ).norm.bias[0].item() == pytest.approx(1e5, rel=0.01)


class Stopped(BaseException):
    """Stands for whatever else ends a process's work but lets it clean up."""


STAGES = ["weights", "hash", "json", "fsync", "replace 1", "replace 2"]


def stop_at(patch, stage: str, stop) -> None:
    """Call `stop` at one step of saving; for the weights, when half of the file is written."""
    replace, calls = os.replace, []

    def half_a_file(tensors, path, **kwargs):
        Path(path).write_bytes(b"half a file")
        stop()

    def counted_replace(*args):
        calls.append(args)
        if stage == f"replace {len(calls)}":
            stop()
        replace(*args)

    if stage == "weights":
        patch.setattr(files, "save_file", half_a_file)
    elif stage == "hash":
        patch.setattr(files, "hash_of", lambda path: stop())
    elif stage == "json":
        patch.setattr(files.json, "dumps", lambda *args, **kwargs: stop())
    elif stage == "fsync":
        patch.setattr(os, "fsync", lambda file: stop())
    patch.setattr(os, "replace", counted_replace)


@pytest.mark.parametrize("error", [OSError("no space left"), Stopped()], ids=["error", "stop"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_failed_save_leaves_a_whole_checkpoint(own_folder, tmp_path, monkeypatch, stage, error):
    def stop():
        raise error

    expected = CheckpointError if isinstance(error, OSError) else Stopped
    for folder in (own_folder, tmp_path / "new"):
        with monkeypatch.context() as patch:
            stop_at(patch, stage, stop)
            with pytest.raises(expected) as caught:
                small_model(1).save_pretrained(folder)
        if expected is CheckpointError:
            assert str(caught.value) == f"{folder} could not be written: no space left"
        if stage == "replace 2":  # by then the new one is complete
            assert same_weights(PerceiverAR.from_pretrained(folder), small_model(1))
        elif folder == own_folder:
            assert same_weights(PerceiverAR.from_pretrained(folder), small_model(0))
            names = sorted(path.name for path in folder.iterdir())
            assert names == ["config.json", "model.safetensors"]
        else:
            assert not folder.exists()
        small_model(2).save_pretrained(folder)
        assert same_weights(PerceiverAR.from_pretrained(folder), small_model(2))
        assert len(list(folder.iterdir())) == 2


KILLED_SAVES = """
import os, signal, sys
from pathlib import Path
import pytest, torch
sys.path.insert(0, sys.argv[1])
from test_checkpoints import STAGES, small_model, stop_at
torch.set_num_threads(1)
for stage in STAGES:
    folder = small_model(0).save_pretrained(Path(sys.argv[2]) / stage)
    for seed in (1, 2):
        process = os.fork()
        if not process:
            stop_at(pytest.MonkeyPatch(), stage, lambda: os.kill(os.getpid(), signal.SIGKILL))
            small_model(seed).save_pretrained(folder)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to kill processes cheaply")
def test_a_killed_save_leaves_a_whole_checkpoint(tmp_path):
    """SIGKILL, twice in a row at the same step: nobody cleans up."""
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", KILLED_SAVES, here, tmp_path], env=ENV, check=True)
    # At the last step the second save first finished the first one, then died before its own.
    for stage, seed in zip(STAGES, [0, 0, 0, 0, 0, 1], strict=True):
        folder = tmp_path / stage
        assert same_weights(PerceiverAR.from_pretrained(folder), small_model(seed)), stage
        small_model(3).save_pretrained(folder)
        assert same_weights(PerceiverAR.from_pretrained(folder), small_model(3))
        assert len(list(folder.iterdir())) == 2


def test_saving_over_a_file_is_an_error(tmp_path):
    (tmp_path / "taken").write_text("a diary")
    with pytest.raises(CheckpointError, match=r"taken could not be written: .*File exists"):
        small_model(0).save_pretrained(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "a diary"


# What is refused.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"abs_pos_emb": True}, "abs_pos_emb is True; only False is supported"),
        ({"abs_pos_emb": ...}, "abs_pos_emb is None; only False is supported"),
        ({"output_norm": False}, "output_norm is False; only True is supported"),
        ({"output_bias": True}, "output_bias is True; only False is supported"),
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; only 'perceiver-ar-symbolic-audio-model'"),
        ({"num_cross_layers": 2}, "unknown to this version, .* model: num_cross_layers"),
        ({"num_heads": ..., "max_latents": ...}, "lacks configuration fields: max_latents, num_h"),
        ({"num_heads": 3}, r"impossible configuration: num_channels \(64\) must be an even"),
        ({"num_heads": "4"}, "impossible configuration: num_heads must be an integer"),
        ({"residual_dropout": "much"}, "impossible configuration: .*not supported between"),
        ({"max_latents": 97}, r"impossible configuration: max_latents \(97\) must not exceed"),
        ({"num_self_attention_layers": 10**12}, "too few for num_self_attention_layers = 10000000"),
        ({"num_channels": 2**80}, "no model can have this shape"),
        ({"vocab_size": 400}, r"txt_embedding.weight \(389, 64\) should be \(400, 64\)$"),
        ({"num_self_attention_layers": 2}, r"attention.2.1.module.1.weight \(256, 64\) is surplus"),
        ({"num_self_attention_layers": 4}, r"attention.3.1.module.1.weight \(256, 64\) is missing"),
    ],
    ids=str,
)
def test_hub_configuration_is_refused(hub_folder, changes, message):
    edit_json(hub_folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        PerceiverAR.from_pretrained(hub_folder)
    assert str(hub_folder) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "tinyperceiver-2"}, "'tinyperceiver-2'; only 'tinyperceiver-1' is supported"),
        ({"max_heads_parallel": None}, "unknown to this version, .* model: max_heads_parallel"),
        ({"num_self_attention_rotary_layers": -2}, "num_self_attention_rotary_layers must be"),
        ({"init_scale": ...}, "lacks configuration fields: init_scale"),
        (
            {"num_self_attention_rotary_layers": ...},
            "lacks configuration fields: num_self_attention_rotary_layers",
        ),
        ({"weights_sha256": ...}, "not None as config.json records"),
        ({"weights_sha256": "0" * 64}, "has the SHA-256 [0-9a-f]{64}, not 0{64} as config.json"),
        ({"num_channels": 16}, r"embedding.weight \(11, 8\) should be \(11, 16\)"),
    ],
    ids=str,
)
def test_own_configuration_is_refused(own_folder, changes, message):
    edit_json(own_folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        PerceiverAR.from_pretrained(own_folder)
    assert str(own_folder) in str(caught.value)


def test_peer_fields_that_change_nothing_are_ignored(hub_folder):
    edit_json(
        hub_folder / "config.json",
        max_heads_parallel=2,
        activation_checkpointing=False,
        activation_offloading=True,
        params="somewhere",
        validation_sample_prompt="a.mid",
        validation_sample_record=3,
    )
    assert same_weights(PerceiverAR.from_pretrained(hub_folder), PerceiverAR.from_pretrained(HUB))


@pytest.mark.parametrize("layout", ["bin", "safetensors", "training"])
def test_tensors_that_do_not_fit_are_named_with_their_shapes(hub_folder, tmp_path, layout):
    prefix = "model." if layout == "training" else "backend_model."
    tensors = {name.replace("backend_model.", prefix): t for name, t in hub_tensors().items()}
    del tensors[prefix + "out_norm.bias"]
    tensors[prefix + "out_norm.scale"] = torch.ones(64, 1)
    tensors[prefix + "cross_attention.1.module.1.weight"] = torch.ones(64, 256)
    tensors[prefix + "input_adapter.txt_embedding.weight"] = torch.ones(389, 64, dtype=torch.int8)
    weights = hub_folder / "pytorch_model.bin"
    if layout == "bin":
        torch.save(tensors, weights)
    elif layout == "safetensors":
        weights = hub_folder / "model.safetensors"
        save_file(tensors, weights)
    else:
        weights = tmp_path / "training.ckpt"
        settings = torch.load(TRAINING, weights_only=True)["hyper_parameters"]
        torch.save({"state_dict": tensors, "hyper_parameters": settings}, weights)
    with pytest.raises(CheckpointError) as caught:
        if layout == "training":
            convert_checkpoint(tmp_path / "out", weights)
        else:
            PerceiverAR.from_pretrained(hub_folder)
    assert str(caught.value) == (
        f"{weights} does not fit its configuration: "
        f"{prefix}cross_attention.1.module.1.weight (64, 256) should be (256, 64); "
        f"{prefix}input_adapter.txt_embedding.weight holds no floating-point numbers (torch.int8); "
        f"{prefix}out_norm.bias (64,) is missing; "
        f"{prefix}out_norm.scale (64, 1) is surplus"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "speeds",
    [
        500_000.0 ** (-torch.arange(0, 16, 2) / 16),  # another base
        10_000.0 ** (-torch.arange(0, 8, 2) / 8),  # half of a head's channels
        torch.arange(8),
    ],
    ids=["base", "channels", "integers"],
)
def test_another_rotation_is_refused(hub_folder, speeds):
    tensors = hub_tensors() | {"backend_model." + PEER_SPEEDS: speeds}
    torch.save(tensors, hub_folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="another rotary embedding"):
        PerceiverAR.from_pretrained(hub_folder)
    del tensors["backend_model." + PEER_SPEEDS]  # not needed: we compute them
    torch.save(tensors, hub_folder / "pytorch_model.bin")
    assert same_weights(PerceiverAR.from_pretrained(hub_folder), PerceiverAR.from_pretrained(HUB))


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_truncated_weights_are_refused(hub_folder, own_folder, share):
    for path in (hub_folder / "pytorch_model.bin", own_folder / "model.safetensors"):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
    message = "it is truncated" if share else "it is damaged, or no file of tensors"
    with pytest.raises(CheckpointError, match=f"pytorch_model.bin can't be read: {message}"):
        PerceiverAR.from_pretrained(hub_folder)
    with pytest.raises(CheckpointError, match=r"safetensors has the SHA-256 .* damaged"):
        PerceiverAR.from_pretrained(own_folder)
    # Without a recorded hash safetensors must notice by itself.
    save_file(hub_tensors(), hub_folder / "model.safetensors")
    whole = (hub_folder / "model.safetensors").read_bytes()
    (hub_folder / "model.safetensors").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"model.safetensors is truncated or no safetensors"):
        PerceiverAR.from_pretrained(hub_folder)


def test_one_changed_bit_is_noticed(own_folder):
    data = bytearray((own_folder / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (own_folder / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"SHA-256 .* damaged or of another checkpoint"):
        PerceiverAR.from_pretrained(own_folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is not readable as JSON"),
        (b'{"format": ', "is not readable as JSON"),
        (b"\xff\xfe\x00", "is not readable as JSON"),
        (b"[" * 100_000, "is not readable as JSON"),
        (b"[1]", "holds no JSON object"),
        (b'{"model_type": "gpt2"}', "describes no Perceiver AR: no `format`, no `model_config`"),
        (b'{"model_config": 3}', "describes no Perceiver AR"),
    ],
    ids=["empty", "cut", "bytes", "deep", "list", "gpt2", "number"],
)
def test_other_config_files_are_refused(own_folder, text, message):
    (own_folder / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=rf"config\.json {message}"):
        PerceiverAR.from_pretrained(own_folder)


def test_missing_files_are_named(hub_folder, own_folder, tmp_path):
    (own_folder / "model.safetensors").unlink()
    (hub_folder / "pytorch_model.bin").unlink()
    for folder in (own_folder, hub_folder):
        with pytest.raises(CheckpointError, match=rf"{folder} holds no weights \(model.safetens"):
            PerceiverAR.from_pretrained(folder)
    (own_folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=rf"{own_folder} holds no checkpoint: config.json is"):
        PerceiverAR.from_pretrained(own_folder)
    for nothing in ("./nothing", "~/nothing/at/all", "a/b/c", tmp_path / "nothing", TRAINING):
        with pytest.raises(CheckpointError, match="is not a folder with a checkpoint"):
            PerceiverAR.from_pretrained(nothing)
    with pytest.raises(CheckpointError, match="revision='v1' is for a hub id only"):
        PerceiverAR.from_pretrained(HUB, "v1")


def test_folders_in_place_of_files_are_refused(hub_folder, own_folder):
    for path in (hub_folder / "pytorch_model.bin", own_folder / "model.safetensors"):
        path.unlink()
        path.mkdir()
        with pytest.raises(CheckpointError, match=rf"{path} can't be read: .*Is a directory"):
            PerceiverAR.from_pretrained(path.parent)
    (hub_folder / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"model.safetensors is truncated or no safetensors"):
        PerceiverAR.from_pretrained(hub_folder)


class Payload:
    """Unpickled, it leaves a folder behind."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle 2", "pickle 5"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(hub_folder, tmp_path, form):
    trace = tmp_path / "trace"
    contents = hub_tensors() | {"state_dict": {}, "hyper_parameters": Payload(trace)}
    path = hub_folder / "pytorch_model.bin"
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(Payload(trace), protocol=int(form[-1])))
    else:
        torch.save(contents, path, _use_new_zipfile_serialization=form == "zip")
    for load in (
        lambda: PerceiverAR.from_pretrained(hub_folder),
        lambda: convert_checkpoint(tmp_path / "out", path),
    ):
        message = r"holds a Python object \(posix.mkdir\)"
        if form == "pickle 5":  # stopped at its first byte
            message = "it is damaged, or no file of tensors"
        with pytest.raises(CheckpointError, match=message):
            load()
    assert not trace.exists() and not (tmp_path / "out").exists()
    if form.startswith("pickle"):  # elsewhere it would have run
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert trace.exists()


def test_objects_among_hyperparameters_say_how_to_convert(tmp_path):
    checkpoint = torch.load(TRAINING, weights_only=True)
    checkpoint["hyper_parameters"]["params"] = SMALL
    torch.save(checkpoint, tmp_path / "objects.ckpt")
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint(tmp_path / "out", tmp_path / "objects.ckpt")
    for part in (
        "objects.ckpt holds a Python object (tinyperceiver.model.config.PerceiverConfig)",
        "weights_only=False",
        "`state_dict`",
        "`hyper_parameters`",
    ):
        assert part in str(caught.value)


# Conversion.


@pytest.mark.parametrize(
    "contents",
    [[1, 2], {"state_dict": {}}, {"state_dict": [], "hyper_parameters": {}}, hub_tensors()],
    ids=["list", "no settings", "wrong types", "weights only"],
)
def test_other_torch_files_are_not_training_checkpoints(tmp_path, contents):
    torch.save(contents, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"other.ckpt is no Lightning training checkpoint"):
        convert_checkpoint(tmp_path / "out", tmp_path / "other.ckpt")


def test_state_dict_of_other_things_is_refused(tmp_path):
    settings = torch.load(TRAINING, weights_only=True)["hyper_parameters"]
    torch.save({"state_dict": {"a": 1}, "hyper_parameters": settings}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"x.ckpt holds something else than tensors by name"):
        convert_checkpoint(tmp_path / "out", tmp_path / "x.ckpt")


def test_convert_local_file(tmp_path):
    digest = hashlib.sha256(TRAINING.read_bytes()).hexdigest()
    model = convert_checkpoint(tmp_path / "out", str(TRAINING), sha256=digest.upper())
    assert same_weights(model, PerceiverAR.from_pretrained(tmp_path / "out"))
    with pytest.raises(CheckpointError, match=rf"training.ckpt has the SHA-256 {digest}, not 00"):
        convert_checkpoint(tmp_path / "other", TRAINING, sha256="0" * 64)
    for nothing in ("s3://bucket/a.ckpt", tmp_path / "nothing.ckpt", tmp_path):
        with pytest.raises(CheckpointError, match=r"is neither a file nor an http\(s\) address"):
            convert_checkpoint(tmp_path / "other", nothing)
    assert not (tmp_path / "other").exists()
    convert_checkpoint(tmp_path / "half", TRAINING, dtype=torch.bfloat16)
    half = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in half.values()} == {torch.bfloat16}


# Downloads, from servers of our own.

ENV = os.environ | {
    "PYTHONPATH": str(Path(pretrained.__file__).parents[2]),
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


class Handler(BaseHTTPRequestHandler):
    """Quiet, and remembers what it was asked for."""

    def log_request(self, *args):
        self.server.seen.append((self.command, self.path))

    def log_message(self, *args):
        pass

    def answer(self, status: int, body: bytes, *, send: int | None = None, **headers):
        """Announce `body` and send the first `send` bytes of it."""
        self.send_response(status)
        headers = {"Content_Length": str(len(body))} | headers
        for name, value in headers.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:send])


@pytest.fixture
def serve(monkeypatch):
    """Start a server with the handler that it is given; its address is `.url`."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def start(handler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.seen, server.url = [], f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Files(Handler):
    def do_GET(self):
        body = TRAINING.read_bytes()
        name = self.path.strip("/")
        if name == "good.ckpt":
            self.answer(200, body)
        elif name == "moved.ckpt":
            self.answer(302, b"", Location="/good.ckpt")
        elif name == "nolength.ckpt":
            self.answer(200, body, Content_Length=None)
        elif name == "nolength-short.ckpt":
            self.answer(200, body, Content_Length=None, send=len(body) // 2)
        elif name == "again.ckpt" and "Range" in self.headers:
            begin = int(self.headers["Range"][len("bytes=") : -1])
            span = f"bytes {begin}-{len(body) - 1}/{len(body)}"
            self.answer(206, body[begin:], ETag='"1"', Content_Range=span)
        elif name == "again.ckpt":
            self.answer(200, body, ETag='"1"', send=len(body) // 2)
        elif name == "breaks.ckpt":
            self.answer(200, body, send=len(body) // 2)
        elif name == "wronglength.ckpt":
            self.answer(200, body, Content_Length=str(len(body) // 2))
        elif name == "longer.ckpt":
            self.answer(200, body, Content_Length=str(len(body) + 7))
        elif name == "page.ckpt":
            self.answer(200, b"<html>please log in</html>")
        elif name != "silent.ckpt":
            self.answer(404, b"no")


@pytest.fixture
def no_pause(monkeypatch):
    """The next attempt of a download follows at once."""
    monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)


@pytest.mark.parametrize("name", ["good.ckpt", "moved.ckpt", "nolength.ckpt", "again.ckpt"])
def test_convert_from_a_server(serve, tmp_path, name, no_pause):
    digest = hashlib.sha256(TRAINING.read_bytes()).hexdigest()
    model = convert_checkpoint(tmp_path / "out", f"{serve(Files).url}/{name}", sha256=digest)
    assert same_weights(model, PerceiverAR.from_pretrained(HUB))
    assert same_weights(model, PerceiverAR.from_pretrained(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_download_that_broke_off_goes_on_in_the_next_call(serve, tmp_path, monkeypatch):
    server = serve(Files)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(downloads.time, "sleep", interrupt)
        convert_checkpoint(tmp_path / "out", f"{server.url}/again.ckpt")
    assert not (tmp_path / "out").exists()
    convert_checkpoint(tmp_path / "out", f"{server.url}/again.ckpt")
    assert len(server.seen) == 2, "one half in each call"


def interrupt(*args):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("breaks.ckpt", r"broke off after 456,843 of 913,686 bytes \(5 attempts; .* are kept"),
        ("longer.ckpt", r"broke off after 913,686 of 913,693 bytes \(5 attempts; .* are kept"),
        ("wronglength.ckpt", "can't be read: it is truncated. Fetch it again"),
        ("nolength-short.ckpt", "can't be read: it is truncated. Fetch it again"),
        ("page.ckpt", "can't be read: it is damaged, or no file of tensors"),
        ("missing.ckpt", "could not be downloaded: HTTP Error 404: Not Found"),
        ("silent.ckpt", "could not be downloaded: Remote end closed connection"),
    ],
)
def test_bad_transfers_are_errors_and_leave_what_was_there(
    serve, tmp_path, no_pause, name, message
):
    url = f"{serve(Files).url}/{name}"
    small_model(0).save_pretrained(tmp_path / "out")
    with pytest.raises(CheckpointError, match=message) as caught:
        convert_checkpoint(tmp_path / "out", url)
    assert url in str(caught.value)
    parts = {"out.download.part", "out.download.part.json"} if "are kept" in message else set()
    assert {path.name for path in tmp_path.iterdir()} == {"out"} | parts
    assert same_weights(PerceiverAR.from_pretrained(tmp_path / "out"), small_model(0))


def test_wrong_hash_of_a_download_and_no_server_at_all(serve, tmp_path, no_pause):
    server = serve(Files)
    with pytest.raises(CheckpointError, match=r"good.ckpt has the SHA-256 [0-9a-f]{64}, not 0{64}"):
        convert_checkpoint(tmp_path / "out", f"{server.url}/good.ckpt", sha256="0" * 64)
    server.shutdown()
    server.server_close()
    for url in (server.url + "/good.ckpt", "http://"):
        with pytest.raises(CheckpointError, match=rf"{url} could not be downloaded: "):
            convert_checkpoint(tmp_path / "out", url)
    assert not (tmp_path / "out").exists()


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(Handler):
    """As much of the hub as huggingface_hub needs, with some models whose transfer breaks off."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        found = re.fullmatch(r"/(someone/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        model, revision, name = found.groups() if found else ("", "", "")
        files = self.server.files.get(model)
        if files is None:
            return self.answer(404, b"", X_Error_Code="RepoNotFound")
        if revision not in ("main", COMMIT):
            return self.answer(404, b"", X_Error_Code="RevisionNotFound")
        if name not in files:
            return self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        body = files[name]
        tag = hashlib.sha256(body).hexdigest()
        headers = {"ETag": f'"{tag}"', "X_Repo_Commit": COMMIT, "Accept_Ranges": "none"}
        if self.command == "HEAD" or name == "config.json" or "breaks" not in model:
            return self.answer(200, body, **headers)
        if self.server.seen.count((self.command, self.path)) == 0:  # counted in log_request
            return self.answer(200, body, send=len(body) // 2, **headers)
        if model == "someone/breaks-for-good":
            return self.answer(500, b"")
        return self.answer(200, body, **headers)

    def do_POST(self):
        """Making a model and committing to it."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer hf_good":
            return self.answer(401, b'{"error": "Invalid username or password."}')
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            answer = {"url": f"{self.server.url}/{name}", "id": name}
        elif self.path.endswith("/preupload/main"):
            paths = [file["path"] for file in json.loads(body)["files"]]
            kind = {"uploadMode": "regular", "shouldIgnore": False}
            answer = {"files": [{"path": path, **kind} for path in paths]}
        else:
            self.server.commits[self.path] = [json.loads(line) for line in body.splitlines()]
            answer = {
                "commitUrl": f"{self.server.url}/me/music/commit/{COMMIT}",
                "commitOid": COMMIT,
                "hookOutput": "",
            }
        return self.answer(200, json.dumps(answer).encode(), Content_Type="application/json")


CALLS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from test_checkpoints import CheckpointError, PerceiverAR, convert_checkpoint, digest_of
for function, args, kwargs in json.loads(sys.argv[2]):
    try:
        call = convert_checkpoint if function == "convert" else PerceiverAR.from_pretrained
        print(json.dumps(digest_of(call(*args, **kwargs))))
    except CheckpointError as error:
        print(json.dumps(str(error)))
"""


def digest_of(model: PerceiverAR) -> str:
    state = model.state_dict()
    data = b"".join(state[name].numpy().tobytes() for name in sorted(state))
    return hashlib.sha256(data).hexdigest()


def call_with_hub(calls: list, **env: str) -> list[str]:
    """Make calls in a new process: huggingface_hub reads its settings once, when imported."""
    run = subprocess.run(
        [sys.executable, "-c", CALLS, str(Path(__file__).parent), json.dumps(calls)],
        env=ENV | env,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_hub_download_cache_and_offline_mode(serve, tmp_path, own_folder):
    server = serve(Hub)
    save_file(hub_tensors(), tmp_path / "model.safetensors")
    old = {name: (HUB / name).read_bytes() for name in ("config.json", "pytorch_model.bin")}
    own = {path.name: path.read_bytes() for path in own_folder.iterdir()}
    server.files = {
        "someone/old": old | {"README.md": b"hello"},
        "someone/both": old | {"model.safetensors": (tmp_path / "model.safetensors").read_bytes()},
        "someone/own": own,
        "someone/damaged": own | {"model.safetensors": own["model.safetensors"][:-1] + b"!"},
        "someone/breaks-once": old,
        "someone/breaks-for-good": old,
        "someone/no-weights": {"config.json": old["config.json"]},
        "someone/no-config": {"README.md": b"hello"},
    }
    released, mine = digest_of(PerceiverAR.from_pretrained(HUB)), digest_of(small_model(0))
    refused = "'{}': no such folder, and not from the hub: "
    elsewhere = {"cache_dir": str(tmp_path / "elsewhere")}
    online = [
        ("someone/old", {}, released),
        ("someone/both", {"revision": "main"}, released),
        ("someone/own", {"revision": COMMIT}, mine),
        ("someone/breaks-once", elsewhere, released),
        ("someone/breaks-for-good", {}, refused + ".*500"),
        ("someone/damaged", {}, "damaged or of another checkpoint"),
        ("someone/no-weights", {}, refused + "it lacks config.json, or both model.safetensors and"),
        ("someone/no-config", {}, refused + "it lacks config.json"),
        ("someone/unknown", {}, refused + "no such model, or a private one: check the name"),
        ("someone/old", {"revision": "v9"}, refused + "it has no revision 'v9'"),
        ("someone/else", {"local_files_only": True}, refused + "it is not in the cache"),
        ("someone/not a name!", {}, refused + ".*not a name!"),
        ("no-owner", {}, "no model is called '{}': it is no folder here, and a model id on the"),
    ]
    offline = [
        ("someone/old", {}, released),
        ("someone/both", {"revision": "main"}, released),
        ("someone/own", {"revision": COMMIT}, mine),
        ("someone/breaks-once", elsewhere, released),
        (
            "someone/breaks-once",
            {},
            refused + "it is not in the cache, and the hub is switched off or out of reach.*"
            "HF_HUB_OFFLINE=1",
        ),
    ]
    settings = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
    for calls, mode in ((online, {}), (offline, {"HF_HUB_OFFLINE": "1"})):
        server.seen.clear()
        answers = call_with_hub(
            [("load", [n], options) for n, options, _ in calls], **settings, **mode
        )
        for (name, _, expected), answer in zip(calls, answers, strict=True):
            assert re.search(expected.format(re.escape(name)), answer), (name, answer)
        if mode:
            assert server.seen == []
        else:
            fetched = sorted(
                path.split("/", 2)[2] for command, path in server.seen if command == "GET"
            )
            assert [path for path in fetched if path.startswith(("old/", "both/"))] == [
                f"both/resolve/{COMMIT}/model.safetensors",
                "both/resolve/main/config.json",
                f"old/resolve/{COMMIT}/pytorch_model.bin",
                "old/resolve/main/config.json",
            ]


def test_push_to_hub(serve, tmp_path):
    server = serve(Hub)
    server.commits = {}
    server.files = {}
    released = digest_of(PerceiverAR.from_pretrained(HUB))
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "private-notes.txt").write_text("not to be uploaded")
    answers = call_with_hub(
        [
            ("convert", [str(tmp_path / "music"), str(TRAINING), True], {"token": "hf_good"}),
            ("convert", [str(tmp_path / "other"), str(TRAINING), "a/b"], {"token": "hf_good"}),
            ("convert", [str(tmp_path / "third"), str(TRAINING), "a/b"], {"token": "hf_bad"}),
        ],
        HF_ENDPOINT=server.url,
        HF_HOME=str(tmp_path / "home"),
    )
    assert answers[:2] == [released, released]
    assert f"{tmp_path / 'third'} is written, but its upload to 'a/b' failed: " in answers[2]
    assert digest_of(PerceiverAR.from_pretrained(tmp_path / "third")) == released
    assert sorted(server.commits) == [
        "/api/models/a/b/commit/main",
        "/api/models/me/music/commit/main",
    ]
    for path, folder in zip(sorted(server.commits), ("other", "music"), strict=True):
        sent = [line["value"] for line in server.commits[path] if line["key"] == "file"]
        assert sorted(file["path"] for file in sent) == ["config.json", "model.safetensors"]
        for file in sent:
            here = (tmp_path / folder / file["path"]).read_bytes()
            assert base64.b64decode(file["content"]) == here
