"""Perceiver AR for symbolic piano music: from a MIDI file to a model that continues it."""

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyperceiver.attention import HybridAttention, MultiHeadAttention
    from tinyperceiver.audio import (
        mp3_bytes,
        piano_roll,
        play,
        render,
        synthesizer,
        wav_bytes,
    )
    from tinyperceiver.checkpoints import CheckpointError, convert_checkpoint
    from tinyperceiver.data import TokenFile, Windows
    from tinyperceiver.evaluation import evaluate
    from tinyperceiver.finetuning import finetuning_config
    from tinyperceiver.generation import generate, stream
    from tinyperceiver.midi import MidiReadError, read_midi
    from tinyperceiver.model import PRESETS, DecoderLayer, PerceiverAR, PerceiverConfig
    from tinyperceiver.onnx_export import export_onnx
    from tinyperceiver.performance import encode_performance
    from tinyperceiver.pieces import PIECES, load_piece
    from tinyperceiver.pipeline import pipeline
    from tinyperceiver.prepare import prepare_folder, prepare_giantmidi
    from tinyperceiver.rotary import apply_rotation, rotation_at
    from tinyperceiver.tokenizer import decode_midi, decode_notes, encode_midi
    from tinyperceiver.training import (
        RUNS,
        Stage,
        TrainingConfig,
        make_fabric,
        train,
    )

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
    "DecoderLayer",
    "HybridAttention",
    "MidiReadError",
    "MultiHeadAttention",
    "PerceiverAR",
    "PerceiverConfig",
    "Stage",
    "TokenFile",
    "TrainingConfig",
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
    "attention": "HybridAttention MultiHeadAttention",
    "audio": "mp3_bytes piano_roll play render synthesizer wav_bytes",
    "checkpoints": "CheckpointError convert_checkpoint",
    "data": "TokenFile Windows",
    "evaluation": "evaluate",
    "finetuning": "finetuning_config",
    "generation": "generate stream",
    "midi": "MidiReadError read_midi",
    "model": "PRESETS DecoderLayer PerceiverAR PerceiverConfig",
    "onnx_export": "export_onnx",
    "performance": "encode_performance",
    "pieces": "PIECES load_piece",
    "pipeline": "pipeline",
    "prepare": "prepare_folder prepare_giantmidi",
    "rotary": "apply_rotation rotation_at",
    "tokenizer": "decode_midi decode_notes encode_midi",
    "training": "RUNS Stage TrainingConfig make_fabric train",
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


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        """Called also by Python with each module of the package that was imported."""
        if name == "pipeline" and isinstance(value, ModuleType):
            value = value.pipeline  # the function of this name, not the module
        super().__setattr__(name, value)
        # Of these two the one that was asked for comes last.
        is_last = name == "model" and f"{__name__}.decoding" not in sys.modules
        if is_last or name == "decoding":
            # They give PerceiverAR its generate, from_pretrained and save_pretrained.
            importlib.import_module(f"{__name__}.generation")
            importlib.import_module(f"{__name__}.checkpoints")


sys.modules[__name__].__class__ = _Package
