"""The public names as a strict type checker sees them: in a user's program and on our pages."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import tinyperceiver
from tinyperceiver.music_pipeline import SymbolicAudioPipeline

ROOT = Path(__file__).parent.parent

PROGRAM = '''
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import assert_type

from tinyperceiver import (
    PIECES,
    PRESETS,
    RUNS,
    CheckpointError,
    DataError,
    DecoderLayer,
    HybridAttention,
    MidiReadError,
    MultiHeadAttention,
    PerceiverAR,
    PerceiverConfig,
    RenderError,
    Stage,
    TinyperceiverError,
    TokenFile,
    TrainingConfig,
    TrainingError,
    Windows,
    apply_rotation,
    convert_checkpoint,
    decode_midi,
    decode_notes,
    encode_midi,
    encode_performance,
    evaluate,
    export_onnx,
    finetuning_config,
    generate,
    load_piece,
    make_fabric,
    mp3_bytes,
    piano_roll,
    pipeline,
    play,
    prepare_folder,
    prepare_giantmidi,
    read_midi,
    render,
    rotation_at,
    stream,
    synthesizer,
    train,
    wav_bytes,
)


class Mine(PerceiverAR):
    """A model of a user's own."""


# Load, continue, save.
model = PerceiverAR.from_pretrained("tiny", device="cpu", dtype=torch.float32)
assert_type(model, PerceiverAR)
assert_type(Mine.from_pretrained(Path("folder")), Mine)
assert_type(model.config, PerceiverConfig)
tokens = encode_midi(load_piece(next(iter(PIECES))))
assert_type(tokens, list[int])
prompt = torch.tensor([tokens])
assert_type(model.generate(prompt, max_new_tokens=9, do_sample=True, top_p=0.9), Tensor)
assert_type(model.generate([tokens, tokens[:9]], max_seconds=3.0), list[Tensor])
assert_type(generate(model, prompt, max_new_tokens=9, num_latents=8), Tensor)
assert_type(generate(model, [tokens], max_new_tokens=9, grammar=True), list[Tensor])
for token in model.stream(prompt, temperature=0.9, do_sample=True):
    assert_type(token, int)
for note in decode_notes(stream(model, tokens, max_new_tokens=9)):
    print(note.start)
assert_type(model.save_pretrained("folder", dtype=torch.bfloat16), Path)
export_onnx(model, "model.onnx", bits=8)
try:
    convert_checkpoint("folder", "training.ckpt").eval()
except (CheckpointError, DataError, RenderError, TrainingError) as error:
    assert_type(isinstance(error, TinyperceiverError), bool)

# Files, sound and pictures.
try:
    performance = encode_performance(read_midi(Path("piece.mid")))
except MidiReadError as error:
    print(error)
for ids in (tokens, np.array(tokens), prompt[0]):
    decode_midi(ids).write("out.mid")
sound = render(decode_midi(tokens), sample_rate=22050, soundfont=None)
assert_type(wav_bytes(sound), bytes)
assert_type(mp3_bytes(decode_midi(tokens)), bytes)
assert_type(synthesizer(), str)
play(decode_midi(tokens))
piano_roll(decode_midi(tokens)).set_title("mine")
make_music = pipeline("symbolic-audio-generation", model="tiny", local_files_only=True)
for made in make_music([load_piece("bach-prelude")], max_prompt_length=99, top_k=9, do_sample=True):
    made["generated_audio_midi"].write("out.mid")

