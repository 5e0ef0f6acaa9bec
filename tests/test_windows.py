"""Token files and the windows drawn from them."""

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyperceiver.dataset.token_file import DataError, TokenFile
from tinyperceiver.dataset.windows import (
    IGNORED,
    Windows,
    fixed_windows,
    targets_without_replacement,
    transform,
)
from tinyperceiver.model.config import PerceiverConfig
from tinyperceiver.music.tokenizer import decode_midi
from tinyperceiver.music.vocabulary import PAD, TIME_SHIFT


def write(path, pieces) -> TokenFile:
    np.concatenate([[*piece, -1] for piece in pieces]).astype("<i2").tofile(path)
    return TokenFile(path)


@pytest.fixture
def pieces() -> list[np.ndarray]:
    """Ids 0 ... 387; the piece and the place of a token can be told from it and the next."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 388, length) for length in (40, 7, 100, 3, 25)]


@pytest.fixture
def data(tmp_path, pieces) -> TokenFile:
    return write(tmp_path / "train.bin", pieces)


def places_of(data: TokenFile) -> dict[tuple[int, ...], tuple[int, int]]:
    """Three tokens in a row -> piece and place of the first."""
    return {
        tuple(piece[i : i + 3].tolist()): (p, i)
        for p, piece in enumerate(data)
        for i in range(len(piece) - 2)
    }


def test_a_token_file_gives_its_pieces(data, pieces):
    assert len(data) == 5
    assert data.lengths.tolist() == [40, 7, 100, 3, 25]
    for ours, piece in zip(data, pieces, strict=True):
        assert ours.tolist() == piece.tolist()
        assert ours.base is not None, "a view, not a copy"


def test_an_empty_piece_is_a_piece(tmp_path):
    data = write(tmp_path / "x.bin", [[], [1, 2], []])
    assert [piece.tolist() for piece in data] == [[], [1, 2], []]


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "does not exist; tinyperceiver prepare"),
        (b"", "empty"),
        (b"\1\0\2\0\3", "multiple|size|buffer"),
        (np.array([1, 2], "<i2").tobytes(), "does not end with -1"),
        (np.array([1, 390, -1], "<i2").tobytes(), "holds 390"),
        (np.array([1, -2, -1], "<i2").tobytes(), "holds -2"),
        (np.array([1, 2, -1], ">i2").tobytes(), "holds 512"),
    ],
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "tokens.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        TokenFile(path)
    assert str(path) in str(error.value)


def test_another_process_maps_the_file_itself(data):
    sent = pickle.dumps(data)
    assert len(sent) < 1000
    assert [x.tolist() for x in pickle.loads(sent)] == [x.tolist() for x in data]


def test_rows_are_windows_of_one_piece_with_their_targets(data):
    windows, places = Windows(data, 8, 12), places_of(data)
    for step in range(200):
        tokens, targets, pad_mask, m = windows[step, range(4)]
        assert tokens.shape == (4, m + 8) and targets.shape == (4, 8)
        for row in range(4):
            pads = 0 if pad_mask is None else int(pad_mask[row].sum())
            assert pads <= m, "no padding on the left among the latents"
            assert (tokens[row, :pads] == PAD).all()
            real = tokens[row, pads:]
            real = real[real != PAD].tolist()
            count = int((targets[row] != IGNORED).sum())
            assert count >= 1
            # The last input has a target, too: it is one place on.
            whole = [*real, targets[row, count - 1].item()]
            assert targets[row, :count].tolist() == whole[-count:]
            piece, start = places[tuple(whole[:3])]
            assert data[piece][start : start + len(whole)].tolist() == whole
            if pads or count < 8:
                assert start == 0 and len(whole) == data.lengths[piece], "all of a short one"


def test_padding_is_in_the_vocabulary_of_the_model(tmp_path):
    """A vocabulary without padding has 388 tokens, 0 to 387: its table has no row 388."""
    data = write(tmp_path / "x.bin", [[5, 6, 7]])
    for vocab_size, padding in ((390, PAD), (389, PAD), (388, 387), (40, 39)):
        config = PerceiverConfig(vocab_size=vocab_size)
        batch = Windows(data, 4, 0, padding=config.padding)[0, range(1)]
        assert batch.tokens.tolist() == [[5, 6, padding, padding]]


def test_short_pieces_are_filled_on_the_right_and_ignored(tmp_path):
    data = write(tmp_path / "x.bin", [[5, 6, 7]])
    tokens, targets, pad_mask, m = Windows(data, 4, 0)[0, range(1)]
    assert (m, pad_mask) == (0, None)
    assert tokens.tolist() == [[5, 6, PAD, PAD]]
    assert targets.tolist() == [[6, 7, IGNORED, IGNORED]]
    tokens, targets, pad_mask, m = next(
        b for b in (Windows(data, 1, 3)[i, range(1)] for i in range(99)) if b.prefix_len == 3
    )
    assert tokens.tolist() == [[PAD, PAD, 5, 6]]
    assert targets.tolist() == [[7]]
    assert pad_mask.tolist() == [[True, True, False, False]]


def test_every_place_is_as_likely_as_any_other(tmp_path):
    lengths = (30, 60, 13, 12)  # 20, 50, 3 and 2 windows of 8 tokens and the next two
    rng = np.random.default_rng(1)
    data = write(tmp_path / "x.bin", [rng.integers(0, 388, k) for k in lengths])
    places = places_of(data)
    windows = Windows(data, 10, 0)
    found = Counter(
        places[tuple(tokens[:3].tolist())] for tokens in windows[0, range(30_000)].tokens
    )
    assert len(found) == 20 + 50 + 3 + 2
    assert min(found.values()) > 300 and max(found.values()) < 500  # 400 expected, sd 20


def test_prefix_lengths_are_drawn_from_all_up_to_the_longest(data):
    drawn = Counter(Windows(data, 2, 5)[step, range(1)].prefix_len for step in range(600))
    assert sorted(drawn) == [0, 1, 2, 3, 4, 5]
    assert min(drawn.values()) > 60


@pytest.mark.parametrize("replacement", [True, False])
def test_a_row_depends_on_seed_step_and_row_alone(data, replacement):
    def windows_of(seed):
        if replacement:
            return Windows(data, 8, 12, seed=seed, transpose=3, stretch=0.1)
        targets = targets_without_replacement(data, [(9, 6, 8)], seed=seed)
        return Windows(data, 8, 12, seed=seed, transpose=3, targets=targets)

    windows = windows_of(0)
    whole = windows[7, range(6)]
    again = windows_of(0)[7, range(6)]
    assert torch.equal(whole.tokens, again.tokens) and torch.equal(whole.targets, again.targets)
    for rows in (range(0, 3), range(3, 6), range(5, 6)):
        part = windows[7, rows]
        assert part.prefix_len == whole.prefix_len, "one length for all processes"
        assert torch.equal(part.tokens, whole.tokens[rows.start : rows.stop])
        assert torch.equal(part.targets, whole.targets[rows.start : rows.stop])
    others = [windows[8, range(6)], windows_of(1)[7, range(6)]]
    for other in others:
        assert not torch.equal(other.targets, whole.targets)


def test_nothing_to_draw_from_is_refused(tmp_path):
    nothing = write(tmp_path / "x.bin", [[1], []])
    for draw in (
        lambda: Windows(nothing, 4, 0),
        lambda: targets_without_replacement(nothing, [(1, 1, 4)]),
    ):
        with pytest.raises(DataError, match=r"x\.bin has no piece of two tokens"):
            draw()


LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(lambda x: max(x) > 1)


def all_targets(data: TokenFile) -> set[tuple[int, int]]:
    """Piece and place of each token that has another before it."""
    return {(p, i) for p, length in enumerate(data.lengths) for i in range(1, length)}


def targets_of(found: list[np.ndarray]) -> list[tuple[int, int]]:
    return [(p, i) for rows in found for p, first, end in rows for i in range(first, end)]


@given(LENGTHS, st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**40))
@settings(max_examples=100, deadline=None)
def test_an_epoch_holds_each_target_once(tmp_path_factory, lengths, num_latents, rows, seed):
    path = tmp_path_factory.mktemp("tokens") / "x.bin"
    data = write(path, [[1] * length for length in lengths])
    every = all_targets(data)
    found = targets_without_replacement(data, [(2 * len(every), rows, num_latents)], seed=seed)
    assert [len(step) for step in found] == [rows] * (2 * len(every))
    sizes = np.diff(np.concatenate(found)[:, 1:])
    assert sizes.min() >= 1 and sizes.max() <= num_latents
    targets = targets_of(found)
    for begin in (0, len(every)):
        epoch = targets[begin : begin + len(every)]
        assert len(epoch) == len(every) and set(epoch) == every


@given(LENGTHS, st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_a_change_of_stage_repeats_nothing_and_skips_little(
    tmp_path_factory, lengths, num_latents, group
):
    path = tmp_path_factory.mktemp("tokens") / "x.bin"
    data = write(path, [[1] * length for length in lengths])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinyperceiver.dataset.windows.GROUP", group)
        stages = [(5, 2, latents) for latents in (*num_latents, 1)]
        stages[-1] = len(all_targets(data)), 2, 1  # into the second epoch
        found = targets_without_replacement(data, stages)
    targets = targets_of(found)
    repeated = next(i for i, target in enumerate(targets) if target in targets[:i])
    assert repeated >= len(all_targets(data)) - len(num_latents) * group * max(num_latents)
    targets_of_stages = [targets_of(found[i : i + 5]) for i in range(0, len(found), 5)]
    assert all(targets_of_stages), "each step has targets"


def test_the_windows_of_a_batch_are_of_different_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("tinyperceiver.dataset.windows.GROUP", 32)
    data = write(tmp_path / "x.bin", [[1] * (32 * blocks + 1) for blocks in (70, 30, 28)])
    # The second stage's blocks are as long as the first's, of two windows each.
    found = targets_without_replacement(data, [(2, 16, 32), (12, 16, 16)])
    blocks = [{(p, (first - 1) // 32) for p, first, _ in rows} for rows in found]
    assert [len(batch) for batch in blocks] == [16] * 14
    assert blocks[2:4] == blocks[4:6], "their second halves come soon"
    assert not (blocks[0] | blocks[1]) & set().union(*blocks[2:])


def test_windows_predict_the_targets_they_are_told(data):
    found = targets_without_replacement(data, [(60, 3, 8), (30, 3, 16)])
    for begin, end, num_latents in ((0, 60, 8), (60, 90, 16)):
        windows = Windows(data, num_latents, 12, targets=found)
        for step in range(begin, end):
            batch = windows[step, range(3)]
            m, n = batch.prefix_len, batch.prefix_len + num_latents
            for row, (p, first, last) in enumerate(found[step]):
                piece = data[p].tolist()
                pads = 0 if batch.pad_mask is None else int(batch.pad_mask[row].sum())
                whole = piece[max(last - 1 - n, 0) : last - 1]
                assert batch.tokens[row, pads : pads + len(whole)].tolist() == whole
                assert (batch.tokens[row, :pads] == PAD).all() and pads <= m
                assert (batch.tokens[row, pads + len(whole) :] == PAD).all()
                targets = batch.targets[row]
                assert targets[targets != IGNORED].tolist() == piece[first:last]
                # The input below each target is the token before it.
                inputs = batch.tokens[row, m:][targets != IGNORED]
                assert inputs.tolist() == piece[first - 1 : last - 1]


def test_the_order_of_targets_depends_on_the_seed_alone(data):
    stages = [(20, 3, 8)]
    first, again, other = (targets_without_replacement(data, stages, seed=s) for s in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert not all((a == b).all() for a, b in zip(first, other, strict=True))
    # What comes later does not change what came before.
    longer = targets_without_replacement(data, [(20, 3, 8), (9, 1, 4)], seed=0)
    assert all((a == b).all() for a, b in zip(first, longer, strict=False))


def test_a_batch_can_be_split(data):
    batch = next(
        b for b in (Windows(data, 8, 40)[i, range(5)] for i in range(99)) if b.pad_mask is not None
    )
    parts = batch.split(2)
    assert [len(part.tokens) for part in parts] == [2, 2, 1]
    for name in ("tokens", "targets", "pad_mask"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(joined, getattr(batch, name))
    assert {part.prefix_len for part in parts} == {batch.prefix_len}
    assert Windows(data, 2, 0)[0, range(2)].split(1)[1].pad_mask is None


def test_fixed_windows_are_spread_evenly_and_stay(data, pieces):
    batch = fixed_windows(data, 4, 6, 4)
    # Windows of 11 begin at 0, 4, ..., 28 of the first, ... 88 of the third, ... 12 of the last.
    starts = [(0, i) for i in range(0, 30, 4)]
    starts += [(2, i) for i in range(0, 90, 4)] + [(4, i) for i in range(0, 15, 4)]
    chosen = [starts[i * len(starts) // 4] for i in range(4)]
    expected = np.stack([pieces[p][i : i + 11] for p, i in chosen])
    assert batch.tokens.tolist() == expected[:, :-1].tolist()
    assert batch.targets.tolist() == expected[:, -4:].tolist()
    assert batch.pad_mask is None and batch.prefix_len == 6
    with pytest.raises(DataError, match="has 2 windows of 61 tokens, 20 apart, not 4"):
        fixed_windows(data, 4, 40, 20)


NOTE = st.integers(21, 108)
EVENT = st.one_of(NOTE, NOTE.map(lambda p: p + 128), st.integers(256, 387))


@given(st.lists(EVENT, max_size=60), st.integers(-20, 20))
@settings(max_examples=200, deadline=None)
def test_transposition_moves_all_notes_alike_and_keeps_them_on_the_piano(tokens, semitones):
    tokens = np.array(tokens, dtype=np.int64)
    moved = transform(tokens, semitones, 1.0)
    difference = moved - tokens
    is_key = tokens < 256
    assert (difference[~is_key] == 0).all()
    by = set(difference[is_key].tolist())
    assert len(by) <= 1
    assert ((moved[is_key] % 128 >= 21) & (moved[is_key] % 128 <= 108)).all()
    assert (moved[is_key] < 128).tolist() == (tokens[is_key] < 128).tolist()
    for step in by - {semitones}:
        pitches = tokens[is_key] % 128
        edge = 108 - pitches.max() if semitones > 0 else 21 - pitches.min()
        assert step == edge, "as far as there are keys"


@given(st.lists(EVENT, max_size=60), st.floats(0.5, 2))
@settings(max_examples=200, deadline=None)
def test_stretching_rounds_where_events_stand(tokens, factor):
    tokens = np.array(tokens, dtype=np.int64)
    stretched = transform(tokens, 0, factor)

    def events(ids):
        is_shift = (ids >= 256) & (ids < 356)
        time = np.cumsum(np.where(is_shift, ids - TIME_SHIFT + 1, 0))
        return ids[~is_shift], time[~is_shift]

    before, time = events(tokens)
    after, moved = events(stretched)
    assert before.tolist() == after.tolist()
    assert np.abs(moved - time * factor).max(initial=0) <= 0.5

    # Of the wait at the end, which may go on behind the window, nothing but whole seconds.
    last = np.flatnonzero((stretched < 256) | (stretched >= 356)).max(initial=-1)
    total = (tokens[(tokens >= 256) & (tokens < 356)] - TIME_SHIFT + 1).sum()
    if factor != 1:
        assert (stretched[last + 1 :] == 355).all()
        wait = round(total * factor) - moved[-1] if len(moved) else round(total * factor)
        assert len(stretched) - last - 1 == wait // 100


def test_stretched_silence_stays_long_enough_to_learn_from(tmp_path):
    """A window can be all silence: three minutes of it, or five short waits in a row."""
    silence = write(tmp_path / "silence.bin", [[60, *[355] * 180, 188]])
    windows = Windows(silence, 64, 64, stretch=0.05)
    for step in range(50):
        assert (windows[step, range(4)].targets != IGNORED).any(axis=1).all()
    short = write(tmp_path / "short.bin", [[256] * 5])
    for step in range(20):
        batch = Windows(short, 4, 0, stretch=0.05)[step, range(1)]
        assert set(batch.tokens.unique().tolist()) <= {PAD, 256, 355}


def test_a_window_may_be_transformed_and_is_still_music(data_folder_tokens):
    windows = Windows(data_folder_tokens, 32, 32, transpose=6, stretch=0.1)
    for step in range(5):
        batch = windows[step, range(4)]
        assert (batch.targets != IGNORED).all(), "latents are full"
        for row in batch.tokens:
            assert decode_midi(row[row != PAD].numpy()) is not None


@pytest.fixture
def data_folder_tokens(tmp_path) -> TokenFile:
    from tinyperceiver import encode_midi, load_piece

    return write(tmp_path / "x.bin", [encode_midi(load_piece("bach-prelude"))])
