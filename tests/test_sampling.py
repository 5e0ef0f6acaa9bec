"""Filters, the grammar, streams, stops, batches of different lengths, what a full window does."""

import base64
import dataclasses
import inspect
import json
import re
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REFERENCE
from models import seeded, small_model

from tinyperceiver.checkpoints.pretrained import from_pretrained
from tinyperceiver.generation import generate
from tinyperceiver.generation.arguments import GenerateOptions, StreamOptions
from tinyperceiver.generation.generate import stream
from tinyperceiver.generation.grammar import MAX_SILENCE, Grammar
from tinyperceiver.generation.sampling import choose_tokens, keep_min_p
from tinyperceiver.model.config import PerceiverConfig
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.music.pieces import load_piece
from tinyperceiver.music.tokenizer import decode_midi, decode_notes, encode_midi
from tinyperceiver.music.vocabulary import NUM_EVENTS, PAD, TIME_SHIFT

pytestmark = pytest.mark.numeric

SMALL = PerceiverConfig(
    max_seq_len=48,
    max_latents=16,
    num_channels=16,
    num_heads=2,
    num_self_attention_layers=1,
    init_scale=0.3,
)


@pytest.fixture(scope="module")
def model() -> PerceiverAR:
    torch.manual_seed(0)
    return PerceiverAR(SMALL).eval()


@pytest.fixture(scope="module")
def golden_model() -> PerceiverAR:
    return from_pretrained(PerceiverAR, REFERENCE / "hub")


def random_tokens(*shape: int) -> torch.Tensor:
    return torch.randint(388, shape, generator=torch.Generator().manual_seed(1))


# Min-p


def test_min_p_keeps_what_is_likely_enough():
    probability = torch.tensor([[0.5, 0.25, 0.05, 0.2], [0.01, 0.97, 0.01, 0.01]])
    before = probability.log()
    kept = keep_min_p(before, 0.4)
    assert (kept > float("-inf")).tolist() == [
        [True, True, False, True],
        [False, True, False, False],
    ]
    assert torch.equal(kept[0, :2], before[0, :2])
    assert (keep_min_p(before, 1.0) > float("-inf")).sum(1).tolist() == [1, 1]


def test_min_p_is_applied_to_the_tempered_distribution():
    logits = torch.tensor([[0.0, -2.0] + [-50.0] * 387])
    # The second is e^-2 = 0.14 times as likely at temperature 1, e^-1 = 0.37 at 2.
    drawn = {}
    for temperature in (1.0, 2.0):
        options = {"do_sample": True, "temperature": temperature, "generator": seeded(0)}
        draws = choose_tokens(logits.expand(200, -1), min_p=0.3, **options)
        drawn[temperature] = set(draws.tolist())
    assert drawn == {1.0: {0}, 2.0: {0, 1}}


# Grammar


def faults(tokens: list[int]) -> list[str]:
    """What is unplayable in a sequence that began in silence; written apart from the package."""
    down, when, time, last, found = set(), {}, 0, 0, []
    velocity = 0
    for place, token in enumerate(tokens):
        if token < 128:
            if token in down:
                found.append(f"{place}: key {token} struck twice")
            if velocity == 0:
                found.append(f"{place}: key {token} struck without a sound")
            down.add(token)
            when[token], last = time, time
        elif token < 256:
            if token - 128 not in down:
                found.append(f"{place}: key {token - 128} released and not down")
            elif when[token - 128] == time:
                found.append(f"{place}: key {token - 128} released as it was struck")
            down.discard(token - 128)
            last = time
        elif token < 356:
            time += token - 255
            if time - last > 1000:
                found.append(f"{place}: silence")
        elif token < 388:
            velocity = 4 * (token - 356)
        else:
            found.append(f"{place}: {token} is no event")
        if place and tokens[place - 1] >= 356 and token >= 128:
            found.append(f"{place}: velocity of nothing")
    return found


def test_the_checker_finds_faults():
    velocity, wait = 370, 355
    assert faults([velocity, 60, wait, 188, 60]) == []
    for tokens, fault in [
        ([60, 60], "struck twice"),
        ([188], "not down"),
        ([60, 188], "released as it was struck"),
        ([60] + [wait] * 11, "silence"),
        ([velocity, wait], "velocity of nothing"),
        ([60], "without a sound"),
        ([velocity, 60, wait, 188, 356, 60], "without a sound"),
        ([388], "no event"),
    ]:
        assert fault in " ".join(faults(tokens))


