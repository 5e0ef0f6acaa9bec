"""The recorded numbers of chapter 10: each measurement on cases whose answer is known."""

import hashlib
import json
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import measure_checkpoint as measure
from count_ngrams import as_text, longest_run

from tinyperceiver.checkpoints.folder import WEIGHTS
from tinyperceiver.checkpoints.pretrained import SHIPPED
from tinyperceiver.dataset.token_file import TokenFile
from tinyperceiver.files.whole import sha256_of
from tinyperceiver.model.config import PerceiverConfig
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.model.rotary import rotation_at
from tinyperceiver.music.ngrams import NGramModel
from tinyperceiver.music.pieces import PIECES, load_piece
from tinyperceiver.music.tokenizer import decode_midi, encode_midi
from tinyperceiver.music.vocabulary import NOTE_OFF, NUM_EVENTS, TIME_SHIFT
from tinyperceiver.teaching import learnt, measuring, records
from tinyperceiver.teaching.music import played

pytestmark = pytest.mark.numeric


def write(path: Path, pieces: list) -> TokenFile:
    tokens = np.concatenate([np.append(piece, -1) for piece in pieces])
    tokens.astype("<i2").tofile(path)
    return TokenFile(path)


@pytest.fixture
def corpus(tmp_path) -> TokenFile:
    """Pieces of few different tokens, so that runs are shared at every length."""
    rng = np.random.default_rng(0)
    return write(tmp_path / "train.bin", [rng.integers(4, size=n) for n in (900, 3, 400, 1700)])


def test_longest_copies_are_those_of_the_plain_search(corpus):
    rng = np.random.default_rng(1)
    samples = [rng.integers(4, size=200) for _ in range(20)]
    samples[3][40:100] = corpus[3][1600:1660]
    samples[4][-30:] = corpus[2][:30]
    plain = as_text(np.where(corpus.tokens < 0, NUM_EVENTS, corpus.tokens))
    wanted = [longest_run(sample.tolist(), plain) for sample in samples]
    assert wanted[3] >= 60 and wanted[4] >= 30
    assert measure.longest_copies(samples, corpus) == wanted


def test_copies_end_where_a_piece_ends(corpus):
    across = np.concatenate((corpus[0][-20:], corpus[1], corpus[2][:20]))
    (found,) = measure.longest_copies([across], corpus)
    assert 20 <= found < 30


def test_nothing_shared_is_less_than_a_run(corpus):
    assert measure.longest_copies([np.full(50, 300)], corpus) == [measure.RUN - 1]


def test_stretches_hold_each_wanted_run_and_no_other():
    tokens = np.random.default_rng(2).integers(5, size=400)
    wanted = np.unique(measure.keys_of(tokens)[50:80])
    stretches = measure.shared_stretches(tokens, wanted)
    is_real = (np.lib.stride_tricks.sliding_window_view(stretches, measure.RUN) < NUM_EVENTS).all(1)
    kept = measure.keys_of(stretches)[is_real]
    is_wanted = np.isin(measure.keys_of(tokens), wanted)
    assert kept.tolist() == measure.keys_of(tokens)[is_wanted].tolist()


def test_a_longer_run_is_in_one_stretch():
    tokens = np.arange(100)
    stretches = measure.shared_stretches(tokens, measure.keys_of(tokens[30:60]))
    assert stretches.tolist() == [*range(30, 60), NUM_EVENTS]


@pytest.fixture(scope="module")
def model() -> PerceiverAR:
    torch.manual_seed(0)
    shape = PerceiverConfig(
        vocab_size=389, max_seq_len=128, max_latents=96, num_channels=16, num_heads=2,
        num_self_attention_layers=1, init_scale=0.3,
    )  # fmt: skip
    return PerceiverAR(shape).eval()


