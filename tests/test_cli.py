"""The command line as its user meets it: files, exit codes, errors of one line."""

import ast
import errno
import json
import os
import re
import stat
import subprocess
import sys
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pretty_midi
import pytest
import soundfile
import torch
from conftest import GOLDEN, PATIENCE, REFERENCE
from typer.testing import CliRunner

import tinyperceiver
from tinyperceiver.checkpoints.folder import CheckpointError
from tinyperceiver.checkpoints.pretrained import from_pretrained
from tinyperceiver.cli import main as cli
from tinyperceiver.dataset.token_file import TokenFile
from tinyperceiver.model.config import PerceiverConfig
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.music.midi import read_midi
from tinyperceiver.music.tokenizer import decode_midi, encode_midi, encode_performance
from tinyperceiver.sound import synthesis
from tinyperceiver.sound.synthesis import RenderError, SoundFontError
from tinyperceiver.training import evaluate

ROOT = Path(__file__).parent.parent
HUB = str(REFERENCE / "hub")
COMMANDS = ("generate", "render", "convert", "export")


def write_melody(path: Path, *pitches: int) -> Path:
    midi = pretty_midi.PrettyMIDI()
    piano = pretty_midi.Instrument(program=0)
    for i, pitch in enumerate(pitches):
        piano.notes.append(pretty_midi.Note(80, pitch, 0.25 * i, 0.25 * i + 0.2))
    midi.instruments.append(piano)
    midi.write(str(path))
    return path


def notes_of(path: Path) -> list[tuple]:
    midi = read_midi(path)
    return [
        (note.pitch, note.velocity, round(note.start, 2), round(note.end, 2))
        for instrument in midi.instruments
        for note in instrument.notes
    ]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The user's folder, with a prompt in it; commands run there."""
    monkeypatch.chdir(tmp_path)
    write_melody(tmp_path / "prompt.mid", 60, 64, 67, 72, 76)
    return tmp_path