def test_a_random_model_writes_only_what_can_be_played(model):
    """100,000 tokens; without the grammar hardly any sequence would do."""
    options = {"max_new_tokens": 2000, "do_sample": True, "temperature": 2.0}
    prompt = torch.full((50, 1), 355)
    output = model.generate(prompt, grammar=True, generator=seeded(0), **options)[:, 1:]
    assert output.numel() == 100_000
    assert [row for row in output.tolist() if faults(row)] == []
    kinds = torch.bucketize(output.contiguous(), torch.tensor([128, 256, 356]), right=True)
    assert (torch.bincount(kinds.flatten(), minlength=4) > 5000).all()
    free = model.generate(prompt, generator=seeded(0), **options)[:, 1:]
    assert all(faults(row) for row in free.tolist())


def test_greedy_decoding_obeys_the_grammar_too(model):
    velocity, key = torch.full((8, 1), 370), random_tokens(8, 1) % 128
    prompt = torch.cat((velocity, key), dim=1)
    output = model.generate(prompt, max_new_tokens=500, grammar=True)
    assert [faults(row) for row in output.tolist()] == [[]] * 8


def test_the_grammar_follows_what_the_prompt_left():
    grammar = Grammar()
    grammar.read(
        0, [370, 60, 60, 256, 190, 62]
    )  # twice struck, and a release of nothing: no matter
    allowed = grammar.allowed[0]
    assert not allowed[60] and allowed[188]  # down since before the shift
    assert not allowed[62] and not allowed[190]  # struck in this instant
    assert allowed[64] and not allowed[192]
    assert allowed[256:356].all() and allowed[357:388].all() and not allowed[388:].any()
    grammar.read(0, [370])
    assert np.flatnonzero(grammar.allowed[0]).tolist() == [
        k for k in range(128) if k not in (60, 62)
    ]


def allowed_after(*tokens: int) -> list[int]:
    grammar = Grammar(1, 390)
    grammar.read(0, tokens)
    return np.flatnonzero(grammar.allowed[0]).tolist()


def test_every_stroke_sounds():
    """Token 356 decodes to velocity 0, which MIDI reads as a release; so does none at all."""
    keys, waits, velocities = (list(range(*ends)) for ends in ((128,), (256, 356), (357, 388)))
    assert allowed_after() == waits + velocities
    assert allowed_after(357) == keys
    assert allowed_after(256) == waits + velocities, "before any velocity"
    assert allowed_after(370, 356) == waits + velocities, "a prompt may hold it"
    assert allowed_after(356, 357) == keys
    # After a first token 389 it decodes to 2.
    assert allowed_after(389) == [*waits, 356, *velocities]
    assert allowed_after(389, 356) == keys


def test_silence_is_bounded_to_the_step():
    grammar = Grammar()
    grammar.read(0, [60] + [355] * (MAX_SILENCE - 1) + [345])  # 9.9 s
    assert np.flatnonzero(grammar.allowed[0, 256:356]).tolist() == list(range(10))
    grammar.read(0, [265])
    assert not grammar.allowed[0, 256:356].any() and grammar.allowed[0, :256].any()
    grammar.read(0, [188])
    assert grammar.allowed[0, 256:356].all()


def test_something_is_always_allowed():
    grammar = Grammar()
    grammar.read(0, list(range(128)))  # all keys at once
    assert np.flatnonzero(grammar.allowed[0]).tolist() == list(range(256, 356))
    grammar.read(0, [370])  # no key is left for this velocity
    assert grammar.allowed[0].any()
    grammar.read(0, [355] * MAX_SILENCE)
    assert np.flatnonzero(grammar.allowed[0]).tolist() == list(range(128, 256))


# Streams and stops


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("window", ["slide", "refill"])
def test_a_stream_gives_what_generate_adds(model, window, precision):
    options = {"max_new_tokens": 120, "num_latents": 3, "do_sample": True, "top_p": 0.9}
    options |= {"window": window, "precision": precision}
    prompt = random_tokens(1, 20)
    expected = model.generate(prompt, generator=seeded(5), **options)[0, 20:].tolist()
    for given in (prompt, prompt[0], prompt[0].tolist()):
        assert list(model.stream(given, generator=seeded(5), **options)) == expected


