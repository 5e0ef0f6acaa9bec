"""Sound is measured (length, level, pitch), files are read back, pictures are looked into."""

import base64
import copy
import ctypes.util
import hashlib
import html.parser
import io
import os
import re
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pretty_midi
import pytest
import soundfile
from conftest import luminance

from tinyperceiver.sound import encoding, player, synthesis
from tinyperceiver.sound import roll as rolls

RATE = 22_050
TIMGM = Path(pretty_midi.__file__).parent / "TimGM6mb.sf2"


@pytest.fixture(autouse=True)
def fresh_lookup():
    synthesis.synthesizer.cache_clear()
    yield
    synthesis.synthesizer.cache_clear()


@pytest.fixture(params=["fluidsynth", "tinysoundfont"])
def engine(request, monkeypatch):
    """Each synthesizer in turn; the second by hiding the first's system library."""
    if request.param == "fluidsynth":
        if not ctypes.util.find_library("fluidsynth"):
            pytest.skip("libfluidsynth is not installed on this machine")
        pytest.importorskip(
            "fluidsynth", exc_type=ImportError, reason="pyfluidsynth is not installed"
        )
    else:
        pytest.importorskip(
            "tinysoundfont", exc_type=ImportError, reason="tinysoundfont is not installed"
        )
        hide_fluidsynth(monkeypatch)
    assert synthesis.synthesizer() == request.param
    return request.param


def hide_fluidsynth(monkeypatch):
    monkeypatch.delenv("HOMEBREW_PREFIX", raising=False)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    monkeypatch.setattr(synthesis, "find_library", lambda name: None)


def music(*notes, pedal=(), program=1):
    """Notes are (pitch, start, end) or (pitch, start, end, velocity); pedal (time, value)."""
    midi = pretty_midi.PrettyMIDI()
    piano = pretty_midi.Instrument(program)
    for pitch, start, end, *velocity in notes:
        piano.notes.append(pretty_midi.Note(*(velocity or [90]), pitch, 0, 1))
        piano.notes[-1].start, piano.notes[-1].end = start, end  # the constructor refuses some
    piano.control_changes = [pretty_midi.ControlChange(64, value, time) for time, value in pedal]
    midi.instruments.append(piano)
    return midi


def level(samples, start, end, rate=RATE):
    return float(np.sqrt(np.mean(np.square(samples[int(start * rate) : int(end * rate)]))))


def frequency(samples, rate=RATE):
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 4 * len(samples)))
    return spectrum.argmax() * rate / (4 * len(samples))


def silence(seconds):
    return np.zeros(round(seconds * RATE), np.float32)


def test_length_level_and_silence(engine):
    samples = synthesis.render(music((60, 0, 1), (64, 3, 4)), RATE)
    assert samples.dtype == np.float32 and samples.shape == (5 * RATE,)
    assert np.abs(samples).max() == pytest.approx(10 ** (-1 / 20), rel=1e-5)
    assert level(samples, 3, 4) > 0.02
    assert level(samples, 2.5, 2.95) < level(samples, 3, 4) / 50  # between the notes
    assert abs(samples[-1]) < 1e-6


@pytest.mark.parametrize("rate", [22_050, 44_100])
def test_pitch_of_a4(engine, rate):
    samples = synthesis.render(music((69, 0, 2)), rate)
    assert frequency(samples[: 2 * rate], rate) == pytest.approx(440, abs=2)


def test_louder_notes_are_louder(engine):
    samples = synthesis.render(music((60, 0, 1, 40), (60, 2, 3, 110)), RATE)
    assert level(samples, 2, 3) > 2 * level(samples, 0, 1)


def test_pedal_holds_a_note_until_it_is_lifted(engine):
    dry = synthesis.render(music((48, 0, 0.5), (90, 5, 5.1)), RATE)
    held = synthesis.render(music((48, 0, 0.5), (90, 5, 5.1), pedal=[(0.2, 127), (3, 0)]), RATE)
    assert level(held, 2, 2.9) > 20 * level(dry, 2, 2.9)
    assert level(held, 4.2, 4.9) < level(held, 2, 2.9) / 20


