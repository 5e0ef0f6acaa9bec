"""Perceiver AR for symbolic piano music: from a MIDI file to a model that continues it.

The folders, each of which imports only those before it:

- `files`: files and downloads that are whole or not there at all
- `music`: between MIDI files and tokens
- `sound`: from notes to what is heard and seen
- `model`: the model, from its smallest part to the whole
- `engines`: decoding step by step, on CPUs by ONNX Runtime and on GPUs by PyTorch
- `generation`: from logits to new tokens
- `checkpoints`: models on disk and on the hub
- `dataset`: from MIDI files to windows of tokens to train on
- `training`: training, fine-tuning and measuring a model
- `music_pipeline`, `transformers_bridge`: the released model's card, without and with
  Transformers
- `studio`: a panel in a notebook that continues prompts
- `cli`: the command line
- `teaching`: figures and exercises of the book, which nothing else imports
"""

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyperceiver.checkpoints.convert import convert_checkpoint
    from tinyperceiver.checkpoints.folder import CheckpointError
    from tinyperceiver.dataset.prepare import prepare_folder, prepare_giantmidi
    from tinyperceiver.dataset.token_file import DataError, TokenFile
    from tinyperceiver.dataset.windows import Windows
    from tinyperceiver.engines.onnx_export import export_onnx
    from tinyperceiver.files.errors import TinyperceiverError
    from tinyperceiver.generation.generate import generate, stream
    from tinyperceiver.model.attention import HybridAttention, MultiHeadAttention
    from tinyperceiver.model.config import PRESETS, PerceiverConfig
    from tinyperceiver.model.perceiver_ar import DecoderLayer, PerceiverAR
    from tinyperceiver.model.rotary import apply_rotation, rotation_at
    from tinyperceiver.music.midi import MidiReadError, read_midi
    from tinyperceiver.music.pieces import PIECES, load_piece
    from tinyperceiver.music.tokenizer import (
        decode_midi,
        decode_notes,
        encode_midi,
        encode_performance,
    )
    from tinyperceiver.music_pipeline import pipeline
    from tinyperceiver.sound.encoding import mp3_bytes, wav_bytes
    from tinyperceiver.sound.player import play
    from tinyperceiver.sound.roll import piano_roll
    from tinyperceiver.sound.synthesis import RenderError, render, synthesizer
    from tinyperceiver.training.config import RUNS, Stage, TrainingConfig, TrainingError
    from tinyperceiver.training.devices import make_fabric
    from tinyperceiver.training.evaluate import evaluate
    from tinyperceiver.training.finetune import finetuning_config
    from tinyperceiver.training.train import train

# A thread of PyTorch that waits for the others spins, by default 300,000 times, before it
# sleeps. Where other processes are busy, it takes the core from the thread that it waits
# for, and work becomes many times slower. 10,000 times are as fast on an idle machine. libgomp
# reads the variable when PyTorch is loaded, so it is set here, and a user's own choice stays.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "10000"

__version__ = "0.1.0"
__all__ = [
    "PIECES",
    "PRESETS",
    "RUNS",
    "CheckpointError",
    "DataError",
    "DecoderLayer",
    "HybridAttention",
    "MidiReadError",
    "MultiHeadAttention",
    "PerceiverAR",
    "PerceiverConfig",
    "RenderError",
    "Stage",
    "TinyperceiverError",
    "TokenFile",
    "TrainingConfig",
    "TrainingError",
    "Windows",
    "apply_rotation",
    "convert_checkpoint",
    "decode_midi",
    "decode_notes",
    "encode_midi",
    "encode_performance",
    "evaluate",
    "export_onnx",
    "finetuning_config",
    "generate",
    "load_piece",
    "make_fabric",
    "mp3_bytes",
    "piano_roll",
    "pipeline",
    "play",
    "prepare_folder",
    "prepare_giantmidi",
    "read_midi",
    "render",
    "rotation_at",
    "stream",
    "synthesizer",
    "train",
    "wav_bytes",
]

# PyTorch takes seconds to import. What needs it is imported when it is asked for, so that
# `tinyperceiver --help` and the processes that only tokenize need not wait for it.
_MODULE_OF = {
    "checkpoints.convert": "convert_checkpoint",
    "checkpoints.folder": "CheckpointError",
    "dataset.prepare": "prepare_folder prepare_giantmidi",
    "dataset.token_file": "DataError TokenFile",
    "dataset.windows": "Windows",
    "engines.onnx_export": "export_onnx",
    "files.errors": "TinyperceiverError",
    "generation.generate": "generate stream",
    "model.attention": "HybridAttention MultiHeadAttention",
    "model.config": "PRESETS PerceiverConfig",
    "model.perceiver_ar": "DecoderLayer PerceiverAR",
    "model.rotary": "apply_rotation rotation_at",
    "music.midi": "MidiReadError read_midi",
    "music.pieces": "PIECES load_piece",
    "music.tokenizer": "decode_midi decode_notes encode_midi encode_performance",
    "music_pipeline": "pipeline",
    "sound.encoding": "mp3_bytes wav_bytes",
    "sound.player": "play",
    "sound.roll": "piano_roll",
    "sound.synthesis": "RenderError render synthesizer",
    "training.config": "RUNS Stage TrainingConfig TrainingError",
    "training.devices": "make_fabric",
    "training.evaluate": "evaluate",
    "training.finetune": "finetuning_config",
    "training.train": "train",
}
_MODULE_OF = {
    name: module for module, names in _MODULE_OF.items() for name in names.split()
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | set(__all__))
