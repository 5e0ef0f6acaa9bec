"""The model card's three examples with only their import lines changed, and all that is refused."""

import copy
import wave
from dataclasses import replace
from enum import Enum
from pathlib import Path

import numpy as np
import pretty_midi
import pytest
import torch
from conftest import REFERENCE

import tinyperceiver
from tinyperceiver.checkpoints.folder import CheckpointError
from tinyperceiver.checkpoints.pretrained import from_pretrained
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.music.prompts import encode_prompt
from tinyperceiver.music.tokenizer import decode_midi, encode_midi, encode_performance
from tinyperceiver.music.vocabulary import TIME_SHIFT, VELOCITY
from tinyperceiver.music_pipeline import SymbolicAudioPipeline, pipeline

pytestmark = pytest.mark.numeric

HUB = REFERENCE / "hub"
TASK = "symbolic-audio-generation"


def melody(*pitches: int) -> pretty_midi.PrettyMIDI:
    """Quavers, four tokens to a note and a shift: on the 10 ms grid, so that they come back."""
    midi = pretty_midi.PrettyMIDI()
    piano = pretty_midi.Instrument(program=0)
    for i, pitch in enumerate(pitches):
        piano.notes.append(pretty_midi.Note(80, pitch, 0.25 * i, 0.25 * i + 0.2))
    midi.instruments.append(piano)
    return midi


def notes_of(midi: pretty_midi.PrettyMIDI) -> list[tuple]:
    return [
        (note.pitch, note.velocity, round(note.start, 4), round(note.end, 4))
        for instrument in midi.instruments
        for note in instrument.notes
    ]


PROMPT = melody(60, 64, 67, 72, 76)


@pytest.fixture(scope="module")
def model() -> PerceiverAR:
    return from_pretrained(PerceiverAR, HUB)


@pytest.fixture(scope="module")
def continue_midi(model) -> SymbolicAudioPipeline:
    return pipeline(TASK, model=model)


@pytest.fixture
def card(tmp_path, monkeypatch):
    """Where the card's user stands: beside prompt.mid, with a name that leads to a model."""
    PROMPT.write(str(tmp_path / "prompt.mid"))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return str(HUB)


# The card's examples. `repo_id` is a folder here, in the layout of the hub.


def test_card_model(card):
    repo_id = card

    import torch
    from pretty_midi import PrettyMIDI

    from tinyperceiver import PerceiverAR, decode_midi, encode_midi

    model = PerceiverAR.from_pretrained(repo_id)

    prompt_midi = PrettyMIDI("prompt.mid")
    prompt = torch.tensor(encode_midi(prompt_midi)).unsqueeze(0)

    output = model.generate(
        prompt, max_new_tokens=64, num_latents=1, do_sample=True, top_p=0.95, temperature=1.0
    )

    output_midi = decode_midi(output[0].cpu().numpy())

    assert type(output_midi) is PrettyMIDI
    assert output.shape == (1, prompt.size(1) + 64)
    assert output[0, : prompt.size(1)].tolist() == encode_midi(PROMPT)
    assert len(output[0, prompt.size(1) :].unique()) > 10
    assert set(notes_of(decode_midi(prompt[0]))) <= set(notes_of(output_midi))
    output_midi.write("output.mid")
    assert notes_of(PrettyMIDI("output.mid"))


def test_card_pipeline(card):
    repo_id = card

    from pretty_midi import PrettyMIDI

    prompt = PrettyMIDI("prompt.mid")
    audio_generator = pipeline("symbolic-audio-generation", model=repo_id)

    output = audio_generator(
        prompt, max_new_tokens=64, num_latents=1, do_sample=True, top_p=0.95, temperature=1.0
    )

    assert type(output["generated_audio_midi"]) is PrettyMIDI
    assert set(output) == {"generated_audio_midi"}
    opening = notes_of(decode_midi(encode_midi(prompt)))
    assert set(opening) <= set(notes_of(output["generated_audio_midi"]))