def test_pedal_pressed_at_the_end_of_a_note_comes_too_late():
    assert synthesis._sounding_notes(
        music((60, 0, 1), pedal=[(1, 127), (3, 0)]).instruments[0]
    ) == [(0, 1, 60, 90)]


def test_sounding_notes_end_with_the_pedal_or_the_next_stroke():
    part = music((60, 0, 1), (60, 2, 2.5), (62, 0, 1), pedal=[(0.5, 64), (4, 63)]).instruments[0]
    assert sorted(synthesis._sounding_notes(part)) == [
        (0, 2, 60, 90),
        (0, 4, 62, 90),
        (2, 4, 60, 90),
    ]


def test_pedal_never_lifted_ends_with_the_last_note():
    assert len(synthesis.render(music((60, 0, 1), (64, 1, 2), pedal=[(0, 127)]), RATE)) == 3 * RATE


def test_overlapping_repeats_and_zero_lengths_leave_no_note_hanging(engine):
    midi = music((60, 0, 2), (60, 1, 3), (64, 1, 1), (60, 1, 2), (100, 7, 7.1, 20))
    samples = synthesis.render(midi, RATE)
    assert level(samples, 2, 2.9) > 0.005  # the second stroke lasts to its own end
    assert level(samples, 5, 6.9) < 1e-4


def test_all_instruments_are_heard(engine):
    midi = music((69, 0, 2))
    midi.instruments.append(pretty_midi.Instrument(0, is_drum=True))
    midi.instruments[1].notes.append(pretty_midi.Note(120, 38, 3, 3.2))
    bent = pretty_midi.Instrument(1)
    bent.notes.append(pretty_midi.Note(100, 69, 5, 7))
    bent.pitch_bends.append(pretty_midi.PitchBend(8191, 4.5))  # two semitones up: B4
    bent.control_changes.append(pretty_midi.ControlChange(7, 100, 4))
    midi.instruments.append(bent)
    samples = synthesis.render(midi, RATE)
    assert frequency(samples[: 2 * RATE]) == pytest.approx(440, abs=2)
    assert level(samples, 3, 3.3) > 0.01
    assert frequency(samples[5 * RATE : 7 * RATE]) == pytest.approx(493.9, abs=2)


def test_same_input_same_samples_here_and_in_another_process(engine, tmp_path):
    chord = music((60, 0, 1), (64, 0.1, 1), (67, 0.2, 1), pedal=[(0, 127), (1.5, 0)])
    first, second = synthesis.render(chord, RATE), synthesis.render(chord, RATE)
    assert first.tobytes() == second.tobytes()
    chord.write(str(tmp_path / "chord.mid"))
    script = (
        "import ctypes.util, hashlib, sys\n"
        f"if {engine == 'tinysoundfont'}: ctypes.util.find_library = lambda name: None\n"
        "import pretty_midi\n"
        "from tinyperceiver.sound import encoding, synthesis\n"
        "midi = pretty_midi.PrettyMIDI(sys.argv[1])\n"
        f"assert synthesis.synthesizer() == '{engine}'\n"
        "print(hashlib.sha256(encoding.mp3_bytes(midi)).hexdigest())\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HOMEBREW_PREFIX"}
    environment |= {"CI": "true", "PYTHONPATH": str(Path(synthesis.__file__).parents[2])}
    answer = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "chord.mid")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    midi = pretty_midi.PrettyMIDI(str(tmp_path / "chord.mid"))
    expected = hashlib.sha256(encoding.mp3_bytes(midi)).hexdigest()
    assert answer.stdout.split()[-1] == expected
    assert answer.stderr == ""  # a synthesizer's warnings would stand in a notebook


def test_rendering_prints_nothing(engine, capfd):
    synthesis.render(music((60, 0, 0.1)), RATE)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("midi", [pretty_midi.PrettyMIDI(), music(), music((60, 1, 1))])