# Train and evaluate.
assert_type(prepare_folder("my-midi", "data", workers=2), dict[str, Any])
assert_type(prepare_giantmidi("midi.zip", Path("data"), accept=True), dict[str, Any])
data = TokenFile("data/train.bin"), TokenFile(Path("data/valid.bin"))
config = finetuning_config(model.config, *data)
assert_type(config, TrainingConfig)
assert_type(TrainingConfig.from_json(RUNS["tiny"].to_json()).stages, tuple[Stage, ...])
fabric = make_fabric("32-true", accelerator="cpu", devices=1)
trained = train(config, "data", "run", initial_model=model, fabric=fabric, stop_after=9)
assert_type(trained, PerceiverAR)
result = evaluate(trained, data[1], num_windows=9)
assert_type(result.nats, float)
assert_type(result.tokens, int)
windows = Windows(data[0], 16, 16, seed=1)

# The parts of the model.
layer = DecoderLayer(HybridAttention(64, 4), torch.nn.Identity())
attention = MultiHeadAttention(64, 4, dropout=0.1)
assert_type(apply_rotation(torch.zeros(1, 4, 9, 16), rotation_at(torch.arange(9), 16)), Tensor)
assert_type(PRESETS["tiny"], PerceiverConfig)
'''

# What a checker must find, a line each.
MISTAKES = """\
from tinyperceiver import PerceiverAR, decode_midi, generate, load_piece, stream, train
model = PerceiverAR.from_pretrained("tiny", dtype="float32")
model.generate([1, 2], max_tokens=9)
generate(model, [1, 2], temperature="hot")
stream(model, [1, 2], progress=True)
model.save_pretrained()
decode_midi("piece.mid")
load_piece(3)
train("tiny", "data", "run")
"""


def snippets() -> dict[str, str]:
    """The Python of README and pages that uses the package, by where it stands."""
    found = {}
    for path in (ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for i, code in enumerate(blocks):
            # To a checker Transformers has only the tasks that it lists itself.
            is_ours = "transformers.pipeline(" not in code
            if is_ours and re.search(r"^(from|import) tinyperceiver", code, re.MULTILINE):
                found[f"{path.stem.lower()}_{i}"] = code
    return found


def complaints(programs: dict[str, str], folder: Path, cache: Path) -> dict[str, list[str]]:
    """Name -> "line: message" of each error, of one strict run over all programs."""
    for name, code in programs.items():
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={cache}", "."]
    # From here the package is seen as it is once installed: with what py.typed promises.
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = {}
    for name, error in re.findall(r"^(\w+)\.py:(\d+: error: .*)$", done.stdout, re.MULTILINE):
        found.setdefault(name, []).append(error)
    return found


def test_a_strict_checker_complains_of_mistakes_and_of_nothing_else(tmp_path, pytestconfig):
    """One test, since a first run takes a quarter of a minute; later ones take what is kept."""
    assert set(tinyperceiver.__all__) <= set(re.findall(r"\w+", PROGRAM))
    pages = snippets()
    assert any(name.startswith("readme") for name in pages)
    programs = {"program": PROGRAM, "mistakes": MISTAKES} | pages
    found = complaints(programs, tmp_path, pytestconfig.cache.mkdir("mypy"))
    lines = {int(error.partition(":")[0]) for error in found.pop("mistakes")}
    assert lines == set(range(2, MISTAKES.count("\n") + 1))
    assert found == {}


SPECIAL = ("__init__", "__call__", "__getitem__", "__len__")


def is_annotated(function: object) -> bool:
    signature = inspect.signature(function)
    given = [part for name, part in signature.parameters.items() if name not in ("self", "cls")]
    return signature.return_annotation is not signature.empty and all(
        part.annotation is not part.empty for part in given
    )


def test_public_functions_and_methods_are_annotated():
    values = [getattr(tinyperceiver, name) for name in tinyperceiver.__all__]
    missing = []
    for value in (*values, SymbolicAudioPipeline):
        functions = [value] if inspect.isfunction(value) else []
        if inspect.isclass(value):
            methods = {name: f for name, f in vars(value).items() if inspect.isfunction(f)}
            functions = [f for name, f in methods.items() if name in SPECIAL or name[0] != "_"]
        missing += [f.__qualname__ for f in functions if not is_annotated(f)]
    assert missing == []