@pytest.fixture
def run(monkeypatch, capfd):
    """Run the command line in this process: exit code, standard output, standard error."""

    def run_here(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tinyperceiver", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        out, err = capfd.readouterr()
        code = exit_.value.code
        if isinstance(code, str):  # what the interpreter makes of it on leaving
            code, err = 1, err + code + "\n"
        return code or 0, out, err

    return run_here


def run_apart(folder: Path, *arguments) -> subprocess.CompletedProcess:
    """The same in a process of its own, as the installed script runs it."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from tinyperceiver.cli.main import main; main()",
            *map(str, arguments),
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


# Generate

SEEDED = ("--max-new-tokens", 40, "--seed", 1, "--num-latents", 1, "--checkpoint", HUB)


def test_generate_in_a_process_of_its_own(folder, run):
    result = run_apart(
        folder, "generate", "prompt.mid", "-o", "out.mid", "--wav", "out.wav", *SEEDED
    )
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"out\.mid: [\d.]+ s, 40 new tokens, seed 1\n", result.stdout)
    assert "40/40" not in result.stderr  # a bar is for terminals, and this may be a log
    with wave.open("out.wav") as file:
        assert file.getframerate() == 44_100
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert np.abs(samples.astype(int)).max() > 10_000
    # The same seed gives the same bytes, here and there.
    code, _, _ = run("generate", "prompt.mid", "-o", "again.mid", "--wav", "again.wav", *SEEDED)
    assert code == 0
    assert Path("again.mid").read_bytes() == Path("out.mid").read_bytes()
    assert Path("again.wav").read_bytes() == Path("out.wav").read_bytes()


def test_generate_is_the_models_continuation(folder, run):
    code, _, _ = run("generate", "prompt.mid", "-o", "out.mid", *SEEDED)
    assert code == 0
    tokens = encode_midi(read_midi("prompt.mid"))
    output = from_pretrained(PerceiverAR, HUB).generate(
        torch.tensor([tokens]),
        max_new_tokens=40,
        do_sample=True,
        top_p=0.95,
        generator=torch.Generator().manual_seed(1),
    )[0]
    decode_midi(output).write("expected.mid")
    loud = [token for token in tokens if 356 <= token < 388][-1]
    decode_midi([loud, *output[len(tokens) :]]).write("expected-new.mid")
    assert notes_of("out.mid") == notes_of("expected.mid")
    assert Path("out.mid").read_bytes() == Path("expected.mid").read_bytes()
    code, _, _ = run("generate", "prompt.mid", "-o", "new.mid", "--only-new", *SEEDED)
    assert code == 0
    assert Path("new.mid").read_bytes() == Path("expected-new.mid").read_bytes()
    assert notes_of("new.mid") != notes_of("out.mid")


def test_shipped_checkpoint_is_the_default(folder, run):
    code, out, _ = run("generate", "prompt.mid", "-o", "out.mid", "--max-new-tokens", 30)
    assert code == 0
    decode_midi(encode_midi(read_midi("prompt.mid"))).write("opening.mid")
    assert set(notes_of("opening.mid")) <= set(notes_of("out.mid"))
    # The seed that it chose is printed, and gives the same again.
    seed = re.search(r"seed (\d+)", out)[1]
    again = ("again.mid", "--max-new-tokens", 30, "--seed", seed)
    assert run("generate", "prompt.mid", "-o", *again)[0] == 0
    assert Path("again.mid").read_bytes() == Path("out.mid").read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        ("--temperature", 0.2),
        ("--top-k", 2),
        ("--top-p", 0.1),
        ("--min-p", 0.5),
        ("--grammar",),
        ("--num-latents", 8),
        ("--prompt-tokens", 5),
        ("--seed", 2),
        ("--greedy",),
    ],
    ids=lambda options: options[0],
)
def test_every_option_reaches_the_music(folder, run, options):
    assert run("generate", "prompt.mid", "-o", "plain.mid", *SEEDED)[0] == 0
    code, out, err = run("generate", "prompt.mid", "-o", "out.mid", *SEEDED, *options)
    assert code == 0, err
    assert ("seed" not in out) == ("--greedy" in options)
    assert Path("plain.mid").read_bytes() != Path("out.mid").read_bytes()


def test_options_that_show_late_reach_the_music(folder, run):
    options, music = (*SEEDED, "--max-new-tokens", 300), set()
    for changed in ([], ["--window", "refill"], ["--precision", "int8"]):
        code, _, err = run("generate", "prompt.mid", "-o", "out.mid", *options, *changed)
        assert code == 0, err
        music.add(Path("out.mid").read_bytes())
    assert len(music) == 3


def test_a_prompt_longer_than_the_window_is_continued_from_its_end(folder, run):
    write_melody(folder / "long.mid", *range(40, 80))
    tokens = encode_midi(read_midi("long.mid"))
    assert len(tokens) > 96
    code, _, err = run("generate", "long.mid", "-o", "new.mid", "--only-new", *SEEDED)
    assert code == 0, err
    output = from_pretrained(PerceiverAR, HUB).generate(
        torch.tensor([tokens[-65:]]),
        max_new_tokens=40,
        do_sample=True,
        top_p=0.95,
        generator=torch.Generator().manual_seed(1),
    )[0]
    loud = [token for token in tokens if 356 <= token < 388][-1]
    decode_midi([loud, *output[65:]]).write("expected.mid")
    assert Path("new.mid").read_bytes() == Path("expected.mid").read_bytes()
    assert run("generate", "long.mid", "-o", "all.mid", *SEEDED)[0] == 0
    decode_midi(tokens + output[65:].tolist()).write("expected.mid")  # nothing of it is lost
    assert Path("all.mid").read_bytes() == Path("expected.mid").read_bytes()


@pytest.mark.parametrize("option", [(), ("--only-new",)], ids=["all", "only-new"])
def test_the_other_encoding_is_decoded_by_its_own_rules(folder, run, option):
    torch.manual_seed(0)
    config = replace(from_pretrained(PerceiverAR, HUB).config, vocab_size=390)
    model = PerceiverAR(config).eval()
    model.save_pretrained(folder / "clean")
    arguments = ("--max-new-tokens", 60, "--seed", 4, "--num-latents", 1, *option)
    arguments = ("-o", "out.mid", "--checkpoint", folder / "clean", *arguments)
    code, _, err = run("generate", "prompt.mid", *arguments)
    assert code == 0, err
    tokens = encode_performance(read_midi("prompt.mid"))
    output = model.generate(
        torch.tensor([tokens]),
        max_new_tokens=60,
        do_sample=True,
        top_p=0.95,
        generator=torch.Generator().manual_seed(4),
    )[0].tolist()
    velocity = [token for token in tokens if 356 <= token < 388][-1]
    alone = [389, velocity, *output[len(tokens) :]]
    decode_midi(alone if option else output).write("expected.mid")
    assert notes_of("out.mid") == notes_of("expected.mid") != []


def test_a_shipped_piece_is_a_prompt_by_its_name(folder, run):
    short = ("--max-new-tokens", 1, "--prompt-tokens", 30, "--checkpoint", HUB)
    for _ in range(2):  # the second time out.mid is there
        assert run("generate", "mozart-sonata", "-o", "out.mid", *short)[0] == 0
        assert notes_of("out.mid")


@pytest.mark.parametrize("cut", [0, 6, 9])
def test_only_new_keeps_notes_before_the_first_new_velocity(folder, run, monkeypatch, cut):
    """The prompt's last velocity still holds: without it these notes would be silent."""
    new = [60 + cut, 265, 188 + cut]
    monkeypatch.setattr(PerceiverAR, "stream", lambda *_, **__: iter(new))
    assert run("generate", "prompt.mid", "-o", "out.mid", "--only-new", *SEEDED)[0] == 0
    assert notes_of("out.mid") == [(60 + cut, 80, 0.0, 0.1)]


def test_several_takes_have_numbers_and_seeds_of_their_own(folder, run):
    options = ("--wav", "out.mp3", *SEEDED, "--takes", 3)
    code, out, err = run("generate", "prompt.mid", "-o", "out.mid", *options)
    assert code == 0, err
    for i, line in enumerate(out.splitlines(), start=1):
        assert re.fullmatch(rf"out-{i}\.mid: [\d.]+ s, 40 new tokens, seed {i}", line)
        # Each can be written alone, too.
        alone = (*SEEDED, "--seed", i)
        assert run("generate", "prompt.mid", "-o", "alone.mid", *alone)[0] == 0
        assert Path("alone.mid").read_bytes() == Path(f"out-{i}.mid").read_bytes()
    names = sorted(path.name for path in folder.glob("out*"))
    assert names == [f"out-{i}.{ending}" for i in (1, 2, 3) for ending in ("mid", "mp3")]
    assert len({path.read_bytes() for path in folder.glob("out*.mid")}) > 1


@pytest.mark.parametrize("vocab_size", [389, 390])
def test_it_begins_from_nothing(folder, run, vocab_size):
    torch.manual_seed(0)
    config = replace(from_pretrained(PerceiverAR, HUB).config, vocab_size=vocab_size)
    model = PerceiverAR(config).eval()
    model.save_pretrained(folder / "model")
    arguments = ("--checkpoint", folder / "model", "--seed", 2, "--max-new-tokens", 60)
    code, out, err = run("generate", "-o", "out.mid", "--grammar", *arguments)
    assert code == 0 and "60 new tokens" in out, err
    begin = [356 + 16] if vocab_size == 389 else [389, 356 + 16]  # velocity 64
    options = {"max_new_tokens": 60, "do_sample": True, "top_p": 0.95, "grammar": True}
    generator = torch.Generator().manual_seed(2)
    output = model.generate(
        torch.tensor([begin]), num_latents=len(begin), generator=generator, **options
    )[0]
    decode_midi(output).write("expected.mid")
    assert notes_of("out.mid") == notes_of("expected.mid") != []


def test_drums_beside_a_piano_are_said_to_be_drums(folder, run):
    write_drums(folder / "band.mid", with_piano=True)
    code, _, err = run("generate", "band.mid", "-o", "out.mid", *SEEDED)
    assert code == 0
    assert err.startswith("band.mid: 4 notes are for drums, and the model reads them as piano")


def test_a_name_that_cannot_be_printed_is_no_error(folder):
    name = os.fsdecode(b"caf\xe9.mid")
    write_melody(folder / "x.mid", 60).rename(folder / name)
    result = run_apart(folder, "render", name, "-o", name.replace(".mid", ".wav"))
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("caf\\udce9.wav: 0.2 s of music")


def test_the_version_is_the_packages(run):
    assert run("--version") == (0, f"tinyperceiver {tinyperceiver.__version__}\n", "")


# Render


def test_render_writes_wav_and_mp3(folder, run):
    for name, rate in (("a.wav", 44_100), ("a.mp3", 22_050), ("b.MP3", 22_050)):
        code, out, err = run("render", "prompt.mid", "-o", name)
        assert code == 0, err
        assert re.fullmatch(rf"{name}: 1\.2 s of music, played by (fluid|tiny)\w+\n", out)
        samples, found = soundfile.read(name)
        assert found == rate
        assert 1.2 < len(samples) / rate < 3
        assert np.abs(samples).max() > 0.5
    assert soundfile.info("a.mp3").format == "MP3"
    assert run("render", "prompt.mid", "-o", "again.mp3")[0] == 0
    assert Path("again.mp3").read_bytes() == Path("a.mp3").read_bytes()
    font = Path(pretty_midi.__file__).parent / "TimGM6mb.sf2"
    assert run("render", "prompt.mid", "-o", "font.wav", "--soundfont", font)[0] == 0
    assert Path("font.wav").read_bytes() == Path("a.wav").read_bytes()


# Convert


def test_convert_makes_what_checkpoint_takes(folder, run):
    code, out, err = run("convert", GOLDEN / "small" / "training.ckpt", "-o", "released")
    assert code == 0, err
    model = from_pretrained(PerceiverAR, "./released")
    assert out == f"released: {model.num_parameters:,} parameters\n"
    for name, checkpoint in (("hub.mid", HUB), ("own.mid", "./released")):
        assert (
            run("generate", "prompt.mid", "-o", name, *SEEDED, "--checkpoint", checkpoint)[0] == 0
        )
    assert Path("own.mid").read_bytes() == Path("hub.mid").read_bytes()


# Export


def test_export_writes_one_file(folder, run):
    code, out, err = run("export", HUB, "small.onnx", "--bits", 8, "--attention-weights")
    assert code == 0, err
    size = Path("small.onnx").stat().st_size
    model = from_pretrained(PerceiverAR, HUB)
    assert out == f"small.onnx: {model.num_parameters:,} parameters, {size / 1e6:.1f} MB\n"
    session = onnxruntime.InferenceSession("small.onnx")
    assert session.get_outputs()[-1].name == "attention_weights"
    assert session.get_modelmeta().custom_metadata_map["bits"] == "8"


# Errors


def write_drums(path: Path, *, with_piano: bool) -> None:
    midi = pretty_midi.PrettyMIDI()
    for is_drum in (True, False)[: 1 + with_piano]:
        part = pretty_midi.Instrument(program=0, is_drum=is_drum)
        part.notes = [pretty_midi.Note(80, 40, 0.5 * i, 0.5 * i + 0.3) for i in range(4)]
        midi.instruments.append(part)
    midi.write(str(path))


def make_files(folder: Path) -> None:
    write_drums(folder / "drums.mid", with_piano=False)
    (folder / "text.mid").write_text("no music")
    (folder / "text.sf2").write_text("no sound font")
    write_melody(folder / "empty.mid")
    (folder / "folder.mid").mkdir()
    (folder / "half").mkdir()
    (folder / "half" / "config.json").write_text("{}")


GENERATE = ("generate", "prompt.mid", "-o", "out.mid", "--checkpoint", HUB)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "none.mid", "-o", "out.mid"), "there is no file none.mid; the shipped pi"),
        (
            ("generate", "promt.mid", "-o", "out.mid"),
            "promt.mid; did you mean 'prompt.mid'?",
        ),
        (("generate", "mozart", "-o", "out.mid"), "no file mozart; did you mean 'mozart-sonata'?"),
        (("generate", "prompt.mid", "-o", "prompt.mid"), "prompt.mid is the file to continue, and"),
        (("generate", "drums.mid", "-o", "out.mid"), "drums.mid has notes for drums only"),
        ((*GENERATE, "--temperature", 0), "to take the likeliest token each time, give --greedy"),
        ((*GENERATE, "--greedy", "--takes", 2), "--greedy gives the same music each time: leave"),
        (("generate", "-o", "out.mid", "--prompt-tokens", 5), "has no effect without a MIDI file"),
        (("generate", "text.mid", "-o", "out.mid"), "'text.mid' cannot be read as MIDI"),
        (("generate", "empty.mid", "-o", "out.mid"), "empty.mid has no notes to continue"),
        (("generate", "prompt.mid", "-o", "out.txt"), "out.txt must end in .mid or .midi"),
        (("generate", "prompt.mid", "-o", "folder.mid"), "folder.mid cannot be written"),
        (("generate", "prompt.mid", "-o", "no/out.mid"), "no/out.mid cannot be written"),
        ((*GENERATE, "--wav", "out.ogg"), "out.ogg must end in .mp3 or .wav"),
        ((*GENERATE, "--soundfont", "x.sf2"), "--soundfont has no effect without --wav"),
        ((*GENERATE, "--wav", "out.wav", "--soundfont", "x.sf2"), "no sound font at x.sf2"),
        ((*GENERATE, "--wav", "no/out.wav"), "no/out.wav cannot be written"),
        ((*GENERATE, "--checkpoint", "./nothing"), "nothing is not a folder with a checkpoint"),
        ((*GENERATE, "--checkpoint", "./half"), "describes no Perceiver AR"),
        ((*GENERATE, "--checkpoint", "tinny"), "the form owner/name; did you mean 'tiny'?"),
        ((*GENERATE, "--revision", "main"), "is a folder: revision='main'"),
        ((*GENERATE, "--temperature", -1), "temperature must be positive, not -1.0"),
        ((*GENERATE, "--top-p", 1.5), "top_p must be in (0, 1], not 1.5"),
        ((*GENERATE, "--top-k", 0), "top_k must be at least 1, not 0"),
        ((*GENERATE, "--num-latents", 33), "num_latents must be in 1..32, not 33"),
        (("render", "text.mid", "-o", "out.wav"), "'text.mid' cannot be read as MIDI"),
        (("render", "prompt.mid", "-o", "out.ogg"), "out.ogg must end in .mp3 or .wav"),
        (("render", "prompt.mid", "-o", "out.wav", "--soundfont", "none.sf2"), "no sound font at"),
        (("render", "prompt.mid", "-o", "a.wav", "--soundfont", "text.sf2"), "is not a sound font"),
        (("convert", "none.ckpt", "-o", "new"), "none.ckpt is neither a file nor an http(s)"),
        (("convert", "text.mid", "-o", "new"), "text.mid can't be read"),
        (
            ("convert", GOLDEN / "small" / "training.ckpt", "-o", "new", "--sha256", "0" * 64),
            "has the SHA-256",
        ),
        (("export", HUB, "small.pt"), "small.pt must end in .onnx"),
        (("export", HUB, "no/small.onnx"), "no/small.onnx cannot be written"),
        (("export", "./nothing", "small.onnx"), "nothing is not a folder with a checkpoint"),
    ],
    ids=lambda value: " ".join(map(str, value))[-50:] if isinstance(value, tuple) else "",
)
def test_errors_are_one_line_and_leave_nothing(folder, run, arguments, message):
    make_files(folder)
    before = sorted(folder.rglob("*"))
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("tinyperceiver: ") and message in err
    assert err.count("\n") == 1 and err.endswith("\n"), err
    assert sorted(folder.rglob("*")) == before