def test_nats_are_those_of_one_token_at_a_time(model):
    windows = torch.randint(NUM_EVENTS, (3, 21), generator=torch.Generator().manual_seed(0))
    nats = measure.nats_of(model, windows, 8)
    assert nats.shape == (3, 12)
    with torch.inference_mode():
        for latent in range(12):
            logits = model(windows[:, : 9 + latent], 8)[:, -1]
            price = -logits.log_softmax(-1)[torch.arange(3), windows[:, 9 + latent]]
            assert np.allclose(price, nats[:, latent], atol=1e-4)


@pytest.fixture(scope="module")
def music() -> list[np.ndarray]:
    return [np.array(encode_midi(load_piece(name))) for name in PIECES]


def test_models_are_asked_for_the_same_targets(model, music):
    orders = {k: NGramModel(k, NUM_EVENTS).fit(music[1:]) for k in (1, 3)}
    windows = torch.tensor(np.stack([music[0][:113], music[0][300:413]]))
    found = measure.against_counting(model, orders, windows, np.array([0, 1]), 16)
    targets = windows[:, 17:].numpy()
    alone = -np.log(np.array([orders[1].probabilities([])[row] for row in targets]))
    assert found["orders"][1][0] == pytest.approx(alone.mean(), abs=1e-4)
    assert found["model"][0] == pytest.approx(np.mean(found["by_window"], axis=0)[0], abs=1e-3)
    shares = [kind["share"] for kind in found["kinds"].values()]
    total = sum(kind["share"] * kind["order 3"] for kind in found["kinds"].values())
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert total == pytest.approx(found["orders"][3][0], abs=2e-3)


def test_context_ends_where_the_targets_begin(model, music, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "NEAR", 8)
    data = write(tmp_path / "valid.bin", music)
    found = measure.against_context(model, data, 4)
    assert [row[0] for row in found["as_prefix"]] == [0, 16, 32]
    assert [row[0] for row in found["as_latents"]] == [0, 16, 32]
    assert found["recordings"] == len(set(measure.recordings_of(data, 4, 32, measure.TARGETS)))
    assert found["as_prefix"][0] == found["as_latents"][0]
    assert found["as_prefix"][0][3:] == [0, 0, 0, 0]
    windows = measure.whole(data, 4, 32, measure.TARGETS)
    with_prefix = measure.nats_of(model, windows, 32).mean()
    assert found["as_prefix"][-1][1] == pytest.approx(with_prefix, abs=1e-4)
    gains = found["gain_of_prefix"]
    assert gains["its own"]["all"] == found["as_prefix"][-1][3:5]
    assert gains["its own"]["less than its own"] == [0, 0]
    for by_kind in gains.values():
        lost = gains["its own"]["all"][0] - by_kind["all"][0]
        assert by_kind["less than its own"][0] == pytest.approx(lost, abs=2e-4)
    steps = [row[5] for row in found["as_prefix"]]
    assert sum(steps) == pytest.approx(found["as_prefix"][-1][3], abs=1e-3)


def test_contents_change_what_they_say(model, music, monkeypatch):
    monkeypatch.setattr(measure, "NEAR", 8)
    seen = []

    def nats_of(model, windows, prefix_len):
        seen.append(windows[:, :prefix_len])
        return np.ones((len(windows), measure.TARGETS))

    monkeypatch.setattr(measure, "nats_of", nats_of)
    windows = torch.tensor(np.stack([piece[:97] for piece in music[:4]]))
    found = measure.contents(model, windows, np.arange(4))
    _, own, near, shuffled, other, all_shuffled, another, higher = seen
    assert torch.equal(own, windows[:, :32]) and torch.equal(near, windows[:, 24:32])
    for changed in (shuffled, other):
        assert torch.equal(changed[:, 24:], near) and not torch.equal(changed, own)
    assert torch.equal(shuffled.sort(dim=1).values, own.sort(dim=1).values)
    assert torch.equal(all_shuffled.sort(dim=1).values, own.sort(dim=1).values)
    assert not torch.equal(all_shuffled[:, 24:], near)
    assert torch.equal(other[:, :24], another[:, :24]) and torch.equal(another[0], own[2])
    is_key = own < TIME_SHIFT
    assert torch.equal(higher, own + is_key), "a semitone for keys, nothing else"
    assert all(gain["all"] == [0, 0] for gain in found["gain_of_prefix"].values())


