"""What figures show: the numbers that they draw, against numbers that are computed here."""

import itertools

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from tinyperceiver.dataset.windows import IGNORED, Batch
from tinyperceiver.music.midi import notes_of
from tinyperceiver.music.pedal import hold_by_pedal
from tinyperceiver.music.pieces import load_piece
from tinyperceiver.music.tokenizer import decode_midi, encode_midi
from tinyperceiver.teaching import reference
from tinyperceiver.teaching.drawing import LATENTS, PREFIX
from tinyperceiver.teaching.figures import (
    attention,
    counting,
    decoder,
    events,
    giantmidi,
    hybrid,
    learnt,
    released,
    rotary,
    sampling,
    speed,
    training,
    vocabulary,
)
from tinyperceiver.teaching.measuring import NUMBERS, PROFILE_SECONDS
from tinyperceiver.teaching.music import KINDS, performance
from tinyperceiver.teaching.records import Run, measured, read_run
from tinyperceiver.teaching.style import BLUE, GREEN, GREY, INK, ORANGE, PINK, use_style


@pytest.fixture(autouse=True)
def own_style():
    with matplotlib.rc_context():
        use_style()
        yield
    plt.close("all")


def points(ax, color: str | None = None, marker: str | None = None) -> list[tuple]:
    """All (x, y) of the panel's lines and marks, to 4 digits, of one colour or marker."""
    lines = [
        line.get_xydata()
        for line in ax.lines
        if color in (None, line.get_color()) and marker in (None, line.get_marker())
    ]
    return sorted(map(tuple, np.concatenate(lines).round(4).tolist()))


def bars(ax) -> list[list[float]]:
    """Left, bottom, width and height of the panel's bars, to 4 digits, from left to right."""
    boxes = [bar.get_bbox().bounds for bar in ax.patches if isinstance(bar, Rectangle)]
    return sorted(np.round(boxes, 4).tolist())


def errors(ax) -> np.ndarray:
    """(lines, 4) with the ends of the panel's error bars."""
    return np.concatenate([np.reshape(c.get_segments(), (-1, 4)) for c in ax.collections])


def rounded(pairs) -> list[tuple]:
    return sorted((round(float(x), 4), round(float(y), 4)) for x, y in pairs)


def written(ax) -> dict[tuple, str]:
    """The panel's texts by where they stand, to 4 digits."""
    return {tuple(np.round(text.get_position(), 4).tolist()): text.get_text() for text in ax.texts}


# Chapter 1


def test_every_byte_of_a_file_stands_in_one_part():
    data = bytes.fromhex(
        "4d546864 00000006 0000 0001 0060  4d54726b 00000012"
        "00 ff5103 061a80  8100 903c50  60 3c00  00 ff2f00"
    )
    rows = events.rows_of(data)
    assert b"".join(part.data for row in rows for part in row.parts) == data
    assert [row.wait for row in rows] == [0, 0, 0, 128, 96, 0]
    assert [row.text for row in rows[2:]] == [
        "400,000 µs a quarter note", "key 60 down, velocity 80", "key 60 up (status as before)",
        "end of the track",
    ]  # fmt: skip
    (ax,) = events.draw_bytes(data).axes
    hexadecimal = [t.get_text() for t in ax.texts if len(t.get_text()) == 2]
    assert bytes.fromhex("".join(hexadecimal)) == data


def test_a_number_of_two_bytes_is_what_their_bits_make():
    (ax,) = events.draw_number(bytes.fromhex("81 70")).axes
    assert ax.texts[-1].get_text() == f"= {1 * 128 + 112}"


def test_notes_and_what_the_pedal_adds():
    start, end, held = np.array([0.0, 1, 9]), np.array([0.5, 2, 9.5]), np.array([3.0, 2, 10])
    pitch, pedal = np.array([60, 62, 40]), np.array([[0.25, 3.0]])
    (ax,) = events.draw_held(start, end, held, pitch, pedal, seconds=4).axes
    spans = [part.get_paths()[0].get_extents().bounds for part in ax.collections]
    assert [(left, width) for left, _, width, _ in spans] == [
        (0.5, 2.5), (0, 0.5), (2, 0), (1, 1), (0.25, 2.75),
    ]  # fmt: skip


# Chapter 2


