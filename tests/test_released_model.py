"""The released model itself, 539 MB from the hub. Run only when asked for: `pytest -m hub`.

Another model of the same shape can take its place, one that was trained further or a copy on a
server of your own: set HUB_REPO to its id, or to a folder, and HF_ENDPOINT to the server.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi

from tinyperceiver import load_piece
from tinyperceiver.checkpoints.folder import CONFIG, PICKLE, WEIGHTS
from tinyperceiver.checkpoints.pretrained import find_folder
from tinyperceiver.checkpoints.released import PEER_SPEEDS, peer_tensors
from tinyperceiver.dataset.sources import list_pieces, open_source, read_piece
from tinyperceiver.files.whole import sha256_of
from tinyperceiver.model.config import PRESETS
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.music.midi import read_midi
from tinyperceiver.music.tokenizer import encode_midi
from tinyperceiver.music_pipeline import SymbolicAudioPipeline

pytestmark = pytest.mark.hub

REPO = os.environ.get("HUB_REPO", "krasserm/perceiver-ar-sam-giant-midi")
PUBLISHED = 1.944  # nats per token on held-out windows, as the name of its checkpoint says
NUM_WINDOWS = 16
MAX_RECORDINGS = 64  # to be read


@pytest.fixture(scope="module")
def folder() -> Path:
    return find_folder(REPO)


@pytest.fixture(scope="module")
def model(folder) -> PerceiverAR:
    torch.set_num_threads(os.cpu_count() or 1)  # the other tests' models are tiny, this is not
    yield PerceiverAR.from_pretrained(folder)
    torch.set_num_threads(1)


def test_the_files_are_those_that_the_hub_announces(folder):
    if Path(REPO).is_dir():
        pytest.skip("a folder: there is no hub to ask")
    listed = HfApi().model_info(REPO, revision=folder.name, files_metadata=True).siblings
    announced = {file.rfilename: file for file in listed}
    weights = folder / (WEIGHTS if (folder / WEIGHTS).exists() else PICKLE)
    assert (folder / CONFIG).stat().st_size == announced[CONFIG].size
    size = weights.stat().st_size
    assert size == announced[weights.name].size == announced[weights.name].lfs.size
    assert 538_000_000 < size < 541_000_000  # bytes: four to a parameter, and the names
    assert sha256_of(weights) == announced[weights.name].lfs.sha256


def test_shapes_and_configuration_are_the_released_ones(folder, model):
    assert model.config == PRESETS["released"]
    assert model.num_parameters == 134_840_832
    assert not model.training and model.embedding.weight.dtype == torch.float32
    if (folder / WEIGHTS).exists():
        from safetensors.torch import load_file

        stored = load_file(folder / WEIGHTS)
    else:
        stored = torch.load(folder / PICKLE, weights_only=True, mmap=True)
    expected = peer_tensors(model.state_dict(), model.config)
    assert len(stored) == 197 and stored.keys() == expected.keys()
    del stored["backend_model." + PEER_SPEEDS]  # computed here, and compared when loading
    assert all(torch.equal(stored[name], expected[name]) for name in stored)
    weights = torch.cat([parameter.flatten() for parameter in model.parameters()])
    assert weights.isfinite().all()


class Windows(NamedTuple):
    """What is measured: runs of tokens, and where their recordings lie."""

    windows: list[np.ndarray]
    source: Path


def held_out_windows(folder: Path, temporary: Path, shortest: int, longest: int) -> Windows:
    """Windows of recordings under `valid/` in a zip in `folder`, or in `folder` itself.

    Of random length and place, as in the training of the released model: a long recording gives
    more of them than a short one, and one shorter than `shortest` tokens gives none.
    """
    rng = np.random.default_rng(0)
    for source in (*sorted(folder.glob("*.zip")), folder):
        opened = open_source(source)
        pieces = [piece for piece in list_pieces(opened) if "valid" in Path(piece.name).parts[:-1]]
        recordings = []
        for piece in pieces[:: -(-len(pieces) // MAX_RECORDINGS) or 1]:
            path = temporary / "piece.mid"
            path.write_bytes(read_piece(opened, piece))
            tokens = np.array(encode_midi(read_midi(path)))
            recordings += [tokens] if len(tokens) > shortest else []
        if not recordings:
            continue
        lengths = np.array([len(tokens) for tokens in recordings])
        windows = []
        for i in rng.choice(len(recordings), NUM_WINDOWS, p=lengths / lengths.sum()):
            length = rng.integers(shortest, min(longest, lengths[i] - 1), endpoint=True)
            start = rng.integers(0, lengths[i] - length)
            windows.append(recordings[i][start : start + length + 1])
        return Windows(windows, source)
    pytest.skip(f"no recordings under valid/ in a zip in {folder}, or in it")


@torch.inference_mode()
def nats_of(model: PerceiverAR, windows: list[np.ndarray]) -> np.ndarray:
    """Mean nats per token of the latents of each window, as many as the model takes."""
    nats = []
    for window in windows:
        tokens = torch.from_numpy(window)[None].long()
        prefix_len = max(0, tokens.size(1) - 1 - model.config.max_latents)
        logits = model(tokens[:, :-1], prefix_len)
        expected = tokens[:, prefix_len + 1 :]
        nats.append(torch.nn.functional.cross_entropy(logits[0], expected[0]).item())
    return np.array(nats)


def test_held_out_nats_are_near_the_published(model, data, tmp_path):
    config = model.config
    windows, source = held_out_windows(data, tmp_path, config.max_latents, config.max_seq_len)
    nats = nats_of(model, windows)
    print(f"{nats.mean():.3f} nats per token, {len(nats)} windows of {source}: {nats.round(2)}")
    # Windows differ by 0.3 (standard deviation, of the shipped checkpoint's nats): the mean of 16
    # is uncertain by 0.08. And the recordings are not those of the published figure. Some may be
    # harder: by 0.12 for the shipped checkpoint, between these and those it was measured on. Some
    # may have been in the training data, of which the split is not known. With all of it, 0.3
    # either way. The shipped checkpoint, at 2.44 on the ends of the same windows, is outside.
    assert abs(nats.mean() - PUBLISHED) < 0.3


@pytest.fixture(scope="module")
def prompt() -> torch.Tensor:
    """Real music, (1, 256)."""
    return torch.tensor([encode_midi(load_piece("chopin-mazurka"))[:256]])


def test_greedy_continuation_repeats_and_does_not_depend_on_the_cache(model, prompt):
    options = {"max_new_tokens": 48, "num_latents": 16}
    found = model.generate(prompt, **options)
    assert found.shape == (1, 304) and torch.equal(found[:, :256], prompt)
    assert torch.equal(found, model.generate(prompt, **options))
    # Below max_latents both compute the same, up to rounding.
    assert torch.equal(found, model.generate(prompt, use_cache=False, **options))
    logits = model(found[:, :-1], 240)[0, -48:]
    chosen = logits.gather(1, found[0, 256:, None])[:, 0]
    assert (logits.amax(1) - chosen).max() < 1e-3  # of one pass over all, the likeliest as well


def test_through_transformers(folder, model, prompt):
    from transformers import AutoModelForCausalLM
    from transformers import pipeline as transformers_pipeline

    import tinyperceiver.huggingface  # noqa: F401

    name = str(folder) if Path(REPO).is_dir() else REPO
    loaded = AutoModelForCausalLM.from_pretrained(name)
    assert loaded.num_parameters() == 134_840_832 and loaded.dtype == torch.float32
    with torch.inference_mode():
        logits = loaded(input_ids=prompt, prefix_len=240).logits
        assert torch.equal(logits, model(prompt, 240))
    midi = load_piece("chopin-mazurka")
    options = {"max_new_tokens": 24, "max_prompt_length": 256, "return_type": "tensors"}
    continue_midi = transformers_pipeline("symbolic-audio-generation", model=name, device="cpu")
    expected = SymbolicAudioPipeline(model)(midi, **options)
    assert continue_midi(midi, **options) == expected
    assert expected["generated_token_ids"][:256] == prompt[0].tolist()
