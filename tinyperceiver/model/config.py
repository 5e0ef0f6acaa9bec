"""The shape of a model, and shapes with names."""

from dataclasses import dataclass

from tinyperceiver.music.vocabulary import PAD

__all__ = ["PRESETS", "PerceiverConfig"]


@dataclass(frozen=True, kw_only=True)
class PerceiverConfig:
    """The shape of a Perceiver AR; the names of the fields are the published ones.

    Raises:
        ValueError: a field is out of range; the message names it and its value.
    """

    vocab_size: int = 389  # V, number of token ids
    max_seq_len: int = 6144  # longest window n, in tokens
    max_latents: int = 2048  # most latents l, in tokens; the rest is prefix
    num_channels: int = 768  # D, a multiple of 2 H
    num_heads: int = 8  # H
    num_self_attention_layers: int = 18  # layers after the hybrid layer
    num_self_attention_rotary_layers: int = 1  # of them with rotation; -1: all
    cross_attention_widening_factor: int = 4  # width of the hybrid layer's MLP, over D
    self_attention_widening_factor: int = 4  # width of the other MLPs, over D
    cross_attention_dropout: float = 0.1  # fraction of the prefix not read in training
    post_attention_dropout: float = 0.1  # dropout of attention weights, after softmax
    residual_dropout: float = 0.1  # dropout of what a layer adds to its input
    init_scale: float = 0.02  # standard deviation of the first weights

    def __post_init__(self) -> None:
        least = {"num_self_attention_layers": 0, "num_self_attention_rotary_layers": -1}
        for name, value in vars(self).items():
            if name.endswith("dropout"):
                if not 0 <= value < 1:
                    raise ValueError(
                        f"{name} must be at least 0 and less than 1, not {value!r}"
                    )
            elif name == "init_scale":
                if not value > 0:
                    raise ValueError(f"init_scale must be positive, not {value!r}")
            elif not isinstance(value, int) or value < least.get(name, 1):
                raise ValueError(
                    f"{name} must be an integer >= {least.get(name, 1)}, not {value!r}"
                )
        if self.max_latents > self.max_seq_len:
            raise ValueError(
                f"max_latents ({self.max_latents}) must not exceed max_seq_len "
                f"({self.max_seq_len})"
            )
        if self.num_channels % (2 * self.num_heads):
            raise ValueError(
                f"num_channels ({self.num_channels}) must be an even multiple of "
                f"num_heads ({self.num_heads}): the rotation turns pairs of channels"
            )

    @property
    def max_prefix_len(self) -> int:
        """Length of the longest prefix m, in tokens."""
        return self.max_seq_len - self.max_latents

    @property
    def padding(self) -> int:
        """Token id that stands at padding: 388, or the last of a smaller vocabulary."""
        return min(PAD, self.vocab_size - 1)

    @property
    def num_rotary_layers(self) -> int:
        """Number of self-attention layers, from the first, with rotation."""
        number = self.num_self_attention_rotary_layers
        return self.num_self_attention_layers if number == -1 else number


# Name -> shape. "released" has 134,840,832 parameters, "tiny" 4,825,600 and "small"
# 7,088,832.
PRESETS = {
    "released": PerceiverConfig(),
    "tiny": PerceiverConfig(
        max_seq_len=2048,
        max_latents=1024,
        num_channels=256,
        num_heads=4,
        num_self_attention_layers=5,
        cross_attention_dropout=0.0,
        post_attention_dropout=0.0,
        residual_dropout=0.0,
    ),
    "small": PerceiverConfig(
        max_seq_len=2048,
        max_latents=1024,
        num_channels=288,
        num_heads=4,
        num_self_attention_layers=6,
        num_self_attention_rotary_layers=-1,
        cross_attention_dropout=0.0,
        post_attention_dropout=0.0,
        residual_dropout=0.0,
    ),
}