def test_errors_in_a_process_of_its_own(folder):
    result = run_apart(folder, "render", "none.mid", "-o", "out.wav")
    assert result.returncode == 1
    assert re.fullmatch(r"tinyperceiver: there is no file none\.mid; .*\n", result.stderr)
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("compose",),
        ("generate",),
        ("generate", "prompt.mid"),
        ("render", "prompt.mid"),
        ("convert", "x.ckpt"),
        ("export", "tiny"),
        (*GENERATE, "--max-new-tokens", "many"),
        (*GENERATE, "--max-new-tokens", "0"),
        (*GENERATE, "--prompt-tokens", "0"),
        (*GENERATE, "--num-latents", "0"),
        (*GENERATE, "--tempo", "3"),
        ("export", HUB, "small.onnx", "--bits", "7"),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(folder, run, arguments):
    code, out, err = run(*arguments)
    assert code == 2
    assert re.search(r"Usage: .*tinyperceiver", out + err)
    assert "Traceback" not in err
    assert not Path("out.mid").exists()


def test_errors_of_several_lines_become_one(folder, run, monkeypatch):
    def fail(*_, **__):
        raise CheckpointError("the weights do not fit:\nnorm is missing\nembedding is missing")

    monkeypatch.setattr(PerceiverAR, "from_pretrained", fail)
    code, _, err = run(*GENERATE)
    assert code == 1
    line = "tinyperceiver: the weights do not fit: norm is missing embedding is missing\n"
    assert err == line


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, OSError, KeyError])
def test_a_mistake_in_the_program_keeps_its_traceback(folder, run, monkeypatch, kind):
    def fail(*_, **__):
        raise kind("shapes do not match")

    monkeypatch.setattr(PerceiverAR, "from_pretrained", fail)
    with pytest.raises(kind, match="shapes do not match"):
        run(*GENERATE)