def test_card_pipeline_with_sound(card):
    repo_id = card

    from pretty_midi import PrettyMIDI

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

    with open("generated_audio.wav", "wb") as f:
        f.write(output["generated_audio_wav"])

    assert set(output) == {"generated_audio_wav"}
    with wave.open("generated_audio.wav") as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (44_100, 1, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert len(samples) > 44_100  # a second of the prompt at least
    assert np.abs(samples.astype(int)).max() > 20_000


# Results


def test_greedy_pipeline_is_generate(model, continue_midi):
    tokens = encode_midi(PROMPT)
    options = {"max_new_tokens": 40, "num_latents": 3}
    expected = model.generate(torch.tensor([tokens]), **options)[0].tolist()
    found = continue_midi(PROMPT, return_type="tensors", **options)
    assert found == {"generated_token_ids": expected}
    assert isinstance(found["generated_token_ids"], list)
    new = continue_midi(PROMPT, return_type="tensors", return_full_audio=False, **options)
    assert new == {"generated_token_ids": expected[len(tokens) :]}


class ReturnType(Enum):
    TENSORS = 0
    AUDIO = 1


@pytest.mark.parametrize("kind", ["tensors", "TENSORS", ReturnType.TENSORS])
def test_return_type_by_word_or_member(continue_midi, kind):
    assert set(continue_midi(PROMPT, return_type=kind, max_new_tokens=1)) == {"generated_token_ids"}


def test_seconds_are_enough(continue_midi):
    found = continue_midi(PROMPT, return_type="tensors", max_seconds=1.0, do_sample=True)
    new = found["generated_token_ids"][len(encode_midi(PROMPT)) :]
    assert sum(t - TIME_SHIFT + 1 for t in new if TIME_SHIFT <= t < VELOCITY) >= 100


@pytest.mark.parametrize("kind", ["audio", ReturnType.AUDIO])
def test_without_the_prompt_only_the_new_is_decoded(model, continue_midi, kind):
    options = {"max_new_tokens": 60, "do_sample": True}
    tokens = torch.tensor([encode_midi(PROMPT)])
    made = [
        continue_midi(
            PROMPT,
            return_type=kind,
            return_full_audio=full,
            generator=torch.Generator().manual_seed(1),
            **options,
        )["generated_audio_midi"]
        for full in (True, False)
    ]
    expected = model.generate(tokens, generator=torch.Generator().manual_seed(1), **options)[0]
    assert notes_of(made[0]) == notes_of(decode_midi(expected))
    assert notes_of(made[1]) == notes_of(decode_midi(expected[tokens.size(1) :]))
    assert notes_of(made[0]) != notes_of(made[1]) != []


def test_max_prompt_length_keeps_the_first_tokens(continue_midi):
    tokens = encode_midi(PROMPT)
    for length in (1, 9, len(tokens), 1000):
        found = continue_midi(
            PROMPT, max_prompt_length=length, return_type="tensors", max_new_tokens=2
        )["generated_token_ids"]
        assert found[:-2] == tokens[:length]
        new = continue_midi(
            PROMPT,
            max_prompt_length=length,
            return_type="tensors",
            max_new_tokens=2,
            return_full_audio=False,
        )
        assert new == {"generated_token_ids": found[-2:]}


def test_a_long_prompt_needs_max_prompt_length(continue_midi):
    long = melody(*range(40, 80))
    assert len(encode_midi(long)) > 96
    with pytest.raises(ValueError, match="pass max_prompt_length"):
        continue_midi(long, max_new_tokens=1)
    found = continue_midi(long, max_prompt_length=65, max_new_tokens=1, return_type="tensors")
    assert len(found["generated_token_ids"]) == 66


def test_one_prompt_gives_a_dict_and_a_list_gives_a_list(continue_midi):
    options = {"max_new_tokens": 12, "return_type": "tensors"}
    other = melody(50, 52, 54)  # of another length: each is continued by itself
    single = [continue_midi(prompt, **options) for prompt in (PROMPT, other)]
    assert all(isinstance(result, dict) for result in single)
    assert continue_midi([PROMPT, other], **options) == single
    assert continue_midi([other], **options) == [single[1]]
    assert continue_midi([], **options) == []


def test_the_prompt_is_left_as_it_was(continue_midi):
    prompt = melody(60, 62)
    prompt.instruments[0].control_changes += [
        pretty_midi.ControlChange(64, 100, 0.1),
        pretty_midi.ControlChange(64, 0, 0.3),
    ]
    before = copy.deepcopy(prompt)
    continue_midi(prompt, max_new_tokens=3)
    assert notes_of(prompt) == notes_of(before)
    assert str(prompt.instruments[0].control_changes) == str(before.instruments[0].control_changes)


def test_sound_is_that_of_the_midi(continue_midi):
    from tinyperceiver import render, wav_bytes

    options = {"max_new_tokens": 20}
    midi = continue_midi(PROMPT, **options)["generated_audio_midi"]
    font = str(Path(pretty_midi.__file__).parent / "TimGM6mb.sf2")
    for path in (None, font):
        sound = continue_midi(PROMPT, render=True, sf2_path=path, **options)
        assert sound == {"generated_audio_wav": wav_bytes(render(midi))}


def test_sf2_path_is_used(continue_midi, tmp_path):
    with pytest.raises(OSError, match=r"missing\.sf2"):
        continue_midi(PROMPT, max_new_tokens=1, render=True, sf2_path=str(tmp_path / "missing.sf2"))


def test_model_by_name_takes_the_arguments_of_from_pretrained(model):
    loaded = pipeline(TASK, model=str(HUB), dtype=torch.bfloat16).model
    assert loaded.embedding.weight.dtype == torch.bfloat16
    assert pipeline(TASK, model=model).model is model
    assert pipeline(TASK, model).model is model
    assert tinyperceiver.pipeline is pipeline


# The other encoding


@pytest.fixture(scope="module")
def performance_model(model) -> PerceiverAR:
    """Knows id 389, and speaks a language of its own."""
    torch.manual_seed(0)
    return PerceiverAR(replace(model.config, vocab_size=390)).eval()


def test_encoding_is_chosen_by_the_vocabulary(model, performance_model):
    # Two notes of one velocity: the released encoding says it twice.
    by_paper, released = encode_performance(PROMPT), encode_midi(PROMPT)
    assert by_paper[0] == 389 and by_paper[1:] != released
    assert encode_prompt(PROMPT, performance_model.config.vocab_size) == by_paper
    assert encode_prompt(PROMPT, model.config.vocab_size) == released


@pytest.mark.parametrize("full", [True, False])
def test_performance_model_is_decoded_by_its_own_rules(performance_model, full):
    tokens, generator = encode_performance(PROMPT), torch.Generator()
    options = {"max_new_tokens": 60, "do_sample": True, "generator": generator}
    generator.manual_seed(4)
    expected = performance_model.generate(torch.tensor([tokens]), **options)[0].tolist()
    new = expected[len(tokens) :]
    by_paper = pipeline(TASK, performance_model)
    generator.manual_seed(4)
    ids = by_paper(PROMPT, return_type="tensors", return_full_audio=full, **options)
    assert ids == {"generated_token_ids": expected if full else new}
    if not full:  # by itself it needs the opening, and the velocity that was in force
        velocities = [token for token in tokens if 356 <= token < 388]
        expected = [389, velocities[-1], *new]
    generator.manual_seed(4)
    midi = by_paper(PROMPT, return_full_audio=full, **options)["generated_audio_midi"]
    assert notes_of(midi) == notes_of(decode_midi(expected))
    # The middle of a bin, which the released rules never give.
    assert {velocity % 4 for _, velocity, *_ in notes_of(midi)} == {2}


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"return_type": "midi"}, "return_type must be 'audio' or 'tensors', not 'midi'"),
        ({"return_type": None}, "return_type must be"),
        ({"return_type": "tensors", "render": True}, "does not go with return_type='tensors'"),
        ({"sf2_path": "font.sf2"}, "sf2_path has no effect without render=True"),
        ({"max_prompt_length": 0}, "max_prompt_length must be at least 1, not 0"),
        ({"max_prompt_length": -3}, "max_prompt_length must be at least 1, not -3"),
        ({"num_latents": 33}, r"num_latents must be in 1\.\.32, not 33"),
        ({"temperature": 0.5}, "need do_sample=True"),
        ({"do_sample": True, "top_p": 2.0}, "top_p must be in"),
        ({"num_beams": 4}, "num_beams"),  # the peer's answer to what it can't honour
    ],
)
def test_what_cannot_be_honoured_is_refused(continue_midi, options, message):
    with pytest.raises(ValueError, match=message):
        continue_midi(PROMPT, **({"max_new_tokens": 2} | options))


