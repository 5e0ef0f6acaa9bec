"""Transformers' own way to the model: the card's code as it stands there, and the files of both."""

import base64
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN, REFERENCE
from safetensors.torch import load_file, save_file
from test_checkpoints import COMMIT, ENV, Hub, digest_of, same_weights, serve  # noqa: F401
from test_music_pipeline import PROMPT, melody, notes_of
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM
from transformers import pipeline as transformers_pipeline

from tinyperceiver.checkpoints.folder import CheckpointError
from tinyperceiver.checkpoints.released import PEER_SPEEDS
from tinyperceiver.huggingface import (
    PerceiverSymbolicAudioModel,
    PerceiverSymbolicAudioModelConfig,
    SymbolicAudioGenerationPipeline,
)
from tinyperceiver.model.config import PRESETS
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.music.tokenizer import encode_midi
from tinyperceiver.music.vocabulary import NUM_EVENTS
from tinyperceiver.music_pipeline import SymbolicAudioPipeline

HUB = REFERENCE / "hub"
CASES = np.load(REFERENCE / "cases.npz")
PADDED = np.load(GOLDEN / "small" / "padded.npz")
TASK = "symbolic-audio-generation"


def golden(name: str, cases=CASES) -> torch.Tensor:
    return torch.from_numpy(cases[name])


@pytest.fixture(scope="module")
def model() -> PerceiverSymbolicAudioModel:
    return AutoModelForCausalLM.from_pretrained(HUB)


@pytest.fixture(scope="module")
def ours() -> PerceiverAR:
    return PerceiverAR.from_pretrained(HUB)


@pytest.fixture(scope="module")
def continue_midi() -> SymbolicAudioGenerationPipeline:
    return transformers_pipeline(TASK, model=str(HUB), device="cpu")


def in_new_python(code: str, *args: object, cwd: Path, **env: str) -> str:
    """What it prints. A warning is an error, and so is a line of Transformers' log."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, args)],
        env=ENV | env,
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return run.stdout


# The model card

CARD_MODEL = """
import sys; repo_id = sys.argv[1]

import torch
from pretty_midi import PrettyMIDI
from transformers import AutoModelForCausalLM

import tinyperceiver.huggingface
from tinyperceiver import decode_midi, encode_midi

model = AutoModelForCausalLM.from_pretrained(repo_id)

prompt_midi = PrettyMIDI("prompt.mid")
prompt = torch.tensor(encode_midi(prompt_midi)).unsqueeze(0)

output = model.generate(
    prompt, max_new_tokens=64, num_latents=1, do_sample=True, top_p=0.95, temperature=1.0
)

output_midi = decode_midi(output[0].cpu().numpy())
assert type(output_midi) is PrettyMIDI
assert output.shape == (1, prompt.shape[1] + 64)
output_midi.write("output.mid")
"""

CARD_PIPELINE = """
import sys; repo_id = sys.argv[1]

from pretty_midi import PrettyMIDI
from transformers import pipeline

import tinyperceiver.huggingface

prompt = PrettyMIDI("prompt.mid")
audio_generator = pipeline("symbolic-audio-generation", model=repo_id)

output = audio_generator(
    prompt, max_new_tokens=64, num_latents=1, do_sample=True, top_p=0.95, temperature=1.0
)

assert list(output) == ["generated_audio_midi"]
output["generated_audio_midi"].write("output.mid")
"""

CARD_SOUND = """
import sys; repo_id = sys.argv[1]

from pretty_midi import PrettyMIDI
from transformers import pipeline

import tinyperceiver.huggingface

prompt = PrettyMIDI("prompt.mid")
audio_generator = pipeline("symbolic-audio-generation", model=repo_id)

output = audio_generator(
    prompt,
    max_new_tokens=64,
    num_latents=1,
    do_sample=True,
    top_p=0.95,
    temperature=1.0,
    render=True,
)

with open("output.wav", "wb") as f:
    f.write(output["generated_audio_wav"])