def test_a_stream_comes_token_by_token_and_without_end(model):
    tokens = stream(model, [60, 355])
    first = [next(tokens) for _ in range(300)]
    assert all(isinstance(token, int) for token in first)
    assert (
        first[:100] == model.generate(torch.tensor([[60, 355]]), max_new_tokens=100)[0, 2:].tolist()
    )
    # Whoever reads a stream has his own modes in between.
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    "prompt, options, error, message",
    [
        ([60], {"top_k": 3}, ValueError, "need do_sample=True"),
        (torch.zeros(0, dtype=torch.long), {}, ValueError, "must have 1 to 48 tokens, not 0"),
        (torch.zeros(2, 3, dtype=torch.long), {}, ValueError, "continues one prompt, not 2"),
        ([60], {"topk": 3}, TypeError, "stream has no options topk"),
        ([60], {"progress": True}, TypeError, "stream has no options progress"),
    ],
)
def test_a_stream_is_refused_at_the_call(model, prompt, options, error, message):
    with pytest.raises(error, match=message):
        model.stream(prompt, **options)


def test_notes_come_as_soon_as_they_end(golden_model):
    prompt = [372, 60, 64, 290]
    tokens = golden_model.stream(
        prompt, max_new_tokens=400, num_latents=4, do_sample=True, grammar=True, generator=seeded(3)
    )
    seen = list(prompt)

    def watched():
        for token in tokens:
            seen.append(token)
            yield token

    notes = []
    for note in decode_notes(chain(prompt, watched())):
        assert seen[-1] == 128 + note.pitch  # the token that ends it came last
        notes.append(note)
    whole = decode_midi(seen).instruments[0].notes
    assert len(notes) > 20
    assert sorted(map(str, notes)) == sorted(map(str, whole))


def test_notes_stop_at_a_token_that_is_no_event():
    notes = decode_notes([60, 300, 188, 388])
    assert next(notes).pitch == 60
    with pytest.raises(ValueError, match="token 388 at place 3 is not a MIDI event"):
        next(notes)


def seconds_of(tokens) -> float:
    return sum(token - 255 for token in tokens if 256 <= token < 356) / 100


def test_rows_stop_after_their_seconds(model):
    prompt = random_tokens(4, 10)
    output = model.generate(prompt, max_seconds=5, do_sample=True, generator=seeded(1))
    new = output[:, 10:].tolist()
    lengths = [row.index(388) if 388 in row else len(row) for row in new]
    assert len(set(lengths)) > 1 and max(lengths) == len(new[0])
    for row, length in zip(new, lengths, strict=True):
        assert set(row[length:]) <= {388}
        assert seconds_of(row[: length - 1]) < 5 <= seconds_of(row[:length])
    both = model.generate(
        prompt, max_seconds=5, max_new_tokens=7, do_sample=True, generator=seeded(1)
    )
    assert torch.equal(both, output[:, :17])
    assert torch.equal(model.generate(prompt, max_seconds=0), prompt)


# Batches of different lengths


@pytest.mark.parametrize("window", ["slide", "refill"])
@pytest.mark.parametrize("grammar", [False, True])
def test_a_mixed_batch_equals_single_runs(window, grammar):
    """In float64, where rounding does not depend on the batch; long after all windows are full."""
    torch.manual_seed(0)
    model = PerceiverAR(SMALL).double()
    prompts = [random_tokens(n) for n in (5, 34, 12, 21)]
    options = {"max_new_tokens": 90, "num_latents": 4, "do_sample": True, "top_p": 0.95}
    options |= {"window": window, "grammar": grammar}
    together = model.generate(prompts, generator=[seeded(i) for i in range(4)], **options)
    for i, (prompt, found) in enumerate(zip(prompts, together, strict=True)):
        alone = model.generate(prompt[None], generator=seeded(i), **options)[0]
        assert torch.equal(found, alone), i


def test_a_mixed_batch_stops_row_by_row(model):
    prompts = [[60], [60, 300, 188], [355, 355]]
    options = {"max_seconds": 3, "do_sample": True}
    together = model.generate(prompts, generator=[seeded(i) for i in range(3)], **options)
    assert [
        row[: len(prompt)].tolist() for row, prompt in zip(together, prompts, strict=True)
    ] == prompts
    assert len({len(row) for row in together}) > 1
    for i, (prompt, row) in enumerate(zip(prompts, together, strict=True)):
        assert row[: len(prompt)].tolist() == prompt and not (row == 388).any()
        single = model.generate(torch.tensor([prompt]), generator=seeded(i), **options)
        assert torch.equal(row, single[0])