def test_all_errors_of_the_package_have_one_base_class():
    for name in ("CheckpointError", "DataError", "MidiReadError", "RenderError", "TrainingError"):
        assert issubclass(getattr(tinyperceiver, name), tinyperceiver.TinyperceiverError)
    places = [*(ROOT / "tinyperceiver").rglob("[!_]*.py")]
    defined = {
        node.name: [ast.unparse(base) for base in node.bases]
        for path in places
        if "teaching" not in path.parts
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error") and node.name[0] != "_"
    }
    assert len(defined) >= 12
    for name, bases in defined.items():
        assert name == "TinyperceiverError" or defined.keys() & set(bases), name


def test_a_file_that_cannot_be_written_is_named(folder, run, monkeypatch):
    """By the system's own error, where the package has none."""

    def fail(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "out.mid")

    monkeypatch.setattr(PerceiverAR, "from_pretrained", fail)
    code, _, err = run(*GENERATE)
    assert (code, err) == (1, "tinyperceiver: out.mid: Permission denied\n")


def test_stopping_it_keeps_what_was_written_so_far(folder, run, monkeypatch):
    stream = PerceiverAR.stream

    def stop(self, prompt, **options):
        for place, token in enumerate(stream(self, prompt, **options)):
            if place == 25:
                raise KeyboardInterrupt
            yield token

    monkeypatch.setattr(PerceiverAR, "stream", stop)
    code, out, err = run(*GENERATE, "--seed", 1, "--num-latents", 1, "--takes", 3)
    assert code == 130 and "Traceback" not in err
    assert re.fullmatch(r"out-1\.mid: [\d.]+ s, 25 new tokens, seed 1\n", out)
    assert err.endswith("stopped after 25 of 512 tokens\n")
    monkeypatch.undo()
    os.chdir(folder)
    assert sorted(path.name for path in folder.glob("out*")) == ["out-1.mid"]
    tokens = encode_midi(read_midi("prompt.mid"))
    options = {"max_new_tokens": 25, "do_sample": True, "top_p": 0.95}
    generator = torch.Generator().manual_seed(1)
    model = from_pretrained(PerceiverAR, HUB)
    output = model.generate(torch.tensor([tokens]), generator=generator, **options)[0]
    decode_midi(output).write("expected.mid")
    assert Path("out-1.mid").read_bytes() == Path("expected.mid").read_bytes()