def test_no_notes_no_samples(midi):
    samples = synthesis.render(midi)
    assert samples.shape == (0,) and samples.dtype == np.float32
    assert encoding.mp3_bytes(midi) == b""
    with wave.open(io.BytesIO(encoding.wav_bytes(midi))) as file:
        assert file.getnframes() == 0
    page = player.play(midi).data
    assert "no notes" in page and "<audio" not in page


def test_notes_of_velocity_zero_are_silent_and_not_divided_by(engine):
    samples = synthesis.render(music((60, 0, 1, 0)), RATE)
    assert samples.shape == (2 * RATE,) and not samples.any()


def test_nothing_changes_the_callers_midi():
    midi = music((64, 2, 3), (60, 0, 1), pedal=[(2.5, 127), (0.5, 127), (3, 0)])
    before = copy.deepcopy(midi)
    player.play(midi, split=1)
    rolls.piano_roll(midi)
    for name in ("notes", "control_changes"):
        kept = [vars(event) for event in getattr(midi.instruments[0], name)]
        assert kept == [vars(event) for event in getattr(before.instruments[0], name)]


def test_piano_only_sound_font_plays_every_program(engine, tmp_path):
    data = bytearray(TIMGM.read_bytes())
    start = data.index(b"phdr") + 8
    size = int.from_bytes(data[start - 4 : start], "little")
    for record in range(start, start + size - 38, 38):  # all presets but one into bank 7
        preset = int.from_bytes(data[record + 20 : record + 22], "little")
        if preset or data[record + 22]:
            data[record + 22 : record + 24] = (7).to_bytes(2, "little")
    path = tmp_path / "piano.sf2"
    path.write_bytes(data)
    samples = synthesis.render(music((69, 0, 2), program=1), RATE, path)
    assert frequency(samples[: 2 * RATE]) == pytest.approx(440, abs=2)
    grand = synthesis.render(music((69, 0, 2), program=0), RATE, path)
    assert np.array_equal(samples, grand)


def test_without_ipython_a_player_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(ImportError, match=r"tinyperceiver\[notebook\].*mp3_bytes\(midi\)"):
        player.play(music((60, 0, 1)))


def test_bad_sound_fonts_are_named(engine, tmp_path):
    midi, missing, text = music((60, 0, 1)), tmp_path / "none.sf2", tmp_path / "text.sf2"
    with pytest.raises(OSError, match=re.escape(str(missing))):
        synthesis.render(midi, soundfont=missing)
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        synthesis.render(midi, soundfont=str(tmp_path))
    text.write_bytes(b"RIFF....WAVEfmt ")
    with pytest.raises(ValueError, match=r"text\.sf2 is not a sound font"):
        synthesis.render(midi, soundfont=text)
    cut = tmp_path / "cut.sf2"
    cut.write_bytes(TIMGM.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"cut\.sf2 is cut off: 100000 of 59\d{5} bytes"):
        synthesis.render(midi, soundfont=cut)
    hollow = tmp_path / "hollow.sf2"
    hollow.write_bytes(b"RIFF" + (100).to_bytes(4, "little") + b"sfbk" + bytes(96))
    with pytest.raises(ValueError, match=r"cannot read the sound font .*hollow\.sf2"):
        synthesis.render(midi, soundfont=hollow)


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ((60, 0, 7201), "cut longer music"),
        ((60, -1, 1), "0 s or later"),
        ((60, 2, 1), "no earlier than they start"),
        ((60, float("nan"), 1), "start=nan"),
        ((128, 0, 1), "pitch=128"),
        ((60, 0, 1, 200), "velocity=200"),
    ],
)
def test_bad_notes_are_named(note, message):
    with pytest.raises(ValueError, match=message):
        synthesis.render(music(note))


@pytest.mark.parametrize("rate", [0, 7999, 96_001, 44_100.5])
def test_bad_sample_rates_are_named(rate):
    with pytest.raises(ValueError, match=f"sample_rate .*{rate}"):
        synthesis.render(music((60, 0, 1)), rate)