# Windows


def test_refill_reads_the_last_part_of_the_window_again(model):
    """Against the model itself: latents 5 ... 16, then 8 ... 16 again and again."""
    prompt, new = random_tokens(1, 30), 60
    output = model.generate(prompt, max_new_tokens=new, num_latents=5, window="refill")
    latents, seen = 5, []
    for end in range(30, 30 + new):
        start = max(0, end - latents - 32)
        with torch.inference_mode():
            logits = model(output[:, start:end], end - start - latents)[0, -1]
        assert output[0, end] == logits.argmax()
        seen.append(latents)
        latents = 8 if latents == 16 else latents + 1
    assert seen[:12] == list(range(5, 17)) and seen[12:21] == list(range(8, 17))
    uncached = model.generate(
        prompt, max_new_tokens=new, num_latents=5, window="refill", use_cache=False
    )
    assert torch.equal(uncached, output)


def test_window_policies_agree_until_the_latents_are_full(golden_model):
    prompt, most = random_tokens(1, 70), golden_model.config.max_latents
    options = {"max_new_tokens": most + 60, "num_latents": 10, "do_sample": True}
    slid, refilled = (
        golden_model.generate(prompt, window=window, generator=seeded(0), **options)[0, 70:]
        for window in ("slide", "refill")
    )
    same = most - 10 + 1
    assert torch.equal(slid[:same], refilled[:same])
    assert not torch.equal(slid, refilled)


@pytest.mark.parametrize("seconds, steps", [(0.07, 7), (0.14, 14), (1.1, 110), (2.2, 220)])
def test_seconds_end_on_the_step(seconds, steps):
    """1.1 * 100 is more than 110."""
    model = small_model(vocab_size=389)
    with torch.no_grad():  # a model that always waits 10 ms
        model.norm.weight.zero_()
        model.norm.bias.fill_(1.0)
        model.embedding.weight.zero_()
        model.embedding.weight[TIME_SHIFT] = 1.0
    assert model.generate(torch.tensor([[60]]), max_seconds=seconds).size(1) == 1 + steps


def test_the_grammar_does_not_read_padding(model):
    """Whatever stands there: a 60 would be a key that is down."""
    pads = torch.tensor([[True, True, False, False]])
    options = {"max_new_tokens": 40, "do_sample": True, "grammar": True, "pad_mask": pads}
    found = [
        model.generate(torch.tensor([[pad, pad, 62, 300]]), generator=seeded(3), **options)
        for pad in (PAD, 60, 0)
    ]
    assert torch.equal(found[0][:, 4:], found[1][:, 4:])
    assert torch.equal(found[0][:, 4:], found[2][:, 4:])


def test_generate_and_stream_have_the_same_options():
    """An option that is named in one place and forgotten in another would be ignored."""
    ours = inspect.signature(generate.generate).parameters.keys()
    fields = {f.name for f in dataclasses.fields(generate._Run) if f.init}
    assert ours - {"progress"} == fields
    # What type checkers know of the methods.
    assert ours - {"model", "prompt"} == GenerateOptions.__annotations__.keys()
    assert fields - {"model", "prompt", "pad_mask"} == StreamOptions.__annotations__.keys()
    source = inspect.getsource(generate.generate)
    assert all(f"{name}={name}" in source for name in fields)


# The numbers inside the picture of chapter 11


def test_the_committed_board_holds_the_logits_of_the_shipped_model():
    """nbval does not compare them: their last digits are the processor's own."""
    chapter = Path(__file__).parent.parent / "book" / "11_sampling.ipynb"
    outputs = [
        "".join(output["data"]["text/html"])
        for cell in json.loads(chapter.read_text(encoding="utf-8"))["cells"]
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    ]
    (board,) = [html for html in outputs if 'id="filter-board"' in html]
    (content,) = re.findall(r"data:application/octet-stream;base64,([\w+/=]+)", board)
    shown = np.frombuffer(base64.b64decode(content), dtype="<f4").reshape(3, NUM_EVENTS)
    song = encode_midi(load_piece("schubert-lindenbaum"))
    with torch.inference_mode():
        logits = PerceiverAR.from_pretrained("tiny")(torch.tensor([song[:256]]), 0)[0]
    places = (253, 255, 254)  # of the three contexts, in the order in which the reader chooses
    assert np.allclose(shown, logits[places, :NUM_EVENTS], rtol=0, atol=1e-3)
