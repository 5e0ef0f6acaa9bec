"""From a performance to the tokens of a prompt, and from a continuation to what can be decoded."""

from typing import TYPE_CHECKING

from tinyperceiver.music.tokenizer import encode_midi, encode_performance
from tinyperceiver.music.vocabulary import NUM_EVENTS, PERFORMANCE, VELOCITY

if TYPE_CHECKING:
    from pretty_midi import PrettyMIDI

__all__ = ["decodable", "encode_prompt"]


def encode_prompt(midi: "PrettyMIDI", vocab_size: int) -> list[int]:
    """Tokens of a performance in the encoding that a model of this vocabulary was trained on.

    That is `encode_performance` if id 389 is in the model's vocabulary, else `encode_midi`.
    """
    knows_performance = vocab_size > PERFORMANCE
    return encode_performance(midi) if knows_performance else encode_midi(midi)


def decodable(prompt: list[int], new: list[int]) -> list[int]:
    """What was added to a prompt, for `decode_midi` without it.

    Of the prompt there remain, in the performance encoding, the opening and the last velocity: that
    encoding does not repeat them. In the other one this is `new`, as in the released model's
    library.
    """
    if prompt[:1] != [PERFORMANCE]:
        return new
    velocities = [token for token in prompt if VELOCITY <= token < NUM_EVENTS]
    return [PERFORMANCE, *velocities[-1:], *new]