assert list(output) == ["generated_audio_wav"]
"""


@pytest.mark.parametrize("code", [CARD_MODEL, CARD_PIPELINE], ids=["model", "pipeline"])
def test_the_cards_code_runs_without_a_warning(code, tmp_path):
    import pretty_midi

    PROMPT.write(str(tmp_path / "prompt.mid"))
    prompt = pretty_midi.PrettyMIDI(str(tmp_path / "prompt.mid"))
    # Seeded: of some draws of a random model no new note ends within 64 tokens.
    seed = "import torch; torch.manual_seed(1)\n"
    assert in_new_python(seed + code, HUB, cwd=tmp_path) == ""
    output = notes_of(pretty_midi.PrettyMIDI(str(tmp_path / "output.mid")))
    heard = {(pitch, round(start, 2)) for pitch, _, start, _ in output}
    assert {(pitch, round(start, 2)) for pitch, _, start, _ in notes_of(prompt)} <= heard
    assert len(output) > len(notes_of(prompt))


def test_the_cards_code_with_sound(tmp_path):
    PROMPT.write(str(tmp_path / "prompt.mid"))
    assert in_new_python(CARD_SOUND, HUB, cwd=tmp_path) == ""
    import soundfile

    samples, rate = soundfile.read(tmp_path / "output.wav")
    assert rate == 44_100 and len(samples) > rate and np.abs(samples).max() > 0.5


# The peer's answers


@torch.no_grad()
def test_logits_equal_the_peers(model):
    assert type(model) is PerceiverSymbolicAudioModel and not model.training
    for i in range(6):
        pad_mask = golden(f"forward{i}.pad_mask")
        output = model(
            input_ids=golden(f"forward{i}.tokens"),
            prefix_len=int(CASES[f"forward{i}.prefix_len"]),
            attention_mask=(~pad_mask).long(),
        )
        expected = golden(f"forward{i}.logits")
        assert output.loss is None and output.logits.shape == expected.shape
        assert (output.logits - expected).abs().max() < 1e-4


@pytest.mark.parametrize("i", range(4))
def test_greedy_continuations_equal_the_peers(model, i):
    prompt, expected = golden(f"greedy{i}.prompt"), golden(f"greedy{i}.output")
    options = {
        "max_new_tokens": expected.size(1) - prompt.size(1),
        "num_latents": int(CASES[f"greedy{i}.num_latents"]),
    }
    assert torch.equal(model.generate(prompt, **options), expected)
    assert torch.equal(model.generate(input_ids=prompt, **options), expected)


def test_attention_mask_is_the_reverse_of_the_peers_pad_mask(model):
    prompt, expected = golden("prompt", PADDED), golden("output", PADDED)
    options = {
        "max_new_tokens": expected.size(1) - prompt.size(1),
        "num_latents": int(PADDED["num_latents"]),
    }
    pad_mask = golden("pad_mask", PADDED)
    for mask in (~pad_mask, (~pad_mask).long(), (~pad_mask).float()):
        assert torch.equal(model.generate(prompt, attention_mask=mask, **options), expected)
    assert not torch.equal(model.generate(prompt, **options), expected)


# The same as without Transformers


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_padding_is_in_the_prefix_or_refused(model, ours):
    tokens = torch.randint(NUM_EVENTS, (1, 6), generator=seeded())
    alone = ours(tokens, 4)
    padded = torch.cat((torch.full((1, 4), 388), tokens), dim=1)
    mask = (torch.arange(10) >= 4).long()[None]
    found = model(padded, attention_mask=mask).logits  # by default no pad is a latent
    assert found.shape[1] == 6
    assert torch.allclose(found, ours(tokens, 0), atol=1e-4)
    found = model(padded, prefix_len=8, attention_mask=mask).logits
    assert torch.allclose(found, alone, atol=1e-4)
    with pytest.raises(ValueError, match="padding must be in the prefix: a row has 4"):
        model(padded, prefix_len=2, attention_mask=mask)
    with pytest.raises(ValueError, match="padding must stand on the left"):
        model(padded, attention_mask=mask.flip(1))


def test_the_loss_of_a_part_of_a_step(model):
    tokens = torch.randint(NUM_EVENTS, (2, 9), generator=seeded())
    mean = model(tokens, prefix_len=4, labels=tokens).loss
    part = model(tokens, prefix_len=4, labels=tokens, num_items_in_batch=torch.tensor(16)).loss
    assert torch.allclose(part, mean / 2)  # 8 targets here, 16 in all
    with pytest.raises(ValueError, match="cannot honour position_ids"):
        model(tokens, position_ids=torch.arange(9)[None])


def test_generate_is_ours(model, ours):
    prompt = torch.tensor([encode_midi(PROMPT)])
    options = {"max_new_tokens": 40, "num_latents": 4, "do_sample": True, "top_p": 0.9}
    found = model.generate(prompt, generator=seeded(), **options)
    assert torch.equal(found, ours.generate(prompt, generator=seeded(), **options))
    with pytest.raises(ValueError, match="generate needs one prompt"):
        model.generate(**options)
    with pytest.raises(TypeError, match="num_beams"):
        model.generate(prompt, num_beams=4, **options)


@pytest.mark.skipif(not hasattr(PerceiverAR, "stream"), reason="no streaming here")
def test_stream_is_ours(model, ours):
    prompt = torch.tensor(encode_midi(PROMPT))
    options = {"max_new_tokens": 12, "num_latents": 4}
    assert list(model.stream(prompt, **options)) == list(ours.stream(prompt, **options))


def test_pipeline_is_ours(continue_midi, ours):
    without = SymbolicAudioPipeline(ours)
    for options in (
        {"max_new_tokens": 30, "return_type": "tensors"},
        {"max_new_tokens": 30, "return_type": "tensors", "return_full_audio": False},
        {"max_new_tokens": 9, "return_type": "tensors", "max_prompt_length": 7},
        {"max_new_tokens": 10, "render": True},
    ):
        assert continue_midi(PROMPT, **options) == without(PROMPT, **options)
    options = {"max_new_tokens": 60, "do_sample": True, "temperature": 0.9}
    found, expected = (
        each(PROMPT, generator=seeded(), **options)["generated_audio_midi"]
        for each in (continue_midi, without)
    )
    assert notes_of(found) == notes_of(expected)


def test_lists_tuples_and_generators_of_prompts(continue_midi):
    options = {"max_new_tokens": 12, "return_type": "tensors"}
    prompts = [PROMPT, melody(50, 52, 54)]
    single = [continue_midi(prompt, **options) for prompt in prompts]
    assert single[0] != single[1]
    assert continue_midi(prompts, **options) == single
    assert continue_midi(tuple(prompts), **options) == single
    assert continue_midi([], **options) == []
    streamed = continue_midi((prompt for prompt in prompts), **options)
    assert list(streamed) == single


def test_arguments_given_to_pipeline_hold_until_given_again(continue_midi):
    fixed = transformers_pipeline(
        TASK, model=str(HUB), device="cpu", max_new_tokens=5, return_type="tensors"
    )
    options = {"max_new_tokens": 5, "return_type": "tensors"}
    assert fixed(PROMPT) == continue_midi(PROMPT, **options)
    longer = continue_midi(PROMPT, **options | {"max_new_tokens": 9})
    assert fixed(PROMPT, max_new_tokens=9) == longer
    assert fixed([PROMPT], max_new_tokens=9) == [longer]
    assert fixed([PROMPT]) == [fixed(PROMPT)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "max_new_tokens or max_seconds is needed"),
        ({"max_new_tokens": 2, "num_beams": 4}, "num_beams"),
        ({"max_new_tokens": 2, "batch_size": 8}, "batch_size"),
        ({"max_new_tokens": 2, "return_type": "midi"}, "return_type must be 'audio' or 'tensors'"),
        ({"max_new_tokens": 2, "num_latents": 33}, r"num_latents must be in 1\.\.32, not 33"),
    ],
)
def test_what_the_pipeline_cannot_honour_is_refused(continue_midi, options, message):
    with pytest.raises(ValueError, match=message):
        continue_midi([PROMPT], **options)
    if "batch_size" not in options:  # of one prompt, Transformers makes one batch in any case
        with pytest.raises(ValueError, match=message):
            continue_midi(PROMPT, **options)


def test_tiny_and_own_folders(tmp_path):
    tiny = PerceiverAR.from_pretrained("tiny")
    loaded = PerceiverSymbolicAudioModel.from_pretrained("tiny")
    assert loaded.dtype == torch.float32 and same_weights(loaded.backend_model, tiny)
    folder = tiny.save_pretrained(tmp_path / "own")
    again = PerceiverSymbolicAudioModel.from_pretrained(folder)
    assert same_weights(again.backend_model, tiny) and again.config.perceiver_config == tiny.config
    wrapped = PerceiverSymbolicAudioModel.wrap(tiny)
    assert wrapped.backend_model is tiny and not wrapped.training
    assert PerceiverSymbolicAudioModel.wrap(PerceiverAR(tiny.config)).training
    options = {"max_new_tokens": 6, "return_type": "tensors"}
    found = transformers_pipeline(TASK, model=wrapped, device="cpu")(PROMPT, **options)
    assert found == SymbolicAudioPipeline(tiny)(PROMPT, **options)


OWN = """
import json

