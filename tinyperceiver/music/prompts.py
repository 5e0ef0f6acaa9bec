"""From a performance to the tokens of a prompt, and from a continuation to what can be decoded."""

from typing import TYPE_CHECKING

from tinyperceiver.music.tokenizer import encode_midi, encode_performance
from tinyperceiver.music.vocabulary import NUM_EVENTS, PERFORMANCE, VELOCITY

if TYPE_CHECKING:
    from pretty_midi import PrettyMIDI

__all__ = ["decodable", "encode_prompt"]


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


def decodable(prompt: list[int], new: list[int]) -> list[int]:
    """Return tokens from which `decode_midi` makes the continuation without its prompt.

    The encoding of `encode_performance` does not repeat the opening token and the
    velocity, so both are taken from the prompt. In the encoding of `encode_midi` the
    result is `new`, as in the released model's library.

    Args:
        prompt: the token ids that were continued.
        new: the token ids that were added.

    Returns:
        Token ids.
    """
    if prompt[:1] != [PERFORMANCE]:
        return new
    velocities = [token for token in prompt if VELOCITY <= token < NUM_EVENTS]
    return [PERFORMANCE, *velocities[-1:], *new]
