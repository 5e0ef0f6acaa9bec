"""Figures that readers move: what Python draws, the page carries and its script shows."""

import itertools
import re

import numpy as np
import pytest
import torch
from conftest import new_context

from tinyperceiver.dataset.windows import IGNORED, Batch
from tinyperceiver.generation.sampling import keep_min_p, keep_top_k, keep_top_p
from tinyperceiver.model.rotary import apply_rotation, rotation_at
from tinyperceiver.music.tokenizer import decode_midi
from tinyperceiver.teaching.interactive.attention import look_back_state, weights_of
from tinyperceiver.teaching.interactive.counting import next_token
from tinyperceiver.teaching.interactive.events import byte_state
from tinyperceiver.teaching.interactive.giantmidi import step_state
from tinyperceiver.teaching.interactive.hybrid import explorer_state
from tinyperceiver.teaching.interactive.rotary import KEY, QUERY, dial_state
from tinyperceiver.teaching.interactive.sampling import filter_board
from tinyperceiver.teaching.interactive.vocabulary import scrub
from tinyperceiver.teaching.music import name_of, pitch_name
from tinyperceiver.teaching.slider import Slider, slider_figure, states_of

EXPLORER = (
    Slider("m", "", range(5)),
    Slider("l", "", range(1, 5)),
    Slider("query", "", range(4)),
)


def shown(states: dict, place: tuple[int, ...]) -> str:
    """The picture at these places of the sliders, put together as the page's script does."""

    def at(part):
        if isinstance(part, str):
            return part
        shape, texts = part
        return np.reshape(np.array(texts, dtype=object), shape)[
            tuple(k if size > 1 else 0 for k, size in zip(place, shape, strict=True))
        ]

    return "".join(map(at, states["parts"]))


def test_the_page_carries_every_state_of_a_slider_figure():
    states = states_of(explorer_state, EXPLORER)
    for place in itertools.product(range(5), range(4), range(4)):
        state = explorer_state(place[0], place[1] + 1, place[2])
        if state is not None:
            assert shown(states, place) == state
    shape, ends = states["ends"]
    assert (list(shape), ends) == ([1, 4, 1], [1, 2, 3, 4]), "l latents are l queries"


def test_states_of_other_tags_are_refused():
    with pytest.raises(ValueError, match="same tags"):
        slider_figure("a", lambda n: "<b></b>" * n, [Slider("n", "n", (1, 2))])


MOVE = """(place) => document.querySelectorAll("input").forEach((input, k) => {
  input.value = place[k];
  input.dispatchEvent(new Event("input", { bubbles: true }));
})"""
SHOWS = """(state) => {
  const expected = document.createElement("div");
  expected.innerHTML = state;
  return document.querySelector(".picture").innerHTML === expected.innerHTML;
}"""


def test_the_script_shows_what_python_draws(browser):
    page = new_context(browser).new_page()
    page.set_content(slider_figure("a-b", explorer_state, EXPLORER).data)
    assert page.evaluate(SHOWS, explorer_state(0, 1, 0)), "before anything is moved"
    said = page.query_selector("[aria-live]")
    for m, l, query in ((4, 4, 3), (0, 2, 1), (3, 1, 0), (2, 3, 1)):
        page.evaluate(MOVE, [m, l - 1, query])
        assert page.evaluate(SHOWS, explorer_state(m, l, query))
        assert [node.inner_text() for node in page.query_selector_all("output")] == [
            f"{m}", f"{l}", f"{query}",
        ]  # fmt: skip
    assert said.evaluate("(node) => node.isConnected"), "or screen readers stay silent"
    page.evaluate(MOVE, [0, 3, 3])
    page.evaluate(MOVE, [0, 1, 3])
    assert page.evaluate(SHOWS, explorer_state(0, 2, 1)), "two latents have no query 3"
    assert page.query_selector_all("output")[2].inner_text() == "1"


# Chapter 1


def test_each_byte_shows_its_bits_and_what_it_is_for():
    data = bytes.fromhex("4d546864 00000006 0000 0001 0060  4d54726b 0000000a")
    data += bytes.fromhex("8100 903c50  60 3c00")
    for place, bits, says in (
        (0, "01001101", "The letters MThd: a header follows.header: 96 ticks a quarter note"),
        (22, "10000001", "Wait 128 ticks. The first bit is 1: another byte follows.tick 128: key"),
        (27, "01100000", "Wait 96 ticks.tick 224: key 60 up (status as before)"),
    ):
        state = byte_state(data, place)
        assert "".join(re.findall(">([01])</text>", state)) == bits
        assert says in re.sub("<[^>]*>", "", state)
        framed = f'<rect x="{40 * (place % 12)}" y="{40 * (place // 12)}" width="40"'
        assert framed in state