def test_a_gain_by_kind_is_a_mean_over_tokens(model, music, monkeypatch):
    windows = torch.tensor(np.stack([piece[:97] for piece in music[:4]]))
    monkeypatch.setattr(measure, "NEAR", 8)
    gains = measure.contents(model, windows, np.arange(4))["gain_of_prefix"]["its own"]
    targets = windows[:, 33:].numpy()
    kind = np.searchsorted(measure.EDGES[1:-1], targets, side="right")
    share = [(kind == k).mean() for k in range(4)]
    total = sum(s * gains[name][0] for s, name in zip(share, measure.KINDS, strict=True))
    assert total == pytest.approx(gains["all"][0], abs=2e-4)


def test_what_is_hidden_is_what_is_named(model, music, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "HIDDEN", 4)
    data = write(tmp_path / "valid.bin", music)
    masks, without = [], measure.logits_without

    def spy(copied, tokens, prefix_len, hidden):
        assert copied is not model, "who plays meanwhile would meet the hook"
        masks.append(hidden)
        return without(copied, tokens, prefix_len, hidden)

    monkeypatch.setattr(measure, "logits_without", spy)
    found = measure.hiding(model, data, 3)
    assert list(found["cost"]) == [
        "most weight", "the last", "most weight before those", "the 4 before those",
        "at random before those",
    ]  # fmt: skip
    assert len(masks) == 3
    for mask in masks:
        assert mask.sum(dim=1).tolist() == [0, 4, 4, 4, 4, 4]
        assert mask[2].nonzero()[:, 0].tolist() == [28, 29, 30, 31]
        assert mask[4].nonzero()[:, 0].tolist() == [24, 25, 26, 27]
        assert not mask[[3, 4, 5], 28:].any()
    assert 0 <= found["most weight among the last"] <= 4


def test_hidden_tokens_are_not_read_and_the_others_do_not_move(model, monkeypatch):
    tokens = torch.randint(NUM_EVENTS, (2, 40), generator=torch.Generator().manual_seed(0))
    hidden = torch.zeros(2, 40, dtype=torch.bool)
    hidden[0, 3:7] = hidden[1, 20:25] = True
    found = measure.logits_without(model, tokens, 30, hidden)
    others = torch.where(hidden, (tokens + 1) % NUM_EVENTS, tokens)
    assert torch.allclose(measure.logits_without(model, others, 30, hidden), found, atol=1e-5)
    with torch.inference_mode():
        assert not torch.allclose(model(tokens, 30), found, atol=1e-3), "nothing was hidden"
        assert not torch.allclose(model(tokens, 30, hidden), found, atol=1e-3), "they moved"
        monkeypatch.setattr(
            "tinyperceiver.model.perceiver_ar.rotation_at",
            lambda position, d: rotation_at(torch.arange(position.size(1))[None], d),
        )
        assert torch.allclose(model(tokens, 30, hidden), found, atol=1e-5)


def test_error_by_windows_is_the_textbooks():
    values = np.array([1.0, 2.0, 3.0, 6.0])
    assert measure.mean_and_error(values, np.arange(4)) == [3.0, 1.0801]


def test_a_recording_counts_once_however_many_windows_it_has():
    values, recording = np.array([1.0, 2.0, 6.0]), np.array([0, 1, 2])
    once = measure.mean_and_error(values, recording)
    assert measure.mean_and_error(np.repeat(values, 5), np.repeat(recording, 5)) == once
    assert measure.mean_and_error(np.repeat(values, 5), np.arange(15))[1] < once[1]


def test_one_recording_has_no_error():
    with pytest.raises(ValueError, match="3 windows of 1 recordings"):
        measure.mean_and_error(np.ones(3), np.zeros(3))