def test_stopping_it_before_the_first_token_is_no_error_of_ours(folder, run, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(PerceiverAR, "from_pretrained", stop)
    code, _, err = run(*GENERATE)
    assert code == 130
    assert "Traceback" not in err and not Path("out.mid").exists()


# Files


@pytest.mark.parametrize("error", [RenderError("no music"), SoundFontError("no sound font")])
@pytest.mark.parametrize("command", ["render", "generate"])
def test_when_rendering_fails_what_was_there_stays(folder, run, monkeypatch, command, error):
    def fail(*_, **__):
        raise error

    (folder / "out.wav").write_bytes(b"an older sound")
    monkeypatch.setattr(synthesis, "render", fail)
    monkeypatch.setattr(tinyperceiver, "render", fail)
    if command == "render":
        arguments = ("render", "prompt.mid", "-o", "out.wav")
    else:
        arguments = (*GENERATE, "--wav", "out.wav", "--max-new-tokens", 5)
    code, _, err = run(*arguments)
    assert code == 1 and f"tinyperceiver: {error}\n" in err
    assert Path("out.wav").read_bytes() == b"an older sound"
    names = {path.name for path in folder.iterdir()}
    assert names - {"out.mid"} == {"prompt.mid", "out.wav"}
    if "out.mid" in names:  # made before the sound, and whole
        assert notes_of("out.mid")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--accelerator", "tpu"), "--accelerator must be auto or cpu or gpu or cuda or mps, not"),
        (("--strategy", "zorro"), "--strategy must be auto or ddp or fsdp, not 'zorro'"),
        (("--nodes", "2"), "--nodes is for several machines: start torchrun on each of them"),
    ],
)
def test_where_to_train_is_checked_first(folder, run, monkeypatch, options, message):
    for name in ("MASTER_ADDR", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    code, _, err = run("train", "--config", "tiny", *options)
    assert code == 1 and message in err
    assert not Path("runs").exists()


def test_training_says_whether_it_is_done(folder, run):
    """And which folder to give to --checkpoint: that of the run holds no model itself."""
    pieces = np.array([60, 275, 188, 265] * 40 + [-1], dtype="<i2")
    for split in ("train", "valid"):
        pieces.tofile(f"{split}.bin")
    shape = {"max_seq_len": 32, "max_latents": 16, "num_channels": 16, "num_heads": 2}
    stage = {"steps": 2, "num_latents": 16, "max_prefix_len": 16, "batch_size": 2}
    config = {"model": shape | {"num_self_attention_layers": 1}, "stages": [stage]}
    Path("small.json").write_text(json.dumps(config | {"num_windows": 2}))
    command = ("train", "--config", "small.json", "--data", ".", "--accelerator", "cpu")
    code, out, _ = run(*command, "--stop-after", "1")
    assert code == 0 and re.search(r"small: [\d,]+ parameters, paused after 1 of 2 steps", out)
    code, out, _ = run(*command)
    assert code == 0 and re.search(r"small/model: .*, all 2 steps; .*best has the lowest", out)
    with pytest.raises(CheckpointError, match=r"a run of training: its models are .*best and"):
        PerceiverAR.from_pretrained("runs/small")
    with pytest.raises(CheckpointError, match="not a folder with a model: give runs/small/best"):
        PerceiverAR.from_pretrained("runs/small/last.ckpt")
    Path("runs/small/last.ckpt").write_bytes(b"damaged")
    code, _, err = run(*command)
    assert code == 1 and "runs/small/last.ckpt is damaged, so the run cannot be resumed" in err
    assert err.splitlines()[-1].startswith("tinyperceiver: ")


def test_training_says_that_the_disk_is_full_and_how_to_resume(music, run, monkeypatch):
    from tinyperceiver.training import train

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/mine/last.ckpt.new")

    monkeypatch.setattr(train, "write_state", fail)
    code, _, err = run("train", "--from", "./small", "--data", "mine", "--accelerator", "cpu")
    assert code == 1
    line = "tinyperceiver: step 1: runs/mine/last.ckpt.new cannot be written: No space left on"
    assert err.splitlines()[-1].startswith(line)


def test_stopped_preparing_says_how_to_resume(folder, run, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tinyperceiver, "prepare_folder", stop)
    code, _, err = run("prepare", "folder", ".")
    assert (code, err) == (130, "stopped: the same command continues where it stopped\n")


def test_an_out_that_is_a_file_is_said_to_be_one(folder, run):
    code, _, err = run("prepare", "folder", ".", "--out", "prompt.mid")
    assert code == 1 and err.startswith("tinyperceiver: prompt.mid cannot be made: a file is in")


def test_stopped_training_says_how_to_resume(music, run, monkeypatch):
    from tinyperceiver.training import train

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "training_step", stop)
    command = ("train", "--from", "./small", "--data", "mine", "--accelerator", "cpu")
    code, _, err = run(*command)
    assert code == 130
    assert "stopped: the same command continues from the last save in runs/mine\n" in err


