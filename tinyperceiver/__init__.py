"""Perceiver AR for symbolic piano music: from a MIDI file to a model that continues it."""

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
from tinyperceiver.generation import generate
from tinyperceiver.midi import MidiReadError, read_midi
from tinyperceiver.model import PRESETS, DecoderLayer, PerceiverAR, PerceiverConfig
from tinyperceiver.performance import encode_performance
from tinyperceiver.pieces import PIECES, load_piece
from tinyperceiver.pipeline import pipeline
from tinyperceiver.rotary import apply_rotation, rotation_at
from tinyperceiver.tokenizer import decode_midi, encode_midi

__version__ = "0.1.0"
__all__ = [
    "PIECES",
    "PRESETS",
    "CheckpointError",
    "DecoderLayer",
    "HybridAttention",
    "MidiReadError",
    "MultiHeadAttention",
    "PerceiverAR",
    "PerceiverConfig",
    "apply_rotation",
    "convert_checkpoint",
    "decode_midi",
    "encode_midi",
    "encode_performance",
    "generate",
    "load_piece",
    "mp3_bytes",
    "piano_roll",
    "pipeline",
    "play",
    "read_midi",
    "render",
    "rotation_at",
    "synthesizer",
    "wav_bytes",
]