def test_rounded_gaps_drift_and_rounded_times_do_not():
    played, now, gaps = [3, 17, 22, 58], 0, []
    for before, moment in zip([0, *played[:-1]], played, strict=True):
        now += 10 * round((moment - before) / 10)
        gaps.append(now)
    (ax,) = vocabulary.draw_rounding(played).axes
    assert points(ax, INK, "o") == rounded((x, 0) for x in played)
    assert points(ax, ORANGE, "s") == rounded((x, 1) for x in gaps)
    assert points(ax, BLUE, "D") == rounded((10 * round(x / 10), 2) for x in played)
    assert written(ax)[gaps[-1], 0.78] == f"{gaps[-1] - 58:+d}".replace("-", "−")


def test_tokens_stand_beside_their_event():
    right = vocabulary.draw_places({"count": [2, 1, 3], "after": [2, 3, 6]}, range(60, 66)).axes[1]
    rows = {0: (0, 0), 1: (1, 0), 2: (2, 1), 3: (3, 2), 4: (4, 2), 5: (5, 2)}
    found = {(x, y): text for (x, y), text in written(right).items() if y >= 0}
    assert found == {(x + 0.5, y): f"{60 + place}" for place, (x, y) in rows.items()}


def test_a_pedal_holds_what_starts_within_it_if_it_stops():
    starts, pedals = [0.2, 0.6, 0.4, 1.5, 1.8], [(0.3, 1.0), (1.4, 2.5)]
    table = {"stops": [1, 0], "first": [0, 3], "visits": [3, 2]}
    found = written(vocabulary.draw_visits(starts, pedals, table).axes[1])
    assert [found[i + 0.5, 0] for i in range(3)] == ["before", "held", "held"]
    assert [found[i + 0.5, 1] for i in (3, 4)] == ["as it is"] * 2 and found[3.1, 0] == "stop"


def test_bars_are_notes_and_what_comes_twice_stands_above():
    notes = [(80, 60, 0.5, 1.5), (80, 60, 0.5, 1.0), (80, 62, 2.0, 2.5)]
    midi = performance(notes, [(127, 0.0), (0, 1.25)])
    rules = {"keys": notes_of, "sound": hold_by_pedal}
    ax, *_ = vocabulary.draw_pedals({"case": midi, "same": midi}, rules).axes
    assert bars(ax) == [
        [0, 57.4, 1.25, 1.2], [0.5, 59.6, 1, 0.8], [0.5, 60.6, 0.5, 0.8], [2, 61.6, 0.5, 0.8],
    ]  # fmt: skip


def test_lines_lead_from_a_moment_to_its_tokens():
    tokens = encode_midi(load_piece("mozart-sonata"))[:16]
    tokens += [token + 128 for token in tokens if token < 128]  # every note ends
    (ax,) = vocabulary.draw_tokens(tokens).axes
    now, expected, slot = 0, [], sum(t - 255 for t in tokens if 256 <= t < 356) / len(tokens)
    for place, token in enumerate(tokens):
        if 256 <= token < 356:
            now += token - 255
        else:
            expected.append((now, (place + 0.5) * slot))
    found = [tuple(line.get_xdata()) for line in ax.lines]
    assert rounded(found) == rounded(expected)


# Chapter 3

ORDERS = [
    {"order": 1, "distinct": 9, "once": 4, "valid_seen": 1.0, "train": 4.5, "valid": 4.6},
    {"order": 2, "distinct": 40, "once": 30, "valid_seen": 0.5, "train": 3.0, "valid": 3.9},
    {"order": 3, "distinct": 90, "once": 80, "valid_seen": 0.1, "train": 1.0, "valid": 5.0},
]


def test_the_price_is_the_logarithm_of_one_in_p():
    (ax,) = counting.draw_price(np.full(388, 0.125)).axes
    assert points(ax, ORANGE) == rounded((p, np.log(1 / p)) for p in (1 / 388, 0.125, 1))
    assert all(round(-np.log(p), 2) == round(y, 2) for p, y in ax.lines[0].get_xydata())


