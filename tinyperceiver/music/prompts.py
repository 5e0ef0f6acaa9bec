"""From a performance to the tokens of a prompt, and from a continuation to what can be decoded."""

from typing import TYPE_CHECKING

from tinyperceiver.music.tokenizer import encode_midi, encode_performance
from tinyperceiver.music.vocabulary import (
    NUM_EVENTS,
    PERFORMANCE,
    VELOCITY,
    VELOCITY_BIN,
)

if TYPE_CHECKING:
    from pretty_midi import PrettyMIDI

__all__ = ["decodable", "encode_prompt", "opening", "state_after"]

MEDIUM = 64  # of 127: mezzo-piano to mezzo-forte


def encode_prompt(midi: "PrettyMIDI", vocab_size: int) -> list[int]:
    """Encode a performance as a model with this vocabulary was trained.

    The encoder is `encode_performance` if id 389 is in the model's vocabulary, else
    `encode_midi`.

    Args:
        midi: the performance.
        vocab_size: V, the number of token ids that the model knows.

    Returns:
        Token ids.
    """
    knows_performance = vocab_size > PERFORMANCE
    return encode_performance(midi) if knows_performance else encode_midi(midi)


def state_after(tokens: list[int]) -> list[int]:
    """Return the tokens that must stand before what follows `tokens`, if that is read alone.

    They are the opening token of `encode_performance`, if `tokens` begins with it, and the
    last velocity. Without a velocity, `decode_midi` would drop the first notes as silent.

    Args:
        tokens: the token ids that are left out.

    Returns:
        At most two token ids.
    """
    velocities = [token for token in tokens if VELOCITY <= token < NUM_EVENTS]
    mark = tokens[:1] if tokens[:1] == [PERFORMANCE] else []
    return [*mark, *velocities[-1:]]


def opening(vocab_size: int) -> list[int]:
    """Return the token ids with which a model begins if there is no prompt.

    They set a medium velocity.

    Args:
        vocab_size: V, the number of token ids that the model knows.
    """
    mark = [PERFORMANCE] if vocab_size > PERFORMANCE else []
    return [*mark, VELOCITY + MEDIUM // VELOCITY_BIN]


def decodable(prompt: list[int], new: list[int]) -> list[int]:
    """Return the continuation without its prompt, as the released model's library does.

    That library decodes the new tokens alone, so notes before the first new velocity are
    lost. The encoding of `encode_performance`, which the library does not know, keeps
    `state_after` the prompt.

    Args:
        prompt: the token ids that were continued.
        new: the token ids that were added.

    Returns:
        Token ids for `decode_midi`.
    """
    return state_after(prompt) + new if prompt[:1] == [PERFORMANCE] else new
