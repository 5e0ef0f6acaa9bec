"""Which engine decodes, and the one for GPUs against the model; what a step of it costs."""

import re
from collections import Counter
from functools import partial

import pytest
import torch
from conftest import REFERENCE
from models import cached_and_decoded, left_pads, random_tokens, small_model
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tinyperceiver.checkpoints.pretrained import from_pretrained
from tinyperceiver.engines.choice import make_decoder, precisions_of
from tinyperceiver.engines.onnx_engine import OnnxDecoder
from tinyperceiver.engines.torch_engine import GPU_PRECISIONS, TorchDecoder
from tinyperceiver.generation.sampling import choose_tokens
from tinyperceiver.model.config import PRESETS
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.music.pieces import load_piece
from tinyperceiver.music.tokenizer import encode_midi

pytestmark = pytest.mark.numeric


both = partial(cached_and_decoded, TorchDecoder)


@pytest.mark.parametrize("is_static", [False, True])
@pytest.mark.parametrize("num_rotary", [0, 1, -1])
@pytest.mark.parametrize("n, prefix_len", [(1, 0), (5, 2), (8, 7), (12, 8), (4, 0)])
def test_equals_the_model_with_its_cache(n, prefix_len, num_rotary, is_static):
    """While the rings fill, when they are full, and long after; in float64 to the last digits."""
    model = small_model(num_self_attention_rotary_layers=num_rotary).double()
    tokens = random_tokens(3, n + 40)
    expected, found = both(model, tokens, n, prefix_len, is_static=is_static)
    # Results are given in float32.
    torch.testing.assert_close(found, expected.float(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("is_static", [False, True])
def test_equals_the_model_with_padding(is_static):
    model, pads = small_model(), left_pads([0, 3, 5], 8)
    tokens = random_tokens(3, 40)
    expected, found = both(model, tokens, 8, 5, pads, is_static=is_static)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    without, _ = both(model, tokens, 8, 5)
    assert (without - expected)[1:, :4].abs().amax() > 1e-3  # padding does make a difference


@pytest.mark.parametrize("num_layers", [0, 3])
def test_reads_with_any_number_of_layers(num_layers):
    model = small_model(num_self_attention_layers=num_layers).double()
    expected, found = both(model, random_tokens(1, 30), 9, 6)
    torch.testing.assert_close(found, expected.float(), atol=1e-6, rtol=1e-6)


def test_reading_again_forgets_all_before():
    model = small_model()
    decoder = TorchDecoder(model, batch_size=2)
    tokens, pads = random_tokens(2, 12), left_pads([0, 4], 8)
    first = decoder.read(tokens[:, :8], 5, pads)
    steps = [decoder.step(tokens[:, place]) for place in range(8, 12)]
    decoder.read(random_tokens(2, 11), 8)
    for _ in range(20):
        decoder.step(tokens[:, 0])
    assert torch.equal(decoder.read(tokens[:, :8], 5, pads), first)
    for place, step in zip(range(8, 12), steps, strict=True):
        assert torch.equal(decoder.step(tokens[:, place]), step)


class Recorder(TorchDispatchMode):
    """Every operation with the shapes of what it makes, counted."""

    def __init__(self) -> None:
        super().__init__()
        self.made = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.made[str(function), tuple(tensor.shape)] += 1
        return out


@pytest.mark.parametrize("counts", [None, [0, 3]])
def test_a_step_costs_the_same_however_long_it_plays(counts):
    """No copy to slide: same memory, same bytes, same operations on the same shapes, ever after."""
    decoder, tokens = TorchDecoder(small_model(), batch_size=2), random_tokens(2, 310)
    decoder.read(tokens[:, :5], 4, None if counts is None else left_pads(counts, 5))
    held = [ring for layer in decoder.layers for ring in (layer.keys, layer.values)]
    memory = [(ring.data_ptr(), ring.untyped_storage().nbytes()) for ring in held]
    made = {}
    for place in range(5, 310):
        with Recorder() as recorder:
            decoder.step(tokens[:, place])
        made[place] = recorder.made
    after = [ring for layer in decoder.layers for ring in (layer.keys, layer.values)]
    assert memory == [(ring.data_ptr(), ring.untyped_storage().nbytes()) for ring in after]
    per_token = 2 * 2 * 16 * 4  # bytes: keys and values of two rows, 16 channels of float32
    assert sum(size for _, size in memory) == per_token * (12 + 2 * 4)
    assert made[15] == made[309]  # all rings are full
    assert sum(made[309].values()) > 50
    assert made[6] != made[15]  # it does see shapes: the rings were still filling


class OneDevice(TorchDispatchMode):
    """A device without values, meta, on which nothing from the CPU may be read.

    Some devices read what lies on the CPU, and hide that others, such as MPS, do not.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default):
            return 3
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors if tensor.ndim}
        is_transfer = function is torch.ops.aten.copy_.default
        assert is_transfer or len(devices) < 2, f"{function} reads from {devices}"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("has_padding", [False, True])
def test_all_is_on_the_models_device(has_padding):
    model = small_model(vocab_size=400, post_attention_dropout=0.1).to("meta")
    tokens = torch.zeros(2, 8, dtype=torch.long, device="meta")
    pads = torch.zeros(2, 8, dtype=torch.bool, device="meta") if has_padding else None
    with OneDevice():
        logits = [model(tokens, 5, pads)[:, -1], model.train()(tokens, 5, pads)[:, -1]]
        with torch.no_grad():
            cache = model.eval().make_cache()
            model(tokens, 5, pads, cache=cache)
            logits.append(model(tokens[:, :1], 0, cache=cache)[:, -1])
        for precision in GPU_PRECISIONS:
            for is_static in (False, True):
                options = {"precision": precision, "is_static": is_static}
                decoder = TorchDecoder(model, batch_size=2, **options)
                logits += [decoder.read(tokens, 5, pads), decoder.step(tokens[:, 0])]
        allowed = torch.ones(2, 400, dtype=torch.bool, device="meta")
        options = {"top_k": 9, "top_p": 0.9, "min_p": 0.1, "allowed": allowed}
        drawn = choose_tokens(logits[0], do_sample=True, **options)
    assert {each.shape for each in logits} == {(2, 400)} and drawn.shape == (2,)
    assert {each.device.type for each in (*logits, drawn)} == {"meta"}


def test_short_runs_take_little_room():
    decoder = TorchDecoder(small_model(), max_len=5)
    assert decoder.layers[0].keys.size(1) == 5 and decoder.layers[1].keys.size(1) == 4


def test_the_model_is_left_as_it_is():
    model = small_model(post_attention_dropout=0.5, residual_dropout=0.5).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tokens = random_tokens(1, 6)
    for precision in GPU_PRECISIONS:
        decoder = TorchDecoder(model, precision=precision)
        logits = decoder.read(tokens, 3)
        assert torch.equal(decoder.read(tokens, 3), logits)  # no dropout
    assert model.training and all(module.training for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_window_that_the_model_does_not_take_is_refused():
    with pytest.raises(ValueError, match="at most 8 prefix tokens and 4 latents"):
        TorchDecoder(small_model()).read(random_tokens(1, 12), 3)


# Precision


def test_each_device_has_its_engine():
    assert isinstance(make_decoder(small_model()), OnnxDecoder)
    assert isinstance(make_decoder(small_model().to("meta")), TorchDecoder)


def test_each_device_has_its_precisions():
    assert precisions_of(small_model()) == ("float32", "int8", "int4")
    assert precisions_of(small_model().to("meta")) == ("float32", "half")
    tokens = random_tokens(1, 3)
    for precision in precisions_of(small_model()):
        assert make_decoder(small_model(), precision=precision).read(tokens, 1).shape == (1, 40)


@pytest.mark.parametrize("device, precision", [("cpu", "half"), ("meta", "int8"), ("meta", "int4")])
def test_a_precision_of_another_device_is_refused(device, precision):
    possible = {"cpu": "('float32', 'int8', 'int4')", "meta": "('float32', 'half')"}[device]
    message = f"precision={precision!r} is not for a model on {device}: take one of {possible}"
    with pytest.raises(ValueError, match=re.escape(message)):
        make_decoder(small_model().to(device), precision=precision)


def test_unknown_precisions_are_refused():
    with pytest.raises(ValueError, match=r"precision must be one of .*'int4'\), not 'float8'"):
        make_decoder(small_model(), precision="float8")
    with pytest.raises(ValueError, match=r"one of \('float32', 'half'\), not 'int8'"):
        TorchDecoder(small_model(), precision="int8")


@pytest.fixture(scope="module")
def trained() -> PerceiverAR:
    return from_pretrained(PerceiverAR, "tiny")


def test_half_costs_less_than_a_hundredth_of_the_nats(trained):
    """By reading and by steps, on real music."""
    tokens = torch.tensor([encode_midi(load_piece("chopin-mazurka"))[:700]])

    def nats(of: str) -> float:
        decoder = TorchDecoder(trained, precision=of)
        logits = [decoder.read(tokens[:, :400], 100)]
        logits += [decoder.step(tokens[:, place]) for place in range(400, 699)]
        return cross_entropy(torch.cat(logits), tokens[0, 400:]).item()

    exact = nats("float32")
    assert 0 < abs(nats("half") - exact) < 0.01 * exact


def test_greedy_tokens_are_the_models_own_in_float32(trained):
    """Against decoding by the model itself, at full size: 2,048 tokens of window, latents full."""
    tokens = torch.tensor([encode_midi(load_piece("bach-prelude"))[:1000]])
    output = trained.generate(tokens, max_new_tokens=60, num_latents=1000)
    cache = trained.make_cache()
    with torch.inference_mode():
        logits = trained.eval()(tokens, 0, cache=cache)[:, -1]
        for token in output[0, 1000:]:
            assert token == logits.argmax()
            logits = trained(token.view(1, 1), 0, cache=cache)[:, -1]


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["float32", "half"])
def test_a_recorded_graph_gives_the_same(precision):
    model = PerceiverAR(PRESETS["tiny"]).cuda()
    tokens = random_tokens(2, 40, vocab_size=388).cuda()
    plain = TorchDecoder(model, batch_size=2, precision=precision, is_static=False)
    graph = TorchDecoder(model, batch_size=2, precision=precision)
    torch.testing.assert_close(plain.read(tokens[:, :9], 5), graph.read(tokens[:, :9], 5))
    for place in range(9, 40):
        expected, found = plain.step(tokens[:, place]), graph.step(tokens[:, place])
        torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-2)


def test_the_reference_model():
    model = from_pretrained(PerceiverAR, REFERENCE / "hub")
    expected, found = both(model, random_tokens(2, 80, vocab_size=388), 60, 40)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("engine", [TorchDecoder, OnnxDecoder])
def test_what_does_not_fit_is_refused(engine):
    decoder, tokens = engine(small_model(), batch_size=2, max_len=6), random_tokens(2, 8)
    with pytest.raises(ValueError, match="read a prompt first"):
        decoder.step(tokens[:, 0])
    with pytest.raises(ValueError, match="for 2 rows, not 1"):
        decoder.read(tokens[:1, :5], 3)
    with pytest.raises(ValueError, match="8 tokens do not fit: max_len is 6"):
        decoder.read(tokens, 5)
    decoder.read(tokens[:, :5], 3)
    decoder.step(tokens[:, 5])
    with pytest.raises(ValueError, match="no room for a token"):
        decoder.step(tokens[:, 6])
    decoder.read(tokens[:, :5], 3)  # a prompt makes room again
    decoder.step(tokens[:, 5])


@pytest.mark.parametrize("engine", [TorchDecoder, OnnxDecoder])
def test_after_a_failed_read_nothing_is_answered(engine):
    decoder, tokens = engine(small_model(), batch_size=2), random_tokens(2, 5)
    decoder.read(tokens, 3)
    with pytest.raises(RuntimeError):
        decoder.read(tokens, 3, torch.zeros(2, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match="read a prompt first"):
        decoder.step(tokens[:, 0])