def test_each_row_of_the_matrix_is_a_probability_on_a_scale_of_logarithms():
    counts = np.zeros((388, 388), int)
    counts[3, [0, 1, 2]], counts[7, 9] = (90, 9, 1), 5
    image = counting.draw_bigrams(counts).axes[0].images[0].get_array()
    scale = {0.9: 0.9886, 0.09: 0.7386, 0.01: 0.5, 1: 1.0}  # 0 at 0.0001
    assert np.allclose(image[3, :3], [scale[0.9], scale[0.09], scale[0.01]], atol=1e-4)
    assert image[7, 9] == 1 and np.count_nonzero(image) == 4


def test_runs_that_occur_and_occur_again():
    left, right = counting.draw_sparsity(ORDERS).axes
    values = [line.get_ydata().tolist() for line in left.lines]
    assert values == [[388, 388**2, 388**3], [9, 40, 90], [5, 10, 10]]
    assert [bar[3] for bar in bars(right)] == [100, 50, 10]


def test_the_best_order_is_that_of_held_out_music():
    small, large = counting.draw_orders([(4.0, 5.0), (2.0, 4.5), (0.1, 4.9)], ORDERS).axes
    assert points(small, BLUE, "o") == [(1, 5), (2, 4.5), (3, 4.9)]
    assert points(large, ORANGE, "s") == [(1, 4.5), (2, 3), (3, 1)]
    assert [ax.texts[0].get_text() for ax in (small, large)] == ["4.50", "3.90"]
    assert [ax.texts[0].xy[0] for ax in (small, large)] == [2, 2]


def test_the_eight_notes_that_surprise_most_are_marked():
    tokens = encode_midi(load_piece("mozart-sonata"))[:200]
    nats, now, keys = np.random.default_rng(0).permutation(200) / 7, 0, []
    for place, token in enumerate(tokens):
        now += token - 255 if 256 <= token < 356 else 0
        keys += [(nats[place], now / 100, token)] if token < 128 else []
    top = sorted(keys)[-8:]
    roll, below = counting.draw_surprise(tokens, nats).axes
    assert points(roll, PINK) == rounded((time, pitch) for _, time, pitch in top)
    assert points(below, PINK) == rounded((time, nat) for nat, time, _ in top)


# Chapter 4


def test_hands_of_clocks_end_at_cosine_and_sine():
    angle = torch.tensor([[0.0, 1.0], [2.0, 0.5], [3.0, 4.0]])  # (n, pairs)
    fig = rotary.draw_clocks((angle.cos()[None], angle.sin()[None]), [0, 1, 10])
    tips = [points(ax, marker="o") for ax in fig.axes]
    assert tips == [rounded([(np.cos(x), np.sin(x))]) for x in angle.T.flatten().tolist()]


# Chapter 5


def test_dots_are_right_expectations_and_crosses_wrong_ones():
    notes, expected = torch.tensor([60, 64, 67, 64, 60]), torch.tensor([64, 60, 64, 72])
    ax, _ = attention.draw_expectations(notes, {"a": expected, "b": notes[1:]}).axes
    assert ax.get_title(loc="left") == "a: 2 of 4 right"
    assert points(ax, marker="o") == [(1, 64), (3, 64)]
    assert points(ax, marker="x") == [(2, 60), (4, 72)]


def test_the_largest_weights_come_first_beside_the_entropies():
    raw, scaled = torch.rand(2, 20, generator=torch.Generator().manual_seed(0)).softmax(-1)
    left, right = attention.draw_saturation(raw, scaled, {4: [1.0, 2.0], 9: [0.5, 2.5]}).axes
    for weights, line in zip((scaled, raw), left.lines, strict=True):
        assert np.allclose(line.get_ydata(), sorted(weights.tolist(), reverse=True)[:16])
    assert [line.get_ydata().tolist() for line in right.lines[:2]] == [[2.0, 2.5], [1.0, 0.5]]


def test_the_slope_of_squares_passes_above_the_slowest():
    (ax,) = attention.draw_cost([10, 20], {"a": [0.001, 0.002], "b": [0.002, 0.003]}).axes
    assert np.allclose([line.get_ydata() for line in ax.lines], [[1.5, 6], [1, 2], [2, 3]])


def test_a_ring_holds_the_newest_positions():
    capacity, steps = 4, [1, 4, 6, 11]
    (ax,) = attention.draw_ring(capacity, steps).axes
    texts = {text.get_position(): text.get_text() for text in ax.texts}
    for row, seen in enumerate(steps):
        held = ["–"] * capacity
        for position in range(seen):
            held[position % capacity] = f"{position}"
        assert [texts[slot + 0.46, row + 0.4] for slot in range(capacity)] == held
    filled = [box for box in ax.patches if box.get_facecolor()[3] > 0]
    assert [(box.get_x(), box.get_y()) for box in filled] == [(0, 0), (3, 1), (1, 2), (2, 3)]