from pretty_midi import PrettyMIDI
from transformers import AutoModelForCausalLM, pipeline

import tinyperceiver.huggingface

prompt, results = PrettyMIDI("prompt.mid"), []
for folder in (tinyperceiver.huggingface.TINY, "runs/x/best"):
    for model in (folder, AutoModelForCausalLM.from_pretrained(folder)):
        continue_music = pipeline("symbolic-audio-generation", model=model, device="cpu")
        results.append(continue_music(prompt, max_new_tokens=6, return_type="tensors"))
print(json.dumps(results))
"""


def test_transformers_own_calls_open_our_folders_and_tiny_without_the_hub(tmp_path):
    PROMPT.write(str(tmp_path / "prompt.mid"))
    tiny = PerceiverAR.from_pretrained("tiny")
    tiny.save_pretrained(tmp_path / "runs" / "x" / "best")
    # Nobody answers there: a question to the hub would be a line of the log, or an error.
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home")}
    results = json.loads(in_new_python(OWN, cwd=tmp_path, **env))
    options = {"max_new_tokens": 6, "return_type": "tensors"}
    assert results == [SymbolicAudioPipeline(tiny)(PROMPT, **options)] * 4


def test_a_folder_saved_without_a_model_type_still_loads(tmp_path):
    tiny = PerceiverAR.from_pretrained("tiny")
    config = tiny.save_pretrained(tmp_path) / "config.json"
    settings = json.loads(config.read_text())
    assert settings.pop("model_type") == PerceiverSymbolicAudioModelConfig.model_type
    config.write_text(json.dumps(settings))
    assert same_weights(PerceiverAR.from_pretrained(tmp_path), tiny)
    again = PerceiverSymbolicAudioModel.from_pretrained(tmp_path)
    assert same_weights(again.backend_model, tiny)


# Training


def test_loss_is_of_the_next_token_of_each_latent(model):
    tokens = golden("loss.tokens").long()
    inputs, logits = tokens[:, :-1], model(tokens[:, :-1], 64).logits
    # Over all latents, with the token after the window, it is the peer's own loss.
    whole = cross_entropy(logits.flatten(0, 1), tokens[:, 65:].flatten())
    assert abs(whole.item() - CASES["loss.value"].item()) < 1e-5
    output = model(inputs, prefix_len=64, labels=inputs)
    expected = cross_entropy(logits[:, :-1].flatten(0, 1), inputs[:, 65:].flatten())
    assert torch.allclose(output.loss, expected) and not torch.allclose(output.loss, whole)
    assert torch.equal(model(inputs, labels=inputs).loss, output.loss)  # the shortest prefix
    labels = inputs.clone()
    labels[1] = -100
    one = model(inputs[:1], labels=inputs[:1]).loss
    assert torch.allclose(model(inputs, labels=labels).loss, one)
    with pytest.raises(ValueError, match="cannot honour output_attentions, use_cache"):
        model(inputs, use_cache=True, output_attentions=True, return_dict=True)


def test_a_new_model_has_our_first_weights_and_learns():
    config = AutoConfig.from_pretrained(HUB)
    for name in ("cross_attention_dropout", "post_attention_dropout", "residual_dropout"):
        config.model_config[name] = 0.0
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).train()
    torch.manual_seed(0)
    assert same_weights(model.backend_model, PerceiverAR(config.perceiver_config))
    tokens = golden("forward1.tokens").long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1


# Files


def hub_tensors() -> dict[str, torch.Tensor]:
    return torch.load(HUB / "pytorch_model.bin", weights_only=True)


def test_what_is_saved_is_the_hubs_own_layout(model, ours, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    # Names and bits of the released model's library, the speeds of its rotation included.
    saved, expected = load_file(tmp_path / "saved" / "model.safetensors"), hub_tensors()
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], expected[name]) for name in expected)
    settings = json.loads((tmp_path / "saved" / "config.json").read_text())
    released = json.loads((HUB / "config.json").read_text())
    for field in ("model_type", "model_config", "is_decoder", "architectures"):
        assert settings[field] == released[field]
    assert settings["dtype"] == "float32" and not re.search("/|auto_map", json.dumps(settings))
    # Both doors open it.
    again = PerceiverAR.from_pretrained(tmp_path / "saved")
    assert same_weights(again, ours) and again.config == ours.config
    again = AutoModelForCausalLM.from_pretrained(str(tmp_path / "saved"))
    assert same_weights(again.backend_model, ours)
    assert again.config.model_config == model.config.model_config


def test_saving_a_model_of_ours_for_transformers(tmp_path):
    tiny = PerceiverAR.from_pretrained("tiny")
    PerceiverSymbolicAudioModel.wrap(tiny).save_pretrained(tmp_path)
    again = PerceiverAR.from_pretrained(tmp_path)
    assert same_weights(again, tiny) and again.config == tiny.config
    assert AutoConfig.from_pretrained(tmp_path).perceiver_config == tiny.config
    assert same_weights(AutoModelForCausalLM.from_pretrained(tmp_path).backend_model, tiny)


def test_saving_a_pipeline_saves_the_model_and_no_code(continue_midi, tmp_path):
    continue_midi.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    again = transformers_pipeline(TASK, model=str(tmp_path), device="cpu")
    options = {"max_new_tokens": 8, "return_type": "tensors"}
    assert again(PROMPT, **options) == continue_midi(PROMPT, **options)


def test_saving_over_a_checkpoint_replaces_it_or_leaves_it(ours, tmp_path, monkeypatch):
    torch.manual_seed(1)
    other = PerceiverSymbolicAudioModel.wrap(PerceiverAR(ours.config))
    (tmp_path / "README.md").write_text("a card")
    for save in (ours.save_pretrained, PerceiverSymbolicAudioModel.wrap(ours).save_pretrained):
        save(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", lambda file: (_ for _ in ()).throw(OSError("disk full")))
            with pytest.raises(CheckpointError, match=r"could not be written: disk full"):
                other.save_pretrained(tmp_path)
        assert same_weights(PerceiverAR.from_pretrained(tmp_path), ours)
        other.save_pretrained(tmp_path)
        assert same_weights(PerceiverAR.from_pretrained(tmp_path), other.backend_model)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_what_saving_cannot_honour_is_refused(model, tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(ValueError, match="cannot honour variant without push_to_hub"):
        model.save_pretrained(folder, variant="fp16")
    state = model.state_dict()
    state["backend_model.norm.scale"] = state.pop("backend_model.norm.bias")
    with pytest.raises(ValueError, match=r"weights to save: norm\.bias, norm\.scale"):
        model.save_pretrained(folder, state_dict=state)
    model.save_pretrained(folder, is_main_process=False)
    assert not folder.exists()
    state = {name: torch.zeros_like(each) for name, each in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=state)
    assert PerceiverAR.from_pretrained(folder).embedding.weight.abs().max() == 0


# Loading


def test_dtype_is_as_asked_else_as_recorded(model, tmp_path):
    for asked in (torch.bfloat16, "bfloat16"):
        half = AutoModelForCausalLM.from_pretrained(HUB, dtype=asked)
        assert half.dtype == half.config.dtype == torch.bfloat16
    half.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    speeds = stored.pop("backend_model." + PEER_SPEEDS)
    assert {each.dtype for each in stored.values()} == {torch.bfloat16}
    assert speeds.dtype == torch.float32
    for asked in ({}, {"dtype": "auto"}):
        assert AutoModelForCausalLM.from_pretrained(tmp_path, **asked).dtype == torch.bfloat16
    assert transformers_pipeline(TASK, model=str(tmp_path)).model.dtype == torch.bfloat16
    exact = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert exact.dtype == torch.float32
    assert torch.equal(
        exact.backend_model.norm.weight, model.backend_model.norm.weight.bfloat16().float()
    )
    for wrong in ("float31", torch.int8, 16):
        with pytest.raises(ValueError, match="dtype must be 'auto' or a floating-point type"):
            PerceiverSymbolicAudioModel.from_pretrained(HUB, dtype=wrong)


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}, torch.device("cpu")])
def test_one_device_for_the_whole_model(device_map):
    loaded = AutoModelForCausalLM.from_pretrained(HUB, device_map=device_map)
    wanted = "cuda" if device_map == "auto" and torch.cuda.is_available() else "cpu"
    assert {parameter.device.type for parameter in loaded.parameters()} == {wanted}


@pytest.mark.cuda
def test_on_a_gpu():
    expected = SymbolicAudioPipeline(PerceiverAR.from_pretrained(HUB))
    options = {"max_new_tokens": 20, "return_type": "tensors"}
    on_gpu = transformers_pipeline(TASK, model=str(HUB))
    assert on_gpu.model.device.type == "cuda"
    assert on_gpu(PROMPT, **options) == expected(PROMPT, **options)
    assert on_gpu([PROMPT], **options) == [expected(PROMPT, **options)]


def test_another_configuration_for_the_same_weights(ours):
    config = AutoConfig.from_pretrained(HUB)
    config.model_config |= {"residual_dropout": 0.3, "max_latents": 16}
    loaded = AutoModelForCausalLM.from_pretrained(HUB, config=config)
    assert loaded.backend_model.config == replace(ours.config, residual_dropout=0.3, max_latents=16)
    assert same_weights(loaded.backend_model, ours) and not loaded.training
    assert loaded.config is not config
    config.model_config["num_self_attention_layers"] = 2
    with pytest.raises(CheckpointError, match=r"hub does not fit the configuration given for it"):
        AutoModelForCausalLM.from_pretrained(HUB, config=config)
    config.model_config["output_norm"] = False
    with pytest.raises(CheckpointError, match="output_norm is False; only True is supported"):
        AutoModelForCausalLM.from_pretrained(HUB, config=config)


def test_weights_that_do_not_fit_are_named(tmp_path):
    (tmp_path / "config.json").write_bytes((HUB / "config.json").read_bytes())
    tensors = hub_tensors()
    del tensors["backend_model.out_norm.bias"]
    tensors["backend_model.out_norm.scale"] = torch.ones(3)
    save_file(tensors, tmp_path / "model.safetensors")
    message = r"out_norm.bias \(64,\) is missing; backend_model.out_norm.scale \(3,\) is surplus"
    with pytest.raises(CheckpointError, match=message):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):  # Transformers' own, which quotes ours
        transformers_pipeline(TASK, model=str(tmp_path))
    tensors = hub_tensors()
    tensors["backend_model." + PEER_SPEEDS] *= 2
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="trained with another rotary embedding"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"quantization_config": {"load_in_8bit": True}},
        {"subfolder": "best"},
        {"force_download": True},
        {"output_loading_info": True},
        {"state_dict": {"a": 1}},
        {"device_map": {"layers": "cpu"}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_loading_cannot_honour_is_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        PerceiverSymbolicAudioModel.from_pretrained(HUB, **options)


def test_manners_of_a_transformers_model(model):
    assert AutoConfig.for_model(model.config.model_type).perceiver_config == PRESETS["released"]
    assert PerceiverSymbolicAudioModelConfig().perceiver_config == PRESETS["released"]
    assert model.num_parameters() == model.backend_model.num_parameters
    assert model.get_input_embeddings() is model.backend_model.embedding
    assert model.device.type == "cpu" and not model.can_generate()
    # A folder has no revisions: as in Transformers, they are not looked at.
    AutoModelForCausalLM.from_pretrained(HUB, revision="main", low_cpu_mem_usage=True)


# Importing


def test_the_package_does_not_import_transformers(tmp_path):
    code = """