# Chapter 2


def test_the_playhead_says_what_sounds_and_what_is_read(browser):
    tokens = [376, 60, 305, 64, 305, 188, 366, 67, 280, 192, 195]
    notes = {"C4": (0, 100), "E4": (50, 125), "G4": (100, 125)}
    events = {0: [376, 60, 305], 50: [64, 305], 100: [188, 366, 67, 280], 125: [192, 195]}
    page = new_context(browser).new_page()
    page.set_content(scrub(decode_midi(tokens), tokens, "a-b", at=0.6).data)
    for step in (60, 0, 49, 50, 99, 100, 124, 125):
        if step != 60:
            page.evaluate(MOVE, [step])
        sounding = [name for name, (start, end) in notes.items() if start <= step < end]
        read = [name_of(token) for token in events[max(t for t in events if t <= step)]]
        assert page.inner_text(".say") == (
            f"At {step / 100:.2f} s: {', '.join(read)}. "
            f"Sounding: {', '.join(sounding) or 'nothing'}."
        )
        bold = [item.inner_text().split("\n")[0] for item in page.query_selector_all("li")
                if item.evaluate("(node) => node.style.fontWeight") == "700"]  # fmt: skip
        assert len(bold) == len(read)
    page.click(".back")
    assert page.inner_text("output") == "1.00 s"


# Chapter 3


def test_a_row_of_the_bigram_table_is_said_and_drawn(browser):
    counts = np.zeros((388, 388), int)
    counts[60, [188, 265]], counts[62, 300], counts[265, [60, 188, 376, 64]] = (
        (1, 3),
        7,
        (4, 3, 2, 1),
    )
    page = new_context(browser).new_page()
    page.set_content(next_token(counts).data)
    says = (
        "After wait 100 ms, met 10 times, most often: note on C4 (40.0 %), note off C4 (30.0 %), "
    )
    assert page.inner_text(".says").startswith(says + "velocity 80 (20.0 %), note on E4 (10.0 %)")
    page.select_option("select", "note on")
    assert page.inner_text("output") == "note on D4", "the middle of those that occur"
    page.evaluate(MOVE, [0])
    assert page.inner_text(".says") == (
        "After note on C4, met 4 times, most often: wait 100 ms (75.0 %), note off C4 (25.0 %)."
    )
    heights = re.findall(r"v-([\d.]+)", page.get_attribute(".bars", "d"))
    assert heights == ["32.0", "96.0"]


# Chapter 4


@pytest.mark.parametrize(("query", "key", "shift"), [(10, 5, 0), (0, 60, 1000), (33, 20, 7)])
def test_arrows_are_turned_by_their_positions(query, key, shift):
    state = dial_state(query, key, shift)
    channels = torch.tensor([QUERY, KEY])[None, :, None]  # (1, 2, 1, 8): turned as two heads
    q, k = (
        apply_rotation(channels, rotation_at(torch.tensor([[place]]), 8))[0, head, 0]
        for head, place in ((0, query + shift), (1, key + shift))
    )
    expected = torch.stack((q.view(4, 2), k.view(4, 2)), 1).flatten(0, 1) * torch.tensor([50, -50])
    found = re.findall(r'd="M0 0L([-\d.]+) ([-\d.]+)"', state)
    assert np.allclose(np.array(found, dtype=float), expected, atol=0.1)
    text = re.sub("<[^>]*>", "", state)
    assert f"Query at {query + shift:,}, key at {key + shift:,}: distance" in text
    said = float(text.rpartition("score ")[2].rstrip(".").replace("−", "-"))
    assert abs(said - q @ k) < 0.006


# Chapter 5