# Chapter 6


def test_a_roll_of_the_window_has_all_notes_on_their_side_of_the_boundary():
    tokens, m = encode_midi(load_piece("bach-prelude"))[:400], 250
    fig = hybrid.draw_window(tokens, m)
    notes, heard = decode_midi(tokens).instruments[0].notes, decode_midi(tokens[:m])
    old = {(n.start, n.pitch) for n in heard.instruments[0].notes}
    found = {
        (box.get_x(), round(box.get_y() + 0.4)): box.get_edgecolor() for box in fig.axes[0].patches
    }
    orange = matplotlib.colors.to_rgba(PREFIX.color)
    assert len(found) == len(notes) and old <= {k for k, c in found.items() if c == orange}
    seam = fig.axes[0].lines[0].get_xdata()[0]
    assert all((start < seam) == (color == orange) for (start, _), color in found.items())


@pytest.mark.parametrize(("m", "l"), [(8, 4), (0, 5), (3, 1)])
def test_marks_of_a_mask_stand_where_it_is_true(m, l):
    seen = torch.rand(l, m + l, generator=torch.Generator().manual_seed(m)) < 0.5
    (ax,) = hybrid.draw_mask(seen, ["x"] * (m + l)).axes
    cells = list(itertools.product(range(l), range(m + l)))
    where = [(j, i) for i, j in cells if seen[i, j]]
    assert points(ax, PREFIX.color) == rounded((j, i) for j, i in where if j < m)
    assert points(ax, LATENTS.color) == rounded((j, i) for j, i in where if j >= m)
    assert points(ax, INK, "s") == [(m + i, i) for i in range(l)], "a frame around each own key"
    assert points(ax, marker=".") == rounded((j, i) for i, j in cells if not seen[i, j])


def test_crosses_stand_where_a_query_hears_padding_and_squares_where_latents():
    m, l = 8, 4
    for ax, count in zip(hybrid.draw_pads(m, l, (3, 10)).axes, (3, 10), strict=True):
        crosses, squares = [], []
        for i in range(l):
            # Layer 1: only what is padding itself hears itself. Above, no padding is hidden.
            crosses += [(m + i, l + 1 + i)] if m + i < count else []
            crosses += [(m + j, i) for j in range(i + 1) if m + j < count]
            is_music = [m + j >= count for j in range(i + 1)]
            squares += [(m + j, top + i) for top in (0, l + 1) for j in range(i + 1) if is_music[j]]
        assert points(ax, PINK) == rounded(crosses)
        assert points(ax, LATENTS.color) == rounded(squares)


def test_bars_of_weights_and_their_sums():
    rows = torch.rand(2, 6, generator=torch.Generator().manual_seed(0)).softmax(-1)
    fig = hybrid.draw_softmaxes({"a": rows[0], "b": rows[1]}, m=4)
    for ax, row in zip(fig.axes, rows, strict=True):
        assert [bar[3] for bar in bars(ax)] == pytest.approx(row.tolist(), abs=1e-4)
        assert f"prefix {row[0] + row[1] + row[2] + row[3]:.2f}" in [t.get_text() for t in ax.texts]
    fig = hybrid.draw_weights(rows, list("abcdef"), m=4, last=3)
    for ax, row in zip(fig.axes, rows, strict=True):
        assert [bar[3] for bar in bars(ax)] == pytest.approx(row[3:].tolist(), abs=1e-4)
        assert ax.texts[0].get_text().endswith(f"left of this picture: {row[:3].sum():.2f}")


def test_costs_are_drawn_in_millions():
    (ax,) = hybrid.draw_costs([1, 2], {"full": [1e6, 3e6], "few": [5e5, 7e5]}).axes
    assert [line.get_ydata().tolist() for line in ax.lines[:2]] == [[1, 3], [0.5, 0.7]]


# Chapter 7