import sys, tinyperceiver, tinyperceiver.cli.main, tinyperceiver.music_pipeline
print("transformers" in sys.modules)
"""
    assert in_new_python(code, cwd=tmp_path) == "False\n"


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        ("raise ImportError('No module named transformers')", "No module named transformers"),
        ("__version__ = '4.57.6'", r"this is 4\.57\.6"),
    ],
    ids=["missing", "old"],
)
def test_without_transformers_5_the_extra_is_named(tmp_path, contents, reason):
    (tmp_path / "transformers.py").write_text(contents)
    code = """
import sys; sys.path.insert(0, sys.argv[1])
import tinyperceiver.music_pipeline
try:
    import tinyperceiver.huggingface
except ImportError as error:
    print(error)
"""
    printed = in_new_python(code, tmp_path, cwd=tmp_path)
    message = 'needs Transformers 5 or newer: pip install -U "tinyperceiver[transformers]" '
    assert printed.startswith("tinyperceiver.huggingface " + message)
    assert re.search(reason, printed)


def test_importing_again_after_a_change_is_silent(tmp_path):
    code = """
import importlib, sys
from tinyperceiver.transformers_bridge import audio_pipeline, model
first = model.PerceiverSymbolicAudioModel
importlib.reload(model)
importlib.reload(audio_pipeline)
from transformers import AutoModelForCausalLM, pipeline
found = AutoModelForCausalLM.from_pretrained(sys.argv[1])
print(type(found) is model.PerceiverSymbolicAudioModel is not first)
made = pipeline("symbolic-audio-generation", model=found)
print(type(made) is audio_pipeline.SymbolicAudioGenerationPipeline)
"""
    assert in_new_python(code, HUB, cwd=tmp_path) == "True\nTrue\n"


# The hub, a server of our own


class ModelHub(Hub):
    """Knows also which commit a branch is at."""

    def do_GET(self):
        found = re.fullmatch(r"/api/models/(someone/[^/]+)(/revision/main)?", self.path)
        if found and found[1] in self.server.files:
            body = json.dumps({"id": found[1], "sha": COMMIT}).encode()
            return self.answer(200, body, Content_Type="application/json")
        return super().do_GET()


LOAD = """
import json, sys
sys.path.insert(0, sys.argv[1])
from test_checkpoints import digest_of
from transformers import AutoModelForCausalLM, pipeline
import tinyperceiver.huggingface
for how, name, options in json.loads(sys.argv[2]):
    try:
        if how == "pipeline":
            model = pipeline("symbolic-audio-generation", model=name, **options).model
        else:
            model = AutoModelForCausalLM.from_pretrained(name, **options)
        print(digest_of(model.cpu().backend_model))
    except (OSError, ValueError) as error:
        print(json.dumps(str(error)))