def test_windows_weigh_as_their_tokens():
    values, counts = np.array([1.0, 4.0, 9.0]), np.array([2, 1, 0])
    mean, error = measure.mean_and_error(values, np.arange(3), counts)
    assert mean == 2.0
    # Deviations times tokens: -2, 2, 0.
    assert error == pytest.approx(np.sqrt(3 / 2 * 8) / 3, abs=1e-4)


def test_windows_know_their_recording(music, tmp_path):
    data = write(tmp_path / "valid.bin", music)
    windows = measure.whole(data, 9, 32, 32).numpy()
    for row, piece in zip(windows, measure.recordings_of(data, 9, 32, 32), strict=True):
        text, found = as_text(data[piece]), as_text(row)
        assert found in text
    assert len(set(measure.recordings_of(data, 9, 32, 32))) > 1


def test_what_was_asked_in_training_is_drawn_again(music, tmp_path):
    data = write(tmp_path / "train.bin", music)
    stages = [
        {"steps": 3, "num_latents": 8, "max_prefix_len": 0, "batch_size": 4},
        {"steps": 2, "num_latents": 16, "max_prefix_len": 16, "batch_size": 2},
    ]
    asked = measure.times_asked({"seed": 5, "stages": stages}, data, 5)
    assert asked.sum() == 3 * 8 * 4 + 2 * 16 * 2
    # A run that was stopped has asked less.
    assert measure.times_asked({"seed": 5, "stages": stages}, data, 4).sum() == 3 * 32 + 32
    assert not asked[data.tokens < 0].any()
    # The tokens asked for are those of the batches.
    targets, begin = [], 0
    for stage in stages:
        windows = measure.Windows(data, stage["num_latents"], stage["max_prefix_len"], seed=5)
        for step in range(begin, begin + stage["steps"]):
            targets.append(windows[step, range(stage["batch_size"])].targets.flatten())
        begin += stage["steps"]
    expected = np.bincount(torch.cat(targets).numpy(), minlength=NUM_EVENTS)
    is_token = data.tokens >= 0
    found = np.bincount(data.tokens[is_token], asked[is_token], minlength=NUM_EVENTS)
    assert found.tolist() == expected.tolist()


def test_asked_in_training_of_old_and_new_logs(music, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "PROMPT", 4)
    monkeypatch.setattr(measure, "NEW", 8)
    data = write(tmp_path / "train.bin", music)
    log = tmp_path / "log.jsonl"
    log.write_text('{"predicted_tokens": 50}\n{"predicted_tokens": 96}\n')
    assert measure.asked_in_training(tmp_path, data, np.array([0])) == {
        "predicted": 96, "tokens": sum(map(len, music)),
    }  # fmt: skip
    log.write_text('{"step": 1, "tokens": 32}\n{"step": 2, "tokens": 32}\n')
    stages = [{"steps": 2, "num_latents": 8, "max_prefix_len": 0, "batch_size": 4}]
    (tmp_path / "config.json").write_text(json.dumps({"config": {"seed": 0, "stages": stages}}))
    found = measure.asked_in_training(tmp_path, data, np.array([0, 100]))
    asked = measure.times_asked({"seed": 0, "stages": stages}, data, 2)
    assert found["predicted"] == 64 and found["stages"] == stages
    assert found["of continuations"] == [
        pytest.approx((asked[start + 4 : start + 12] > 0).mean(), abs=1e-3) for start in (0, 100)
    ]
    assert found["never"] > 0.9


def test_the_table_draws_as_the_network_does(music):
    trigram = NGramModel(3, NUM_EVENTS).fit(music)
    prompt = music[0][:20].tolist()
    take = measure.by_table(trigram, 60, 0, prompt)
    assert take == measure.by_table(trigram, 60, 0, prompt)
    assert take != measure.by_table(trigram, 60, 1, prompt)
    tokens = prompt + take
    for place in range(20, 80):
        p = trigram.probabilities(tokens[place - 2 : place])
        likelier = p[p > p[tokens[place]]].sum()
        assert likelier < 0.95, "the least likely 5 % are never drawn"