# One's own music


@pytest.fixture
def music(folder) -> Path:
    """Prepared tokens, and a small model to start from."""
    rng = np.random.default_rng(0)
    for split, count in {"train": 4, "valid": 2}.items():
        pieces = []
        for _ in range(count):
            pitch = 60 + np.abs(np.arange(60) % 24 - 12) + rng.integers(-9, 9)
            loud, long, short = (np.full(60, token) for token in (370, 275, 265))
            events = np.stack((loud, pitch, long, pitch + 128, short), axis=1)
            pieces.append(np.append(events.ravel(), -1))
        Path("mine").mkdir(exist_ok=True)
        np.concatenate(pieces).astype("<i2").tofile(f"mine/{split}.bin")
    torch.manual_seed(0)
    shape = {"max_seq_len": 48, "max_latents": 16, "num_channels": 16, "num_heads": 2}
    config = PerceiverConfig(**shape, num_self_attention_layers=1)
    PerceiverAR(config).eval().save_pretrained("small")
    return folder


def test_evaluate_says_what_it_rests_on(music, run):
    code, out, err = run("evaluate", "./small", "mine")
    assert code == 0, err
    nats, where = out.splitlines()
    found = evaluate.evaluate(PerceiverAR.from_pretrained("./small"), TokenFile("mine/valid.bin"))
    expected = f"{found.nats:.3f} nats per token (standard error {found.error:.3f}, by piece)"
    assert nats == expected
    assert where == (
        "measured on 512 tokens: the last 16 of each of 32 windows of 48, from 2 of 2 pieces"
    )
    assert run("evaluate", "./small", "mine/valid.bin")[1] == out
    options = ("--windows", 3, "--prefix", 8, "--num-latents", 4)
    code, out, err = run("evaluate", "./small", "mine/train.bin", *options)
    assert code == 0, err
    assert out.splitlines()[1] == (
        "measured on 12 tokens: the last 4 of each of 3 windows of 12, from 3 of 4 pieces"
    )