def test_music_without_notes_is_refused(continue_midi):
    with pytest.raises(ValueError, match="the prompt must have 1 to 96 tokens, not 0"):
        continue_midi(pretty_midi.PrettyMIDI(), max_new_tokens=2)


def test_notes_that_are_not_midi_are_refused(continue_midi):
    with pytest.raises(ValueError, match="pitch is 200"):
        continue_midi(melody(60, 200), max_new_tokens=2)


def test_other_tasks_and_models_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="'text-generation': the only task is 'symbolic-audio"):
        pipeline("text-generation", model=model)
    with pytest.raises(
        ValueError, match=r"revision, dtype: only for a model .* loaded by its name"
    ):
        pipeline(TASK, model=model, revision="main", dtype=torch.float16)
    with pytest.raises(CheckpointError, match="nowhere is not a folder"):
        pipeline(TASK, model=str(tmp_path / "nowhere"))


def test_greedy_padding_is_named(model):
    """Greedy decoding may choose padding, as the peer's does; it is no music, and says so."""
    with torch.no_grad():
        wants_padding = PerceiverAR(model.config).eval()
        wants_padding.norm.weight.zero_()
        wants_padding.norm.bias.fill_(1.0)
        wants_padding.embedding.weight[388] += 1.0
    tokens = encode_midi(PROMPT)
    with pytest.raises(ValueError, match=f"token 388 at place {len(tokens)} is not a MIDI event"):
        pipeline(TASK, wants_padding)(PROMPT, max_new_tokens=2)