@pytest.mark.parametrize(("i", "memory"), [(0, 1), (5, 8), (7, 2), (9, 3)])
def test_a_head_weighs_notes_by_how_much_of_the_past_agrees(i, memory):
    notes = [60, 64, 67, 60, 64, 67, 60, 64, 72, 60, 62]
    scores = []
    for j in range(i + 1):
        backs = [back for back in range(memory) if j - 1 - back >= 0]
        scores.append(4 * sum(notes[i - back] == notes[j - 1 - back] for back in backs))
    weights = torch.tensor(scores, dtype=torch.float64).softmax(0)
    assert np.allclose(weights_of(notes, i, memory), weights)
    state = look_back_state(notes, i, memory)
    shown = [float(found) for found in re.findall(r'fill-opacity="([^"]*)"', state)]
    rest = [0.16] * (len(notes) - 1 - i)
    assert np.allclose(shown, [0.3 + 0.7 * w for w in weights.tolist()] + rest, atol=0.006)
    chances = {pitch: 0.0 for pitch in sorted(notes)}
    for pitch, weight in zip(notes, weights.tolist(), strict=False):
        chances[pitch] += weight
    best = max(chances, key=chances.get)
    assert f"Expected: {pitch_name(best)} {100 * chances[best]:.0f} %" in state


# Chapter 6


@pytest.mark.parametrize(("m", "l", "query"), [(8, 4, 1), (0, 3, 2), (5, 1, 0)])
def test_the_explorer_counts_pairs_as_a_mask_does(m, l, query):
    n, state = m + l, explorer_state(m, l, query)
    first = sum(j <= i + m for i in range(l) for j in range(n))
    above = 18 * sum(j <= i for i in range(l) for j in range(l))
    full = 19 * sum(j <= i for i in range(n) for j in range(n))
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", state)[::2]
    assert cells == [
        f"{m} + {l}", f"{first}", f"{above}", f"{first + above}", f"{full:,}",
        f"{100 * (first + above) / full:.1f} %",
    ]  # fmt: skip
    text = re.sub("<[^>]*>", "", state)
    assert f"{m} of the prefix and {query + 1} of the latents" in text
    assert f"{l - 1 - query} later latent" in text


# Chapter 8


def test_the_rows_of_a_step_lie_where_their_tokens_stand():
    pieces = [list(range(100)), list(range(100, 150))]
    tokens = torch.tensor([list(range(110, 118)), [388, 388, 388, 90, 91, 92, 93, 94]])
    targets = torch.tensor([[115, 116, 117, 118], [92, 93, 94, IGNORED]])
    state = step_state(3, Batch(tokens, targets, tokens == 388, 4), pieces, ["a", "b"])
    prefix, latents = re.findall(r'd="([^"]*)"', state)
    # 500 units for the longer piece: 5 a token. The second row has one token of prefix.
    assert re.findall(r"M([\d.]+) \d+h([\d.]+)", prefix) == [("50.0", "20.0"), ("450.0", "5.0")]
    assert re.findall(r"M([\d.]+) \d+h([\d.]+)", latents) == [("70.0", "20.0"), ("455.0", "15.0")]
    assert "Step 3: a prefix of 4 tokens; row 0: b from token 10; row 1: a from token 90" in state


# Chapter 11


def test_the_board_filters_as_generate_does(browser):
    contexts = {name: torch.randn(389) * 3 for name in ("a", "b")}
    page = new_context(browser).new_page()
    page.set_content(filter_board(contexts).data)
    top_k = (1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 100, 388)
    for name, t, k, p, m in (
        ("a", 1.0, 11, 1.0, 0.0), ("b", 1.0, 11, 1.0, 0.0), ("b", 0.5, 5, 1.0, 0.0),
        ("a", 2.0, 11, 0.9, 0.0), ("a", 1.5, 11, 1.0, 0.1), ("b", 2.0, 9, 0.7, 0.05),
    ):  # fmt: skip
        page.select_option("select", name)
        page.evaluate(MOVE, [t, k, p, m])
        z = contexts[name][:388]
        kept = keep_top_k(z / t, top_k[k])
        kept = keep_top_p(kept, p) if p < 1 else kept
        kept = keep_min_p(kept, m) if m else kept
        left, q = kept > float("-inf"), kept.softmax(-1)
        nats = -(q[left] * q[left].log()).sum()
        three = q.topk(min(3, left.sum()))[1]
        best = ", ".join(f"{name_of(i)} ({100 * q[i]:.1f} %)" for i in three)
        assert page.inner_text(".says") == (
            f"{left.sum()} of 388 tokens are left, which had {100 * z.softmax(-1)[left].sum():.1f} "
            f"% of the probability. A draw surprises by {nats:.2f} nats on average. Likeliest: "
            f"{best}."
        )