def test_without_synthesizer_the_error_says_how_to_get_one(monkeypatch):
    hide_fluidsynth(monkeypatch)
    monkeypatch.setitem(sys.modules, "tinysoundfont", None)
    with pytest.raises(synthesis.SynthesizerNotFoundError) as error:
        synthesis.render(music((60, 0, 1)))
    for command in ("apt-get install -y libfluidsynth3", "pip install --no-deps tinysoundfont"):
        assert command in str(error.value)


def test_library_that_does_not_load_is_as_good_as_none(monkeypatch):
    pytest.importorskip(
        "tinysoundfont", exc_type=ImportError, reason="tinysoundfont is not installed"
    )
    monkeypatch.setattr(synthesis, "find_library", lambda name: "libfluidsynth.so.3")
    monkeypatch.setitem(sys.modules, "fluidsynth", None)
    assert synthesis.synthesizer() == "tinysoundfont"


def test_wav_is_read_back():
    tone = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000).astype(np.float32) * 2
    with wave.open(io.BytesIO(encoding.wav_bytes(tone, 8000))) as file:
        assert file.getparams()[:4] == (1, 2, 8000, 8000)
        frames = np.frombuffer(file.readframes(8000), "<i2")
    assert np.abs(frames - np.clip(tone, -1, 1) * 32_767).max() <= 0.5
    with wave.open(io.BytesIO(encoding.wav_bytes(music((60, 0, 1))))) as file:
        assert (file.getframerate(), file.getnframes()) == (44_100, 88_200)


def test_mp3_is_read_back_and_small():
    chords = [(p, t, t + 1) for t in range(20) for p in (40 + t, 64, 67, 72)]
    samples = synthesis.render(music(*chords), RATE)
    mp3 = encoding.mp3_bytes(samples)
    decoded, rate = soundfile.read(io.BytesIO(mp3))
    assert rate == RATE and len(decoded) == len(samples) == 21 * RATE
    assert np.corrcoef(decoded, samples)[0, 1] > 0.98
    assert 30_000 < 8 * len(mp3) / 21 < 50_000  # bit/s
    assert mp3 == encoding.mp3_bytes(music(*chords))


def test_long_mp3_is_written():
    info = soundfile.info(io.BytesIO(encoding.mp3_bytes(np.zeros(600 * 8000, np.float32), 8000)))
    assert info.duration == pytest.approx(600, abs=0.1)


@pytest.mark.parametrize("encode", [encoding.wav_bytes, encoding.mp3_bytes])
@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, 9), np.float32), r"shape \(2, 9\)"),
        (np.zeros(9, np.int16), "int16"),
        (np.array([0, np.nan]), "not finite"),
    ],
)
def test_bad_samples_are_named(encode, samples, message):
    with pytest.raises(ValueError, match=message):
        encode(samples)


def test_bad_rates_of_samples_are_named():
    with pytest.raises(ValueError, match="not 30000"):
        encoding.mp3_bytes(silence(1), 30_000)
    with pytest.raises(ValueError, match="not 0"):
        encoding.wav_bytes(silence(1), 0)


