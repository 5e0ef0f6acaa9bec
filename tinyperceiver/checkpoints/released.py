"""The names and the configuration that the library of the released model uses."""

import re
from pathlib import Path

import torch

from tinyperceiver.checkpoints.folder import CheckpointError, make_config
from tinyperceiver.model.config import PerceiverConfig
from tinyperceiver.model.rotary import BASE

__all__ = [
    "HUB_PREFIX",
    "HUB_REQUIRED",
    "MODEL_TYPE",
    "PEER_NAMES",
    "PEER_SPEEDS",
    "REQUIRED",
    "check_speeds",
    "peer_config",
    "peer_name",
    "peer_tensors",
]

HUB_PREFIX = "backend_model."
# Our modules and the peer's, in two columns. In the hub's layout "backend_model."
# stands before the peer's names, in a training checkpoint "model."; .weight and .bias
# are called alike.
_TABLE = """
embedding                               input_adapter.txt_embedding
hybrid_layer.attention.norm             cross_attention.0.module.q_norm
hybrid_layer.attention.prefix_norm      cross_attention.0.module.kv_norm
hybrid_layer.attention.attention.query  cross_attention.0.module.attention.q_proj
hybrid_layer.attention.attention.key    cross_attention.0.module.attention.k_proj
hybrid_layer.attention.attention.value  cross_attention.0.module.attention.v_proj
hybrid_layer.attention.attention.output cross_attention.0.module.attention.o_proj
hybrid_layer.mlp.norm                   cross_attention.1.module.0
hybrid_layer.mlp.up                     cross_attention.1.module.1
hybrid_layer.mlp.down                   cross_attention.1.module.3
layers.{i}.attention.norm               self_attention.{i}.0.module.norm
layers.{i}.attention.attention.query    self_attention.{i}.0.module.attention.q_proj
layers.{i}.attention.attention.key      self_attention.{i}.0.module.attention.k_proj
layers.{i}.attention.attention.value    self_attention.{i}.0.module.attention.v_proj
layers.{i}.attention.attention.output   self_attention.{i}.0.module.attention.o_proj
layers.{i}.mlp.norm                     self_attention.{i}.1.module.0
layers.{i}.mlp.up                       self_attention.{i}.1.module.1
layers.{i}.mlp.down                     self_attention.{i}.1.module.3
norm                                    out_norm
"""
PEER_NAMES = dict(row.split() for row in _TABLE.strip().splitlines())
# Of the rotation; we compute them.
PEER_SPEEDS = "input_adapter.frq_pos_encoding.inv_freq"

# What else the peer's configuration holds: what only one value is built for, and what changes no
# answer of the model.
REQUIRED = {"abs_pos_emb": False, "output_bias": False, "output_norm": True}
IGNORED = {
    "activation_checkpointing",
    "activation_offloading",
    "max_heads_parallel",
    "params",
    "validation_sample_prompt",
    "validation_sample_record",
}
# By this name Transformers finds the class of a model, in the hub's layout and in ours.
MODEL_TYPE = "perceiver-ar-symbolic-audio-model"
HUB_REQUIRED = REQUIRED | {"model_type": MODEL_TYPE}


def peer_name(name: str) -> str:
    """The peer's name of our parameter, "layers.2.mlp.up.weight" or another."""
    module, _, kind = name.rpartition(".")
    index = re.search(r"\d+", module)
    if index is None:
        return f"{PEER_NAMES[module]}.{kind}"
    module = module.replace(index[0], "{i}", 1)
    return f"{PEER_NAMES[module].format(i=index[0])}.{kind}"


def peer_config(
    settings: dict, source: str | Path, required: dict = REQUIRED
) -> PerceiverConfig:
    """Our configuration from the peer's.

    Args:
        settings: the peer's configuration, by the names of its fields.
        source: what an error names.
        required: the values that fields must have; `HUB_REQUIRED` for a config.json.

    Raises:
        CheckpointError: a field is missing, unknown or has a value that is not built.
    """
    # The released configuration is older than this field; the model was trained with 1.
    settings = {"num_self_attention_rotary_layers": 1} | settings
    return make_config(settings, source, required, IGNORED)


def peer_tensors(
    state: dict[str, torch.Tensor], config: PerceiverConfig
) -> dict[str, torch.Tensor]:
    """A model's `state_dict` by the names of the hub's layout, contiguous and on the CPU."""
    tensors = {peer_name(name): tensor for name, tensor in state.items()}
    tensors[PEER_SPEEDS] = _peer_speeds(config)
    return {
        HUB_PREFIX + name: tensor.detach().cpu().contiguous()
        for name, tensor in tensors.items()
    }


def _peer_speeds(config: PerceiverConfig) -> torch.Tensor:
    """Radians per token of each pair of channels, (d / 2), to the bit as the peer's."""
    head_dim = config.num_channels // config.num_heads
    # As the peer writes it. BASE ** (-pair / d), as in `rotation_at`, is rounded
    # differently: some speeds differ in the last bit.
    return 1 / BASE ** (torch.arange(0, head_dim, 2) / head_dim)


def check_speeds(
    speeds: torch.Tensor, config: PerceiverConfig, source: str | Path
) -> None:
    """Refuse weights trained with another rotation than ours: they would load, but not play."""
    expected = _peer_speeds(config)
    precision = torch.finfo(speeds.dtype).eps if speeds.is_floating_point() else 0
    if speeds.shape != expected.shape or not torch.allclose(
        speeds.float(), expected, rtol=max(1e-5, precision), atol=0
    ):
        raise CheckpointError(
            f"{source} was trained with another rotary embedding: {PEER_SPEEDS} "
            f"{tuple(speeds.shape)} is not {BASE:.0f} ** (-i / {len(expected)}), "
            f"i < {len(expected)}"
        )
