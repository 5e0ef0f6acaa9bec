"""Decoding by ONNX Runtime against the model: rings, windows, padding, precision."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from conftest import REFERENCE
from models import cached_and_decoded, left_pads, random_tokens, small_model
from torch.nn.functional import cross_entropy

from tinyperceiver.checkpoints.pretrained import from_pretrained
from tinyperceiver.engines import onnx_engine
from tinyperceiver.engines.onnx_engine import CPU_PRECISIONS, OnnxDecoder, session_of
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.music.pieces import load_piece
from tinyperceiver.music.tokenizer import encode_midi

pytestmark = pytest.mark.numeric


both = partial(cached_and_decoded, OnnxDecoder)


def assert_equal(found, expected):
    torch.testing.assert_close(found, expected.float(), atol=5e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def trained() -> PerceiverAR:
    return from_pretrained(PerceiverAR, "tiny")


@pytest.mark.parametrize("num_rotary", [0, 1, -1])
@pytest.mark.parametrize("n, prefix_len", [(1, 0), (5, 2), (8, 7), (12, 8), (4, 0)])
def test_equals_the_model_with_its_cache(n, prefix_len, num_rotary):
    """While the rings fill, when they are full, and long after."""
    model = small_model(num_self_attention_rotary_layers=num_rotary)
    expected, found = both(model, random_tokens(3, n + 40), n, prefix_len)
    assert_equal(found, expected)


def test_equals_the_model_with_padding():
    model, pads = small_model(), left_pads([0, 3, 5], 8)
    tokens = random_tokens(3, 40)
    expected, found = both(model, tokens, 8, 5, pads)
    assert_equal(found, expected)
    without, _ = both(model, tokens, 8, 5)
    assert (without - expected)[1:, :4].abs().amax() > 1e-3  # padding does make a difference


@pytest.mark.parametrize("num_layers", [0, 3])
def test_reads_with_any_number_of_layers(num_layers):
    model = small_model(num_self_attention_layers=num_layers)
    expected, found = both(model, random_tokens(1, 30), 9, 6)
    assert_equal(found, expected)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_prompt_is_read_in_parts(monkeypatch, rows):
    monkeypatch.setattr(onnx_engine, "ROWS", rows)
    model = small_model(max_latents=9, max_seq_len=20)
    for n, prefix_len, pads in [(12, 5, [0, 3]), (9, 0, [0, 0]), (20, 11, [1, 2])]:
        tokens = random_tokens(2, n + 15)
        expected, found = both(model, tokens, n, prefix_len, left_pads(pads, n))
        assert_equal(found, expected)


def test_the_reference_model():
    model = from_pretrained(PerceiverAR, REFERENCE / "hub")
    expected, found = both(model, random_tokens(2, 80, vocab_size=388), 60, 40)
    assert_equal(found, expected)


def test_a_trained_model_with_all_rings_full(trained):
    tokens = torch.tensor([3 * encode_midi(load_piece("chopin-mazurka"))])[:, :2060]
    expected, found = both(trained.eval(), tokens, 2048, 1024)
    assert_equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_computed_in_float32(dtype):
    model, tokens = small_model().to(dtype), random_tokens(1, 12)
    exact = small_model().to(dtype).float()
    expected, _ = both(exact, tokens, 5, 2)
    decoder = OnnxDecoder(model)
    found = [decoder.read(tokens[:, :5], 2)]
    found += [decoder.step(tokens[:, place]) for place in range(5, 12)]
    assert_equal(torch.stack(found, dim=1), expected)
    assert model.embedding.weight.dtype == dtype


# Memory


def test_reading_again_forgets_all_before():
    model = small_model()
    decoder = OnnxDecoder(model, batch_size=2)
    tokens, pads = random_tokens(2, 12), left_pads([0, 4], 8)
    first = decoder.read(tokens[:, :8], 5, pads)
    steps = [decoder.step(tokens[:, place]) for place in range(8, 12)]
    decoder.read(random_tokens(2, 11), 8)
    for _ in range(20):
        decoder.step(tokens[:, 0])
    assert torch.equal(decoder.read(tokens[:, :8], 5, pads), first)
    for place, step in zip(range(8, 12), steps, strict=True):
        assert torch.equal(decoder.step(tokens[:, place]), step)


def test_two_decoders_do_not_disturb_each_other():
    model, tokens = small_model(), random_tokens(2, 30)
    (expected,) = [both(model, tokens[:1], 5, 2)[1]]
    one, other = OnnxDecoder(model), OnnxDecoder(model)
    found = [one.read(tokens[:1, :5], 2)]
    other.read(tokens[1:, :7], 4)
    for place in range(5, 30):
        found.append(one.step(tokens[:1, place]))
        other.step(tokens[1:, place])
    assert torch.equal(torch.stack(found, dim=1), expected)


def test_rings_grow_to_their_capacity_and_stay_where_they_are(monkeypatch):
    monkeypatch.setattr(onnx_engine, "SPARE", 2)
    model, tokens = small_model(max_seq_len=40, max_latents=20), random_tokens(1, 90)
    expected, found = both(model, tokens, 3, 1)
    assert_equal(found, expected)
    decoder, rooms, memory = OnnxDecoder(model), [], []
    decoder.read(tokens[:, :3], 1)
    for place in range(3, 90):
        decoder.step(tokens[:, place])
        rooms.append((decoder.hybrid.room, decoder.latent.room))
        memory.append((decoder.hybrid.keys.data_ptr(), decoder.latent.values.data_ptr()))
    assert rooms[:4] == [(5, 4), (5, 4), (7, 6), (7, 6)]
    assert rooms[-1] == (40, 20) and max(rooms) == (40, 20)
    assert all(room[0] >= place + 1 for place, room in zip(range(3, 40), rooms, strict=False))
    assert len(set(memory[40:])) == 1  # full: nothing is copied any more


def test_short_runs_take_little_room():
    decoder = OnnxDecoder(small_model(), max_len=5)
    decoder.read(random_tokens(1, 3), 2)
    for _ in range(2):
        decoder.step(torch.tensor([1]))
    assert decoder.hybrid.keys.size(-1) == 5 and decoder.latent.keys.size(-1) <= 4


def test_logits_stay_as_they_were_given():
    decoder = OnnxDecoder(small_model())
    decoder.read(random_tokens(1, 3), 2)
    first = decoder.step(torch.tensor([1]))
    before = first.clone()
    decoder.step(torch.tensor([2]))
    assert torch.equal(first, before)


# The model may change


@torch.no_grad()
def changed_by_step(model):
    model.embedding.weight[1:] *= 1.5


@torch.no_grad()
def changed_by_data(model):
    model.layers[0].mlp.down.weight.data *= 1.5


def changed_by_assignment(model):
    weight = model.layers[1].attention.attention.key.weight
    model.layers[1].attention.attention.key.weight = torch.nn.Parameter(2 * weight.detach())


@pytest.mark.parametrize("change", [changed_by_step, changed_by_data, changed_by_assignment])
def test_a_changed_model_is_made_ready_anew(change):
    model, tokens = small_model(), random_tokens(1, 9)
    before, _ = both(model, tokens, 5, 2)
    change(model)
    expected, found = both(model, tokens, 5, 2)
    assert (expected - before).abs().max() > 1e-2
    assert_equal(found, expected)


def test_an_unchanged_model_is_made_ready_once():
    model = small_model()
    sessions = {bits: session_of(model, bits) for bits in (32, 4)}
    assert all(session_of(model, bits) is session for bits, session in sessions.items())
    assert session_of(small_model(), 32) is not sessions[32]


def test_sessions_leave_with_their_model():
    before = len(onnx_engine._sessions)
    model = small_model()
    OnnxDecoder(model).read(random_tokens(1, 3), 2)
    assert len(onnx_engine._sessions) == before + 1
    del model
    assert len(onnx_engine._sessions) == before


@pytest.mark.parametrize("precision", list(CPU_PRECISIONS))
def test_a_decoder_keeps_the_weights_that_it_was_made_with(precision):
    model, tokens = small_model(), random_tokens(1, 9)
    decoder = OnnxDecoder(model, precision=precision)
    before = [decoder.read(tokens[:, :8], 5), decoder.step(tokens[:, 8])]
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
    after = [decoder.read(tokens[:, :8], 5), decoder.step(tokens[:, 8])]
    assert torch.equal(torch.stack(after), torch.stack(before))
    other = OnnxDecoder(model, precision=precision).read(tokens[:, :8], 5)
    assert not torch.allclose(other, before[0], rtol=0.1)


def test_threads_share_a_session():
    model = small_model()
    with ThreadPoolExecutor(4) as pool:
        sessions = set(pool.map(lambda _: id(session_of(model, 32)), range(8)))
    assert len(sessions) == 1


def test_the_model_is_left_as_it_is():
    model = small_model(post_attention_dropout=0.5, residual_dropout=0.5).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tokens = random_tokens(1, 6)
    for precision in CPU_PRECISIONS:
        decoder = OnnxDecoder(model, precision=precision)
        logits = decoder.read(tokens, 3)
        assert torch.equal(decoder.read(tokens, 3), logits)  # no dropout
    assert model.training and all(module.training for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


# Precision


@pytest.mark.parametrize("precision, most", [("int8", 0.003), ("int4", 0.015)])
def test_fewer_bits_cost_few_nats(trained, precision, most):
    """By reading and by steps, on real music (benchmarks/precision.py has held-out windows)."""
    tokens = torch.tensor([encode_midi(load_piece("chopin-mazurka"))[:700]])

    def nats(of: str) -> float:
        decoder = OnnxDecoder(trained, precision=of)
        logits = [decoder.read(tokens[:, :400], 100)]
        logits += [decoder.step(tokens[:, place]) for place in range(400, 699)]
        return cross_entropy(torch.cat(logits), tokens[0, 400:]).item()

    exact = nats("float32")
    assert 0 < abs(nats(precision) - exact) < most * exact


# Refusals


def test_other_precisions_are_refused():
    with pytest.raises(
        ValueError, match=r"one of \('float32', 'int8', 'int4'\) on a CPU, not 'half'"
    ):
        OnnxDecoder(small_model(), precision="half")


def test_a_window_that_the_model_does_not_take_is_refused():
    with pytest.raises(ValueError, match="at most 8 prefix tokens and 4 latents"):
        OnnxDecoder(small_model()).read(random_tokens(1, 12), 3)


@pytest.mark.parametrize("token", [-1, 40])
def test_tokens_outside_the_vocabulary_are_refused(token):
    decoder = OnnxDecoder(small_model())
    with pytest.raises(ValueError, match=f"{token}"):
        decoder.read(torch.tensor([[1, token, 3]]), 1)
    decoder.read(torch.tensor([[1, 2, 3]]), 1)
    with pytest.raises(ValueError, match=f"{token}"):
        decoder.step(torch.tensor([token]))