def boxes(ax) -> list[tuple]:
    """Row, column, text and part of each token's box; they stand half a unit apart."""
    colors = {matplotlib.colors.to_rgba(look.color): look for look in (PREFIX, LATENTS)}
    texts = {t.get_position(): t.get_text() for t in ax.texts}
    found = []
    for patch in ax.patches:
        x, y = patch.get_x(), patch.get_y()
        look = colors.get(patch.get_edgecolor(), "gone")
        found.append((2 * y, int(2 * x), texts[x + 0.2, y + 0.17], look))
    return sorted(found)


def test_padding_is_gone_and_positions_begin_after_it():
    pads = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 0]]).bool()
    position = torch.tensor([[0, 1, 2, 3], [0, 0, 0, 0]])
    (ax,) = decoder.draw_padding(position, pads, num_latents=2).axes
    assert boxes(ax) == [
        (0, 0, "pad", "gone"), (0, 1, "pad", "gone"), (0, 2, "pad", "gone"), (0, 3, "0", LATENTS),
        (1, 0, "0", PREFIX), (1, 1, "1", PREFIX), (1, 2, "2", LATENTS), (1, 3, "3", LATENTS),
    ]  # fmt: skip
    assert {"4 tokens", "1 tokens"} <= {text.get_text() for text in ax.texts}


def test_tokens_that_are_left_out_have_no_number():
    (ax,) = decoder.draw_kept([0, 2], prefix_len=3, num_latents=1).axes
    assert boxes(ax) == [
        (0, 0, "0", PREFIX), (0, 2, "1", PREFIX), (0, 3, "2", LATENTS),
        (1, 0, "0", PREFIX), (1, 2, "2", PREFIX), (1, 3, "3", LATENTS),
        (2, 0, "0", PREFIX), (2, 1, "1", "gone"), (2, 2, "2", PREFIX), (2, 3, "3", LATENTS),
    ]  # fmt: skip


def test_logits_of_rows_with_padding_and_the_largest_difference_of_each_case():
    generator = torch.Generator().manual_seed(0)
    cases = []
    for pads in ([0, 0], [0, 2]):
        pad_mask = torch.arange(4) < torch.tensor(pads)[:, None]
        logits = torch.randn(2, 3, 97, generator=generator)
        cases.append(reference.Case(torch.zeros(2, 4), 1, pad_mask, logits))
    first, final = ([case.logits + off for case in cases] for off in (1.0, 0.25))
    left, right = decoder.draw_agreement(cases, first, final).axes
    logits = cases[1].logits[1, :, 0]  # each 97th is drawn
    assert points(left, marker="v") == rounded((x, x + 1) for x in logits)
    assert points(left, marker="o") == rounded((x, x + 0.25) for x in logits)
    assert points(right, marker="v") == [(0, 1), (1, 1)]
    assert points(right, marker="o") == [(0, 0.25), (1, 0.25)]


def test_a_grid_of_changes_is_empty_where_nothing_changes():
    change = torch.tensor([[0.5, 1.0], [0.2, 3.0], [0.0, 2.0]])  # (n, l)
    grid = decoder.draw_leak(change, prefix_len=1).axes[0].collections[0].get_array()
    assert np.allclose(grid.filled(0), change.T) and grid.mask.sum() == 1


def test_bars_of_parameters():
    (ax,) = decoder.draw_parameters({"a": 1000, "b": 3000}).axes
    assert [bar[2] for bar in bars(ax)] == [1000, 3000]
    assert [text.get_text() for text in ax.texts] == [" 1,000  (25.0%)", " 3,000  (75.0%)"]


# Chapter 8


def test_keys_and_velocities_are_shares_in_percent():
    events = np.random.default_rng(0).integers(1, 100, 388)
    record = {"events": events, "notes_of_each": [10, 30], "seconds_of_each": [5, 10]}
    keys, touch, density = giantmidi.draw_music(record).axes
    total = sum(events[:128])
    assert [bar[3] for bar in bars(keys)] == [round(100 * n / total, 4) for n in events[21:109]]
    assert sum(bar[3] for bar in bars(touch)) == pytest.approx(100, abs=0.01)
    assert [(x, n) for x, _, _, n in bars(density) if n] == [(2, 1), (3, 1)]