def test_fine_tuning_says_what_was_gained_and_how_to_hear_it(music, run):
    command = ("train", "--from", "./small", "--data", "mine", "--accelerator", "cpu")
    code, out, err = run(*command, "--stop-after", 2)
    assert code == 0, err
    assert re.search(r"runs/mine: [\d,]+ parameters, paused after 2 of \d+ steps; .* without", out)
    code, out, err = run(*command)
    assert code == 0, err
    gain, hear = out.splitlines()[-2:]
    number = r"([\d.]+)"
    expected = f"held out: {number} nats per token before, {number} after: {number} less"
    found = re.fullmatch(rf"{expected}, with a standard error of {number} by piece.*", gain)
    assert float(found[2]) < float(found[1])
    # As `evaluate` measures it.
    after, error = re.match(
        rf"{number} .*error {number}", run("evaluate", "runs/mine/best", "mine")[1]
    ).groups()
    assert found[2] == after and float(found[4]) < float(error)
    assert hear.startswith("hear it: tinyperceiver generate piece.mid -o out.mid --checkpoint ")
    assert run("generate", "prompt.mid", *hear.split("piece.mid ")[1].split())[0] == 0
    assert notes_of("out.mid")
    settings = json.loads(Path("runs/mine/config.json").read_text())
    assert settings["config"]["num_windows"] == 32
    assert len(settings["data"]["initial_weights"]) == 64
    code, out, _ = run(*command, "--show")
    assert json.loads(out) == settings["config"]


def test_fine_tuning_with_a_plan_of_ones_own(music, run):
    code, out, _ = run("train", "--from", "./small", "--data", "mine", "--show")
    plan = json.loads(out)
    plan["stages"][0]["steps"] = 2
    Path("plan.json").write_text(json.dumps(plan))
    command = ("train", "--from", "./small", "--data", "mine", "--accelerator", "cpu")
    code, out, err = run(*command, "--config", "plan.json")
    assert code == 0 and "\nruns/plan/model: " in out, err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "tiny", "none"), "none does not exist; tinyperceiver prepare makes it"),
        (("evaluate", "tiny", "small"), "valid.bin does not exist; tinyperceiver prepare makes it"),
        (("evaluate", "./none", "mine"), "none is not a folder with a checkpoint"),
        (
            ("evaluate", "./small", "mine", "--prefix", 40),
            "--prefix is 40, and this model takes at",
        ),
        (("evaluate", "./small", "mine", "--windows", 999), "mine/valid.bin has 32 windows of 49"),
        (("train", "--data", "mine"), "give --from MODEL to fine-tune a model, or --config NAME"),
        (
            ("train", "--from", "tiny", "--data", "none"),
            "none/train.bin does not exist; tinyperceiver",
        ),
        (("train", "--from", "./none", "--data", "mine"), "none is not a folder with a checkpoint"),
        (
            ("train", "--from", "./small", "--config", "tiny", "--data", "mine"),
            "the model to start from has num_channels = 16, but the configuration asks for 256",
        ),
        (("prepare", "folder", "none"), "none does not exist: name the folder of your MIDI files"),
        (("prepare", "folder", "prompt.mid"), "prompt.mid is neither a folder nor a zip"),
    ],
    ids=lambda value: " ".join(map(str, value))[-50:] if isinstance(value, tuple) else "",
)
def test_errors_about_ones_own_music_are_one_line(music, run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith("tinyperceiver: ") and message in last, err
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_when_writing_fails_what_was_there_stays(folder, run, monkeypatch, name):
    (folder / "out.wav").write_bytes(b"an older sound")

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, name, fail)
    code, _, err = run("render", "prompt.mid", "-o", "out.wav")
    monkeypatch.undo()
    message = "out.wav: No space left on device; make room, then run the same command again"
    assert code == 1 and f"tinyperceiver: {message}\n" in err
    assert (folder / "out.wav").read_bytes() == b"an older sound"
    assert {path.name for path in folder.iterdir()} == {"prompt.mid", "out.wav"}