def test_what_is_written_is_whole_or_absent(tmp_path):
    out = tmp_path / "new" / "measured.json"
    measure.write({"a": 1, "b": [2, 3]}, out)
    assert json.loads(out.read_text()) == {"a": 1, "b": [2, 3]}
    with pytest.raises(TypeError):
        measure.write({"a": object()}, out)
    assert json.loads(out.read_text()) == {"a": 1, "b": [2, 3]}
    assert [path.name for path in out.parent.iterdir()] == ["measured.json"]


@pytest.fixture
def threads():
    """The command computes with one thread: what comes after it has as many as before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_one_command_measures_all(model, music, tmp_path, monkeypatch, threads):
    small = {"PROMPT": 32, "NEW": 24, "LONG_NEW": 500, "LAGS": 1, "HEARD_SEEDS": 2, "HEARD_NEW": 9,
             "NEAR": 8, "HIDDEN": 4}  # fmt: skip
    for name, value in small.items():
        monkeypatch.setattr(measure, name, value)
    model.save_pretrained(tmp_path / "model")
    whole = np.concatenate(music)
    write(tmp_path / "train.bin", [whole[:3000], whole[500:2500]])
    write(tmp_path / "valid.bin", [whole[2000:], whole])
    (tmp_path / "log.jsonl").write_text('{"predicted_tokens": 2500}\n')
    out = tmp_path / "measured.json"
    command = [
        "measure_checkpoint.py", str(tmp_path / "model"), "--train", str(tmp_path / "train.bin"),
        "--valid", str(tmp_path / "valid.bin"), "--out", str(out), "--windows", "4",
        "--probes", "4", "--continuations", "3", "--long", "4", "--run", str(tmp_path),
    ]  # fmt: skip
    results = []
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", command)
        measure.main()
        results.append(out.read_text())
    assert results[0] == results[1], "the same numbers every time"
    found = json.loads(results[0])
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert found["checkpoint"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert found["data"]["train.bin"]["recordings"] == 2
    assert found["data"]["train.bin"]["tokens"] == 5000
    # What is held out here was copied into the training data.
    assert max(found["copies"]["real, held out"]) == 24
    assert all(len(lengths) == 3 for lengths in found["copies"].values())
    assert found["numbers"].keys() == {"model", "order 3", "real"}
    for by_name in found["numbers"].values():
        assert list(by_name) == list(measuring.NUMBERS)
        assert all(len(values) == 3 for values in by_name.values())
    form = found["form"]
    assert form["likeness"].keys() == {"model", "model, every token", "real"}
    assert 2 <= form["pieces"] <= form["tried"] == 4
    assert form["more than real"].keys() == {"model", "model, every token"}
    assert found["asked"] == {"predicted": 2500, "tokens": 5000}
    assert len(found["recording"]) == 3
    assert [len(take) for take in found["heard long"].values()] == [500]
    for takes in found["heard"].values():
        assert [len(take) for take in takes["model"]] == [9, 9] and len(takes["order 3"]) == 9


def test_the_record_is_of_the_model_that_ships():
    record = learnt.measured()
    weights = SHIPPED["tiny"] / WEIGHTS
    assert record["checkpoint"]["sha256"] == sha256_of(weights), "measure it again"
    played_by_model = [name for name in record["copies"] if name.startswith("model")]
    assert len(played_by_model) == 2
    for name in played_by_model:
        assert len(record["copies"][name]) == 100 and max(record["copies"][name]) < 64


def test_a_record_that_is_not_there_is_fetched_once(tmp_path, monkeypatch):
    """As on Colab, where a notebook stands alone."""
    served, alone = tmp_path / "served", tmp_path / "alone"
    (served / learnt.RECORD).parent.mkdir(parents=True)
    (served / learnt.RECORD).write_text('{"answer": 42}')
    alone.mkdir()
    monkeypatch.chdir(alone)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = partial(SimpleHTTPRequestHandler, directory=served)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(records, "BOOK", tmp_path / "absent")
        monkeypatch.setattr(records, "ADDRESS", f"http://127.0.0.1:{server.server_port}/")
        assert records.recorded_numbers.__wrapped__(learnt.RECORD) == {"answer": 42}
        server.shutdown()
    assert records.recorded_numbers.__wrapped__(learnt.RECORD) == {"answer": 42}


def on(pitch: int) -> int:
    return pitch


def off(pitch: int) -> int:
    return NOTE_OFF + pitch


def wait(seconds: float) -> list[int]:
    steps = round(100 * seconds)
    return [TIME_SHIFT + 99] * (steps // 100) + [TIME_SHIFT - 1 + steps % 100] * (steps % 100 > 0)


def test_played_as_the_tokens_say():
    tokens = [on(60), *wait(0.5), off(60), on(62), *wait(1.25), on(62), off(70), *wait(0.25)]
    music = played(tokens)
    assert music.start.tolist() == [0, 0.5, 1.75]
    assert music.end.tolist() == [0.5, 1.75, 2.0]
    assert music.pitch.tolist() == [60, 62, 62]
    assert music.is_open.tolist() == [False, False, True]
    assert np.flatnonzero(music.is_loose).tolist() == [tokens.index(off(70))]


def test_played_agrees_with_the_decoder_on_real_music(music):
    for tokens in music:
        notes = decode_midi(tokens.tolist()).instruments[0].notes
        found = played(tokens)
        assert not found.is_open.any() and not found.is_loose.any()
        mine = sorted(zip(found.start.round(2), found.end.round(2), found.pitch, strict=True))
        theirs = sorted((round(n.start, 2), round(n.end, 2), n.pitch) for n in notes)
        assert [tuple(map(float, note)) for note in mine] == theirs


def test_numbers_of_a_known_bar():
    prompt = [on(40), *wait(1)]
    bar = []
    for pitch in (60, 62, 64, 65) * 3:
        bar += [on(pitch), *wait(0.5), off(pitch), *wait(0.5)]
    tokens = [*prompt, *bar, off(41), off(40)]
    found = measuring.numbers_of(tokens, len(prompt))
    assert found["notes"] == pytest.approx(1)
    assert found["note length"] == pytest.approx(0.5)
    assert found["keys down"] == pytest.approx(1.5)
    assert found["silence"] == 0  # key 40 is held from the prompt on
    assert found["pitch range"] == 5
    assert found["repetition"] == pytest.approx(100 * 5 / 9)
    assert found["stuck"] == 0
    assert found["loose"] == pytest.approx(100 / 14)


def test_stuck_keys_and_silence_are_found():
    tokens = [on(60), *wait(6), on(62), off(62), *wait(2)]
    found = measuring.numbers_of(tokens, 0)
    assert found["stuck"] == 100 and found["silence"] == 0
    short = measuring.numbers_of([on(62), *wait(1), off(62), *wait(3)], 0)
    assert short["silence"] == pytest.approx(75) and short["stuck"] == 0
    assert measuring.numbers_of([*wait(2)], 0)["silence"] == 100


def test_likeness_knows_the_same_harmony():
    chord = []
    for pitches in ((60, 64, 67), (61, 65, 68), (48, 52, 79)):
        for pitch in pitches:
            chord += [on(pitch), *wait(0.5), off(pitch), *wait(1.15)]
        chord += wait(0.05)
    profile = measuring.profiles(chord, 0)
    assert profile.shape == (3, 12)
    assert np.allclose(profile.sum(axis=1), 0)
    assert measuring.likeness(profile[:1], profile[2:])[0] == pytest.approx(1)
    assert measuring.likeness(profile[:1], profile[1:2])[0] < 0
    rows = measuring.likeness_by_lag([profile, profile[:2]], 2)
    assert np.isnan(rows[1]).all(), "a piece too short for all lags is left out"
    assert rows[0, 1] == pytest.approx(1)