"""


def test_loading_from_the_hub_and_from_its_cache(serve, tmp_path):  # noqa: F811
    server = serve(ModelHub)
    files = {name: (HUB / name).read_bytes() for name in ("config.json", "pytorch_model.bin")}
    server.files = {"someone/released": files}
    digest = digest_of(PerceiverAR.from_pretrained(HUB))
    calls = [
        ("auto", "someone/released", {"revision": "main", "token": "hf_mine"}),
        ("pipeline", "someone/released", {}),
        ("pipeline", "someone/released", {"local_files_only": True}),
        ("auto", "someone/released", {"local_files_only": True, "revision": COMMIT}),
    ]
    here = Path(__file__).parent
    env = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
    printed = in_new_python(LOAD, here, json.dumps(calls), cwd=tmp_path, **env)
    assert printed.split() == [digest] * 4
    fetched = [path for command, path in server.seen if command == "GET" and "/resolve/" in path]
    # Each file once, and no other weights than those that are there.
    names = {path.rpartition("/")[2] for path in fetched}
    assert names == {"config.json", "pytorch_model.bin"}
    assert len(fetched) == 2
    server.seen.clear()
    printed = in_new_python(
        LOAD, here, json.dumps(calls[:2]), cwd=tmp_path, HF_HUB_OFFLINE="1", **env
    )
    assert printed.split() == [digest] * 2 and server.seen == []
    wrong = [
        ("auto", "someone/released", {"revision": "v9"}),
        ("auto", "someone/unknown", {}),
        ("auto", "someone/released", {"local_files_only": True, "cache_dir": str(tmp_path / "no")}),
    ]
    printed = in_new_python(LOAD, here, json.dumps(wrong), cwd=tmp_path, **env).splitlines()
    assert len(printed) == 3 and all('"' in line for line in printed)
    assert "v9" in printed[0] and "someone/unknown" in printed[1]


PUSH = """
import sys
from transformers import AutoModelForCausalLM, pipeline
import tinyperceiver.huggingface
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
model.push_to_hub("a/model", token="hf_good")
model.save_pretrained("saved", push_to_hub=True, repo_id="a/saved", token="hf_good")
pipeline("symbolic-audio-generation", model=model).push_to_hub("pipeline", token="hf_good")
"""


class PushHub(ModelHub):
    """Has every model that is asked for, without a card, and checks the cards that it is sent."""

    def do_GET(self):
        return self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)

    def do_POST(self):
        if self.path == "/api/validate-yaml":
            self.rfile.read(int(self.headers["Content-Length"]))
            return self.answer(200, b'{"errors": [], "warnings": []}')
        return super().do_POST()


def test_push_to_hub(serve, ours, tmp_path):  # noqa: F811
    server = serve(PushHub)
    server.commits = {}
    in_new_python(PUSH, HUB, cwd=tmp_path, HF_ENDPOINT=server.url, HF_HOME=str(tmp_path / "home"))
    assert sorted(server.commits) == [
        f"/api/models/{name}/commit/main" for name in ("a/model", "a/saved", "me/pipeline")
    ]
    for number, lines in enumerate(server.commits.values()):
        sent = {line["value"]["path"]: line["value"] for line in lines if line["key"] == "file"}
        assert sent.keys() == {"README.md", "config.json", "model.safetensors"}
        folder = tmp_path / f"sent{number}"
        folder.mkdir()
        for name, file in sent.items():
            (folder / name).write_bytes(base64.b64decode(file["content"]))
        card = (folder / "README.md").read_text()
        assert "library_name: transformers" in card
        # What was sent is what both libraries load.
        assert same_weights(PerceiverAR.from_pretrained(folder), ours)
        assert same_weights(AutoModelForCausalLM.from_pretrained(folder).backend_model, ours)
        assert load_file(folder / "model.safetensors").keys() == hub_tensors().keys()
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