def test_files_have_the_rights_that_files_have(folder, run):
    before = os.umask(0o027)
    try:
        assert run("render", "prompt.mid", "-o", "out.wav")[0] == 0
        assert stat.S_IMODE(Path("out.wav").stat().st_mode) == 0o640
    finally:
        os.umask(before)


# Help


def commands_of(group, path=()):
    """Each command, with the words that name it."""
    import typer

    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            yield from commands_of(command, (*path, name))
        else:
            yield (*path, name), command


def test_help_fits_a_terminal_and_cuts_no_name():
    import typer

    runner = CliRunner()
    assert (
        "..."
        not in runner.invoke(cli.app, ["--help"], env={"COLUMNS": "80"}).output.split("Commands:")[
            1
        ]
    )
    for path, command in commands_of(typer.main.get_command(cli.app)):
        text = runner.invoke(cli.app, [*path, "--help"], env={"COLUMNS": "80"}).output
        assert all(len(line) <= 80 for line in text.splitlines()), path
        for parameter in command.params:
            for name in parameter.opts if parameter.param_type_name == "option" else ():
                assert re.search(rf"(^|\s){name}\b", text), name
            for choice in getattr(getattr(parameter, "type", None), "choices", ()):
                assert re.search(rf"\b{re.escape(choice)}\b", text), choice
        if path[0] in ("generate", "render"):
            assert all(re.search(rf"^ +{piece}$", text, re.M) for piece in tinyperceiver.PIECES)


def test_the_shell_completes_pieces_files_and_models(folder):
    write_melody(folder / "my.mid", 60)
    (folder / "models").mkdir()

    def complete(line: str) -> list[str]:
        words = {"COMP_WORDS": f"tinyperceiver {line}", "COMP_CWORD": str(len(line.split(" ")))}
        environment = os.environ | {"_TINYPERCEIVER_COMPLETE": "complete_bash"} | words
        command = [sys.executable, "-c", "from tinyperceiver.cli.main import app; "]
        command[-1] += "app(prog_name='tinyperceiver')"
        environment |= {"PYTHONPATH": str(ROOT)}
        result = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
        return result.stdout.split()

    assert complete("generate m") == ["mozart-sonata", "models/", "my.mid"]
    assert complete("generate prompt.mid --checkpoint t") == ["tiny"]
    assert complete("generate prompt.mid --window ") == ["slide", "refill"]


def test_help_of_each_command_shows_an_example():
    runner = CliRunner()
    for command in COMMANDS:
        result = runner.invoke(cli.app, [command, "--help"], env={"COLUMNS": "200"})
        assert result.exit_code == 0
        text = re.sub(r"\x1b\[[\d;]*m", "", result.output)
        example = re.search(rf"^\W*tinyperceiver {command} (\S.*)$", text, re.MULTILINE)
        assert example and re.search(r" -o |\.onnx", example[1]), text


def test_help_lists_the_commands_and_explains_every_option():
    runner = CliRunner()
    for flag in ("--help", "-h"):
        result = runner.invoke(cli.app, [flag])
        assert result.exit_code == 0
        assert all(command in result.output for command in COMMANDS)
    import typer

    for name, command in typer.main.get_command(cli.app).commands.items():
        for option in command.params:
            assert option.name == "help" or option.help, f"{name} {option.name} has no help"


def test_examples_of_the_help_can_be_parsed(monkeypatch):
    """Every line that the help shows, up to the moment when the work would begin."""
    import shlex

    import typer

    examples = []
    for path, command in commands_of(typer.main.get_command(cli.app)):
        text = re.sub(r"\\\n\s*", "", command.help)
        shown = re.findall(r"^\s*tinyperceiver (.*)$", text, re.MULTILINE)
        assert shown, f"{path} shows no example"
        for line in shown:
            words = shlex.split(line)
            assert tuple(words[: len(path)]) == path
            assert command.make_context(path[-1], words[len(path) :]).params
            examples.append(line)
    assert len(examples) >= 8


def test_commands_of_the_readme_can_be_parsed():
    import shlex

    import typer

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    tinyperceiver (.*?)(?:  +#.*)?$", text, re.MULTILINE)
    for line in lines:
        words, command = shlex.split(line), typer.main.get_command(cli.app)
        while isinstance(command, typer.core.TyperGroup):
            command = command.commands[words.pop(0)]
        assert command.make_context(command.name, words).params
    assert len(lines) >= 7


def test_the_installed_script_is_main():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.scripts]\ntinyperceiver = "tinyperceiver.cli.main:main"' in text