def test_how_often_tokens_are_targets_is_relative_to_the_mean():
    counts = {"a": {"one": np.arange(17), "two": np.full(9, 3)}}
    counts["b"] = {"one": np.ones(17), "two": np.zeros(9)}
    mean = (sum(range(17)) + 27) / 26
    above, below = (
        np.concatenate([part.get_data().values for part in ax.patches])
        for ax in giantmidi.draw_coverage(counts).axes
    )
    assert above * mean == pytest.approx([3.5, 11.5, 3]), "of 8 tokens each"
    assert below * mean == pytest.approx([1, 1, 0])


def test_a_batch_is_drawn_as_its_masks_say():
    m, l = 6, 4
    pads, lacking = [0, 6, 2], [0, 3, 1]
    targets = torch.tensor([[7] * (l - k) + [IGNORED] * k for k in lacking])
    mask = torch.tensor([[i < k for i in range(m + l)] for k in pads])
    (ax,) = giantmidi.draw_batch(Batch(torch.zeros(3, m + l), targets, mask, m)).axes
    for row, (pad, missing) in enumerate(zip(pads, lacking, strict=True)):
        ends = [0, pad, m, m + l - missing, m + l]
        found = [[left, width] for left, low, width, _ in bars(ax) if round(low) == row]
        assert found == [[a, b - a] for a, b in itertools.pairwise(ends)]


# Chapter 9


@pytest.fixture(scope="module")
def run() -> Run:
    return read_run("runs/tiny")


def test_losses_of_new_batches_are_means_of_ten():
    losses = np.random.default_rng(0).random(15).tolist()
    one, new = training.draw_bugs({"right": losses}, {"right": losses}).axes
    means = [np.mean(losses[max(0, i - 9) : i + 1]) for i in range(15)]
    assert points(one, BLUE) == rounded(enumerate(losses, 1))
    assert points(new, BLUE) == rounded(enumerate(means, 1))


def test_no_gradient_that_was_cut_is_left_out(run):
    (ax,) = training.draw_norms(run).axes
    found, most = points(ax, marker="."), run.config.max_norm
    cut = [(s, n) for s, n in zip(run.steps, run.norm, strict=True) if n > most]
    assert [(s, n) for s, n in found if n > most] == rounded(cut)
    assert len(cut) < len(found) < 0.2 * len(run.steps)


def test_held_out_losses_are_marked_by_window(run):
    top, middle, _ = training.draw_recorded(run).axes
    for window, marker in zip((256, 512, 1024, 2048), "os^D", strict=True):
        assert points(top, marker=marker) == rounded(
            (step, nats) for step, tokens, nats in run.held_out if tokens == window
        )
    rates = dict(zip(run.steps.tolist(), 1000 * run.rate, strict=True))
    assert all(y == round(rates[x], 4) for x, y in middle.lines[0].get_xydata().round(4))


def test_formats_have_as_many_bits_as_they_should():
    (ax,) = training.draw_formats().axes
    assert len(ax.patches) == 32 + 16 + 16


# Chapter 10


@pytest.fixture(scope="module")
def record() -> dict:
    return measured()


def test_windows_and_their_means():
    by_window = np.random.default_rng(0).gamma(2, size=(9, 2))
    (ax,) = learnt.draw_windows(by_window).axes
    assert points(ax, marker="o") == rounded(by_window[:, ::-1])
    assert points(ax, marker="D") == rounded([by_window.mean(0)[::-1]])


def test_areas_are_nats():
    kinds = {
        "a": {"share": 0.25, "order 3": 4.0, "model": 2.0},
        "b": {"share": 0.75, "order 3": 3.0, "model": 1.0},
    }
    (ax,) = learnt.draw_kinds(kinds).axes
    assert bars(ax) == [
        [0, 0, 0.25, 2], [0, 0, 0.25, 4], [0.25, 0, 0.75, 1], [0.25, 0, 0.75, 3],
    ]  # fmt: skip


def test_marks_are_as_large_as_the_weights():
    tokens = encode_midi(load_piece("bach-prelude"))[:200]
    weights = np.random.default_rng(0).gamma(1, size=(2, 200))
    weights /= weights.sum(1, keepdims=True)
    expected, now, begin = [[], []], 0.0, sum(t - 255 for t in tokens if 256 <= t < 356) / 100 - 5
    for t, token in enumerate(tokens):
        for head in range(2):
            weight = weights[head, t]
            if token < 128 and t and tokens[t - 1] >= 356:
                weight += weights[head, t - 1]
            if token < 356 and weight > 0.003 and now > begin:
                expected[head].append((now, 900 * weight))
        now += (token - 255) / 100 if 256 <= token < 356 else 0
    for ax, marks in zip(
        learnt.draw_attention(tokens, weights, 120, 5).axes, expected, strict=True
    ):
        found = [
            (x, size)
            for part in ax.collections
            for (x, _), size in zip(part.get_offsets(), part.get_sizes(), strict=True)
        ]
        assert rounded(found) == rounded(marks) and len(marks) > 20