class Page(html.parser.HTMLParser):
    """Checks that tags are balanced and keeps their attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.append((tag, dict(attributes)))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def one(self, tag):
        (attributes,) = (attributes for name, attributes in self.tags if name == tag)
        return attributes


def test_player_holds_its_sound_and_describes_its_picture(engine):
    midi = music((60, 0, 1, 30), (76, 1, 2, 99), (61, 2, 4), pedal=[(0.5, 127), (1.5, 0)])
    page = player.play(midi, title='A "<b>title</b>"', split=1.5).data
    tags = Page(page)
    kind, _, data = tags.one("audio")["src"].partition(";base64,")
    assert kind == "data:audio/mpeg"
    decoded, rate = soundfile.read(io.BytesIO(base64.b64decode(data, validate=True)))
    assert len(decoded) / rate == pytest.approx(5.0, abs=0.01) and np.abs(decoded).max() > 0.3
    assert tags.one("audio")["aria-label"] == 'A "<b>title</b>"' and "<b>" not in page
    text = tags.one("svg")["aria-label"]
    for fact in ("3 notes", "C4 to E5", "4.0 seconds", "30 to 99", "pressed 1 times", "1 notes"):
        assert fact in text
    assert f"sound: {engine}, TimGM6mb.sf2" in page and "continuation from 1.5 s" in page
    assert "<script" not in page and "://" not in page


def test_player_draws_each_note_where_it_sounds():
    page = Page(player.play(music((60, 0, 1), (72, 2, 4)), split=2).data)
    bars = {
        attributes["stroke"]: re.fullmatch(r"M(\d+) (\d+)H(\d+)", attributes["d"]).groups()
        for tag, attributes in page.tags
        if tag == "path" and attributes["stroke"].startswith("#")
    }
    (left, low, right), (left2, high, right2) = (
        map(int, bars[color]) for color in (rolls.ORANGE, rolls.BLUE)
    )
    assert (left, left2) == (0, 2000) and right == pytest.approx(1000, abs=10)
    assert right2 == pytest.approx(4000, abs=10)
    assert low - high == 12 * 10  # an octave of ten units a semitone, upwards


def test_player_of_a_long_piece_is_small():
    steps = [(40 + i % 50, i / 8, i / 8 + 0.2, 40 + i % 80) for i in range(2000)]
    roll = player._svg_roll(rolls.roll_of(music(*steps), None))
    assert len(roll) < 60_000 and roll.count('aria-hidden="true"') <= 6 + 5


def test_piano_roll_shows_notes_pedal_and_split():
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    midi = music((60, 0, 1, 127), (62, 2, 4, 0), pedal=[(0, 127), (1, 0)])
    assert rolls.piano_roll(midi, ax, split=2) is ax
    notes = next(c for c in ax.collections if c.get_zorder() == 2)
    boxes = [path.get_extents() for path in notes.get_paths()]
    assert [round(box.x0, 2) for box in boxes] == [0, 2]
    assert [round((box.y0 + box.y1) / 2) for box in boxes] == [60, 62]
    loud, soft = notes.get_facecolors()
    assert loud[3] == 1 and soft[3] == pytest.approx(0.4)  # velocity is density
    assert tuple(loud[:3]) == matplotlib.colors.to_rgb(rolls.ORANGE)
    assert tuple(soft[:3]) == matplotlib.colors.to_rgb(rolls.BLUE)
    labels = {label.get_text(): label.get_position()[1] for label in ax.get_yticklabels()}
    assert labels["C4"] == 60 and labels["pedal"] < 60
    assert ax.get_xlabel() == "time (seconds)" and ax.get_xlim() == (0, 4)
    plt.close("all")


def test_piano_roll_makes_its_own_axes_and_copes_without_notes():
    import matplotlib.pyplot as plt

    ax = rolls.piano_roll(pretty_midi.PrettyMIDI())
    assert [text.get_text() for text in ax.texts] == ["no notes"]
    plt.close("all")


def test_colours_are_told_from_white_from_black_and_in_grey():
    """WCAG 2.2, 1.4.11 asks 3:1 of graphics against what is beside them."""
    blue, orange = luminance(rolls.BLUE), luminance(rolls.ORANGE)
    for shade in (blue, orange):
        assert 1.05 / (shade + 0.05) > 3 and (shade + 0.05) / (luminance("#14181e") + 0.05) > 3
    assert (orange + 0.05) / (blue + 0.05) > 1.3


@pytest.mark.parametrize("split", [-1, float("nan"), float("inf")])
def test_bad_splits_are_named(split):
    with pytest.raises(ValueError, match=f"split .* not {split}"):
        rolls.piano_roll(music((60, 0, 1)), split=split)


def test_import_stays_light():
    script = (
        "import sys, tinyperceiver.sound.player\n"
        "heavy = {'pretty_midi', 'matplotlib', 'soundfile', 'fluidsynth', 'IPython'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(synthesis.__file__).parents[2])}
    answer = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