def test_distances_are_cells_of_a_table():
    shares = np.array([[0.5, 0.25, 0.25], [0.125, 0.375, 0.5]])
    ax = learnt.draw_distances(shares, [0, 3, 9]).axes[0]
    assert np.array_equal(ax.images[0].get_array(), shares)
    assert [text.get_text() for text in ax.texts] == ["50", "25", "25", "12", "38", "50"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1–3", "4–9"]


def test_medians_and_copies(record):
    fig = learnt.draw_numbers(record["numbers"])
    for ax, name in zip(fig.axes, NUMBERS, strict=True):
        for x, player in enumerate(("real", "model", "order 3")):
            middle = sorted(record["numbers"][player][name])
            middle = (middle[(len(middle) - 1) // 2] + middle[len(middle) // 2]) / 2
            assert (x, round(middle, 4)) in points(ax, marker="os^"[x])
    (ax,) = learnt.draw_copies(record["copies"]).axes
    dots = sorted(x for x, _ in points(ax) if x != 64)
    assert dots == sorted(itertools.chain(*record["copies"].values()))


def test_bars_are_two_standard_errors(record):
    (ax,) = learnt.draw_form(record["form"]).axes
    found = errors(ax)
    rows = itertools.chain(
        *(record["form"]["likeness"][who] for who in ("real", "model", "model, every token"))
    )
    means, sizes = np.array(list(rows)).T
    assert np.allclose(found[:, [1, 3]], np.stack((means - 2 * sizes, means + 2 * sizes), 1))
    lags = PROFILE_SECONDS * np.arange(1, len(found) // 3 + 1)
    assert np.allclose(found[:, 0], np.concatenate((lags - 0.3, lags, lags + 0.3)))

    gains = {"own": {kind: (k, k / 10) for k, kind in enumerate(KINDS)}}
    found = errors(learnt.draw_contents(gains).axes[0])
    k = np.arange(4)
    assert np.allclose(found[:, [0, 2]], np.stack((0.8 * k, 1.2 * k), 1))


# Chapter 11


def test_a_higher_temperature_is_flatter_and_leaves_more_elsewhere():
    logits = torch.randn(40, generator=torch.Generator().manual_seed(0)) * 3
    (ax,) = sampling.draw_temperatures(logits, (0.5, 1.0, 2.0), most=5).axes
    for temperature, line in zip((0.5, 1.0, 2.0), ax.lines, strict=True):
        p = sorted((torch.exp(logits / temperature)).tolist(), reverse=True)
        assert np.allclose(line.get_ydata(), np.array(p[:5]) / sum(p))
        assert line.get_label() == f"T = {temperature:g}, {1 - sum(p[:5]) / sum(p):.0%} elsewhere"


def test_windows_on_their_way():
    steps = [(0, 2, 1), (0, 2, 2), (0, 3, 2), (1, 3, 2), (1, 4, 1), (1, 4, 2)]
    (ax,) = sampling.draw_walk(steps).axes
    parts = {PREFIX.color: [], LATENTS.color: []}
    for bar in ax.patches:
        color = matplotlib.colors.to_hex(bar.get_facecolor())
        parts[color].append((round(bar.get_x() + 0.5), round(bar.get_y() + 0.4)))
    rows = list(enumerate(steps))
    assert parts[PREFIX.color] == [(a + t, y) for y, (a, m, _) in rows for t in range(m)]
    assert parts[LATENTS.color] == [(a + m + t, y) for y, (a, m, l) in rows for t in range(l)]
    assert points(ax, GREY) == [(0, 3), (0, 4), (0, 5)]
    assert [text.get_text() for text in ax.texts] == [
        "latents grow", "prefix grows", "the window slides", "read again", "latents grow",
    ]  # fmt: skip


def test_no_change_is_drawn_at_the_bottom():
    (ax,) = sampling.draw_memory([1, 2, 3], {"a": [0.5, 0, 2], "b": [1, 1, 1]}, {"edge": 3}).axes
    assert ax.lines[0].get_ydata().tolist() == [0.5, 1e-13, 2]
    assert ax.lines[2].get_xdata()[0] == 2.5


def test_policies_are_compared_with_refilling():
    names = "slide less refill", "slide, renormed less refill", "refill less fresh"
    rows = [[0.0, 0.01], None, [0.3, 0.02]]
    walk = {"edges": [0, 1, 500, 1000], "difference": dict.fromkeys(names, rows)}
    (ax,) = sampling.draw_policies(walk).axes
    found = errors(ax).reshape(3, 2, 4)  # policies, bins, ends
    assert np.allclose(found[0], [[0, -0.02, 0, 0.02], [2, 0.26, 2, 0.34]])
    assert np.allclose(found[2], [[0.12, -0.02, 0.12, 0.02], [2.12, -0.34, 2.12, -0.26]])
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == ["0", "1–500", "500–1,000"]


# Chapter 12


def test_names_are_joined_with_theirs():
    rows = [("a.prefix", "z", "(2,)"), ("b", "x", "(3,)"), ("c", "y", "(4,)")]
    (ax,) = released.draw_key_map(rows, ("ours", "theirs")).axes
    at = {text.get_text(): text.get_position()[1] for text in ax.texts}
    for (own, other, _), line in zip(rows, ax.lines, strict=True):
        assert line.get_ydata().tolist() == [at[own], at[other]]
    assert at["x"] > at["y"] > at["z"]


def test_faults_are_marked_where_they_are_found():
    found = {"none": (0.0, 256, 1e-8), "norm": (0.5, 40, -0.02)}
    logits, greedy, loss = released.draw_faults(found, 256).axes
    assert points(logits, PINK, "X") == [(0.5, 0)] and points(logits, GREEN, "o") == [(0, 1)]
    assert points(greedy, marker="X") == [(40, 0)] and points(greedy, marker="o") == [(256, 1)]
    assert points(loss, marker="X") == [(0.02, 0)]


def test_prompts_are_prefix_then_latents_then_what_is_new():
    (ax,) = released.draw_prompts([("a", 100, 20, 50), ("b", 0, 8, 30)]).axes
    assert sorted(bar[0::2] for bar in bars(ax)) == [
        [0, 0], [0, 8], [0, 100], [8, 30], [100, 20], [120, 50],
    ]  # fmt: skip


# Chapter 13


def test_a_waterfall_is_bars_and_what_is_gone():
    (ax,) = speed.draw_waterfall({"a": 50, "b": 20, "c": 8}, floor=3).axes
    found = [(round(x + width / 2), low, high) for x, low, width, high in bars(ax)]
    assert sorted(found) == [(0, 0, 50), (1, 0, 20), (1, 20, 30), (2, 0, 8), (2, 8, 12)]
    assert "50 ms\n20 a second" in [text.get_text() for text in ax.texts]


def test_shares_of_a_token_add_up():
    (ax,) = speed.draw_shares({"plain": {"a": 5.0, "b": 2.5, "c": 1.0}}).axes
    assert [(x, width) for x, _, width, _ in bars(ax)] == [(0, 5), (5, 2.5), (7.5, 1)]
    assert " 8 ms" in [text.get_text() for text in ax.texts]


def test_a_roof_bends_where_memory_and_cores_are_as_fast():
    (ax,) = speed.draw_roofline(20, 100, {1: (0.5, 9), 8: (4, 60)}).axes
    assert points(ax, INK) == [(0.25, 5), (5, 100), (16, 100)]
    assert points(ax, BLUE, "o") == [(0.5, 9), (4, 60)]


def test_rates_stand_in_groups_with_their_floors():
    rates = {"one": {"x": 10.0, "y": 20.0}, "two": {"x": 30.0, "y": 40.0}}
    (ax,) = speed.draw_rates(rates, {"one": {"y": 25.0}, "two": {}}).axes
    assert [bar[3] for bar in bars(ax)] == [10, 30, 20, 40]
    (floor,) = errors(ax)
    assert np.allclose(floor, [1 - 0.2 - 0.18, 25, 1 - 0.2 + 0.18, 25])
